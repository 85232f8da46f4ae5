"""Graphs of a model that do not train it: as it evaluates, and the gradient of its input."""

import math

import numpy as np
import onnx
from onnx import TensorProto, helper

from fedloom_edge.autodiff.backward import differentiate
from fedloom_edge.autodiff.forward import read_forward
from fedloom_edge.autodiff.lowering import write_forward
from fedloom_edge.autodiff.rules import Tape
from fedloom_edge.autodiff.trainable import parameters
from fedloom_edge.autodiff.writing import BATCH, check_names, live_nodes, model_of, named_outputs, value_info
from fedloom_edge.errors import InputError
from fedloom_edge.step_settings import GRADIENT, TARGET, StepSettings


def build_evaluation(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model as it evaluates, with its arrays as inputs: dropout off, batch norm by running statistics.

    Inputs: the model's own, and its arrays under their names. Output: the model's first.

    Raises:
        InputError: the model cannot be run.
    """
    forward = read_forward(model, 2)
    g = Tape()
    write_forward(forward, (), StepSettings(), g)
    nodes = live_nodes(g.nodes, {forward.output})
    read = {name for node in nodes for name in node.input}
    arrays = [n for n in (*parameters(forward), *forward.statistics) if n in read]
    inputs = [value_info(name, g.values[name]) for name in (*forward.inputs, *arrays) if name in read]
    constants = [i for i in g.initialisers() if i.name in read and i.name not in arrays]
    graph = helper.make_graph(
        nodes, "evaluation", inputs, [value_info(forward.output, g.values[forward.output])], constants
    )
    return model_of(graph, forward, {})


def build_input_gradient(model: onnx.ModelProto) -> onnx.ModelProto:
    """The gradient of one of a model's outputs with respect to its input.

    Inputs: the model's own (B, ...) and `y` int64 (B,), which output, of an example's outputs in a row.
    Output: `gradient` (B, ...), of the input's shape.

    Args:
        model: an inference model, with its arrays in it.

    Raises:
        InputError: the model cannot be run or differentiated, or its input is no float32.
    """
    forward = read_forward(model, 2)
    check_names(forward)
    x = forward.inputs[0]
    if forward.values[x].dtype != np.float32:
        raise InputError(f"input {x!r} is {forward.values[x].dtype}: only floats have gradients")
    g = Tape()
    write_forward(forward, (x,), StepSettings(batch_statistics=False), g)
    hot = g.op("OneHot", TARGET, g.ints(math.prod(g.values[forward.output].typical[1:])), g.constant([0, 1]))
    gradient = differentiate(forward, g, g.reshape_like(hot, forward.output), (x,))[x]
    nodes = named_outputs(live_nodes(g.nodes, {gradient}), {GRADIENT: gradient})
    y = helper.make_tensor_value_info(TARGET, TensorProto.INT64, [BATCH])
    inputs = [*(value_info(name, g.values[name]) for name in forward.inputs), y]
    graph = helper.make_graph(
        nodes, "input_gradient", inputs, [value_info(x, g.values[x], GRADIENT)], g.initialisers()
    )
    return model_of(graph, forward, {})
