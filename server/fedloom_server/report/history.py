"""Numbers for pictures and tables: a run's rounds as float arrays, NaN where nothing was measured."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedloom_server.store.rows import ClientRound, Round
from fedloom_server.store.run_store import RunStore

Floats = NDArray[np.float64]
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def column(rounds: Sequence[Round], name: str) -> Floats:
    """One figure of every round (R,); what is None or not finite is NaN."""
    values = np.array([getattr(entry, name) for entry in rounds], dtype=np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def last_finite(values: Floats) -> float | None:
    """The last value that was measured, or None."""
    finite = values[np.isfinite(values)]
    return float(finite[-1]) if finite.size else None


def client_quantiles(rounds: Sequence[Round], measured: Sequence[ClientRound]) -> Floats:
    """QUANTILES of the clients' standard metric in each round (5, R); NaN where no client measured."""
    by_round: dict[int, list[float]] = {}
    for row in measured:
        if row.status == "ok" and row.metric is not None and np.isfinite(row.metric):
            by_round.setdefault(row.round, []).append(row.metric)
    missing = [np.nan] * len(QUANTILES)
    columns = [
        np.quantile(by_round[entry.number], QUANTILES) if entry.number in by_round else missing
        for entry in rounds
    ]
    return np.array(columns, dtype=np.float64).reshape(-1, len(QUANTILES)).T


def label_counts(store: RunStore) -> NDArray[np.int64] | None:
    """Training examples of each class at each client (clients, classes); None without classes."""
    labels = [client.labels for client in store.clients()]
    known = [row for row in labels if row is not None]
    if not known or len(known) < len(labels):
        return None
    return np.array(known, dtype=np.int64)


def sizes(store: RunStore) -> list[int]:
    """Training examples of each client."""
    return [client.examples for client in store.clients()]


def byte_unit(largest: float) -> tuple[str, float]:
    """A unit in which `largest` bytes read well, and its size in bytes."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if largest >= scale:
            return unit, scale
    return "bytes", 1.0


def duration(seconds: float | None) -> str:
    """`8.2 s`, `3 min 05 s` or `2 h 07 min`; a dash for None."""
    if seconds is None:
        return "–"
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def figure(value: float | None) -> str:
    """A loss or metric in four decimals, in four digits if it is tiny; a dash for None or NaN."""
    if value is None or not np.isfinite(value):
        return "–"
    return f"{value:#.4g}" if 0 < abs(value) < 0.01 else f"{value:.4f}"
