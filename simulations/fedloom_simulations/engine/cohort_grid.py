"""A grid whose clients train as a cohort: stacked or one after the other, in one process or several."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import replace
from typing import Any, TypeVar

from flwr.app import Error, Message, MessageType
from flwr.clientapp.typing import Mod

from fedloom_client.data.shards import ShardRecipe
from fedloom_client.flower.messages import (
    CLIENT_FAILED,
    evaluation_metrics,
    read_assignment,
    read_constants,
    read_seed,
    update_metrics,
)
from fedloom_client.flower.records import arrays_in, values_in
from fedloom_client.orders import asks_to_train_only
from fedloom_client.trainer import Evaluation, Update
from fedloom_edge.arrays import Arrays
from fedloom_server.rounds.roster import Member, Numbered
from fedloom_server.rounds.stacked import StackedReplies
from fedloom_simulations.engine.backend import Choice, choose
from fedloom_simulations.engine.cohort import Cohort, Job, Phase, Row, allocate, handed
from fedloom_simulations.engine.inline import FIRST_NODE, InlineGrid
from fedloom_simulations.engine.whole import Asked, WholeClients, WholeJob
from fedloom_simulations.engine.workers import Answer, Workers, can_fork

Done = TypeVar("Done")
_WORTH_A_FORK = 0.2  # seconds of a phase, above which more processes pay


class CohortGrid(InlineGrid):
    """An inline grid that trains and measures the clients of a phase together.

    Clients that are ordered to do more than train run their whole app, several at a time (`whole.py`).

    Args:
        recipe: of the shards.
        clients: how many.
        mods: what wraps around training, as in `make_client_app`.
        backend: auto, torch, vmap or onnx.
        workers: processes; 0 for as many as pay.
        note: is told once what was chosen, and once what could not be stacked.
        chosen: whether the run has begun with `backend`, so that nothing is to be chosen.
        apart: whether messages of a phase share little, so that each client runs its whole app.
    """

    def __init__(
        self,
        recipe: ShardRecipe,
        clients: int,
        mods: Sequence[Mod],
        backend: str,
        workers: int,
        note: Callable[[str, str], None],
        *,
        chosen: bool = False,
        apart: bool = False,
    ) -> None:
        self._cohort = Cohort(recipe)
        self._whole = WholeClients(self._cohort, recipe, clients, mods)
        super().__init__(self._whole.app, clients)
        self._mods, self._backend, self._wanted, self._note = mods, backend, workers, note
        self._apart = apart
        self._choice = Choice(backend, "as before") if chosen else None
        self._workers: Workers | None = None
        self._expected: list[Message] = []
        self._slowest = 0.0
        self._noted = 0

    def close(self) -> None:
        """End worker processes, if there are any."""
        if self._workers is not None:
            self._workers.close()
            self._workers = None

    def members(self) -> Sequence[Member] | None:
        """All clients without asking them, where no summary of their data is needed."""
        sizes = None if self._cohort.task.preprocess else self._cohort.shards.sizes()
        return None if sizes is None else Numbered(FIRST_NODE, *sizes)

    def expect(self, messages: Sequence[Message]) -> None:
        """The messages of a phase, by which its clients are stacked, whichever of them are sent."""
        self._expected = list(messages)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """Run the messages' clients and yield each reply when it is there; `timeout` does not apply."""
        for reply in self.send_and_receive_stacked(messages):
            if isinstance(reply, StackedReplies):
                yield from reply.messages()
            else:
                yield reply

    def send_and_receive_stacked(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message | StackedReplies]:
        """As `send_and_receive`, with the replies of clients that were worked on together as one."""
        asked: dict[int, Message] = {}
        for message in messages:
            if message.metadata.message_type in (MessageType.TRAIN, MessageType.EVALUATE):
                asked[_client(message)] = message
            else:
                yield from super().send_and_receive([message])
        everyone = {_client(message): message for message in self._expected} | asked
        self._expected = []
        groups: dict[Any, dict[int, Message]] = {}
        phases: dict[Any, Phase] = {}
        if whole := {client: message for client, message in everyone.items() if self._is_whole(message)}:
            yield from self._run_whole(whole, asked.keys())
        for client, message in everyone.items():
            if client in whole:
                continue
            try:
                key, phase = self._phase(message, phases)
            except Exception as error:  # noqa: BLE001  (a strategy may send anything)
                if client in asked:
                    yield _failure(message, f"{type(error).__name__}: {error}")
                continue
            phases[key] = phase
            groups.setdefault(key, {})[client] = message
        for key, members in groups.items():
            yield from self._run(phases[key], members, asked.keys())

    def _phase(self, message: Message, known: dict[Any, Phase]) -> tuple[Any, Phase]:
        """What a message asks for, read once for all messages that share their records."""
        content = message.content
        records = (content["arrays"], content.get("preprocess"), content.get("config"))
        key = (message.metadata.message_type, *map(id, records))
        if key in known:
            return key, known[key]
        arrays, constants = arrays_in(content, "arrays"), read_constants(message)
        if message.metadata.message_type == MessageType.EVALUATE:
            return key, Phase(arrays, constants, backend=self._chosen)
        assignment = read_assignment(message, 0)
        return key, Phase(arrays, constants, assignment.training, assignment.proximal_mu)

    def _is_whole(self, message: Message) -> bool:
        return self._apart or not asks_to_train_only(values_in(message.content, "config"))

    def _run_whole(self, members: dict[int, Message], asked: Set[int]) -> Iterator[Message]:
        """Replies of those `members` who are asked, each with all that is around its training."""
        try:
            phase = self._phase(next(iter(members.values())), {})[1]
        except Exception:  # noqa: BLE001  (a strategy may send anything, and the app says what is wrong)
            phase = Phase({}, {})
        clients = self._seeded(members, phase)
        if phase.training is not None:
            phase = self._with_backend(phase, clients)
            planned = self._cohort.plan(phase, clients)
        else:
            planned = handed(phase.arrays, clients)
        jobs = [
            WholeJob(phase.backend, [Asked(members[k], self._context(FIRST_NODE + k).state) for k, _ in job])
            for job in planned
            if any(client in asked for client, _ in job)
        ]
        workers = self._forked(phase, len(jobs))
        done = map(self._whole.run, jobs) if workers is None else workers.run_whole(jobs)
        for answers in self._watched(done):
            for answer in answers:
                node = answer.reply.metadata.src_node_id
                if node - FIRST_NODE in asked:
                    self._context(node).state = answer.state
                    self._ran.add(node)
                    yield answer.reply

    @staticmethod
    def _seeded(members: dict[int, Message], phase: Phase) -> Job:
        if phase.training is None:
            return [(client, 0) for client in members]
        return [(client, read_seed(message, client)) for client, message in members.items()]

    def _with_backend(self, phase: Phase, clients: Job) -> Phase:
        """A phase of training with the backend of the run, which is chosen at the first."""
        if self._choice is None:
            self._choice = choose(self._backend, self._cohort, phase, clients)
            self._note(self._choice.backend, self._choice.reason)
        return replace(phase, backend=self._chosen)

    @property
    def _chosen(self) -> str:
        return self._choice.backend if self._choice is not None else "torch"

    def _run(
        self, phase: Phase, members: dict[int, Message], asked: Set[int]
    ) -> Iterator[Message | StackedReplies]:
        """Replies of those `members` of a phase that are asked; they are stacked as if all were."""
        clients = self._seeded(members, phase)
        if phase.training is not None:
            phase = self._with_backend(phase, clients)
        jobs = [job for job in self._cohort.plan(phase, clients) if any(client in asked for client, _ in job)]
        for rows, stacks in self._watched(self._answers(phase, jobs)):
            yield from self._replied(phase, members, asked, rows, stacks)

    def _watched(self, answers: Iterable[Done]) -> Iterator[Done]:
        """The answers, with a note of how long they took, without what is done with them, and of troubles."""
        began, waited = time.perf_counter(), 0.0
        for answer in answers:
            paused = time.perf_counter()
            yield answer
            waited += time.perf_counter() - paused
        self._slowest = max(self._slowest, time.perf_counter() - began - waited)
        self._say_troubles()

    def _replied(
        self, phase: Phase, members: dict[int, Message], asked: Set[int], rows: list[Row], stacks: Arrays
    ) -> Iterator[Message | StackedReplies]:
        """The replies of a job: failures, and what went well as one."""
        places = [k for k, row in enumerate(rows) if row.client in asked]
        for k in places:
            if rows[k].error:
                yield _failure(members[rows[k].client], rows[k].error)
        good = [k for k in places if not rows[k].error]
        if not good:
            return
        if len(good) < len(rows):
            stacks = {name: stack[good] for name, stack in stacks.items()}
        told = [rows[k] for k in good]
        training = phase.training is not None
        replies = StackedReplies(
            [members[row.client] for row in told],
            [_update_metrics(row) if training else _measured_metrics(row) for row in told],
            [row.warnings for row in told],
            stacks,
        )
        if training and self._mods:
            yield from map(self._modded, replies.questions, replies.messages())
        else:
            yield replies

    def _answers(self, phase: Phase, jobs: Sequence[Job]) -> Iterator[Answer]:
        workers = self._forked(phase, len(jobs))
        if workers is not None:
            yield from workers.run(phase, jobs)
            return
        for job in jobs:
            if phase.training is None:
                yield self._cohort.evaluate(phase, job), {}
            else:
                out = allocate(phase.arrays, len(job))
                yield self._cohort.train(phase, job, out), out

    def _forked(self, phase: Phase, jobs: int) -> Workers | None:
        """Worker processes, if they are wanted, or pay and nobody said how many."""
        if self._workers is None and phase.training is not None:
            count = self._wanted or min(os.cpu_count() or 1, jobs)
            pays = self._wanted or (can_fork() and self._slowest > _WORTH_A_FORK)
            if count > 1 and pays:
                self._cohort.prepare(phase)
                self._workers = Workers(self._cohort, self._whole, phase.arrays, count)
        return self._workers if jobs > 1 or self._wanted > 1 else None

    def _modded(self, message: Message, reply: Message) -> Message:
        """The reply as the mods leave it; what they call has been done already."""
        if not self._mods:
            return reply
        node = message.metadata.dst_node_id
        self._ran.add(node)

        def done(message: Message, context: Any) -> Message:
            return reply

        call: Any = done
        for mod in reversed(self._mods):
            call = _around(mod, call)
        result: Message = call(message, self._context(node))
        return result

    def _say_troubles(self) -> None:
        for text in self._cohort.troubles[self._noted :]:
            self._note("", text)
        self._noted = len(self._cohort.troubles)


def _around(mod: Mod, call: Any) -> Any:
    return lambda message, context: mod(message, context, call)


def _client(message: Message) -> int:
    return message.metadata.dst_node_id - FIRST_NODE


def _update_metrics(row: Row) -> dict[str, Any]:
    return update_metrics(Update({}, row.examples, row.metrics), row.seconds)


def _measured_metrics(row: Row) -> dict[str, Any]:
    return evaluation_metrics(Evaluation(row.loss, row.metrics, row.examples), row.seconds)


def _failure(message: Message, reason: str) -> Message:
    return Message(Error(CLIENT_FAILED, reason), reply_to=message)
