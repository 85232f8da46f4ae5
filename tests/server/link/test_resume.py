"""A coordinator that is killed goes on with its devices to the weights of an unbroken run."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from fedloom_edge.cli import main

FEDLOOM = [sys.executable, "-m", "fedloom_edge.cli"]
OPTIONS = ("digits", "--rounds", "3", "--strategy", "fedadam", "--set", "strategy.eta=0.01")


def rounds(folder):
    try:
        with sqlite3.connect(f"file:{folder / 'run.db'}?mode=ro", uri=True) as database:
            return int(database.execute("SELECT count(*) FROM round").fetchone()[0])
    except sqlite3.Error:
        return 0


def wait_for(process, folder, number):
    deadline = time.monotonic() + 200
    while rounds(folder) <= number:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def serve():
    """Starts `fedloom` commands in sessions of their own, and ends what is left of them."""
    processes = []

    def start(*argv):
        command = [*FEDLOOM, *map(str, argv)]
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.parametrize("number", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_killed_coordinator_goes_on_to_the_same_weights(tmp_path, serve, number):
    folder = tmp_path / "served"
    process = serve("serve", *OPTIONS, "--local", 3, "--trainer", "torch", "--out", folder)
    wait_for(process, folder, number)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    resumed = serve("resume", folder)
    _, err = resumed.communicate(timeout=250)
    assert resumed.returncode == 0, err
    whole = tmp_path / "simulated"
    assert main(["simulate", *OPTIONS, "--clients", "3", "--backend", "torch", "--out", str(whole)]) == 0
    hashes = [json.loads((f / "result.json").read_text())["arrays_sha256"] for f in (folder, whole)]
    assert hashes[0] == hashes[1]
