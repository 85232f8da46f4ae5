"""Arrays and a module's state: what travels, in which order, and how it gets in and out.

What travels are the floating-point entries of the state_dict: parameters, and buffers such as batch
norm's running mean. Integer buffers (`num_batches_tracked`) stay: a mean of counters is no counter.
"""

import numpy as np
from torch import Tensor, nn

from fedloom_edge.arrays import Arrays
from fedloom_edge.errors import TrainingError


def read_arrays(module: nn.Module) -> Arrays:
    """A copy of the module's arrays, in state_dict order."""
    return {name: np.array(array, order="C") for name, array in _memory(module).items()}


def load_arrays(module: nn.Module, arrays: Arrays) -> None:
    """Copy `arrays` into the module; they may be read-only.

    Raises:
        TrainingError: names, shapes or dtypes are not the module's.
    """
    memory = _memory(module)
    for name in memory if memory.keys() == arrays.keys() else [*memory, *arrays]:
        given, expected = arrays.get(name), memory.get(name)
        if (
            given is None
            or expected is None
            or (given.dtype, given.shape) != (expected.dtype, expected.shape)
        ):
            raise TrainingError(
                f"the arrays do not fit the model: {name} is {_describe(given)}, the model's is "
                f"{_describe(expected)}; coordinator and client need the same task"
            )
    for name, array in arrays.items():
        np.copyto(memory[name], array)


def statistics(module: nn.Module) -> frozenset[str]:
    """Names of the arrays that no gradient trains: the buffers among them."""
    buffers = dict(module.named_buffers(remove_duplicate=False))
    return frozenset(name for name in _memory(module) if name in buffers)


def _memory(module: nn.Module) -> Arrays:
    """Numpy views on the module's own memory."""
    state = module.state_dict()
    return {k: v.numpy() for k, v in state.items() if isinstance(v, Tensor) and v.is_floating_point()}


def _describe(array: "np.ndarray[tuple[int, ...], np.dtype[np.generic]] | None") -> str:
    return "missing" if array is None else f"{array.dtype} {array.shape}"
