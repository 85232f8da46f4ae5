"""`fedloom tune` when it is stopped, when a trial's process dies, and when its folder is not what it was."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from fedloom_edge.cli import main
from fedloom_simulations.tune.command import add_arguments
from fedloom_simulations.tune.plan import plan_search
from fedloom_simulations.tune.search import _tell
from fedloom_simulations.tune.study import _prepare, _trial, locked, next_trial, open_study
from fedloom_simulations.tune.summary import write_summary
from fedloom_simulations.tune.trial import Outcome

SPACE = "from fedloom_client import Choice, Real, Whole\n"
SLOW = {  # to learn with the defaults, so that another trial is best
    "model": "lambda: nn.Linear(4, 1)",
    "y": "x.sum(1, keepdims=True)",
    "extra": "loss='mse', training=Training(lr=1e-5, batch_size=4), "
    "space={'training.lr': Choice((1e-5, 0.05))}",
}
DEADLY = """
import os
class Deadly(nn.Linear):
    def forward(self, x):
        if self.training and len(x) == 7:
            os._exit(137)
        return super().forward(x)
"""


def plan_of(*options: object):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return plan_search(parser.parse_args(list(map(str, options))))


def test_ctrl_c_during_the_comparison_begins_no_further_run(task_file, tmp_path):
    folder = tmp_path / "tune"
    words = ("tune", task_file(SPACE, **SLOW), "--search", "grid", "--rounds", 20, "--out", folder)
    process = subprocess.Popen(
        # A test suite in the background of a shell ignores SIGINT, and so would the search.
        ["env", "--default-signal=INT", sys.executable, "-m", "fedloom_edge.cli", *map(str, words)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C reaches a whole group of processes
    )
    try:
        while not list(folder.glob("final/*/run.db")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.005)
    finally:
        os.killpg(process.pid, signal.SIGINT)
        said = process.communicate()[1]
    assert process.returncode == 130
    assert "the same command goes on" in said
    assert len(list((folder / "final").iterdir())) == 1


def test_a_trial_whose_process_dies_twice_fails_alone(task_file, tmp_path):
    space = "training=Training(batch_size=8), space={'training.batch_size': Choice((8, 7, 9))}"
    task = task_file(SPACE + DEADLY, model="lambda: Deadly(4, 3)", extra=space)
    options = ("--search", "grid", "--rounds", 1, "--jobs", 2, "--validate", "samples")
    assert main(["tune", str(task), *map(str, options), "--out", str(tmp_path / "tune")]) == 0
    for trial in json.loads((tmp_path / "tune" / "tune.json").read_text())["trials"]:
        deadly = trial["settings"]["training.batch_size"] == 7
        assert trial["state"] == ("failed" if deadly else "complete")
        assert trial.get("deaths", 0) == (2 if deadly else 0)
        assert ("killed twice" in trial["reason"]) == deadly


@pytest.mark.parametrize("search", ["random", "bayes"])
def test_a_kill_between_two_values_of_a_trial_changes_neither(tmp_path, search):
    settled = []
    for killed in (False, True):
        plan = plan_of("tabular", "--search", search, "--out", tmp_path / str(killed))
        with locked(plan):
            study = open_study(plan)
            next_trial(plan, study, 0)
            if killed:
                _prepare(plan, study, 1)
                study.ask()
                dimension = plan.space["training.lr"]
                _trial(study, 1).suggest_float("training.lr", dimension.low, dimension.high, log=True)
            study = open_study(plan)
            next_trial(plan, study, 1)
            settled.append(study.trials[1].params)
    assert settled[0] == settled[1]


def test_defaults_that_are_not_over_are_not_held_against_the_best(tmp_path):
    plan = plan_of("tabular", "--out", tmp_path / "tune")
    with locked(plan):
        study = open_study(plan)
        for number in (0, 1):
            next_trial(plan, study, number)
        _tell(study, 1, Outcome("complete", 0.5))
        said = write_summary(plan, study, None)
    assert "best: trial 1, accuracy 0.5000 on the clients' validation parts; defaults: -\n" in said
    assert "keep them" not in said
    assert json.loads((tmp_path / "tune" / "tune.json").read_text())["default"] is None


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.write_text(""), "give a folder that can be written"),
        (lambda path: path.symlink_to("/proc/none"), "give a folder that can be written"),
        (lambda path: damage(path, b"no database at all"), "study.db is damaged; choose another folder"),
        (lambda path: (path / "study.db").mkdir(parents=True), "study.db is damaged; choose another folder"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused_in_a_line(tmp_path, capsys, make, words):
    make(tmp_path / "tune")
    assert main(["tune", "tabular", "--rounds", "1", "--out", str(tmp_path / "tune")]) == 2
    message = capsys.readouterr().err
    assert words in message
    assert message.count("\n") == 1


def damage(folder, content):
    folder.mkdir()
    (folder / "study.db").write_bytes(content)
