"""A Trainer that is given its graphs: it trains with onnxruntime what the coordinator has exported."""

from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedloom_client.data.samples import Samples, Shard
from fedloom_client.task import Task
from fedloom_client.trainer import Assignment, Evaluation, Update
from fedloom_edge.arrays import Arrays
from fedloom_edge.errors import DataError, TrainingError

if TYPE_CHECKING:
    from fedloom_client.finetune.tune import Backbone
    from fedloom_client.onnx_trainer import OnnxTrainer
    from fedloom_edge.artefact.manifest import Manifest
    from fedloom_edge.artefact.storage import Artefact

_FEATURE_BYTES = 512 << 20


class ArtefactTrainer:
    """OnnxTrainer's face; before `equip` there is nothing to train with.

    onnxruntime is loaded with the first work and not before: an agent that waits is small.

    Args:
        task: its loss and metrics; its model is never made.
        folder: where features of a frozen backbone are kept while the agent runs.
    """

    def __init__(self, task: Task, folder: Path) -> None:
        self._task, self._folder = task, folder
        self._path: Path | None = None
        self._part = ""
        self._artefact: Artefact | None = None
        self._trainer: OnnxTrainer | None = None
        self._frozen: Arrays | None = None
        self._backbone: Backbone | None = None
        self._features: deque[tuple[Samples, Samples]] = deque(maxlen=2)

    def equip(self, path: Path) -> None:
        """Train with this artefact from now on; it is checked when the first work needs it."""
        if path != self._path:
            self._path, self._artefact, self._backbone, self._part = path, None, None, ""
            self._features.clear()
            self.rest()

    @property
    def parts(self) -> Mapping[str, tuple[str, ...]]:
        """What can be trained of what the artefact trains: see its manifest."""
        return self._opened.manifest.smaller

    def restrict(self, part: str) -> None:
        """Train this part from now on and leave the other arrays as they come; empty for everything."""
        if part != self._part:
            self._part, self._trainer = part, None

    def rest(self) -> None:
        """Let go of sessions; they are made anew of the artefact, which stays checked."""
        self._trainer = self._frozen = None
        if self._backbone is not None:
            self._backbone.close()

    @property
    def path(self) -> Path | None:
        """Of the artefact; None before `equip`."""
        return self._path

    @property
    def statistics(self) -> frozenset[str]:
        """Names of the arrays that are measured and not trained."""
        return self._ready.statistics

    def initial_arrays(self, seed: int) -> Arrays:
        """The artefact's arrays, whatever the seed."""
        return self._ready.initial_arrays(seed)

    def fit(self, arrays: Arrays, shard: Shard, assignment: Assignment) -> Update:
        """Train from `arrays` on `shard.train`."""
        trainer = self._ready
        self._check_frozen(arrays)
        return trainer.fit(arrays, Shard(self._taken(shard.train), self._taken(shard.validation)), assignment)

    def evaluate(self, arrays: Arrays, samples: Samples) -> Evaluation:
        """Loss and metrics of `arrays` on `samples`."""
        trainer = self._ready
        self._check_frozen(arrays)
        return trainer.evaluate(arrays, self._taken(samples))

    def models(self, arrays: Arrays) -> "tuple[Manifest, dict[str, bytes]]":
        """The artefact's manifest, and its inference models with some arrays in them, by file name.

        Raises:
            TrainingError: there is no artefact.
            RunError: the arrays do not fit.
        """
        from fedloom_client.finetune.tune import with_arrays
        from fedloom_edge.artefact.check import initial_arrays

        artefact = self._opened
        inside = {name: arrays[name] for name in initial_arrays(artefact)}
        return artefact.manifest, with_arrays(artefact, inside)

    @property
    def _ready(self) -> "OnnxTrainer":
        if self._trainer is None:
            self._trainer = self._made(self._opened)
        return self._trainer

    @property
    def _opened(self) -> "Artefact":
        if self._artefact is None:
            if self._path is None:
                raise TrainingError("the artefact to train with is not here")
            self._artefact = self._checked(self._path)
        return self._artefact

    def _made(self, artefact: "Artefact") -> "OnnxTrainer":
        from fedloom_client.finetune.graphs import ArtefactGraphs
        from fedloom_client.onnx_trainer import OnnxTrainer

        return OnnxTrainer(ArtefactGraphs(artefact, self._part), self._task.loss, self._task.metrics)

    def _checked(self, path: Path) -> "Artefact":
        """The artefact, checked before anything of it is run.

        Raises:
            DataError: it is not safe, not whole, or of another task.
        """
        from fedloom_edge.artefact.check import check
        from fedloom_edge.artefact.storage import Artefact

        artefact = Artefact(path)
        manifest = artefact.manifest
        if (manifest.name, manifest.loss) != (self._task.name, self._task.loss):
            raise DataError(
                f"the artefact is for {manifest.name} with {manifest.loss}, this device's task is "
                f"{self._task.name} with {self._task.loss}"
            )
        check(artefact)
        return artefact

    def _check_frozen(self, arrays: Arrays) -> None:
        """Features are of the backbone in the artefact, so the backbone that comes must be that one.

        Raises:
            TrainingError: it is another, for example because a strategy adds noise to everything.
        """
        if self._frozen is None:
            self._frozen = {} if self._artefact is None else _frozen(self._artefact)
        for name, kept in self._frozen.items():
            if name in arrays and not np.allclose(arrays[name], kept, rtol=1e-3, atol=1e-5):
                raise TrainingError(
                    f"{name} is frozen in the artefact, and has changed; train with torch here"
                )

    def _taken(self, samples: Samples) -> Samples:
        """Samples as the graphs take them: behind a frozen backbone their features, computed once."""
        artefact = self._artefact
        if artefact is None or artefact.manifest.kind != "head" or not len(samples):
            return samples
        for known, features in self._features:
            if known is samples:
                return features
        from fedloom_client.finetune.features import Features
        from fedloom_client.finetune.tune import Backbone

        self._backbone = self._backbone or Backbone(artefact)
        made = Features(samples, self._backbone, self._folder, _FEATURE_BYTES)
        self._features.append((samples, made))  # the two parts of the shard at hand
        return made


def _frozen(artefact: "Artefact") -> Arrays:
    """Arrays that stand before what the artefact trains, as they are in its model."""
    if artefact.manifest.kind != "head":
        return {}
    from fedloom_edge.artefact.check import initial_arrays
    from fedloom_edge.artefact.graph import inspect
    from fedloom_edge.artefact.manifest import INFER
    from fedloom_edge.artefact.patch import stored_array

    content, trained = artefact.read(INFER), initial_arrays(artefact)
    found = inspect(content, INFER)
    return {name: stored_array(content, found, name) for name in found.stored if name not in trained}
