"""Each rule sees what it is for, and nothing in a run that goes well."""

import time

import pytest

from fedloom_server.dashboard.alerts import alerts
from fedloom_server.dashboard.database import reading
from fedloom_server.store.process_mark import process_mark
from fedloom_server.store.rows import Round
from fedloom_server.store.run_store import RunStore

NAN = float("nan")


@pytest.fixture
def kinds(tmp_path):
    """Makes a run of some rounds (as changes to good ones) and gives the kinds of its alerts."""
    stores = []

    def make(*changes, events=(), later=0.0, devices="", **facts):
        facts = {"status": "running", "process": process_mark(), **facts}
        store = RunStore.create(tmp_path / f"run-{len(stores)}", facts)
        stores.append(store)
        for number, change in enumerate(changes, start=1):
            good = {"loss": 1 / number, "train_loss": 1 / number, "federated_loss": 1 / number}
            entry = {"metric": 0.9, "clients_ok": 10, "seconds": 2.0, **good, **change}
            with store.transaction():
                store.add_round(Round(number, **entry), [])
                store.event("round", round_number=number)
        for kind, client, number in events:
            store.event(kind, client=client, round_number=number, reason="why")
        if devices:
            store._connection.executescript(devices)
        with reading(store.folder) as database:
            return [alert.kind for alert in alerts(database, time.time() + later)]

    yield make
    for store in stores:
        store.close()


GOOD = [{}] * 6


def test_a_run_that_goes_well_has_none(kinds):
    assert kinds(*GOOD) == []
    assert kinds() == []
    assert kinds(*GOOD, status="finished", later=9999) == []


def test_a_loss_that_is_no_number(kinds):
    assert kinds({}, {"loss": NAN}, {}) == ["nan-loss"]


def test_a_round_that_takes_three_times_the_median(kinds):
    assert kinds(*GOOD, later=60) == ["stalled"]
    assert kinds(*GOOD, later=9) == []
    assert kinds(*[{"seconds": 100.0}] * 5, later=60) == []
    assert kinds(*GOOD, later=60, status="paused") == []


def test_few_clients_that_take_part(kinds):
    assert kinds({}, {"clients_ok": 3, "clients_failed": 7}) == ["participation"]
    assert kinds({}, {"clients_ok": 8, "rejected": 2}) == []


def test_a_client_that_is_refused_or_fails_again_and_again(kinds):
    assert kinds(*GOOD, events=[("rejected", 4, number) for number in (1, 3, 5)]) == ["quarantine"]
    assert kinds(*GOOD, events=[("failed", 4, number) for number in (1, 3, 5)]) == ["failing"]
    assert kinds(*GOOD, events=[("failed", client, 1) for client in range(9)]) == []


def test_overfitting_and_divergence(kinds):
    rising = [{"federated_loss": 1 + number / 10} for number in range(5)]
    assert kinds(*rising) == ["overfitting"]
    assert kinds({"loss": 0.1}, *[{"loss": 0.5 + number} for number in range(4)]) == ["divergence"]
    assert kinds(*[{"federated_loss": 1 - number / 10} for number in range(5)]) == []


def test_a_run_that_failed_or_crashed(kinds):
    assert kinds(*GOOD, status="failed", reason="no usable update") == ["failed"]
    gone = {**process_mark(), "began": 1}
    assert kinds(*GOOD, process=gone) == ["crashed"]
    assert kinds(*GOOD, process={**gone, "host": "another machine"}) == []


def test_hot_and_throttled_devices(kinds):
    tables = (
        "INSERT INTO device VALUES ('pi-a', 0, '', 'Pi 4', '', '', 4, 0, '', 'onnx', 1, 0, '', ''),"
        " ('pi-b', 1, '', 'Pi 5', '', '', 4, 0, '', 'onnx', 1, 0, '', ''),"
        " ('pi-c', 2, '', 'Pi 5', '', '', 4, 0, '', 'onnx', 1, 0, '', '');"
        "INSERT INTO device_sample (device, time, temperature, throttled)"
        " VALUES ('pi-a', 1, 20, 0), ('pi-a', 2, 85, 0), ('pi-b', 1, 90, 0),"
        " ('pi-b', 2, 50, 0), ('pi-c', 2, 60, 1);"
    )
    assert kinds(*GOOD, devices=tables) == ["hot", "throttled"]
