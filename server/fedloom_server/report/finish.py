"""The end of a run: the files that it leaves, made from its store alone."""

from typing import Any

import numpy as np

from fedloom_client.data.preprocess import Standardize, prepare
from fedloom_client.data.samples import Data, View
from fedloom_client.task import Task
from fedloom_edge.arrays import Arrays, save_arrays
from fedloom_edge.errors import RunError
from fedloom_edge.export import export_onnx, standardized
from fedloom_edge.onnx_check import check_onnx
from fedloom_server.report.results import write_result
from fedloom_server.store.run_store import RunStore

_PARITY_SAMPLES = 256


def finish_run(store: RunStore, task: Task, data: Data) -> dict[str, Any]:
    """Write result.json, model.safetensors, model.onnx and report.png; returns the result.

    They show the last round in the store, so an interrupted run leaves them too. A model that cannot
    be written as ONNX, or computes something else there, leaves a warning instead of model.onnx.
    """
    from fedloom_server.report.run import draw_run  # Matplotlib takes a second

    if rounds := store.rounds():
        try:
            arrays = store.get_arrays(rounds[-1].arrays)
            digest = store.facts()["preprocess"]
            constants = store.get_arrays(digest) if digest else {}
            save_arrays(store.folder / "model.safetensors", arrays)
            store.set_facts({"onnx_difference": _write_onnx(store, task, data, arrays, constants)})
        except RunError as error:  # damaged arrays, or no ONNX form, are no reason to lose the rest
            store.event("warning", reason=str(error))
    result = write_result(store)
    if rounds:
        draw_run(store, store.folder / "report.png")
    return result


def _write_onnx(store: RunStore, task: Task, data: Data, arrays: Arrays, constants: Arrays) -> float:
    """Export the model and compare it with torch on test samples; returns the largest difference.

    With `Standardize` the graph takes raw inputs: the constants are part of it.
    """
    from fedloom_client.torch_trainer import TorchTrainer

    trainer = TorchTrainer(task)
    raw = View(data.test, np.arange(min(_PARITY_SAMPLES, len(data.test))))
    ready = raw if task.preprocess is None else prepare(raw, task.preprocess, constants)
    everything = np.arange(len(raw))
    inputs = ready.take(everything)[0]
    expected = trainer.outputs(arrays, inputs)
    model: Any = trainer.module(arrays)
    if isinstance(task.preprocess, Standardize):
        model = standardized(model, constants["mean"], constants["deviation"], task.preprocess.axis)
        inputs = raw.take(everything)[0]
    path = store.folder / "model.onnx"
    export_onnx(model, inputs[:1], path)
    return float(check_onnx(path, inputs, expected))
