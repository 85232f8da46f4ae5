"""Within this mode a model that vmap runs for one client uses the stacked operations of this package.

Whatever is not in the table is left to vmap's own rules. Random numbers come from each client's own
generator, drawn in the order and shapes in which `TorchTrainer` draws them.
"""

import math
import types
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from fedloom_simulations.engine.vectorised.convolution import convolve
from fedloom_simulations.engine.vectorised.lifting import NotVectorisable, Stack, lift
from fedloom_simulations.engine.vectorised.normalisation import normalise
from fedloom_simulations.engine.vectorised.recurrent import gru_layer


class StackedMode(TorchFunctionMode):
    """Replaces layers' functions by stacked ones for the clients of `stack`."""

    def __init__(self, stack: Stack) -> None:
        super().__init__()
        self.stack = stack

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if (stacked := _TABLE.get(func)) is not None:
            return stacked(self.stack, *args, **kwargs)
        if func in _COMPOSED:
            with self:  # so that what it is composed of comes back here
                return _body(func)(*args, **kwargs)
        return func(*args, **kwargs)


def _linear(stack: Stack, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return lift(_linear_stacked, x, weight, bias)


def _linear_stacked(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (K, ..., I), weight (K, O, I), bias (K, O): one batched product, however many axes x has."""
    flat = x.reshape(len(x), -1, x.shape[-1])
    out = torch.bmm(flat, weight.mT) if bias is None else torch.baddbmm(bias.unsqueeze(1), flat, weight.mT)
    return out.view(*x.shape[:-1], -1)


def _conv(
    stack: Stack,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    axes = weight.ndim - 2
    if x.ndim != axes + 2:
        raise NotVectorisable("a convolution of an input without a batch axis")
    if isinstance(padding, str):
        raise NotVectorisable(f"a convolution with padding={padding!r}; give a number")
    geometry = (*(_numbers(value, axes) for value in (stride, padding, dilation)), groups)
    return lift(partial(_convolve, stack.sizes, geometry), x, weight, bias)


def _convolve(sizes: list[int], geometry: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return convolve(x, weight, bias, sizes, geometry)


def _numbers(value: Any, axes: int) -> tuple[int, ...]:
    numbers = (value,) if isinstance(value, int) else tuple(value)
    return numbers * axes if len(numbers) == 1 else numbers


def _batch_norm(
    stack: Stack,
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    settings: Any = {"sizes": stack.sizes, "training": training, "momentum": momentum, "eps": eps}
    return lift(partial(normalise, **settings), x, weight, bias, running_mean, running_var)


def _dropout(stack: Stack, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    if not training or p == 0:
        return x
    return lift(partial(drop, stack, p, ()), x)


def _feature_dropout(
    stack: Stack, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    if not training or p == 0:
        return x
    return lift(partial(drop, stack, p, (1,) * (x.ndim - 2)), x)


def drop(stack: Stack, p: float, ones: tuple[int, ...], x: Tensor) -> Tensor:
    """x (K, B, ...) times a mask of (K, B, ...), or of (K, B, C, *ones) for whole features."""
    full = min(stack.sizes) == x.shape[1]
    noise = (x.new_empty if full else x.new_zeros)(*x.shape[: x.ndim - len(ones)], *ones)
    generators = stack.generators.first(len(stack.sizes))
    for k, (size, generator) in enumerate(zip(stack.sizes, generators, strict=True)):
        mask = noise[k, :size]
        if ones or x[k, :size].is_contiguous():
            mask.bernoulli_(1 - p, generator=generator)
        else:  # numbers are drawn in the order of memory, so the mask's axes must lie as the input's
            mask.copy_(torch.empty_like(x[k, :size]).bernoulli_(1 - p, generator=generator))
    return x * noise.div_(1 - p) if p < 1 else x * noise


def _attention(
    stack: Stack,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Scaled dot-product attention (Vaswani et al., 2017) by its formula: dropout needs the weights."""
    if enable_gqa:
        raise NotVectorisable("attention with grouped queries")
    if is_causal:
        attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool).tril()
    factor = math.sqrt(1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    scores = lift(torch.matmul, query * factor, key.transpose(-2, -1) * factor)
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(~attn_mask, -math.inf)
        scores = scores + attn_mask
    weights = _dropout(stack, torch.softmax(scores, -1), dropout_p)
    return lift(torch.matmul, weights, value)


def _gru(stack: Stack, x: Tensor, start: Tensor, weights: Any, *settings: Any) -> tuple[Tensor, Tensor]:
    if len(settings) != 6:
        raise NotVectorisable("a GRU over packed sequences")
    biased, layers, dropout, training, both_ways, batch_first = settings
    if x.ndim != 3:
        raise NotVectorisable("a GRU over one sequence without a batch axis")
    x = x if batch_first else x.transpose(0, 1)
    ways, each = (2 if both_ways else 1), (4 if biased else 2)
    last = []
    for layer in range(layers):
        outs = []
        for way in range(ways):
            place = layer * ways + way
            part = weights[place * each : (place + 1) * each]
            call = partial(_gru_layer, reverse=way == 1)
            outs.append(lift(call, x, start[place], *part))  # (B, T, H)
            last.append(outs[-1][:, 0 if way else -1])
        x = torch.cat(outs, 2) if ways > 1 else outs[0]
        if layer < layers - 1:
            # Time lies outermost in memory, as in PyTorch's own GRU, so that dropout draws alike.
            x = x.transpose(0, 1).contiguous().transpose(0, 1)
            x = _dropout(stack, x, dropout, training)
    return x if batch_first else x.transpose(0, 1), torch.stack(last)


def _gru_layer(x: Tensor, start: Tensor, *weights: Tensor, reverse: bool) -> Tensor:
    return gru_layer(x, start, list(weights), reverse=reverse)


def _refuse(name: str) -> Callable[..., Any]:
    def refuse(stack: Stack, *args: Any, **kwargs: Any) -> Any:
        raise NotVectorisable(f"{name} has no stacked form")

    return refuse


_TABLE: dict[Any, Callable[..., Any]] = {
    functional.linear: _linear,
    **dict.fromkeys((functional.conv1d, functional.conv2d, functional.conv3d), _conv),
    functional.batch_norm: _batch_norm,
    functional.dropout: _dropout,
    **dict.fromkeys((functional.dropout1d, functional.dropout2d, functional.dropout3d), _feature_dropout),
    functional.scaled_dot_product_attention: _attention,
    torch.gru: _gru,
    **{getattr(torch, name): _refuse(name) for name in ("lstm", "rnn_tanh", "rnn_relu")},
}
_COMPOSED = {functional.multi_head_attention_forward}


@cache
def _body(func: Any) -> Callable[..., Any]:
    """A function of `torch.nn.functional` that runs itself instead of handing itself to the mode."""
    scope = {**func.__globals__, "has_torch_function": lambda tensors: False}
    body = types.FunctionType(func.__code__, scope, func.__name__, func.__defaults__, func.__closure__)
    body.__kwdefaults__ = func.__kwdefaults__
    return body
