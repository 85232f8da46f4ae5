"""How a device plans its rounds: measure once, plan, train, and know better."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from fedloom_client.device.artefact_trainer import ArtefactTrainer
from fedloom_client.device.pace import PaceBook, Point, pace_of
from fedloom_client.device.telemetry import available_memory, resident_memory, temperature, throttled
from fedloom_client.node import Node
from fedloom_client.orders import Given, Orders, train
from fedloom_client.planner.plan import TRAINING_SHARE, Choice, Limits, Plan, choose, plan
from fedloom_client.trainer import Assignment, Update
from fedloom_client.training import Training
from fedloom_edge.arrays import Arrays
from fedloom_edge.codecs import parse_codec
from fedloom_edge.compression import AUTO, AUTO_CODECS
from fedloom_edge.errors import RunError, TrainingError
from fedloom_edge.probe import probe

log = logging.getLogger("fedloom.device")

MEMORY_SHARE = 0.9
"""Of the memory that is available, what a plan may take."""
_MORE = 1.25  # times the memory that was too little: measure again
_NEAR = 5.0  # degrees below the limit at which a board counts as hot
_WORTH_MEASURING = 4.0  # times what the last measurement took that must be left of the round


class Planner:
    """Trains by a plan, made from the device's own measurements.

    Args:
        book: keeps them.
        artefact: gives the path of what the device trains with; None where there is none (torch).
        max_temperature_c: of the device.
    """

    def __init__(self, book: PaceBook, artefact: Callable[[], Path | None], max_temperature_c: float) -> None:
        self._book, self._artefact, self._limit = book, artefact, max_temperature_c
        self._rest = resident_memory()
        self._batch = 0
        self._took = 0.0  # seconds of the last measurement

    def train(
        self, node: Node, given: Given, assignment: Assignment, orders: Orders, until: float
    ) -> tuple[Update, Arrays]:
        """`orders.train` with the steps, the batch size (`orders.plan`) and the codec (auto) of a plan.

        Args:
            node: has the shard.
            given: with the work.
            assignment: what the run asks every device for.
            orders: say what is planned.
            until: when training must end, by the monotonic clock; infinity for no deadline.

        Raises:
            TrainingError: not even the smallest batch fits into the memory, or training could not go on.
        """
        choice = self._choose(assignment.training, node, until, given.arrays, orders)
        made, asked = (None if choice is None else choice.plan), assignment
        part = choice.part if choice is not None and orders.plan else ""
        if made is not None and orders.plan:
            assignment = applied(made, assignment, several=orders.algorithm is not None)
        self._make_room(node, part, assignment.training.batch_size)
        began = time.perf_counter()
        update, memory = train(node, given, assignment, orders, made.compress if made else "")
        steps = update.metrics.get("steps", 0.0)
        if steps >= 1:
            batch = min(assignment.training.batch_size, len(node.raw.train))
            self._book.trained(self._key, part, batch, (time.perf_counter() - began) / steps)
        if choice is not None and made is not None and orders.plan:
            planned = {"planned-steps": float(made.steps), "planned-batch-size": float(made.batch_size)}
            update = replace(
                update,
                metrics={**update.metrics, **planned},
                warnings=(*update.warnings, *_notes(choice, asked)),
            )
        return update, memory

    def _choose(
        self, training: Training, node: Node, until: float, arrays: Arrays, orders: Orders
    ) -> Choice | None:
        """What to train in the round, and how; None where nothing is known of the device yet."""
        examples, memory = len(node.raw.train), self._memory()
        if examples < 1:
            return None
        limits = Limits(training=training, examples=examples, memory=memory)
        trainer = node.trainer if isinstance(node.trainer, ArtefactTrainer) else None
        parts = {"": _changing(trainer, arrays)}
        if trainer is not None and orders.plan:
            parts |= {part: {n: arrays[n] for n in names} for part, names in trainer.parts.items()}
        choose(self._plans(parts, limits, orders, until, measure=True))
        # Measuring has taken time: what is known now is chosen from with what is left.
        choice = choose(self._plans(parts, limits, orders, until))
        if choice is not None:
            if orders.plan and choice.plan.memory > memory:
                raise TrainingError(f"memory: {choice.plan.reasons[0]}")
            said = choice.plan.reasons if orders.plan else choice.plan.reasons[2:3]
            log.info("plan: %s", "; ".join([*part_note(choice), *said]))
        return choice

    def _plans(
        self,
        parts: Mapping[str, Arrays],
        limits: Limits,
        orders: Orders,
        until: float,
        *,
        measure: bool = False,
    ) -> Iterator[tuple[str, Plan]]:
        """A plan for each part that is known, as it is asked for; with `measure` others are measured first.

        Not where the round would be over before much was trained.
        """
        key, path, hot = self._key, self._artefact(), is_hot(self._limit)
        for part, changing in parts.items():
            left = until - time.monotonic()
            worth = measure and orders.plan and left > _WORTH_MEASURING * self._took
            if worth and path is not None and not self._is_known(part, limits.memory):
                self._measure(path, part, min(limits.training.batch_size, limits.examples), limits.memory)
            pace = pace_of(self._book.points(key, part), self._book.uplink, hot=hot)
            if pace is not None:
                left = (until - time.monotonic()) / TRAINING_SHARE  # measuring has taken some
                choices = sendings(changing, orders.compress)
                yield part, plan(pace, replace(limits, seconds=left, sendings=choices))

    def _is_known(self, part: str, memory: float) -> bool:
        """Whether a part was measured, or found too large for nearly as much memory as there is now."""
        known = self._book.points(self._key, part)
        return bool(known) and (known[0].seconds < math.inf or memory < _MORE * known[0].bytes)

    @property
    def _key(self) -> str:
        path = self._artefact()
        return path.stem if path is not None else "torch"

    def _memory(self) -> float:
        """Bytes that training may take, with those that it holds already from the round before."""
        return MEMORY_SHARE * available_memory() + max(resident_memory() - self._rest, 0)

    def _measure(self, path: Path, part: str, batch: int, memory: float) -> None:
        began = time.monotonic()
        try:
            self._book.measured(path.stem, part, measured(path, part, batch, memory))
            self._took = time.monotonic() - began
        except RunError as error:  # what is wrong with it training will say; else it is known after a round
            log.warning("%s", error)

    def _make_room(self, node: Node, part: str, batch: int) -> None:
        """The runtime keeps what it made for another part or batch size: let go of it."""
        if isinstance(node.trainer, ArtefactTrainer):
            node.trainer.restrict(part)
            if self._batch not in (0, batch):
                node.trainer.rest()
        self._batch = batch


def is_hot(limit: float) -> bool:
    """Whether the board throttles, or is near `limit` degrees Celsius."""
    degrees = temperature()
    return bool(throttled()) or (degrees is not None and degrees > limit - _NEAR)


def measured(path: Path, part: str, batch: int, memory: float) -> list[Point]:
    """Step time and memory of an artefact's part at two batch sizes at most `batch`; takes some seconds.

    Where a batch does not fit into `memory` bytes smaller ones are measured; where none does, a step takes
    infinitely long.

    Raises:
        RunError: the artefact cannot be trained.
    """
    size = batch
    while (found := probe(path, part, size, memory)) is None:
        if size <= 2:
            return [Point(size, math.inf, int(memory) + 1)]
        size = max(size // 2, 2)
    points = [Point(found.batch, found.seconds, found.bytes)]
    small = max(size // 4, min(size, 2))
    if small < size and (other := probe(path, part, small, memory)) is not None:
        points.insert(0, Point(other.batch, other.seconds, other.bytes))
    return points


def sendings(arrays: Arrays, compress: str) -> Sequence[tuple[str, int]]:
    """(codec, bytes of an update) that a device may choose from, the most exact first."""
    shapes = {name: array.shape for name, array in arrays.items()}
    whole = sum(array.nbytes for array in arrays.values())
    if compress != AUTO:
        return [(compress, parse_codec(compress).size(shapes) if compress else whole)]
    found = [("", whole)]
    for codec in AUTO_CODECS if find_spec("zstandard") else ():
        if (size := parse_codec(codec).size(shapes)) < found[-1][1]:
            found.append((codec, size))
    return found


def _changing(trainer: ArtefactTrainer | None, arrays: Arrays) -> Arrays:
    """What of a model training changes: chunks of the rest are at the coordinator already."""
    if trainer is None:
        return arrays
    trained = trainer.initial_arrays(0)
    return {name: array for name, array in arrays.items() if name in trained}


def applied(made: Plan, assignment: Assignment, *, several: bool = False) -> Assignment:
    """The assignment with a plan's batch size, that ends after the plan's steps.

    An update of fewer steps than the run asks for counts the examples that it saw, as any partial work.
    An algorithm's client half may train `several` models: then each ends so, and the update counts whole.
    """
    asked, over = assignment.training, assignment.enough
    if made.whole or several:
        steps = made.steps if asked.steps or not made.whole else 0
        return replace(assignment, training=replace(asked, batch_size=made.batch_size, steps=steps))
    taken = 0

    def enough() -> bool:
        nonlocal taken
        taken += 1
        return taken >= made.steps or (over is not None and over())

    training = replace(asked, batch_size=made.batch_size, steps=0)
    return replace(assignment, training=training, enough=enough)


def part_note(choice: Choice) -> list[str]:
    """Which part is trained, and why no more; nothing where everything is."""
    return [f"trains {choice.part} alone: for all, {choice.why}"] if choice.part else []


def _notes(choice: Choice, asked: Assignment) -> list[str]:
    """What an operator should know of a plan: where it falls short of what the run asks for."""
    made = choice.plan
    short = ((made.batch_size < asked.training.batch_size, 0), (not made.whole, 1))
    notes = [*part_note(choice), *(made.reasons[which] for held, which in short if held)]
    return [f"plan: {note}" for note in notes if "no more examples" not in note]
