"""What makes a run private, as far as an accountant must know: read off its strategy and its training."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from flwr.serverapp.strategy import Strategy

from fedloom_client.training import Training
from fedloom_edge.errors import InputError
from fedloom_server.privacy.accountant import Composition, largest, require_accountant
from fedloom_server.privacy.budget import Budget
from fedloom_server.privacy.ledger import EVERYBODY, Release, Unit
from fedloom_server.privacy.local_privacy import LocalPrivacy
from fedloom_server.privacy.private_mean import PrivateMean

Cost = tuple[float, float, int]
"""(noise multiplier, sampling rate, how often) in one round."""


@dataclass(frozen=True, kw_only=True)
class Mechanisms:
    """The mechanisms of a run; at least one is there.

    Attributes:
        central: of the coordinator's noise: its multiplier and the clients' sampling rate; None without.
        local: multiplier of the noise on a client's update; 0 for none.
        training: whose `dp_noise` is the noise of DP-SGD.
    """

    central: tuple[float, float] | None
    local: float
    training: Training

    @classmethod
    def of(cls, strategy: Strategy, training: Training) -> Self | None:
        """Those of a run; None where nothing is noised."""
        central = local = None
        if isinstance(strategy, PrivateMean) and strategy.noise_multiplier:
            central = (strategy.noise_multiplier, strategy.rate)
        if isinstance(strategy, LocalPrivacy):
            local = strategy.noise_multiplier
        found = cls(central=central, local=local or 0.0, training=training)
        return found if found.units else None

    @property
    def units(self) -> tuple[Unit, ...]:
        """Whose presence is hidden, what `epsilon` tells of first."""
        client: tuple[Unit, ...] = ("client",) if self.central or self.local else ()
        return (*client, "sample") if self.training.dp_noise else client

    @property
    def said(self) -> str:
        """The mechanisms in words."""
        parts = [
            "noise on the mean of clipped updates" if self.central else "",
            "noise on every client's update" if self.local else "",
            "DP-SGD at the clients" if self.training.dp_noise else "",
        ]
        return ", ".join(part for part in parts if part)

    def cost(self, unit: Unit, examples: int) -> Cost:
        """Of one round for a client with so many examples that is asked to take part."""
        if unit == "client":
            return (*self.central, 1) if self.central else (self.local, 1.0, 1)
        rate = min(self.training.batch_size / max(examples, 1), 1.0)
        return self.training.dp_noise, rate, self.training.most_steps(examples)

    def asked(self, round_number: int, key: str, clients: Mapping[int, int]) -> Iterable[Release]:
        """What clients (-> their examples) release by answering."""
        units: list[Unit] = ["client"] if self.local else []
        if self.training.dp_noise:
            units.append("sample")
        for unit in units:
            for client, examples in clients.items():
                noise, rate, steps = self.cost(unit, examples)
                yield Release(unit, round_number, client, key, noise, rate, steps)

    def grown(self, round_number: int, key: str, client: int, before: int, now: int) -> Iterable[Release]:
        """What a client has released beyond what it was charged, whose examples are more than they were."""
        if not self.training.dp_noise:
            return
        noise, rate, steps = self.cost("sample", before)
        more = self.training.most_steps(now) - steps
        if more > 0:
            yield Release("sample", round_number, client, key, noise, rate, more)

    def made(self, round_number: int, key: str) -> Iterable[Release]:
        """What the coordinator releases with new global arrays."""
        if self.central:
            yield Release("client", round_number, EVERYBODY, key, *self.central, 1)

    def first_round(self, sizes: Iterable[int]) -> dict[Unit, set[Composition]]:
        """What one round costs clients of such sizes."""
        different = set(sizes)
        return {unit: {(self.cost(unit, size),) for size in different} for unit in self.units}


def check_budget(budget: Budget | None, mechanisms: Mechanisms | None, sizes: Iterable[int]) -> None:
    """Refuse a run that could not make one round, or has a budget and nothing to spend it on.

    Raises:
        InputError: that is so, or there is no accountant.
    """
    if mechanisms is None:
        if budget is not None:
            raise InputError(
                "--privacy needs noise to account for: --strategy dp-server-fixed:fedavg, dp-local:fedavg, "
                "or --set training.dp_noise=1 --set training.dp_clip=1"
            )
        return
    require_accountant()
    if budget is None or math.isinf(budget.epsilon):
        return
    for unit, costs in mechanisms.first_round(sizes).items():
        if (spent := largest(costs, budget.delta)) > budget.epsilon:
            option = "training.dp_noise" if unit == "sample" else "strategy.noise_multiplier"
            raise InputError(
                f"--privacy epsilon={budget.epsilon:g}: round 1 alone would spend epsilon {spent:.4g} "
                f"at delta {budget.delta:g}; give more noise with --set {option}=VALUE, or a larger budget"
            )
