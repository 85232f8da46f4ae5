"""Where an OnnxTrainer's graphs come from: built of a task, or an artefact's files."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedloom_client.task import Task
from fedloom_edge.arrays import Arrays
from fedloom_edge.sessions import Evaluator
from fedloom_edge.step_settings import StepSettings
from fedloom_edge.train_step import TrainStep

if TYPE_CHECKING:
    import onnx
    from torch import nn


class Graphs(Protocol):
    """What an OnnxTrainer runs. A protocol: a researcher's machine builds graphs, a device is given them."""

    @property
    def statistics(self) -> frozenset[str]:
        """Names of the arrays that are measured and not trained."""
        ...

    @property
    def tied(self) -> Mapping[str, str]:
        """Second names of shared arrays -> the name that the graphs use."""
        ...

    @property
    def judged(self) -> Sequence[str]:
        """Weight matrices whose gradients are watched; none where steps do not tell their norms."""
        ...

    def initial_arrays(self, seed: int) -> Arrays:
        """Arrays of a fresh model."""
        ...

    def step(
        self,
        settings: StepSettings,
        arrays: Arrays,
        x: NDArray[Any],
        batch: int,
        frozen: frozenset[str] = frozenset(),
    ) -> TrainStep:
        """A train step for batches of inputs like `x` (1, ...); `arrays` hold what is not trained.

        The arrays in `frozen` are not trained by this step, whatever is by others.

        Raises:
            TrainingError: there is none with these settings.
        """
        ...

    def evaluator(self, x: NDArray[Any]) -> Evaluator:
        """The model as it evaluates inputs like `x` (1, ...)."""
        ...


class TaskGraphs:
    """Graphs of a task's torch model, exported and built when they are first wanted, then kept.

    Args:
        task: its model is a torch module.
        trainable: what is trained, as `build_train_step` takes it.
        branches: as in `training_graph`.
        batch: the size that every step is built for, others work too; 0 for each its own.
    """

    def __init__(
        self, task: Task, trainable: str | Sequence[str] = "all", *, branches: bool = True, batch: int = 0
    ) -> None:
        self._task, self._trainable, self._branches, self._batch = task, trainable, branches, batch
        self._models: dict[tuple[Any, ...], onnx.ModelProto] = {}
        self._steps: dict[tuple[Any, ...], TrainStep] = {}
        self._evaluators: dict[tuple[Any, ...], Evaluator] = {}

    @property
    def statistics(self) -> frozenset[str]:
        """Arrays that are measured and not trained: batch norm's running mean and variance."""
        names: frozenset[str] = self._trainer.statistics
        return names

    @cached_property
    def tied(self) -> dict[str, str]:
        """Second names of shared parameters."""
        return tied_names(self._module)

    @cached_property
    def judged(self) -> list[str]:
        """Weight matrices whose gradients are watched."""
        from fedloom_client.torch_trainer.gradients import judged_layers

        return list(judged_layers(self._module))

    def initial_arrays(self, seed: int) -> Arrays:
        """The arrays that TorchTrainer starts from with this seed."""
        arrays: Arrays = self._trainer.initial_arrays(seed)
        return arrays

    def step(
        self,
        settings: StepSettings,
        arrays: Arrays,
        x: NDArray[Any],
        batch: int,
        frozen: frozenset[str] = frozenset(),
    ) -> TrainStep:
        """Build, or take what was built; arrays that no step trains are constants in it."""
        from onnx import numpy_helper

        from fedloom_edge.autodiff import build_train_step

        batch = self._batch or batch
        key = (settings, batch, x.shape[1:], x.dtype.str, frozen)
        step = self._steps.get(key)
        if step is None or not self._same_constants(step, arrays):
            model = self._model(x)
            for initialiser in model.graph.initializer:
                if initialiser.name in arrays:
                    array = np.asarray(arrays[initialiser.name])
                    initialiser.CopyFrom(numpy_helper.from_array(array, initialiser.name))
            graph = build_train_step(
                model, settings, trainable=self._trained(model, frozen), batch=batch, watched=True,
                fixed=not frozen, awake=bool(frozen),
            )  # fmt: skip
            step = self._steps[key] = TrainStep(graph.SerializeToString(), batch=batch)
            self._constants = {n: a.copy() for n, a in arrays.items() if n not in _taken(step)}
        return step

    def evaluator(self, x: NDArray[Any]) -> Evaluator:
        """Build, or take what was built."""
        from fedloom_edge.autodiff import build_evaluation

        key = (x.shape[1:], x.dtype.str)
        if key not in self._evaluators:
            graph = build_evaluation(self._model(x))
            self._evaluators[key] = Evaluator(graph.SerializeToString())
        return self._evaluators[key]

    def _same_constants(self, step: TrainStep, arrays: Arrays) -> bool:
        """Whether the arrays that a step does not carry are those it was built with."""
        return all(
            np.array_equal(array, self._constants.get(name, array[:0]))
            for name, array in arrays.items()
            if name not in _taken(step)
        )

    def _trained(self, model: "onnx.ModelProto", frozen: frozenset[str]) -> str | Sequence[str]:
        from fedloom_edge.autodiff.forward import read_forward
        from fedloom_edge.autodiff.trainable import select

        if not frozen:
            return self._trainable
        return [name for name in select(read_forward(model, 2), self._trainable) if name not in frozen]

    def _model(self, x: NDArray[Any]) -> "onnx.ModelProto":
        from fedloom_edge.export import training_graph

        key = (x.shape[1:], x.dtype.str)
        if key not in self._models:
            self._models[key] = training_graph(self._module, x[:1], branches=self._branches)
        return self._models[key]

    @cached_property
    def _trainer(self) -> Any:
        from fedloom_client.torch_trainer import TorchTrainer

        return TorchTrainer(self._task)

    @cached_property
    def _module(self) -> Any:
        return self._trainer.module(self._trainer.initial_arrays(0))


def _taken(step: TrainStep) -> frozenset[str]:
    return frozenset((*step.signature.carried, *step.signature.given))


def tied_names(module: "nn.Module") -> dict[str, str]:
    """Second names of a module's shared parameters -> the first."""
    by_identity: dict[int, str] = {}
    tied = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        first = by_identity.setdefault(id(parameter), name)
        if first != name:
            tied[name] = first
    return tied
