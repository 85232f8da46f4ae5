"""One operator as a graph, its gradients by our rules and by torch autograd."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper

from fedloom_edge.autodiff.backward import differentiate
from fedloom_edge.autodiff.forward import read_forward
from fedloom_edge.autodiff.lowering import write_forward
from fedloom_edge.autodiff.rules import Tape
from fedloom_edge.step_settings import StepSettings

TOLERANCE = 1e-4


def node_model(kind, feeds, constants=None, outputs=1, first=False, **attributes):
    """A graph of one node that takes `feeds` (float32) and then `constants`, or those `first`."""
    constants = constants or {}
    order = [*constants, *feeds] if first else [*feeds, *constants]
    names = [name if name in feeds or constants[name] is not None else "" for name in order]
    outs = [f"out{i}" for i in range(outputs)]
    graph = helper.make_graph(
        [helper.make_node(kind, names, outs, name="tested", **attributes)],
        "one",
        [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for n, a in feeds.items()
        ],
        [helper.make_empty_tensor_value_info(n) for n in outs],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items() if a is not None],
    )
    opset = 20 if kind == "Gelu" else 18
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    for index, name in enumerate(outs):
        model.graph.output[index].CopyFrom(_typed(model, name))
    return model


def _typed(model, name):
    inferred = onnx.shape_inference.infer_shapes(model)
    known = {v.name: v for v in [*inferred.graph.output, *inferred.graph.value_info]}
    return known[name] if name in known else helper.make_tensor_value_info(name, 1, None)


def gradients_of(model, feeds, slope, settings=None):
    """Output and gradients of the graph inputs `feeds`, where `slope` arrives at the first output."""
    forward = read_forward(model, 2)
    g = Tape()
    floats = tuple(n for n, a in feeds.items() if a.dtype == np.float32)
    write_forward(forward, floats, settings or StepSettings(), g)
    found = differentiate(forward, g, "slope", floats)
    inputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in {**feeds, "slope": slope}.items()
    ]
    outputs = [helper.make_empty_tensor_value_info(n) for n in [forward.output, *found.values()]]
    graph = helper.make_graph(g.nodes, "gradients", inputs, outputs, g.initialisers())
    kept = {i.name for i in graph.initializer}
    read = {name for node in g.nodes for name in node.input}
    graph.initializer.extend(
        numpy_helper.from_array(a, n)
        for n, a in forward.arrays.items()
        if n in read - kept  # statistics
    )
    made = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", max(forward.opset, 18))], ir_version=9
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(made.SerializeToString(), options)
    taken = {i.name for i in session.get_inputs()}
    results = session.run(None, {n: a for n, a in {**feeds, "slope": slope}.items() if n in taken})
    return results[0], dict(zip(found, results[1:], strict=True))


def close(ours, theirs, what):
    assert ours.shape == theirs.shape, f"{what}: shape {ours.shape}, torch's {theirs.shape}"
    scale = max(float(np.abs(theirs).max(initial=0)), 1e-2)
    worst = float(np.abs(ours - theirs).max(initial=0))
    assert worst <= TOLERANCE * scale, f"{what}: off by {worst:.3g} of {scale:.3g}"


@pytest.fixture
def agree():
    """`agree(torch_function, kind, feeds, constants, **attributes)`: output and gradients equal torch's."""

    def check(
        function, kind, feeds, constants=None, *, seed=0, outputs=1, first=False, settings=None, **attributes
    ):
        feeds = {n: np.asarray(a, np.float32) for n, a in feeds.items()}
        tensors = [torch.tensor(a, requires_grad=True) for a in feeds.values()]
        expected = function(*tensors)
        slope = np.random.default_rng(seed).normal(size=tuple(expected.shape)).astype(np.float32)
        expected.backward(torch.from_numpy(slope))
        model = node_model(kind, feeds, constants, outputs, first, **attributes)
        output, found = gradients_of(model, feeds, slope, settings)
        close(output, expected.detach().numpy(), f"{kind} output")
        for name, tensor in zip(feeds, tensors, strict=True):
            assert name in found, f"{kind}: no gradient for {name}"
            close(found[name], tensor.grad.numpy(), f"{kind} gradient of {name}")

    return check
