"""Which of an artefact's models answers: the int8 one where it is as good and as fast, else the float one."""

import statistics
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedloom_edge.artefact.manifest import INFER, INT8, Manifest
from fedloom_edge.measures import standard_metric
from fedloom_edge.sessions import open_session

_RUNS = 60
_BATCH = 64
_ACCURACY_POINTS = 0.005
_ERROR_FACTOR = 1.01


def predict(content: bytes, x: NDArray[Any]) -> NDArray[Any]:
    """First output (N, ...) of an inference model on ready inputs (N, ...)."""
    session = open_session(content)
    name, output = session.get_inputs()[0].name, session.get_outputs()[0].name
    parts = np.split(x, range(_BATCH, len(x), _BATCH))
    return np.concatenate([session.run([output], {name: part})[0] for part in parts])


def latency(models: Mapping[str, bytes], x: NDArray[Any]) -> dict[str, dict[str, float]]:
    """Milliseconds of an answer to one input (1, ...), p50 and p95 by model; models take turns."""
    sessions = {name: open_session(content) for name, content in models.items()}
    inputs = {name: session.get_inputs()[0].name for name, session in sessions.items()}
    times: dict[str, list[float]] = {name: [] for name in models}
    for run in range(_RUNS + 5):
        for name, session in sessions.items():
            began = time.perf_counter()
            session.run(None, {inputs[name]: x})
            if run >= 5:  # the first ones warm caches up
                times[name].append(1e3 * (time.perf_counter() - began))
    return {
        name: {"p50_ms": statistics.median(t), "p95_ms": float(np.percentile(t, 95))}
        for name, t in times.items()
    }


def measure(
    models: Mapping[str, bytes], loss: str, x: NDArray[Any], y: NDArray[Any]
) -> dict[str, dict[str, float]]:
    """Figures of each model on ready inputs (N, ...): its metric, latency of one answer, bytes.

    The metric is `accuracy` for the cross-entropies, else `mae`.
    """
    name = "accuracy" if loss.endswith("cross_entropy") else "mae"
    speed = latency(models, x[:1])
    return {
        file: {name: standard_metric(loss, predict(content, x), y), **speed[file], "bytes": len(content)}
        for file, content in models.items()
    }


def choose(measured: Mapping[str, Mapping[str, float]]) -> tuple[str, str]:
    """(file to serve, why)."""
    if INT8 not in measured:
        return INFER, "there is no int8 model"
    plain, small = measured[INFER], measured[INT8]
    if "accuracy" in plain:
        good = small["accuracy"] >= plain["accuracy"] - _ACCURACY_POINTS
    else:
        good = small["mae"] <= _ERROR_FACTOR * plain["mae"]
    if not good:
        return INFER, "int8 loses too much accuracy"
    if small["p50_ms"] > plain["p50_ms"]:
        return INFER, "int8 is slower here"
    return INT8, "int8 is as good and faster"


def backbone(manifest: Manifest) -> str:
    """The file whose features a head is trained on, and that serves after training.

    int8 where it was as fast, whatever it lost before: training makes up for what rounding changes.
    """
    plain, small = (manifest.measured.get(name) for name in (INFER, INT8))
    if INT8 not in manifest.files or not isinstance(plain, dict) or not isinstance(small, dict):
        return manifest.serve
    faster = float(small.get("p50_ms", 0)) <= float(plain.get("p50_ms", 0))
    return INT8 if faster else INFER


def table(measured: Mapping[str, Mapping[str, float]]) -> str:
    """The figures of `measure` in a line a model."""
    lines = []
    for file, figures in measured.items():
        metric = "accuracy" if "accuracy" in figures else "mae"
        lines.append(
            f"  {file:<15} {figures['bytes'] / 1e6:7.2f} MB  {metric} {figures[metric]:.4f}"
            f"  one answer {figures['p50_ms']:.3f} ms (p95 {figures['p95_ms']:.3f})\n"
        )
    return "".join(lines)
