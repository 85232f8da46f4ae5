"""Runs of image layers that each client passes by itself, one client after the other.

Convolutions fill a processor by themselves: stacking them saves nothing and drives a client's values out
of its caches. One after the other, and with channels as the innermost axis, in which oneDNN's kernels
and above all poolings and batch norm are faster, they took 0.5 to 0.7 of the time.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fedloom_simulations.engine.vectorised.lifting import Stack

Part = tuple[nn.Module, dict[str, str]]
"""A layer, and the full names of its own parameters and buffers."""
_WORTH = 2e6  # multiply-adds a client of the largest convolution, below which a call's own cost is more
_LAYERS = (
    nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Identity,
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Tanh, nn.Sigmoid,
)  # fmt: skip


def run_length(layers: list[nn.Module]) -> int:
    """How many of the first layers such a run takes; 0 if they do not begin with a convolution."""
    if not layers or type(layers[0]) is not nn.Conv2d:
        return 0
    return next((i for i, layer in enumerate(layers) if type(layer) not in _LAYERS), len(layers))


def worth(parts: list[Part], x: Tensor) -> bool:
    """Whether the convolutions of a run on x (K, B, C, H, W) are large enough."""
    first: Any = parts[0][0]
    sides = zip(x.shape[3:], first.kernel_size, first.stride, first.padding, first.dilation, strict=True)
    space = math.prod((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sides)
    kernels = max(layer.weight.numel() for layer, _ in parts if isinstance(layer, nn.Conv2d))
    return bool(x.shape[1] * space * kernels >= _WORTH)


def each_client(parts: list[Part], values: Mapping[str, Tensor], x: Tensor, stack: Stack) -> Tensor:
    """Outputs (K, B, ...) of a run for inputs (K, B, C, H, W); zeros behind a client's examples."""
    columns = [{own: values[name].unbind(0) for own, name in names.items()} for _, names in parts]
    calls = [_call(layer, own) for (layer, _), own in zip(parts, columns, strict=True)]
    outputs = []
    for k, (size, batch) in enumerate(zip(stack.sizes, x.unbind(0), strict=True)):
        y = _channels_last(batch[:size])
        for call in calls:
            y = call(k, y)
        y = _Leaving.apply(y)  # type: ignore[no-untyped-call]
        if size < x.shape[1]:
            y = torch.cat([y, y.new_zeros(x.shape[1] - size, *y.shape[1:])])
        outputs.append(y)
    return torch.stack(outputs)


class _Leaving(torch.autograd.Function):
    """Out of the channels' order, and gradients back into it, where a pooling's takes a tenth of the time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.contiguous()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return _channels_last(grad)


def _call(layer: Any, own: Mapping[str, tuple[Tensor, ...]]) -> Callable[[int, Tensor], Tensor]:
    """(client, inputs (B, C, H, W)) -> outputs, with the client's own values."""

    def mine(name: str, k: int) -> Any:
        return own[name][k] if name in own else None

    if type(layer) is nn.Conv2d:
        geometry: Any = (layer.stride, layer.padding, layer.dilation, layer.groups)
        return lambda k, x: torch.conv2d(x, mine("weight", k), mine("bias", k), *geometry)
    if type(layer) is nn.BatchNorm2d:
        rest: Any = (layer.training or layer.running_mean is None, layer.momentum, layer.eps, False)
        names = ("weight", "bias", "running_mean", "running_var")
        normalise: Any = torch.batch_norm
        return lambda k, x: normalise(x, *(mine(name, k) for name in names), *rest)
    return lambda k, x: layer(x)


def _channels_last(x: Tensor) -> Tensor:
    """x (B, C, H, W) in memory as (B, H, W, C)."""
    if x.shape[1] > 1:
        return x.contiguous(memory_format=torch.channels_last)
    # One channel lies in memory both ways, and strides say which way later layers shall take.
    height, width = x.shape[2:]
    return x.contiguous().as_strided(x.shape, (height * width, 1, width, 1))
