"""Which parts of an input speak for a model's output: attributions by numpy, of any model that can be asked.

Integrated gradients: Sundararajan, Taly and Yan (2017), equation 1, from a baseline of zeros, which is
the mean where inputs are standardised. Saliency: Simonyan, Vedaldi and Zisserman (2013), the gradient's
magnitude. Occlusion: Zeiler and Fergus (2013), how much the output falls when a patch is set to zero.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedloom_client.seeds import generator

STEPS = 64  # of the integral
PATCHES = 14  # of an image's side or a series' length
_SHARE = 0.2  # of an input that the check takes away
_RANDOM = 10  # random choices it is compared with

Outputs = Callable[[NDArray[Any]], NDArray[Any]]
"""Ready inputs (N, ...) -> outputs (N, K) float32."""
Gradient = Callable[[NDArray[Any], NDArray[np.int64]], NDArray[Any]]
"""Ready inputs (N, ...) and indices of outputs (N,) -> the gradient of those outputs (N, ...)."""


@dataclass(frozen=True)
class Attribution:
    """Which parts of each input speak for the output (N, ...), float32.

    Attributes:
        values: of the inputs' shape; of tokens (N, L), one a place.
        targets: index of the explained output (N,).
        outputs: the explained output itself (N,).
        gap: for integrated gradients, how far the attributions' sum is from the difference between the
            output and the baseline's, relative to it, at most over the samples; None for the others.
    """

    values: NDArray[np.float32]
    targets: NDArray[np.int64]
    outputs: NDArray[np.float32]
    gap: float | None


def attribute(outputs: Outputs, gradient: Gradient | None, x: NDArray[Any], method: str) -> Attribution:
    """Attribute the largest of a model's outputs on each of `x` (N, ...) by `method`.

    Args:
        outputs: the model.
        gradient: of it; None for occlusion, which needs none.
        x: ready inputs.
        method: one of `fedloom_client.explain.METHODS`.
    """
    every = outputs(x)
    targets = every.argmax(1).astype(np.int64)
    chosen = _of(every, targets)
    gap = None
    if method == "occlusion" or gradient is None:
        values = _occlusion(outputs, x, targets, chosen)
    elif method == "saliency":
        values = np.abs(gradient(x, targets))
    else:
        points, weights = np.polynomial.legendre.leggauss(STEPS)
        terms = zip((points + 1) / 2, weights / 2, strict=True)  # from [-1, 1] to [0, 1]
        values = x * sum(w * gradient((at * x).astype(x.dtype), targets) for at, w in terms)
        gap = completeness_gap(values, chosen - _of(outputs(np.zeros_like(x)), targets))
    return Attribution(values.astype(np.float32), targets, chosen.astype(np.float32), gap)


def completeness_gap(values: NDArray[Any], difference: NDArray[Any]) -> float:
    """How far sums of attributions (N, ...) are from the outputs' differences (N,), relative to these."""
    missing = np.abs(values.reshape(len(values), -1).sum(1) - difference)
    return float((missing / np.maximum(np.abs(difference), 1e-3)).max())


def deletion(outputs: Outputs, x: NDArray[Any], found: Attribution, seed: int) -> dict[str, float]:
    """How far the explained output falls when its best-attributed fifth is set to zero, and a random one.

    The deletion test of Petsiuk, Das and Saenko (2018) at one point: attributions that do not fall
    further than chance say nothing.
    """
    draw = generator(seed, "deletion")
    size = found.values[0].size
    taken = max(round(_SHARE * size), 1)
    best = np.argsort(-found.values.reshape(len(x), -1), axis=1)[:, :taken]
    random = (np.argsort(draw.random((len(x), size)), axis=1)[:, :taken] for _ in range(_RANDOM))
    falls = [found.outputs - _of(outputs(_without(x, p, size)), found.targets) for p in (best, *random)]
    return {"fall_best": float(falls[0].mean()), "fall_random": float(np.mean(falls[1:]))}


def verdict(found: Attribution, check: dict[str, float]) -> list[str]:
    """What a person should know of attributions before believing them, in lines."""
    lines = [
        f"without the best-attributed fifth of an input its output falls by {check['fall_best']:.3f}, "
        f"without a random fifth by {check['fall_random']:.3f}"
    ]
    if check["fall_best"] <= check["fall_random"]:
        lines.append("these attributions say no more than chance: do not rely on them; try another --method")
    if found.gap is not None:
        lines.append(f"the attributions' sums miss the outputs' differences by at most {found.gap:.1%}")
    return lines


def patches(shape: Sequence[int], *, tokens: bool) -> NDArray[np.int64]:
    """Which elements of an input of `shape` are set to zero together, numbered from 0."""
    if tokens:  # (L, ...): a token's place
        places = np.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    elif len(shape) == 3:  # (C, H, W): squares
        rows, columns = (np.arange(side) * min(PATCHES, side) // side for side in shape[1:])
        places = (rows[:, None] * PATCHES + columns)[None]
    elif len(shape) == 2 and min(shape) > 1:  # (C, T): stretches of each channel
        stretch = np.arange(shape[1]) * min(PATCHES, shape[1]) // shape[1]
        places = np.arange(shape[0])[:, None] * PATCHES + stretch
    else:
        places = np.arange(int(np.prod(shape))).reshape(shape)
    numbers = np.unique(np.broadcast_to(places, shape), return_inverse=True)[1]
    return numbers.reshape(shape).astype(np.int64)


def _occlusion(
    outputs: Outputs, x: NDArray[Any], targets: NDArray[np.int64], chosen: NDArray[Any]
) -> NDArray[Any]:
    tokens = x.dtype.kind != "f"
    numbers = patches(x.shape[1:], tokens=tokens)
    values = np.zeros(x.shape, np.float32)
    for number in range(int(numbers.max()) + 1):
        mask = numbers == number
        fall = chosen - _of(outputs(np.where(mask, np.zeros((), x.dtype), x)), targets)
        values[:, mask] = fall[:, None]
    return values.reshape(*values.shape[:2], -1)[:, :, 0] if tokens else values


def _without(x: NDArray[Any], places: NDArray[np.int64], size: int) -> NDArray[Any]:
    """`x` with `places` (N, K) of each of its `size` parts set to zero."""
    flat = x.reshape(len(x), size, -1).copy()
    flat[np.arange(len(x))[:, None], places] = 0
    return flat.reshape(x.shape)


def _of(outputs: NDArray[Any], targets: NDArray[np.int64]) -> NDArray[Any]:
    return outputs[np.arange(len(outputs)), targets]
