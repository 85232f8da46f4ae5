"""Energy of a stretch of work: measured where the machine tells, estimated (and said so) where it is known.

What tells, the most exact first: RAPL's counters of a PC, a power sensor on the board (INA2xx, under
hwmon), the power management chip of a Raspberry Pi 5, a battery that is discharging. A board without
any is estimated by its idle and busy power where somebody has published both; any other is left out.
"""

import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

SAMPLE_SECONDS = 1.0
WH = 3600.0
"""Joules of a watt-hour."""
JOULES, ESTIMATED = "energy-joules", "energy-estimated"
"""Names of a device's figures: what a work took, and 1 where that is an estimate."""
SILENT = "energy-silent"
"""Name of a gateway's figure: how many devices of its site told nothing of a work."""

# Idle and busy (all cores) watts of a bare board by what its model begins with; where two begin alike the
# longer comes first. Zero 2 W: idle CNX Software (2021), busy by the difference that A. Jacobs (2021) found
# to the Zero W; 4: chipwired.com, at the supply; 3: pidramble.com.
_BOARDS = (
    ("Raspberry Pi Zero 2", 0.6, 2.6),
    ("Raspberry Pi 3 Model B Plus", 1.9, 5.1),
    ("Raspberry Pi 3 Model B", 1.4, 3.7),
    ("Raspberry Pi 4 Model B", 2.3, 5.3),
)
# Names under hwmon of sensors that are put in a board's supply, as on UPS boards: INA209 to INA260. Others
# tell the power of a part: a graphics card (amdgpu), an NVMe, one rail of several (ina3221).
_SUPPLY = "ina2"
_RAIL = re.compile(r"(\w+)_([AV])\b[^=\n]*=([0-9.]+)")


@dataclass(frozen=True)
class Energy:
    """What a stretch of work took, of the whole board.

    Attributes:
        joules: of it.
        estimated: by the board's published power and the processor's load, not by a sensor.
        source: rapl, sensor, pmic, battery or board.
    """

    joules: float
    estimated: bool
    source: str


def vcgencmd_rails() -> str:
    """What the firmware of a Raspberry Pi 5 says of its power rails; empty on other machines."""
    tool = shutil.which("vcgencmd")
    if tool is None:
        return ""
    try:
        done = subprocess.run([tool, "pmic_read_adc"], capture_output=True, text=True, timeout=2)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


class PowerSensor:
    """The first sensor of the machine that tells its power now.

    Args:
        root: of the file system, another in tests.
        rails: gives the text of `vcgencmd pmic_read_adc`.

    Attributes:
        source: sensor, pmic or battery; empty if nothing tells.
    """

    def __init__(self, root: Path = Path("/"), rails: Callable[[], str] = vcgencmd_rails) -> None:
        readers: dict[str, Callable[[], float | None]] = {
            "sensor": lambda: _hwmon(root),
            "pmic": lambda: _pmic(rails()),
            "battery": lambda: _battery(root),
        }
        self.source = next((name for name, read in readers.items() if read() is not None), "")
        self._read = readers.get(self.source)

    def watts(self) -> float | None:
        """Power now, or None."""
        return None if self._read is None else self._read()


class EnergyMeter:
    """Measures the energy of what is done inside `with`.

    Args:
        root: of the file system, another in tests.
        sensor: what tells the power; found by itself.

    Attributes:
        energy: after `with`; None where the machine does not tell and its board is not known.
    """

    def __init__(self, root: Path = Path("/"), sensor: PowerSensor | None = None) -> None:
        self._root, self._sensor = root, sensor or PowerSensor(root)
        self.energy: Energy | None = None

    def __enter__(self) -> Self:
        self._began, self._ticks, self._counters = time.monotonic(), _ticks(self._root), _rapl(self._root)
        self._joules, self._last = 0.0, (self._began, self._sensor.watts())
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        if not self._counters and self._sensor.source:
            self._thread = threading.Thread(target=self._sample, name="energy", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()
            self._add()
            self.energy = Energy(self._joules, estimated=False, source=self._sensor.source)
        elif self._counters:
            now = _rapl(self._root)
            moved = sum(_passed(before, now[name]) for name, before in self._counters.items() if name in now)
            self.energy = Energy(moved / 1e6, estimated=False, source="rapl")
        else:
            self.energy = self._estimate()

    def _sample(self) -> None:
        while not self._over.wait(SAMPLE_SECONDS):
            self._add()

    def _add(self) -> None:
        """Integrate the power since the last sample (trapezoids)."""
        (then, before), now, watts = self._last, time.monotonic(), self._sensor.watts()
        known = [value for value in (before, watts) if value is not None]
        if known:
            self._joules += (now - then) * sum(known) / len(known)
        self._last = (now, watts)

    def _estimate(self) -> Energy | None:
        model = _text(self._root / "proc/device-tree/model")
        found = next((power for name, *power in _BOARDS if model.startswith(name)), None)
        if found is None:
            return None
        busy, everything = (now - then for now, then in zip(_ticks(self._root), self._ticks, strict=True))
        load = busy / everything if everything > 0 else 0.0
        idle, full = found
        watts = idle + load * (full - idle)
        return Energy(watts * (time.monotonic() - self._began), estimated=True, source="board")


def _rapl(root: Path) -> dict[str, tuple[int, int]]:
    """(microjoules, where the counter begins anew) of the processors' and memories' counters, if readable."""
    found = {}
    for path in (root / "sys/class/powercap").glob("intel-rapl:*"):
        # Kernels since 5.10 let only root read it.
        energy, most = _number(path / "energy_uj"), _number(path / "max_energy_range_uj")
        if _text(path / "name").startswith(("package", "dram")) and energy is not None:
            found[path.name] = (energy, most or 0)
    return found


def _passed(before: tuple[int, int], now: tuple[int, int]) -> int:
    """Microjoules between two readings, of a counter that may have begun anew once."""
    moved = now[0] - before[0]
    return moved if moved >= 0 else moved + before[1]


def _hwmon(root: Path) -> float | None:
    """Watts by a sensor in the board's supply, or by its bus voltage and current (an INA219 has both)."""
    for folder in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        if not _text(folder / "name").startswith(_SUPPLY):
            continue
        if (microwatts := _number(folder / "power1_input")) is not None:
            return microwatts / 1e6
        current, volts = _number(folder / "curr1_input"), _number(folder / "in1_input")  # mA, mV
        if current is not None and volts is not None:
            return current * volts / 1e6
    return None


def _pmic(text: str) -> float | None:
    """Watts of the rails that have both a current and a voltage; what USB devices take is not in them."""
    rails: dict[str, dict[str, float]] = {}
    for name, kind, value in _RAIL.findall(text):
        rails.setdefault(name, {})[kind] = float(value)
    whole = [rail["A"] * rail["V"] for rail in rails.values() if len(rail) == 2]
    return sum(whole) if whole else None


def _battery(root: Path) -> float | None:
    """Watts that a battery gives; on mains it says nothing of the machine's."""
    for folder in sorted((root / "sys/class/power_supply").glob("*")):
        if _text(folder / "status").strip() != "Discharging":
            continue
        if (microwatts := _number(folder / "power_now")) is not None:
            return abs(microwatts) / 1e6
        current, volts = _number(folder / "current_now"), _number(folder / "voltage_now")  # µA, µV
        if current is not None and volts is not None:
            return abs(current) * volts / 1e12
    return None


def _ticks(root: Path) -> tuple[int, int]:
    """(busy, all) clock ticks of all cores since the start."""
    numbers = [int(part) for part in _text(root / "proc/stat").partition("\n")[0].split()[1:9]]
    return (sum(numbers) - sum(numbers[3:5]), sum(numbers)) if len(numbers) >= 5 else (0, 0)


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.lstrip("-").isdecimal() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
