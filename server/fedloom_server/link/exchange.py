"""One phase over the link: works to devices, and what comes of them until the phase is over."""

import logging
import queue
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from fedloom_client.wire import Content
from fedloom_edge.errors import RunError
from fedloom_protos.v1 import link_pb2 as pb
from fedloom_server.link.coordinator import Coordinator
from fedloom_server.link.jobs import Job, Outcome
from fedloom_server.link.quorum import Quorum

log = logging.getLogger("fedloom.link")

_TICK = 0.5
_SAY_EVERY = 30.0
_SUMMARY_BYTES = 64 << 20
_SPARE_BYTES = 1 << 20


@dataclass(frozen=True)
class Errand:
    """A work for a device, and where the chunks of its arrays and constants are."""

    device: str
    work: pb.Work
    arrays: Content
    constants: Content

    def job(self, until: float) -> Job:
        """What a coordinator keeps of it."""
        query = self.work.kind == pb.KIND_DESCRIBE
        limit = _SUMMARY_BYTES if query else 2 * self.arrays.bytes + _SPARE_BYTES
        return Job(self.device, self.work, (self.arrays, self.constants), limit, until)


def gathered(
    coordinator: Coordinator, at_least: int, deadline: float, check: Callable[[], None] = lambda: None
) -> list[str]:
    """Wait until so many devices are connected; gives the names of those connected then, sorted.

    `check` is called meanwhile, and may raise.

    Raises:
        RunError: too few came in `deadline` seconds.
    """
    began = said = time.monotonic()
    while len(devices := coordinator.connected()) < at_least:
        check()
        now = time.monotonic()
        if now - began > deadline:
            raise RunError(f"{len(devices)} of {at_least} devices connected in {deadline:.0f} s; start again")
        if now - said > _SAY_EVERY:
            said = now
            log.info("waiting for devices: %d of %d are connected", len(devices), at_least)
        time.sleep(0.02)
    return sorted(devices)


def exchange(
    coordinator: Coordinator,
    quorum: Quorum,
    errands: Sequence[Errand],
    deadline: float,
    check: Callable[[], None] = lambda: None,
) -> Iterator[Outcome]:
    """Give each device its work and yield outcomes until the phase is over (see `Quorum`).

    Every device has one, with a reason where there is no result. `check` is called now and then, and may
    raise to break the phase off.

    Raises:
        RunError: the deadline passed before a quorum had answered.
    """
    try:
        yield from _Phase(coordinator, quorum, errands, deadline, check).outcomes()
    finally:
        coordinator.cancel()


class _Phase:
    def __init__(
        self,
        coordinator: Coordinator,
        quorum: Quorum,
        errands: Sequence[Errand],
        deadline: float,
        check: Callable[[], None],
    ) -> None:
        self._coordinator = coordinator
        self._quorum = quorum
        self._deadline = deadline
        self._check = check
        until = time.monotonic() + deadline
        self._jobs = {errand.device: errand.job(until) for errand in errands}

    def outcomes(self) -> Iterator[Outcome]:
        """Outcomes as they arrive."""
        coordinator = self._coordinator
        inbox = coordinator.inbox
        inbox.clear({job.work.id for job in self._jobs.values()})
        _empty(coordinator.outcomes)
        kept = {device: result for device, job in self._jobs.items() if (result := inbox.get(job.work.id))}
        began = said = time.monotonic()
        coordinator.open([job for device, job in self._jobs.items() if device not in kept])
        waiting = set(self._jobs)
        for device, result in kept.items():  # complete before the coordinator was restarted
            waiting.discard(device)
            yield Outcome(device, result.work, result)
        quorum_after: float | None = None
        while waiting:
            self._check()
            elapsed = time.monotonic() - began
            answered = len(self._jobs) - len(waiting)
            if quorum_after is None and answered >= self._quorum.needed(len(self._jobs)):
                quorum_after = elapsed
            lost = sum(coordinator.silent_for(device) > self._quorum.grace for device in waiting)
            if self._over(answered, lost, elapsed, quorum_after):
                break
            try:
                outcome = coordinator.outcomes.get(timeout=_TICK)
            except queue.Empty:
                said = self._say(waiting, said)
                continue
            if outcome.device in waiting and outcome.work == self._jobs[outcome.device].work.id:
                waiting.discard(outcome.device)
                yield outcome
        for device in waiting:
            silent = coordinator.silent_for(device)
            lost_now = silent > self._quorum.grace
            reason = f"lost: no sign of it for {silent:.0f} s" if lost_now else "late: the others were done"
            yield Outcome(device, "", None, reason)

    def _over(self, answered: int, lost: int, elapsed: float, quorum_after: float | None) -> bool:
        asked = len(self._jobs)
        if elapsed >= self._deadline and answered < self._quorum.needed(asked):
            away = len(self._jobs.keys() - set(self._coordinator.connected()))
            mend = f"see that the {away} without a connection are on" if away else "give a longer --deadline"
            raise RunError(
                f"{answered} of {asked} devices answered in {elapsed:.0f} s, the quorum is "
                f"{self._quorum.needed(asked)}; {mend}, then resume the run"
            )
        over = elapsed >= self._deadline
        return over or self._quorum.over(
            asked=asked, answered=answered, lost=lost, elapsed=elapsed, quorum_after=quorum_after
        )

    def _say(self, waiting: set[str], said: float) -> float:
        now = time.monotonic()
        if now - said < _SAY_EVERY:
            return said
        away = sorted(set(waiting) - set(self._coordinator.connected()))
        names = ", ".join(away[:5]) + (" ..." if len(away) > 5 else "")
        log.info("waiting for %d devices%s", len(waiting), f"; not connected: {names}" if away else "")
        return now


def _empty(outcomes: "queue.SimpleQueue[Outcome]") -> None:
    while True:
        try:
            outcomes.get_nowait()
        except queue.Empty:
            return
