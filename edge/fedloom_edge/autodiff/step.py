"""One ONNX graph of a whole train step: forward, loss, gradients, clipping, optimiser's update."""

import math
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from fedloom_edge.autodiff.backward import differentiate
from fedloom_edge.autodiff.forward import Forward, read_forward
from fedloom_edge.autodiff.losses import LOSSES, check_output
from fedloom_edge.autodiff.lowering import write_forward
from fedloom_edge.autodiff.optimisers import Scalars, Update, state_names
from fedloom_edge.autodiff.rules import Tape
from fedloom_edge.autodiff.trainable import parameters, select
from fedloom_edge.autodiff.values import Value
from fedloom_edge.autodiff.writing import check_names, live_nodes, model_of, named_outputs, value_info
from fedloom_edge.errors import InputError
from fedloom_edge.step_settings import (
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
    offset,
    start,
)

_TYPICAL_BATCH = 32


def build_train_step(
    model: onnx.ModelProto,
    settings: StepSettings,
    *,
    trainable: str | Sequence[str] = "all",
    batch: int = _TYPICAL_BATCH,
    watched: bool = False,
    fixed: bool = True,
    awake: bool = False,
) -> onnx.ModelProto:
    """The train step of a model as one graph of standard operators, which stock runtimes run.

    Inputs: the model's own (the first axis is the batch); `y`, the targets: int64 (B,) for cross_entropy,
    else float32 (n,), the outputs' n elements in a row; `lr` float32 (); `step` int64 (), from
    1; `seed` int64 (), for dropout; each trained array, running statistic and optimiser state under its
    name (`velocity/0.weight`); with `settings.proximal` also `mu` float32 () and `start/NAME`, with
    `settings.offset` also `offset/NAME`. What the graph does not need is no input of it.

    Outputs: `loss` () before the step and without the proximal term; `gradient_norm` () over all trained
    arrays, with these terms, before clipping; `new/NAME` for each array, statistic and state; if
    `watched` also `gradient_norms` (P,), of each trained array by itself.

    Everything else in the model is a constant of the graph, or an input if not `fixed`. A batch
    normalisation behind a trained array uses the batch's moments and updates its statistics (see
    `StepSettings.batch_statistics`), and every Dropout there is active, whatever mode the model was exported
    in; before all trained arrays both stay as in evaluation, so that features can be computed once, unless
    `awake`. `StepSignature` is in the metadata.

    Args:
        model: an inference or training graph from any exporter; it stays as it is.
        settings: loss, optimiser, bounds.
        trainable: `all`, `last:N`, `biases`, `batch-norm`, `lora`, or names or patterns (see `select`).
        batch: the usual batch size; forms are chosen for it, and other sizes work.
        watched: whether the graph tells the gradient's norm array by array.
        fixed: whether arrays that are not trained stay as they are in the model for good.
        awake: whether batch normalisations and Dropouts before all trained arrays do as those behind.

    Raises:
        InputError: the model cannot be run or differentiated, or `trainable` does not fit it.
    """
    forward = read_forward(model, max(batch, 2))
    check_names(forward)
    names = select(forward, trainable)
    g = Tape()
    arrays = () if fixed else (*parameters(forward), *forward.statistics)
    new_statistics = write_forward(forward, names, settings, g, frozenset(arrays), awake=awake)
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
    nodes = named_outputs(live_nodes(g.nodes, set(outputs.values())), outputs)
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
    """Write the proximal term, the offsets, the norms, clipping and updates; returns the states' names."""
    if settings.proximal:
        for name, gradient in gradients.items():
            wide = g.op("Reshape", MU, g.ints(*[1] * g.values[name].rank))  # see Update._scalar
            pull = g.op("Mul", g.op("Sub", name, start(name)), wide)
            gradients[name] = g.op("Add", gradient, pull)
    if settings.offset:
        gradients |= {name: g.op("Add", gradient, offset(name)) for name, gradient in gradients.items()}
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
    inputs = [value_info(name, g.values[name]) for name in taken]
    if g.values[TARGET].typical != g.values[forward.output].typical[:1]:  # several targets an example
        inputs[taken.index(TARGET)] = helper.make_tensor_value_info(TARGET, TensorProto.FLOAT, ["targets"])
    if signature.settings.proximal:
        inputs += [value_info(start(name), g.values[name]) for name in signature.parameters]
    if signature.settings.offset:
        inputs += [value_info(offset(name), g.values[name]) for name in signature.parameters]
    for name, kind in ((LR, TensorProto.FLOAT), (STEP, TensorProto.INT64), (SEED, TensorProto.INT64)):
        if name in read:
            inputs.append(helper.make_tensor_value_info(name, kind, []))
    if MU in read:
        inputs.append(helper.make_tensor_value_info(MU, TensorProto.FLOAT, []))
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, []) for name in (LOSS, NORM)]
    if any(NORMS in node.output for node in nodes):
        count = [len(signature.parameters)]
        results.append(helper.make_tensor_value_info(NORMS, TensorProto.FLOAT, count))
    results += [value_info(name, g.values[name], new(name)) for name in signature.carried]
    graph = helper.make_graph(
        nodes,
        "train_step",
        inputs,
        results,
        [i for i in g.initialisers() if i.name in read and i.name not in taken],
    )
    return model_of(graph, forward, {METADATA: signature.to_json()})


def _bytes(value: Value) -> int:
    return math.prod(value.typical) * value.dtype.itemsize
