"""Runs a train-step graph with stock onnxruntime: parameters stay in the runtime between steps.

Two sets of buffers take turns: a step reads one and writes the other, so nothing is copied, and after a
step that went wrong the last good arrays are still there.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedloom_edge.arrays import Arrays
from fedloom_edge.errors import TrainingError
from fedloom_edge.sessions import Bound, open_session
from fedloom_edge.step_settings import (
    LR,
    MU,
    NORMS,
    SEED,
    STEP,
    StepSignature,
    new,
    offset,
    start,
)

_SMALL_FORWARD = 1 << 18


class TrainStep:
    """A train step with its arrays, ready to run.

    Args:
        graph: what `build_train_step` made, as a file or its bytes.
        batch: the usual batch size, which the runtime optimises for; others work too, a little slower.
        threads: of the runtime. One by default: the device has other work, and waiting threads burn power.

    Raises:
        RunError: the graph is no train step, or this runtime cannot load it.

    Attributes:
        signature: the names in the graph.
        steps: taken since the arrays were last set.
        draws: whether the graph draws random numbers, for dropout.
        norms: of the last step's gradient, one a parameter (P,), where the graph tells them; else (0,).
    """

    def __init__(self, graph: Path | bytes, *, batch: int = 0, threads: int = 1) -> None:
        self._graph, self._threads = graph, threads
        self._sessions: dict[int, Bound] = {}
        self._batch = batch
        self.norms = np.zeros(0, np.float32)
        self.signature, self._shapes = self._read()
        self._buffers: tuple[Arrays, Arrays] = ({}, {})
        self._current = 0
        self.steps = 0
        # The runtime reads these arrays' own memory, as it does the buffers'.
        self._scalars: Arrays = {name: np.zeros((), np.float32) for name in (LR, MU)}
        self._scalars |= {name: np.zeros((), np.int64) for name in (STEP, SEED)}
        taken = {i.name for i in self._sessions[self._batch].session.get_inputs()}
        self._read_scalars = [self._scalars[n] if n in taken else None for n in (LR, STEP, SEED, MU)]
        self.draws = SEED in taken

    def set_arrays(
        self,
        arrays: Mapping[str, NDArray[Any]],
        *,
        anchor: Mapping[str, NDArray[Any]] | None = None,
        offsets: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        """Start from `arrays`, which are copied; the optimiser's state is zero.

        Args:
            arrays: parameters, statistics and what else a step takes.
            anchor: what the proximal term pulls to; None for `arrays`.
            offsets: what is added to each parameter's gradient; None for nothing.

        Raises:
            TrainingError: an array is missing or of another shape or dtype.
        """
        signature = self.signature
        taken = (*signature.parameters, *signature.statistics, *signature.given)
        for name in taken:
            given, shape = arrays.get(name), self._shapes[name]
            if given is None or given.shape != shape or given.dtype != np.float32:
                found = "missing" if given is None else f"{given.dtype} {given.shape}"
                raise TrainingError(f"array {name} is {found}; the step graph takes float32 {shape}")
        self._allocate()
        here = self._buffers[self._current]
        for name in taken:
            np.copyto(here[name], arrays[name])
        for name in signature.states:
            here[name].fill(0)
        for name in signature.parameters if signature.settings.proximal else ():
            np.copyto(here[start(name)], (anchor or arrays)[name])
        for name in signature.parameters if signature.settings.offset else ():
            np.copyto(here[offset(name)], offsets[name] if offsets else 0)
        self.steps = 0

    def arrays(self) -> Arrays:
        """Copies of the parameters and running statistics as they are now."""
        here = self._buffers[self._current]
        names = (*self.signature.parameters, *self.signature.statistics)
        return {name: here[name].copy() for name in names}

    def before(self, name: str) -> NDArray[np.float32]:
        """An array as it was before the last step; a view, which the next step overwrites."""
        return self._buffers[1 - self._current][name]

    def check_targets(self, y: NDArray[Any]) -> None:
        """Refuse targets that the loss cannot take; call it once with all of them.

        Raises:
            TrainingError: a class out of range, or a dtype that is not the loss's.
        """
        classes = self.signature.classes
        if classes and y.dtype != np.int64:
            raise TrainingError(f"targets are {y.dtype}; cross_entropy takes classes as int64")
        if not classes and y.dtype != np.float32:
            raise TrainingError(f"targets are {y.dtype}; {self.signature.settings.loss} takes float32")
        if classes and y.size and not 0 <= y.min() <= y.max() < classes:
            bad = y.min() if y.min() < 0 else y.max()
            raise TrainingError(f"a target is class {bad}; the model has the classes 0 to {classes - 1}")

    def __call__(
        self, x: NDArray[Any], y: NDArray[Any], *, lr: float, seed: int = 0, mu: float = 0.0
    ) -> tuple[float, float]:
        """Take a step on inputs (B, ...) and targets (B, ...).

        Returns:
            The loss before the step, and the gradient's norm before clipping.

        Raises:
            TrainingError: either is not finite, the shapes do not fit, or a class is out of range; the
                arrays stay as they were before the step.
        """
        y = y.reshape(-1)
        if self.signature.classes:
            # One comparison finds classes on both sides of the range: negative numbers are large unsigned
            # ones. argmax() because max() takes 2 µs more, a twelfth of the smallest models' step.
            unsigned = y.view(np.uint64)
            if unsigned.item(unsigned.argmax()) >= self.signature.classes:
                self.check_targets(y)
        bound = self._bind(len(x))
        for scalar, value in zip(self._read_scalars, (lr, self.steps + 1, seed, mu), strict=True):
            if scalar is not None:
                scalar.fill(value)
        try:
            loss, norm = bound.run(self._current, x, y)
        except Exception as error:  # onnxruntime's errors share no base but this one
            reason = str(error).strip().splitlines()[0]
            raise TrainingError(f"step {self.steps + 1} cannot run on inputs {x.shape}: {reason}") from error
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise TrainingError(
                f"loss is {loss:g} and the gradient's norm {norm:g} in step {self.steps + 1}; the arrays of "
                f"step {self.steps} are kept; lower the learning rate, set clip_norm, or check the data"
            )
        self.steps += 1
        self._current = 1 - self._current
        return loss, norm

    def _read(self) -> tuple[StepSignature, dict[str, tuple[int, ...]]]:
        session = open_session(self._graph, batch=self._batch, threads=self._threads)
        signature = StepSignature.from_metadata(session.get_modelmeta().custom_metadata_map)
        self._planned = 0 < signature.forward_bytes <= _SMALL_FORWARD
        if self._planned:
            session = self._session(self._batch)
        self._sessions[self._batch] = Bound(session)
        outputs = {o.name: tuple(o.shape) for o in session.get_outputs()}
        if NORMS in outputs:
            self.norms = np.zeros(len(signature.parameters), np.float32)
        inputs = {i.name: tuple(i.shape) for i in session.get_inputs()}
        shapes = {name: outputs[new(name)] for name in signature.carried}
        return signature, shapes | {name: inputs[name] for name in signature.given}

    def _session(self, batch: int) -> Any:
        return open_session(self._graph, batch=batch, threads=self._threads, plan=self._planned)

    def _allocate(self) -> None:
        if self._buffers[0]:
            return
        settings, parameters = self.signature.settings, self.signature.parameters
        for side in self._buffers:
            for name in self.signature.carried:
                side[name] = np.zeros(self._shapes[name], np.float32)
        for entry, name in [
            *((start(name), name) for name in parameters if settings.proximal),
            *((offset(name), name) for name in parameters if settings.offset),
            *((n, n) for n in self.signature.given),
        ]:
            self._buffers[0][entry] = self._buffers[1][entry] = np.zeros(self._shapes[name], np.float32)

    def _bind(self, size: int) -> "Bound":
        """The session for batches of `size`: the one that is optimised for it, or the one for any size."""
        key = size if size == self._batch else 0
        bound = self._sessions.get(key)
        if bound is None:
            bound = self._sessions[key] = Bound(self._session(key))
        if not bound.ready:
            if not self._buffers[0]:
                raise TrainingError("set_arrays comes before the first step")
            bound.prepare(self.signature, self._buffers, self._scalars, self.norms)
        return bound
