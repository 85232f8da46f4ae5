"""The walkthrough of docs/superlink.md: the same task under Flower's own SuperLink and SuperNodes."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedloom_edge.cli import main

from .link.conftest import until

BIN = Path(sys.executable).parent
PROJECT = Path(__file__).parents[2] / "deploy" / "superlink"
PORT = 19391


@pytest.mark.slow
@pytest.mark.timeout(420)
def test_the_same_weights_as_in_a_simulation(tmp_path):
    environment = {
        **os.environ,
        "FLWR_HOME": str(tmp_path / "flwr"),
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }
    (tmp_path / "flwr").mkdir()
    (tmp_path / "flwr" / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "127.0.0.1:{PORT}"\ninsecure = true\n'
    )
    started = []

    def start(name, *options):
        with (tmp_path / f"{name}-{len(started)}.log").open("wb") as log:
            command = [BIN / name, "--insecure", *options]
            started.append(subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=log, stderr=log))

    try:
        start("flower-superlink", "--host", "127.0.0.1", "--port", str(PORT))
        time.sleep(6)  # it has no sign of being ready but answering
        for index in (0, 1):
            address = ("--superlink", f"127.0.0.1:{PORT}", "--port", str(PORT + 3 + index))
            start("flower-supernode", *address, "--node-config", f"partition-id={index}")
        config = f"out='{tmp_path / 'run'}' rounds=1"
        command = [BIN / "flwr", "run", PROJECT, "here", "--run-config", config]
        subprocess.run(command, env=environment, check=True, capture_output=True)
        until((tmp_path / "run" / "result.json").exists, 300)
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            process.wait(30)
    options = ["--clients", "2", "--rounds", "1", "--out", str(tmp_path / "simulated")]
    assert main(["simulate", "digits", *options, "--backend", "torch"]) == 0
    served, simulated = (
        json.loads((tmp_path / name / "result.json").read_text()) for name in ("run", "simulated")
    )
    assert served["arrays_sha256"] == simulated["arrays_sha256"]
    assert served["engine"] == "superlink"
