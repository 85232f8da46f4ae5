"""How a device plans its rounds: measure once, plan, train, and know better."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from fedloom_client.device.artefact_trainer import ArtefactTrainer
from fedloom_client.device.pace import PaceBook, Point, pace_of
from fedloom_client.device.telemetry import available_memory, resident_memory, temperature, throttled
from fedloom_client.node import Node
from fedloom_client.orders import Given, Orders, train
from fedloom_client.planner.plan import TRAINING_SHARE, Limits, Pace, Plan, plan
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
_NEAR = 5.0  # degrees below the limit at which a board counts as hot


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
        made = self._plan(assignment.training, node, until, given.arrays, orders)
        asked = assignment
        if made is not None and orders.plan:
            assignment = applied(made, assignment, several=orders.algorithm is not None)
        self._make_room(node, assignment.training.batch_size)
        began = time.perf_counter()
        update, memory = train(node, given, assignment, orders, made.compress if made else "")
        steps = update.metrics.get("steps", 0.0)
        if steps >= 1:
            batch = min(assignment.training.batch_size, len(node.raw.train))
            self._book.trained(self._key, batch, (time.perf_counter() - began) / steps)
        if made is not None and orders.plan:
            planned = {"planned-steps": float(made.steps), "planned-batch-size": float(made.batch_size)}
            update = replace(
                update,
                metrics={**update.metrics, **planned},
                warnings=(*update.warnings, *_notes(made, asked)),
            )
        return update, memory

    def _plan(
        self, training: Training, node: Node, until: float, arrays: Arrays, orders: Orders
    ) -> Plan | None:
        """The round's plan; None where nothing is known of the device yet."""
        key, memory, path = self._key, self._memory(), self._artefact()
        examples = len(node.raw.train)
        if examples < 1:
            return None
        if orders.plan and path is not None and not self._book.points(key):
            self._measure(path, key, min(training.batch_size, examples), memory)
        pace = self._pace(key)
        if pace is None:
            return None
        limits = Limits(
            training=training,
            examples=examples,
            seconds=(until - time.monotonic()) / TRAINING_SHARE,
            memory=memory,
            sendings=sendings(_changing(node, arrays), orders.compress),
        )
        made = plan(pace, limits)
        if orders.plan and made.memory > memory:
            raise TrainingError(f"memory: {made.reasons[0]}")
        log.info("plan: %s", "; ".join(made.reasons if orders.plan else made.reasons[2:3]))
        return made

    @property
    def _key(self) -> str:
        path = self._artefact()
        return path.stem if path is not None else "torch"

    def _pace(self, key: str) -> Pace | None:
        return pace_of(self._book.points(key), self._book.uplink, hot=is_hot(self._limit))

    def _memory(self) -> float:
        """Bytes that training may take, with those that it holds already from the round before."""
        return MEMORY_SHARE * available_memory() + max(resident_memory() - self._rest, 0)

    def _measure(self, path: Path, key: str, batch: int, memory: float) -> None:
        try:
            self._book.measured(key, measured(path, batch, memory))
        except RunError as error:  # what is wrong with it training will say; else it is known after a round
            log.warning("%s", error)

    def _make_room(self, node: Node, batch: int) -> None:
        """The runtime keeps what it made for another batch size: let go of it."""
        if self._batch not in (0, batch) and isinstance(node.trainer, ArtefactTrainer):
            node.trainer.rest()
        self._batch = batch


def is_hot(limit: float) -> bool:
    """Whether the board throttles, or is near `limit` degrees Celsius."""
    degrees = temperature()
    return bool(throttled()) or (degrees is not None and degrees > limit - _NEAR)


def measured(path: Path, batch: int, memory: float) -> list[Point]:
    """Step time and memory of an artefact at two batch sizes at most `batch`; takes some seconds.

    Where a batch does not fit into `memory` bytes smaller ones are measured.

    Raises:
        RunError: the artefact cannot be trained.
        TrainingError: no batch fits.
    """
    size = batch
    while (found := probe(path, size, memory)) is None:
        if size <= 2:
            raise TrainingError(f"memory: training takes more than the {memory / 1e6:.0f} MB available")
        size = max(size // 2, 2)
    points = [Point(found.batch, found.seconds, found.bytes)]
    small = max(size // 4, min(size, 2))
    if small < size and (other := probe(path, small, memory)) is not None:
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


def _changing(node: Node, arrays: Arrays) -> Arrays:
    """What of a model training changes: chunks of the rest are at the coordinator already."""
    if not isinstance(node.trainer, ArtefactTrainer):
        return arrays
    trained = node.trainer.initial_arrays(0)
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


def _notes(made: Plan, asked: Assignment) -> list[str]:
    """What an operator should know of a plan: where it falls short of what the run asks for."""
    short = ((made.batch_size < asked.training.batch_size, 0), (not made.whole, 1))
    notes = [f"plan: {made.reasons[which]}" for held, which in short if held]
    return [note for note in notes if "no more examples" not in note]
