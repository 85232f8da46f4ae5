"""Arrays on disk: one npz file, or a folder of them that may grow."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedloom_client.data.samples import ArraySamples
from fedloom_edge.errors import DataError


def npz(path: str | Path | None, *, x: str = "x", y: str = "y") -> ArraySamples:
    """Samples from a .npz file, or from every .npz file of a folder one after the other.

    Args:
        path: file or folder.
        x: name of the inputs (N, ...) in each file.
        y: name of the targets (N, ...).

    Raises:
        DataError: no file, one that cannot be read or lacks an array, or arrays that do not fit together.
    """
    if path is None:
        raise DataError("no .npz file was given; name one, or a folder of them, with --data")
    path = Path(path)
    files = sorted(path.glob("*.npz")) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path} has no .npz files; put one there")
    inputs, targets = zip(*(_read(file, x, y) for file in files), strict=True)
    for file, part, answers in zip(files, inputs, targets, strict=True):
        if part.ndim == 0 or answers.ndim == 0 or len(part) != len(answers):
            shapes = f"{part.shape} and {answers.shape}"
            raise DataError(f"{file}: {x} and {y} need one row an example, but have {shapes}")
        if part.shape[1:] != inputs[0].shape[1:] or answers.shape[1:] != targets[0].shape[1:]:
            raise DataError(
                f"{file} has inputs {part.shape[1:]} and targets {answers.shape[1:]}, "
                f"{files[0].name} has {inputs[0].shape[1:]} and {targets[0].shape[1:]}"
            )
    if len(files) == 1:
        return ArraySamples(inputs[0], targets[0])
    return ArraySamples(np.concatenate(inputs), np.concatenate(targets))


def _read(path: Path, x: str, y: str) -> tuple[NDArray[Any], NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return file[x], file[y]
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; name a file with --data") from None
    except KeyError as error:
        raise DataError(
            f"{path} has no array {error}; save it with np.savez(path, {x}=inputs, {y}=targets)"
        ) from None
    except (OSError, ValueError, TypeError, AttributeError, zipfile.BadZipFile, EOFError) as error:
        raise DataError(
            f"{path} cannot be read as npz ({error}); save it with np.savez, no objects"
        ) from error
