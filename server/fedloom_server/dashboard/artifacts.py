"""The models and files of a run that may be downloaded."""

import hashlib
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from fedloom_server.dashboard.database import Database
from fedloom_server.report.explained import PICTURES

# Nothing else leaves a run's folder; a name from a request is looked up here, never joined to a path.
_FILES = {
    "model.onnx": "the model as ONNX",
    "model.int8.onnx": "the model as ONNX, quantised to int8",
    "model.safetensors": "the last round's weights",
    "train_step.onnx": "the train-step graph",
    "result.json": "the run in numbers",
    "report.png": "the run as a picture",
    "explain.json": "what the model looks at, in numbers",
    "contribution.json": "what each client gave, in numbers",
    **PICTURES,
}
_CHECKPOINT = re.compile(r"arrays/([0-9a-f]{64})\.safetensors")


def artifacts(folder: Path, database: Database) -> list[dict[str, Any]]:
    """Name, size, sha256 of the file, and provenance of what there is to download."""
    rounds: dict[str, int] = {}
    for number, arrays in database.rows("SELECT number, arrays FROM round ORDER BY number"):
        rounds[arrays] = number
    last = max(rounds.values(), default=None)
    found = []
    for name in [*_FILES, *sorted(f"arrays/{digest}.safetensors" for digest in rounds)]:
        path = artifact_path(folder, name)
        if path is None:
            continue
        checkpoint = _CHECKPOINT.fullmatch(name)
        stat = path.stat()
        found.append(
            {
                "name": name,
                "kind": "checkpoint" if checkpoint else "file",
                "what": "global weights" if checkpoint else _FILES[name],
                "round": rounds[checkpoint[1]] if checkpoint else last,
                "bytes": stat.st_size,
                "time": stat.st_mtime,
                "sha256": _sha256(path, stat.st_size, stat.st_mtime_ns),
            }
        )
    return found


def artifact_path(folder: Path, name: str) -> Path | None:
    """The file behind a name, or None: only known names, only regular files within the folder."""
    if name not in _FILES and not _CHECKPOINT.fullmatch(name):
        return None
    path = folder / name
    if not path.is_file() or not path.resolve().is_relative_to(folder.resolve()):
        return None
    return path


@lru_cache(maxsize=512)
def _sha256(path: Path, size: int, modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
