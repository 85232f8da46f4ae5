"""Gradients of operators that pick by index. d is the gradient of the output."""

from fedloom_edge.autodiff.rules import Gradients, Tape, only, rule
from fedloom_edge.autodiff.values import Node
from fedloom_edge.errors import InputError


@rule("Gather")
def gather(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = x[..., indices, ...]: d added up at the indices."""
    d, (x, indices) = only(gradients), node.inputs[:2]
    value, index = g.values[x], g.values[indices]
    axis = int(node.attributes.get("axis", 0)) % value.rank
    if index.constant is not None and index.constant.size == 1 and value.shape[axis] is not None:
        return [_one_place(node, d, axis, int(index.constant.item()), g)]
    if axis:  # bring the picked axes to the front, add up, and put the axis back
        picked = list(range(axis, axis + index.rank))
        rest = [i for i in range(value.rank + index.rank - 1) if i not in picked]
        d = g.transpose(d, *picked, *rest)
    rows = value.shape[axis]
    others = [i for i in range(value.rank) if i != axis]
    if rows is None:
        raise InputError(f"{node} picks along the batch; export the model without that")
    row_shape = [value.shape[i] for i in others]
    if None in row_shape:
        target = g.op("Gather", g.op("Shape", x), g.ints(axis, *others))
    else:
        target = g.ints(rows, *(size or 0 for size in row_shape))
    zeros = g.op("Expand", g.scalar(0, x), target)
    where = g.op("Unsqueeze", _non_negative(indices, rows, g), g.ints(-1))
    if (padding := node.saved.get("padding row")) is not None:
        # PyTorch's padding_idx: this row is never trained.
        used = g.op("Not", g.op("Equal", where, g.constant(int(padding), index.dtype)))
        mask = g.op("Cast", used, to=1)
        d = g.op("Mul", d, g.op("Reshape", mask, _column(index.rank, value.rank - 1, g)))
    total = g.op("ScatterND", zeros, where, d, reduction="add")
    if axis:
        order = [*range(1, axis + 1), 0, *range(axis + 1, value.rank)]
        total = g.transpose(total, *order)
    return [total]


@rule("GatherElements")
def gather_elements(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y[i] = x[index[i]] along one axis: d added up at the indices."""
    d, (x, indices) = only(gradients), node.inputs
    zeros = g.op("Expand", g.scalar(0, x), g.shape_of(x))
    axis = int(node.attributes.get("axis", 0))
    return [g.op("ScatterElements", zeros, indices, d, axis=axis, reduction="add")]


@rule("GatherND")
def gather_nd(node: Node, gradients: Gradients, g: Tape) -> Gradients:
    """y = x at index tuples: d added up at them."""
    if int(node.attributes.get("batch_dims", 0)):
        raise InputError(f"{node} has batch_dims; export the model without that")
    x, indices = node.inputs
    zeros = g.op("Expand", g.scalar(0, x), g.shape_of(x))
    return [g.op("ScatterND", zeros, indices, only(gradients), reduction="add")]


def _one_place(node: Node, d: str, axis: int, place: int, g: Tape) -> str:
    """One row along an axis: d there, zeros on both sides."""
    x = node.inputs[0]
    size = g.values[x].shape[axis]
    assert size is not None
    place %= size
    if g.values[node.inputs[1]].rank == 0:
        d = g.op("Unsqueeze", d, g.ints(axis))
    elif g.values[node.inputs[1]].rank > 1:
        axes = range(axis, axis + g.values[node.inputs[1]].rank - 1)
        d = g.op("Squeeze", d, g.ints(*axes))
    return g.pad(d, g.values[x].rank, {axis: (place, size - 1 - place)})


def _non_negative(indices: str, rows: int, g: Tape) -> str:
    """Indices counted from the front, as ScatterND wants them from every runtime."""
    value = g.values[indices]
    if value.constant is not None:
        return g.constant(value.constant % rows, value.dtype)
    return indices


def _column(index_rank: int, row_rank: int, g: Tape) -> str:
    """Shape that puts a mask (indices..., 1) beside rows of `row_rank` axes."""
    return g.ints(*([0] * index_rank), *([1] * row_rank))
