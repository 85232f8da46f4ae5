"""What a search leaves: best.toml for other commands, the costs, and a grid that is not cut off."""

import argparse
import contextlib
import io
import json
import tomllib

import pytest

from fedloom_edge.cli import Parser, main
from fedloom_edge.config import apply_settings
from fedloom_server.link import serve
from fedloom_simulations.tune import command
from fedloom_simulations.tune.plan import plan_search

ADAPTIVE = (
    "training=Training(lr=1e-5, batch_size=8), "
    "space={'strategy.eta': Choice((0.1, 0.03)), 'training.lr': Choice((1e-5, 0.05))}"
)


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """A grid search of a part of its combinations, under another strategy and with bounded steps."""
    folder = tmp_path_factory.mktemp("grid")
    task = folder / "task.py"
    task.write_text(
        "import numpy as np\nfrom torch import nn\n"
        "from fedloom_client import ArraySamples, Choice, Task, Training, sources\n"
        "def data(folder):\n"
        "    x = np.random.default_rng(0).normal(size=(120, 4)).astype(np.float32)\n"
        "    return sources.split(ArraySamples(x, (x.sum(1) > 0).astype(np.int64)))\n"
        f"task = Task(name='bounded', model=lambda: nn.Linear(4, 2), data=data, {ADAPTIVE})\n"
    )
    options = ("--clients", 3, "--rounds", 2, "--seed", 4, "--partition", "iid", "--strategy", "fedadam")
    bounded = ("--search", "grid", "--trials", 3, "--set", "training.steps=2")
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert main(["tune", *map(str, (task, *options, *bounded, "--out", folder / "tune"))]) == 0
    return task, folder / "tune", json.loads((folder / "tune" / "tune.json").read_text()), said.getvalue()


def test_best_toml_alone_makes_the_best_trial_again(grid, tmp_path):
    task, folder, summary, _ = grid
    run = tmp_path / "run"
    assert main(["simulate", *map(str, (task, "--config", folder / "best.toml", "--out", run))]) == 0
    once, again = (
        json.loads((made / "result.json").read_text())["arrays_sha256"]
        for made in (folder / "trials" / f"{summary['best']:04d}", run)
    )
    assert once == again


def test_serve_takes_best_toml_too(grid):
    parser = Parser()
    serve.add_arguments(parser)
    apply_settings(parser, ["--config", str(grid[1] / "best.toml")])
    options = parser.parse_args([])
    assert (options.strategy, options.rounds, options.seed) == ("fedadam", 2, 4)
    assert "training.steps=2" in options.settings


def test_numbers_stand_in_best_toml_as_numbers(grid):
    content = tomllib.loads((grid[1] / "best.toml").read_text())
    assert content["training"]["steps"] == 2
    assert content["strategy"]["name"] == "fedadam"


def test_costs_count_the_steps_that_were_taken_and_the_comparison(grid):
    summary = grid[2]
    for trial in summary["trials"]:
        assert trial["samples"] == 2 * 3 * 2 * 8  # rounds, clients, steps, batch size
    assert summary["best"] != 0, "choose settings in which a trial beats the defaults"
    assert summary["final_cost"]["rounds"] == 6 * 2
    assert summary["final_cost"]["samples"] == 6 * 2 * 3 * 2 * 8
    assert "compared with 12 rounds, 576 samples" in grid[3]


def plan_of(*options: object):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return plan_search(parser.parse_args(list(map(str, options))))


def test_a_grid_has_all_combinations_and_a_part_of_it_is_drawn():
    plan = plan_of("tabular", "--search", "grid")
    settings = [tuple(values.values()) for values in plan.grid()]
    assert plan.trials == len(settings) == len(set(settings))
    parts = [plan_of("tabular", "--search", "grid", "--trials", 9, "--seed", k).grid()[:9] for k in (0, 0, 1)]
    assert parts[0] == parts[1] != parts[2]
    assert parts[0][0] == plan.default
    for name in plan.space:
        assert len({values[name] for values in parts[0][1:]}) > 1, "all from the same corner"


def test_a_part_of_a_grid_is_called_one(grid):
    assert "3 of 4 combinations" in grid[3]


@pytest.mark.parametrize("strategy", ["scaffold", "feddyn"])
def test_algorithms_of_our_own_can_be_searched(strategy):
    assert plan_of("tabular", "--strategy", strategy, "--set", "training.optimizer=sgd").trials == 20


def test_help_says_a_default_once(capsys):
    with pytest.raises(SystemExit):
        main(["tune", "--help"])
    for option in " ".join(capsys.readouterr().out.split()).split(" --"):
        assert option.count("default: ") <= 1
