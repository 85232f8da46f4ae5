"""The reverse sweep: from the gradient of the output to those of the trained arrays.

Griewank and Walther, 2008, "Evaluating Derivatives", chapter 3.
"""

from fedloom_edge.autodiff import (  # noqa: F401  (each fills the table of rules)
    activations,
    convolution,
    elementwise,
    indexing,
    matrix,
    normalisation,
    pooling,
    quantisation,
    recurrent,
    reduction,
    shape,
)
from fedloom_edge.autodiff.forward import Forward
from fedloom_edge.autodiff.rules import Tape, find


def differentiate(forward: Forward, g: Tape, slope: str, trainable: tuple[str, ...]) -> dict[str, str]:
    """Write the nodes that make the gradient of each trained array that reaches the output.

    Only what leads to a trained array is visited: the rest of the graph has no backward pass.

    Args:
        forward: the graph; its nodes are in `g.forward` as they were written.
        g: holds the forward pass.
        slope: gradient of the loss at the output.
        trainable: names of the arrays.

    Raises:
        InputError: an operator on the way has no rule.
    """
    terms: dict[str, list[str]] = {forward.output: [slope]}
    for node in reversed(g.forward):
        if not any(name in terms for name in node.outputs) or not any(map(g.wanted, node.inputs)):
            continue
        gradients = [
            g.sum(terms[name], like=name) if name in terms and g.wanted(name) else None
            for name in node.outputs
        ]
        if not any(gradients):
            continue
        into = find(node)(node, gradients, g)
        for name, gradient in zip(node.inputs, into, strict=False):  # trailing inputs may have none
            if gradient is not None and g.wanted(name):
                terms.setdefault(name, []).append(gradient)
    return {name: g.sum(terms[name]) for name in trainable if name in terms}
