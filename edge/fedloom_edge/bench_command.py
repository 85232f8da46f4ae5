"""Time and memory on this machine: of an artefact, or of the step graphs of known models beside torch.

An artefact: latency of an answer (p50, p95) of its float and int8 models, time of a train step, peak
memory, time from the start of a process to its first step, installed size, energy where the board has a
meter. Nothing but onnxruntime is needed. Without an artefact: the models of fedloom_edge.bench, with torch
beside ours; that needs torch and onnx.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from fedloom_edge import STARTED

_STEPS, _WARM = 60, 5
_PACKAGES = (
    "numpy",
    "onnxruntime",
    "grpcio",
    "protobuf",
    "safetensors",
    "flatbuffers",
    "packaging",
    "typing_extensions",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `fedloom edge bench`."""
    parser.add_argument("what", nargs="*", metavar="ARTEFACT|CASE", help="default: all cases beside torch")
    parser.add_argument("--rounds", type=int, default=15, help="rounds in which both sides take turns")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="write the figures there too")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> int:
    """Measure and print."""
    artefacts = [Path(name) for name in arguments.what if Path(name).exists()]
    if arguments.child:
        sys.stdout.write(json.dumps(_steps(artefacts[0])))
        return 0
    if not artefacts:
        return _cases(arguments)
    results = {}
    for path in artefacts:
        results[str(path)] = figures = measure_artefact(path)
        sys.stdout.write(_table(path, figures))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2))
    return 0


def measure_artefact(path: Path) -> dict[str, Any]:
    """Figures of an artefact: latencies of its models, and of a process of its own that trains.

    Raises:
        DataError: the artefact is not whole.
    """
    from fedloom_edge.artefact.check import check
    from fedloom_edge.artefact.manifest import INFER, INT8
    from fedloom_edge.artefact.serving import latency
    from fedloom_edge.artefact.storage import Artefact
    from fedloom_edge.energy import EnergyMeter

    artefact = Artefact(path)
    check(artefact)
    shape, dtype = artefact.manifest.input.shape, artefact.manifest.input.dtype
    models = {name: artefact.read(name) for name in (INFER, INT8) if name in artefact.manifest.files}
    began = time.perf_counter()
    with EnergyMeter() as meter:
        result: dict[str, Any] = {"latency": latency(models, np.zeros((1, *shape), dtype))}
    if meter.energy is not None and not meter.energy.estimated:
        result["watts"] = meter.energy.joules / (time.perf_counter() - began)
    command = [sys.executable, "-m", "fedloom_edge.cli", "edge", "bench", "--child", str(path)]
    result["training"] = json.loads(
        subprocess.run(command, capture_output=True, text=True, check=True).stdout
    )
    return result | {"installed_mb": installed_mb()}


def _steps(path: Path) -> dict[str, float]:
    """This process trains: milliseconds a step, peak MB, seconds from its start to the first step."""
    from fedloom_edge.artefact.check import initial_arrays
    from fedloom_edge.artefact.manifest import TRAIN
    from fedloom_edge.artefact.storage import Artefact
    from fedloom_edge.bench import _peak_mb
    from fedloom_edge.probe import made_up_batch
    from fedloom_edge.sessions import open_session
    from fedloom_edge.train_step import TrainStep

    artefact = Artefact(path)
    batch = int(artefact.manifest.training.get("batch_size", 32))
    graph = artefact.read(TRAIN)
    step = TrainStep(graph, batch=batch)
    step.set_arrays(initial_arrays(artefact))
    data = open_session(graph).get_inputs()
    shape = next(tuple(i.shape[1:]) for i in data if i.name in step.signature.inputs)
    x, y = made_up_batch(artefact.manifest, step.signature, shape, batch)
    step(x, y, lr=1e-6)
    start = time.perf_counter() - STARTED
    times = []
    for index in range(_STEPS + _WARM):
        began = time.perf_counter()
        step(x, y, lr=1e-6)
        if index >= _WARM:
            times.append(time.perf_counter() - began)
    return {
        "step_ms": 1e3 * statistics.median(times),
        "batch": batch,
        "peak_mb": _peak_mb(),
        "start_to_first_step_s": start,
    }


def installed_mb() -> float:
    """Megabytes on disk of fedloom's packages that a device has."""
    total = 0
    for name in _PACKAGES:
        try:
            files = metadata.files(name) or []
        except metadata.PackageNotFoundError:
            continue
        total += sum(path.stat().st_size for file in files if (path := Path(str(file.locate()))).is_file())
    return total / 1e6


def _cases(arguments: argparse.Namespace) -> int:
    from fedloom_edge.bench import main

    options = [*arguments.what, "--rounds", str(arguments.rounds)]
    return main([*options, *(["--json", str(arguments.json)] if arguments.json else [])])


def _table(path: Path, figures: dict[str, Any]) -> str:
    training = figures["training"]
    lines = [f"{path}"]
    for name, times in figures["latency"].items():
        lines.append(f"  {name:<24} one answer {times['p50_ms']:9.3f} ms   p95 {times['p95_ms']:9.3f} ms")
    lines.append(f"  {'train.onnx':<24} a step of {training['batch']:<3} {training['step_ms']:6.3f} ms")
    lines.append(f"  {'training process':<24} peak {training['peak_mb']:.0f} MB, first step after "
                 f"{training['start_to_first_step_s']:.2f} s")  # fmt: skip
    lines.append(f"  {'installed':<24} {figures['installed_mb']:.0f} MB")
    energy = (
        f"{figures['watts']:.2f} W while answering" if "watts" in figures else "this machine shows no meter"
    )
    return "\n".join([*lines, f"  {'energy':<24} {energy}", ""])
