"""Batch normalisation of K clients: each by the statistics of its own examples."""

from typing import Any

import torch
from torch import Tensor

from fedloom_simulations.engine.vectorised.convolution import _together


def normalise(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    variance: Tensor | None,
    *,
    sizes: list[int],
    training: bool,
    momentum: float,
    eps: float,
) -> Tensor:
    """Normalise x (K, B, C, ...); running `mean` and `variance` (K, C) are updated in place if training."""
    if training:
        loop: Any = _Loop.apply
        result: Tensor = loop(x.contiguous(), weight, bias, mean, variance, sizes, momentum, eps)
        return result
    assert mean is not None and variance is not None
    shape = (len(x), 1, x.shape[2], *[1] * (x.ndim - 3))
    scale = torch.rsqrt(variance + eps)
    scale = scale if weight is None else scale * weight
    shift = -mean * scale
    shift = shift if bias is None else shift + bias
    return x * scale.view(shape) + shift.view(shape)


class _Loop(torch.autograd.Function):
    """PyTorch's own kernel for each client: its batch stays in the cache, and it may have any size."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Any,
        bias: Any,
        mean: Any,
        variance: Any,
        sizes: Any,
        momentum: float,
        eps: float,
    ) -> Tensor:
        rows = [[None if t is None else t[k] for t in (weight, bias, mean, variance)] for k in range(len(x))]
        parts, means, inverses = zip(
            *(
                torch.ops.aten.native_batch_norm(x[k, :n], *rows[k], True, momentum, eps)
                for k, n in enumerate(sizes)
            ),
            strict=True,
        )
        ctx.save_for_backward(x, weight, *means, *inverses)
        ctx.sizes, ctx.eps = sizes, eps
        return _together(parts, x.shape[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight, *kept = ctx.saved_tensors
        clients, grad = len(x), grad.contiguous()
        wanted = list(ctx.needs_input_grad[:3])
        back = [
            torch.ops.aten.native_batch_norm_backward(
                grad[k, :n], x[k, :n], None if weight is None else weight[k], None, None,
                kept[k], kept[clients + k], True, ctx.eps, wanted,
            )
            for k, n in enumerate(ctx.sizes)
        ]  # fmt: skip
        dx, dw, db = zip(*back, strict=True)
        return (
            _together(dx, x.shape[1]) if wanted[0] else None,
            torch.stack(dw) if wanted[1] else None,
            torch.stack(db) if wanted[2] else None,
            *[None] * 5,
        )
