"""Attributions of a torch model's outputs to parts of its inputs, by Captum.

Integrated gradients: Sundararajan, Taly and Yan (2017), equation 1, from a baseline of zeros, which is
the mean where inputs are standardised and an empty text where they are tokens. Saliency: Simonyan,
Vedaldi and Zisserman (2013), the gradient's magnitude. Occlusion: Zeiler and Fergus (2013), how much
the output falls when a patch is set to the baseline.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from captum.attr import FeatureAblation, IntegratedGradients, LayerIntegratedGradients, Saliency
from numpy.typing import NDArray
from torch import Tensor, nn

from fedloom_edge.errors import InputError

_STEPS = 64  # of the integral
_PATCHES = 14  # of an image's side or a series' length


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


def attribute(model: nn.Module, x: Tensor, method: str) -> Attribution:
    """Attribute `model`'s largest output on each of `x` (N, ...) by `method`.

    Raises:
        InputError: the model takes whole numbers and has no embedding that gradients could end at.
    """
    model.eval()

    def forward(inputs: Tensor) -> Tensor:
        outputs: Tensor = model(inputs)
        return outputs.reshape(len(outputs), -1)

    with torch.no_grad():
        every = forward(x)
        targets = every.argmax(1)
        chosen = every.gather(1, targets[:, None])[:, 0]
    if method == "occlusion":
        values = FeatureAblation(forward).attribute(x, target=targets, feature_mask=_patches(x))
    elif x.is_floating_point():
        values = _gradients(forward, x, targets, method)
    else:
        values = _at_embedding(model, forward, x, targets, method)
    values = values.detach().float()
    if not x.is_floating_point():  # the pieces of a token, and an embedding's width
        values = values.reshape(*values.shape[:2], -1).sum(2) if method != "occlusion" else _one(values)
    gap = None
    if method == "integrated-gradients":
        difference = chosen - _at_baseline(model, forward, x).gather(1, targets[:, None])[:, 0]
        missing = (values.flatten(1).sum(1) - difference).abs()
        gap = float((missing / difference.abs().clamp(min=1e-3)).max())
    return Attribution(values.numpy(), targets.numpy(), chosen.numpy(), gap)


def _gradients(forward: Any, x: Tensor, targets: Tensor, method: str) -> Tensor:
    if method == "saliency":
        found: Tensor = Saliency(forward).attribute(x.clone().requires_grad_(), target=targets)
        return found
    integrated: Tensor = IntegratedGradients(forward).attribute(
        x, target=targets, n_steps=_STEPS, internal_batch_size=256
    )
    return integrated


@torch.no_grad()
def _at_baseline(model: nn.Module, forward: Any, x: Tensor) -> Tensor:
    """Outputs (N, K) where the path begins; of tokens only the vectors are replaced, not the mask."""
    empty = torch.zeros_like(x)
    outputs: Tensor
    if x.is_floating_point():
        outputs = forward(empty)
        return outputs
    layer = _embedding(model)
    vectors = layer(empty)
    handle = layer.register_forward_hook(lambda *_: vectors)
    try:
        outputs = forward(x)
        return outputs
    finally:
        handle.remove()


def _embedding(model: nn.Module) -> nn.Module:
    layer = next((m for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)), None)
    if layer is None:
        raise InputError("gradients need an embedding in a model of whole numbers; take --method occlusion")
    return layer


def _at_embedding(model: nn.Module, forward: Any, x: Tensor, targets: Tensor, method: str) -> Tensor:
    """Attributions (N, L, ..., width) to the vectors that tokens are turned into."""
    layer = _embedding(model)
    if method == "integrated-gradients":
        found: Tensor = LayerIntegratedGradients(forward, layer).attribute(
            x, baselines=torch.zeros_like(x), target=targets, n_steps=_STEPS, internal_batch_size=256
        )
        return found
    held: list[Tensor] = []

    def hold(_: nn.Module, __: Any, vectors: Tensor) -> Tensor:
        held.append(vectors.detach().requires_grad_())
        return held[-1]

    handle = layer.register_forward_hook(hold)
    try:
        output = forward(x).gather(1, targets[:, None]).sum()
        return torch.autograd.grad(output, held[-1])[0].abs()
    finally:
        handle.remove()


def _patches(x: Tensor) -> Tensor:
    """Which elements of an input are set to the baseline together, numbered from 0, (1, ...)."""
    patches: Tensor = torch.unique(_places(x), return_inverse=True)[1]
    return patches


def _places(x: Tensor) -> Tensor:
    shape = x.shape[1:]
    if not x.is_floating_point():  # (L, ...): a token's place
        return torch.arange(shape[0]).reshape(1, -1, *[1] * (len(shape) - 1)).expand(1, *shape)
    if len(shape) == 3:  # (C, H, W): squares
        rows, columns = (torch.arange(side) * min(_PATCHES, side) // side for side in shape[1:])
        return (rows[:, None] * _PATCHES + columns[None, :]).expand(1, *shape)
    if len(shape) == 2 and min(shape) > 1:  # (C, T): stretches of each channel
        stretch = torch.arange(shape[1]) * min(_PATCHES, shape[1]) // shape[1]
        return (torch.arange(shape[0])[:, None] * _PATCHES + stretch[None, :])[None]
    return torch.arange(int(np.prod(shape))).reshape(1, *shape)


def _one(values: Tensor) -> Tensor:
    """One figure a place of what ablation repeats over a token's pieces."""
    return values.reshape(*values.shape[:2], -1)[:, :, 0]
