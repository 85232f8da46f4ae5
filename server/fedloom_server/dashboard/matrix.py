"""Every client in every round, kept as arrays that grow with the run, so that a page can ask often."""

import base64
import math
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedloom_server.dashboard.database import Database, finite, reading
from fedloom_server.report.history import QUANTILES

VALUES = ("metric", "train_loss", "seconds", "status")
STATUSES = ("ok", "failed", "rejected")
"""A status' code is its place here plus one; 0 is a client that was not asked."""
MISSING = 255
_LEVELS = 254
_KEPT = 4  # runs
_Floats = NDArray[np.float32]


class Matrix:
    """A run's clients x rounds: figures (clients, rounds) float32, NaN where none was measured."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.clients: list[int] = []
        self.rounds: list[int] = []
        self._place: dict[int, int] = {}
        self._columns: dict[str, list[_Floats]] = {name: [] for name in VALUES}
        self._ranges: dict[str, tuple[float, float]] = {}

    def refresh(self, database: Database) -> None:
        """Take in the clients and rounds that are new in the store."""
        if not self.clients:
            self.clients = [client for (client,) in database.rows("SELECT id FROM client ORDER BY id")]
            self._place = {client: place for place, client in enumerate(self.clients)}
        latest = self.rounds[-1] if self.rounds else 0
        for (number,) in database.rows(
            "SELECT number FROM round WHERE number > ? ORDER BY number", (latest,)
        ):
            self._add(number, database)

    def figures(self, name: str, first: int) -> _Floats:
        """One kind of figure from the `first` round on, (clients, rounds)."""
        columns = self._columns[name][first:]
        return np.stack(columns, axis=1) if columns else np.empty((len(self.clients), 0), np.float32)

    def range(self, name: str) -> tuple[float, float]:
        """The lowest and highest figure of all rounds, rounded outwards so that they seldom change."""
        low, high = self._ranges.get(name, (0.0, 1.0))
        step = 10.0 ** math.floor(math.log10(high - low)) / 2 if high > low else 1.0
        return math.floor(low / step) * step, math.ceil(high / step) * step

    def quantiles(self, after_round: int) -> dict[str, Any]:
        """QUANTILES of the clients' standard metric in each round after `after_round`."""
        first = int(np.searchsorted(self.rounds, after_round, side="right"))
        columns = self._columns["metric"][first:]
        values: list[list[float | None]] = [[] for _ in QUANTILES]
        for column in columns:
            known = column[np.isfinite(column)]
            found = np.quantile(known, QUANTILES) if known.size else [None] * len(QUANTILES)
            for into, value in zip(values, found, strict=True):
                into.append(None if value is None else round(float(value), 6))
        return {"number": self.rounds[first:], "quantiles": list(QUANTILES), "values": values}

    def _add(self, number: int, database: Database) -> None:
        columns = {name: np.full(len(self.clients), np.nan, np.float32) for name in VALUES}
        columns["status"][:] = 0
        query = "SELECT client, phase, status, metric, loss, seconds FROM client_round WHERE round = ?"
        for client, phase, status, metric, loss, seconds in database.rows(query, (number,)):
            place = self._place.get(client)
            if place is None:
                continue
            if phase == "evaluate":
                if status == "ok" and metric is not None:
                    columns["metric"][place] = metric
            else:
                columns["status"][place] = 1 + STATUSES.index(status) if status in STATUSES else 3
                columns["train_loss"][place] = np.nan if loss is None else loss
                columns["seconds"][place] = np.nan if seconds is None else seconds
        self.rounds.append(number)
        for name, column in columns.items():
            self._columns[name].append(column)
            known = column[np.isfinite(column)]
            if known.size:
                low, high = self._ranges.get(name, (math.inf, -math.inf))
                self._ranges[name] = (min(low, float(known.min())), max(high, float(known.max())))


class Matrices:
    """The matrices of the runs that were asked for last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Matrix] = OrderedDict()

    def of(self, run: str, folder: Path) -> Matrix:
        """A run's matrix, fresh; hold its lock while reading it."""
        with self._lock:
            matrix = self._kept.setdefault(run, Matrix())
            self._kept.move_to_end(run)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        with matrix.lock, reading(folder) as database:
            matrix.refresh(database)
        return matrix


def heat_map(matrix: Matrix, name: str, most_rows: int, after_round: int) -> dict[str, Any]:
    """A picture of one kind of figure: a byte a cell, rows of clients, columns of rounds.

    Where there are more clients than `most_rows`, neighbours share a row: the mean of their figures,
    the worst of their statuses. A cell is `low + byte / 254 * (high - low)`, or missing at 255; for
    `status` the byte is the code itself.
    """
    first = int(np.searchsorted(matrix.rounds, after_round, side="right"))
    figures = matrix.figures(name, first)
    share = max(-(-len(matrix.clients) // most_rows), 1)
    low, high = matrix.range(name)
    shown = _merge(figures, share, worst=name == "status")
    if name == "status":
        low, high = 0.0, float(len(STATUSES))
        cells = shown.astype(np.uint8)
    else:
        scaled = (shown - low) / (high - low or 1.0) * _LEVELS
        cells = np.where(np.isfinite(scaled), np.clip(scaled, 0, _LEVELS), MISSING).astype(np.uint8)
    return {
        "value": name,
        "rounds": matrix.rounds[first:],
        "clients": len(matrix.clients),
        "clients_per_row": share,
        "first_clients": matrix.clients[::share],
        "low": finite(low),
        "high": finite(high),
        "cells": base64.b64encode(np.ascontiguousarray(cells).tobytes()).decode(),
    }


def _merge(figures: _Floats, share: int, *, worst: bool) -> _Floats:
    if share == 1:
        return figures
    clients, rounds = figures.shape
    padded = np.full((-(-clients // share) * share, rounds), 0 if worst else np.nan, np.float32)
    padded[:clients] = figures
    blocks = padded.reshape(len(padded) // share, share, rounds)
    if worst:
        merged: _Floats = blocks.max(axis=1)
        return merged
    known = np.isfinite(blocks)
    count = known.sum(axis=1)
    total = np.where(known, blocks, 0).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)
