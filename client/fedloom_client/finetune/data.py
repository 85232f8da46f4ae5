"""A device's own data, read for an artefact: what its model takes, in its preprocessing and classes."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedloom_client import sources
from fedloom_client.data.preprocess import Preprocess, Standardize, Vocabulary, prepare
from fedloom_client.data.samples import ArraySamples, LazySamples, Samples
from fedloom_client.data.wordpieces import WordPieces
from fedloom_edge.artefact.manifest import Manifest
from fedloom_edge.errors import DataError
from fedloom_edge.measures import target_type

_CHECKED = 256
Read = ArraySamples | LazySamples


def read_data(path: Path, manifest: Manifest, target: str = "label") -> tuple[Samples, tuple[str, ...]]:
    """Ready samples, and the names of the model's classes.

    Args:
        path: .npz with `x` (N, ...) and `y` (N,); .csv with a header line, of numbers, or of texts where
            the model reads texts; or a folder with a folder of
            images for each class.
        manifest: of the artefact.
        target: column of the CSV that is predicted.

    Raises:
        DataError: the data cannot be read or does not fit the model; with the place.
    """
    samples = _read(path, manifest, target)
    samples, classes = _with_classes(samples, manifest, path)
    ready = _prepared(samples, manifest)
    _check(ready, manifest, path)
    return ready, classes


def _read(path: Path, manifest: Manifest, target: str) -> Read:
    if path.is_dir():
        if len(manifest.input.shape) != 3:
            raise DataError(f"{path} is a folder of images, but the model takes {manifest.input.shape}")
        channels, height, width = manifest.input.shape
        return sources.image_folder(path, size=(height, width), gray=channels == 1)
    match path.suffix:
        case ".npz":
            return sources.npz(path)
        case ".csv":
            texts = manifest.preprocess["kind"] in ("vocabulary", "wordpieces")
            return sources.csv(path, target, texts=texts)
    raise DataError(f"{path} is no data that can be read; give a .npz, a .csv or a folder of images by class")


def _with_classes(samples: Read, manifest: Manifest, path: Path) -> tuple[Read, tuple[str, ...]]:
    """Targets of the dtype and in the classes of the model: by their names where both have names."""
    if manifest.loss != "cross_entropy":
        return replace(samples, y=samples.y.astype(target_type(manifest.loss))), manifest.classes
    labels, count = samples.labels, manifest.output.shape[0]
    if labels is None:
        raise DataError(
            f"{path}: targets are {samples.y.dtype} {samples.y.shape}; the model takes classes (N,)"
        )
    names, known = samples.class_names, manifest.classes
    if names and known and set(names) <= set(known):
        place = np.array([known.index(name) for name in names])
        return replace(samples, y=place[labels], class_names=known), known
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest >= count:
        bad = lowest if lowest < 0 else highest
        raise DataError(f"{path}: a label is {bad}; the model has the classes 0 to {count - 1}")
    # Other names: the model learns classes of its user's.
    classes = tuple(names[i] if i < len(names) else f"class {i}" for i in range(count)) if names else known
    return replace(samples, y=labels), classes


def _prepared(samples: Samples, manifest: Manifest) -> Samples:
    constants: Mapping[str, Any] = manifest.preprocess
    try:
        match constants["kind"]:
            case "standardize":
                kind: Preprocess = Standardize(constants["axis"])
                arrays: dict[str, NDArray[Any]] = {
                    name: np.asarray(constants[name], np.float64) for name in ("mean", "deviation")
                }
            case "vocabulary":
                kind = Vocabulary(int(constants["size"]), int(constants["length"]))
                arrays = _words(constants)
            case "wordpieces":
                kind = WordPieces(int(constants["length"]))
                arrays = _words(constants)
            case _:
                return samples
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"the artefact's preprocessing is damaged ({error}); export it again") from error
    try:
        return prepare(samples, kind, arrays)
    except (ValueError, TypeError) as error:
        raise DataError(f"the inputs do not fit the artefact's preprocessing ({error})") from error


def _words(constants: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    return {"words": np.frombuffer("\n".join(constants["words"]).encode(), np.uint8)}


def _check(samples: Samples, manifest: Manifest, path: Path) -> None:
    """Shape and dtype of the inputs, and that the first ones are finite."""
    if not len(samples):
        raise DataError(f"{path} holds no sample")
    x, _ = samples.take(np.arange(min(len(samples), _CHECKED)))
    expected = manifest.input
    kind = "float32" if x.dtype.kind == "f" else "int64" if x.dtype.kind in "iub" else x.dtype.name
    if x.shape[1:] != expected.shape or kind != expected.dtype:
        hint = ""
        if manifest.preprocess["kind"] == "custom":
            hint = f"; give inputs as {manifest.preprocess.get('name')} makes them ready"
        raise DataError(
            f"{path}: inputs are {x.dtype} {x.shape[1:]}; "
            f"the model takes {expected.dtype} {expected.shape}{hint}"
        )
    if not np.isfinite(x).all():
        row = int(np.argwhere(~np.isfinite(x.reshape(len(x), -1)).all(axis=1))[0, 0])
        raise DataError(f"{path}: sample {row} has inputs that are not finite; mend or drop it")
