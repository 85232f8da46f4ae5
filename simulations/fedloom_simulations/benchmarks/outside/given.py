"""What a script here is given: the workload that fedloom runs, as a file of arrays; what it prints: laps."""

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass
class Given:
    """Arrays and settings of a workload.

    Attributes:
        x, y: training examples (N, ...) and classes (N,).
        parts: each client's indices.
        test_x, test_y: held out.
        settings: task, rounds, cohort, lr, momentum, batch_size, epochs.
    """

    x: Any
    y: Any
    parts: list[Any]
    test_x: Any
    test_y: Any
    settings: dict[str, Any]

    @classmethod
    def read(cls) -> "Given":
        """From the file named by the first argument."""
        with np.load(sys.argv[1]) as archive:
            file = dict(archive)
        Path(sys.argv[1]).unlink()
        parts = np.split(file["order"], file["ends"][:-1])
        return cls(
            file["x"], file["y"], parts, file["test_x"], file["test_y"], json.loads(str(file["settings"]))
        )


class Laps:
    """Wall and processor seconds of each round in this process."""

    def __init__(self) -> None:
        self.laps: list[tuple[float, float]] = []
        self._began = time.perf_counter(), time.process_time()

    def start(self) -> None:
        """A round begins."""
        self._began = time.perf_counter(), time.process_time()

    def lap(self) -> None:
        """A round ends, and the next begins."""
        wall, cpu = self._began
        self.laps.append((time.perf_counter() - wall, time.process_time() - cpu))
        self.start()

    def print(self) -> None:
        """Print all of them as the last line."""
        sys.stdout.write("\n" + json.dumps(self.laps) + "\n")
