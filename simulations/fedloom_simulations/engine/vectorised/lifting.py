"""Operations on stacked tensors, called from a model that `torch.func.vmap` runs for one client."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


class NotVectorisable(RuntimeError):  # noqa: N818  (a reason to take the other backend, not a failure)
    """The model does something that has no stacked form here; its reason is for the operator."""


@dataclass
class Stack:
    """What a step's operations must know about the clients in it.

    Attributes:
        sizes: examples of each client in this step; below the padded batch size B where ragged.
        generators: of each client, for dropout.
    """

    sizes: list[int]
    generators: "Generators"


class Generators:
    """Torch's generators of K clients, seeded as TorchTrainer seeds its own, made when one is asked for."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self._seeds = seeds
        self._made: list[torch.Generator] = []

    def __len__(self) -> int:
        return len(self._seeds)

    def first(self, count: int) -> list[torch.Generator]:
        """Those of the first clients."""
        if not self._made:
            self._made = [torch.Generator().manual_seed(seed) for seed in self._seeds]
        return self._made[:count]


class _Lift(torch.autograd.Function):
    """Hands the stacked tensors (K, ...) behind vmap's to a function of stacked tensors."""

    generate_vmap_rule = False

    @staticmethod
    def forward(operation: Callable[..., Tensor], *tensors: Any) -> Tensor:
        raise NotVectorisable("an operation on values that no client's data or weights enter")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing is kept: the stacked operations have their own gradients."""

    @staticmethod
    def vmap(info: Any, in_dims: Any, operation: Callable[..., Tensor], *tensors: Any) -> tuple[Tensor, int]:
        stacked = (_stacked(t, dim, info.batch_size) for t, dim in zip(tensors, in_dims[1:], strict=True))
        return operation(*stacked), 0


def lift(operation: Callable[..., Tensor], *tensors: Tensor | None) -> Tensor:
    """Call `operation` with the stacked tensors (K, ...) behind one client's `tensors`."""
    result: Tensor = _Lift.apply(operation, *tensors)  # type: ignore[no-untyped-call]
    return result


def _stacked(tensor: Any, dim: int | None, size: int) -> Any:
    if not isinstance(tensor, Tensor):
        return tensor
    if dim is None:
        return tensor.unsqueeze(0).expand(size, *tensor.shape)
    return tensor.movedim(dim, 0)
