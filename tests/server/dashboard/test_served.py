"""A run over the link is watched as a simulation is, with real devices; what a kill broke off goes on."""

import json
import os
import re
import signal
import subprocess
from importlib.metadata import version

import pytest
from axe_playwright_python.sync_playwright import Axe

from fedloom_edge.cli import main
from fedloom_server.dashboard.catalog import run_id
from fedloom_server.store.process_mark import is_gone
from fedloom_server.store.run_store import RunStore

from .conftest import FEDLOOM, SIZES, at_least, until

ALONE = ("--backend", "torch")  # clients one at a time, as devices train
DEVICES = ["local-0", "local-1", "local-2"]


@pytest.fixture
def coordinate(tmp_path):
    """`coordinate("--rounds", 9)` starts `fedloom serve` with three agents; gives its folder and process."""
    processes = []

    def start(*options, task="digits"):
        folder = tmp_path / "runs" / "line-3"
        folder.parent.mkdir(exist_ok=True)
        command = [
            *FEDLOOM,
            "serve",
            str(task),
            "--local",
            "3",
            "--trainer",
            "torch",
            *map(str, options),
            "--out",
            str(folder),
        ]
        with (tmp_path / "served.log").open("wb") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        processes.append(process)
        until(lambda: rounds(folder) > 0 or process.poll() is not None, 120)
        assert process.poll() is None, (tmp_path / "served.log").read_text()
        return folder, process

    yield start
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


@pytest.fixture
def slow_task(tmp_path):
    """A small task whose rounds last as long as the variable PAUSE says, to be broken off."""
    path = tmp_path / "slow.py"
    path.write_text(
        "import os, time\n"
        "import numpy as np\n"
        "from torch import nn\n"
        "from fedloom_client import ArraySamples, Data, Task, Training\n"
        "class Slow(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.layer = nn.Linear(4, 3)\n"
        "    def forward(self, x):\n"
        "        if self.training:\n"
        "            time.sleep(float(os.environ.get('PAUSE', '0')))\n"
        "        return self.layer(x)\n"
        "def load(folder):\n"
        "    x = np.random.default_rng(0).normal(size=(240, 4)).astype(np.float32)\n"
        "    y = x[:, :3].argmax(1)\n"
        "    return Data(train=ArraySamples(x[:200], y[:200]), test=ArraySamples(x[200:], y[200:]))\n"
        "task = Task(name='slow', model=Slow, data=load, training=Training(lr=0.1, batch_size=8))\n"
    )
    return path


@pytest.fixture(autouse=True)
def _nothing_left(tmp_path):
    """A run that was resumed from a page belongs to nobody: it is ended here."""
    yield
    for path in tmp_path.glob("runs/*/run.db"):
        with RunStore.open(path.parent) as store:
            mark = store.facts().get("process")
        if not is_gone(mark):
            os.kill(mark["pid"], signal.SIGKILL)


def rounds(folder):
    if not (folder / "run.db").exists():
        return 0
    try:
        with RunStore.open(folder) as store:
            return len(store.rounds())
    except Exception:  # noqa: BLE001  (the database is being made)
        return 0


def result(folder):
    return json.loads((folder / "result.json").read_text())


def confirm(page, button):
    """Press a button and say yes."""
    page.click(f"button:has-text('{button}')")
    page.click("dialog .actions button:last-child")


def everywhere_accessible(browser, context, addresses):
    """Pages with devices on them break no rule of accessibility and scroll sideways nowhere."""
    for theme in ("light", "dark"):
        for width, height in SIZES.values():
            # axe is put into the page, which the page's own policy forbids.
            other = browser.new_context(
                viewport={"width": width, "height": height},
                color_scheme=theme,
                bypass_csp=True,
                storage_state=context.storage_state(),
            )
            page = other.new_page()
            for address in addresses:
                page.goto(address)
                page.wait_for_selector("h1")
                page.wait_for_timeout(500)
                found = Axe().run(page)
                assert found.violations_count == 0, found.generate_report()
                assert page.evaluate("() => document.documentElement.scrollWidth") <= width, address
            other.close()


def test_serve_prints_a_link_that_shows_its_devices_and_takes_orders(coordinate, browser, tmp_path):
    folder, process = coordinate("--rounds", 3000, "--dashboard")
    link = re.search(r"dashboard: (\S+)", (tmp_path / "served.log").read_text())[1]
    page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
    bad = []
    page.on("pageerror", lambda error: bad.append(str(error)))
    page.goto(link)
    page.click("a:has-text('line-3')")
    page.wait_for_selector("#main[data-round]", state="attached")
    run = page.url.rsplit("/", 1)[1]
    at_least(page, 2)

    # Every agent is told with what it is and what it does, and what changes is shown without a reload.
    page.goto(link.split("/login")[0] + "/fleet")
    page.wait_for_selector("tbody tr:nth-child(3) >> text=connected")
    page.wait_for_selector("tbody tr >> text=round ", timeout=90_000)
    page.wait_for_selector("tbody td:has-text('GB of') >> nth=2")
    assert page.locator("tbody td:first-child").all_inner_texts() == DEVICES
    table = page.locator("tbody tr").all_inner_texts()
    assert all(version("fedloom") in row for row in table)
    assert all(re.search(r"just now|\d+ s ago", row) for row in table)

    # A device can be excluded from its page, which shows its board and the time that its transfers took.
    page.click("a:has-text('local-2')")
    page.wait_for_selector("h1:has-text('client 2, local-2')")
    page.wait_for_selector("[data-card='Device local-2'] canvas")
    confirm(page, "Exclude this client")
    page.wait_for_selector(".status:has-text('excluded')")
    everywhere_accessible(browser, page.context, [page.url, link.split("/login")[0] + "/fleet"])
    page.click(".crumb a:has-text('line-3')")
    at_least(page, rounds(folder) + 1)
    page.wait_for_selector("[data-card='Participation'] >> text=usable 2")
    page.wait_for_selector("[data-card='Time of the round'] li:has-text('upload')")

    confirm(page, "Pause after round")
    page.wait_for_selector(".status[data-status=paused]")
    held = rounds(folder)
    page.wait_for_timeout(1500)
    assert rounds(folder) == held
    confirm(page, "Go on")
    at_least(page, held + 1)
    confirm(page, "Stop")
    assert process.wait(60) == 130
    assert bad == []
    page.context.close()
    with RunStore.open(folder) as store:
        kinds = {event["kind"] for event in store.events()}
        assert {"pause", "resume", "exclude", "stop", "interrupted"} <= kinds
        assert store.facts()["status"] == "interrupted"
        told = [part for part in store.client_rounds("train") if part.status == "ok"]
    assert all(part.metrics["upload-seconds"] > 0 for part in told)
    # Only in the first round: then a device has the model from evaluating it.
    assert all(part.metrics["download-seconds"] > 0 for part in told if part.round == 1)
    assert run == run_id(folder)


def resumed_from_the_page(folder, process, page, tmp_path, *options):
    """Kill a run, resume it on its page, and compare it with one that nobody broke off."""
    at_least(page, 2)
    process.kill()
    process.wait()
    assert not (folder / "result.json").exists()
    page.wait_for_selector(".status[data-status=crashed]", timeout=90_000)
    confirm(page, "Resume run")
    page.wait_for_selector("text=is being started again")
    page.wait_for_selector(".status[data-status=running]", timeout=90_000)
    page.wait_for_selector("[data-card='What happened'] >> text=started again by link-")
    page.wait_for_selector(".status[data-status=finished]", timeout=120_000)
    assert page.locator("button:has-text('Resume run')").count() == 0
    whole = ["simulate", *options, *ALONE, "--out", str(tmp_path / "whole")]
    assert main(whole) == 0
    got, expected = result(folder), result(tmp_path / "whole")
    assert got["arrays_sha256"] == expected["arrays_sha256"]
    for name in ("loss", "clients_ok", "clients_failed", "rejected"):
        assert [entry[name] for entry in got["rounds"]] == [entry[name] for entry in expected["rounds"]]


def test_a_killed_coordinator_is_shown_and_resumed_to_the_same_weights(
    coordinate, serve, tab, slow_task, tmp_path, monkeypatch
):
    options = ("--rounds", "40", "--seed", "4")
    monkeypatch.setenv("PAUSE", "0.1")
    folder, process = coordinate(*options, task=slow_task)
    monkeypatch.delenv("PAUSE")
    page = tab(serve(folder.parent)).open(f"/runs/{run_id(folder)}")
    resumed_from_the_page(folder, process, page, tmp_path, str(slow_task), "--clients", "3", *options)


def test_a_killed_simulation_is_shown_and_resumed_to_the_same_weights(
    simulate, serve, tab, slow_task, tmp_path, monkeypatch
):
    options = ("--clients", "4", "--rounds", "40", "--seed", "2", "--faults", "drop=0.2")
    monkeypatch.setenv("PAUSE", "0.1")
    folder, process = simulate(*options, *ALONE, task=slow_task)
    monkeypatch.setenv("PAUSE", "0.005")  # resumed it is quick, and still long enough to be seen running
    page = tab(serve(folder.parent)).open(f"/runs/{run_id(folder)}")
    resumed_from_the_page(folder, process, page, tmp_path, str(slow_task), *options)


def test_a_resume_that_cannot_begin_is_said_with_its_reason(simulate, serve, tab, moody_task):
    folder, process = simulate("--clients", 4, "--rounds", 500, *ALONE, task=moody_task)
    server = serve(folder.parent)
    page = tab(server).open(f"/runs/{run_id(folder)}")
    at_least(page, 1)
    process.kill()
    process.wait()
    moody_task.unlink()
    page.wait_for_selector(".status[data-status=crashed]", timeout=90_000)
    confirm(page, "Resume run")
    page.wait_for_selector("text=It could not be started again: fedloom: ", timeout=90_000)
    assert "moody.py" in page.locator(".head [role=status]").text_content()
    page.wait_for_selector("button:has-text('Resume run')")
