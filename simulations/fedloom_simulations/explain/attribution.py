"""Attributions of a torch model's outputs to parts of its inputs, by Captum.

The methods are those of `fedloom_client.attribution`. Of tokens the baseline is an empty text, and
gradients end at the vectors that tokens are turned into.
"""

from typing import Any

import torch
from captum.attr import FeatureAblation, IntegratedGradients, LayerIntegratedGradients, Saliency
from torch import Tensor, nn

from fedloom_client.attribution import STEPS, Attribution, completeness_gap, patches
from fedloom_edge.errors import InputError


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
        together = torch.from_numpy(patches(x.shape[1:], tokens=not x.is_floating_point()))[None]
        values = FeatureAblation(forward).attribute(x, target=targets, feature_mask=together)
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
        gap = completeness_gap(values.numpy(), difference.numpy())
    return Attribution(values.numpy(), targets.numpy(), chosen.numpy(), gap)


def _gradients(forward: Any, x: Tensor, targets: Tensor, method: str) -> Tensor:
    if method == "saliency":
        found: Tensor = Saliency(forward).attribute(x.clone().requires_grad_(), target=targets)
        return found
    integrated: Tensor = IntegratedGradients(forward).attribute(
        x, target=targets, n_steps=STEPS, internal_batch_size=256
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
            x, baselines=torch.zeros_like(x), target=targets, n_steps=STEPS, internal_batch_size=256
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


def _one(values: Tensor) -> Tensor:
    """One figure a place of what ablation repeats over a token's pieces."""
    return values.reshape(*values.shape[:2], -1)[:, :, 0]
