"""What a device knows of its own speed: measured once, and corrected by every real round.

It is one small file that is replaced in one step; without it, or with a damaged one, the device measures
anew.
"""

import json
import threading
from contextlib import suppress
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

from fedloom_client.planner.plan import Pace
from fedloom_edge.files import write_atomic

FILE = "pace.json"
_NEWEST = 0.5  # weight of the newest round against all before
_SHORT = 1 << 16  # bytes: less is mostly waiting for the other side, and says little of the bandwidth


@dataclass(frozen=True)
class Point:
    """A step of `batch` examples: its seconds, and the bytes that training took (0 where unknown).

    Infinite seconds: it did not fit into so many bytes.
    """

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
        self._uplink, self._key, self._parts = _read(path)

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

    def points(self, key: str, part: str) -> list[Point]:
        """What is known of the steps of an artefact's part, by batch size; of one artefact at a time."""
        with self._lock:
            return self._parts.get(part, []) if key == self._key else []

    def measured(self, key: str, part: str, points: list[Point]) -> None:
        """What was measured of a part, anew: seconds above 0, the smallest batch first."""
        with self._lock:
            self._parts = {**(self._parts if key == self._key else {}), part: points}
            self._key = key
            self._write()

    def trained(self, key: str, part: str, batch: int, seconds: float) -> None:
        """Steps of a round took `seconds` each: other batch sizes and parts are as much slower or faster.

        A step that takes longer may be a slower board, or what a round does beside the graph, which is the
        same for larger parts. They are thought to be no slower than both allow: what is thought too fast is
        tried and put right, what is thought too slow would never be.
        """
        with self._lock:
            known = self._parts.get(part) if key == self._key else None
            if not known:
                self._key, self._parts = key, {part: [Point(batch, seconds)]}
            else:
                step, example = _line([(p.batch, p.seconds) for p in known])
                expected = step + example * batch
                factor = _mixed(expected, seconds) / expected
                more = (factor - 1) * expected

                def now(each: str, p: Point) -> Point:
                    slower = factor * p.seconds
                    other = each != part and factor > 1
                    return replace(p, seconds=min(slower, p.seconds + more) if other else slower)

                self._parts = {each: [now(each, p) for p in ps] for each, ps in self._parts.items()}
            self._write()

    def _write(self) -> None:
        parts = {part: [astuple(p) for p in points] for part, points in self._parts.items()}
        content = {"uplink": self._uplink, "artefact": self._key, "parts": parts}
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


def _read(path: Path) -> tuple[float, str, dict[str, list[Point]]]:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        parts = {
            part: [Point(int(batch), float(seconds), int(size)) for batch, seconds, size in points]
            for part, points in content["parts"].items()
        }
        return float(content["uplink"]), str(content["artefact"]), parts
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return 0.0, "", {}
