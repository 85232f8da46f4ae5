"""What each client gave the model: Shapley values and leave-one-out, over a run that is made again.

Federated Shapley value (Wang, Rausch, Zhang, Jia and Song, 2020, definition 1): a round's utility of a
set of clients is the metric of their weighted mean update on the held-out test set, each round's Shapley
values share out its gain, and a client's value is their sum. A round's values are estimated by truncated
permutation sampling (Ghorbani and Zou, 2019, algorithm 1). Runs are reproducible, so the updates that
nobody kept are made again, and the end is compared with the run's hash.
"""

import contextlib
import io
import json
import math
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Message, MessageType
from numpy.typing import NDArray

from fedloom_client.seeds import generator
from fedloom_client.torch_trainer import TorchTrainer
from fedloom_edge.arrays import Arrays, arrays_sha256
from fedloom_edge.errors import InputError, RunError
from fedloom_edge.files import write_atomic
from fedloom_server.grids.wrapped import GridWrapper
from fedloom_server.store.run_store import RunStore
from fedloom_simulations.explain.picture import draw_contribution
from fedloom_simulations.explain.subject import Subject
from fedloom_simulations.session import run_session

_TRUNCATED = 1e-3  # of the metric: nearer to the whole round's, the rest of a permutation counts for nothing


class Valuer(GridWrapper):
    """A grid that values every round's updates as they pass."""

    def __init__(self, inner: Any, subject: Subject, permutations: int) -> None:
        super().__init__(inner)
        self._trainer = TorchTrainer(subject.setup.plan.task)
        self._test = subject.ready(subject.setup.shards.data.test)
        self._sign = 1.0 if subject.setup.plan.task.metric == "accuracy" else -1.0
        self._seed = subject.setup.plan.seed
        self._permutations = permutations
        self._clients: dict[int, int] = {}
        self.shapley = np.zeros(len(subject.setup.shards))
        self.variance = np.zeros_like(self.shapley)
        self.leave_one_out = np.zeros_like(self.shapley)
        self.gain = 0.0
        self._round = 0

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """Pass everything on; value the updates of a round when the last of them is there."""
        asked = list(messages)
        updates: dict[int, tuple[int, Arrays]] = {}
        for reply in self.inner.send_and_receive(asked, timeout=timeout):
            node, kind = reply.metadata.src_node_id, reply.metadata.message_type
            if not reply.has_error():
                facts: Any = reply.content.metric_records["metrics"]
                if kind == MessageType.QUERY:
                    self._clients[node] = int(facts["partition-id"])
                elif kind == MessageType.TRAIN:
                    arrays = read(reply)
                    updates[self._clients[node]] = int(facts["num-examples"]), arrays
            yield reply
        if updates:
            self._value(read(asked[0]), updates)

    def _value(self, origin: Arrays, updates: dict[int, tuple[int, Arrays]]) -> None:
        self._round += 1
        clients = sorted(updates)
        known: dict[frozenset[int], float] = {}

        def utility(members: frozenset[int]) -> float:
            if members not in known:
                arrays = mean([updates[client] for client in sorted(members)]) if members else origin
                metrics = self._trainer.evaluate(arrays, self._test).metrics
                known[members] = self._sign * next(iter(metrics.values()))
            return known[members]

        whole, nothing = utility(frozenset(clients)), utility(frozenset())
        self.gain += whole - nothing
        for client in clients:
            self.leave_one_out[client] += whole - utility(frozenset(clients) - {client})
        draw = generator(self._seed, "shapley", self._round)
        sampled = np.zeros((self._permutations, len(clients)))
        for row in sampled:
            before, members = nothing, frozenset[int]()
            for place in draw.permutation(len(clients)):
                if abs(whole - before) < _TRUNCATED and members:
                    break
                members |= {clients[place]}
                after = utility(members)
                row[place] = after - before
                before = after
        self.shapley[clients] += sampled.mean(0)
        if self._permutations > 1:
            self.variance[clients] += sampled.var(0, ddof=1) / self._permutations


def read(message: Message) -> Arrays:
    """The arrays in a message."""
    record = message.content.array_records["arrays"]
    return {name: array.numpy() for name, array in record.items()}


def mean(updates: list[tuple[int, Arrays]]) -> Arrays:
    """Mean of arrays, weighted by examples."""
    total = sum(examples for examples, _ in updates)
    return {
        name: sum((a[name] * (n / total) for n, a in updates), np.zeros(array.shape)).astype(array.dtype)
        for name, array in updates[0][1].items()
    }


def explain_contribution(subject: Subject, permutations: int) -> str:
    """Make the run again, value the clients, and write it down; returns what a person should read of it.

    Raises:
        InputError: the run's settings have no weighted mean that could be shared out.
        RunError: the run cannot be made again as it was.
    """
    if permutations < 1:
        raise InputError(f"--permutations {permutations}: give at least 1")
    if subject.facts["status"] != "finished":
        raise InputError(f"{subject.folder} is not finished; end it with: fedloom resume {subject.folder}")
    if subject.setup.plan.secure is not None:
        raise InputError(
            f"{subject.folder}: contributions are made of single updates, which --secure-aggregation hides; "
            "compare runs with and without a client instead"
        )
    valuers: list[Valuer] = []

    def wrap(grid: Any) -> Valuer:
        valuers.append(Valuer(grid, subject, permutations))
        return valuers[0]

    quiet = io.StringIO()
    with tempfile.TemporaryDirectory() as scratch:
        setup = replace(subject.setup, out=Path(scratch, "run"), wrap=wrap, dashboard=False)
        with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
            code = run_session(setup)
        if code:
            raise RunError(f"{subject.folder}: the run made again ends with: {quiet.getvalue().strip()}")
        with RunStore.open(setup.out) as store:
            again = arrays_sha256(store.get_arrays(store.rounds()[-1].arrays))
    result = _result(subject, valuers[0], exact=again == arrays_sha256(subject.arrays))
    write_atomic(subject.folder / "contribution.json", json.dumps(result, indent=2) + "\n")
    subtitle = f"{permutations} permutations a round, on the held-out test set; lines: one standard error"
    draw_contribution(subject.folder / "contribution.png", subject.folder.name, subtitle, result)
    return _say(subject, result)


def _result(subject: Subject, valuer: Valuer, *, exact: bool) -> dict[str, Any]:
    with RunStore.open(subject.folder) as store:
        rows = {row.client: row for row in store.client_rounds("evaluate") if row.status == "ok"}
        sizes = {row.id: row.examples for row in store.clients()}
    figures = np.array([row.metric for row in rows.values() if row.metric is not None])
    clients = [
        {
            "client": client,
            "examples": sizes[client],
            "metric": rows[client].metric if client in rows else None,
            "shapley": float(valuer.shapley[client]),
            "error": math.sqrt(float(valuer.variance[client])),
            "leave_one_out": float(valuer.leave_one_out[client]),
        }
        for client in sorted(sizes)
    ]
    metric = subject.setup.plan.task.metric
    worst = figures.min if metric == "accuracy" else figures.max
    fairness = {"spread": float(figures.std()), "jain": jain(figures), "worst": float(worst())}
    return {
        "metric": metric,
        "gain": valuer.gain,
        "same_run": exact,
        "clients": clients,
        "fairness": fairness if len(figures) else None,
    }


def jain(figures: NDArray[Any]) -> float:
    """Jain's fairness index (Jain, Chiu and Hawe, 1984): 1 where all are equal, 1 / N where one has all."""
    squares = float(np.square(figures).sum())
    return float(np.square(figures.sum())) / (len(figures) * squares) if squares else 1.0


def _say(subject: Subject, result: dict[str, Any]) -> str:
    lines = [f"{'client':>6}  {'examples':>8}  {'shapley':>9}  {'error':>7}  {'leave one out':>13}"]
    for client in sorted(result["clients"], key=lambda client: -client["shapley"]):
        lines.append(
            f"{client['client']:>6}  {client['examples']:>8}  {client['shapley']:>9.4f}  "
            f"{client['error']:>7.4f}  {client['leave_one_out']:>13.4f}"
        )
    lines.append(f"gain of the rounds in {result['metric']}: {result['gain']:.4f}")
    if fairness := result["fairness"]:
        lines.append(
            f"across clients: standard deviation {fairness['spread']:.4f}, worst {fairness['worst']:.4f}, "
            f"Jain's index {fairness['jain']:.4f}"
        )
    if not result["same_run"]:
        lines.append("the run made again has other weights (other versions?): take the figures with care")
    return "\n".join([*lines, f"{subject.folder}: contribution.json, contribution.png"]) + "\n"
