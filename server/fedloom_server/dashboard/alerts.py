"""What an operator should look at: each rule is a function from a run to alerts."""

import json
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from fedloom_server.dashboard.database import Database
from fedloom_server.dashboard.state import LIVE, status

STALLED = 3.0  # times the median time of a round
_STALLED_LEAST = 10.0  # seconds
PARTICIPATION = 0.7  # share of the asked clients that gave a usable update
REPEATS = 3  # refusals of one client
RISING = 3  # rounds in a row
DIVERGED = 2.0  # times the best loss
HOT = 80.0  # degrees Celsius: a Raspberry Pi throttles itself from here
_SHOWN = 20  # devices or clients in one rule
_COLUMNS = (
    "number", "loss", "train_loss", "federated_loss", "clients_ok", "clients_failed", "rejected", "seconds",
)  # fmt: skip


@dataclass(frozen=True)
class Alert:
    """Something to look at; `severity` is critical or warning."""

    severity: str
    kind: str
    title: str
    text: str
    round: int | None = None
    client: int | None = None


@dataclass(frozen=True)
class Run:
    """What the rules look at."""

    facts: Mapping[str, Any]
    status: str
    rounds: list[dict[str, Any]]  # from round 1
    now: float
    database: Database


def alerts(database: Database, now: float | None = None) -> list[Alert]:
    """The run's alerts, the critical ones first."""
    facts = database.facts()
    rows = database.table("round", _COLUMNS, "WHERE number > 0 ORDER BY number")
    rounds = [dict(zip(_COLUMNS, row, strict=True)) for row in rows]
    run = Run(facts, status(facts), rounds, time.time() if now is None else now, database)
    found = [alert for rule in RULES for alert in rule(run)]
    return sorted(found, key=lambda alert: alert.severity != "critical")


def _ended_badly(run: Run) -> Iterator[Alert]:
    if run.status == "failed":
        yield Alert("critical", "failed", "The run failed", str(run.facts.get("reason") or "no reason given"))
    if run.status == "crashed":
        text = f"Its process ended without a word after round {_last(run)}."
        yield Alert("critical", "crashed", "The run crashed", text, _last(run))


def _not_finite(run: Run) -> Iterator[Alert]:
    bad = [entry["number"] for entry in run.rounds if not _is_number(entry["loss"])]
    if bad:
        text = f"The loss on the held-out test set is no number in {_rounds(bad)}."
        yield Alert("critical", "nan-loss", "The loss is not a number", text, bad[-1])


def _stalled(run: Run) -> Iterator[Alert]:
    if run.status != "running" or not run.rounds:
        return
    median = statistics.median(entry["seconds"] for entry in run.rounds)
    since = run.database.value("SELECT max(time) FROM event")
    waiting = run.now - since if since else 0.0
    if waiting > max(STALLED * median, _STALLED_LEAST):
        text = f"Nothing for {waiting:.0f} s; the median round takes {median:.1f} s."
        yield Alert(
            "critical", "stalled", f"Round {_last(run) + 1} takes unusually long", text, _last(run) + 1
        )


def _participation(run: Run) -> Iterator[Alert]:
    low = [(entry["number"], share) for entry in run.rounds if (share := _share(entry)) < PARTICIPATION]
    if low:
        number, share = low[-1]
        text = f"{share:.0%} of the asked clients gave a usable update in round {number}"
        text += f"; below {PARTICIPATION:.0%} in {len(low)} of {len(run.rounds)} rounds."
        yield Alert("warning", "participation", "Few clients take part", text, number)


def _repeat_quarantine(run: Run) -> Iterator[Alert]:
    rows = run.database.rows(
        "SELECT client, count(*), max(round), max(id) FROM event WHERE kind = 'rejected' "
        "GROUP BY client HAVING count(*) >= ? ORDER BY count(*) DESC LIMIT ?",
        (REPEATS, _SHOWN),
    )
    for who, times, latest, event in rows:
        reason = json.loads(run.database.value("SELECT data FROM event WHERE id = ?", (event,))).get("reason")
        title = f"Client {who} is refused again and again"
        yield Alert("warning", "quarantine", title, f"{times} times; last: {reason}", latest, who)


def _repeat_failures(run: Run) -> Iterator[Alert]:
    rows = run.database.rows(
        "SELECT client, count(DISTINCT round) FROM event WHERE kind = 'failed' AND client IS NOT NULL "
        "GROUP BY client HAVING count(DISTINCT round) >= ? ORDER BY 2 DESC, 1",
        (REPEATS,),
    )
    if rows:
        query = "SELECT data FROM event WHERE kind = 'failed' AND client = ? ORDER BY id DESC LIMIT 1"
        reason = json.loads(run.database.value(query, (rows[0][0],))).get("reason")
        names = ", ".join(str(client) for client, _ in rows[:_SHOWN]) + (", …" if rows[_SHOWN:] else "")
        title = f"{len(rows)} clients fail" if rows[1:] else f"Client {names} fails"
        only = None if rows[1:] else int(rows[0][0])
        text = f"Client {names}: up to {rows[0][1]} times; last: {reason}"
        yield Alert("warning", "failing", f"{title} again and again", text, client=only)


def _overfitting(run: Run) -> Iterator[Alert]:
    recent = run.rounds[-RISING - 1 :]
    if len(recent) <= RISING:
        return
    validation = [entry["federated_loss"] for entry in recent]
    training = [entry["train_loss"] for entry in recent]
    if _rises(validation) and _rises([-value if _is_number(value) else None for value in training]):
        text = (
            f"Over the last {RISING} rounds the validation loss rose from {validation[0]:.4f} to "
            f"{validation[-1]:.4f} while the training loss fell from {training[0]:.4f} to {training[-1]:.4f}."
        )
        yield Alert("warning", "overfitting", "The model overfits", text, _last(run))


def _divergence(run: Run) -> Iterator[Alert]:
    losses = [entry["loss"] for entry in run.rounds if _is_number(entry["loss"])]
    if len(losses) > RISING and losses[-1] > DIVERGED * min(losses) and _rises(losses[-RISING - 1 :]):
        text = f"The test loss is {losses[-1]:.4f}, its best was {min(losses):.4f}, and it still rises."
        yield Alert("critical", "divergence", "The training diverges", text, _last(run))


def _devices(run: Run) -> Iterator[Alert]:
    from fedloom_server.dashboard.devices import devices

    if run.status not in LIVE:
        return
    for device in devices(run.database)[:_SHOWN]:
        temperature = device.get("temperature")
        if device.get("throttled"):
            title = f"{device['id']} slows itself down"
            yield Alert("warning", "throttled", title, "It reports throttling: heat or low voltage.")
        elif isinstance(temperature, int | float) and temperature >= HOT:
            yield Alert("warning", "hot", f"{device['id']} is hot", f"{temperature:.0f} °C")


RULES: tuple[Callable[[Run], Iterable[Alert]], ...] = (
    _ended_badly,
    _not_finite,
    _stalled,
    _divergence,
    _participation,
    _repeat_quarantine,
    _repeat_failures,
    _overfitting,
    _devices,
)


def _share(entry: Mapping[str, Any]) -> float:
    asked = entry["clients_ok"] + entry["clients_failed"] + entry["rejected"]
    return entry["clients_ok"] / asked if asked else 1.0


def _rises(values: list[Any]) -> bool:
    return all(_is_number(value) for value in values) and all(
        after > before for before, after in pairwise(values)
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _last(run: Run) -> int:
    return int(run.rounds[-1]["number"]) if run.rounds else 0


def _rounds(numbers: list[int]) -> str:
    if len(numbers) == 1:
        return f"round {numbers[0]}"
    return f"{len(numbers)} rounds, from {numbers[0]} to {numbers[-1]}"
