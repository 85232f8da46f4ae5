"""One ONNX graph of a whole train step: forward, loss, gradients, clipping, optimiser's update."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from fedloom_edge.autodiff.backward import differentiate
from fedloom_edge.autodiff.forward import OPSET, Forward, read_forward
from fedloom_edge.autodiff.losses import LOSSES, check_output
from fedloom_edge.autodiff.lowering import write_forward
from fedloom_edge.autodiff.optimisers import Scalars, Update, state_names
from fedloom_edge.autodiff.rules import Tape
from fedloom_edge.autodiff.trainable import parameters, select
from fedloom_edge.autodiff.values import Value
from fedloom_edge.errors import InputError
from fedloom_edge.step_settings import (
    GRADIENT,
    LOSS,
    LR,
    METADATA,
    MU,
    NORM,
    NORMS,
    SEED,
    STEP,
    TARGET,
    StepSettings,
    StepSignature,
    new,
    start,
)

BATCH = "batch"
"""Name of the axis that follows the batch; a runtime may fix it."""
_TYPICAL_BATCH = 32


def build_train_step(
    model: onnx.ModelProto,
    settings: StepSettings,
    *,
    trainable: str | Sequence[str] = "all",
    batch: int = _TYPICAL_BATCH,
    watched: bool = False,
    fixed: bool = True,
) -> onnx.ModelProto:
    """The train step of a model as one graph of standard operators, which stock runtimes run.

    Inputs: the model's own (the first axis is the batch); `y`, the targets: int64 (B,) for cross_entropy,
    else float32 (n,), the outputs' n elements in a row; `lr` float32 (); `step` int64 (), from
    1; `seed` int64 (), for dropout; each trained array, running statistic and optimiser state under its
    name (`velocity/0.weight`); with `settings.proximal` also `mu` float32 () and `start/NAME`. What the
    graph does not need is no input of it.

    Outputs: `loss` () before the step and without the proximal term; `gradient_norm` () over all trained
    arrays, with the proximal term, before clipping; `new/NAME` for each array, statistic and state; if
    `watched` also `gradient_norms` (P,), of each trained array by itself.

    Everything else in the model is a constant of the graph, or an input if not `fixed`. A batch
    normalisation behind a trained array uses the batch's moments and updates its statistics (see
    `StepSettings.batch_statistics`), and every Dropout there is active, whatever mode the model was exported
    in; before all trained arrays both stay as in evaluation, so that features can be computed once.
    `StepSignature` is in the metadata.

    Args:
        model: an inference or training graph from any exporter; it stays as it is.
        settings: loss, optimiser, bounds.
        trainable: `all`, `last:N`, `biases`, `batch-norm`, `lora`, or names or patterns (see `select`).
        batch: the usual batch size; forms are chosen for it, and other sizes work.
        watched: whether the graph tells the gradient's norm array by array.
        fixed: whether arrays that are not trained stay as they are in the model for good.

    Raises:
        InputError: the model cannot be run or differentiated, or `trainable` does not fit it.
    """
    forward = read_forward(model, max(batch, 2))
    _check_names(forward)
    names = select(forward, trainable)
    g = Tape()
    arrays = () if fixed else (*parameters(forward), *forward.statistics)
    new_statistics = write_forward(forward, names, settings, g, frozenset(arrays))
    check_output(settings.loss, forward.output, g)
    _declare_targets(forward, settings, g)
    loss, slope = LOSSES[settings.loss](forward.output, TARGET, g)
    gradients = differentiate(forward, g, slope, names)
    if not gradients:
        raise InputError(
            "no trainable array reaches the model's output: nothing can be trained; of a quantised model "
            "train a float head, or the float model that it was made of"
        )
    outputs = {LOSS: loss} | {new(name): value for name, value in new_statistics.items()}
    states = _update(gradients, settings, g, outputs, watched=watched)
    nodes = _named_outputs(_live(g.nodes, set(outputs.values())), outputs)
    read = {name for node in nodes for name in node.input}
    classes = g.values[forward.output].typical[1] if settings.loss == "cross_entropy" else 0
    signature = StepSignature(
        settings=settings,
        inputs=forward.inputs,
        parameters=tuple(gradients),
        statistics=tuple(new_statistics),
        states=states,
        given=tuple(n for n in arrays if n in read and n not in gradients and n not in new_statistics),
        classes=classes,
        forward_bytes=sum(_bytes(g.values[name]) for node in forward.nodes for name in node.outputs if name),
    )
    return _model(forward, signature, nodes, g)


def build_evaluation(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model as it evaluates, with its arrays as inputs: dropout off, batch norm by running statistics.

    Inputs: the model's own, and its arrays under their names. Output: the model's first.

    Raises:
        InputError: the model cannot be run.
    """
    forward = read_forward(model, 2)
    g = Tape()
    write_forward(forward, (), StepSettings(), g)
    nodes = _live(g.nodes, {forward.output})
    read = {name for node in nodes for name in node.input}
    arrays = [n for n in (*parameters(forward), *forward.statistics) if n in read]
    inputs = [_info(name, g.values[name]) for name in (*forward.inputs, *arrays) if name in read]
    constants = [i for i in g.initialisers() if i.name in read and i.name not in arrays]
    graph = helper.make_graph(
        nodes, "evaluation", inputs, [_info(forward.output, g.values[forward.output])], constants
    )
    return _made(graph, forward, {})


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
    _check_names(forward)
    x = forward.inputs[0]
    if forward.values[x].dtype != np.float32:
        raise InputError(f"input {x!r} is {forward.values[x].dtype}: only floats have gradients")
    g = Tape()
    write_forward(forward, (x,), StepSettings(batch_statistics=False), g)
    hot = g.op("OneHot", TARGET, g.ints(math.prod(g.values[forward.output].typical[1:])), g.constant([0, 1]))
    gradient = differentiate(forward, g, g.reshape_like(hot, forward.output), (x,))[x]
    nodes = _named_outputs(_live(g.nodes, {gradient}), {GRADIENT: gradient})
    y = helper.make_tensor_value_info(TARGET, TensorProto.INT64, [BATCH])
    inputs = [*(_info(name, g.values[name]) for name in forward.inputs), y]
    graph = helper.make_graph(
        nodes, "input_gradient", inputs, [_info(x, g.values[x], GRADIENT)], g.initialisers()
    )
    return _made(graph, forward, {})


def _check_names(forward: Forward) -> None:
    reserved = {LR, SEED, STEP, TARGET, MU, LOSS, NORM, NORMS, GRADIENT}
    taken = reserved & {*forward.inputs, *forward.arrays}
    if taken:
        raise InputError(f"the model's {min(taken)!r} has a name that a train step uses; rename it")


def _declare_targets(forward: Forward, settings: StepSettings, g: Tape) -> None:
    output = g.values[forward.output]
    if settings.loss == "cross_entropy":
        g.values[TARGET] = Value(np.dtype(np.int64), output.shape[:1], output.typical[:1])
    else:
        size = math.prod(output.typical)
        g.values[TARGET] = Value(np.dtype(np.float32), (None,), (size,))


def _update(
    gradients: dict[str, str], settings: StepSettings, g: Tape, outputs: dict[str, str], *, watched: bool
) -> tuple[str, ...]:
    """Write the proximal term, the norms, clipping and updates; returns the states' names."""
    if settings.proximal:
        for name, gradient in gradients.items():
            wide = g.op("Reshape", MU, g.ints(*[1] * g.values[name].rank))  # see Update._scalar
            pull = g.op("Mul", g.op("Sub", name, start(name)), wide)
            gradients[name] = g.op("Add", gradient, pull)
    if watched:
        squares = [g.op("Reshape", square, g.ints(1)) for square in _squares(gradients, g)]
        each = g.op("Concat", *squares, axis=0)
        outputs[NORMS] = g.op("Sqrt", each)
        outputs[NORM] = norm = g.op("Sqrt", g.op("ReduceSum", each, keepdims=0))
    else:
        outputs[NORM] = norm = _norm(gradients, g)
    clipped = _clip(gradients, norm, settings, g)
    update = Update(settings, Scalars(LR, STEP), g)
    states = []
    for name, gradient in clipped.items():
        own = [f"{kind}/{name}" for kind in state_names(settings)]
        for state in own:
            g.values[state] = g.values[name]
        outputs[new(name)], after = update(name, gradient, own)
        outputs |= {new(state): value for state, value in zip(own, after, strict=True)}
        states += own
    return tuple(states)


def _norm(gradients: dict[str, str], g: Tape) -> str:
    return g.op("Sqrt", g.sum(_squares(gradients, g)))


def _squares(gradients: dict[str, str], g: Tape) -> list[str]:
    return [g.op("ReduceSumSquare", gradient, keepdims=0) for gradient in gradients.values()]


def _clip(gradients: dict[str, str], norm: str, settings: StepSettings, g: Tape) -> dict[str, str]:
    """Each element by `clip_value`, then the global norm by `clip_norm`, as TorchTrainer does."""
    if settings.clip_value:
        low, high = g.constant(-settings.clip_value), g.constant(settings.clip_value)
        gradients = {name: g.op("Clip", d, low, high) for name, d in gradients.items()}
        norm = _norm(gradients, g) if settings.clip_norm else norm
    if settings.clip_norm:
        factor = g.op("Min", g.op("Div", g.constant(settings.clip_norm), norm), g.constant(1.0))
        gradients = {name: g.op("Mul", d, factor) for name, d in gradients.items()}
    return gradients


def _model(
    forward: Forward, signature: StepSignature, nodes: list[onnx.NodeProto], g: Tape
) -> onnx.ModelProto:
    read = {name for node in nodes for name in node.input}
    names = (*signature.inputs, *signature.carried, *signature.given, TARGET)
    taken = [name for name in names if name in read]
    inputs = [_info(name, g.values[name]) for name in taken]
    if g.values[TARGET].typical != g.values[forward.output].typical[:1]:  # several targets an example
        inputs[taken.index(TARGET)] = helper.make_tensor_value_info(TARGET, TensorProto.FLOAT, ["targets"])
    if signature.settings.proximal:
        inputs += [_info(start(name), g.values[name]) for name in signature.parameters]
    for name, kind in ((LR, TensorProto.FLOAT), (STEP, TensorProto.INT64), (SEED, TensorProto.INT64)):
        if name in read:
            inputs.append(helper.make_tensor_value_info(name, kind, []))
    if MU in read:
        inputs.append(helper.make_tensor_value_info(MU, TensorProto.FLOAT, []))
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, []) for name in (LOSS, NORM)]
    if any(NORMS in node.output for node in nodes):
        count = [len(signature.parameters)]
        results.append(helper.make_tensor_value_info(NORMS, TensorProto.FLOAT, count))
    results += [_info(name, g.values[name], new(name)) for name in signature.carried]
    graph = helper.make_graph(
        nodes,
        "train_step",
        inputs,
        results,
        [i for i in g.initialisers() if i.name in read and i.name not in taken],
    )
    return _made(graph, forward, {METADATA: signature.to_json()})


def _made(graph: onnx.GraphProto, forward: Forward, facts: dict[str, str]) -> onnx.ModelProto:
    """A model of `graph`, with the metadata of the one it comes from and `facts`."""
    version = max(forward.opset, OPSET)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)])
    made.ir_version = min(made.ir_version, 10)  # what the oldest supported runtime reads
    helper.set_model_props(made, forward.metadata | facts)
    return made


def _live(nodes: list[onnx.NodeProto], wanted: set[str]) -> list[onnx.NodeProto]:
    """The nodes that some wanted value needs, in order."""
    wanted, live = set(wanted), []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            live.append(node)
    return live[::-1]


def _named_outputs(nodes: list[onnx.NodeProto], outputs: dict[str, str]) -> list[onnx.NodeProto]:
    """The same nodes, with each output of the graph under its name."""
    named: dict[str, str] = {}
    copies = []
    made = {name for node in nodes for name in node.output}
    for name, value in outputs.items():
        if value in made and value not in named:
            named[value] = name
        else:  # an input of the graph, or another output's value too
            copies.append(helper.make_node("Identity", [named.get(value, value)], [name]))
    for node in nodes:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name in named:
                    names[index] = named[name]
    return nodes + copies


def _bytes(value: Value) -> int:
    return math.prod(value.typical) * value.dtype.itemsize


def _info(name: str, value: Value, as_name: str = "") -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(value.dtype)
    shape: list[Any] = [BATCH if size is None else size for size in value.shape]
    return helper.make_tensor_value_info(as_name or name, kind, shape)
