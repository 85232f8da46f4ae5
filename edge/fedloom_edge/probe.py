"""A short measurement of an artefact's train step on this machine: how long it takes and how much memory.

Each batch size is measured in a process of its own, so that the memory is that of this batch alone, and
under a limit, so that the measurement itself never takes more than may be taken.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedloom_edge.errors import RunError

_SECONDS, _LEAST, _MOST = 0.5, 3, 50
_PATIENCE = 600.0


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One measurement.

    Attributes:
        batch: examples a step.
        seconds: median of a step; the first, which the runtime uses to warm up, is left out.
        bytes: that training took at its peak beyond a process with numpy.
    """

    batch: int
    seconds: float
    bytes: int


def probe(path: Path, part: str, batch: int, memory: float) -> Probe | None:
    """Measure a train step on made-up inputs in a process that may take `memory` bytes for its data.

    Args:
        path: of the artefact.
        part: of what it trains, as its manifest names it; empty for all.
        batch: examples a step.
        memory: bytes.

    Returns:
        None where that is not enough.

    Raises:
        RunError: the artefact cannot be trained, and why.
    """
    bound = f"{min(memory, 1e15):.0f}"
    command = [sys.executable, "-m", "fedloom_edge.probe", str(path), part, str(batch), bound]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE)
    if done.returncode == 0:
        return Probe(**json.loads(done.stdout))
    said = done.stderr.strip()
    if done.returncode < 0 or "alloc" in said.lower() or "MemoryError" in said:
        return None
    raise RunError(f"{path}: a step cannot be measured: {said.splitlines()[-1] if said else done.returncode}")


def made_up_batch(manifest: Any, signature: Any, shape: tuple[int, ...], batch: int) -> tuple[Any, Any]:
    """Inputs (batch, *shape) and targets of the kinds that a train step takes."""
    x: NDArray[Any] = np.random.default_rng(0).random((batch, *shape)).astype(np.float32)
    if manifest.input.dtype == "int64" and manifest.kind == "full":
        x = np.zeros(x.shape, np.int64)
    if signature.classes:
        return x, np.arange(batch) % signature.classes
    return x, np.zeros((batch, *manifest.output.shape), np.float32)


def main() -> int:
    """The process: prints a `Probe` as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=Path)
    parser.add_argument("part")
    parser.add_argument("batch", type=int)
    parser.add_argument("memory", type=float)
    options = parser.parse_args()
    before = _status("VmRSS")
    limit = int(options.memory) + _status("VmData")
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    seconds = _step_seconds(options.path, options.part, options.batch)
    found = Probe(batch=options.batch, seconds=seconds, bytes=max(_status("VmHWM") - before, 0))
    sys.stdout.write(json.dumps(asdict(found)))
    return 0


def _step_seconds(path: Path, part: str, batch: int) -> float:
    from fedloom_edge.artefact.check import initial_arrays
    from fedloom_edge.artefact.manifest import INFER, step_file
    from fedloom_edge.artefact.serving import predict
    from fedloom_edge.artefact.storage import Artefact
    from fedloom_edge.sessions import open_session
    from fedloom_edge.train_step import TrainStep

    artefact = Artefact(path)
    manifest, graph = artefact.manifest, artefact.read(step_file(part))
    step = TrainStep(graph, batch=batch)
    step.set_arrays(initial_arrays(artefact))
    inputs = open_session(graph).get_inputs()
    shape = next(tuple(i.shape[1:]) for i in inputs if i.name in step.signature.inputs)
    if manifest.kind == "head":  # the features of a batch, which training needs too
        predict(artefact.read(INFER), np.zeros((batch, *manifest.input.shape), manifest.input.dtype))
    x, y = made_up_batch(manifest, step.signature, shape, batch)
    step(x, y, lr=1e-6)
    times: list[float] = []
    while len(times) < _LEAST or (sum(times) < _SECONDS and len(times) < _MOST):
        began = time.perf_counter()
        step(x, y, lr=1e-6)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def _status(key: str) -> int:
    """Bytes by a line of /proc/self/status."""
    return int(Path("/proc/self/status").read_text().split(f"{key}:")[1].split()[0]) * 1024


if __name__ == "__main__":
    sys.exit(main())
