"""What a device knows of its own speed: measured once, and corrected by every real round.

It is one small file that is replaced in one step; without it, or with a damaged one, the device measures
anew.
"""

import json
import threading
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedloom_client.planner.plan import Pace
from fedloom_edge.files import write_atomic

FILE = "pace.json"
_NEWEST = 0.5  # weight of the newest round against all before
_SHORT = 1 << 16  # bytes: less is mostly waiting for the other side, and says little of the bandwidth


@dataclass(frozen=True)
class Point:
    """A step of `batch` examples: its seconds, and the bytes that training took (0 where unknown)."""

    batch: int
    seconds: float
    bytes: int = 0


class PaceBook:
    """The file. Used by the thread that works and the one that sends.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._uplink, self._key, self._points = _read(path)

    @property
    def uplink(self) -> float:
        """Bytes a second; 0 where nothing was sent yet."""
        return self._uplink

    def sent(self, size: int, seconds: float) -> None:
        """An upload of `size` bytes took so long. A short one can only raise the estimate."""
        if size <= 0 or seconds <= 0:
            return
        with self._lock:
            found = size / seconds
            if size < _SHORT:
                self._uplink = max(self._uplink, found)
            else:
                self._uplink = _mixed(self._uplink, found)
            self._write()

    def points(self, key: str) -> list[Point]:
        """What is known of the steps of an artefact, by batch size; of one artefact at a time."""
        with self._lock:
            return [self._points[batch] for batch in sorted(self._points)] if key == self._key else []

    def measured(self, key: str, points: list[Point]) -> None:
        """Begin anew with what was measured of an artefact: seconds above 0."""
        with self._lock:
            self._key, self._points = key, {point.batch: point for point in points}
            self._write()

    def trained(self, key: str, batch: int, seconds: float) -> None:
        """Steps of a round took `seconds` each: other batch sizes are as much slower or faster."""
        with self._lock:
            if key != self._key or not self._points:
                self._key, self._points = key, {batch: Point(batch, seconds)}
            else:
                known = [self._points[b] for b in sorted(self._points)]
                step, example = _line([(p.batch, p.seconds) for p in known])
                expected = step + example * batch
                factor = _mixed(expected, seconds) / expected
                self._points = {p.batch: replace(p, seconds=factor * p.seconds) for p in known}
            self._write()

    def _write(self) -> None:
        points = {str(p.batch): [p.seconds, p.bytes] for p in self._points.values()}
        content = {"uplink": self._uplink, "artefact": self._key, "points": points}
        with suppress(OSError):  # a full disk: it is known until the agent ends
            write_atomic(self._path, json.dumps(content) + "\n", synced=False)


def pace_of(points: list[Point], uplink: float, *, hot: bool) -> Pace | None:
    """A line through the smallest and the largest batch; with one alone a smaller batch is no faster."""
    if not points:
        return None
    step, example = _line([(point.batch, point.seconds) for point in points])
    memory, memory_example = _line([(point.batch, point.bytes) for point in points if point.bytes])
    return Pace(
        step=step, example=example, memory=memory, memory_example=memory_example, uplink=uplink, hot=hot
    )


def _line(points: list[tuple[int, float]]) -> tuple[float, float]:
    """(constant, slope), neither negative, that no point lies above."""
    if len(points) < 2:
        return (points[0][1], 0.0) if points else (0.0, 0.0)
    (low, small), (high, large) = points[0], points[-1]
    slope = max(large - small, 0.0) / (high - low)
    return max(max(y - slope * x for x, y in points), 0.0), slope


def _mixed(before: float, newest: float) -> float:
    return newest if before <= 0 else (1 - _NEWEST) * before + _NEWEST * newest


def _read(path: Path) -> tuple[float, str, dict[int, Point]]:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        points = {
            int(batch): Point(int(batch), float(seconds), int(size))
            for batch, (seconds, size) in content["points"].items()
        }
        return float(content["uplink"]), str(content["artefact"]), points
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return 0.0, "", {}
