"""result.json: a run in numbers."""

import json
import math
import resource
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any

from fedloom_edge.files import write_atomic
from fedloom_server.energy import rounds_energy, run_energy
from fedloom_server.privacy.budget import FIGURES
from fedloom_server.privacy.ledger import told_spent
from fedloom_server.store.rows import Round
from fedloom_server.store.run_store import RunStore

_PACKAGES = ("fedloom", "flwr", "torch", "numpy", "onnx", "onnxruntime")
_FACTS = ("task", "engine", "backend", "strategy", "partition", "seed", "clients", "status")


def write_result(store: RunStore) -> dict[str, Any]:
    """Write result.json (its fields: docs/architecture.md) from the store and return it."""
    facts, rounds = store.facts(), store.rounds()
    clock = {e["round"]: {"simulated_seconds": e["data"]["seconds"]} for e in store.events("clock")}
    energy = rounds_energy(store)
    result = {
        **{key: facts.get(key) for key in _FACTS},
        "rounds": [
            _round(entry, facts["metric"]) | clock.get(entry.number, {}) | energy.get(entry.number, {})
            for entry in rounds
            if entry.number > 0
        ],
        "final": _final(store, rounds[-1], facts) if rounds else {},
        "baselines": facts.get("baselines", {}),
        "arrays_sha256": rounds[-1].arrays if rounds else None,
        "seconds": facts.get("seconds"),
        "startup_seconds": facts.get("startup_seconds"),
        **run_energy(store),
        "peak_rss_mb": peak_rss_mb(),
        "versions": facts["versions"],
        **({"reason": facts["reason"]} if facts.get("reason") else {}),
        **({"privacy": facts["privacy"]} if "privacy" in facts else {}),
        "warnings": _warnings(store),
    }
    write_atomic(store.folder / "result.json", json.dumps(_finite(result), indent=1) + "\n")
    return result


def _warnings(store: RunStore) -> dict[str, Any]:
    """How many warnings came up in rounds, how many of them are of single clients, and the last of each."""
    found = [event for event in store.events("warning") if event["round"]]
    of_clients = [event for event in found if event["client"] is not None]
    of_rounds = [event for event in found if event["client"] is None]
    return {
        "count": len(of_rounds),
        "last": "".join(f"round {e['round']}: {e['data']['reason']}" for e in of_rounds[-1:]),
        "client_count": len(of_clients),
        "client_last": "".join(
            f"round {e['round']}, client {e['client']}: {e['data']['reason']}" for e in of_clients[-1:]
        ),
    }


def _round(entry: Round, metric: str) -> dict[str, Any]:
    columns = ("clients_ok", "clients_failed", "rejected", "bytes_up", "bytes_down", "seconds")
    counts = {column: getattr(entry, column) for column in columns}
    spent = {name: entry.metrics[name] for name in FIGURES if name in entry.metrics}
    return {"round": entry.number, "loss": entry.loss, metric: entry.metric, **counts, **spent}


def said_of(result: Mapping[str, Any]) -> Iterator[str]:
    """What to tell a person of a run's end beside its figures: why it ended early, and what it spent."""
    if result["status"] == "finished" and result.get("reason"):
        yield f"ended early: {result['reason']}"
    for whose, of in (("", ""), ("client_", " of clients")):
        if count := result["warnings"][f"{whose}count"]:
            yield f"{count} warning{'s' * (count > 1)}{of}; the last in {result['warnings'][f'{whose}last']}"
    if "privacy" in result and result["final"]:
        told = result["privacy"]
        budget = f" of {told['budget']:g}" if told["budget"] else ""
        for name, unit in zip(FIGURES, (told["unit"], "sample"), strict=True):
            if name in result["final"]:
                spent = f"epsilon {result['final'][name]:.4g}{budget}, delta {told['delta']:g}"
                yield f"privacy spent, for each {unit}: {spent}"


def _final(store: RunStore, entry: Round, facts: Mapping[str, Any]) -> dict[str, Any]:
    metric = facts["metric"]
    return {
        **entry.metrics,
        **(told_spent(store, facts["privacy"]) if "privacy" in facts else {}),
        "loss": entry.loss,
        "federated_loss": entry.federated_loss,
        f"federated_{metric}": entry.federated_metric,
        f"worst_{metric}": entry.worst_metric,
    }


def _finite(value: Any) -> Any:
    """The same with null for what JSON has no number for."""
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def versions() -> dict[str, str]:
    """Versions of Python and of what can change a result."""
    return {"python": sys.version.split()[0], **{name: version(name) for name in _PACKAGES}}


def peak_rss_mb() -> float:
    """Largest resident set of this process or of one of its children so far, in MB."""
    return (
        max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        / 1024
    )
