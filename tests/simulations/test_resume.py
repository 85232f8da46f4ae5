"""`fedloom resume`: kill -9 at a random instant, and the run comes to what it would have come to."""

import json
import random
import signal
import subprocess
import sys
import time

import pytest

from fedloom_edge.cli import main
from fedloom_server.store import DATABASE, RunStore

FEDLOOM = [sys.executable, "-m", "fedloom_edge.cli"]
RUN = ["simulate", "digits", "--clients", "3", "--rounds", "4", "--set", "training.epochs=1"]


def result(folder):
    return json.loads((folder / "result.json").read_text())


def live(argv, folder, seconds):
    """Run `fedloom argv`, killed so many seconds after the run's folder holds a database."""
    process = subprocess.Popen([*FEDLOOM, *argv], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        while not (folder / DATABASE).exists() and process.poll() is None:
            time.sleep(0.02)
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
    finally:
        err = process.communicate()[1]
    return process.returncode, err


@pytest.mark.parametrize("strategy", ["fedavg", "fedadam"])
def test_a_run_killed_at_random_instants_ends_as_if_it_had_not_been(tmp_path, strategy):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    options = [*RUN, "--strategy", strategy]
    assert main([*options, "--out", str(whole)]) == 0
    draw = random.Random(strategy)
    codes = [live([*options, "--out", str(broken)], broken, draw.uniform(0, 2))[0]]
    codes.append(live(["resume", str(broken)], broken, draw.uniform(2, 5))[0])
    assert codes[0] == -signal.SIGKILL
    assert main(["resume", str(broken)]) == 0
    assert result(broken)["arrays_sha256"] == result(whole)["arrays_sha256"]
    assert [r["accuracy"] for r in result(broken)["rounds"]] == [
        r["accuracy"] for r in result(whole)["rounds"]
    ]
    assert not list(broken.rglob(".*"))
    assert not list(broken.glob("run.db-*"))


def test_a_finished_run_is_resumed_to_the_same_result(simulate):
    done = simulate(*RUN[1:])
    assert main(["resume", str(done.folder)]) == 0
    assert result(done.folder)["arrays_sha256"] == done.result["arrays_sha256"]


def test_a_folder_without_a_run_is_bad_input(tmp_path, capsys):
    assert main(["resume", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_a_run_that_does_not_say_how_it_was_started_is_bad_input(tmp_path, capsys):
    RunStore.create(tmp_path / "run", {}).close()
    assert main(["resume", str(tmp_path / "run")]) == 2
    assert "how it was started" in capsys.readouterr().err
