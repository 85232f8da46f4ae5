"""`fedloom serve --local`: the same result as a simulation, whatever happens to the agents on the way."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedloom_edge.cli import main
from fedloom_server.store.run_store import RunStore

from .conftest import until

DPSGD = ("--set", "training.dp_noise=1", "--set", "training.dp_clip=1")
LOCAL = ("--set", "strategy.noise_multiplier=1", "--set", "strategy.clipping_norm=1")
FEDLOOM = [sys.executable, "-m", "fedloom_edge.cli"]
TASK = """
import time
import numpy as np
from torch import nn
from fedloom_client import ArraySamples, Data, Standardize, Task, Training

class Slow(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)
    def forward(self, x):
        if self.training:
            time.sleep(0.02)
        return self.layer(x)

def load(folder):
    rng = np.random.default_rng(0)
    x = rng.normal(5, 2, (240, 4)).astype(np.float32)
    y = x[:, :3].argmax(1)
    return Data(train=ArraySamples(x[:200], y[:200]), test=ArraySamples(x[200:], y[200:]))

training = Training(lr=0.1, batch_size=8)
task = Task(name="slow", model=Slow, data=load, preprocess=Standardize(), training=training)
"""

TWO_LAYERS = "self.layer = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))"


def result(folder):
    return json.loads((folder / "result.json").read_text())


@pytest.fixture
def task(tmp_path):
    path = tmp_path / "slow.py"
    path.write_text(TASK)
    return str(path)


def simulate(task, folder, *options):
    assert main(["simulate", task, *options, "--backend", "torch", "--out", str(folder)]) == 0
    return result(folder)


class Served:
    """`fedloom serve` as a process of its own session."""

    def __init__(self, folder, *options):
        self.folder = folder
        command = [*FEDLOOM, "serve", *options, "--out", str(folder)]
        with (folder.parent / f"{folder.name}.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def log(self):
        return (self.folder.parent / f"{self.folder.name}.log").read_text()

    def rounds(self):
        try:
            with RunStore.open(self.folder) as store:
                return len(store.rounds())
        except Exception:  # noqa: BLE001  (the database is being made)
            return 0

    def pid(self, agent):
        try:
            return json.loads((self.folder / "local" / agent / "status.json").read_text())["pid"]
        except (OSError, ValueError):
            return None

    def end(self, timeout=120):
        try:
            return self.process.wait(timeout)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)


def agents_left(folder):
    done = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if str(folder) in line and "device run" in line]


def test_a_served_run_has_the_weights_of_the_simulation_and_leaves_no_process(tmp_path):
    options = ("--rounds", "3", "--seed", "1")
    expected = simulate("digits", tmp_path / "simulated", "--clients", "3", *options)
    served = Served(tmp_path / "served", "digits", "--local", "3", "--trainer", "torch", *options)
    assert served.end() == 0, served.log()
    got = result(served.folder)
    assert got["arrays_sha256"] == expected["arrays_sha256"]
    assert got["final"] == expected["final"]
    assert (got["engine"], got["clients"], got["status"]) == ("link", 3, "finished")
    assert not agents_left(served.folder)


def test_agents_without_torch_reach_what_the_simulation_reaches(tmp_path):
    options = ("--rounds", "3", "--seed", "1")
    expected = simulate("digits", tmp_path / "simulated", "--clients", "3", *options)
    served = Served(tmp_path / "served", "digits", "--local", "3", *options)
    until(lambda: served.rounds() > 1 or served.process.poll() is not None, 60)
    maps = Path(f"/proc/{served.pid('local-0')}/maps").read_text()
    assert served.end() == 0, served.log()
    assert "onnxruntime" in maps
    assert "torch" not in maps
    assert "onnx_cpp2py" not in maps
    got = result(served.folder)
    assert abs(got["final"]["accuracy"] - expected["final"]["accuracy"]) <= 0.015
    assert all(entry["clients_ok"] == 3 for entry in got["rounds"])


def test_a_model_that_cannot_be_exported_is_trained_with_torch(tmp_path):
    path = tmp_path / "odd.py"
    path.write_text(TASK.replace("return self.layer(x)", "return self.layer(x).cumprod(1)"))
    served = Served(tmp_path / "served", str(path), "--local", "2", "--rounds", "1")
    assert served.end() == 0, served.log()
    assert "devices need torch for this run" in served.log()
    with RunStore.open(served.folder) as store:
        trainers = [row["trainer"] for row in store.execute("SELECT trainer FROM device")]
    assert trainers == ["torch", "torch"]
    served = Served(tmp_path / "again", str(path), "--local", "2", "--rounds", "1", "--trainer", "onnx")
    assert served.end() == 2, served.log()
    assert "--trainer onnx: " in served.log()


def test_agents_killed_at_random_lose_no_update_and_none_counts_twice(tmp_path, task):
    options = ("--rounds", "10", "--seed", "2")
    expected = simulate(task, tmp_path / "simulated", "--clients", "3", *options)
    served = Served(tmp_path / "served", task, "--local", "3", "--trainer", "torch", *options)
    chance = random.Random(1)
    killed = 0
    until(lambda: served.rounds() > 0 or served.process.poll() is not None, 60)
    while served.process.poll() is None and killed < 6:
        pid = served.pid(f"local-{chance.randrange(3)}")
        if pid is not None and Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGKILL)
            killed += 1
        time.sleep(chance.uniform(0.1, 1.0))
    assert served.end() == 0, served.log()
    assert killed >= 3
    got = result(served.folder)
    assert got["arrays_sha256"] == expected["arrays_sha256"]
    assert all(entry["clients_ok"] == 3 for entry in got["rounds"])
    assert "starting it again" in served.log()


def test_agents_that_do_not_come_up_end_the_run_with_their_last_words(tmp_path):
    path = tmp_path / "broken.py"
    guard = 'import sys\nif "device" in sys.argv:\n    raise RuntimeError("no such sensor")\n'
    path.write_text(TASK + guard)
    served = Served(tmp_path / "served", str(path), "--local", "2", "--rounds", "1")
    assert served.end() == 1, served.log()
    log = " ".join(served.log().split())
    assert "does not come up, ended 4 times (2)" in log
    assert "no such sensor" in log
    assert result(served.folder)["status"] == "failed"
    assert not agents_left(served.folder)


def test_a_hanging_agent_is_lost_and_the_run_goes_on(tmp_path, task):
    options = ("--local", "3", "--trainer", "torch", "--rounds", "6", "--quorum", "0.5", "--grace", "2")
    served = Served(tmp_path / "served", task, *options)
    until(lambda: served.rounds() > 1, 60)
    pid = served.pid("local-1")
    os.kill(pid, signal.SIGSTOP)
    try:
        assert served.end() == 0, served.log()
    finally:
        if Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGKILL)
    got = result(served.folder)
    assert len(got["rounds"]) == 6
    assert got["rounds"][-1]["clients_ok"] == 2
    with RunStore.open(served.folder) as store:
        assert any("local-1: lost" in entry["data"]["reason"] for entry in store.events("failed"))


def test_sigterm_drains_and_leaves_a_readable_run(tmp_path, task):
    served = Served(tmp_path / "served", task, "--local", "2", "--rounds", "500")
    until(lambda: served.rounds() > 1, 60)
    served.process.terminate()
    assert served.end() == 130, served.log()
    assert result(served.folder)["status"] == "interrupted"
    assert "Traceback" not in served.log()
    assert not agents_left(served.folder)


def test_agents_end_with_a_coordinator_that_is_killed(tmp_path, task):
    served = Served(tmp_path / "served", task, "--local", "2", "--rounds", "500")
    until(lambda: served.rounds() > 1, 60)
    served.process.kill()
    served.process.wait()
    until(lambda: not agents_left(served.folder))
    with sqlite3.connect(served.folder / "run.db") as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("digts",), "did you mean 'digits'"),
        (("digits", "--quorum", "2"), "--quorum 2: give a share above 0 and at most 1"),
        (("digits", "--listen", "here"), "--listen here: write HOST:PORT"),
        (("digits", "--fleet", "/nowhere"), "make one with fedloom fleet init"),
        (("digits", "--local", "2", *DPSGD), "mixes the examples of a batch"),
        (("mnist", *DPSGD, "--local", "2", "--plan"), "--plan lets a device choose its batch size"),
        (("mnist", *DPSGD, "--local", "2", "--trainer", "onnx"), "training.dp_noise needs torch"),
        (("digits", "--local", "2", "--privacy", "epsilon=3"), "needs noise to account for"),
        (
            ("digits", "--local", "2", "--privacy", "epsilon=3", "--strategy", "dp-local", *LOCAL),
            "round 1 alone would spend",
        ),
        (("digits", "--rounds", "0"), "--rounds 0: give at least 1"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, options, said):
    assert main(["serve", *options, "--out", str(tmp_path / "run")]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "options", [("--compress", "topk:0.3"), ("--strategy", "scaffold"), ("--strategy", "apfl")]
)
def test_devices_that_keep_something_come_to_a_simulations_result(task, tmp_path, options):
    options = ("--rounds", "3", *options)
    simulated = simulate(task, tmp_path / "simulated", "--clients", "2", *options)
    served = Served(tmp_path / "served", task, "--local", "2", "--trainer", "torch", *options)
    assert served.process.wait(120) == 0, served.log()
    got = result(tmp_path / "served")
    assert got["arrays_sha256"] == simulated["arrays_sha256"]
    assert got["final"]["federated_accuracy"] == simulated["final"]["federated_accuracy"]


@pytest.mark.parametrize("strategy", ["scaffold", "fedrep"])
def test_devices_without_torch_run_an_algorithms_clients(tmp_path, strategy):
    path = tmp_path / "two.py"
    path.write_text(TASK.replace("self.layer = nn.Linear(4, 3)", TWO_LAYERS))
    task = str(path)
    options = ("--rounds", "3", "--strategy", strategy)
    simulated = simulate(task, tmp_path / "simulated", "--clients", "2", *options)
    served = Served(tmp_path / "served", task, "--local", "2", *options)
    assert served.process.wait(120) == 0, served.log()
    with RunStore.open(served.folder) as store:
        trainers = [row["trainer"] for row in store.execute("SELECT trainer FROM device")]
    assert trainers == ["onnx", "onnx"]
    got = result(served.folder)
    for figure in ("loss", "federated_loss"):
        assert got["final"][figure] == pytest.approx(simulated["final"][figure], rel=1e-3)


@pytest.mark.parametrize(
    ("options", "unit"),
    [
        ((*DPSGD, "--trainer", "torch"), "sample"),
        (("--strategy", "dp-client-fixed", *LOCAL), "client"),
        (("--strategy", "dp-local:fedmedian", *LOCAL, "--compress", "int8"), "client"),
    ],
)
def test_private_devices_are_accounted_for_and_end_in_time(task, tmp_path, options, unit):
    limit = 5 if unit == "sample" else 30
    budget = ("--privacy", f"epsilon={limit},delta=1e-3", "--rounds", "99")
    served = Served(tmp_path / "served", task, "--local", "2", *options, *budget)
    assert served.process.wait(200) == 0, served.log()
    got = result(tmp_path / "served")
    assert got["status"] == "finished"
    assert "would spend epsilon" in got["reason"]
    assert 0 < got["final"]["epsilon"] <= limit
    assert got["privacy"]["unit"] == unit
    with sqlite3.connect(tmp_path / "served" / "run.db") as database:
        keys = [key for (key,) in database.execute("SELECT key FROM privacy WHERE unit = ?", (unit,))]
    assert len(set(keys)) == len(got["rounds"])  # one asking, or one model, a round: each its own noise
