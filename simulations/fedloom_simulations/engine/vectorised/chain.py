"""Chains of well-known layers on stacked values, without vmap: its own cost is most of a small step."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedloom_simulations.engine.vectorised.by_client import each_client, run_length, worth
from fedloom_simulations.engine.vectorised.convolution import convolve
from fedloom_simulations.engine.vectorised.lifting import Stack
from fedloom_simulations.engine.vectorised.mode import drop
from fedloom_simulations.engine.vectorised.normalisation import normalise

Values = Mapping[str, Tensor]
"""A layer's own parameters and buffers by name, (K, ...) each."""
Form = Callable[[Any, Values, Tensor, Stack], Tensor]
"""(layer, its values, inputs (K, B, ...), clients) -> outputs (K, B, ...)."""
_NARROW = 32  # outputs of a dense layer


class Chain:
    """A `nn.Sequential` of layers that are known here, for K clients at once.

    Attributes:
        turned: names of weights that are kept transposed, (K, I, O), so that their gradients come out
            contiguous without a copy. Those of layers with few outputs are not: see `_linear`.
    """

    def __init__(self, layers: list[tuple[nn.Module, Form, dict[str, str]]]) -> None:
        self._layers = layers
        modules = [layer for layer, *_ in layers]
        self._runs = [run_length(modules[place:]) for place in range(len(modules))]
        self.turned = frozenset(
            names["weight"] for layer, _, names in layers if type(layer) is nn.Linear and not _narrow(layer)
        )

    @classmethod
    def of(cls, model: nn.Module) -> "Chain | None":
        """The chain that `model` is; None if it is something else, which vmap runs."""
        layers: list[tuple[nn.Module, Form, dict[str, str]]] = []
        seen: set[int] = set()
        for prefix, layer in _leaves(model, ""):
            form = _FORMS.get(type(layer))
            own = {**dict(layer.named_parameters()), **dict(layer.named_buffers())}
            # A shared layer, a hook or a parametrisation is for vmap.
            if form is None or _watched(layer) or not seen.isdisjoint(map(id, own.values())):
                return None
            if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d) and (
                isinstance(layer.padding, str) or layer.padding_mode != "zeros"
            ):
                return None
            seen |= set(map(id, own.values()))
            layers.append((layer, form, {name: prefix + name for name in own}))
        return cls(layers)

    def works_apart(self, x: Tensor) -> bool:
        """Whether the first layers work on each client by itself, for one client's inputs x (B, ...)."""
        run = self._layers[: self._runs[0]] if self._layers else []
        return bool(run) and x.ndim == 4 and worth([(layer, names) for layer, _, names in run], x[None])

    def __call__(self, values: Mapping[str, Tensor], x: Tensor, stack: Stack) -> Tensor:
        """Outputs (K, B, ...) for inputs (K, B, ...); `values` are all of the model's by full name."""
        place = 0
        while place < len(self._layers):
            run = self._layers[place : place + self._runs[place]]
            parts = [(layer, names) for layer, _, names in run]
            if parts and x.ndim == 5 and worth(parts, x):
                x = each_client(parts, values, x, stack)
                place += len(parts)
                continue
            layer, form, names = self._layers[place]
            x = form(layer, {own: values[name] for own, name in names.items()}, x, stack)
            place += 1
        return x


def _leaves(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    if type(module) is nn.Sequential and not _watched(module):
        for name, child in module._modules.items():  # named_children leaves out repetitions
            assert child is not None
            yield from _leaves(child, f"{prefix}{name}.")
    else:
        yield prefix, module


def _watched(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
        or module._backward_pre_hooks or "forward" in module.__dict__
    )  # fmt: skip


def _narrow(layer: nn.Linear) -> bool:
    return layer.out_features < _NARROW


def _linear(layer: Any, own: Values, x: Tensor, stack: Stack) -> Tensor:
    flat = x.reshape(len(x), -1, x.shape[-1])
    weight = own["weight"]  # (K, I, O), or of few outputs (K, O, I)
    if _narrow(layer):
        # Products whose innermost axis is that of the inputs: 0.6 and 0.3 ms forward and backward for 152
        # clients, 784 inputs and 10 outputs, where the other way takes 1.1 and 1.8.
        out = torch.bmm(weight, flat.mT)
        out = out + own["bias"].unsqueeze(2) if "bias" in own else out
        return out.mT.contiguous().view(*x.shape[:-1], -1)
    out = torch.baddbmm(own["bias"].unsqueeze(1), flat, weight) if "bias" in own else torch.bmm(flat, weight)
    return out.view(*x.shape[:-1], -1)


def _conv(layer: Any, own: Values, x: Tensor, stack: Stack) -> Tensor:
    geometry = (layer.stride, layer.padding, layer.dilation, layer.groups)
    return convolve(x, own["weight"], own.get("bias"), stack.sizes, geometry)


def _batch_norm(layer: Any, own: Values, x: Tensor, stack: Stack) -> Tensor:
    mean, variance = own.get("running_mean"), own.get("running_var")
    return normalise(
        x, own.get("weight"), own.get("bias"), mean, variance, sizes=stack.sizes,
        training=layer.training or mean is None, momentum=layer.momentum, eps=layer.eps,
    )  # fmt: skip


def _group_norm(layer: Any, own: Values, x: Tensor, stack: Stack) -> Tensor:
    normed = functional.group_norm(x.flatten(0, 1), layer.num_groups, eps=layer.eps).view_as(x)
    return _scaled(normed, own, (len(x), 1, x.shape[2], *[1] * (x.ndim - 3)))


def _layer_norm(layer: Any, own: Values, x: Tensor, stack: Stack) -> Tensor:
    shape = layer.normalized_shape
    normed = functional.layer_norm(x, shape, eps=layer.eps)
    return _scaled(normed, own, (len(x), *[1] * (x.ndim - 1 - len(shape)), *shape))


def _scaled(x: Tensor, own: Values, shape: tuple[int, ...]) -> Tensor:
    x = x * own["weight"].view(shape) if "weight" in own else x
    return x + own["bias"].view(shape) if "bias" in own else x


def _dropout(layer: Any, own: Values, x: Tensor, stack: Stack) -> Tensor:
    return drop(stack, layer.p, (), x) if layer.training and layer.p else x


def _feature_dropout(layer: Any, own: Values, x: Tensor, stack: Stack) -> Tensor:
    return drop(stack, layer.p, (1,) * (x.ndim - 3), x) if layer.training and layer.p else x


def _flatten(layer: Any, own: Values, x: Tensor, stack: Stack) -> Tensor:
    start, end = (axis + 1 if axis >= 0 else axis for axis in (layer.start_dim, layer.end_dim))
    return x.flatten(start, end)


def _by_example(layer: Any, own: Values, x: Tensor, stack: Stack) -> Tensor:
    """What treats each example for itself takes all clients' examples as one batch."""
    out: Tensor = layer(x.flatten(0, 1))
    return out.reshape(*x.shape[:2], *out.shape[1:])


def _each(layer: Any, own: Values, x: Tensor, stack: Stack) -> Tensor:
    """What treats each number for itself needs no axes."""
    out: Tensor = layer(x)
    return out


_FORMS: dict[type[nn.Module], Form] = {
    nn.Linear: _linear,
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _conv),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), _batch_norm),
    nn.GroupNorm: _group_norm,
    nn.LayerNorm: _layer_norm,
    nn.Dropout: _dropout,
    **dict.fromkeys((nn.Dropout1d, nn.Dropout2d, nn.Dropout3d), _feature_dropout),
    nn.Flatten: _flatten,
    **dict.fromkeys(
        (
            nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d,
            nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d,
        ),
        _by_example,
    ),
    **dict.fromkeys(
        (
            nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish,
            nn.Tanh, nn.Sigmoid,
        ),
        _each,
    ),
}  # fmt: skip
