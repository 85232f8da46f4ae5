"""Aggregates of every run for Prometheus: nothing per client, so a scrape stays small at any size."""

from collections.abc import Iterator
from typing import Any

from fedloom_edge.errors import RunError
from fedloom_server.dashboard.alerts import alerts
from fedloom_server.dashboard.catalog import Catalog
from fedloom_server.dashboard.database import Database, reading
from fedloom_server.dashboard.devices import devices
from fedloom_server.dashboard.state import ENDED, LIVE, state

MEDIA = "text/plain; version=0.0.4; charset=utf-8"
_GAUGES = {
    "fedloom_round": "Number of the last finished round.",
    "fedloom_rounds_planned": "Rounds that the run is to have at most.",
    "fedloom_status": "1 for the status that the run has.",
    "fedloom_loss": "Loss on the held-out test set after the last round.",
    "fedloom_metric": "The task's standard metric on the held-out test set.",
    "fedloom_worst_metric": "The metric's mean over the worst 5 % of clients.",
    "fedloom_train_loss": "Mean training loss over clients in the last round.",
    "fedloom_round_seconds": "Duration of the last round in seconds.",
    "fedloom_participation": "Share of the asked clients that gave a usable update in the last round.",
    "fedloom_clients": "Clients of the run.",
    "fedloom_alerts": "Alerts of the run by severity.",
    "fedloom_devices": "Devices of the run.",
    "fedloom_device_temperature_celsius_max": "Temperature of the hottest device.",
}
_COUNTERS = {
    "fedloom_clients_failed_total": "Clients that failed, counted once a round.",
    "fedloom_clients_rejected_total": "Updates that the guard refused.",
    "fedloom_bytes_up_total": "Bytes from clients.",
    "fedloom_bytes_down_total": "Bytes to clients.",
}
Sample = tuple[str, dict[str, str], float | int | None]


def exposition(catalog: Catalog) -> str:
    """Every run in Prometheus' text format."""
    samples: list[Sample] = []
    for run, folder in catalog.runs().items():
        try:
            with reading(folder) as database:
                samples += _run(run, database)
        except RunError:
            continue  # its row in the list of runs says why
    lines = []
    for kind, names in (("gauge", _GAUGES), ("counter", _COUNTERS)):
        for name, about in names.items():
            lines += [f"# HELP {name} {about}", f"# TYPE {name} {kind}"]
            lines += [_line(*sample) for sample in samples if sample[0] == name and sample[2] is not None]
    return "\n".join(lines) + "\n"


def _run(run: str, database: Database) -> Iterator[Sample]:
    facts, now = database.facts(), state(database)
    labels = {"run": run, "task": str(facts.get("task")), "strategy": str(facts.get("strategy"))}
    row = database.rows(
        "SELECT loss, metric, worst_metric, train_loss, seconds, clients_ok, clients_failed + rejected "
        "FROM round ORDER BY number DESC LIMIT 1"
    )
    loss, metric, worst, train_loss, seconds, ok, lost = row[0] if row else (None,) * 7
    failed, rejected, up, down = database.rows(
        "SELECT sum(clients_failed), sum(rejected), sum(bytes_up), sum(bytes_down) FROM round"
    )[0]
    figures: dict[str, Any] = {
        "fedloom_round": now.round, "fedloom_rounds_planned": now.planned, "fedloom_loss": loss,
        "fedloom_metric": metric, "fedloom_worst_metric": worst, "fedloom_train_loss": train_loss,
        "fedloom_round_seconds": seconds, "fedloom_clients": facts.get("clients"),
        "fedloom_participation": ok / (ok + lost) if ok else None,
        "fedloom_clients_failed_total": failed, "fedloom_clients_rejected_total": rejected,
        "fedloom_bytes_up_total": up, "fedloom_bytes_down_total": down,
    }  # fmt: skip
    yield from ((name, labels, value) for name, value in figures.items())
    for status in (*LIVE, *ENDED):
        yield "fedloom_status", {**labels, "status": status}, int(status == now.status)
    found = alerts(database)
    for severity in ("critical", "warning"):
        count = sum(alert.severity == severity for alert in found)
        yield "fedloom_alerts", {**labels, "severity": severity}, count
    fleet = devices(database)
    if fleet:
        yield "fedloom_devices", labels, len(fleet)
        temperatures = [device["temperature"] for device in fleet if device["temperature"] is not None]
        yield "fedloom_device_temperature_celsius_max", labels, max(temperatures, default=None)


def _line(name: str, labels: dict[str, str], value: float | int | None) -> str:
    text = ",".join(f'{key}="{_escaped(label)}"' for key, label in labels.items())
    return f"{name}{{{text}}} {value}"


def _escaped(label: str) -> str:
    return label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
