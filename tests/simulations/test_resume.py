"""`fedloom resume`: after kill -9, damage or an end, the run that would have been, bit for bit."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedloom_client.data import shards
from fedloom_client.flower import app as flower_app
from fedloom_edge.cli import main
from fedloom_server.store.run_store import RunStore
from fedloom_simulations.soak.laws import compare
from fedloom_simulations.soak.schedule import Schedule, run_schedule

OPTIONS = ("digits", "--clients", "3", "--rounds", "4", "--strategy", "fedadam", "--set", "strategy.eta=0.01")
FEDLOOM = [sys.executable, "-m", "fedloom_edge.cli"]


def fedloom(*argv: object) -> int:
    return main([str(word) for word in argv])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert fedloom("simulate", *OPTIONS, "--out", folder) == 0
    return folder


def killed_after_round(number: int, folder: Path, *options: str) -> None:
    """A run in its own process, killed with SIGKILL as soon as a round is in the store."""
    command = [*FEDLOOM, "simulate", *OPTIONS, "--out", str(folder), *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        while rounds_in(folder) <= number:
            assert process.poll() is None, process.communicate()
            time.sleep(0.005)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()


def rounds_in(folder: Path) -> int:
    try:
        with sqlite3.connect(f"file:{folder / 'run.db'}?mode=ro", uri=True) as database:
            return int(database.execute("SELECT count(*) FROM round").fetchone()[0])
    except sqlite3.Error:
        return 0


@pytest.mark.parametrize("number", [0, 2])
def test_a_killed_run_goes_on_to_the_same_weights_and_figures(whole, tmp_path, number, monkeypatch):
    folder = tmp_path / "run"
    killed_after_round(number, folder)
    monkeypatch.chdir(tmp_path)  # nothing but the folder is needed
    assert fedloom("resume", folder) == 0
    assert compare(whole, folder) == []
    with RunStore.open(folder) as store:
        assert store.facts()["status"] == "finished"
        assert [event["kind"] for event in store.events("resumed")] == ["resumed"]
    assert json.loads((folder / "result.json").read_text())["status"] == "finished"


@pytest.fixture(scope="module")
def broken_off(tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed") / "run"
    killed_after_round(2, folder)
    return folder


@pytest.fixture
def stopped(broken_off, tmp_path):
    """A copy of a run that was killed after round 2, to be damaged."""
    return Path(shutil.copytree(broken_off, tmp_path / "run"))


def newest_arrays(folder: Path, key: str = "arrays") -> Path:
    with RunStore.open(folder) as store:
        row = store.execute("SELECT state FROM checkpoint ORDER BY id DESC LIMIT 1")[0]
    return folder / "arrays" / f"{json.loads(row['state'])[key]}.safetensors"


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 4
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("key", ["arrays", "strategy_arrays"])
@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink])
def test_damaged_arrays_are_seen_and_the_last_good_round_is_used(whole, stopped, damage, key):
    damage(newest_arrays(stopped, key))
    assert fedloom("resume", stopped) == 0
    assert compare(whole, stopped) == []
    with RunStore.open(stopped) as store:
        said = store.events("damaged")
    assert len(said) == 1
    assert "going on from the checkpoint before" in said[0]["data"]["reason"]


def test_a_flipped_bit_in_a_checkpoint_itself_is_seen(whole, stopped):
    with sqlite3.connect(stopped / "run.db") as database:
        newest = "(SELECT max(id) FROM checkpoint)"
        database.execute(f"UPDATE checkpoint SET state = replace(state, '0.', '1.') WHERE id = {newest}")
    assert fedloom("resume", stopped) == 0
    assert compare(whole, stopped) == []


def test_a_run_with_every_checkpoint_damaged_is_refused_in_one_line(stopped, capsys):
    for path in (stopped / "arrays").glob("*.safetensors"):
        flip(path)
    assert fedloom("resume", stopped) == 1
    err = capsys.readouterr().err
    assert "every checkpoint is damaged" in err
    assert "Traceback" not in err


def test_a_damaged_database_is_said_in_one_line(stopped, capsys):
    path = stopped / "run.db"
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = bytearray(path.read_bytes())
    content[8192:9000] = os.urandom(808)
    path.write_bytes(content)
    assert fedloom("resume", stopped) in (1, 2)
    err = capsys.readouterr().err
    assert "damaged" in err
    assert err.count("\n") == 1


def test_what_a_killed_process_left_half_written_is_removed(whole, stopped):
    (stopped / "arrays" / ".abc.123.safetensors").write_bytes(b"half")
    (stopped / ".result.json.123.json").write_text("{")
    assert fedloom("resume", stopped) == 0
    assert not list(stopped.rglob(".*"))


def test_a_finished_run_is_only_written_anew(whole, capsys):
    (whole / "result.json").unlink()
    assert fedloom("resume", whole) == 0
    result = json.loads((whole / "result.json").read_text())
    assert [entry["round"] for entry in result["rounds"]] == [1, 2, 3, 4]


def test_two_processes_never_work_on_one_run(stopped, capsys):
    with RunStore.reopen(stopped):
        assert fedloom("resume", stopped) == 2
    assert "another process is at work" in capsys.readouterr().err


def test_a_run_of_an_older_format_is_refused_clearly(stopped, capsys):
    with sqlite3.connect(stopped / "run.db") as database:
        database.execute("PRAGMA user_version=1")
    assert fedloom("resume", stopped) == 2
    assert "before runs could be resumed" in capsys.readouterr().err


def test_a_folder_without_a_run_is_refused(tmp_path, capsys):
    assert fedloom("resume", tmp_path) == 2
    assert "holds no run" in capsys.readouterr().err


def test_a_changed_task_is_said_and_changed_data_is_refused(simulate, task_file, capsys):
    path = task_file()
    done = simulate(path, "--rounds", 1)
    path.write_text(path.read_text() + "# a remark\n")
    assert main(["resume", str(done.folder)]) == 0
    assert "the task's file has changed" in capsys.readouterr().err
    path.write_text(path.read_text().replace("x[:90], y[:90]", "x[:60], y[:60]"))
    shards._open.cache_clear()
    flower_app._member.cache_clear()
    assert main(["resume", str(done.folder)]) == 1
    assert "examples when the run began" in capsys.readouterr().err


def test_checkpoints_are_pruned_to_the_last_and_every_nth(simulate, task_file):
    done = simulate(task_file(), "--rounds", 9, "--set", "checkpoints.last=2", "--set", "checkpoints.every=3")
    with RunStore.open(done.folder) as store:
        kept = [row["round"] for row in store.execute("SELECT round FROM checkpoint ORDER BY id")]
    assert kept == [3, 6, 8, 9]


@pytest.mark.parametrize("number", [0, 3])
def test_seeded_schedules_of_kills_and_faults_keep_every_law(tmp_path, number):
    outcome = run_schedule(Schedule.drawn(7, number, most_kills=2), tmp_path)
    assert outcome.faults == []


@pytest.mark.slow
@pytest.mark.parametrize("number", range(10, 14))
def test_more_schedules_keep_every_law(tmp_path, number):
    assert run_schedule(Schedule.drawn(7, number), tmp_path).faults == []
