"""Run stores with made-up but realistic contents, for the tests of pictures and tables."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedloom_server.store.rows import ClientRound, ClientRow, Round
from fedloom_server.store.run_store import RunStore

ARRAYS = "3fa94b12cc8d" + "0" * 52


@pytest.fixture
def make_run():
    """Make a run's folder with `build`; every store is closed at the end."""
    with ExitStack() as stack:
        yield lambda folder, **content: stack.enter_context(build(folder, **content))


def build(
    folder: Path,
    *,
    clients: int = 10,
    rounds: int = 5,
    classes: int = 3,
    missing: tuple[int, ...] = (),
    **facts: Any,
) -> RunStore:
    """A run whose accuracy at round r is 1 - 0.9 ** (r + 1); nothing was measured in rounds `missing`."""
    draw = np.random.default_rng(1)
    store = RunStore.create(
        folder,
        {
            "task": "digits", "engine": "inline", "strategy": "fedavg", "partition": "dirichlet:0.3",
            "seed": 1, "clients": clients, "planned_rounds": rounds, "metric": "accuracy",
            "status": "finished",
            "class_names": [f"class {i}" for i in range(classes)], "versions": {"fedloom": "0.1.0"},
            "seconds": 12.5, "baselines": {"majority class": 0.25}, **facts,
        },
    )  # fmt: skip
    sizes = draw.integers(20, 100, clients)
    store.add_clients(
        ClientRow(
            i,
            f"client {i}",
            int(n),
            5,
            draw.multinomial(n, np.ones(classes) / classes).tolist() if classes else None,
        )
        for i, n in enumerate(sizes)
    )
    for number in range(rounds + 1):
        entry, parts = _round(number, clients, store.facts()["metric"], number in missing)
        with store.transaction():
            store.add_round(entry, parts)
    return store


def _round(number: int, clients: int, metric: str, missing: bool) -> tuple[Round, list[ClientRound]]:
    value = 1 - 0.9 ** (number + 1)
    if missing:
        return Round(number, None, None, arrays=ARRAYS), []
    if number == 0:
        return Round(0, 2.3, value, {metric: value}, seconds=0.5, arrays=ARRAYS), []
    entry = Round(
        number, 2.3 - value, value, {metric: value}, train_loss=2.1 - value, federated_loss=2.4 - value,
        federated_metric=value, worst_metric=value / 2, clients_ok=clients - 1, clients_failed=1,
        bytes_up=1_000_000 * clients, bytes_down=2_000_000 * clients, seconds=1.5, arrays=ARRAYS,
    )  # fmt: skip
    spread = np.linspace(value / 2, value, clients)
    parts = [
        ClientRound(number, i, "evaluate", "ok", examples=5, loss=1.0, metric=float(spread[i]))
        for i in range(clients)
    ]
    return entry, parts
