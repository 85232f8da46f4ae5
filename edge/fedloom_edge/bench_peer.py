"""Step time of our graphs beside onnxruntime-training 1.19.2, its last release, in an environment of its own.

    python3.11 -m venv peer && peer/bin/pip install onnxruntime-training==1.19.2 onnx==1.16.2
    python -m fedloom_edge.bench_peer peer/bin/python [CASE ...] [--rounds 9]

Both train everything in the same exported graph, batch norm folded into convolutions (onnxruntime-training
cannot train it), with plain SGD, which is all that both have, and one thread; they take turns.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

_CASES = ("mlp", "cnn", "mobilenet")


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m fedloom_edge.bench_peer", description=__doc__)
    parser.add_argument("python", help="interpreter of the peer's environment")
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(_CASES)}; default: all")
    parser.add_argument("--rounds", type=int, default=9, help="rounds in which both sides take turns")
    arguments = parser.parse_args(argv)
    from fedloom_edge.errors import unknown  # the peer's environment has no fedloom

    for name in arguments.cases:
        if name not in _CASES:
            raise unknown("case", name, _CASES)
    sys.stdout.write(f"{'case':<12} {'peer ms':>9} {'ours ms':>9} {'ratio':>6}\n")
    for name in arguments.cases or _CASES:
        ours, peer, ratio = measure(name, arguments.python, arguments.rounds)
        sys.stdout.write(f"{name:<12} {peer:>9.3f} {ours:>9.3f} {ratio:>6.2f}\n")
        sys.stdout.flush()
    return 0


def measure(name: str, python: str, rounds: int) -> tuple[float, float, float]:
    """(our milliseconds a step, the peer's, median of the rounds' ratios peer / ours) on one case."""
    from fedloom_edge.bench import _load, _median_step
    from fedloom_edge.errors import RunError

    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder)
        _write(name, files)
        ours = _load(files)
        command = [python, str(Path(__file__).absolute()), "--peer", folder]
        pipe, log = subprocess.PIPE, files / "peer.log"
        with (
            log.open("w") as said,
            subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=said, text=True, cwd=folder) as peer,
        ):
            assert peer.stdin is not None
            assert peer.stdout is not None
            if not peer.stdout.readline():
                last = log.read_text().strip().rpartition("\n")[2]
                raise RunError(f"{python} cannot train {name}: {last}")
            times: list[tuple[float, float]] = []
            for _ in range(rounds):
                own = _median_step(ours)
                peer.stdin.write("go\n")
                peer.stdin.flush()
                times.append((own, float(peer.stdout.readline())))
            peer.stdin.close()
    medians = [1e3 * statistics.median(side) for side in zip(*times, strict=True)]
    return medians[0], medians[1], statistics.median(theirs / own for own, theirs in times)


def _write(name: str, folder: Path) -> None:
    """Our step, its arrays, a batch, and the graph that the peer makes its own step of."""
    import onnx

    from fedloom_edge.arrays import save_arrays
    from fedloom_edge.autodiff import StepSettings, build_train_step
    from fedloom_edge.bench_models import CASES, TorchStep
    from fedloom_edge.export import export_onnx

    case = CASES[name]
    theirs = TorchStep(case)
    export_onnx(theirs.module, theirs.x[:1].numpy(), folder / "model.onnx")
    model = onnx.load(folder / "model.onnx")
    step = build_train_step(model, StepSettings(loss="cross_entropy", optimizer="sgd"), batch=case.batch)
    (folder / "step.onnx").write_bytes(step.SerializeToString())
    weights = {i.name: onnx.numpy_helper.to_array(i).copy() for i in model.graph.initializer}
    floats = {n: a for n, a in weights.items() if a.dtype == np.float32}
    save_arrays(folder / "arrays.safetensors", floats)
    save_arrays(folder / "batch.safetensors", {"x": theirs.x.numpy(), "y": theirs.y.numpy()})
    np.savez(folder / "batch.npz", x=theirs.x.numpy(), y=theirs.y.numpy())


def _peer(folder: Path) -> None:
    """In the peer's environment: make its step, then for each line on standard input give a median."""
    step = _peer_step(folder)
    sys.stdout.write(f"{float(step())}\n")
    sys.stdout.flush()
    for _ in sys.stdin:
        times: list[float] = []
        end = time.perf_counter() + 0.15
        while time.perf_counter() < end or len(times) < 3:
            began = time.perf_counter()
            step()
            times.append(time.perf_counter() - began)
        sys.stdout.write(f"{statistics.median(times)}\n")
        sys.stdout.flush()


def _peer_step(folder: Path) -> Callable[[], Any]:
    # The package imports these two for PyTorch's sake, which is not there and not needed.
    for part in ("amp", "optim"):
        sys.modules[f"onnxruntime.training.{part}"] = types.ModuleType(part)
    import onnx
    import onnxruntime
    from onnxruntime.training import artifacts
    from onnxruntime.training.api import CheckpointState, Module, Optimizer

    model = onnx.load(folder / "model.onnx")
    names = [i.name for i in model.graph.initializer if i.data_type == 1 and i.dims]
    artifacts.generate_artifacts(
        model,
        requires_grad=names,
        loss=artifacts.LossType.CrossEntropyLoss,
        optimizer=artifacts.OptimType.SGD,
        artifact_directory=str(folder),
        prefix="peer_",
    )
    onnxruntime.set_default_logger_severity(4)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    state = CheckpointState.load_checkpoint(str(folder / "peer_checkpoint"))
    module = Module(str(folder / "peer_training_model.onnx"), state, device="cpu", session_options=options)
    optimiser = Optimizer(str(folder / "peer_optimizer_model.onnx"), module)
    optimiser.set_learning_rate(0.01)
    module.train()
    batch = np.load(folder / "batch.npz")
    x, y = batch["x"], batch["y"]

    def step() -> Any:
        loss = module(x, y)
        optimiser.step()
        module.lazy_reset_grad()
        return loss

    return step


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peer"]:
        _peer(Path(sys.argv[2]))
    else:
        sys.exit(main())
