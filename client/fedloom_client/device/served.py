"""The model that a device serves: one file, replaced in one step, so a reader sees the old or the new."""

import json
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fedloom_client.data.preprocess import Preprocess
from fedloom_client.task import Task
from fedloom_edge.arrays import Arrays
from fedloom_edge.errors import DataError, RunError
from fedloom_edge.files import replacing

FILE = "served.model"
_FACTS, _MODEL, _CONSTANTS = "facts.json", "model.onnx", "constants.safetensors"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a served model says of itself.

    Attributes:
        task: its name.
        loss: of the task.
        round: after which the model was the run's global one.
        precision: float or int8.
        dtype: of its inputs, after preprocessing.
        shape: of one input, after preprocessing.
        classes: their names by index; empty where unknown.
        metric: accuracy or mae, on the device's validation part; None if it has none.
        samples: of the validation part.
    """

    task: str
    loss: str
    round: int
    precision: str
    dtype: str
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    metric: float | None
    samples: int

    def __str__(self) -> str:
        measured = ""
        if self.metric is not None:
            name = metric_name(self.loss)
            measured = f", {name} {self.metric:.4f} on {self.samples} validation samples"
        return f"round {self.round}, {self.precision}{measured}"


@dataclass(frozen=True)
class Served:
    """A model with what it takes to use it.

    Attributes:
        facts: of the model.
        model: ONNX.
        constants: of the task's preprocessing.
    """

    facts: Facts
    model: bytes
    constants: Arrays

    @classmethod
    def read(cls, path: Path) -> Self:
        """The model in a file.

        Raises:
            DataError: the file is damaged.
            FileNotFoundError: there is none.
        """
        try:
            with zipfile.ZipFile(path) as file:
                facts = json.loads(file.read(_FACTS))
                lists = {name: tuple(facts[name]) for name in ("shape", "classes")}
                return cls(Facts(**facts | lists), file.read(_MODEL), load(file.read(_CONSTANTS)))
        except (zipfile.BadZipFile, KeyError, TypeError, ValueError, SafetensorError) as error:
            raise DataError(
                f"{path} is damaged ({error}); remove it, the next round makes it anew"
            ) from error

    def write(self, path: Path) -> None:
        """Replace the file.

        Raises:
            RunError: there is no room.
        """
        constants = {name: np.ascontiguousarray(array) for name, array in self.constants.items()}
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as file:
                file.writestr(_FACTS, json.dumps(asdict(self.facts)))
                file.writestr(_MODEL, self.model)
                file.writestr(_CONSTANTS, save(constants))
        except OSError as error:
            raise RunError(f"{path}: {error.strerror}; make room on the device") from error

    def outputs(self, x: NDArray[Any], preprocess: Preprocess | None) -> NDArray[Any]:
        """The model's outputs (N, ...) on raw inputs (N, ...), as the task's data source gives them."""
        from fedloom_edge.artefact.serving import predict  # onnxruntime, which an idle agent does without

        return predict(self.model, ready(x, preprocess, self.constants, self.facts.dtype))


def ready(x: NDArray[Any], preprocess: Preprocess | None, constants: Arrays, dtype: str) -> NDArray[Any]:
    """Raw inputs (N, ...) as the model takes them."""
    made = x if preprocess is None else preprocess.apply(x, constants)
    return np.ascontiguousarray(made, dtype)


def metric_name(loss: str) -> str:
    """The standard metric of a task with this loss."""
    return "accuracy" if loss.endswith("cross_entropy") else "mae"


def worse(loss: str, new: float, old: float) -> bool:
    """Whether one value of the standard metric is worse than another."""
    return new < old if metric_name(loss) == "accuracy" else new > old


def fits(facts: Facts, task: Task) -> bool:
    """Whether a served model is one of this task."""
    return (facts.task, facts.loss) == (task.name, task.loss)
