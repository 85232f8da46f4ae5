"""Makes an artefact's graphs of a training graph: inference, train step and evaluation. Needs onnx."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from fedloom_edge.arrays import Arrays
from fedloom_edge.artefact.aware import aware
from fedloom_edge.artefact.check import FEATURES
from fedloom_edge.artefact.manifest import EVALUATE, INFER, INT8, LAST, REST, TRAIN, Kind, step_file
from fedloom_edge.artefact.rounding import Rounded, round_into
from fedloom_edge.autodiff.evaluation import build_evaluation
from fedloom_edge.autodiff.forward import Forward, read_forward
from fedloom_edge.autodiff.step import build_train_step
from fedloom_edge.autodiff.trainable import layers, select
from fedloom_edge.errors import InputError
from fedloom_edge.quantise import fold_and_quantise
from fedloom_edge.step_settings import StepSettings, StepSignature


@dataclass(frozen=True)
class Graphs:
    """An artefact's graphs.

    Attributes:
        files: name -> content.
        kind: whether the train step takes features or inputs, and whether it rounds.
        parameters: names of what is trained.
        arrays: names of what the step and the evaluation take: those, running statistics, and in a full step
            everything.
        rounded: where those are in the int8 model that the step trains.
        parts: of the parameters, as in the manifest.
    """

    files: dict[str, bytes]
    kind: Kind
    parameters: tuple[str, ...]
    arrays: frozenset[str]
    rounded: dict[str, Rounded] = field(default_factory=dict)
    parts: dict[str, tuple[str, ...]] = field(default_factory=dict)


def build_graphs(
    model: onnx.ModelProto,
    settings: StepSettings,
    trainable: str | Sequence[str],
    batch: int,
    *,
    parts: bool = False,
    held: Sequence[frozenset[str]] = (),
) -> Graphs:
    """Graphs of a model with its arrays in it.

    Where one value separates what is trained from what is not, the train step takes that value, the
    features, and infer.onnx gives it as a second output: it can be computed once for all epochs.

    Args:
        model: as `training_graph` made it.
        settings: loss, optimiser, bounds.
        trainable: as for `build_train_step`.
        batch: the usual batch size.
        parts: whether there are also steps for the last half of what is trained, the last quarter, ...,
            the last layer, for devices that cannot do with all of it.
        held: arrays that stay as they are in a step for the rest, each.

    Raises:
        InputError: the model or `trainable` does not fit.
    """
    forward = read_forward(model, max(batch, 2))
    names = select(forward, trainable)
    frozen = any(a.ndim > 1 and n not in names for n, a in forward.arrays.items() if a.dtype == np.float32)
    features = separator(forward, names) if frozen else None
    tail = model if features is None else after(model, forward, features)
    step = build_train_step(tail, settings, trainable=names, batch=batch)
    signature = StepSignature.from_metadata({p.key: p.value for p in step.metadata_props})
    evaluation = build_evaluation(tail)
    taken = frozenset(i.name for i in evaluation.graph.input) | {*signature.parameters, *signature.statistics}
    files = {
        INFER: inference(model, features).SerializeToString(),
        TRAIN: step.SerializeToString(),
        EVALUATE: evaluation.SerializeToString(),
    }
    kind: Kind = "full" if features is None else "head"
    made = _parts(tail, signature.parameters, batch) if parts else {}
    for part, some in made.items():
        smaller = build_train_step(tail, settings, trainable=some, batch=batch, fixed=False)
        files[step_file(part)] = smaller.SerializeToString()
    for index, kept in enumerate(held, start=1):
        if rest := tuple(name for name in signature.parameters if name not in kept):
            part, made[part] = f"{REST}{index}", rest
            other = build_train_step(tail, settings, trainable=rest, batch=batch, fixed=False, awake=True)
            files[step_file(part)] = other.SerializeToString()
    return Graphs(files, kind, signature.parameters, taken, parts=made)


def _parts(model: onnx.ModelProto, trained: Sequence[str], batch: int) -> dict[str, tuple[str, ...]]:
    """The last half of the layers that are trained, the last quarter, ..., the last: `last:N` -> arrays."""
    by_layer = layers(read_forward(model, max(batch, 2))).values()
    owned = [own for names in by_layer if (own := [name for name in names if name in trained])]
    found, count = dict[str, tuple[str, ...]](), len(owned) // 2
    while count:
        found[f"{LAST}{count}"] = tuple(dict.fromkeys(name for own in owned[-count:] for name in own))
        count //= 2
    return found


def build_aware(
    model: onnx.ModelProto, settings: StepSettings, samples: NDArray[Any], batch: int
) -> tuple[Graphs, Arrays]:
    """Graphs of a model that is trained with the rounding of its int8 form, and the arrays it starts from.

    Batch norm is folded into convolutions first, and dropout is off: what is trained is what is served.

    Args:
        model: as `training_graph` made it.
        settings: loss, optimiser, bounds.
        samples: real inputs (N, ...) that activations' ranges are taken from.
        batch: the usual batch size.

    Raises:
        InputError: the model cannot be quantised, or not be trained in that form.
    """
    folded, small = fold_and_quantise(inference(model, None).SerializeToString(), samples)
    training, places = aware(folded, small)
    step = build_train_step(training, settings, batch=batch)
    signature = StepSignature.from_metadata({p.key: p.value for p in step.metadata_props})
    arrays = {i.name: numpy_helper.to_array(i) for i in folded.graph.initializer if i.name in places}
    files = {
        INFER: folded.SerializeToString(),
        INT8: round_into(small.SerializeToString(), arrays, places),
        TRAIN: step.SerializeToString(),
        EVALUATE: build_evaluation(training).SerializeToString(),
    }
    return Graphs(files, "quantised", signature.parameters, frozenset(arrays), places), arrays


def embed(model: onnx.ModelProto, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Put `arrays` in the place of the model's initialisers of the same names."""
    for initialiser in model.graph.initializer:
        if initialiser.name in arrays:
            initialiser.CopyFrom(
                numpy_helper.from_array(np.asarray(arrays[initialiser.name]), initialiser.name)
            )


def separator(forward: Forward, trained: Sequence[str]) -> str | None:
    """The last value before everything that is trained, if all that comes after needs nothing else.

    None if the model's input is that value, or there is none.
    """
    free = {*forward.arrays, ""} | {n for n, v in forward.values.items() if v.constant is not None}
    first = next(i for i, node in enumerate(forward.nodes) if set(node.inputs) & set(trained))
    candidates = [n for n in forward.nodes[first].inputs if n not in free and n not in forward.inputs]
    for candidate in candidates:
        inside = {candidate}
        for node in forward.nodes[first:]:
            if set(node.inputs) & (inside | set(trained)):
                if not set(node.inputs) <= inside | free:
                    break
                inside |= set(node.outputs)
        else:
            if forward.output in inside:
                return candidate
    return None


def after(model: onnx.ModelProto, forward: Forward, features: str) -> onnx.ModelProto:
    """The part of a model that makes its output of `features`, as a model of its own."""
    inside, nodes = {features}, []
    for node, proto in zip(forward.nodes, forward.protos, strict=True):
        if set(node.inputs) & inside:
            nodes.append(proto)
            inside |= set(node.outputs)
    read = {name for node in nodes for name in node.input} - inside
    arrays = {name: forward.arrays.get(name, forward.values[name].constant) for name in sorted(read) if name}
    value = forward.values[features]
    taken = helper.make_tensor_value_info(
        features, helper.np_dtype_to_tensor_dtype(value.dtype), ["batch", *value.shape[1:]]
    )
    ordered = [name for name in forward.arrays if name in arrays]
    ordered += [name for name in arrays if name not in forward.arrays]
    graph = helper.make_graph(
        nodes,
        "head",
        [taken],
        [o for o in model.graph.output if o.name == forward.output],
        [numpy_helper.from_array(np.asarray(arrays[name]), name) for name in ordered],
    )
    made = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", forward.opset)], ir_version=model.ir_version
    )
    kept = {p.key: p.value for p in model.metadata_props}
    helper.set_model_props(made, kept)
    return made


def inference(model: onnx.ModelProto, features: str | None) -> onnx.ModelProto:
    """The model as it evaluates with its arrays inside it; `features` is a second output of this name."""
    arrays = {i.name: i for i in model.graph.initializer}
    made = build_evaluation(model)
    graph = made.graph
    inside = [i.name for i in graph.input if i.name in arrays]
    graph.initializer.extend(arrays[name] for name in inside)
    for value in [i for i in graph.input if i.name in arrays]:
        graph.input.remove(value)
    if len(graph.input) != 1:
        raise InputError(f"the model has {len(graph.input)} inputs; an artefact's has one")
    if features is not None:
        graph.node.append(helper.make_node("Identity", [features], [FEATURES], name=FEATURES))
        graph.output.append(helper.make_empty_tensor_value_info(FEATURES))
        inferred = onnx.shape_inference.infer_shapes(made, strict_mode=False)
        return inferred if inferred.graph.output[1].type.tensor_type.elem_type else made
    return made
