"""`fedloom tune`: what a search tries, what it leaves, and that it goes on after a crash."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedloom_client.loading import load_task
from fedloom_client.space import Choice, Real, Whole, grid
from fedloom_edge.cli import main
from fedloom_server.rounds.commands import Stopped
from fedloom_server.store.rows import Round
from fedloom_simulations.folds import FoldRecipe
from fedloom_simulations.tune.command import add_arguments
from fedloom_simulations.tune.plan import plan_search
from fedloom_simulations.tune.summary import Comparison
from fedloom_simulations.tune.trial import Outcome, Pruning

OPTIONS = ("tabular", "--rounds", "2", "--seed", "3", "--search", "random")


SPACE = """
from fedloom_client import Choice, Real, Whole
"""


def tune(folder: Path, *options: object) -> int:
    return main(["tune", *map(str, options), "--out", str(folder)])


def trials(folder: Path) -> list[dict[str, Any]]:
    """What the search says of each trial, without times."""
    summary = json.loads((folder / "tune.json").read_text())
    return [{k: v for k, v in trial.items() if k != "device_seconds"} for trial in summary["trials"]]


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search") / "tune"
    assert tune(folder, *OPTIONS, "--trials", 4) == 0
    return folder


def test_the_first_trial_has_the_defaults_and_the_others_differ(searched):
    settings = [trial["settings"] for trial in trials(searched)]
    assert settings[0] == {"training.lr": 0.05, "training.batch_size": 16, "training.epochs": 2}
    assert len({json.dumps(entry) for entry in settings}) == 4


def test_best_toml_makes_the_best_trial_again(searched, tmp_path):
    best = json.loads((searched / "tune.json").read_text())["best"]
    options = ["tabular", "--rounds", "2", "--seed", "3", "--config", searched / "best.toml"]
    assert main(["simulate", *map(str, options), "--out", str(tmp_path / "run")]) == 0
    once, again = (
        json.loads((run / "result.json").read_text())
        for run in (searched / "trials" / f"{best:04d}", tmp_path / "run")
    )
    assert once["arrays_sha256"] == again["arrays_sha256"]


def test_costs_are_those_of_the_trials_runs(searched):
    first = trials(searched)[0]
    result = json.loads((searched / "trials" / "0000" / "result.json").read_text())
    assert first["bytes"] == sum(entry["bytes_up"] + entry["bytes_down"] for entry in result["rounds"])
    assert first["value"] == result["final"]["federated_accuracy"]
    assert first["samples"] > 0


def test_more_trials_go_on_where_the_search_ended(searched, tmp_path, capsys):
    folder = tmp_path / "tune"
    assert tune(folder, *OPTIONS, "--trials", 2) == 0
    assert tune(folder, *OPTIONS, "--trials", 4) == 0
    assert "2 trials are done, 2 are left" in capsys.readouterr().out
    assert trials(folder) == trials(searched)


FOLDED = ("tabular", "--rounds", "2", "--search", "random", "--validate", "clients")


@pytest.fixture(scope="module")
def folded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folded") / "tune"
    assert tune(folder, *FOLDED, "--trials", 3) == 0
    return folder


def test_a_trial_judged_by_clients_is_the_mean_over_those_it_held_out(folded):
    for trial in trials(folded):
        right = total = 0
        for fold in (1, 2, 3, 4):
            run = folded / "trials" / f"{trial['number']:04d}" / f"fold-{fold}"
            recipe = FoldRecipe("tabular", None, load_task("tabular").partition, 5, 0, fold=fold)
            size = len(recipe.open().data.test)
            right += json.loads((run / "result.json").read_text())["final"]["accuracy"] * size
            total += size
        assert trial["value"] == pytest.approx(right / total)
        assert trial["rounds"] == 4 * 2


def test_the_end_compares_runs_of_all_clients_on_the_held_out_test_set(folded, tmp_path):
    summary = json.loads((folded / "tune.json").read_text())
    assert summary["best"] != 0, "choose settings in which a trial beats the defaults"
    options = ["tabular", "--rounds", "2", "--config", folded / "best.toml"]
    for place, seed in enumerate(summary["test"]["seeds"]):
        run = tmp_path / str(seed)
        assert main(["simulate", *map(str, options), "--seed", str(seed), "--out", str(run)]) == 0
        result = json.loads((run / "result.json").read_text())
        assert summary["test"]["best"][place]["value"] == result["final"]["accuracy"]
        assert result["clients"] == 5


@pytest.mark.parametrize(
    ("judge", "figures", "ends"),
    [
        ("clients", [0.1, 0.1, 0.1, 0.1], (2, 3)),  # not after its first fold, which may be the hardest
        ("clients", [0.1, 0.99, 0.99, 0.99], None),
        ("samples", [0.1], (1, 1)),
        ("samples", [0.9], None),
    ],
)
def test_a_hopeless_trial_ends_after_two_folds_or_a_third_of_its_rounds(judge, figures, ends):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    plan = plan_search(parser.parse_args(["tabular", "--rounds", "3", "--validate", judge]))
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.MedianPruner())
    for _ in range(5):
        others = optuna.trial.create_trial(value=0.5, intermediate_values=dict.fromkeys(range(1, 5), 0.5))
        study.add_trial(others)
    pruning, at = Pruning(study.ask(), plan), None
    for fold, figure in enumerate(figures, 1):
        pruning.begin(10)
        for number in range(4):
            entry = Round(number, 0.0, figure, {}, federated_metric=figure if number else None)
            try:
                pruning.round_done(entry)
            except Stopped:
                at = at or (fold, number)
    assert at == ends


OURS, THEIRS = [0.83, 0.82, 0.81], [0.80, 0.81, 0.80]


@pytest.mark.parametrize(
    ("metric", "best", "default", "words"),
    [
        ("accuracy", OURS, THEIRS, "with every seed"),
        ("accuracy", [0.83, 0.82, 0.79], THEIRS, "may be chance"),
        ("accuracy", THEIRS, OURS, "does not beat"),
        ("accuracy", OURS, OURS, "does not beat"),
        ("mae", OURS, THEIRS, "does not beat"),
        ("mae", THEIRS, OURS, "with every seed"),
        ("accuracy", [0.9, 0.9, None], THEIRS, "a run failed"),
    ],
)
def test_the_verdict_is_no_better_than_the_runs_are(metric, best, default, words):
    runs = ([Outcome("failed" if v is None else "complete", v) for v in side] for side in (best, default))
    assert words in Comparison([0, 1, 2], *runs).verdict(metric)


OWNERS = """
    people = np.arange(120) % 6
    people[90:] {change}
    return Data(train=ArraySamples(x[:90], y[:90], groups=people[:90]),
                test=ArraySamples(x[90:], y[90:], groups=people[90:]))
"""


@pytest.mark.parametrize(
    ("change", "options", "judge"),
    [
        ("+= 6", (), "clients"),
        ("+= 6", ("--partition", "iid"), "samples"),
        ("+= 6", ("--validate", "samples"), "samples"),
        ("+= 0", (), "samples"),
        ("+= 0", ("--validate", "clients"), "clients"),
    ],
)
def test_trials_are_asked_what_the_test_set_asks(task_file, change, options, judge):
    task = task_file(
        SPACE
        + "def owned(folder):\n    x = rng.normal(size=(120, 4)).astype(np.float32)\n"
        + "    y = rng.integers(0, 3, 120)"
        + OWNERS.format(change=change),
        data="owned",
        extra="partition='natural'",
    )
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    plan = plan_search(parser.parse_args([str(task), *options]))
    assert (plan.validate, len(plan.runs(0, {}))) == (judge, 3 if judge == "clients" else 1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--clients", 1), "give at least 2"),
        (("--partition", "virtual:9"), "share samples"),
    ],
)
def test_clients_that_cannot_be_held_out_are_refused(tmp_path, capsys, options, words):
    assert tune(tmp_path / "tune", "tabular", "--validate", "clients", *options) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "tune").exists()


def test_another_judge_in_the_same_folder_is_refused(folded, capsys):
    assert tune(folded, *FOLDED, "--validate", "samples") == 2
    assert "another validate (validate was clients)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "options", "begun"),
    [
        ("searched", OPTIONS, "0001/run.db"),
        ("folded", FOLDED, "0001/fold-2/run.db"),
    ],
)
def test_a_killed_search_goes_on_to_the_same_trials(request, tmp_path, kind, options, begun):
    whole, folder = request.getfixturevalue(kind), tmp_path / "tune"
    options = (*options, "--trials", "2")
    command = [sys.executable, "-m", "fedloom_edge.cli", "tune", *options, "--out", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        while not (folder / "trials" / begun).exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.005)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    deadline = time.monotonic() + 180
    while tune(folder, *options) != 0:  # until the killed search's worker has gone too
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert trials(folder) == trials(whole)[:2]


def test_a_grid_in_two_processes_covers_the_space_of_a_users_task(task_file, tmp_path):
    space = (
        "space={'training.lr': Real(low=0.01, high=0.09), 'training.optimizer': Choice(('momentum', 'adam'))}"
    )
    task = task_file(SPACE, extra=f"training=Training(lr=0.05), {space}")
    options = (task, "--search", "grid", "--jobs", 2, "--rounds", 1, "--trials", 99)
    assert tune(tmp_path / "tune", *options) == 0
    settings = [tuple(trial["settings"].values()) for trial in trials(tmp_path / "tune")]
    assert len(settings) == 6
    assert {(round(lr, 9), name) for lr, name in settings} == {
        (lr, name) for lr in (0.01, 0.05, 0.09) for name in ("momentum", "adam")
    }


@pytest.mark.parametrize(
    ("space", "options", "words"),
    [
        ("{'training.lr': Real(low=0.1, high=0.2)}", (), "leaves out the default 0.05"),
        ("{'training.speed': Real(low=0.1, high=0.2)}", (), "training.speed"),
        ("{'model.width': Whole(low=1, high=2)}", (), "training.KEY or strategy.KEY"),
        ("{'training.lr': Real(low=0.0, high=0.2, log=True)}", (), "no range"),
        ("{'training.lr': Choice(())}", (), "at least one value"),
        ("{'training.lr': (0.01, 0.1)}", (), "none of Real(), Whole() and Choice()"),
        ("{'training.lr': Real(low=0.01, high=float('inf'))}", (), "no range"),
        ("{'training.lr': Real(low=-1, high=1)}", (), "no run takes -1"),
        ("{'training.batch_size': Real(low=1, high=64)}", (), "expected a whole number"),
        ("{'training.optimizer': Choice(('momentum', 'sgdx'))}", (), "unknown optimizer 'sgdx'"),
        ("{}", ("--trials", 0), "--trials 0"),
        ("{}", ("--jobs", 0), "--jobs 0"),
        ("{'training.lr': Choice((0.05, 0.1))}", ("--set", "training.lr=0.1"), "leave one of them open"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused_before_anything_is_written(
    task_file, tmp_path, capsys, space, options, words
):
    task = task_file(SPACE, extra=f"training=Training(lr=0.05), space={space}")
    assert tune(tmp_path / "tune", task, *options) == 2
    message = capsys.readouterr().err
    assert words in message
    assert message.count("\n") == 1
    assert not (tmp_path / "tune").exists()


def test_another_search_in_the_same_folder_is_refused(searched, capsys):
    assert tune(searched, *OPTIONS[:3], "--seed", 4, "--search", "random") == 2
    assert "another seed (seed was 3)" in capsys.readouterr().err


def test_trials_that_all_fail_say_why(task_file, tmp_path, capsys):
    regression = {"model": "lambda: nn.Linear(4, 1)", "y": "rng.normal(size=(120, 1)).astype(np.float32)"}
    space = "space={'training.lr': Choice((1e5, 1e6))}"
    task = task_file(SPACE, extra=f"loss='mse', training=Training(lr=1e5, epochs=9), {space}", **regression)
    assert tune(tmp_path / "tune", task, "--rounds", 2, "--trials", 2) == 1
    assert "no trial" in capsys.readouterr().err


@given(st.floats(1e-6, 1e3), st.floats(1.01, 1e3), st.booleans(), st.integers(1, 50), st.integers(1, 50))
def test_a_grid_stays_within_the_space_and_repeats_nothing(low, factor, log, start, width):
    space = {
        "a": Real(low=low, high=low * factor, log=log),
        "b": Whole(low=start, high=start + width, log=log),
        "c": Choice(("x", "y")),
    }
    points = [tuple(values.values()) for values in grid(space)]
    assert len(set(points)) == len(points)
    assert all(space[name].holds(value) for point in points for name, value in zip(space, point, strict=True))
