"""Where a device's work is done: one at a time, in a thread, apart from the link."""

import math
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

from fedloom_client.algorithms.base import part
from fedloom_client.device.memory import Memory
from fedloom_client.device.spool import Spool
from fedloom_client.node import Description, Node
from fedloom_client.orders import ALGORITHM, RUN, Given, Orders, evaluate, train
from fedloom_client.trainer import Assignment, Evaluation, Update
from fedloom_client.training import Training
from fedloom_client.wire import figures, read_settings
from fedloom_edge.arrays import Arrays
from fedloom_edge.errors import FedloomError
from fedloom_protos.v1 import link_pb2 as pb


class Worker(Protocol):
    """What does the work: a `Node`. A protocol, because benchmarks measure the link with an idle one."""

    def describe(self) -> Description:
        """The shard's size and its summary."""
        ...

    def train(self, arrays: Arrays, constants: Arrays, assignment: Assignment) -> Update:
        """Train from `arrays`."""
        ...

    def evaluate(self, arrays: Arrays, constants: Arrays) -> Evaluation:
        """Measure `arrays` on the validation part."""
        ...


class WorkCancelledError(Exception):
    """The coordinator no longer waits for the work."""


class Workshop:
    """Does one work at a time; what comes of it goes to the spool, or to a refusal."""

    def __init__(
        self,
        worker: Worker,
        spool: Spool,
        memory: Memory,
        progress: Callable[[pb.Progress], None],
        done: Callable[[str, str], None],
    ) -> None:
        """`done(work, reason)` is called in the work's thread; without a result in the spool it says why."""
        self._worker = worker
        self._spool = spool
        self._memory = memory
        self._progress = progress
        self._done = done
        self._cancelled: set[str] = set()
        self._until = math.inf

    def start(self, work: pb.Work, arrays: Arrays, constants: Arrays, until: float = math.inf) -> None:
        """Begin a work; the caller waits for `done` before it begins another.

        At `until` (by the monotonic clock) training ends with what it has.
        """
        self._until = until
        # A daemon: a training step cannot be interrupted, and must not keep a stopped agent alive.
        threading.Thread(target=self._run, args=(work, arrays, constants), daemon=True).start()

    def cancel(self, work: str) -> None:
        """Stop a work at its next epoch."""
        self._cancelled.add(work)

    def _run(self, work: pb.Work, arrays: Arrays, constants: Arrays) -> None:
        reason, began = "", time.perf_counter()
        try:
            result, trained = self._compute(work, arrays, constants)
            result.figures.extend(figures({"seconds": time.perf_counter() - began}))
            if work.id in self._cancelled:
                raise WorkCancelledError
            self._spool.put(result, trained)
        except WorkCancelledError:
            reason = "cancelled: the coordinator no longer waits"
        except FedloomError as error:
            reason = str(error)
        except Exception as error:  # noqa: BLE001  (a user's model may raise anything)
            reason = f"{type(error).__name__}: {error}"
        self._cancelled.discard(work.id)
        self._done(work.id, reason[:1024])
        # Beside the sending: it takes as long on a slow card.
        self._spool.persist(work.id)

    def _compute(self, work: pb.Work, arrays: Arrays, constants: Arrays) -> tuple[pb.Result, Arrays]:
        match work.kind:
            case pb.KIND_DESCRIBE:
                described = self._worker.describe()
                result = pb.Result(work=work.id, examples=described.examples)
                result.figures.extend(figures({"validation-examples": described.validation}))
                return result, described.summary
            case pb.KIND_TRAIN:
                update = self._train(work, arrays, constants)
                result = pb.Result(work=work.id, examples=update.examples)
                result.figures.extend(figures(update.metrics))
                result.warnings.extend(warning[:1024] for warning in update.warnings[:14])
                if _passed(self._until):
                    result.warnings.append(
                        f"partial work: the time was over after {update.metrics.get('steps', 0):.0f} steps"
                    )
                return result, update.arrays
            case pb.KIND_EVALUATE:
                measured = self._evaluate(work, arrays, constants)
                result = pb.Result(work=work.id, examples=measured.examples)
                result.figures.extend(figures({**measured.metrics, "loss": measured.loss}))
                return result, {}
            case _:
                raise FedloomError(f"work of the unknown kind {work.kind}; update fedloom on this device")

    def _train(self, work: pb.Work, arrays: Arrays, constants: Arrays) -> Update:
        assignment, orders, run = self._assignment(work), *_orders(work)
        if not isinstance(self._worker, Node) or orders == Orders():
            return self._worker.train(arrays, constants, assignment)
        given = _given(arrays, constants, self._memory.before(run, work.round))
        update, memory = train(self._worker, given, assignment, orders)
        if memory:
            self._memory.keep(run, work.round, memory)
        return update

    def _evaluate(self, work: pb.Work, arrays: Arrays, constants: Arrays) -> Evaluation:
        orders, run = _orders(work)
        if not isinstance(self._worker, Node) or orders == Orders():
            return self._worker.evaluate(arrays, constants)
        given = _given(arrays, constants, self._memory.before(run, work.round + 1))
        return evaluate(self._worker, given, orders)

    def _assignment(self, work: pb.Work) -> Assignment:
        def progress(epoch: int, loss: float) -> None:
            if work.id in self._cancelled:
                raise WorkCancelledError
            self._progress(pb.Progress(work=work.id, epoch=epoch, loss=loss))

        return Assignment(
            training=Training.from_config(read_settings(work.settings)),
            seed=work.seed,
            proximal_mu=work.proximal_mu,
            progress=progress,
            enough=partial(_passed, self._until) if self._until < math.inf else None,
        )


def _passed(moment: float) -> bool:
    return time.monotonic() > moment


def _orders(work: pb.Work) -> tuple[Orders, str]:
    """What a work asks for beside training, and the name of its run."""
    settings = read_settings(work.settings)
    return Orders.from_config(settings), str(settings.get(RUN, ""))


def _given(arrays: Arrays, constants: Arrays, memory: Arrays) -> Given:
    # What an algorithm broadcasts travels with the constants, under its own prefix.
    broadcast = part(constants, ALGORITHM)
    own = {name: a for name, a in constants.items() if not name.startswith(f"{ALGORITHM}/")}
    return Given(arrays=arrays, broadcast=broadcast, constants=own, memory=memory)
