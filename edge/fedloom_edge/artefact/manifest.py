"""manifest.json: what an artefact is, what goes in and comes out, and the hash of every file."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from fedloom_edge.artefact.rounding import Rounded
from fedloom_edge.errors import DataError

FORMAT = 1
MANIFEST = "manifest.json"
INFER, INT8, TRAIN, EVALUATE, EXPLAIN, ARRAYS = (
    "infer.onnx",
    "infer.int8.onnx",
    "train.onnx",
    "evaluate.onnx",
    "explain.onnx",
    "arrays.safetensors",
)
FILES = (INFER, INT8, TRAIN, EVALUATE, EXPLAIN, ARRAYS)
_OPTIONAL = {INT8, EXPLAIN}
LAST, REST = "last:", "rest:"
"""What names of parts begin with, see `Manifest.parts`."""
_PART = re.compile(r"train\.(last|rest)[1-9][0-9]{0,2}\.onnx")
Kind = Literal["head", "full", "quantised"]
_HASH = re.compile(r"[0-9a-f]{64}")
_MOST_AXES, _LARGEST_AXIS = 8, 1 << 24
_TYPES = ("float32", "int64")


@dataclass(frozen=True)
class Tensor:
    """An input or output: name, dtype (float32 or int64), and shape without the batch."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class FileEntry:
    """Size and SHA-256 (hex) of a file."""

    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What an artefact says of itself.

    Attributes:
        name: of the task.
        loss: of the task.
        input: what infer.onnx takes, after preprocessing.
        output: what it gives.
        classes: names of the classes by index; empty where unknown.
        preprocess: `kind` (none, standardize, vocabulary, wordpieces or custom) and its constants.
        kind: what train.onnx trains: `head` takes features of infer*.onnx, `full` takes inputs, and
            `quantised` takes inputs and trains with the rounding of infer.int8.onnx.
        trainable: what was chosen to be trained, in words.
        parameters: names of the trained arrays, all of them in arrays.safetensors.
        parts: what is trained where not all of them are: `last:N` -> names, the largest first, for devices
            that cannot train more; `rest:K` -> names, what a strategy trains while it holds the others.
            Each has a step of its own, `step_file`.
        tied: second names of shared arrays -> the name that the graphs use.
        training: settings of training by default.
        serve: the file that answers fastest within half a point of the best accuracy: infer.onnx or
            infer.int8.onnx.
        rounded: of kind `quantised`: where each trained array is in infer.int8.onnx.
        measured: accuracy, latency and sizes at export.
        versions: of what made it.
        provenance: the run or task it came from.
        files: size and hash of every file.
    """

    name: str
    loss: str
    input: Tensor
    output: Tensor
    classes: tuple[str, ...] = ()
    preprocess: Mapping[str, Any] = field(default_factory=lambda: {"kind": "none"})
    kind: Kind
    trainable: str
    parameters: tuple[str, ...]
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    training: Mapping[str, Any]
    serve: str
    rounded: Mapping[str, Rounded] = field(default_factory=dict[str, Rounded])
    tied: Mapping[str, str] = field(default_factory=dict[str, str])
    measured: Mapping[str, Any] = field(default_factory=dict[str, Any])
    versions: Mapping[str, str] = field(default_factory=dict[str, str])
    provenance: Mapping[str, Any] = field(default_factory=dict[str, Any])
    files: Mapping[str, FileEntry] = field(default_factory=dict[str, FileEntry])

    @property
    def smaller(self) -> dict[str, tuple[str, ...]]:
        """The parts for devices that cannot train everything."""
        return {part: names for part, names in self.parts.items() if part.startswith(LAST)}

    def to_json(self) -> str:
        """For the file."""
        return json.dumps({"format": FORMAT} | asdict(self), indent=2)


def is_file_of_artefact(name: str) -> bool:
    """Whether an artefact may have such a file beside its manifest."""
    return name in FILES or _PART.fullmatch(name) is not None


def step_file(part: str) -> str:
    """The file with the train step of a part (see `Manifest.parts`); empty for that of everything."""
    return f"train.{part.replace(':', '')}.onnx" if part else TRAIN


def read_manifest(text: str | bytes) -> Manifest:
    """A manifest from its JSON.

    Raises:
        DataError: it is no JSON, of another format, or lacks or garbles something.
    """
    try:
        content = json.loads(text)
        if content["format"] != FORMAT:
            raise DataError(f"{MANIFEST} has the format {content['format']}; this fedloom reads {FORMAT}")
        manifest = Manifest(
            name=_text(content["name"]),
            loss=_text(content["loss"]),
            input=_tensor(content["input"]),
            output=_tensor(content["output"]),
            classes=tuple(map(_text, content["classes"])),
            preprocess=dict(content["preprocess"]),
            kind=content["kind"],
            trainable=_text(content["trainable"]),
            parameters=tuple(map(_text, content["parameters"])),
            parts={_text(p): tuple(map(_text, own)) for p, own in content.get("parts", {}).items()},
            training=dict(content["training"]),
            serve=content["serve"],
            rounded={_text(n): Rounded(**p) for n, p in content["rounded"].items()},
            tied={_text(n): _text(first) for n, first in content.get("tied", {}).items()},
            measured=dict(content["measured"]),
            versions=dict(content["versions"]),
            provenance=dict(content["provenance"]),
            files={_text(n): _entry(e) for n, e in content["files"].items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{MANIFEST} is damaged ({type(error).__name__}: {error}); get the artefact again"
        ) from error
    _check(manifest)
    return manifest


def _check(manifest: Manifest) -> None:
    steps = {step_file(part) for part in manifest.parts}
    known = {*FILES, *filter(is_file_of_artefact, steps)}  # what a part is called must be no path
    unknown = set(manifest.files) - known
    missing = {*FILES, *steps} - _OPTIONAL - set(manifest.files)
    if unknown or missing:
        what = f"names the file {min(unknown)!r}" if unknown else f"lacks the file {min(missing)}"
        raise DataError(f"{MANIFEST} {what}; an artefact has {', '.join(FILES)}")
    if manifest.kind not in get_args(Kind) or manifest.serve not in (INFER, INT8):
        raise DataError(f"{MANIFEST} has the kind {manifest.kind!r} and serves {manifest.serve!r}")
    if manifest.serve not in manifest.files:
        raise DataError(f"{MANIFEST} serves {manifest.serve}, which the artefact lacks")


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 1000:
        raise TypeError("a text of at most 1000 characters was expected")
    return value


def _tensor(value: Any) -> Tensor:
    shape = tuple(value["shape"])
    if len(shape) > _MOST_AXES or not all(type(n) is int and 0 < n <= _LARGEST_AXIS for n in shape):
        raise ValueError(f"shape {shape}")
    if value["dtype"] not in _TYPES:
        raise ValueError(f"dtype {value['dtype']}")
    return Tensor(_text(value["name"]), value["dtype"], shape)


def _entry(value: Any) -> FileEntry:
    size, digest = value["bytes"], value["sha256"]
    if type(size) is not int or size < 0 or not _HASH.fullmatch(digest):
        raise ValueError("size or hash of a file")
    return FileEntry(size, digest)
