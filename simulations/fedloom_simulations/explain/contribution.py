"""What each client gave the model: Shapley values and leave-one-out, over a run that is made again.

Federated Shapley value (Wang, Rausch, Zhang, Jia and Song, 2020, definition 1): a round's utility of a
set of clients is the metric of their weighted mean update on the held-out test set, each round's Shapley
values share out its gain, and a client's value is their sum. What the guard refused gave nothing. A round's
values are estimated by truncated permutation sampling (Ghorbani and Zou, 2019, algorithm 1). Runs are
reproducible, so the updates that nobody kept are made again, and the end is compared with the run's hash.
"""

import json
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedloom_client.seeds import generator
from fedloom_client.torch_trainer import TorchTrainer
from fedloom_edge.arrays import Arrays
from fedloom_edge.errors import InputError
from fedloom_edge.files import write_atomic
from fedloom_server.store.run_store import RunStore
from fedloom_server.strategies.registry import is_server_optimizer
from fedloom_server.strategies.updates import uses_only_mean
from fedloom_simulations.explain.picture import draw_contribution
from fedloom_simulations.explain.rerun import Updates, run_again
from fedloom_simulations.explain.subject import Subject

_TRUNCATED = 1e-3  # of the metric: nearer to the whole round's, the rest of a permutation counts for nothing


class Valuer:
    """Sums over the rounds what each client gave, in the metric's unit; larger is better.

    Attributes:
        shapley: values of the clients (C,).
        variance: of each value, by its permutations (C,); nothing with a single one.
        leave_one_out: what the rounds lose without a client (C,).
        gain: of the rounds.
    """

    def __init__(self, subject: Subject, permutations: int) -> None:
        self._trainer = TorchTrainer(subject.setup.plan.task)
        self._test = subject.ready(subject.setup.shards.data.test)
        self._sign = 1.0 if subject.setup.plan.task.metric == "accuracy" else -1.0
        self._seed = subject.setup.plan.seed
        self._permutations = permutations
        self.shapley = np.zeros(len(subject.setup.shards))
        self.variance = np.zeros_like(self.shapley) if permutations > 1 else None
        self.leave_one_out = np.zeros_like(self.shapley)
        self.gain = 0.0

    def value(self, number: int, origin: Arrays, updates: Updates) -> None:
        """Value the updates of round `number`, which began with `origin`."""
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
        draw = generator(self._seed, "shapley", number)
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
        if self.variance is not None:
            self.variance[clients] += sampled.var(0, ddof=1) / self._permutations


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
    valuer = Valuer(subject, permutations)
    exact = run_again(subject, valuer.value)
    result = _result(subject, valuer, exact=exact)
    write_atomic(subject.folder / "contribution.json", json.dumps(result, indent=2) + "\n")
    each = "1 permutation" if permutations == 1 else f"{permutations} permutations"
    subtitle = f"{each} a round, on the held-out test set"
    subtitle += "; lines: one standard error" if permutations > 1 else ""
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
            "error": None if valuer.variance is None else math.sqrt(float(valuer.variance[client])),
            "leave_one_out": float(valuer.leave_one_out[client]),
        }
        for client in sorted(sizes)
    ]
    metric = subject.setup.plan.task.metric
    return {
        "metric": metric,
        "gain": valuer.gain,
        "same_run": exact,
        "clients": clients,
        "fairness": _fairness(figures, metric) if len(figures) else None,
    }


def _fairness(figures: NDArray[Any], metric: str) -> dict[str, float]:
    worst = figures.min() if metric == "accuracy" else figures.max()
    return {"spread": float(figures.std()), "jain": jain(figures), "worst": float(worst)}


def jain(figures: NDArray[Any]) -> float:
    """Jain's fairness index (Jain, Chiu and Hawe, 1984): 1 where all are equal, 1 / N where one has all."""
    squares = float(np.square(figures).sum())
    return float(np.square(figures.sum())) / (len(figures) * squares) if squares else 1.0


def _say(subject: Subject, result: dict[str, Any]) -> str:
    lines = [f"{'client':>6}  {'examples':>8}  {'shapley':>9}  {'error':>7}  {'leave one out':>13}"]
    for client in sorted(result["clients"], key=lambda client: -client["shapley"]):
        error = "-" if client["error"] is None else f"{client['error']:.4f}"
        lines.append(
            f"{client['client']:>6}  {client['examples']:>8}  {client['shapley']:>9.4f}  "
            f"{error:>7}  {client['leave_one_out']:>13.4f}"
        )
    lines.append(f"gain of the rounds in {result['metric']}: {result['gain']:.4f}")
    if fairness := result["fairness"]:
        lines.append(
            f"across clients: standard deviation {fairness['spread']:.4f}, worst {fairness['worst']:.4f}, "
            f"Jain's index {fairness['jain']:.4f}"
        )
    else:
        lines.append("across clients: - (none of them was evaluated)")
    strategy = subject.setup.strategy
    if not uses_only_mean(strategy) or is_server_optimizer(strategy):
        lines.append(
            f"these are figures of the updates' weighted mean, and {subject.setup.strategy_name} may make "
            "another model of them"
        )
    if not result["same_run"]:
        lines.append("the run made again has other weights (other versions?): take the figures with care")
    return "\n".join([*lines, f"{subject.folder}: contribution.json, contribution.png"]) + "\n"
