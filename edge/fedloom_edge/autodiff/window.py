"""How a kernel moves over the spatial axes of a convolution or pooling."""

from dataclasses import dataclass

from fedloom_edge.autodiff.values import Node, Value
from fedloom_edge.errors import InputError


@dataclass(frozen=True)
class Window:
    """How a kernel moves over the spatial axes; one entry an axis in each tuple.

    Attributes:
        kernel: sizes.
        strides: steps.
        dilations: distances between a kernel's elements.
        begin: zeros before the first element.
        end: zeros after the last, as far as a window reaches; negative if the windows stop short of it.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]

    @property
    def pads(self) -> list[int]:
        """Pads as attributes have them; what windows do not reach is left out."""
        return [*self.begin, *(max(end, 0) for end in self.end)]

    @property
    def unreached(self) -> list[int]:
        """Elements after the last window, an axis each."""
        return [max(-end, 0) for end in self.end]


def window(node: Node, large: Value, small: Value, kernel: tuple[int, ...]) -> Window:
    """The window of a node that maps spatial sizes `large` to `small` (a convolution or pooling).

    Raises:
        InputError: a spatial axis follows the batch.
    """
    if None in large.shape[2:] or None in small.shape[2:]:
        raise InputError(f"{node} has a spatial axis of variable size; export the model with fixed ones")
    rank = len(kernel)
    strides = tuple(int(s) for s in node.attributes.get("strides", [1] * rank))
    dilations = tuple(int(d) for d in node.attributes.get("dilations", [1] * rank))
    sizes = list(zip(large.typical[2:], small.typical[2:], kernel, strides, dilations, strict=True))
    reach = [s * (o - 1) + (k - 1) * d + 1 - i for i, o, k, s, d in sizes]  # beyond the input, both sides
    auto = node.attributes.get("auto_pad", b"NOTSET")
    auto = auto.decode() if isinstance(auto, bytes) else auto
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        total = [max(r, 0) for r in reach]
        begin = [t // 2 if auto == "SAME_UPPER" else t - t // 2 for t in total]
    elif auto == "VALID":
        begin = [0] * rank
    else:
        begin = [int(p) for p in node.attributes.get("pads", [0] * 2 * rank)][:rank]
    end = tuple(r - b for r, b in zip(reach, begin, strict=True))
    return Window(kernel, strides, dilations, tuple(begin), end)
