"""A fleet as a user makes it: invited, joined and started by command, with and without torch."""

import json
import signal
import subprocess
import sys
from contextlib import contextmanager

from fedloom_server.store.run_store import RunStore

from .conftest import free_ports, until

FEDLOOM = [sys.executable, "-m", "fedloom_edge.cli"]


@contextmanager
def running(folder, name, *arguments):
    """A command in the background, with its output in a file; ended when it is no longer needed."""
    with (folder / f"{name}.log").open("ab") as log:
        # As in the background of a shell, whose jobs ignore Ctrl-C: SIGTERM must do.
        command = ["env", "--ignore-signal=INT", *FEDLOOM, *arguments]
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(20)


def invited(folder, device):
    done = subprocess.run(
        [*FEDLOOM, "fleet", "invite", device], cwd=folder, capture_output=True, text=True, check=True
    )
    return next(word for word in done.stdout.split() if word.startswith(f"{device}."))


def test_devices_with_and_without_torch_take_part_in_one_run(tmp_path):
    link, enrol = free_ports()
    subprocess.run([*FEDLOOM, "fleet", "init", "127.0.0.1"], cwd=tmp_path, check=True, capture_output=True)
    ports = ["--listen", f"127.0.0.1:{link}", "--enrol", f"127.0.0.1:{enrol}"]
    options = ["--min-devices", "2", "--rounds", "2", "--out", "run"]
    devices = {"plain": "onnx", "heavy": "torch"}
    with running(tmp_path, "serve", "serve", "digits", *ports, *options) as coordinator:
        log = tmp_path / "serve.log"
        until(lambda: "devices connect at port" in log.read_text() or coordinator.poll() is not None, 60)
        agents = []
        for device, trainer in devices.items():
            invitation = invited(tmp_path, device)
            join = ["device", "join", f"127.0.0.1:{enrol}", invitation, "--home", device]
            subprocess.run(
                [*FEDLOOM, *join, "--trainer", trainer], cwd=tmp_path, check=True, capture_output=True
            )
            agents.append(running(tmp_path, device, "device", "run", "--home", device))
        with agents[0], agents[1]:
            assert coordinator.wait(120) == 0, log.read_text()
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert [entry["clients_ok"] for entry in result["rounds"]] == [2, 2]
    assert result["final"]["accuracy"] > 0.9
    with RunStore.open(tmp_path / "run") as store:
        rows = store.execute("SELECT id, trainer FROM device ORDER BY id")
        assert [(row["id"], row["trainer"]) for row in rows] == [("heavy", "torch"), ("plain", "onnx")]
    assert list((tmp_path / "plain" / "artefacts").iterdir())
    assert not (tmp_path / "heavy" / "artefacts").exists()
