"""The proof that stock onnxruntime computes what a model does."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedloom_edge.errors import RunError

TOLERANCE = 1e-4


def check_onnx(
    path: Path, inputs: NDArray[Any], expected: NDArray[Any], *, tolerance: float = TOLERANCE
) -> float:
    """Compare what stock onnxruntime makes of `inputs` (B, ...) with `expected` (B, ...).

    Args:
        path: the .onnx file.
        inputs: a batch for the graph's only input.
        expected: the model's own outputs.
        tolerance: largest difference allowed, relative to the largest expected magnitude or 1.

    Returns:
        The largest absolute difference; NaN beside NaN counts as none.

    Raises:
        RunError: the graph cannot be run, or the outputs differ in shape or beyond the tolerance.
    """
    try:
        outputs = run_onnx(path, inputs)
    except Exception as error:  # onnxruntime's errors share no base but this one
        raise RunError(f"{path}: onnxruntime cannot run it: {first_line(error)}") from error
    return compare(path, outputs, expected, tolerance)


def compare(path: Path, outputs: NDArray[Any], expected: NDArray[Any], tolerance: float) -> float:
    """Largest difference between two batches of outputs, or a RunError."""
    if outputs.shape != expected.shape:
        raise RunError(
            f"{path}: ONNX outputs have shape {outputs.shape}, the model's {expected.shape}; "
            "the model may use its batch size as a constant"
        )
    if not expected.size:
        return 0.0
    same = (outputs == expected) | (np.isnan(outputs) & np.isnan(expected))
    with np.errstate(invalid="ignore"):  # inf - inf, which is the same infinity
        difference = float(np.where(same, 0.0, np.abs(outputs - expected)).max())
    finite = np.abs(expected[np.isfinite(expected)])
    allowed = tolerance * max(1.0, float(finite.max(initial=0.0)))
    if not difference <= allowed:  # not `>`: a NaN on one side only is no agreement
        raise RunError(
            f"{path}: ONNX outputs differ from the model's by {difference:.3g} (allowed: {allowed:.3g})"
        )
    return difference


def run_onnx(path: Path, inputs: NDArray[Any]) -> NDArray[Any]:
    """What stock onnxruntime makes of a batch (B, ...), with one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # an error is raised anyway: no need to print it
    options.intra_op_num_threads = 1  # the same order of summation everywhere
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    outputs: NDArray[Any] = session.run(None, {session.get_inputs()[0].name: inputs})[0]
    return outputs


def first_line(error: Exception) -> str:
    """The first line of an error of a library that says more; its type if it says nothing."""
    return str(error).strip().split("\n")[0] or type(error).__name__
