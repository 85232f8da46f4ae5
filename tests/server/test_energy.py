"""What a run took in energy, as result.json and the report tell it."""

import json
from dataclasses import replace

import pytest

from fedloom_edge.energy import Energy
from fedloom_server import energy
from fedloom_server.report.results import write_result
from fedloom_server.store.rows import ClientRound, Round
from fedloom_server.store.run_store import RunStore

FACTS = {"metric": "accuracy", "versions": {}}


def row(client, phase="train", **metrics):
    return ClientRound(1, client, phase, "ok", "", metrics=metrics)


@pytest.fixture
def store(tmp_path):
    with RunStore.create(tmp_path / "run", FACTS) as made:
        yield made


def fill(store, *accuracies):
    with store.transaction():
        for number, accuracy in enumerate(accuracies):
            store.add_round(Round(number, 1.0, accuracy, {"accuracy": accuracy}, arrays="0"), [])


def told(store, number, joules, *, estimated=False):
    with store.transaction():
        data = {"joules": joules, "estimated": estimated, "devices": 2}
        store.event("energy", round_number=number, **data)


def test_a_round_is_the_sum_of_its_devices_and_an_estimate_where_one_of_them_is():
    rows = [
        row(0, **{"energy-joules": 30.0, "energy-estimated": 0.0}),
        row(1, **{"energy-joules": 12.0, "energy-estimated": 1.0}),
        row(0, "evaluate", **{"energy-joules": 3.0, "energy-estimated": 0.0}),
        row(2),
    ]
    assert energy.of_devices(rows) == {"joules": 45.0, "estimated": True, "devices": 2}
    assert energy.of_devices([row(2)]) == {}


@pytest.mark.parametrize("joules", [-1.0, float("nan"), float("inf"), 1e300])
def test_a_device_cannot_spoil_the_sum(joules):
    assert energy.of_devices([row(0, **{"energy-joules": joules})]) == {}


def test_result_json_has_watt_hours_a_round_a_run_and_a_point_of_accuracy(store):
    fill(store, 0.10, 0.50, 0.90)
    told(store, 1, 7200.0)
    told(store, 2, 3600.0)
    result = write_result(store)
    assert [entry["energy_wh"] for entry in result["rounds"]] == [2.0, 1.0]
    assert (result["energy_wh"], result["energy_estimated"]) == (3.0, False)
    assert result["wh_per_accuracy_point"] == pytest.approx(3 / 80)
    assert json.loads((store.folder / "result.json").read_text())["energy_wh"] == 3.0


def test_estimates_are_marked_and_a_point_that_was_not_gained_has_no_price(store):
    fill(store, 0.50, 0.40)
    told(store, 1, 360.0, estimated=True)
    found = energy.run_energy(store)
    assert (found["energy_estimated"], found["wh_per_accuracy_point"]) == (True, None)
    assert energy.energy_text(found) == "energy: 0.1 Wh (estimated by the boards' published power)"


def test_energy_of_some_of_the_devices_says_so_and_gives_no_price(store):
    joules = {"energy-joules": 3600.0, "energy-estimated": 0.0}
    with store.transaction():
        store.add_round(Round(0, 1.0, 0.1, arrays="0"), [])
        store.add_round(
            Round(1, 1.0, 0.9, arrays="0"), [row(k, **joules if k == 4 else {}) for k in range(10)]
        )
    told(store, 1, 3600.0)
    found = write_result(store)
    assert (found["energy_wh"], found["energy_devices"], found["working_devices"]) == (1.0, 1, 10)
    assert (found["energy_complete"], found["wh_per_accuracy_point"]) == (False, None)
    assert found["rounds"][0]["energy_devices"] == 2  # as the round's event has it
    assert energy.energy_text(found) == "energy: 1 Wh (measured, of 1 of 10 devices)"


@pytest.mark.parametrize(
    "second",
    [row(0, "evaluate"), row(0, "evaluate", **{"energy-joules": 1.0, "energy-silent": 2.0})],
    ids=["masked work", "silent device of a site"],
)
def test_energy_of_a_part_of_the_work_says_so_and_gives_no_price(store, second):
    with store.transaction():
        store.add_round(Round(0, 1.0, 0.1, arrays="0"), [])
        store.add_round(Round(1, 1.0, 0.9, arrays="0"), [row(0, **{"energy-joules": 3600.0}), second])
    told(store, 1, 3600.0)
    found = energy.run_energy(store)
    assert found["wh_per_accuracy_point"] is None
    assert energy.energy_text(found) == "energy: 1 Wh (measured, of a part of the devices' work)"


def test_without_a_meter_nothing_is_made_up(store):
    fill(store, 0.1, 0.9)
    result = write_result(store)
    assert (result["energy_wh"], result["energy_estimated"]) == (None, None)
    assert "not known" in energy.energy_text(energy.run_energy(store))


def test_a_machine_that_simulates_adds_up_what_it_took_though_it_was_interrupted(store, monkeypatch):
    spent = Energy(1800.0, estimated=False, source="rapl")

    class Metered(energy.EnergyMeter):
        def __exit__(self, *error):
            super().__exit__(*error)
            self.energy = spent

    monkeypatch.setattr(energy, "EnergyMeter", Metered)
    with pytest.raises(KeyboardInterrupt), energy.of_machine(store):
        raise KeyboardInterrupt
    assert energy.run_energy(store)["energy_wh"] == 0.5
    spent = replace(spent, joules=3600.0)
    with energy.of_machine(store):
        pass
    assert energy.run_energy(store)["energy_wh"] == 1.5
