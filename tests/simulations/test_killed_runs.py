"""A run that dies between any two replies goes on to the same bits, and damage is found and said."""

import json
import os
import random
import signal
import subprocess
import sys

import numpy as np
import pytest
from flwr.app import Array, MetricRecord
from flwr.serverapp.strategy import FedAvg

from fedloom_edge.errors import InputError, RunError
from fedloom_server.rounds.federation import Federation
from fedloom_server.store.run_store import RunStore
from fedloom_simulations.adversity.attacks import Attack, AttackedGrid
from fedloom_simulations.engine.inline import InlineGrid

from . import small_runs
from .small_runs import CLIENTS, SmallRuns


def stateful(message, context, call_next):
    """A client whose update depends on how often it was trained before."""
    reply = call_next(message, context)
    if message.metadata.message_type == "train" and not reply.has_error():
        seen = context.state.metric_records.get("seen", MetricRecord({"times": 0}))
        context.state["seen"] = MetricRecord({"times": seen["times"] + 1})
        record = reply.content["arrays"]
        name = next(iter(record))
        record[name] = Array(record[name].numpy() + np.float32(0.01 * (seen["times"] + 1)))
    return reply


@pytest.fixture
def session(tmp_path, monkeypatch):
    """`session("a", "fedadam", kill=7)` begins or goes on with a run of 4 clients; gives its last hash."""
    runs = SmallRuns(tmp_path)

    def go(name, strategy="fedavg", kill=0, rounds=3, attack=""):
        def grid(*given):
            inline = InlineGrid(*given)
            return AttackedGrid(inline, Attack.parse(attack, 0), CLIENTS) if attack else inline

        monkeypatch.setattr(small_runs, "InlineGrid", grid)
        done = runs.go(name, strategy, kill=kill, rounds=rounds, partition="iid", mods=[stateful])
        return done and done[0][-1].arrays

    return go


@pytest.mark.parametrize("strategy", ["fedavg", "fedadam", "fedavgm", "fedmedian", "krum", "fedyogi"])
def test_a_run_that_dies_at_every_few_replies_comes_to_the_same_bits(session, tmp_path, strategy):
    whole = session("whole", strategy)
    instants = random.Random(strategy)
    broken, lives = None, 0
    while broken is None:
        # Evaluation begins anew in each life, so that a life of fewer replies would come to nothing.
        broken = session("broken", strategy, kill=instants.randint(5, 8))
        lives += 1
        assert lives < 40
    assert lives > 3
    assert broken == whole
    with RunStore.open(tmp_path / "broken") as one, RunStore.open(tmp_path / "whole") as two:
        for phase in ("train", "evaluate"):
            assert [(r.round, r.client, r.status) for r in one.client_rounds(phase)] == [
                (r.round, r.client, r.status) for r in two.client_rounds(phase)
            ]
        assert [r.loss for r in one.rounds()] == [r.loss for r in two.rounds()]
        assert [(r.bytes_up, r.clients_ok) for r in one.rounds()] == [
            (r.bytes_up, r.clients_ok) for r in two.rounds()
        ]


@pytest.mark.parametrize("kill", [9, 10, 11, 12])
@pytest.mark.parametrize("attack", ["alie:0.5", "signflip:0.5"])
def test_a_run_that_dies_among_attackers_replies_comes_to_the_same_bits(session, attack, kill):
    # A round is 4 replies to train and 4 to evaluate, so this is one death at each place of round 2.
    assert session("broken", kill=kill, attack=attack) is None
    assert session("broken", attack=attack) == session("whole", attack=attack)


def newest_arrays(folder):
    with RunStore.open(folder) as store:
        return store.folder / "arrays" / f"{store.rounds()[-1].arrays}.safetensors"


@pytest.mark.parametrize("damage", ["bit", "torn", "gone"])
def test_damaged_arrays_are_said_and_the_run_goes_on_from_the_round_before(session, tmp_path, damage):
    whole = session("whole", "fedadam")
    session("hurt", "fedadam", rounds=2)
    path = newest_arrays(tmp_path / "hurt")
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content if damage == "bit" else content[: len(content) // 2])
    if damage == "gone":
        path.unlink()
    assert session("hurt", "fedadam") == whole
    with RunStore.open(tmp_path / "hurt") as store:
        (event,) = store.events("damaged")
        assert path.name in event["data"]["reason"]


def test_a_run_without_one_whole_checkpoint_says_so(session, tmp_path):
    session("hurt")
    for path in (tmp_path / "hurt" / "arrays").iterdir():
        path.write_bytes(b"")
    with pytest.raises(RunError, match="every checkpoint is damaged"):
        session("hurt", rounds=4)


def test_a_changed_checkpoint_is_not_believed(session, tmp_path):
    whole = session("whole")
    session("hurt", rounds=2)
    with RunStore.reopen(tmp_path / "hurt") as store:
        row = store.execute("SELECT id, state FROM checkpoint ORDER BY id DESC LIMIT 1")[0]
        state = json.loads(row["state"]) | {"norms": []}
        store.execute("UPDATE checkpoint SET state = ? WHERE id = ?", (json.dumps(state), row["id"]))
    assert session("hurt") == whole


def test_a_run_of_an_older_format_is_refused(session, tmp_path):
    session("old", rounds=1)
    with RunStore.reopen(tmp_path / "old") as store:
        store.execute("PRAGMA user_version = 1")
    with pytest.raises(InputError, match="before runs could be resumed"):
        session("old")


def test_one_process_at_a_time_works_on_a_run(session, tmp_path):
    session("run", rounds=1)
    with RunStore.reopen(tmp_path / "run"), pytest.raises(InputError, match="another process"):
        RunStore.reopen(tmp_path / "run")


FORKED = """
import os, pathlib, sys, time
from fedloom_server.store.run_store import RunStore
store = RunStore.reopen(pathlib.Path(sys.argv[1]))
if not os.fork():
    print(os.getpid(), flush=True)
time.sleep(60)
"""


def test_a_worker_that_outlives_its_killed_process_does_not_hold_the_run(session, tmp_path):
    session("run", rounds=1)
    command = [sys.executable, "-c", FORKED, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        worker = int(process.stdout.readline())
        process.kill()
        process.wait()
        try:
            RunStore.reopen(tmp_path / "run").close()
        finally:
            os.kill(worker, signal.SIGKILL)


@pytest.mark.parametrize("rounds", [1, 2])
def test_what_a_killed_process_left_is_removed_even_if_no_round_follows(session, tmp_path, rounds):
    session("run", rounds=1)
    arrays = tmp_path / "run" / "arrays"
    left = [arrays / ".half.safetensors", arrays / f"{'0' * 64}.safetensors"]
    for path in left:
        path.write_bytes(b"half")
    session("run", rounds=rounds)
    assert not any(path.exists() for path in left)


def test_old_checkpoints_are_pruned(session, tmp_path):
    session("run", rounds=6)
    with RunStore.open(tmp_path / "run") as store:
        assert [row["round"] for row in store.execute("SELECT round FROM checkpoint ORDER BY id")] == [
            4,
            5,
            6,
        ]


class Forgetful(FedAvg):
    """A strategy of a user's own that does not say what it remembers."""


def test_a_strategy_whose_state_cannot_be_kept_is_refused_before_the_run():
    with pytest.raises(InputError, match="Forgetful cannot be resumed"):
        Federation(None, Forgetful(), None, None, None)
