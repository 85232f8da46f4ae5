"""What a board tells about itself, from /proc and /sys; what it does not tell is left out."""

import os
import platform
import re
import shutil
import time
from pathlib import Path

from fedloom_edge.energy import PowerSensor
from fedloom_protos.v1 import link_pb2 as pb


def board() -> pb.Board:
    """Model, processor, system, cores and memory of this machine."""
    model = _text("/proc/device-tree/model").rstrip("\0") or _text("/sys/class/dmi/id/product_name")
    return pb.Board(
        model=_printable(model.strip() or platform.node(), 128),
        machine=_printable(platform.machine(), 32),
        system=_printable(f"{_distribution()} Linux {platform.release()}", 128),
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=_memory("MemTotal"),
    )


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that can be had without swapping, and within what systemd or a container allows."""
    return min(_memory("MemAvailable"), _allowed(root))


def temperature() -> float | None:
    """The hottest sensor of the processor in degrees Celsius, or None."""
    readings = [_text(str(path)) for path in Path("/sys/class/thermal").glob("thermal_zone*/temp")]
    degrees = [int(text) / 1000 for text in readings if text.strip().lstrip("-").isdecimal()]
    sane = [value for value in degrees if -40 < value < 150]
    return max(sane, default=None)


def throttled() -> bool | None:
    """Whether the board runs slower now, for heat or low voltage; None where it does not tell."""
    # Bits 0 to 3 of the firmware's word: low voltage, capped, throttled, soft limit, all of now.
    word = _text("/sys/devices/platform/soc/soc:firmware/get_throttled").strip()
    return bool(int(word, 16) & 0xF) if word else None


class Meter:
    """Reads a `Telemetry` each time it is asked; the processor's load is since the time before."""

    def __init__(self, disk: Path) -> None:
        self._disk, self._sensor = disk, PowerSensor()
        self._busy, self._all = _ticks()
        self._started = time.monotonic()

    def read(self) -> pb.Telemetry:
        """The figures of this moment."""
        telemetry = pb.Telemetry(
            memory_available_bytes=available_memory(),
            agent_rss_bytes=resident_memory(),
            disk_free_bytes=shutil.disk_usage(self._disk).free,
            uptime_seconds=time.monotonic() - self._started,
        )
        busy, everything = _ticks()
        if everything > self._all:
            telemetry.cpu_percent = 100 * (busy - self._busy) / (everything - self._all)
        self._busy, self._all = busy, everything
        if (degrees := temperature()) is not None:
            telemetry.temperature_c = degrees
        if (slow := throttled()) is not None:
            telemetry.throttled = slow
        if (watts := self._sensor.watts()) is not None:
            telemetry.power_w = watts
        return telemetry


def resident_memory() -> int:
    """This process's resident set in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _allowed(root: Path) -> int:
    """Bytes that are left of the limits of this process's control group (version 2) and those above it."""
    found = re.search(r"^0::/(.*)$", _text(str(root / "proc/self/cgroup")), re.MULTILINE)
    top = root / "sys/fs/cgroup"
    folder, least = top / (found[1] if found else ""), 1 << 62
    while folder != top and folder.is_relative_to(top):
        limits = [_text(str(folder / name)).strip() for name in ("memory.high", "memory.max")]
        used = _text(str(folder / "memory.current")).strip()
        cache = re.search(r"^inactive_file (\d+)$", _text(str(folder / "memory.stat")), re.MULTILINE)
        for limit in limits:
            if limit.isdecimal() and used.isdecimal():
                free = int(limit) - int(used) + (int(cache[1]) if cache else 0)
                least = min(least, max(free, 0))
        folder = folder.parent
    return least


def _ticks() -> tuple[int, int]:
    """(busy, all) clock ticks of all cores since the start."""
    line = _text("/proc/stat").partition("\n")[0]
    numbers = [int(part) for part in line.split()[1:9]]
    return (sum(numbers) - sum(numbers[3:5]), sum(numbers)) if len(numbers) >= 5 else (0, 0)


def _memory(key: str) -> int:
    found = re.search(rf"{key}:\s+(\d+) kB", _text("/proc/meminfo"))
    return int(found[1]) * 1024 if found else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _distribution() -> str:
    found = re.search(r'^PRETTY_NAME="?([^"\n]*)', _text("/etc/os-release"), re.MULTILINE)
    return found[1] if found else platform.system()


def _text(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def _printable(text: str, most: int) -> str:
    return "".join(character for character in text if character.isprintable())[:most]
