"""Runs and rounds as plain text tables."""

from collections.abc import Sequence

from fedloom_server.report.history import column, figure, last_finite
from fedloom_server.store.run_store import RunStore


def text_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns that line up; numbers and dashes at the right, words at the left."""
    cells = [heads, *rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(heads))]
    right = [all(_numeric(row[i]) for row in rows) for i in range(len(heads))]
    lines = [
        "  ".join(
            cell.rjust(width) if numeric else cell.ljust(width)
            for cell, width, numeric in zip(row, widths, right, strict=True)
        )
        for row in cells
    ]
    return "\n".join(line.rstrip() for line in lines)


def rounds_table(store: RunStore) -> str:
    """A row a round: loss, metric, clients, traffic and time."""
    heads = ("round", "loss", store.facts()["metric"], "clients", "worst 5%", "ok", "failed", "rejected")
    rows = [
        (
            str(entry.number),
            *(
                figure(value)
                for value in (entry.loss, entry.metric, entry.federated_metric, entry.worst_metric)
            ),
            *(str(count) for count in (entry.clients_ok, entry.clients_failed, entry.rejected)),
            *(f"{size / 1e6:.2f}" for size in (entry.bytes_up, entry.bytes_down)),
            f"{entry.seconds:.2f}",
        )
        for entry in store.rounds()
    ]
    return text_table((*heads, "up MB", "down MB", "seconds"), rows)


def quarantine_table(store: RunStore) -> str:
    """A row a refused update that was kept, the newest first, with the file of its arrays."""
    rows = [
        (
            *(str(row[name]) for name in ("round", "client")),
            figure(row["norm"]),
            f"{row['bytes'] / 1e6:.2f}",
            row["reason"],
            f"arrays/{row['arrays']}.safetensors" if row["arrays"] else "–",
        )
        for row in store.quarantined()
    ]
    heads = ("round", "client", "norm", "MB", "reason", "arrays")
    return "refused updates\n" + text_table(heads, rows) if rows else "no refused updates are kept"


def runs_table(stores: Sequence[RunStore]) -> str:
    """A row a run: what it was, where it ended, and what it cost."""
    metrics = {store.facts()["metric"] for store in stores}
    shown = metrics.pop() if len(metrics) == 1 else "metric"
    facts = ("task", "engine", "strategy", "partition", "seed", "clients")
    heads = ("run", *facts, "rounds", "loss", shown, "worst 5%", "up MB", "down MB", "seconds", "arrays")
    return text_table(heads, [_run_row(store, facts, named=shown == "metric") for store in stores])


def _run_row(store: RunStore, names: Sequence[str], *, named: bool) -> tuple[str, ...]:
    facts, rounds = store.facts(), store.rounds()
    loss, metric, worst = (
        figure(last_finite(column(rounds, name))) for name in ("loss", "metric", "worst_metric")
    )
    seconds = facts.get("seconds")
    return (
        store.folder.resolve().name,
        *(str(facts.get(name, "–")) for name in names),
        str(rounds[-1].number if rounds else 0),
        loss,
        f"{metric} {facts['metric']}" if named else metric,
        worst,
        f"{sum(entry.bytes_up for entry in rounds) / 1e6:.2f}",
        f"{sum(entry.bytes_down for entry in rounds) / 1e6:.2f}",
        "–" if seconds is None else f"{seconds:.1f}",
        rounds[-1].arrays[:12] if rounds else "–",
    )


def _numeric(cell: str) -> bool:
    return cell == "–" or cell.replace(".", "", 1).replace("e-", "", 1).lstrip("-").isdigit()
