"""The table of gradient rules: one small function per operator.

A rule is `rule(node, gradients, g) -> gradients of the inputs`: `gradients` has one name for each
output of the node (None where nothing flows), the result one for each input; a rule may leave trailing
inputs out, and gives None where an input has no gradient. `g.wanted(name)` tells which are needed.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from onnx import helper

from fedloom_edge.autodiff.builder import Builder
from fedloom_edge.autodiff.values import Node
from fedloom_edge.errors import InputError

Gradients = Sequence[str | None]


class Tape(Builder):
    """A builder that also knows the forward pass.

    Attributes:
        active: forward values that need a gradient.
        forward: the forward nodes as they were written.
        counts: elements of a channel by a value's sizes, see `normalisation`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.active: set[str] = set()
        self.forward: list[Node] = []
        self.counts: dict[tuple[int | None, ...], str] = {}

    def wanted(self, name: str) -> bool:
        """Whether a trainable parameter is behind the forward value `name`."""
        return name in self.active

    def masked(self, d: str, condition: str, like: str) -> str:
        """`d` where `condition` holds, else 0: a product with 0 or 1, which takes a tenth of Where's time."""
        return self.op("Mul", d, self.op("Cast", condition, to=self.onnx_type(like)))

    def onnx_type(self, name: str) -> int:
        """ONNX's number of a value's type."""
        return int(helper.np_dtype_to_tensor_dtype(self.values[name].dtype))


class Rule(Protocol):
    """The gradient of one operator."""

    def __call__(self, node: Node, gradients: Gradients, g: Tape) -> Gradients:
        """Write the nodes that make the inputs' gradients."""
        ...


RULES: dict[str, Rule] = {}
FLAT: set[str] = set()
"""Operators whose outputs are constant between jumps, or no floats: nothing flows back through them."""


def rule(*operators: str) -> Callable[[Rule], Rule]:
    """Register a function as the rule of some operators."""

    def register(function: Rule) -> Rule:
        for operator in operators:
            RULES[operator] = function
        return function

    return register


def find(node: Node) -> Rule:
    """The rule of a node's operator.

    Raises:
        InputError: there is none.
    """
    try:
        return RULES[node.op]
    except KeyError:
        raise InputError(
            f"{node} has no gradient rule, and a trainable parameter stands before it: train only what "
            "comes after it (trainable=), or export the model with other operators"
        ) from None


def only(gradients: Gradients) -> str:
    """The gradient of the first output; a rule is called only if there is one."""
    if gradients[0] is None:
        raise InputError("only a second output of an operator is used; export the model without it")
    return gradients[0]
