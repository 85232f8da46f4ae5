"""What privacy must not be combined with."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from flwr.serverapp.strategy import Strategy

from fedloom_client.data.partition import VIRTUAL
from fedloom_client.training import Training
from fedloom_edge.config import override
from fedloom_edge.errors import InputError
from fedloom_server.guard.norms import GuardSettings
from fedloom_server.privacy.budget import Budget
from fedloom_server.privacy.local_privacy import LocalPrivacy
from fedloom_server.privacy.mechanisms import Mechanisms
from fedloom_server.privacy.private_mean import PrivateMean
from fedloom_server.strategies.composed import Composed

if TYPE_CHECKING:
    from fedloom_server.rounds.plan import Plan


def guard_settings(changes: Mapping[str, str], strategy: Strategy) -> GuardSettings:
    """The guard's settings, which leave norms alone where clipping bounds every update already.

    Raises:
        InputError: a setting is wrong, or would make one client decide over another's update, so that the
            noise no longer hid it.
    """
    settings = override(GuardSettings(), changes, "guard")
    if not isinstance(strategy, PrivateMean):
        return settings
    if changes.get("norms", "accept") != "accept":
        raise InputError(
            f"guard.norms={settings.norms}: a limit taken from the other clients' updates is not covered by "
            "the noise of dp-server-* and dp-client-*, whose clipping bounds every update; leave it out"
        )
    return override(settings, {"norms": "accept"}, "guard")


def check_private_training(strategy: Strategy, training: Training, partition: str) -> None:
    """Refuse private steps on an example that is trained on more often than the accountant knows of.

    Raises:
        InputError: it does.
    """
    if training.dp_noise and isinstance(strategy, Composed):
        raise InputError(
            "training.dp_noise accounts for one training a round, and this algorithm's clients train or "
            "measure more; use fedavg or another of Flower's strategies"
        )
    if training.dp_noise and partition.partition(":")[0] == VIRTUAL:
        raise InputError(
            f"training.dp_noise accounts for an example at one client, and under --partition {partition} "
            "clients share them; use another partition"
        )


def run_warnings(plan: "Plan", strategy: Strategy, examples: Callable[[], int]) -> list[str]:
    """What the strategy warns of, and what a private run's epsilon does not cover, in sentences.

    `examples` counts those of all clients.
    """
    found = list(getattr(strategy, "warnings", ()))
    if isinstance(strategy, PrivateMean | LocalPrivacy) and not strategy.noise_multiplier:
        found.append("strategy.noise_multiplier is 0: updates are clipped, and nothing is private")
    mechanisms = Mechanisms.of(strategy, plan.training)
    if mechanisms is None:
        return found
    budget = plan.privacy or Budget()
    if plan.task.preprocess is not None:
        found.append(
            "the preprocessing's constants are exact figures of all clients' data: epsilon leaves them out"
        )
    if plan.early_stop is not None:
        found.append(
            "--early-stop looks at clients' figures without noise: epsilon leaves out when the run ends"
        )
    many = {unit: examples() if unit == "sample" else plan.clients for unit in mechanisms.units}
    for unit, count in many.items():
        if budget.delta * count > 1:
            found.append(f"delta {budget.delta:g} is more than one in {count} {unit}s: give a smaller one")
    return found
