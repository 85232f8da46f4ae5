"""A run that is cut short leaves a readable folder: Ctrl-C at any moment, and no room on the disk."""

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

from fedloom_edge.errors import FedloomError
from fedloom_server.store.run_store import RunStore

# A test suite in the background of a shell ignores SIGINT, and so would the run.
FEDLOOM = ["env", "--default-signal=INT", sys.executable, "-m", "fedloom_edge.cli"]
FEDLOOM += ["simulate", "digits", "--clients", "3"]


def interrupt_when(folder: Path, reached, *options: str) -> subprocess.CompletedProcess[str]:
    """Start a long run, send it SIGINT once `reached(folder)` holds, and wait for its end."""
    process = subprocess.Popen(
        [*FEDLOOM, "--rounds", "500", "--out", str(folder), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A session of its own, so that the signal reaches the run alone, as Ctrl-C does in a shell.
        start_new_session=True,
    )
    try:
        while not reached(folder):
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def rounds_done(count: int):
    def reached(folder: Path) -> bool:
        if not (folder / "run.db").exists():
            return False
        try:
            with RunStore.open(folder) as store:
                return len(store.rounds()) > count
        except (FedloomError, sqlite3.Error):  # the database is being made
            return False

    return reached


@pytest.mark.parametrize("rounds", [0, 3])
def test_ctrl_c_keeps_the_rounds_so_far(tmp_path, rounds):
    folder = tmp_path / "run"
    done = interrupt_when(folder, rounds_done(rounds))
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert str(folder) in done.stderr
    with RunStore.open(folder) as store:
        kept = store.rounds()
        assert store.facts()["status"] == "interrupted"
        assert store.get_arrays(kept[-1].arrays)
    result = json.loads((folder / "result.json").read_text())
    assert result["status"] == "interrupted"
    assert len(result["rounds"]) == len(kept) - 1 >= rounds
    assert (folder / "model.onnx").exists()
    assert not list(folder.rglob(".*"))


def test_ctrl_c_before_the_first_round_leaves_no_traceback(tmp_path):
    done = interrupt_when(tmp_path / "run", lambda folder: folder.exists() or time.sleep(0.005))
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr


INTERRUPTED_WHILE_LOADING = """
import sys

class Interrupted:  # what onnxruntime's extension raises when Ctrl-C is pressed while it loads
    def find_spec(self, name, path=None, target=None):
        if name.endswith("onnxruntime_pybind11_state"):
            raise ImportError("initialization failed") from KeyboardInterrupt()

sys.meta_path.insert(0, Interrupted())
from fedloom_edge.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_ctrl_c_while_an_extension_is_loaded_is_an_interruption(tmp_path):
    folder = tmp_path / "run"
    command = [*FEDLOOM[:3], "-c", INTERRUPTED_WHILE_LOADING, *FEDLOOM[5:], "--out", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    with RunStore.open(folder) as store:
        assert store.facts()["status"] == "interrupted"


@pytest.mark.slow
def test_ctrl_c_on_ray_ends_the_run_and_every_process_of_it(tmp_path):
    folder = tmp_path / "run"
    done = interrupt_when(folder, rounds_done(1), "--engine", "ray")
    assert done.returncode == 130, done.stderr
    assert json.loads((folder / "result.json").read_text())["status"] == "interrupted"


def can_mount() -> bool:
    probe = ["unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return shutil.which("unshare") is not None and subprocess.run(probe, capture_output=True).returncode == 0


@pytest.mark.skipif(not can_mount(), reason="needs user namespaces to make a small file system")
@pytest.mark.parametrize("fill", [0, 1])
def test_no_room_on_the_disk_is_said_in_one_line(tmp_path, fill):
    """On a file system of 24 MB: too small for a run from the start, or filled while it goes on."""
    script = f"""
        mount -t tmpfs -o size={"64" if fill else "4"}M tmpfs {tmp_path}
        if [ {fill} = 1 ]; then
            (until [ -e {tmp_path}/run/run.db ]; do sleep 0.05; done; cat /dev/zero >{tmp_path}/big) &
        fi
        {" ".join(FEDLOOM)} --rounds 500 --out {tmp_path}/run
        echo code $?
        [ {fill} = 1 ] || ls -A {tmp_path}
    """
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert "code 2" in done.stdout, done.stderr
    assert "make room" in done.stderr
    assert "Traceback" not in done.stderr
    if not fill:
        assert done.stdout.strip().endswith("code 2")  # nothing was written
