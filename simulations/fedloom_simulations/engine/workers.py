"""Worker processes that live as long as a run: forked once, given jobs, answering in shared memory.

A fork shares the data with its parent for nothing. Arrays never pass through a pipe: the global ones
are written to memory that all share, and each answer lies in memory of its own, whose descriptor is
handed over and which is freed with the last view on it.
"""

import math
import mmap
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any, TypeVar

import numpy as np
import torch

from fedloom_edge.arrays import Arrays
from fedloom_edge.errors import InputError, RunError
from fedloom_simulations.engine.cohort import Cohort, Job, Phase, Row
from fedloom_simulations.engine.whole import Answered, WholeClients, WholeJob

Answer = tuple[list[Row], Arrays]
Given = TypeVar("Given")
Got = TypeVar("Got")
_ALIGNED = 64


def can_fork() -> bool:
    """Whether worker processes are available: forking is safe on Linux only."""
    return sys.platform == "linux"


class Workers:
    """Processes that train and measure clients of `cohort`, or let them do all that is around it.

    Raises:
        InputError: this platform has no safe fork.
    """

    def __init__(self, cohort: Cohort, whole: WholeClients, arrays: Arrays, count: int) -> None:
        if not can_fork():
            raise InputError("--workers needs Linux; use --workers 1 or --engine ray")
        self._cohort = cohort
        self._down = mmap.mmap(-1, max(_bytes(arrays, 1), 1))
        self._connections: list[Connection] = []
        self._processes: list[Any] = []
        context = multiprocessing.get_context("fork")
        for _ in range(count):
            ours, theirs = context.Pipe()
            others = [*self._connections, ours]
            process = context.Process(
                target=_serve, args=(cohort, whole, theirs, others, self._down, arrays), daemon=True
            )
            process.start()
            theirs.close()
            self._connections.append(ours)
            self._processes.append(process)

    def run(self, phase: Phase, jobs: Sequence[Job]) -> Iterator[Answer]:
        """Do the jobs of a phase; answers come in the order in which they are ready."""
        for name, view in _carved(self._down, phase.arrays, 1).items():
            np.copyto(view[0], phase.arrays[name])
        bare = replace(phase, arrays={})
        for connection in self._connections:
            connection.send(bare)
        yield from self._exchange(jobs, partial(self._receive, phase))

    def run_whole(self, jobs: Sequence[WholeJob]) -> Iterator[list[Answered]]:
        """Do jobs of whole clients; answers come in the order in which they are ready."""
        yield from self._exchange(jobs, _received)

    def _exchange(self, jobs: Iterable[Given], receive: Callable[[Connection], Got]) -> Iterator[Got]:
        """Give each process a job, and the next one as soon as it has answered."""
        waiting = iter(jobs)
        busy: set[Connection] = set()
        for connection in self._connections:
            self._give(connection, waiting, busy)
        while busy:
            for ready in wait(list(busy)):
                connection = next(c for c in busy if c is ready)
                try:
                    answer = receive(connection)
                    for text in connection.recv():
                        self._cohort.trouble(text)
                except (EOFError, ConnectionError) as error:
                    raise RunError(
                        "a worker process died, probably for want of memory; try --workers 1"
                    ) from error
                busy.discard(connection)
                self._give(connection, waiting, busy)
                yield answer

    def close(self) -> None:
        """End the processes."""
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            process.join(1)
            if process.is_alive():
                process.kill()
                process.join()

    @staticmethod
    def _give(connection: Connection, waiting: Iterator[Any], busy: set[Connection]) -> None:
        if (job := next(waiting, None)) is not None:
            connection.send(job)
            busy.add(connection)

    @staticmethod
    def _receive(phase: Phase, connection: Connection) -> Answer:
        rows = connection.recv()
        if phase.training is None:
            return rows, {}
        with os.fdopen(recv_handle(connection), "rb") as file:
            memory = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        return rows, _carved(memory, phase.arrays, len(rows))


def _received(connection: Connection) -> list[Answered]:
    answers: list[Answered] = connection.recv()
    return answers


def _serve(
    cohort: Cohort,
    whole: WholeClients,
    connection: Connection,
    others: Iterable[Connection],
    down: mmap.mmap,
    template: Arrays,
) -> None:
    """A worker's life: phases and jobs until its parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C, and then closes the pipe
    for other in others:
        other.close()
    torch.set_num_threads(1)
    phase: Phase | None = None
    try:
        while True:
            message = connection.recv()
            if isinstance(message, Phase):
                arrays = {name: view[0] for name, view in _carved(down, template, 1).items()}
                phase = replace(message, arrays=arrays)
                continue
            if isinstance(message, WholeJob):
                connection.send(whole.run(message))
            elif phase is not None and phase.training is None:
                connection.send(cohort.evaluate(phase, message))
            elif phase is not None:
                _train(cohort, connection, phase, message)
            connection.send(cohort.troubles)
    except (EOFError, ConnectionError):
        return


def _train(cohort: Cohort, connection: Connection, phase: Phase, job: Job) -> None:
    descriptor = os.memfd_create("fedloom")
    try:
        os.ftruncate(descriptor, _bytes(phase.arrays, len(job)))
        memory = mmap.mmap(descriptor, 0)
        rows = cohort.train(phase, job, _carved(memory, phase.arrays, len(job)))
        connection.send(rows)
        send_handle(connection, descriptor, os.getppid())
    finally:
        os.close(descriptor)


def _carved(memory: mmap.mmap, template: Arrays, clients: int) -> Arrays:
    """The arrays (K, ...) of so many clients in `memory`, without a copy."""
    views: Arrays = {}
    place = 0
    for name, array in template.items():
        count = clients * array.size
        flat = np.frombuffer(memory, array.dtype, count, place)
        views[name] = flat.reshape(clients, *array.shape)
        place += _up(count * array.itemsize)
    return views


def _bytes(template: Arrays, clients: int) -> int:
    return sum(_up(clients * array.nbytes) for array in template.values())


def _up(size: int) -> int:
    return math.ceil(size / _ALIGNED) * _ALIGNED
