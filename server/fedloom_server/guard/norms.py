"""Which updates are outliers by their norm: median and MAD over a round's clients and past rounds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal, get_args

from fedloom_edge.errors import InputError, unknown

Policy = Literal["quarantine", "clip", "accept"]
_ENOUGH = 5  # updates of which a median can be believed by itself
PAST = 5  # rounds whose statistics count beside this one's
_LOWEST, NO_LIMIT = -60, 280  # buckets: norms from 2**-30 to 2**140


@dataclass(frozen=True, kw_only=True)
class GuardSettings:
    """What is done with an update whose norm stands out, what standing out means, and how many are enough.

    A norm is an outlier where `log2(norm) > centre + max(room, sigmas * spread)`. Centre is this round's
    median: norms fall and rise from round to round; with fewer than 5 updates it is the median of past
    rounds' medians if that is larger. Spread is the median of this round's and past rounds'
    1.4826 * MAD, which is a normal distribution's standard deviation (Hampel, 1974), past rounds
    without their outliers. Norms are compared by logarithm because they differ by factors. The rule
    never takes half of a round's updates or more: what most clients do is no outlier.

    Attributes:
        norms: quarantine refuses the update, clip scales its difference down to the limit, accept
            only says it.
        sigmas: > 0.
        room: octaves above the centre that are always allowed, >= 0; 2 is four times the median.
        quorum: share of the clients asked that must give a good update (at least one must), in [0, 1];
            with fewer the round is repeated.
        attempts: at a round, before the run ends; at least 1.
    """

    norms: Policy = "quarantine"
    sigmas: float = 3.0
    room: float = 2.0
    quorum: float = 0.25
    attempts: int = 3

    def __post_init__(self) -> None:
        if self.norms not in get_args(Policy):
            raise unknown("guard.norms", self.norms, get_args(Policy))
        if not (self.sigmas > 0 and self.room >= 0 and 0 <= self.quorum <= 1 and self.attempts >= 1):
            raise InputError(
                "--set guard: sigmas must be positive, room at least 0, quorum from 0 to 1, attempts from 1"
            )


@dataclass(frozen=True)
class RoundNorms:
    """What is remembered of a round: median and spread of log2(norm) over its clients."""

    centre: float
    spread: float

    @classmethod
    def of(cls, norms: Sequence[float]) -> "RoundNorms":
        """Statistics of norms, at least one."""
        logs = [_log2(norm) for norm in norms]
        centre = median(logs)
        return cls(centre, 1.4826 * median(abs(value - centre) for value in logs))


def bucket(norm: float) -> int:
    """The half-octave of a norm: the smallest b with norm <= 2**(b / 2), within bounds.

    Updates are summed by bucket, so that the rule can use the statistics of the whole round and
    still nothing but sums is held: whole buckets are taken or left.
    """
    return min(max(math.ceil(2 * _log2(norm)), _LOWEST), NO_LIMIT)


def limit(settings: GuardSettings, norms: Mapping[int, float], past: Sequence[RoundNorms]) -> int:
    """The highest bucket that is no outlier, for a round's clients' `norms`; NO_LIMIT for no limit."""
    if len(norms) < 3:
        return NO_LIMIT
    here = RoundNorms.of(list(norms.values()))
    recent = past[-PAST:]
    centre = here.centre
    if recent and len(norms) < _ENOUGH:
        centre = max(centre, median([r.centre for r in recent]))
    spread = median([here.spread, *(r.spread for r in recent)])
    highest = math.ceil(2 * (centre + max(settings.room, settings.sigmas * spread)))
    beyond = sum(bucket(norm) > highest for norm in norms.values())
    return highest if 2 * beyond < len(norms) else NO_LIMIT


def _log2(norm: float) -> float:
    return math.log2(max(norm, 2.0**-30))
