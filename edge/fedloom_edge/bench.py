"""Step time, memory and start-up of train-step graphs, with PyTorch beside them.

    python -m fedloom_edge.bench [CASE ...] [--rounds 15] [--json FILE]

Both sides run the same step (forward, backward, momentum) with one thread. Times are medians over rounds
in which the two take turns; memory and the time from import to the first step are of processes of their
own. torch and onnx build the graphs; the processes that are measured for ours load neither.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fedloom_edge.errors import unknown

_ROUND_SECONDS = 0.15
_PROCESS_STEPS = 20
_STARTS = 3


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m fedloom_edge.bench", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help="default: all")
    parser.add_argument("--rounds", type=int, default=15, help="rounds of both sides")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="write the results there too")
    parser.add_argument("--child", nargs=2, default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.child:
        return _child(*arguments.child)
    from fedloom_edge.bench_models import CASES

    names = arguments.cases or list(CASES)
    for name in names:
        if name not in CASES:
            raise unknown("case", name, CASES)
    results = {}
    sys.stdout.write(_HEADER)
    for name in names:
        results[name] = measure(name, arguments.rounds)
        sys.stdout.write(_row(name, results[name]))
        sys.stdout.flush()
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2))
    return 0


def measure(name: str, rounds: int) -> dict[str, float]:
    """Figures of one case: step_ms, memory_mb and start_s of both sides, ratio, bar."""
    from fedloom_edge.bench_models import CASES, TorchStep

    case = CASES[name]
    theirs = TorchStep(case)
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder)
        _write(name, theirs, files)
        ours = _load(files)
        times: dict[str, list[float]] = {"ours": [], "torch": []}
        for _ in range(rounds):
            times["ours"].append(_median_step(ours))
            times["torch"].append(_median_step(theirs))
        result = {f"{side}_step_ms": 1e3 * statistics.median(t) for side, t in times.items()}
        ratios = [t / o for o, t in zip(times["ours"], times["torch"], strict=True)]
        result |= {"ratio": statistics.median(ratios), "bar": case.bar}
        for side, what in (("ours", folder), ("torch", name)):
            starts = [_process(side, what) for _ in range(_STARTS)]
            result[f"{side}_memory_mb"] = statistics.median(memory for memory, _ in starts)
            result[f"{side}_start_s"] = statistics.median(start for _, start in starts)
    return result


def _write(name: str, theirs: Any, folder: Path) -> None:
    """The step graph, its arrays and a batch, as files."""
    from fedloom_edge.arrays import save_arrays
    from fedloom_edge.autodiff import StepSettings, build_train_step
    from fedloom_edge.bench_models import CASES
    from fedloom_edge.export import training_graph

    case = CASES[name]
    model = training_graph(theirs.module, theirs.x.numpy())
    graph = build_train_step(
        model, StepSettings(loss="cross_entropy"), trainable=case.trainable, batch=case.batch
    )
    (folder / "step.onnx").write_bytes(graph.SerializeToString())
    state = theirs.module.state_dict()
    floats = {k: v.numpy() for k, v in state.items() if v.is_floating_point()}
    save_arrays(folder / "arrays.safetensors", floats)
    save_arrays(folder / "batch.safetensors", {"x": theirs.x.numpy(), "y": theirs.y.numpy()})


def _load(folder: Path) -> Callable[[], float]:
    """Our step on the files of `_write`."""
    from fedloom_edge.arrays import load_arrays
    from fedloom_edge.train_step import TrainStep

    batch = load_arrays(folder / "batch.safetensors")
    x, y = batch["x"], batch["y"]
    step = TrainStep(folder / "step.onnx", batch=len(x))
    step.set_arrays(load_arrays(folder / "arrays.safetensors"))
    return lambda: step(x, y, lr=0.01)[0]


def _median_step(step: Callable[[], float]) -> float:
    """Median seconds of a step over a round."""
    times: list[float] = []
    end = time.perf_counter() + _ROUND_SECONDS
    while time.perf_counter() < end or len(times) < 3:
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def _process(side: str, what: str) -> tuple[float, float]:
    """(peak MB, seconds from the start to the end of the first step) of a process of its own."""
    command = [sys.executable, "-m", "fedloom_edge.bench", "--child", side, what]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    memory, start = json.loads(done.stdout)
    return float(memory), float(start)


def _child(side: str, what: str) -> int:
    from fedloom_edge import STARTED

    if side == "ours":
        step = _load(Path(what))
    else:
        from fedloom_edge.bench_models import CASES, TorchStep

        step = TorchStep(CASES[what])
    step()
    start = time.perf_counter() - STARTED
    losses = [step() for _ in range(_PROCESS_STEPS)]
    assert np.isfinite(losses).all()
    sys.stdout.write(json.dumps([_peak_mb(), start]))
    return 0


def _peak_mb() -> float:
    """Largest resident size of this process so far; not getrusage's, which counts the parent's too."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


_HEADER = (
    f"{'case':<22} {'torch ms':>9} {'ours ms':>9} {'ratio':>6} {'bar':>5}"
    f" {'torch MB':>9} {'ours MB':>8} {'torch s':>8} {'ours s':>7}\n"
)


def _row(name: str, r: dict[str, float]) -> str:
    return (
        f"{name:<22} {r['torch_step_ms']:>9.3f} {r['ours_step_ms']:>9.3f} {r['ratio']:>6.2f} {r['bar']:>5.1f}"
        f" {r['torch_memory_mb']:>9.0f} {r['ours_memory_mb']:>8.0f}"
        f" {r['torch_start_s']:>8.2f} {r['ours_start_s']:>7.2f}\n"
    )


if __name__ == "__main__":
    sys.exit(main())
