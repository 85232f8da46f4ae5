"""`--secure-aggregation` in whole runs: the model of a plain run, and nothing of a client in the folder."""

import numpy as np
import pytest

from fedloom_client.flower.records import from_record
from fedloom_client.secure.flower import masking
from fedloom_server.secure.settings import SecureSettings
from fedloom_server.store.run_store import RunStore
from fedloom_simulations.soak.schedule import Schedule, run_schedule

from .small_runs import CLIENTS, SmallRuns, equal

STATISTICS = frozenset({"1.running_mean", "1.running_var"})  # of the model of `small_runs`
SGD = ("--set", "training.optimizer=momentum", "--set", "training.lr=0.05")
SHORT = ("--clients", 5, "--rounds", 1, *SGD)
DP = ("--set", "strategy.noise_multiplier=0.1", "--set", "strategy.clipping_norm=1")


@pytest.fixture
def small(tmp_path):
    return SmallRuns(tmp_path)


def go(runs, name, *args, **plan):
    return runs.go(name, *args, mods=[masking(STATISTICS)], secure=SecureSettings(), **plan)


def test_a_run_comes_to_the_model_of_a_plain_one(simulate):
    plain, secure = (
        simulate("digits", "--clients", 6, "--rounds", 2, "--seed", 1, *extra)
        for extra in ((), ("--secure-aggregation",))
    )
    assert secure.code == 0, secure.err
    for before, now in zip(plain.result["rounds"], secure.result["rounds"], strict=True):
        assert now["accuracy"] == pytest.approx(before["accuracy"], abs=0.012)
        assert now["clients_ok"] == before["clients_ok"]
    assert secure.result["final"]["accuracy"] > 0.85
    with RunStore.open(plain.folder) as first, RunStore.open(secure.folder) as second:
        losses = [[entry.train_loss for entry in store.rounds()[1:]] for store in (first, second)]
        rows = second.client_rounds("train")
    assert losses[1] == pytest.approx(losses[0], rel=0.01)
    assert {row.loss for row in rows} == {None}  # of one client nothing is known


def test_the_model_is_that_of_a_plain_round_within_the_rounding(small):
    *_, plain = small.go("plain", rounds=1)
    *_, secure = go(small, "secure", rounds=1)
    for name, array in plain.items():
        assert secure[name] == pytest.approx(array, abs=2e-5)


def test_batch_norm_and_a_server_optimiser_go_with_it(small):
    options = {"eta": "0.01"}
    *_, plain = small.go("plain", "fedadam", rounds=1, options=options)
    *_, secure = go(small, "secure", "fedadam", rounds=1, options=options)
    for name in STATISTICS:
        assert secure[name] == pytest.approx(plain[name], abs=1e-4)
    assert not equal(plain, secure)


@pytest.mark.parametrize("strategy", ["fedavg", "feddyn", "ditto"])
def test_killed_at_any_reply_a_run_goes_on_to_the_same_bits(small, strategy):
    whole = go(small, "whole", strategy, rounds=2)
    for kill in range(1, 4 * CLIENTS, 3):
        name = f"killed-{kill}"
        assert go(small, name, strategy, rounds=2, kill=kill) is None
        again = go(small, name, strategy, rounds=2)
        assert equal(whole[-1], again[-1])
        assert whole[2] == again[2]


def test_processes_killed_at_random_instants_keep_every_law(tmp_path):
    options = ("digits", "--set", "training.epochs=1", "--rounds", "3", "--clients", "5", "--seed", "1")
    faults = ("--faults", "drop=0.15,stale=0.2", "--set", "guard.attempts=6")
    schedule = Schedule(
        "simulate", (*options, "--secure-aggregation", *faults), (0.7,), every_update=True, stateful=True
    )
    assert run_schedule(schedule, tmp_path).faults == []


def test_the_folder_of_a_run_holds_nothing_of_a_client(small):
    """Every update that a client trained is looked for in every byte that the coordinator has written."""
    seen: list[bytes] = []

    def note(message, context, call_next):
        reply = call_next(message, context)
        origin, arrays = (from_record(m.content.array_records["arrays"]) for m in (message, reply))
        changed = {name: array for name, array in arrays.items() if (array != origin[name]).any()}
        seen.extend(array.tobytes() for array in changed.values() if array.size >= 8)
        return reply

    def found(name):
        content = [path.read_bytes() for path in (small.folder / name).rglob("*") if path.is_file()]
        return sum(any(update in file for file in content) for update in seen)

    small.go("open", "fedmedian", rounds=1, kill=3, mods=[note])  # keeps every update: they are found
    assert found("open") > 0
    seen.clear()
    go_secretly = {"mods": [masking(STATISTICS), note], "secure": SecureSettings()}
    small.go("secret", rounds=2, kill=2 * CLIENTS + 1, **go_secretly)
    small.go("secret", rounds=2, **go_secretly)
    assert len(seen) > 2 * CLIENTS
    assert found("secret") == 0


def test_secrets_of_a_round_are_in_no_checkpoint(small):
    go(small, "run", rounds=2, kill=CLIENTS + 2)
    with RunStore.open(small.folder / "run") as store:
        kept = [dict(row) for row in store.execute("SELECT * FROM checkpoint")]
    assert kept
    assert "secrets" not in str(kept)


@pytest.mark.parametrize(
    "options",
    [
        *[("--strategy", name) for name in ("fedadam", "fedprox", "feddyn", "fedbn", "apfl", "fedrep")],
        ("--attack", "signflip:0.2"),
        ("--attack", "labelflip:0.3"),
        ("--faults", "drop=0.1,nan=0.1,crash=0.1,stale=0.1,slow=0.1:2s"),
        ("--backend", "vmap"),
        ("--workers", 2),
        ("--set", "secure.dropouts=0.1", "--set", "secure.clip=5"),
    ],
)
def test_these_work_together(simulate, task_file, options):
    model = "lambda: nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))"
    extra = ("--set", "strategy.proximal_mu=0.1") if "fedprox" in options else ()
    done = simulate(task_file(model=model), *SHORT, "--secure-aggregation", *options, *extra)
    assert done.code == 0, done.err
    assert done.result["rounds"][0]["clients_ok"] >= 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--strategy", "krum"), "needs each of them; fedavg"),
        (("--strategy", "rfa"), "needs each of them; fedavg"),
        (("--strategy", "scaffold"), "needs each of them; fedavg"),
        (("--strategy", "fednova"), "number of steps; feddyn"),
        (("--strategy", "dp-server-fixed:fedavg", *DP), "clips each of them; use dp-local"),
        (("--strategy", "dp-client-adaptive:fedavg", *DP[:2]), "fedavg with --set secure.clip"),
        (("--compress", "int8"), "--compress int8 makes updates that cannot be added up"),
        (("--mode", "sync"), "under --mode; leave it out"),
        (("--attack", "alie:0.2"), "use signflip, scale, noise"),
        (("--set", "guard.norms=clip"), "leave out --set guard.norms"),
        (("--clients", "2"), "take at least 3"),
        (("--set", "strategy.fraction_train=0.2"), "take at least 3"),
        (("--set", "secure.clip=0"), "clip must be from 1e-6 to 1e6"),
        (("--set", "secure.dropouts=0.6"), "dropouts from 0 to 0.45"),
    ],
)
def test_these_are_refused_by_one_sentence(simulate, options, said):
    done = simulate("digits", "--clients", 5, *SGD, "--secure-aggregation", *options)
    assert done.code == 2
    assert said in done.err
    assert done.err.count("\n") == 1
    assert not done.folder.exists()


def test_its_settings_are_refused_without_it(simulate):
    done = simulate("digits", "--set", "secure.clip=1")
    assert (done.code, "needs --secure-aggregation" in done.err) == (2, True)


def test_clients_are_still_trained_together(simulate, task_file):
    plain, secure = (simulate(task_file(), *SHORT, *extra) for extra in ((), ("--secure-aggregation",)))
    assert secure.code == 0, secure.err
    with RunStore.open(plain.folder) as first, RunStore.open(secure.folder) as second:
        assert first.facts()["backend"] == second.facts()["backend"] == "vmap"


def test_with_too_few_survivors_a_run_fails_in_words(simulate, task_file):
    done = simulate(task_file(), *SHORT, "--secure-aggregation", "--faults", "drop=0.75")
    assert done.code == 1
    with RunStore.open(done.folder) as store:
        assert "needed" in store.facts()["reason"]
        assert len(store.events("repeated")) == 3
        assert not store.events("secure")  # nothing was unmasked
        assert len(store.rounds()) == 1


def test_a_client_that_clips_is_counted_and_not_named(simulate, task_file):
    done = simulate(task_file(), *SHORT, "--secure-aggregation", "--set", "secure.clip=0.001")
    with RunStore.open(done.folder) as store:
        warnings = [event for event in store.events("warning") if "clipped" in event["data"]["reason"]]
        first, last = (store.get_arrays(entry.arrays) for entry in store.rounds())
    assert [event["client"] for event in warnings] == [None]
    assert "5 clients clipped" in warnings[0]["data"]["reason"]
    assert "1 warning; the last in round 1: 5 clients clipped" in done.out
    norm = np.sqrt(sum(np.square(last[n] - a, dtype=np.float64).sum() for n, a in first.items()))
    assert 0 < norm <= 0.00101


def test_contributions_of_single_clients_are_refused(simulate, task_file, capsys):
    from fedloom_edge.cli import main

    done = simulate(task_file(), *SHORT, "--secure-aggregation")
    assert main(["explain", str(done.folder), "--contribution"]) == 2
    assert "single updates" in capsys.readouterr().err
