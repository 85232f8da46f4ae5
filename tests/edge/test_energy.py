"""Energy by what a machine tells, from trees that look like the machines' own."""

import time
from pathlib import Path

import pytest

from fedloom_edge.energy import EnergyMeter, PowerSensor

_RAILS = """   VDD_CORE_A current(7)=2.00000000A
   VDD_CORE_V volt(15)=0.75000000V
   3V3_SYS_A current(1)=0.10000000A
      3V3_SYS_V volt(9)=3.30000000V
   EXT5V_V volt(24)=5.15000000V
"""


def _write(root: Path, files: dict[str, object]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")


def _none() -> str:
    return ""


def test_rapl_counts_packages_and_memory_and_a_counter_that_begins_anew(tmp_path: Path) -> None:
    folder = "sys/class/powercap"
    _write(
        tmp_path,
        {
            f"{folder}/intel-rapl:0/name": "package-0",
            f"{folder}/intel-rapl:0/energy_uj": 9_000_000,
            f"{folder}/intel-rapl:0/max_energy_range_uj": 10_000_000,
            f"{folder}/intel-rapl:0:0/name": "core",
            f"{folder}/intel-rapl:0:0/energy_uj": 1,
            f"{folder}/intel-rapl:0:1/name": "dram",
            f"{folder}/intel-rapl:0:1/energy_uj": 500_000,
        },
    )
    with EnergyMeter(tmp_path, PowerSensor(tmp_path, _none)) as meter:
        _write(
            tmp_path,
            {
                f"{folder}/intel-rapl:0/energy_uj": 2_000_000,
                f"{folder}/intel-rapl:0:0/energy_uj": 3_000_000,
                f"{folder}/intel-rapl:0:1/energy_uj": 750_000,
            },
        )
    assert meter.energy is not None
    assert meter.energy.joules == pytest.approx(3.25)
    assert (meter.energy.estimated, meter.energy.source) == (False, "rapl")


@pytest.mark.parametrize(
    ("files", "source", "watts"),
    [
        (
            {"sys/class/hwmon/hwmon2/name": "ina226", "sys/class/hwmon/hwmon2/power1_input": 4_200_000},
            "sensor",
            4.2,
        ),
        (
            {
                "sys/class/hwmon/hwmon0/name": "ina219",
                "sys/class/hwmon/hwmon0/curr1_input": 800,
                "sys/class/hwmon/hwmon0/in1_input": 5100,
            },
            "sensor",
            4.08,
        ),
        (
            {
                "sys/class/power_supply/BAT0/status": "Discharging",
                "sys/class/power_supply/BAT0/current_now": 1_500_000,
                "sys/class/power_supply/BAT0/voltage_now": 12_000_000,
            },
            "battery",
            18.0,
        ),
        (
            {
                "sys/class/power_supply/BAT0/status": "Charging",
                "sys/class/power_supply/BAT0/power_now": 9_000_000,
            },
            "",
            None,
        ),
        ({"sys/class/hwmon/hwmon0/temp1_input": 50_000}, "", None),
    ],
)
def test_power_is_read_from_what_the_board_has(
    tmp_path: Path, files: dict[str, object], source: str, watts: float | None
) -> None:
    _write(tmp_path, files)
    sensor = PowerSensor(tmp_path, _none)
    assert sensor.source == source
    assert sensor.watts() == (watts if watts is None else pytest.approx(watts))


@pytest.mark.parametrize("name", ["amdgpu", "nvme", "ina3221", "corsairpsu", ""])
def test_what_a_part_of_the_machine_takes_is_not_the_boards(tmp_path: Path, name: str) -> None:
    folder = "sys/class/hwmon/hwmon0"
    _write(tmp_path, {f"{folder}/name": name, f"{folder}/power1_input": 90_000_000})
    assert PowerSensor(tmp_path, _none).watts() is None
    _write(tmp_path, {f"{folder}/curr1_input": 800, f"{folder}/in1_input": 5100})
    assert PowerSensor(tmp_path, _none).source == ""
    board = "sys/class/hwmon/hwmon1"
    _write(tmp_path, {f"{board}/name": "ina231", f"{board}/power1_input": 3_000_000})
    assert PowerSensor(tmp_path, _none).watts() == 3.0


def test_the_rails_of_a_pi_5_are_summed_where_current_and_voltage_are_known(tmp_path: Path) -> None:
    sensor = PowerSensor(tmp_path, lambda: _RAILS)
    assert sensor.source == "pmic"
    assert sensor.watts() == pytest.approx(2 * 0.75 + 0.1 * 3.3)


def test_a_sensors_power_is_integrated_over_time(tmp_path: Path) -> None:
    folder = "sys/class/hwmon/hwmon0"
    _write(tmp_path, {f"{folder}/name": "ina260", f"{folder}/power1_input": 5_000_000})
    began = time.monotonic()
    with EnergyMeter(tmp_path) as meter:
        inside = time.monotonic()
        time.sleep(0.05)
        least = time.monotonic() - inside
    assert meter.energy is not None
    assert not meter.energy.estimated
    assert 5 * least <= meter.energy.joules <= 5 * (time.monotonic() - began)


def test_a_known_board_without_a_sensor_is_estimated_by_its_load_and_says_so(tmp_path: Path) -> None:
    _write(
        tmp_path,
        {"proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4", "proc/stat": "cpu 0 0 0 100 0 0 0 0"},
    )
    began = time.monotonic()
    with EnergyMeter(tmp_path, PowerSensor(tmp_path, _none)) as meter:
        inside = time.monotonic()
        _write(tmp_path, {"proc/stat": "cpu 50 0 0 150 0 0 0 0"})  # half busy
        time.sleep(0.05)
        least = time.monotonic() - inside
    assert meter.energy is not None
    assert meter.energy.estimated
    assert 3.8 * least <= meter.energy.joules <= 3.8 * (time.monotonic() - began)


def test_an_unknown_machine_says_nothing_rather_than_a_guess(tmp_path: Path) -> None:
    _write(tmp_path, {"proc/stat": "cpu 1 0 0 1 0 0 0 0"})
    with EnergyMeter(tmp_path, PowerSensor(tmp_path, _none)) as meter:
        pass
    assert meter.energy is None
