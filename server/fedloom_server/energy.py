"""What a run took in energy: by its devices' own figures, or by the meter of the machine that simulates."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from fedloom_edge.energy import ESTIMATED, JOULES, SILENT, WH, EnergyMeter
from fedloom_server.store.rows import ClientRound, Round
from fedloom_server.store.run_store import RunStore

EVENT = "energy"
"""Kind of a round's event: joules, whether some of them are estimated, and of how many devices."""
_FACT = "energy"
_WHOM = ("energy_devices", "working_devices", "energy_complete")
_FIGURES = ("energy_wh", "energy_estimated", *_WHOM, "wh_per_accuracy_point")


def of_devices(rows: Iterable[ClientRound]) -> dict[str, Any]:
    """A round's energy by what clients told of their works; empty where none did."""
    told = [row for row in rows if _sane(row.metrics.get(JOULES))]
    if not told:
        return {}
    return {
        "joules": sum(float(row.metrics[JOULES]) for row in told),
        "estimated": any(row.metrics.get(ESTIMATED) for row in told),
        "devices": len({row.client for row in told}),
    }


@contextmanager
def of_machine(store: RunStore) -> Iterator[None]:
    """Add what this machine takes meanwhile to the run's facts; nothing where it does not tell."""
    before: Mapping[str, Any] = store.facts().get(_FACT) or {}
    meter = EnergyMeter()
    try:
        with meter:
            yield
    finally:
        if meter.energy is not None:
            joules = before.get("joules", 0.0) + meter.energy.joules
            estimated = bool(before.get("estimated")) or meter.energy.estimated
            store.set_facts({_FACT: {"joules": joules, "estimated": estimated}})


def rounds_energy(store: RunStore) -> dict[int, dict[str, Any]]:
    """`energy_wh` of each round of which devices told theirs, and of how many."""
    told = {event["round"]: event["data"] for event in store.events(EVENT)}
    return {
        number: {"energy_wh": data["joules"] / WH, "energy_devices": data["devices"]}
        for number, data in told.items()
    }


def run_energy(store: RunStore) -> dict[str, Any]:
    """`energy_wh`, of whom, whether some of it is estimated, and what a point of accuracy took.

    A point is a hundredth of accuracy above that of the initial model (round 0) on the test set; it has a
    price where every device told all of its work. None where something is unknown.
    """
    entries = [event["data"] for event in store.events(EVENT)]
    if (machine := store.facts().get(_FACT)) is not None:
        entries = [machine]  # whose processes the devices are
    if not entries:
        return dict.fromkeys(_FIGURES)
    whom = _devices(store) if machine is None else dict(zip(_WHOM, (None, None, True), strict=True))
    wh = sum(entry["joules"] for entry in entries) / WH
    whole = whom["energy_complete"] and store.facts()["metric"] == "accuracy"
    points = _points(store.rounds()) if whole else None
    return {
        "energy_wh": wh,
        "energy_estimated": any(entry["estimated"] for entry in entries),
        **whom,
        "wh_per_accuracy_point": wh / points if points else None,
    }


def energy_text(energy: Mapping[str, Any]) -> str:
    """A line of `run_energy` for people."""
    if energy["energy_wh"] is None:
        return "energy: not known; no device told it, and this machine has no meter that may be read"
    how = "estimated by the boards' published power" if energy["energy_estimated"] else "measured"
    told, working = energy["energy_devices"], energy["working_devices"]
    if not energy["energy_complete"]:
        how += f", of {told} of {working} devices" if told < working else ", of a part of the devices' work"
    each = energy["wh_per_accuracy_point"]
    tail = f", {each:.3g} Wh a point of accuracy" if each is not None else ""
    return f"energy: {energy['energy_wh']:.3g} Wh ({how}){tail}"


def _devices(store: RunStore) -> dict[str, Any]:
    """How many devices told something, how many were at work, and whether all told all of it."""
    rows = [row for phase in ("train", "evaluate") for row in store.client_rounds(phase)]
    done = [row for row in rows if row.status == "ok"]
    told = {row.client for row in done if _sane(row.metrics.get(JOULES))}
    complete = all(_sane(row.metrics.get(JOULES)) and not row.metrics.get(SILENT) for row in done)
    return dict(zip(_WHOM, (len(told), len({row.client for row in done}), complete), strict=True))


def _points(rounds: Sequence[Round]) -> float | None:
    """Hundredths of accuracy that the run gained; None where it gained nothing."""
    measured = [entry.metric for entry in rounds if entry.metric is not None]
    gained = 100 * (measured[-1] - measured[0]) if len(measured) > 1 else 0.0
    return gained if gained > 0 else None


def _sane(joules: Any) -> bool:
    return isinstance(joules, int | float) and 0 <= joules < 1e12
