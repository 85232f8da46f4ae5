"""Make an artefact of a run or a task: what a device needs to infer and to go on training, without torch.

infer.onnx, infer.int8.onnx, train.onnx and evaluate.onnx, arrays.safetensors and manifest.json, in a
folder or one .fedloom file. What the model computes is compared with torch on real samples first.
"""

import argparse
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedloom_client.data.preprocess import Standardize, Vocabulary, prepare
from fedloom_client.data.samples import Data, Samples, View
from fedloom_client.data.wordpieces import WordPieces
from fedloom_client.loading import load_data, load_task
from fedloom_client.seeds import generator
from fedloom_client.task import Task
from fedloom_client.trainer import Terms
from fedloom_edge.arrays import Arrays, arrays_sha256
from fedloom_edge.artefact.manifest import ARRAYS, EXPLAIN, INFER, INT8, Manifest, Tensor
from fedloom_edge.artefact.storage import SUFFIX, Artefact, write_artefact
from fedloom_edge.errors import InputError
from fedloom_server.store.run_store import DATABASE, RunStore

_PARITY_SAMPLES, _CALIBRATION_SAMPLES, _TEST_SAMPLES = 256, 256, 2000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `fedloom edge export`."""
    parser.add_argument(
        "source", metavar="RUN|TASK", help="folder of a run, a built-in task, or FILE.py[:NAME]"
    )
    parser.add_argument(
        "--task", default=None, metavar="FILE.py[:NAME]", help="the run's task if it is your own"
    )
    parser.add_argument("--data", type=Path, default=None, metavar="DIR", help="folder of the task's data")
    parser.add_argument(
        "--train",
        default="last:1",
        metavar="WHAT",
        help="what the device trains: all, last:N layers, biases, batch-norm, a pattern of names, "
        "or int8: all, with the rounding of int8",
    )
    parser.add_argument(
        "--explain", action="store_true", help="with what fedloom edge explain needs for gradients"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of a fresh model and of the samples that are used"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=None,
        metavar="PATH",
        help=f"folder or {SUFFIX} file (default: TASK{SUFFIX})",
    )


def run(arguments: argparse.Namespace) -> int:
    """Export, check what was written, and tell."""
    from fedloom_edge.artefact.check import check  # onnxruntime takes its time

    source = _source(arguments)
    out = arguments.out or Path(f"{source.task.name}{SUFFIX}")
    manifest = export(source, arguments.train, arguments.seed, out, explain=arguments.explain)
    check(Artefact(out))
    sys.stdout.write(describe(manifest, out))
    return 0


@dataclass(frozen=True)
class Source:
    """What is exported: a task with arrays, constants of its preprocessing, and where they are from."""

    task: Task
    data: Data
    arrays: Arrays
    constants: Arrays
    provenance: dict[str, Any]


def _source(arguments: argparse.Namespace) -> Source:
    from fedloom_client.torch_trainer import TorchTrainer

    folder = Path(arguments.source)
    if not (folder / DATABASE).is_file():
        if folder.is_dir():
            raise InputError(f"{folder} is no run: it has no {DATABASE}; name a run's folder or a task")
        task = load_task(arguments.source)
        data = load_data(task, arguments.data)
        fit = task.preprocess
        constants = {} if fit is None else fit.merge([fit.summarise(data.train)])
        arrays = TorchTrainer(task).initial_arrays(arguments.seed)
        return Source(task, data, arrays, constants, {"task": arguments.source, "seed": arguments.seed})
    with RunStore.open(folder) as store:
        facts, rounds = store.facts(), store.rounds()
        if not rounds:
            raise InputError(f"{folder} has no round yet: let it run first")
        task = load_task(arguments.task or facts["task"])
        arrays = store.get_arrays(rounds[-1].arrays)
        constants = store.get_arrays(facts["preprocess"]) if facts["preprocess"] else {}
        names = ("task", "seed", "strategy", "partition", "clients")
        provenance = {"run": folder.resolve().name, "round": rounds[-1].number} | {n: facts[n] for n in names}
    return Source(task, load_data(task, arguments.data), arrays, constants, provenance)


def export(source: Source, trainable: str, seed: int, out: Path, *, explain: bool = False) -> Manifest:
    """Write the artefact to `out` (see `write_artefact`) and return its manifest.

    Args:
        source: what is exported.
        trainable: as for `build_train_step`.
        seed: decides which training samples calibrate the int8 model.
        out: folder or .fedloom file.
        explain: whether the graph of the input's gradient is in it.

    Raises:
        InputError: the model, the data or `trainable` does not fit.
        RunError: ONNX computes something else than torch, or `out` cannot be written.
    """
    import onnx

    from fedloom_client.onnx_trainer.trainer import step_settings
    from fedloom_client.torch_trainer import TorchTrainer
    from fedloom_edge.artefact.build import build_aware, build_graphs, embed
    from fedloom_edge.artefact.serving import choose, measure
    from fedloom_edge.autodiff.evaluation import build_input_gradient
    from fedloom_edge.export import training_graph
    from fedloom_server.report.results import versions

    task, trainer = source.task, TorchTrainer(source.task)
    x, y = ready_samples(source, source.data.test, _TEST_SAMPLES, seed)
    module = trainer.module(source.arrays)
    if trainable != "all":  # what is named is trained, even if the task keeps it frozen
        module.requires_grad_(True)
    model = training_graph(module, x[:1])
    embed(model, source.arrays)
    training = task.training
    settings = step_settings(task.loss, training, Terms(), alone=False)
    if trainable == "int8":
        ranges, _ = ready_samples(source, source.data.train, _CALIBRATION_SAMPLES, seed)
        graphs, arrays = build_aware(model, settings, ranges, training.batch_size)
    else:
        graphs = build_graphs(model, settings, trainable, training.batch_size)
        arrays = {n: a for n, a in source.arrays.items() if n in graphs.arrays}
    expected = trainer.outputs(source.arrays, x[:_PARITY_SAMPLES])
    difference = parity(graphs.files[INFER], x[:_PARITY_SAMPLES], expected)
    models = {INFER: graphs.files[INFER]}
    measured: dict[str, Any] = {"torch_difference": difference}
    try:
        models[INT8] = graphs.files.get(INT8) or int8_of(source, graphs, seed)
    except InputError as error:
        measured["int8"] = str(error)
    figures = measure(models, task.loss, x, y)
    serve, why = choose(figures)
    manifest = Manifest(
        name=task.name,
        loss=task.loss,
        input=Tensor("input", str(x.dtype), x.shape[1:]),
        output=Tensor("output", "float32", expected.shape[1:]),
        classes=source.data.class_names,
        preprocess=_preprocess(task, source.constants),
        kind=graphs.kind,
        trainable=trainable,
        parameters=graphs.parameters,
        training=asdict(training),
        serve=serve,
        rounded=graphs.rounded,
        measured=measured | figures | {"serve": why, "test_samples": len(x)},
        versions=versions(),
        provenance=source.provenance | {"arrays_sha256": arrays_sha256(source.arrays)},
    )
    files = {**graphs.files, **models, ARRAYS: packed(arrays)}
    if explain:
        model = onnx.load_model_from_string(graphs.files[INFER])
        files[EXPLAIN] = build_input_gradient(model).SerializeToString()
    return write_artefact(out, manifest, files)


def ready_samples(
    source: Source, samples: Samples, most: int, seed: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Ready inputs (N, ...) and targets (N, ...) of some samples, the same ones for the same seed."""
    chosen = np.sort(generator(seed, "export").permutation(len(samples))[:most])
    view: Samples = View(samples, chosen)
    if source.task.preprocess is not None:
        view = prepare(view, source.task.preprocess, source.constants)
    x, y = view.take(np.arange(len(view)))
    return np.ascontiguousarray(x, np.float32 if x.dtype.kind == "f" else np.int64), y


def parity(content: bytes, x: NDArray[Any], expected: NDArray[Any]) -> float:
    """Largest difference of an inference model's outputs on inputs (N, ...) from torch's.

    Raises:
        RunError: it is too large.
    """
    from fedloom_edge.onnx_check import check_onnx

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, INFER)
        path.write_bytes(content)
        return check_onnx(path, x, expected)


def int8_of(source: Source, graphs: Any, seed: int) -> bytes:
    """The int8 inference model of an artefact's graphs; where a head is trained, the head is float in it.

    Args:
        source: its training samples say how large activations are.
        graphs: of the artefact (`build_graphs`).
        seed: decides which samples.

    Raises:
        InputError: the model cannot be quantised, or its head not be patched in that form.
    """
    from fedloom_edge.artefact.graph import inspect
    from fedloom_edge.quantise import quantise

    x, _ = ready_samples(source, source.data.train, _CALIBRATION_SAMPLES, seed)
    if graphs.kind != "head":
        return quantise(graphs.files[INFER], x)
    small = quantise(graphs.files[INFER], x, graphs.parameters)
    if not graphs.arrays & {*source.arrays} <= set(inspect(small, INT8).stored):
        raise InputError("batch norm is folded into what is trained; train a last layer without it, or int8")
    return small


def packed(arrays: Arrays) -> bytes:
    """Arrays as safetensors."""
    from safetensors.numpy import save

    content: bytes = save({name: np.ascontiguousarray(a) for name, a in arrays.items()})
    return content


def _preprocess(task: Task, constants: Arrays) -> dict[str, Any]:
    kind = task.preprocess
    if kind is None:
        return {"kind": "none"}
    if type(kind) is Standardize:
        return {"kind": "standardize", "axis": kind.axis} | {n: a.tolist() for n, a in constants.items()}
    if type(kind) is Vocabulary:
        words = constants["words"].tobytes().decode().split("\n")
        return {"kind": "vocabulary", "size": kind.size, "length": kind.length, "words": words}
    if type(kind) is WordPieces:
        words = constants["words"].tobytes().decode().split("\n")
        return {"kind": "wordpieces", "length": kind.length, "words": words}
    return {"kind": "custom", "name": type(kind).__name__}


def describe(manifest: Manifest, path: Path) -> str:
    """The artefact in a few lines for people."""
    from fedloom_edge.artefact.serving import table

    head = f"{path}: {manifest.name}, trains {manifest.trainable} ({len(manifest.parameters)} arrays)\n"
    figures = table({file: manifest.measured[file] for file in (INFER, INT8) if file in manifest.measured})
    note = f"  no int8 model: {manifest.measured['int8']}\n" if "int8" in manifest.measured else ""
    return f"{head}{figures}{note}  serves {manifest.serve}: {manifest.measured['serve']}\n"
