"""How a client trains: settings that the coordinator sends with every round."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

from fedloom_edge.errors import InputError, unknown

Optimizer = Literal["sgd", "momentum", "nesterov", "adam", "adamw", "rmsprop"]
Schedule = Literal["constant", "step", "exponential", "cosine"]


@dataclass(frozen=True, kw_only=True)
class Training:
    """Settings of local training. A round ends at `epochs` or `steps`, whichever comes first.

    Attributes:
        optimizer: sgd, momentum, nesterov, adam, adamw or rmsprop.
        lr: learning rate of round 1, > 0.
        momentum: coefficient of momentum and nesterov, in [0, 1).
        weight_decay: L2 coefficient, >= 0 (decoupled from the gradient for adamw).
        batch_size: examples a step, >= 1.
        epochs: passes over the shard a round, >= 1.
        steps: most optimiser steps a round; 0 for no bound.
        clip_norm: bound on the gradient's global L2 norm; 0 for none.
        clip_value: bound on each gradient element's magnitude; 0 for none.
        schedule: how `lr` falls across rounds: constant, step, exponential or cosine (to 0).
        decay: factor of step and exponential, in (0, 1].
        decay_rounds: rounds between two decays of step, >= 1.
        warmup_rounds: rounds over which `lr` rises linearly to its full value.
        dp_noise: standard deviation of DP-SGD's noise on a step's sum of clipped gradients, as a multiple
            of `dp_clip`; 0 for no DP-SGD. An example is then in a batch by a coin of its own, so that
            `batch_size` is what batches have on average.
        dp_clip: bound on the L2 norm of each example's gradient under DP-SGD.
        patience: epochs without a lower validation loss before a round's training stops early and
            its best epoch is sent; 0 for never.
    """

    optimizer: Optimizer = "momentum"
    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 0.0
    batch_size: int = 32
    epochs: int = 1
    steps: int = 0
    clip_norm: float = 0.0
    clip_value: float = 0.0
    schedule: Schedule = "constant"
    decay: float = 0.5
    decay_rounds: int = 10
    warmup_rounds: int = 0
    dp_noise: float = 0.0
    dp_clip: float = 0.0
    patience: int = 0

    def __post_init__(self) -> None:
        if self.optimizer not in get_args(Optimizer):
            raise unknown("optimizer", self.optimizer, get_args(Optimizer))
        if self.schedule not in get_args(Schedule):
            raise unknown("schedule", self.schedule, get_args(Schedule))
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if not (math.isfinite(value) and low <= value <= high):
                raise InputError(f"training.{name} is {value}; it must be from {low:g} to {high:g}")
        if (self.dp_noise > 0) != (self.dp_clip > 0):
            raise InputError("DP-SGD needs both training.dp_noise and training.dp_clip above 0")
        if self.dp_noise and self.patience:
            raise InputError(
                "training.patience chooses an epoch by the client's own validation data, which the noise of "
                "training.dp_noise does not hide; leave one out"
            )

    def lr_at(self, round_number: int, rounds: int) -> float:
        """Learning rate of a round (1-based) among `rounds`."""
        if round_number <= self.warmup_rounds:
            return self.lr * round_number / (self.warmup_rounds + 1)
        done = round_number - self.warmup_rounds - 1
        match self.schedule:
            case "step":
                return self.lr * self.decay ** (done // self.decay_rounds)
            case "exponential":
                return self.lr * self.decay**done
            case "cosine":
                span = max(rounds - self.warmup_rounds, 1)
                return self.lr * 0.5 * (1 + math.cos(math.pi * done / span))
            case _:
                return self.lr

    def at_round(self, round_number: int, rounds: int) -> "Training":
        """These settings with the learning rate of one round."""
        return replace(self, lr=self.lr_at(round_number, rounds))

    def most_steps(self, examples: int) -> int:
        """Steps that a round on so many examples takes, if `patience` does not end it."""
        steps = self.epochs * max(-(-examples // self.batch_size), 1)
        return min(steps, self.steps) if self.steps else steps

    def to_config(self) -> dict[str, str | int | float]:
        """Flat values for a Flower `ConfigRecord`, each under `training.<name>`."""
        return {f"training.{name}": value for name, value in asdict(self).items()}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Training":
        """The settings in a `ConfigRecord` that `to_config` filled."""
        return cls(**{field.name: config[f"training.{field.name}"] for field in fields(cls)})


_INFINITE = 1e30
_RANGES: tuple[tuple[str, float, float], ...] = (
    ("lr", 1e-12, 1e6),
    ("momentum", 0, 0.999999),
    ("weight_decay", 0, 1e6),
    ("batch_size", 1, 1_000_000),
    ("epochs", 1, 1_000_000),
    ("steps", 0, 1_000_000_000),
    ("clip_norm", 0, _INFINITE),
    ("clip_value", 0, _INFINITE),
    ("dp_noise", 0, 1e6),
    ("dp_clip", 0, _INFINITE),
    ("decay", 1e-12, 1),
    ("decay_rounds", 1, 1_000_000),
    ("warmup_rounds", 0, 1_000_000),
    ("patience", 0, 1_000_000),
)
