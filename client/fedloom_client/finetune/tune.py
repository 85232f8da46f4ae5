"""Trains what an artefact trains on a device's samples, and makes the artefact that serves the result."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from fedloom_client.data.samples import Samples, Shard, View
from fedloom_client.finetune.features import Features
from fedloom_client.finetune.graphs import ArtefactGraphs
from fedloom_client.onnx_trainer import OnnxTrainer
from fedloom_client.seeds import generator
from fedloom_client.trainer import Assignment
from fedloom_client.training import Training
from fedloom_edge.arrays import Arrays, arrays_sha256
from fedloom_edge.artefact.check import FEATURES
from fedloom_edge.artefact.manifest import ARRAYS, EXPLAIN, INFER, INT8, Manifest
from fedloom_edge.artefact.patch import patch
from fedloom_edge.artefact.rounding import round_into
from fedloom_edge.artefact.serving import backbone, predict
from fedloom_edge.artefact.storage import Artefact, write_artefact
from fedloom_edge.errors import TrainingError
from fedloom_edge.measures import standard_metric
from fedloom_edge.sessions import open_session


@dataclass(frozen=True)
class Cache:
    """Where features are kept: folder of the file and its most bytes."""

    folder: Path
    limit: int


@dataclass(frozen=True)
class Tuned:
    """What came of it: the trained arrays, and the metric on the held-out samples before and after."""

    arrays: Arrays
    before: float
    after: float


def split(samples: Samples, part: float, seed: int) -> Shard:
    """Training and validation samples, drawn by `seed`; `part` in [0, 1) are held out."""
    order = generator(seed, "validation").permutation(len(samples))
    held = round(part * len(samples))
    return Shard(View(samples, np.sort(order[held:])), View(samples, np.sort(order[:held])))


def tune(
    artefact: Artefact,
    shard: Shard,
    training: Training,
    seed: int,
    cache: Cache,
    say: Callable[[str], None],
    keep: Callable[[Arrays], None],
) -> Tuned:
    """Train from the artefact's arrays.

    Args:
        artefact: checked.
        shard: ready samples.
        training: lr, batch_size, epochs, steps, patience; the rest is fixed in the artefact.
        seed: of the order and dropout; equal arguments give equal results.
        cache: of features.
        say: told what happens, a line at a time.
        keep: given the last good arrays if training fails.

    Raises:
        TrainingError: the loss is not finite, or something does not fit; `keep` was called before.
        RunError: no room for the features.
    """
    graphs, manifest = ArtefactGraphs(artefact), artefact.manifest
    if manifest.kind == "head":
        shard = _featured(artefact, shard, cache, say)
    trainer = OnnxTrainer(graphs, manifest.loss)  # type: ignore[arg-type]
    arrays = trainer.initial_arrays(seed)

    def progress(epoch: int, loss: float) -> None:
        say(f"epoch {epoch}/{training.epochs}: loss {loss:.4f}")

    before = _metric(trainer, arrays, shard.validation)
    try:
        update = trainer.fit(arrays, shard, Assignment(training=training, seed=seed, progress=progress))
    except TrainingError:
        if graphs.last is not None and graphs.last.steps:
            keep(arrays | graphs.last.arrays())
        raise
    return Tuned(dict(update.arrays), before, _metric(trainer, update.arrays, shard.validation))


def write_tuned(
    artefact: Artefact, arrays: Arrays, classes: tuple[str, ...], facts: dict[str, Any], out: Path
) -> Manifest:
    """Write the artefact with trained arrays in its models, ready to serve and to be trained on.

    If everything was trained in float, the int8 model is left out, and float is served: only where onnx is
    installed can it be made anew (`fedloom edge quantize`).
    """
    manifest = artefact.manifest
    models = with_arrays(artefact, arrays)
    kept = {name: artefact.read(name) for name in manifest.files if name not in (INFER, INT8, EXPLAIN)}
    serve = backbone(manifest) if INT8 in models else INFER
    files = {**kept, **models}
    files[ARRAYS] = save({name: np.ascontiguousarray(a) for name, a in arrays.items()})
    history = [*manifest.provenance.get("finetuned", []), facts | {"arrays_sha256": arrays_sha256(arrays)}]
    provenance = {**manifest.provenance, "finetuned": history}
    return write_artefact(out, replace(manifest, classes=classes, serve=serve, provenance=provenance), files)


def with_arrays(artefact: Artefact, arrays: Arrays) -> dict[str, bytes]:
    """The inference models with trained arrays in them: float, and int8 where its rounding can follow.

    Args:
        artefact: checked.
        arrays: those of its arrays.safetensors, by name.

    Raises:
        RunError: an array does not fit.
    """
    manifest = artefact.manifest
    models = {name: patch(artefact.read(name), arrays) for name in (INFER, EXPLAIN) if name in manifest.files}
    if INT8 in manifest.files and manifest.kind == "head":
        models[INT8] = patch(artefact.read(INT8), arrays)
    elif manifest.kind == "quantised":
        models[INT8] = round_into(artefact.read(INT8), arrays, manifest.rounded)
    return models


def served_metric(artefact: Artefact, samples: Samples) -> float:
    """Accuracy or mae of the model that the artefact serves."""
    x, y = samples.take(np.arange(len(samples)))
    outputs = predict(
        artefact.read(artefact.manifest.serve), np.ascontiguousarray(x, artefact.manifest.input.dtype)
    )
    return standard_metric(artefact.manifest.loss, outputs, y)


class Backbone:
    """Inputs (B, ...) -> features (B, ...), by the model that a head is trained for.

    Its session is opened when it is needed.

    Args:
        artefact: checked.

    Attributes:
        file: the model's.
    """

    def __init__(self, artefact: Artefact) -> None:
        self.file = backbone(artefact.manifest)
        self._artefact = artefact
        self._session: Any = None

    def __call__(self, x: NDArray[Any]) -> NDArray[Any]:
        """Features (B, ...) of ready inputs (B, ...)."""
        session = self._session = self._session or open_session(self._artefact.read(self.file))
        inputs = {"input": np.ascontiguousarray(x, self._artefact.manifest.input.dtype)}
        features: NDArray[Any] = session.run([FEATURES], inputs)[0]
        return features

    def close(self) -> None:
        """Let go of the session."""
        self._session = None


def _featured(artefact: Artefact, shard: Shard, cache: Cache, say: Callable[[str], None]) -> Shard:
    """The shard with the features of the model that the head will be served on."""
    compute = Backbone(artefact)
    parts, room = [], cache.limit
    for name, samples in (("training", shard.train), ("validation", shard.validation)):
        if not len(samples):
            parts.append(samples)
            continue
        features = Features(samples, compute, cache.folder, room)
        room -= features.bytes
        say(f"features of {len(samples)} {name} samples by {compute.file}: {features.cached} kept")
        parts.append(features)
    return Shard(*parts)


def _metric(trainer: OnnxTrainer, arrays: Arrays, samples: Samples) -> float:
    return next(iter(trainer.evaluate(arrays, samples).metrics.values()))
