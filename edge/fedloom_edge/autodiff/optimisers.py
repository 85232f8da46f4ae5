"""Optimisers as graph parts, by the names that `Training.optimizer` takes, with PyTorch's defaults.

In the formulas w is a parameter, d its gradient after clipping, η the learning rate, λ the weight decay,
t the step from 1. State starts at zero.
"""

from dataclasses import dataclass

import numpy as np

from fedloom_edge.autodiff.rules import Tape
from fedloom_edge.step_settings import StepSettings

BETA_1, BETA_2, ADAM_EPSILON = 0.9, 0.999, 1e-8
ALPHA, RMSPROP_EPSILON = 0.99, 1e-8


@dataclass(frozen=True)
class Scalars:
    """Names of what all parameters share.

    Attributes:
        lr: η, float32 ().
        step: t, int64 ().
    """

    lr: str
    step: str


def state_names(settings: StepSettings) -> tuple[str, ...]:
    """What an optimiser keeps for each parameter, in the parameter's shape."""
    match settings.optimizer:
        case "momentum" | "nesterov" if settings.momentum > 0:
            return ("velocity",)
        case "adam" | "adamw":
            return ("mean", "square")
        case "rmsprop":
            return ("square",)
        case _:
            return ()


class Update:
    """Writes the update of each parameter.

    Args:
        settings: optimiser, momentum and weight decay.
        scalars: learning rate and step.
        g: where to write.
    """

    def __init__(self, settings: StepSettings, scalars: Scalars, g: Tape) -> None:
        self.settings, self.scalars, self.g = settings, scalars, g
        self._rates: tuple[str, str] | None = None
        self._wide: dict[tuple[str, int], str] = {}
        self._rank = 0  # that scalars need beside the parameter in hand

    def __call__(self, w: str, d: str, state: list[str]) -> tuple[str, list[str]]:
        """Names of the new parameter and the new state."""
        g, settings = self.g, self.settings
        shape = g.values[w].typical
        self._rank = len(shape) if shape[-1:] == (1,) else 0
        if settings.weight_decay and settings.optimizer != "adamw":
            d = g.op("Add", d, g.op("Mul", w, self._scalar(settings.weight_decay)))
        match settings.optimizer:
            case "momentum" | "nesterov" if state:
                return self._momentum(w, d, state[0])
            case "adam" | "adamw":
                return self._adam(w, d, state)
            case "rmsprop":
                return self._rmsprop(w, d, state[0])
            case _:
                return self._descend(w, d), []

    def _scalar(self, value: float | str) -> str:
        """A number, or a scalar by name, to be multiplied with the parameter in hand.

        With as many axes as it has where its last is 1: onnxruntime broadcasts () over (C, M, 1, 1) element
        by element, in 70 times the time of (1, 1, 1, 1).
        """
        if isinstance(value, float):
            return self.g.constant(np.full([1] * self._rank, value))
        if not self._rank:
            return value
        key = (value, self._rank)
        if key not in self._wide:
            self._wide[key] = self.g.op("Reshape", value, self.g.ints(*[1] * self._rank))
        return self._wide[key]

    def _descend(self, w: str, d: str) -> str:
        """w - η d."""
        return self.g.op("Sub", w, self.g.op("Mul", d, self._scalar(self.scalars.lr)))

    def _momentum(self, w: str, d: str, v: str) -> tuple[str, list[str]]:
        """v <- μ v + d; w <- w - η v, or w - η (d + μ v) after Nesterov (Sutskever et al., 2013)."""
        g, mu = self.g, self._scalar(self.settings.momentum)
        v = g.op("Add", g.op("Mul", v, mu), d)
        if self.settings.optimizer == "nesterov":
            d = g.op("Add", d, g.op("Mul", v, mu))
            return self._descend(w, d), [v]
        return self._descend(w, v), [v]

    def _adam(self, w: str, d: str, state: list[str]) -> tuple[str, list[str]]:
        """m <- β₁m + (1-β₁)d; s <- β₂s + (1-β₂)d²; w <- w - η m̂ / (√ŝ + ε), m̂ = m/(1-β₁ᵗ), ŝ likewise.

        Kingma and Ba, 2015, algorithm 1; adamw shrinks w by ηλ first (Loshchilov and Hutter, 2019).
        Written as w - r m / (√s + e) with r = η √(1-β₂ᵗ)/(1-β₁ᵗ) and e = ε √(1-β₂ᵗ): fewer passes over w.
        """
        g = self.g
        m = g.op("Add", g.op("Mul", state[0], self._scalar(BETA_1)), g.op("Mul", d, self._scalar(1 - BETA_1)))
        square = g.op("Mul", g.op("Mul", d, d), self._scalar(1 - BETA_2))
        s = g.op("Add", g.op("Mul", state[1], self._scalar(BETA_2)), square)
        rate, epsilon = (self._scalar(name) for name in self._adam_rates())
        if self.settings.optimizer == "adamw" and self.settings.weight_decay:
            shrink = g.op("Mul", self.scalars.lr, g.constant(self.settings.weight_decay))
            w = g.op("Mul", w, self._scalar(g.op("Sub", g.constant(1.0), shrink)))
        step = g.op("Div", g.op("Mul", m, rate), g.op("Add", g.op("Sqrt", s), epsilon))
        return g.op("Sub", w, step), [m, s]

    def _adam_rates(self) -> tuple[str, str]:
        """r and e, in double precision: 1 - 0.999 in single is off by 1e-5."""
        if self._rates is None:
            g = self.g
            t = g.op("Cast", self.scalars.step, to=11)
            one = g.constant(1.0, "float64")
            first, second = (
                g.op("Sub", one, g.op("Pow", g.constant(beta, "float64"), t)) for beta in (BETA_1, BETA_2)
            )
            root = g.op("Sqrt", second)
            rate = g.op("Mul", g.op("Cast", self.scalars.lr, to=11), g.op("Div", root, first))
            epsilon = g.op("Mul", root, g.constant(ADAM_EPSILON, "float64"))
            self._rates = g.op("Cast", rate, to=1), g.op("Cast", epsilon, to=1)
        return self._rates

    def _rmsprop(self, w: str, d: str, s: str) -> tuple[str, list[str]]:
        """s <- α s + (1-α) d²; w <- w - η d / (√s + ε) (Hinton, 2012, lecture 6e)."""
        g = self.g
        square = g.op("Mul", g.op("Mul", d, d), self._scalar(1 - ALPHA))
        s = g.op("Add", g.op("Mul", s, self._scalar(ALPHA)), square)
        scale = g.op("Add", g.op("Sqrt", s), self._scalar(RMSPROP_EPSILON))
        return self._descend(w, g.op("Div", d, scale)), [s]
