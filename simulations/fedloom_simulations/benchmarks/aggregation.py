"""The exact mean against a plain weighted sum in numpy, over the same updates.

`python -m fedloom_simulations.benchmarks.aggregation` folds updates as they come, one at a time and in a
stack, and prints the table of docs/benchmarks.md. Everything is on one thread.
"""

import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedloom_server.strategies.exact_mean import ExactMean

CLIENTS, RUNS = 50, 7
Array = NDArray[np.float32]


def plain(reference: Array, updates: Array, weights: list[int]) -> Any:
    """What numpy does at best, without a promise about the order: float64 += weight * float32."""
    total, term = np.zeros(reference.shape), np.empty(reference.shape)
    for update, weight in zip(updates, weights, strict=True):
        np.multiply(update, weight, out=term)
        total += term
    return total / sum(weights)


def one_by_one(reference: Array, updates: Array, weights: list[int]) -> Any:
    """`ExactMean.add` for each update."""
    mean = ExactMean({"w": reference}, max(weights))
    for update, weight in zip(updates, weights, strict=True):
        mean.add({"w": update}, weight)
    return mean.mean()["w"]


def stacked(reference: Array, updates: Array, weights: list[int]) -> Any:
    """`ExactMean.add_stack` for all."""
    mean = ExactMean({"w": reference}, max(weights))
    mean.add_stack({"w": updates}, weights)
    return mean.mean()["w"]


SIDES: dict[str, Callable[[Array, Array, list[int]], Any]] = {
    "numpy, weighted sum": plain,
    "exact mean, one by one": one_by_one,
    "exact mean, a stack": stacked,
}


def main() -> None:
    """Print the table."""
    sys.stdout.write(
        "| numbers | | ms, median | GB of updates a second | x numpy's |\n|---|---|---|---|---|\n"
    )
    rng = np.random.default_rng(0)
    for size in (85_000, 1_600_000):
        reference = rng.standard_normal(size, np.float32)
        updates = reference + 0.01 * rng.standard_normal((CLIENTS, size), np.float32)
        weights = [int(weight) for weight in rng.integers(1, 500, CLIENTS)]
        taken: dict[str, list[float]] = {side: [] for side in SIDES}
        for _ in range(RUNS):
            for side, fold in SIDES.items():
                began = time.perf_counter()
                result = fold(reference, updates, weights)
                taken[side].append(time.perf_counter() - began)
                assert np.allclose(result, np.average(updates, 0, weights), atol=1e-5)
        first = median(taken["numpy, weighted sum"])
        for side, seconds in taken.items():
            middle = median(seconds)
            rate = updates.nbytes / middle / 1e9
            sys.stdout.write(
                f"| {size:,} | {side} | {1000 * middle:.1f} | {rate:.1f} | {middle / first:.2f} |\n"
            )


if __name__ == "__main__":
    main()
