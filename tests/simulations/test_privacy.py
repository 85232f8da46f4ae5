"""A private run: its ledger, its budget, and both after a kill, a damaged checkpoint and a resume."""

import shutil

import pytest

from fedloom_edge.cli import main
from fedloom_edge.errors import InputError
from fedloom_server.privacy.accountant import epsilon
from fedloom_server.privacy.budget import Budget
from fedloom_server.privacy.ledger import told_spent
from fedloom_server.store.run_store import RunStore

from .small_runs import TASK, SmallRuns, equal

CENTRAL = {"noise_multiplier": "2", "clipping_norm": "1", "fraction_train": "0.6"}
LOCAL = {"noise_multiplier": "4", "clipping_norm": "1"}
WITHOUT_BATCH_NORM = TASK.replace("nn.BatchNorm1d(8)", "nn.GroupNorm(2, 8)").replace(
    "epochs=2)", "epochs=2, dp_noise=1.0, dp_clip=0.5)"
)
RUNS = {
    "central": (TASK, "dp-server-fixed", CENTRAL),
    "adaptive": (TASK, "dp-client-adaptive", {"noise_multiplier": "0.3"}),
    "optimiser": (WITHOUT_BATCH_NORM, "dp-server-fixed:fedadam", CENTRAL),
    "local": (TASK, "dp-local:fedadam", LOCAL),
    "samples": (WITHOUT_BATCH_NORM, "fedavg", {}),
}


def ledger(folder):
    """Every row, but for the keys of secret noise."""
    with RunStore.open(folder) as store:
        return [tuple(row) for row in store.execute("SELECT * FROM privacy")]


def go(folder, name, kind, **plan):
    task, strategy, options = RUNS[kind]
    runs = SmallRuns(folder, task)
    return runs.go(name, strategy, options=options, **plan), runs


@pytest.mark.parametrize("kind", RUNS)
def test_a_killed_and_resumed_run_has_the_same_ledger(tmp_path, kind):
    (rounds, _, _, arrays), _ = go(tmp_path, "whole", kind)
    expected = ledger(tmp_path / "whole")
    assert expected
    assert rounds[-1].metrics["epsilon"] > rounds[1].metrics["epsilon"] > rounds[0].metrics["epsilon"] == 0
    for kill in (1, 4, 7, 12):  # before anything, in training, in evaluation, in a later round
        found, _ = go(tmp_path, f"killed-{kill}", kind, kill=kill)
        assert found is None
        again, _ = go(tmp_path, f"killed-{kill}", kind)
        assert ledger(tmp_path / f"killed-{kill}") == expected
        assert equal(again[3], arrays)
        assert [r.metrics["epsilon"] for r in again[0]] == [r.metrics["epsilon"] for r in rounds]


@pytest.mark.parametrize("kind", ["central", "local", "samples"])
def test_what_a_damaged_checkpoint_undoes_stays_in_the_ledger(tmp_path, kind):
    (rounds, *_), _ = go(tmp_path, "whole", kind)
    folder = tmp_path / "whole"
    for path in (folder / "arrays").glob(f"{rounds[-1].arrays}*"):
        path.unlink()
    before = ledger(folder)
    (again, *_), _ = go(tmp_path, "whole", kind)
    assert ledger(folder) == before  # released again, bit for bit: that tells nobody anything new
    assert again[-1].metrics["epsilon"] == rounds[-1].metrics["epsilon"]


@pytest.mark.parametrize("kind", ["local", "samples"])
def test_secret_noise_asked_for_again_costs_again(tmp_path, kind):
    (whole, *_), _ = go(tmp_path, "whole", kind, secret=True)
    assert go(tmp_path, "killed", kind, secret=True, kill=2)[0] is None
    (again, *_), _ = go(tmp_path, "killed", kind, secret=True)
    assert len(ledger(tmp_path / "whole")) == 3 * 4
    assert len(ledger(tmp_path / "killed")) == 3 * 4 + 3  # one had answered
    assert again[-1].metrics["epsilon"] > whole[-1].metrics["epsilon"]


def test_what_is_told_at_the_end_has_what_an_unfinished_round_released(tmp_path):
    (whole, *_), _ = go(tmp_path, "whole", "local", secret=True)
    assert go(tmp_path, "killed", "local", secret=True, kill=10)[0] is None  # 8 replies a round
    with RunStore.open(tmp_path / "killed") as store:
        told = store.facts()["privacy"]
        assert len(store.rounds()) == 2
        assert told_spent(store, told) == {"epsilon": whole[2].metrics["epsilon"]}
    with RunStore.open(tmp_path / "whole") as store:
        assert told_spent(store, told) == {"epsilon": whole[-1].metrics["epsilon"]}


def test_secret_noise_on_the_mean_is_never_drawn_again_for_a_round(tmp_path):
    """Killed in evaluation, when clients have seen the new arrays: they are kept, and cost once."""
    assert go(tmp_path, "killed", "adaptive", secret=True, kill=6)[0] is None  # of 4 + 4 replies a round
    released = ledger(tmp_path / "killed")
    assert len(released) == 1
    with RunStore.open(tmp_path / "killed") as store:
        [row] = store.execute("SELECT state FROM checkpoint WHERE open = 1")
    assert released[0][3] in row["state"]
    (rounds, *_), _ = go(tmp_path, "killed", "adaptive", secret=True)
    after = ledger(tmp_path / "killed")
    assert len(after) == 3
    assert released[0] in after
    assert rounds[1].arrays == released[0][3]


@pytest.mark.parametrize("kind", ["central", "local", "samples"])
def test_a_run_ends_before_the_round_that_would_pass_its_budget(tmp_path, kind):
    (rounds, *_), _ = go(tmp_path, "free", kind)
    limit = (rounds[2].metrics["epsilon"] + rounds[3].metrics["epsilon"]) / 2
    (found, *_), runs = go(tmp_path, "bound", kind, privacy=Budget(limit), rounds=50)
    if kind == "central":
        assert found[-1].number == 2
    assert found[-1].metrics["epsilon"] <= limit
    assert f"round {found[-1].number + 1} would spend" in runs.ended
    with RunStore.open(tmp_path / "bound") as store:
        assert store.events("early-stop")[0]["data"]["reason"] == runs.ended
    again, runs = go(tmp_path, "bound", kind, privacy=Budget(limit), rounds=50)
    assert len(again[0]) == len(found)
    assert "would spend" in runs.ended


def test_a_budget_that_no_round_fits_is_refused(tmp_path):
    with pytest.raises(InputError, match="round 1 alone would spend epsilon"):
        go(tmp_path, "none", "central", privacy=Budget(0.01))
    assert ledger(tmp_path / "none") == []


def test_the_ledger_says_what_the_accountant_is_asked(tmp_path):
    (rounds, *_), _ = go(tmp_path, "run", "samples")
    with RunStore.open(tmp_path / "run") as store:
        sizes = {client.id: client.examples for client in store.clients()}
        assert store.facts()["privacy"]["unit"] == "sample"
    rows = ledger(tmp_path / "run")
    assert {row[:4] for row in rows} == {("sample", n, c, "") for n in (1, 2, 3) for c in range(4)}
    costs = {}
    for _, _, client, _, noise, rate, steps in rows:
        assert (noise, rate) == (1.0, min(10 / sizes[client], 1.0))
        assert steps == 2 * -(-sizes[client] // 10)
        costs[client] = ((noise, rate, 3 * steps),)
    assert rounds[-1].metrics["epsilon"] == max(epsilon(part, 1e-5) for part in costs.values())


def test_both_units_are_told_apart(tmp_path):
    (rounds, *_), _ = go(tmp_path, "run", "optimiser")
    assert {row[0] for row in ledger(tmp_path / "run")} == {"client", "sample"}
    assert rounds[-1].metrics["epsilon"] != rounds[-1].metrics["sample_epsilon"] > 0


def test_a_run_from_before_the_ledger_is_not_gone_on_with(tmp_path):
    go(tmp_path, "run", "central")
    with RunStore.reopen(tmp_path / "run") as store:
        store.execute("DROP TABLE privacy")
        store.execute("DELETE FROM run WHERE key = 'privacy'")
    with pytest.raises(InputError, match="before privacy was accounted for"):
        go(tmp_path, "run", "central", rounds=5)


NOISE = ("--set", "strategy.noise_multiplier=2", "--set", "strategy.clipping_norm=1")


def test_a_person_sees_epsilon_and_why_a_run_ended(simulate, task_file):
    done = simulate(
        task_file(),
        "--strategy",
        "dp-server-fixed",
        *NOISE,
        "--privacy",
        "epsilon=5,delta=1e-4",
        "--rounds",
        99,
    )
    assert done.code == 0, done.err
    result = done.result
    assert result["status"] == "finished"
    assert "would spend epsilon" in result["reason"]
    assert result["privacy"]["budget"] == 5
    assert result["privacy"]["delta"] == 1e-4
    spent = [entry["epsilon"] for entry in result["rounds"]]
    assert spent == sorted(spent)
    assert spent[-1] == result["final"]["epsilon"] <= 5
    for said in ("epsilon", "ended early: round", "privacy spent, for each client", "of 5, delta 0.0001"):
        assert said in done.out
    copy = shutil.copytree(done.folder, done.folder.with_name("copy"))
    assert main(["resume", str(copy)]) == 0
    assert ledger(copy) == ledger(done.folder)


def test_figures_outside_the_guarantee_are_named(simulate, task_file):
    path = task_file(extra="preprocess=Standardize()", body="from fedloom_client import Standardize")
    done = simulate(path, "--strategy", "dp-server-fixed", *NOISE, "--rounds", 1, "--early-stop", "loss:3")
    assert "preprocessing's constants" in done.err
    assert "--early-stop looks at" in done.err


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ("--set", "training.dp_noise=1", "--set", "training.dp_clip=1"),
        ("--strategy", "dp-client-adaptive", "--set", "strategy.noise_multiplier=0.1"),
        ("--strategy", "dp-local:fedadam", *NOISE),
    ],
)
def test_every_engine_draws_the_same_noise_and_the_same_clients(simulate, task_file, options):
    drawn = ("--set", "strategy.fraction_train=0.7", "--rounds", 2)
    found = [simulate(task_file(), *options, *drawn, "--engine", engine) for engine in ("inline", "ray")]
    assert found[0].result["arrays_sha256"] == found[1].result["arrays_sha256"]
    assert ledger(found[0].folder) == ledger(found[1].folder)
