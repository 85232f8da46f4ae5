"""What secure aggregation is told, and what it cannot be combined with."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flwr.serverapp.strategy import Strategy

from fedloom_client.algorithms.base import Algorithm
from fedloom_edge.config import override
from fedloom_edge.errors import InputError
from fedloom_server.privacy.private_mean import PrivateMean
from fedloom_server.strategies.composed import Composed
from fedloom_server.strategies.updates import uses_only_mean

LEAST = 3
"""Clients of a round: of the sum of two, each knows the other's update."""


@dataclass(frozen=True, kw_only=True)
class SecureSettings:
    """Settings of secure aggregation.

    Attributes:
        clip: largest L2 norm of an update's difference to the global arrays; a client clips its own.
            The unit of the whole numbers that are summed grows with it.
        dropouts: share of a round's clients that may go missing after they gave keys, in [0, 0.45]; it
            decides how many neighbours each client shares masks with.
    """

    clip: float = 100.0
    dropouts: float = 0.3

    def __post_init__(self) -> None:
        if not (1e-6 <= self.clip <= 1e6 and 0 <= self.dropouts <= 0.45):
            raise InputError("--set secure: clip must be from 1e-6 to 1e6, dropouts from 0 to 0.45")


def secure_settings(
    options: argparse.Namespace, settings: Mapping[str, Mapping[str, str]], strategy: Strategy, clients: int
) -> SecureSettings | None:
    """The settings of `--secure-aggregation`, or None without it.

    Args:
        options: of `simulate` or `serve`.
        settings: of `--set`, by section.
        strategy: made.
        clients: in the federation.

    Raises:
        InputError: something that was asked for needs to look at single updates; it says what does not.
    """
    if not options.secure_aggregation:
        if settings["secure"]:
            raise InputError("--set secure.* needs --secure-aggregation")
        return None
    norms = sorted({"norms", "sigmas", "room"} & settings["guard"].keys())
    refuse_unmasked(options.strategy, strategy, options.compress, clients, norms)
    return override(SecureSettings(), settings["secure"], "secure")


def refuse_unmasked(
    name: str, strategy: Strategy, compress: str, clients: int, norms: Sequence[str] = ()
) -> None:
    """Check that nothing was asked for that needs single updates.

    Args:
        name: of the strategy.
        strategy: made.
        compress: codec, or empty.
        clients: in the federation.
        norms: settings of the guard that compare norms.

    Raises:
        InputError: something was; it says what does not need them.
    """
    needs = "--secure-aggregation shows the coordinator nothing but the sum of updates: "
    fault = isinstance(strategy, Composed) and type(strategy.algorithm).fault is not Algorithm.fault
    sampled = int(clients * getattr(strategy, "fraction_train", 1.0))
    sampled = max(sampled, getattr(strategy, "min_train_nodes", 1))
    refusals = (
        (
            isinstance(strategy, PrivateMean),
            f"strategy {name} clips each of them; use dp-local, training.dp_noise, or fedavg with "
            "--set secure.clip=NORM",
        ),
        (
            not uses_only_mean(strategy),
            f"strategy {name} needs each of them; fedavg, fedprox, fedavgm, fedadam, fedyogi, fedadagrad, "
            "feddyn, fedprox-inexact, fedbn, ditto, fedrep and apfl need the sum alone",
        ),
        (
            fault,
            f"strategy {name} needs each client's number of steps; feddyn and fedprox-inexact do without",
        ),
        (
            bool(compress),
            f"--compress {compress} makes updates that cannot be added up under masks; leave it out "
            "(masked updates take 4 bytes an element)",
        ),
        (
            bool(norms),
            f"the guard cannot compare norms; leave out --set guard.{' and guard.'.join(norms)} (clients "
            "clip their own to --set secure.clip=NORM)",
        ),
        (
            sampled < LEAST,
            f"with {sampled} clients a round it would give single ones away; take at least {LEAST}",
        ),
    )
    for refused, sentence in refusals:
        if refused:
            raise InputError(needs + sentence)
