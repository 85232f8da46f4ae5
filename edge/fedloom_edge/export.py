"""A torch model as one ONNX file, and the proof that stock onnxruntime computes the same.

The graph has one input, `input`, and one output, `output`, whose first axis is the batch. For a task
with `Standardize` wrap the model in `standardized` first: the graph then takes raw features. For a task
with `Vocabulary` the graph takes token ids (B, length) int64, because cutting text into words is not a
tensor operation: whoever feeds it does that with the run's vocabulary.
"""

import json
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedloom_edge.errors import RunError
from fedloom_edge.files import replacing
from fedloom_edge.onnx_check import TOLERANCE, compare, first_line, run_onnx

if TYPE_CHECKING:
    import onnx
    from torch import Tensor, nn

OPSET = 18
INPUT, OUTPUT = "input", "output"


def export_onnx(model: "nn.Module", example: NDArray[Any], path: Path) -> None:
    """Write `model`, as it evaluates (dropout off, batch norm frozen), to `path` in one step.

    Args:
        model: takes one tensor (B, ...) and returns one tensor (B, ...).
        example: one input (1, ...) with the shape and dtype that the graph is to take.
        path: the .onnx file; weights are inside it, so they may take 2 GB at most.

    Raises:
        RunError: no exporter makes a graph that computes what the model does.
    """
    import torch

    # Two examples, since an exporter may take a batch of one for a constant; three for the proof.
    batch = torch.from_numpy(np.repeat(example[:1], 2, axis=0))
    proof = np.repeat(example[:1], 3, axis=0)
    with _evaluating(model), _quiet(), replacing(path) as temporary:
        with torch.no_grad():
            expected = model(torch.from_numpy(proof)).numpy()
        faults: list[str] = []
        # The tracer first: over a CNN, GRUs, LSTMs, Transformers and an MLP it took 0.01 to 0.2 s
        # each and torch.export 0.8 to 6 s, with equal outputs. Tracing can fix what should vary, an
        # operator can be missing, and torch may drop the tracer one day: then torch.export has a try.
        for write in (_trace, _capture):
            try:
                write(model, batch, temporary)
                compare(path, run_onnx(temporary, proof), expected, TOLERANCE)
                return
            except Exception as error:  # noqa: BLE001  (exporters fail with any type of error)
                faults.append(first_line(error))
        raise RunError(f"{path}: the model cannot be written as ONNX ({'; '.join(faults)})")


def training_graph(model: "nn.Module", example: NDArray[Any], *, branches: bool = True) -> "onnx.ModelProto":
    """`model` as it trains, for `fedloom_edge.autodiff`: dropout and batch norm are nodes of the graph.

    Arrays have their names in the state_dict; the metadata says which are trained, which share memory
    under several names, and which rows of embeddings are padding.

    Args:
        model: takes one tensor (B, ...) and returns one tensor; it stays as it is.
        example: one input (1, ...) with the shape and dtype that the graph is to take.
        branches: whether Python code may look at values, of which the graph keeps the one way it went.

    Raises:
        RunError: the exporter has no graph for the model.
    """
    import copy
    import io

    import onnx
    import torch
    from onnx import helper, numpy_helper

    batch = torch.from_numpy(np.repeat(example[:1], 2, axis=0))
    file = io.BytesIO()
    try:
        with _quiet(), warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            torch.onnx.export(
                copy.deepcopy(model).train(),  # a batch goes through it, which moves running statistics
                (batch,),
                file,  # type: ignore[arg-type]  # the tracer writes to open files too
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_axes={INPUT: {0: "batch"}, OUTPUT: {0: "batch"}},
                opset_version=OPSET,
                training=torch.onnx.TrainingMode.TRAINING,
                do_constant_folding=False,
                dynamo=False,
            )
    except Exception as error:  # exporters fail with any type of error
        raise RunError(f"the model cannot be written as a training graph ({first_line(error)})") from error
    if not branches and (looks := _looks_at_values(told)):
        raise RunError(f"the model's code looks at values ({looks})")
    graph = onnx.load_from_string(file.getvalue())
    _store_constants(graph.graph)
    state = model.state_dict()
    for array in graph.graph.initializer:
        if array.name in state:  # the exporter's own run has moved the running statistics
            value = np.asarray(state[array.name].detach().numpy())
            array.CopyFrom(numpy_helper.from_array(value, array.name))
    helper.set_model_props(graph, _training_metadata(model, {i.name for i in graph.graph.initializer}))
    return graph


def _looks_at_values(told: "list[warnings.WarningMessage]") -> str:
    """What the tracer said of code that is not PyTorch's own, which looks at shapes only."""
    import torch

    own = str(Path(torch.__file__).parent)
    kind = torch.jit.TracerWarning  # type: ignore[attr-defined]
    said = (str(w.message) for w in told if w.category is kind and not w.filename.startswith(own))
    return next(said, "").partition(". ")[0]


def _store_constants(graph: "onnx.GraphProto") -> None:
    """Weights that a module keeps out of its state_dict become initialisers, as frozen ones in it are."""
    for node in [n for n in graph.node if n.op_type == "Constant"]:
        value = node.attribute[0].t
        if value.data_type == value.FLOAT and len(value.dims) > 1:
            value.name = node.output[0]
            graph.initializer.append(value)
            graph.node.remove(node)


def _training_metadata(model: "nn.Module", arrays: set[str]) -> dict[str, str]:
    """What a graph cannot say of a module, as JSON by the keys that `fedloom_edge.autodiff` reads."""
    from torch import nn

    by_memory: dict[int, str] = {}
    tied: dict[str, str] = {}
    named = list(model.named_parameters(remove_duplicate=False))
    for name, parameter in sorted(named, key=lambda pair: pair[0] not in arrays):
        first = by_memory.setdefault(id(parameter), name)
        if first != name:
            tied[name] = first
    trained = [
        n for n, p in model.named_parameters(remove_duplicate=False) if p.requires_grad and n in arrays
    ]
    padding = {
        tied.get(f"{name}.weight", f"{name}.weight"): module.padding_idx
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and module.padding_idx is not None
    }
    facts = {"parameters": trained, "tied": tied, "padding_rows": padding}
    return {f"fedloom.{key}": json.dumps(value) for key, value in facts.items()}


def standardized(
    model: "nn.Module", mean: NDArray[Any], deviation: NDArray[Any], axis: int | None
) -> "nn.Module":
    """`model` behind the arithmetic of `fedloom_client.data.preprocess.Standardize`, for raw inputs.

    Args:
        model: takes standardised float32 inputs.
        mean: of each feature (F,), float64.
        deviation: of each feature (F,), float64.
        axis: axis of the input that indexes features; None for one mean and deviation.
    """
    import torch
    from torch import nn

    class Standardized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model
            # float64 as in Standardize: a year like 2024 +- 3 keeps seven digits only without it.
            self.register_buffer("mean", torch.from_numpy(np.asarray(mean, np.float64)))
            self.register_buffer("deviation", torch.from_numpy(np.asarray(deviation, np.float64)))

        def forward(self, x: "Tensor") -> "Tensor":
            shape = [1] * x.ndim
            if axis is not None:
                shape[axis] = -1
            mean = self.get_buffer("mean").reshape(shape)
            deviation = self.get_buffer("deviation").reshape(shape)
            ready: Tensor = self.model(((x.double() - mean) / deviation).float())
            return ready

    return Standardized()


def _trace(model: "nn.Module", batch: "Tensor", path: Path) -> None:
    """Write the graph that one run of the model leaves behind."""
    import torch

    torch.onnx.export(
        model,
        (batch,),
        path,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_axes={INPUT: {0: "batch"}, OUTPUT: {0: "batch"}},
        opset_version=OPSET,
        dynamo=False,
    )


def _capture(model: "nn.Module", batch: "Tensor", path: Path) -> None:
    """Write the graph that torch.export makes of the model's code."""
    import onnx
    import torch

    torch.onnx.export(
        model,
        (batch,),
        path,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        opset_version=OPSET,
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    graph = onnx.load(path)
    for node in graph.graph.node:
        del node.metadata_props[:]  # stack traces: paths of this machine are nobody's business
    onnx.save(graph, path)


@contextmanager
def _evaluating(model: "nn.Module") -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters off the user's terminal; what matters of their work is proved afterwards.

    They print from C++ too, so the process's own standard output and error are put aside.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    kept = [os.dup(1), os.dup(2)]
    try:
        with Path(os.devnull).open("w") as nowhere, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
            yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for number, copy in enumerate(kept, start=1):
            os.dup2(copy, number)
            os.close(copy)
