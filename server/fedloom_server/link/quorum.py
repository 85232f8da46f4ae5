"""When a phase is over: who has answered, who is lost, and how long the rest may take."""

import math
from dataclasses import dataclass

MIN_PATIENCE = 60.0
HEARTBEAT = 5.0
"""Seconds between two heartbeats of a device, if the grace is long enough for that."""


@dataclass(frozen=True, kw_only=True)
class Quorum:
    """When the coordinator stops waiting for devices.

    A slow device is not a failed one: as long as its heartbeats come it is waited for, until the
    others have been done for long.

    Attributes:
        share: of the asked devices that must answer, in (0, 1].
        grace: seconds without a sign of a device after which it counts as lost.
        patience: once a quorum is in, the rest may take so many times as long as the quorum took.
        deadline: seconds after which a phase is over in any case.
    """

    share: float = 0.8
    grace: float = 60.0
    patience: float = 3.0
    deadline: float = 3600.0

    @property
    def heartbeat(self) -> float:
        """Seconds between two heartbeats: several must fit into the grace."""
        return min(HEARTBEAT, self.grace / 4)

    def needed(self, asked: int) -> int:
        """How many answers make a quorum of `asked` devices."""
        return max(math.ceil(self.share * asked - 1e-9), 1)

    def over(
        self, *, asked: int, answered: int, lost: int, elapsed: float, quorum_after: float | None
    ) -> bool:
        """Whether to stop waiting.

        Args:
            asked: devices that were given work.
            answered: those with a result or a refusal.
            lost: those without answer and without sign for longer than the grace.
            elapsed: seconds since the phase began.
            quorum_after: seconds after which the quorum was in, or None.
        """
        if answered >= asked or elapsed >= self.deadline:
            return True
        if quorum_after is None or answered < self.needed(asked):
            return False
        return answered + lost >= asked or elapsed >= max(MIN_PATIENCE, self.patience * quorum_after)
