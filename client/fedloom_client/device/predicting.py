"""Answers of the served model: `fedloom device predict`."""

import csv
import io
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from fedloom_client.data.preprocess import Vocabulary
from fedloom_client.data.wordpieces import WordPieces
from fedloom_client.device.home import DeviceSettings
from fedloom_client.device.reading import load_task_light
from fedloom_client.device.served import FILE, Served, fits
from fedloom_client.task import Task
from fedloom_edge.errors import DataError, InputError

Batch = NDArray[np.generic]
_BATCH = 256
_STDIN = Path("-")


def predict_all(home: Path, source: Path, out: TextIO, notes: TextIO) -> None:
    """Answer every input of a file, or of standard input, a line each.

    Lines of standard input are answered as they come, each with the model that is served then.

    Args:
        home: the device's folder.
        source: .npz, .csv or an image; `-` for standard input, which may be any of them.
        out: where the answers go.
        notes: where it is said which model answers.

    Raises:
        InputError: nothing is served yet, or there is no such file.
        DataError: an input does not fit the model; with its place.
    """
    task = load_task_light(DeviceSettings.load(home).task)
    current = _Current(home / FILE, task, notes)
    served = current.get()
    header = "prediction,probability" if served.facts.loss.endswith("cross_entropy") else "prediction"
    out.write(f"{header}\n")
    for x in _inputs(source, served, task):
        for line in _answers(current.get(), x, task):
            out.write(f"{line}\n")
        out.flush()


class _Current:
    """The served model, read again when another has taken its place."""

    def __init__(self, path: Path, task: Task, notes: TextIO) -> None:
        self._path, self._task, self._notes = path, task, notes
        self._seen: tuple[int, int] | None = None
        self._served: Served | None = None

    def get(self) -> Served:
        """The model that is served now."""
        try:
            status = self._path.stat()
            if self._served is None or (status.st_ino, status.st_mtime_ns) != self._seen:
                served = Served.read(self._path)
                self._check(served)
                self._served, self._seen = served, (status.st_ino, status.st_mtime_ns)
                self._notes.write(f"model of {served.facts}\n")
                self._notes.flush()
        except FileNotFoundError:
            raise InputError(
                f"{self._path.parent} serves no model yet; run the agent (fedloom device run, trainer onnx, "
                "serve = true) until a round is finished"
            ) from None
        return self._served

    def _check(self, served: Served) -> None:
        if not fits(served.facts, self._task):
            raise InputError(
                f"the served model is of {served.facts.task}, this device's task is {self._task.name}; "
                "wait for a round of it"
            )


def _inputs(source: Path, served: Served, task: Task) -> Iterator[Batch]:
    """Raw inputs (N, ...), as the task's data source gives them."""
    if source == _STDIN:
        yield from _from_stream(served, task)
        return
    try:
        content = source.open("rb")
    except OSError as error:
        raise InputError(f"{source}: {error.strerror}; name a .npz, a .csv or an image") from error
    with content:
        if source.suffix.lower() == ".csv":
            rows = _rows(io.TextIOWrapper(content, "utf-8-sig", newline=""), str(source), served, task)
            yield from _batches(rows)
        else:
            yield from _from_bytes(content.read(), str(source), served)


def _from_stream(served: Served, task: Task) -> Iterator[Batch]:
    head = sys.stdin.buffer.peek(4)[:4]  # type: ignore[union-attr]
    if head.startswith((b"PK", b"\x89PNG", b"\xff\xd8", b"GIF", b"BM", b"RIFF")):
        yield from _from_bytes(sys.stdin.buffer.read(), "standard input", served)
    else:
        yield from _rows(sys.stdin, "standard input", served, task)


def _from_bytes(content: bytes, name: str, served: Served) -> Iterator[Batch]:
    if not content.startswith(b"PK"):
        yield _image(content, name, served)
        return
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            key = "x" if "x" in file else next(iter(file.files), "x")
            x = file[key]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{name} cannot be read as npz ({error}); save it with np.savez(path, x=inputs)"
        ) from error
    yield from (x[start : start + _BATCH] for start in range(0, len(x), _BATCH))


def _image(content: bytes, name: str, served: Served) -> Batch:
    shape = served.facts.shape
    if len(shape) != 3:
        raise DataError(f"{name} is no .npz and no .csv, and the model takes no images but {shape}")
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise InputError("images need Pillow: pip install 'fedloom[data]'") from error
    from fedloom_client.sources.images import pixels

    channels, height, width = shape
    try:
        with Image.open(io.BytesIO(content)) as image:
            return pixels(image, gray=channels == 1, size=(height, width))[np.newaxis]
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{name} cannot be read as an image ({error})") from error


def _rows(lines: TextIO, name: str, served: Served, task: Task) -> Iterator[Batch]:
    """Each row of a CSV as a batch of one: numbers in the order of the model's input, or one text."""
    texts = isinstance(task.preprocess, Vocabulary | WordPieces)
    reader = csv.reader(lines)
    try:
        for cells in reader:
            if not cells:
                continue
            if texts:
                yield np.array([",".join(cells)])
                continue
            try:
                numbers = np.array(cells, np.float64)
            except ValueError as error:
                if reader.line_num == 1:  # the names of the columns
                    continue
                raise DataError(f"{name}:{reader.line_num}: {error}; give numbers") from error
            yield _shaped(numbers, f"{name}:{reader.line_num}", served)[np.newaxis]
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{name}:{reader.line_num}: {error}; give UTF-8 text") from error


def _shaped(numbers: NDArray[np.float64], place: str, served: Served) -> Batch:
    expected = int(np.prod(served.facts.shape))
    if numbers.size != expected or not np.isfinite(numbers).all():
        wrong = f"{numbers.size} numbers" if numbers.size != expected else "a number that is not finite"
        raise DataError(f"{place} has {wrong}; the model takes {expected} finite ones")
    return numbers.astype(np.float32).reshape(served.facts.shape)


def _batches(rows: Iterator[Batch]) -> Iterator[Batch]:
    held: list[Batch] = []
    for row in rows:
        held.append(row)
        if len(held) == _BATCH:
            yield np.concatenate(held)
            held = []
    if held:
        yield np.concatenate(held)


def _answers(served: Served, x: Batch, task: Task) -> Iterator[str]:
    facts = served.facts
    try:
        outputs = served.outputs(x, task.preprocess)
    except Exception as error:  # onnxruntime and a user's preprocessing fail in many ways
        raise DataError(
            f"inputs {x.dtype} {x.shape[1:]} do not fit the model, which takes {facts.dtype} {facts.shape} "
            f"after preprocessing ({error})"
        ) from error
    if facts.loss == "cross_entropy":
        shares = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        for row in shares:
            best = int(row.argmax())
            yield f"{_named(facts.classes, best)},{row[best]:.4f}"
    elif facts.loss == "binary_cross_entropy":
        for value in 1 / (1 + np.exp(-outputs.reshape(len(outputs), -1)[:, 0].astype(np.float64))):
            yield f"{_named(facts.classes, int(value > 0.5))},{max(value, 1 - value):.4f}"
    else:
        yield from (",".join(f"{v:.6g}" for v in row) for row in outputs.reshape(len(outputs), -1))


def _named(classes: tuple[str, ...], index: int) -> str:
    return classes[index] if index < len(classes) else str(index)
