"""The processes that trials run in, each with one run at a time, so that a death tells whose it was."""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Self, TypeVar

from fedloom_simulations.tune.plan import SearchPlan
from fedloom_simulations.tune.trial import Outcome, begin_worker

A = TypeVar("A")
_DEATHS = 2  # of a run's process before the run is given up
_KILLED = Outcome("failed", reason="its process was killed twice, probably for want of memory")


class Workers:
    """`--jobs` processes; leaving the context waits for what runs and begins nothing more."""

    def __init__(self, plan: SearchPlan) -> None:
        self._plan = plan
        self._idle = [self._process() for _ in range(plan.options.jobs)]
        self._busy: dict[Future[Outcome], ProcessPoolExecutor] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in (*self._idle, *self._busy.values()):
            process.shutdown(wait=True, cancel_futures=True)

    def run(
        self,
        pending: list[A],
        start: Callable[[ProcessPoolExecutor, A], Future[Outcome]],
        count_death: Callable[[A], int],
    ) -> Iterator[tuple[A, Outcome]]:
        """Start each of `pending`, in order, as a process becomes free; yields what they come to as they end.

        `count_death` notes that a run's process was killed and returns how often it has been; after the
        first time the run is gone on with.

        Raises:
            KeyboardInterrupt: the user stopped a run; it can be gone on with.
        """
        runs: dict[Future[Outcome], A] = {}
        while pending or runs:
            while pending and self._idle:
                process, argument = self._idle.pop(), pending.pop(0)
                future = start(process, argument)
                self._busy[future], runs[future] = process, argument
            for future in wait(runs, return_when=FIRST_COMPLETED).done:
                process, argument = self._busy.pop(future), runs.pop(future)
                killed = isinstance(future.exception(), BrokenProcessPool)
                self._idle.append(self._process() if killed else process)
                if not killed:
                    yield argument, future.result()
                elif count_death(argument) < _DEATHS:
                    pending.insert(0, argument)
                else:
                    yield argument, _KILLED

    def _process(self) -> ProcessPoolExecutor:
        threads = max((os.cpu_count() or 1) // self._plan.options.jobs, 1)
        given = self._plan.options, threads
        return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), begin_worker, given)
