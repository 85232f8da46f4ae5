"""What a person sees, in a real browser, of real runs: live rounds, failures, control, loss of the server."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image

from fedloom_edge.cli import main
from fedloom_server.dashboard.catalog import run_id
from fedloom_server.store.rows import Round
from fedloom_server.store.run_store import RunStore

from .conftest import SIZES, Tab, at_least, shown_round, until

PICTURES = os.environ.get("FEDLOOM_PICTURES")  # a folder: `make pictures` draws the README's into it
ALONE = ("--backend", "torch")  # a moody model looks at its batch, and clients in a stack share one


def test_the_printed_link_logs_in_and_leaves_no_secret_in_the_address(browser, finished, serve):
    server = serve(finished, log_in=False)
    page = browser.new_context().new_page()
    page.goto(server.link)
    page.wait_for_selector("h1:has-text('Runs')")
    assert page.url == f"{server.base}/"
    page.context.close()
    stranger = browser.new_context().new_page()
    stranger.goto(f"{server.base}/alerts")
    stranger.wait_for_url("**/login?next=%2Falerts")
    stranger.wait_for_selector("text=It works once")
    stranger.context.close()


def test_rounds_appear_live_and_a_failed_client_is_named_with_its_reason(simulate, serve, tab, moody_task):
    folder, process = simulate(
        "--clients", 12, "--rounds", 400, "--partition", "dirichlet:0.5", "--seed", 5, *ALONE, task=moody_task
    )
    server = serve(folder.parent)
    run = run_id(folder)
    one = tab(server)
    page = one.open(f"/runs/{run}")
    at_least(page, 2)
    first = shown_round(page)
    at_least(page, first + 3)  # nothing was reloaded
    failed = page.locator("section[data-card='Failed and refused clients']")
    failed.locator("td:has-text('sensor unplugged')").first.wait_for()
    named = failed.locator("tbody a").first.text_content()
    assert named.startswith("client ")
    told = {f"client {entry['client']}" for entry in server.get(f"/runs/{run}/failures")}
    assert named in told

    # A reload shows the whole history, from round 0 on, and loses nothing.
    before = shown_round(page)
    page.reload()
    at_least(page, before)
    page.locator("summary").first.click()
    rows = page.locator("details[open] tbody tr")
    rows.first.wait_for()
    assert rows.count() >= before + 1
    assert rows.last.locator("td").first.text_content() == "0"
    assert process.poll() is None


def test_pause_resume_and_stop_are_asked_obeyed_and_written_down(simulate, serve, tab):
    folder, process = simulate("--clients", 4, "--rounds", 2000)
    server = serve(folder)
    run = run_id(folder)
    page = tab(server).open(f"/runs/{run}")
    at_least(page, 1)
    page.click("button:has-text('Pause after round')")
    page.click("dialog button:has-text('Cancel')")
    assert server.get(f"/runs/{run}")["status"] == "running"
    page.click("button:has-text('Pause after round')")
    page.click("dialog button.main")
    page.wait_for_selector(".status[data-status=paused]")
    held = server.get(f"/runs/{run}")["round"]
    page.wait_for_timeout(800)
    assert server.get(f"/runs/{run}")["round"] == held
    page.click("button:has-text('Go on')")
    page.click("dialog button.main")
    page.wait_for_selector(".status[data-status=running]")
    at_least(page, held + 1)
    page.click("button:has-text('Stop')")
    page.click("dialog button.danger")
    page.wait_for_selector(".status[data-status=interrupted]")
    assert process.wait(60) == 130
    kinds = {event["kind"]: event for event in server.get(f"/runs/{run}/events?limit=1000")}
    assert all(kinds[kind]["data"]["who"].startswith("link-") for kind in ("pause", "resume", "stop"))
    assert (folder / "result.json").exists()
    assert page.locator("button:has-text('Pause')").count() == 0


def test_refusals_stand_above_the_guards_line_and_attackers_are_marked(attacked, serve, tab):
    server = serve(attacked)
    run = run_id(attacked)
    page = tab(server).open(f"/runs/{run}")
    at_least(page, 2)
    page.wait_for_selector(".sub:has-text('attack scale:0.25:30 · faults drop=0.2')")
    norms = page.locator("[data-card='Update norms']")
    norms.locator('li:has-text("guard\'s line")').wait_for()
    norms.locator("li:has-text('attackers: ')").wait_for()
    norms.locator("summary").click()
    rows = norms.locator("tbody tr").all_inner_texts()
    assert all("refused" in row or "rejected" in row for row in rows if "yes" in row)
    told = page.locator("[data-card='Failed and refused clients'] tbody").inner_text()
    assert "from the global arrays, at most" in told
    assert page.locator("[data-card='Privacy budget']").is_hidden()


def test_a_privacy_budget_is_shown_where_a_run_accounts_for_one(tmp_path, serve, tab):
    facts = {
        "privacy": {"budget": 8.0, "delta": 1e-5, "unit": "sample", "mechanism": "DP-SGD at the clients"},
        "metric": "accuracy",
        "clients": 2,
        "status": "finished",
    }
    with RunStore.create(tmp_path / "run", facts) as store, store.transaction():
        for number in range(4):
            store.add_round(Round(number, 0.1, 0.5, {"epsilon": 1.25 * number}), [])
    page = tab(serve(tmp_path / "run")).open(f"/runs/{run_id(tmp_path / 'run')}")
    card = page.locator("[data-card='Privacy budget']")
    card.locator("text=4.2500 of ε = 8.0000 is left. δ = 0.000010.").wait_for()
    card.locator("text=What is hidden is one example of a client: DP-SGD at the clients.").wait_for()
    page.wait_for_selector(".tile:has-text('Privacy spent') >> text=of 8.0000")


def test_an_excluded_client_is_asked_no_more(simulate, serve, tab):
    folder, _ = simulate("--clients", 4, "--rounds", 2000)
    server = serve(folder)
    run = run_id(folder)
    page = tab(server).open(f"/runs/{run}/clients/2")
    page.click("button:has-text('Exclude this client')")
    page.click("dialog button.danger")
    page.wait_for_selector(".status:has-text('excluded')")
    later = server.get(f"/runs/{run}")["round"] + 2
    page.wait_for_timeout(300)
    while server.get(f"/runs/{run}")["round"] < later:
        page.wait_for_timeout(100)
    assert server.get(f"/runs/{run}/rounds/{later}/clients")["client"] == [0, 1, 3]


def test_a_dashboard_that_is_killed_touches_no_run_and_pages_go_on_when_it_is_back(simulate, serve, browser):
    folder, process = simulate("--clients", 4, "--rounds", 2000)
    server = serve(folder)
    one = Tab(browser, server)  # its console does tell of the lost connection
    page = one.open(f"/runs/{run_id(folder)}")
    at_least(page, 1)
    server.process.kill()
    server.process.wait()
    page.wait_for_selector("text=Connection lost")
    seen = shown_round(page)
    back = serve(folder, "--port", server.host.split(":")[1], log_in=False)
    at_least(page, seen + 2)
    page.wait_for_selector("text=Connection lost", state="detached")
    assert process.poll() is None
    one.close()
    assert back.process.poll() is None


def test_a_run_whose_process_is_killed_is_shown_as_crashed(simulate, serve, tab):
    folder, process = simulate("--clients", 4, "--rounds", 2000)
    page = tab(serve(folder)).open(f"/runs/{run_id(folder)}")
    at_least(page, 1)
    process.kill()
    process.wait()
    page.wait_for_selector(".status[data-status=crashed]")
    page.wait_for_selector("text=The run crashed")


def test_twelve_tabs_at_once_are_all_live(simulate, serve, browser):
    folder, _ = simulate("--clients", 4, "--rounds", 2000)
    server = serve(folder)
    first = Tab(browser, server)
    pages = [first.page, *(first.context.new_page() for _ in range(11))]
    for page in pages:
        page.goto(f"{server.base}/runs/{run_id(folder)}")
    seen = max(shown_round(page) if page.query_selector("h1") else 0 for page in pages)
    for page in pages:
        at_least(page, seen + 2)
    first.close()


def test_simulate_prints_a_link_and_its_dashboard_ends_with_it(simulate, browser):
    folder, process = simulate("--clients", 4, "--rounds", 2000, "--dashboard")
    line = process.stdout.readline()
    link = line.split()[1]
    page = browser.new_context().new_page()
    page.goto(link)
    page.wait_for_selector(f"a:has-text('{folder.name}')")
    page.click(f"a:has-text('{folder.name}')")
    page.wait_for_selector("#main[data-round]", state="attached")
    at_least(page, 2)
    process.kill()
    process.wait()
    page.wait_for_selector("text=Connection lost")
    page.context.close()


@pytest.fixture(scope="module")
def pages(finished) -> dict[str, str]:
    run = run_id(finished / "finished")
    of_run = {"run": "", "clients": "/clients", "client": "/clients/1"}
    paths = {name: f"/runs/{run}{end}" for name, end in of_run.items()}
    return {"runs": "/", **paths, **{name: f"/{name}" for name in ("fleet", "models", "compare", "alerts")}}


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_no_page_breaks_a_rule_of_accessibility_or_scrolls_sideways(browser, watched, pages, size, theme):
    name, _, value = watched.cookie.partition("=")
    width, height = SIZES[size]
    # axe is put into the page, which the page's own policy forbids.
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=theme, bypass_csp=True
    )
    context.add_cookies([{"name": name, "value": value, "url": watched.base}])
    page = context.new_page()
    for place, path in pages.items():
        page.goto(watched.base + path)
        page.wait_for_selector("h1")
        page.wait_for_load_state("load")
        page.wait_for_timeout(250)
        for summary in page.query_selector_all("summary"):
            if summary.is_visible():  # not that of a card which has nothing to show
                summary.click()
        found = Axe().run(page)
        assert found.violations_count == 0, f"{place}: {found.generate_report()}"
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width, place
    context.close()


def test_a_page_can_be_used_by_keyboard_alone(watched, finished, tab):
    page = tab(watched).open("/")
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.textContent") == "Skip to content"
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("() => document.activeElement.textContent") == "finished":
            break
    page.keyboard.press("Enter")
    page.wait_for_url("**/runs/finished-*")


def test_the_picture_of_the_readme_is_of_a_real_run_that_goes_on(simulate, serve, tab, moody_task, tmp_path):
    options = (
        "--clients",
        20 if PICTURES else 8,
        "--rounds",
        40,
        "--partition",
        "dirichlet:0.3",
        "--seed",
        3,
    )
    learning = ("--strategy", "fedadam", "--set", "strategy.eta=0.01")
    folder, _ = simulate(*options, *learning, *ALONE, task=moody_task, name="press-line-3")
    page = tab(serve(folder.parent)).open(f"/runs/{run_id(folder)}")
    at_least(page, 12 if PICTURES else 4)
    page.wait_for_selector("[data-card='Failed and refused clients'] td")
    page.set_viewport_size({"width": 1440, "height": 1600})
    page.wait_for_timeout(1500)
    picture = Path(PICTURES or tmp_path) / "dashboard-run.png"
    page.screenshot(path=picture)
    pixels = np.asarray(Image.open(picture).convert("RGB")).astype(int)
    accent = np.abs(pixels - (0x0B, 0x5F, 0xAD)).max(axis=2) < 6
    heat = np.abs(pixels - (0x08, 0x39, 0x6B)).max(axis=2) < 12
    assert accent[350:800].sum() > 300  # the curve
    assert heat.sum() > 5_000  # the heat map


def test_without_any_run_the_page_says_how_to_make_one(serve, tab, tmp_path):
    (tmp_path / "none").mkdir()
    page = tab(serve(tmp_path / "none")).open("/")
    page.wait_for_selector("text=No run yet")
    assert "fedloom simulate" in page.text_content("main")


def test_an_address_that_leads_nowhere_is_said_so(watched, tab, browser):
    one = tab(watched)
    page = one.open("/nothing-here")
    page.wait_for_selector("text=There is nothing here")
    assert one.bad and "404" in one.bad.pop()  # the browser itself notes it
    one.page.goto(one.base + "/runs/none")
    page.wait_for_selector("text=there is no such run")
    assert "404" in one.bad.pop()


def test_a_download_of_a_page_is_the_file(watched, finished, tab):
    page = tab(watched).open("/models")
    with page.expect_download() as download:
        page.click("a[aria-label^='Download model.onnx']")
    saved = Path(download.value.path())
    assert saved.read_bytes() == (finished / "finished" / "model.onnx").read_bytes()


def test_explanations_are_shown_where_there_are_any(finished, tmp_path, serve, tab):
    run = shutil.copytree(finished / "finished", tmp_path / "runs" / "finished")
    server = serve(run.parent)
    page = tab(server).open(f"/runs/{run_id(run)}")
    at_least(page, 3)
    card = page.locator("section[data-card='Explanations']")
    assert not card.is_visible()
    assert main(["explain", str(run), "--method", "saliency", "--samples", "3"]) == 0
    page.reload()
    picture = card.locator("img")
    picture.scroll_into_view_if_needed()
    until(lambda: picture.evaluate("image => image.naturalWidth") > 500)
    assert picture.get_attribute("alt") == "finished: what the model looks at"
