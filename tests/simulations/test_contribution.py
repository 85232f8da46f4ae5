"""`fedloom explain --contribution`: gain is shared out among the updates that made the model."""

import json

import numpy as np
import pytest

from fedloom_edge.cli import main
from fedloom_edge.errors import RunError
from fedloom_server.store.run_store import RunStore
from fedloom_simulations.explain import rerun
from fedloom_simulations.explain.contribution import mean
from fedloom_simulations.explain.subject import open_subject

TASK = """
import numpy as np
from torch import nn
from fedloom_client import ArraySamples, Task, Training, sources

def data(folder):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 4)).astype(np.float32)
    return sources.split(ArraySamples(x, (x.sum(1) > 0).astype(np.int64)))

task = Task(name="t", model=lambda: nn.Linear(4, 2), data=data, training=Training(optimizer="adam", lr=0.01))
"""


@pytest.fixture
def simulated(tmp_path):
    """Run a small task with options; gives its folder."""

    def simulate(*options, clients=4):
        (tmp_path / "t.py").write_text(TASK)
        words = ["--clients", str(clients), "--rounds", "2", "--out", str(tmp_path / "run"), *options]
        assert main(["simulate", f"{tmp_path / 't.py'}:task", *words]) == 0
        return tmp_path / "run"

    return simulate


def explained(folder, permutations=4):
    assert main(["explain", str(folder), "--contribution", "--permutations", str(permutations)]) == 0
    return json.loads((folder / "contribution.json").read_text())


@pytest.mark.parametrize(
    ("clients", "options"),
    [
        (4, ()),
        (4, ("--faults", "nan=0.4")),
        (4, ("--compress", "int8")),
        (10, ("--attack", "scale:0.2:50")),
        (10, ("--attack", "scale:0.2:50", "--set", "guard.norms=clip")),
    ],
)
def test_the_updates_that_are_valued_average_to_the_runs_own_model(simulated, clients, options):
    subject = open_subject(simulated(*options, clients=clients))
    last = {}
    assert rerun.run_again(subject, lambda number, origin, updates: last.update({number: updates}))
    assert sorted(last) == [1, 2]
    made = mean(list(last[2].values()))
    for name, array in subject.arrays.items():
        np.testing.assert_allclose(made[name], array, atol=1e-6)


def test_a_refused_update_gives_nothing_and_takes_nothing(simulated):
    folder = simulated("--faults", "nan=0.4")
    said = explained(folder)
    with RunStore.open(folder) as store:
        rounds, rows = store.rounds(), store.client_rounds("train")
    assert any(row.status == "rejected" for row in rows)
    assert said["gain"] == pytest.approx(rounds[-1].metric - rounds[0].metric)
    taken_in = {row.client for row in rows if row.status == "ok"}
    assert all(each["shapley"] == 0 for each in said["clients"] if each["client"] not in taken_in)


def test_updates_that_a_strategy_empties_can_be_valued(simulated):
    said = explained(simulated("--strategy", "fedmedian"), permutations=1)
    assert said["same_run"]
    assert any(client["shapley"] for client in said["clients"])


@pytest.mark.parametrize(("strategy", "said"), [("fedavg", False), ("fedadam", True), ("fedmedian", True)])
def test_a_strategy_that_makes_more_than_the_mean_is_told_of(simulated, capsys, strategy, said):
    explained(simulated("--strategy", strategy), permutations=1)
    assert (f"{strategy} may make another model" in capsys.readouterr().out) == said


def test_a_run_whose_clients_were_not_evaluated_has_no_fairness(simulated, capsys):
    said = explained(simulated("--set", "strategy.fraction_evaluate=0.0"))
    assert said["fairness"] is None
    assert "across clients: -" in capsys.readouterr().out


def test_one_permutation_has_no_error(simulated, capsys):
    said = explained(simulated(), permutations=1)
    assert {client["error"] for client in said["clients"]} == {None}
    table = capsys.readouterr().out.partition("leave one out\n")[2].splitlines()
    assert [line.split()[3] for line in table[:4]] == ["-"] * 4


def test_a_run_that_cannot_be_made_again_gives_its_reason_alone(simulated, monkeypatch):
    def ends(setup):
        with RunStore.create(setup.out, {"reason": "the moon was full"}):
            return 1

    subject = open_subject(simulated())
    monkeypatch.setattr(rerun, "run_session", ends)
    with pytest.raises(RunError, match=r"made again, the run ends with: the moon was full$"):
        rerun.run_again(subject, lambda *_: None)
