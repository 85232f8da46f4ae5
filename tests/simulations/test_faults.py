"""The fault kit: the same faults for the same seed, and a run that bears them."""

import pytest

from fedloom_edge.errors import InputError
from fedloom_server.store.run_store import RunStore
from fedloom_simulations.adversity.faults import Faults

OPTIONS = ("--clients", 8, "--rounds", 4, "--seed", 3)


def test_shares_are_met_and_each_client_has_one_fault_at_most():
    faults = Faults.parse("drop=0.3,slow=0.2:5s,crash=0.05,nan=0.02,stale=0.05", 1)
    drawn = [faults.of(number, 1, client) for number in range(200) for client in range(50)]
    for kind, share in faults.shares.items():
        assert drawn.count(kind) / len(drawn) == pytest.approx(share, abs=0.015)
    assert faults.delay == 5
    assert drawn == [faults.of(number, 1, client) for number in range(200) for client in range(50)]
    assert faults.of(1, 1, 0) == Faults.parse("drop=0.3,slow=0.2:5s", 1).of(1, 1, 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dorp=0.3", "did you mean 'drop'"),
        ("drop", "is no number"),
        ("drop=much", "is no number"),
        ("drop=1.2", "from 0 to 1"),
        ("drop=0.6,nan=0.6", "together"),
        ("drop=-0.1", "at least 0"),
        ("slow=0.2", "slow=SHARE:SECONDSs"),
        ("drop=0.2:5s", "slow=SHARE:SECONDSs"),
    ],
)
def test_wrong_faults_are_refused(text, message):
    with pytest.raises(InputError, match=message):
        Faults.parse(text, 0)


def told(folder, kind):
    with RunStore.open(folder) as store:
        return [event["data"]["reason"] for event in store.events(kind)]


def test_each_fault_is_told_as_what_it_is(simulate, task_file):
    faults = "drop=0.15,crash=0.15,nan=0.15,stale=0.15"
    done = simulate(task_file(), *OPTIONS, "--rounds", 6, "--faults", faults)
    assert done.code == 0, done.err
    assert {"no reply", "crashed (by --faults)"} == set(told(done.folder, "failed"))
    rules = {reason.partition(":")[0] for reason in told(done.folder, "rejected")}
    assert rules == {"finite", "stale"}


def test_a_slow_client_counts_where_its_deadline_is_long_and_not_where_it_is_short(simulate, task_file):
    slow = ("--faults", "slow=0.5:5s")
    patient = simulate(task_file(), *OPTIONS, *slow, "--deadline", 10)
    hasty = simulate(task_file(), *OPTIONS, *slow, "--deadline", 2)
    assert all(entry["clients_failed"] == 0 for entry in patient.result["rounds"])
    assert "no reply within 2 s" in told(hasty.folder, "failed")
    with RunStore.open(patient.folder) as store:
        assert max(part.seconds for part in store.client_rounds("train")) > 5


def test_faults_are_part_of_the_seed(simulate, task_file):
    runs = [simulate(task_file(), *OPTIONS, "--faults", "drop=0.3,stale=0.2") for _ in range(2)]
    assert runs[0].result["arrays_sha256"] == runs[1].result["arrays_sha256"]


def test_a_round_with_too_few_good_updates_is_repeated(simulate, task_file):
    done = simulate(
        task_file(),
        *OPTIONS,
        "--faults",
        "crash=0.6",
        "--set",
        "guard.quorum=0.5",
        "--set",
        "guard.attempts=20",
    )
    assert done.code == 0, done.err
    reasons = told(done.folder, "repeated")
    assert reasons
    assert "usable update" in reasons[0]
    assert all(entry["clients_ok"] >= 4 for entry in done.result["rounds"])


def test_a_run_without_enough_good_updates_ends_with_the_reason_and_can_be_resumed(simulate, task_file):
    from fedloom_edge.cli import main

    done = simulate(task_file(), *OPTIONS, "--faults", "crash=1.0")
    assert done.code == 1
    assert "no usable update from 8 clients; client 0: crashed" in done.err
    assert f"fedloom resume {done.folder}" in done.err
    assert len(told(done.folder, "repeated")) == 3
    assert main(["resume", str(done.folder)]) == 1  # it fails again, and nothing is lost by trying


def test_thirty_percent_of_drops_cost_little(simulate):
    whole = simulate("digits", "--clients", 10, "--rounds", 8, "--seed", 1)
    dropped = simulate("digits", "--clients", 10, "--rounds", 8, "--seed", 1, "--faults", "drop=0.3")
    assert dropped.code == 0
    assert sum(entry["clients_failed"] for entry in dropped.result["rounds"]) > 10
    assert abs(whole.result["final"]["accuracy"] - dropped.result["final"]["accuracy"]) < 0.02
