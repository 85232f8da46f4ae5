"""Sessions of stock onnxruntime, as a device wants them: few threads, little memory, nothing that spins."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from fedloom_edge.arrays import Arrays
from fedloom_edge.errors import RunError, TrainingError
from fedloom_edge.heap import trim_heap
from fedloom_edge.step_settings import LOSS, NORM, NORMS, TARGET, StepSignature, new

_BATCH_AXIS = "batch"
_COPIED = 1 << 15


def open_session(graph: Path | bytes, *, batch: int = 0, threads: int = 1, plan: bool = False) -> Any:
    """An onnxruntime session for a device: few threads, and none of them spins while it waits.

    Args:
        graph: a file or its bytes.
        batch: size that the batch axis is fixed to; 0 for any.
        threads: of the runtime.
        plan: whether one block is planned ahead for a whole run: up to 57 MB more (MobileNetV2), and 4 µs
            less, which is a sixth of the smallest models' step.

    Raises:
        RunError: this runtime cannot load the graph.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_mem_pattern = plan
    options.enable_cpu_mem_arena = not plan  # the block is taken without it, in less time
    # Reuse holds a buffer of the forward pass until the backward pass wants one of that size: MobileNetV2's
    # step takes 17 of 143 MB for it, and no time less.
    options.enable_mem_reuse = False
    # Momentum that fades out becomes denormal, and arithmetic on denormals is many times slower.
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    if batch:
        options.add_free_dimension_override_by_name(_BATCH_AXIS, batch)
    try:
        source = graph if isinstance(graph, bytes) else str(graph)
        session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base but this one
        reason = str(error).strip().splitlines()[0]
        raise RunError(f"the graph cannot be loaded: {reason}") from error
    trim_heap()  # what loading has left on it: 3 MB for a MobileNetV2
    return session


class Evaluator:
    """A model that `build_evaluation` made: outputs of any arrays on any inputs.

    Args:
        graph: a file or its bytes.
        threads: of the runtime.

    Raises:
        RunError: this runtime cannot load the graph.
    """

    def __init__(self, graph: Path | bytes, *, threads: int = 1) -> None:
        self._session = open_session(graph, threads=threads)
        self._names = [i.name for i in self._session.get_inputs()]

    def __call__(self, arrays: Mapping[str, NDArray[Any]], x: NDArray[Any]) -> NDArray[Any]:
        """Outputs (B, ...) of the model with `arrays` on inputs (B, ...).

        Raises:
            TrainingError: an array is missing, or something does not fit the graph.
        """
        data, *rest = self._names
        try:
            outputs: NDArray[Any] = self._session.run(None, {data: x} | {n: arrays[n] for n in rest})[0]
        except KeyError as error:
            raise TrainingError(f"array {error} is missing, which the model needs") from error
        except Exception as error:  # onnxruntime's errors share no base but this one
            reason = str(error).strip().splitlines()[0]
            raise TrainingError(f"the model cannot run on inputs {x.shape}: {reason}") from error
        return outputs


class Bound:
    """A session of a train step with both directions of its buffers bound."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.ready = False
        self._bindings: list[Any] = []
        self._inputs: tuple[str, ...] = ()
        self._fed: Arrays = {}
        self._results = np.zeros((), np.float32), np.zeros((), np.float32)

    def prepare(
        self,
        signature: StepSignature,
        buffers: tuple[Arrays, Arrays],
        scalars: Arrays,
        norms: NDArray[np.float32],
    ) -> None:
        """Bind the buffers: each is read in one direction and written in the other; scalars are read."""
        taken = [i.name for i in self.session.get_inputs()]
        self._inputs = tuple(name for name in signature.inputs if name in taken)
        for here, there in (buffers, buffers[::-1]):
            binding = self.session.io_binding()
            for name in taken:
                if (value := scalars.get(name, here.get(name))) is not None:
                    binding.bind_ortvalue_input(name, _ort(value))
            for name, value in zip((LOSS, NORM), self._results, strict=True):
                binding.bind_ortvalue_output(name, _ort(value))
            if len(norms):
                binding.bind_ortvalue_output(NORMS, _ort(norms))
            for name in signature.carried:
                binding.bind_ortvalue_output(new(name), _ort(there[name]))
            self._bindings.append(binding)
        self.ready = True

    def run(self, direction: int, x: NDArray[Any], y: NDArray[Any]) -> tuple[float, float]:
        """Take a step on inputs (B, ...) and targets (n,), from `direction` to the other: loss and norm."""
        binding = self._bindings[direction]
        self._feed(self._inputs[0], x, binding)
        self._feed(TARGET, y, binding)
        self.session.run_with_iobinding(binding)
        loss, norm = self._results
        return float(loss), float(norm)

    def _feed(self, name: str, value: NDArray[Any], binding: Any) -> None:
        """Small values are copied to where both directions read them: to bind anew takes 10 times as long."""
        if value.nbytes > _COPIED:
            self._fed.pop(name, None)
            binding.bind_cpu_input(name, value)
            return
        fed = self._fed.get(name)
        if fed is None or fed.shape != value.shape or fed.dtype != value.dtype:
            fed = self._fed[name] = np.empty_like(value, order="C", subok=False)
            for each in self._bindings:
                each.bind_cpu_input(name, fed)
        fed[...] = value


def _ort(array: NDArray[Any]) -> Any:
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)
