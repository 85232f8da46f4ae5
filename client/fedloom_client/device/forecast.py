"""`fedloom device plan`: what this device would do in a round, and why, before it takes part in one."""

import json
import math
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedloom_client.device.home import DeviceSettings
from fedloom_client.device.pace import FILE, PaceBook, Point, pace_of
from fedloom_client.device.planning import MEMORY_SHARE, is_hot, measured, part_note, sendings
from fedloom_client.device.reading import load_task_light, read_shard
from fedloom_client.device.telemetry import available_memory, board, temperature, throttled
from fedloom_client.planner.plan import Choice, Limits, Plan, choose, plan
from fedloom_client.training import Training
from fedloom_edge.artefact.check import check, initial_arrays
from fedloom_edge.artefact.manifest import Manifest
from fedloom_edge.artefact.storage import SUFFIX, Artefact
from fedloom_edge.energy import EnergyMeter
from fedloom_edge.errors import InputError

_RATE = re.compile(r"([0-9]+(?:\.[0-9]+)?) *([kMG]?)(bit|B)/s")
_SCALE = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What a round is to be planned for.

    Attributes:
        deadline: seconds.
        uplink: bytes a second; None for what the device has measured.
        compress: a codec or `auto`.
    """

    deadline: float
    uplink: float | None
    compress: str


@dataclass(frozen=True)
class Forecast:
    """What is chosen for one artefact.

    Attributes:
        path: of the artefact.
        manifest: of it.
        points: what was measured, by part.
        choice: the part to train, and its plan.
        uplink: bytes a second that it was made for; 0 where not known.
        joules: that the training of a round takes; None where the board does not tell.
        estimated: `joules` is an estimate.
    """

    path: Path
    manifest: Manifest
    points: dict[str, list[Point]]
    choice: Choice
    uplink: float
    joules: float | None
    estimated: bool

    @property
    def plan(self) -> Plan:
        """For the part that is trained."""
        return self.choice.plan


def parse_rate(text: str) -> float:
    """Bytes a second of for example `2Mbit/s` or `300kB/s`.

    Raises:
        InputError: it is none.
    """
    found = _RATE.fullmatch(text)
    if found is None or float(found[1]) <= 0:
        raise InputError(f"--bandwidth {text}: write for example 2Mbit/s or 300kB/s")
    return float(found[1]) * _SCALE[found[2]] / (8 if found[3] == "bit" else 1)


def forecast(
    home: Path, settings: DeviceSettings, artefacts: Sequence[Path], wishes: Wishes
) -> list[Forecast]:
    """Measure artefacts, by default the one that the device has, and plan a round with each.

    Raises:
        InputError: there is no artefact, or it or the device's data is wrong.
        RunError: an artefact cannot be trained here.
    """
    book, own = PaceBook(home / FILE), sorted((home / "artefacts").glob(f"*{SUFFIX}"))
    paths = list(artefacts) or own
    if not paths:
        raise InputError("this device has no artefact yet; give one, which fedloom edge export makes")
    task = load_task_light(settings.task)
    for path in paths:
        if (name := Artefact(path).manifest.name) != task.name:
            raise InputError(f"{path} is for {name}, this device's task is {task.name}; give --task")
    examples = len(read_shard(settings, task).train)
    if not examples:
        raise InputError("this device has no training example")
    uplink = book.uplink if wishes.uplink is None else wishes.uplink
    made = [_forecast(path, examples, uplink, settings.max_temperature_c, wishes) for path in paths]
    for each in made:
        if each.path in own:  # the next round need not measure
            for part, points in each.points.items():
                book.measured(each.path.stem, part, points)
    return made


def _forecast(path: Path, examples: int, uplink: float, hottest: float, wishes: Wishes) -> Forecast:
    artefact = Artefact(path)
    check(artefact)
    manifest, arrays = artefact.manifest, initial_arrays(artefact)
    training, memory = Training(**manifest.training), MEMORY_SHARE * available_memory()
    hot, points = is_hot(hottest), dict[str, list[Point]]()

    def plans() -> Iterator[tuple[str, Plan]]:
        for part, names in ({"": tuple(arrays)} | manifest.smaller).items():
            points[part] = measured(path, part, min(training.batch_size, examples), memory)
            pace = pace_of(points[part], uplink, hot=hot)
            assert pace is not None  # there are points
            limits = Limits(
                training=training,
                examples=examples,
                seconds=wishes.deadline,
                memory=memory,
                sendings=sendings({name: arrays[name] for name in names}, wishes.compress),
            )
            yield part, plan(pace, limits)

    began = time.monotonic()
    with EnergyMeter() as meter:
        choice = choose(plans())
    seconds, energy = time.monotonic() - began, meter.energy
    assert choice is not None  # there are plans
    if energy is None:
        return Forecast(path, manifest, points, choice, uplink, None, estimated=False)
    joules = energy.joules / seconds * choice.plan.train_seconds
    return Forecast(path, manifest, points, choice, uplink, joules, energy.estimated)


def chosen(made: Sequence[Forecast]) -> Forecast | None:
    """The first, in the order in which they were given, that does all that is asked for in time.

    Without such a one, that which does the largest part of it; None where none fits.
    """
    fit = [each for each in made if each.plan.fits]
    whole = [each for each in fit if each.plan.whole]
    if whole:
        return whole[0]
    return max(fit, key=lambda each: each.plan.share, default=None)


def as_json(made: Sequence[Forecast]) -> str:
    """Everything, for programs."""
    best = chosen(made)
    content: dict[str, Any] = {
        "board": board().model,
        "memory_available_bytes": available_memory(),
        "temperature_c": temperature(),
        "throttled": throttled(),
        "uplink_bytes_per_second": made[0].uplink or None,
        "chosen": str(best.path) if best else None,
        "artefacts": [
            {
                "path": str(each.path),
                "task": each.manifest.name,
                "trainable": each.manifest.trainable,
                "part": each.choice.part or "all",
                "measured": [_finite(asdict(point)) for point in each.points[each.choice.part]],
                "plan": _finite(asdict(each.plan)),
                "joules": each.joules,
                "joules_estimated": each.estimated if each.joules is not None else None,
            }
            for each in made
        ],
    }
    return json.dumps(content, indent=1)


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and math.isinf(v) else v for k, v in values.items()}


def as_text(made: Sequence[Forecast], deadline: float) -> str:
    """The same for people."""
    here, degrees, slow = board(), temperature(), throttled()
    heat = "temperature not known" if degrees is None else f"{degrees:.0f} °C"
    lines = [
        f"board        {here.model}, {here.cores} cores, {available_memory() / 1e6:.0f} MB available, {heat}"
        + (", throttled" if slow else ""),
        f"uplink       {_rate(made[0].uplink)}",
        f"deadline     {deadline:g} s",
    ]
    for each in made:
        lines += ["", *_lines(each)]
    if len(made) > 1:
        best = chosen(made)
        lines += ["", f"best here    {best.path.name}" if best else "none of them fits this device"]
    return "\n".join(lines)


def _lines(each: Forecast) -> list[str]:
    made, part = each.plan, each.choice.part
    points = "; ".join(
        f"batch {p.batch}: {1e3 * p.seconds:.3g} ms a step, {p.bytes / 1e6:.0f} MB" for p in each.points[part]
    )
    takes = f"{made.train_seconds:.3g} s of training"
    if made.seconds is not None:
        takes += f", {made.seconds - made.train_seconds:.2g} s of sending"
    energy = "not known: the board does not tell"
    if each.joules is not None:
        energy = f"{each.joules:.3g} J a round ({'estimated' if each.estimated else 'measured'})"
    return [
        f"artefact     {each.path.name}: {each.manifest.name}, trains {each.manifest.trainable}",
        *(f"plan         {note}" for note in part_note(each.choice)),
        f"measured     {points}",
        *(f"plan         {reason}" for reason in made.reasons),
        f"takes        {takes}, {made.memory / 1e6:.0f} MB{'' if made.fits else '; it does not fit'}",
        f"energy       {energy}",
    ]


def _rate(uplink: float) -> str:
    return f"{8 * uplink / 1e6:.3g} Mbit/s" if uplink else "not known: nothing was sent yet"
