"""The run store: one transaction a round, arrays under their hash, readable while it is written."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fedloom_edge.cli import main
from fedloom_edge.errors import InputError, RunError
from fedloom_server.store.rows import ClientRound, ClientRow, Round
from fedloom_server.store.run_store import RunStore


@pytest.fixture
def store(tmp_path):
    with RunStore.create(tmp_path / "run", {"task": "digits", "clients": 2}) as store:
        yield store


def test_what_was_written_is_read_back(store):
    store.add_clients([ClientRow(0, "client 0", 90, 10, [50, 50]), ClientRow(1, "client 1", 9, 1)])
    part = ClientRound(1, 0, "train", "ok", examples=90, loss=0.5, metrics={"steps": 3})
    entry = Round(1, 0.25, 0.9, {"accuracy": 0.9}, clients_ok=1, arrays="abc")
    with store.transaction():
        store.add_round(entry, [part])
        store.event("warning", round_number=1, client=0, reason="gradients vanish")
    reader = RunStore.open(store.folder)
    assert reader.facts()["task"] == "digits"
    assert reader.clients() == [ClientRow(0, "client 0", 90, 10, [50, 50]), ClientRow(1, "client 1", 9, 1)]
    assert reader.rounds() == [entry]
    assert reader.client_rounds("train") == [part]
    assert reader.client_rounds("evaluate") == []
    assert reader.events("warning")[0]["data"] == {"reason": "gradients vanish"}


def test_a_process_killed_before_the_run_says_what_it_is_has_begun_nothing(tmp_path):
    code = (
        "import os; from pathlib import Path; from fedloom_server.store.run_store import RunStore\n"
        "RunStore.set_facts = lambda *_: os.kill(os.getpid(), 9)\n"
        f"RunStore.create(Path({str(tmp_path)!r}), {{'task': 'digits'}})\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    with pytest.raises(InputError, match="holds no run"):
        RunStore.open(tmp_path)
    with RunStore.create(tmp_path, {"task": "digits"}) as store:
        assert store.facts()["task"] == "digits"
    assert {path.name for path in tmp_path.iterdir()} == {"arrays", "run.db"}


def test_a_transaction_that_fails_leaves_nothing(store):
    with pytest.raises(KeyboardInterrupt), store.transaction():
        store.add_round(Round(1, 0.1, 0.9), [])
        raise KeyboardInterrupt
    assert RunStore.open(store.folder).rounds() == []


def test_a_reader_cannot_write(store):
    with pytest.raises(sqlite3.OperationalError):
        RunStore.open(store.folder).event("paused")


def test_arrays_are_kept_once_under_their_hash_and_a_flipped_bit_is_seen(store):
    digest = store.put_arrays({"w": np.arange(10.0)})
    assert store.put_arrays({"w": np.arange(10.0)}) == digest
    assert store.get_arrays(digest)["w"].tolist() == list(range(10))
    path = store.folder / "arrays" / f"{digest}.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(RunError, match="damaged"):
        store.get_arrays(digest)


@pytest.mark.parametrize("place", [0, 4096])
def test_a_damaged_database_is_one_line_about_its_file(tmp_path, place, capsys):
    with RunStore.create(tmp_path / "run", {}) as store:
        store.set_facts({str(key): "word" for key in range(500)})
    path = tmp_path / "run" / "run.db"
    content = path.read_bytes()
    path.write_bytes(content[:place] + b"\xff" * (len(content) - place))
    assert main(["report", str(tmp_path / "run")]) == 2
    message = capsys.readouterr().err
    assert f"{path} cannot be read" in message
    assert message.count("\n") == 1


def test_only_arrays_that_are_referred_to_stay(store):
    old, new = (store.put_arrays({"w": np.full(2, value)}) for value in (1.0, 2.0))
    store.keep_arrays({new})
    assert store.get_arrays(new)["w"][0] == 2
    with pytest.raises(RunError):
        store.get_arrays(old)


def test_a_folder_that_holds_a_run_is_refused(store):
    with pytest.raises(InputError, match="already holds a run"):
        RunStore.create(store.folder, {})


def test_a_folder_without_a_run_and_a_newer_format_are_refused(store, tmp_path):
    with pytest.raises(InputError, match="holds no run"):
        RunStore.open(tmp_path)
    store._connection.execute("PRAGMA user_version=99")
    with pytest.raises(InputError, match="format 99"):
        RunStore.open(store.folder)


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(InputError, match="choose a folder"):
        RunStore.create(tmp_path / "run", {})


def test_a_durable_transaction_syncs_every_array_file_before_it_commits(store, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(Path(f"/proc/self/fd/{handle}").readlink()))
    digests = [store.put_arrays({"w": np.full(3, value)}) for value in (1.0, 2.0)]
    with store.transaction():
        store.event("round")
    assert synced == []
    assert store.unsynced_bytes == 48
    with store.transaction(durable=True):
        store.event("round")
        assert synced == []
    assert {path.stem for path in synced} == {*digests, "arrays"}
    assert store.unsynced_bytes == 0
