"""The work of a device with a shard of its own: describe, train, evaluate."""

import math
from collections.abc import Callable
from typing import Protocol

from fedloom_client.algorithms.base import part
from fedloom_client.device.artefact_trainer import ArtefactTrainer
from fedloom_client.device.memory import Memory
from fedloom_client.device.planning import Planner
from fedloom_client.device.release import give_back
from fedloom_client.device.workshop import Watch
from fedloom_client.node import Description, Node
from fedloom_client.orders import ALGORITHM, RUN, Given, Orders, evaluate, train
from fedloom_client.secure.concealing import asks_for_secrecy, conceal
from fedloom_client.secure.participant import Participant
from fedloom_client.trainer import Assignment, Evaluation, Update
from fedloom_client.training import Training
from fedloom_client.wire import figures, read_settings
from fedloom_edge.arrays import Arrays
from fedloom_edge.compression import AUTO
from fedloom_edge.energy import ESTIMATED, JOULES, EnergyMeter, PowerSensor
from fedloom_edge.errors import FedloomError
from fedloom_protos.v1 import link_pb2 as pb

Measured = Callable[[pb.Work, Arrays, Arrays], None]


class Learner(Protocol):
    """A `Node`. A protocol, because benchmarks measure the link with an idle one."""

    def describe(self) -> Description:
        """The shard's size and its summary."""
        ...

    def train(self, arrays: Arrays, constants: Arrays, assignment: Assignment) -> Update:
        """Train from `arrays`."""
        ...

    def evaluate(self, arrays: Arrays, constants: Arrays) -> Evaluation:
        """Measure `arrays` on the validation part."""
        ...


class NodeWorker:
    """Does works with a node.

    Args:
        node: has the shard.
        memory: what the device keeps from round to round.
        measured: is told of every evaluation (the work, its arrays and constants) when it is done.
        planner: plans rounds that ask for it; None if the device cannot.
        power: tells the board's energy; None where the board is not this device's alone.
    """

    def __init__(
        self,
        node: Learner,
        memory: Memory,
        measured: Measured | None = None,
        planner: Planner | None = None,
        power: PowerSensor | None = None,
    ) -> None:
        self._node, self._memory, self._measured = node, memory, measured
        self._planner, self._power = planner, power
        self._secure = Participant()  # its secrets are in memory only: a restart is a dropout

    def do(self, work: pb.Work, arrays: Arrays, constants: Arrays, watch: Watch) -> tuple[pb.Result, Arrays]:
        """The result of a work, and the arrays that go with it."""
        if self._power is None or work.kind not in (pb.KIND_TRAIN, pb.KIND_EVALUATE):
            return self._do(work, arrays, constants, watch)
        with EnergyMeter(sensor=self._power) as meter:
            result, trained = self._do(work, arrays, constants, watch)
        if meter.energy is not None and result.figures:  # a masked result has none
            told = {JOULES: meter.energy.joules, ESTIMATED: float(meter.energy.estimated)}
            result.figures.extend(figures(told))
        return result, trained

    def _do(self, work: pb.Work, arrays: Arrays, constants: Arrays, watch: Watch) -> tuple[pb.Result, Arrays]:
        match work.kind:
            case pb.KIND_DESCRIBE:
                described = self._node.describe()
                result = pb.Result(work=work.id, examples=described.examples)
                result.figures.extend(figures({"validation-examples": described.validation}))
                return result, described.summary
            case pb.KIND_TRAIN:
                update = self._train(work, arrays, constants, watch)
                if asks_for_secrecy(asked := read_settings(work.settings)):
                    statistics = (
                        self._node.trainer.statistics if isinstance(self._node, Node) else frozenset()
                    )
                    masked = conceal(self._secure, asked, arrays, update, statistics, work.seed)
                    return pb.Result(work=work.id), masked.arrays
                result = pb.Result(work=work.id, examples=update.examples)
                result.figures.extend(figures(update.metrics))
                result.warnings.extend(warning[:1024] for warning in update.warnings[:14])
                if watch.passed():
                    result.warnings.append(
                        f"partial work: the time was over after {update.metrics.get('steps', 0):.0f} steps"
                    )
                return result, update.arrays
            case pb.KIND_SECURE:
                return pb.Result(work=work.id), self._secure.answer(read_settings(work.settings), arrays)
            case pb.KIND_EVALUATE:
                measured = self._evaluate(work, arrays, constants)
                result = pb.Result(work=work.id, examples=measured.examples)
                result.figures.extend(figures({**measured.metrics, "loss": measured.loss}))
                if self._measured is not None:
                    self._measured(work, arrays, constants)
                return result, {}
            case _:
                raise FedloomError(f"work of the unknown kind {work.kind}; update fedloom on this device")

    def rest(self) -> None:
        """Let go of sessions, and of onnxruntime's pages."""
        if isinstance(self._node, Node) and isinstance(self._node.trainer, ArtefactTrainer):
            self._node.trainer.rest()
            give_back()

    def _train(self, work: pb.Work, arrays: Arrays, constants: Arrays, watch: Watch) -> Update:
        assignment, orders, run = _assignment(work, watch), *_orders(work)
        if not isinstance(self._node, Node) or orders == Orders():
            return self._node.train(arrays, constants, assignment)
        given = _given(arrays, constants, self._memory.before(run, work.round))
        if self._planner is not None and (orders.plan or orders.compress == AUTO):
            update, memory = self._planner.train(self._node, given, assignment, orders, watch.until)
        else:
            update, memory = train(self._node, given, assignment, orders)
        if memory or given.memory:  # nothing is left of it: that too must be known in the next round
            self._memory.keep(run, work.round, memory)
        return update

    def _evaluate(self, work: pb.Work, arrays: Arrays, constants: Arrays) -> Evaluation:
        orders, run = _orders(work)
        if not isinstance(self._node, Node) or orders == Orders():
            return self._node.evaluate(arrays, constants)
        given = _given(arrays, constants, self._memory.before(run, work.round + 1))
        return evaluate(self._node, given, orders)


def _assignment(work: pb.Work, watch: Watch) -> Assignment:
    settings = read_settings(work.settings)
    secret = asks_for_secrecy(settings)  # then the loss of an epoch is nobody's business
    return Assignment(
        training=Training.from_config(settings),
        seed=work.seed,
        proximal_mu=work.proximal_mu,
        progress=(lambda epoch, loss: watch.check()) if secret else watch.progress,
        enough=watch.passed if watch.until < math.inf else None,
        secret=True,
    )


def _orders(work: pb.Work) -> tuple[Orders, str]:
    """What a work asks for beside training, and the name of its run."""
    settings = read_settings(work.settings)
    return Orders.from_config(settings), str(settings.get(RUN, ""))


def _given(arrays: Arrays, constants: Arrays, memory: Arrays) -> Given:
    # What an algorithm broadcasts travels with the constants, under its own prefix.
    broadcast = part(constants, ALGORITHM)
    own = {name: a for name, a in constants.items() if not name.startswith(f"{ALGORITHM}/")}
    return Given(arrays=arrays, broadcast=broadcast, constants=own, memory=memory)
