"""Secure aggregation on devices: the simulation's model, whatever happens to agents and coordinator."""

import os
import signal
import subprocess

import pytest

from fedloom_edge.cli import main
from fedloom_server.store.run_store import RunStore

from .conftest import until
from .test_serve import FEDLOOM, TASK, Served, agents_left, result, simulate

SECURE = "--secure-aggregation"


@pytest.fixture
def task(tmp_path):
    path = tmp_path / "slow.py"
    path.write_text(TASK)
    return str(path)


def test_devices_come_to_the_model_of_the_simulation(tmp_path, task):
    options = ("--rounds", "3", "--seed", "1", SECURE)
    expected = simulate(task, tmp_path / "simulated", "--clients", "3", *options)
    served = Served(tmp_path / "served", task, "--local", "3", "--trainer", "torch", *options)
    assert served.end() == 0, served.log()
    assert result(served.folder)["arrays_sha256"] == expected["arrays_sha256"]
    with RunStore.open(served.folder) as store:
        rows = store.client_rounds("train")
    assert {row.status for row in rows} == {"ok"}
    assert {(row.loss, row.examples) for row in rows} == {(None, None)}


def test_devices_without_torch_take_part(tmp_path):
    options = ("--rounds", "2", "--seed", "1", SECURE)
    expected = simulate("digits", tmp_path / "simulated", "--clients", "3", *options)
    served = Served(tmp_path / "served", "digits", "--local", "3", "--trainer", "onnx", *options)
    assert served.end() == 0, served.log()
    got = result(served.folder)
    assert abs(got["final"]["accuracy"] - expected["final"]["accuracy"]) <= 0.015
    assert all(entry["clients_ok"] == 3 for entry in got["rounds"])


def test_an_agent_killed_in_a_round_drops_out_and_is_back_in_the_next(tmp_path, task):
    options = ("--local", "4", "--trainer", "torch", "--rounds", "8", SECURE)
    served = Served(tmp_path / "served", task, *options)
    until(lambda: served.rounds() > 1 or served.process.poll() is not None, 60)
    os.kill(served.pid("local-1"), signal.SIGKILL)
    assert served.end() == 0, served.log()
    with RunStore.open(served.folder) as store:
        sums = [event["data"] for event in store.events("secure")]
        lost = [event["data"]["reason"] for event in store.events("failed")]
    assert len(sums) == 8
    assert {entry["updates"] for entry in sums} <= {3, 4}
    assert sums[-1]["updates"] == 4
    # Killed in training it drops out; killed between two steps of the coordinator, it may not even be missed.
    assert all("secure" in reason or "keys" in reason for reason in lost), lost


def test_a_coordinator_that_is_killed_goes_on_to_the_same_model(tmp_path, task):
    options = ("--rounds", "6", "--seed", "3", SECURE)
    expected = simulate(task, tmp_path / "simulated", "--clients", "3", *options)
    served = Served(tmp_path / "served", task, "--local", "3", "--trainer", "torch", *options)
    until(lambda: served.rounds() > 2 or served.process.poll() is not None, 60)
    served.process.kill()
    served.process.wait()
    until(lambda: not agents_left(served.folder))
    done = subprocess.run(
        [*FEDLOOM, "resume", str(served.folder)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert result(served.folder)["arrays_sha256"] == expected["arrays_sha256"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--strategy", "krum", "--local", "5"), "needs each of them; fedavg"),
        (("--compress", "int8", "--local", "5"), "--compress int8"),
        (("--local", "2"), "take at least 3"),
    ],
)
def test_what_needs_single_updates_is_refused(tmp_path, capsys, options, said):
    assert main(["serve", "digits", SECURE, *options, "--out", str(tmp_path / "run")]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
