"""Convolutions of K clients, each with its own kernels.

Small ones are one batched matrix product over patches. Larger ones are a loop over oneDNN's kernels,
which reached 170 to 240 GFLOP/s on a core where MKL's products, and oneDNN's own grouped
convolutions of this shape, reached 80 (benchmarks in docs/benchmarks.md).
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Ints = tuple[int, ...]
_SMALL = 2e6  # multiply-adds a client and call, below which a call's own cost is the larger part


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, sizes: list[int], geometry: tuple[Ints, Ints, Ints, int]
) -> Tensor:
    """Convolve x (K, B, C, *space) with weight (K, O, C / groups, *kernel) and bias (K, O).

    Args:
        x: inputs.
        weight: kernels.
        bias: or None.
        sizes: examples of each client; what is behind them in the batch gives zeros.
        geometry: stride, padding and dilation, one number an axis of space, and groups.
    """
    stride, padding, dilation, groups = geometry
    kernel = weight.shape[3:]
    out = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(x.shape[3:], kernel, stride, padding, dilation, strict=True)
    ]
    work = x.shape[1] * math.prod(out) * weight[0].numel()
    if work < _SMALL and groups == 1 and len(out) <= 2 and set(dilation) == {1}:
        return _by_patches(x, weight, bias, stride, padding)
    loop: Any = _Loop.apply
    result: Tensor = loop(x.contiguous(), weight.contiguous(), bias, sizes, geometry)
    return result


def _by_patches(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Ints, padding: Ints) -> Tensor:
    if x.ndim == 4:  # (K, B, C, L): an image of height 1
        flat = _by_patches(x.unsqueeze(3), weight.unsqueeze(3), bias, (1, *stride), (0, *padding))
        return flat.squeeze(3)
    clients, batch, channels = x.shape[:3]
    outputs, (height, width) = weight.shape[1], weight.shape[3:]
    x = functional.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    patches = x.unfold(3, height, stride[0]).unfold(4, width, stride[1])  # (K, B, C, H, W, h, w)
    space = patches.shape[3:5]
    rows = patches.permute(0, 1, 3, 4, 2, 5, 6).reshape(clients, -1, channels * height * width)
    kernels = weight.reshape(clients, outputs, -1).transpose(1, 2)
    y = torch.bmm(rows, kernels) if bias is None else torch.baddbmm(bias.unsqueeze(1), rows, kernels)
    return y.view(clients, batch, *space, outputs).permute(0, 1, 4, 2, 3).contiguous()


class _Loop(torch.autograd.Function):
    """One call of oneDNN a client, forward and backward, with nothing around it."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, sizes: list[int], geometry: Any
    ) -> Tensor:
        stride, padding, dilation, groups = geometry
        zeros = [0] * len(stride)
        parts = [
            torch.ops.aten.convolution(
                x[k, :n], weight[k], None if bias is None else bias[k],
                stride, padding, dilation, False, zeros, groups,
            )
            for k, n in enumerate(sizes)
        ]  # fmt: skip
        ctx.save_for_backward(x, weight)
        ctx.sizes, ctx.geometry, ctx.biased = sizes, geometry, bias is not None
        return _together(parts, x.shape[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.geometry
        zeros, grad = [0] * len(stride), grad.contiguous()
        wanted = [ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.biased]
        back = [
            torch.ops.aten.convolution_backward(
                grad[k, :n], x[k, :n], weight[k], [weight.shape[1]],
                stride, padding, dilation, False, zeros, groups, wanted,
            )
            for k, n in enumerate(ctx.sizes)
        ]  # fmt: skip
        dx, dw, db = zip(*back, strict=True)
        return (
            _together(dx, x.shape[1]) if wanted[0] else None,
            torch.stack(dw) if wanted[1] else None,
            torch.stack(db) if wanted[2] else None,
            None,
            None,
        )


def _together(parts: Any, batch: int) -> Tensor:
    """Results (n, ...) of each client as (K, B, ...), zeros where a client has fewer examples."""
    if all(len(part) == batch for part in parts):
        return torch.stack(parts)
    out: Tensor = parts[0].new_zeros(len(parts), batch, *parts[0].shape[1:])
    for k, part in enumerate(parts):
        out[k, : len(part)] = part
    return out
