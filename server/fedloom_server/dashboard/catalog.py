"""Which runs are watched: folders of runs, and folders that hold them."""

import hashlib
import re
import time
from collections.abc import Sequence
from pathlib import Path

from fedloom_edge.errors import InputError
from fedloom_server.store.run_store import DATABASE

_FRESH = 1.0  # seconds for which a look at the disk holds


class Catalog:
    """The runs below some folders, by id. A run that is made later is found by itself.

    An id is made of the folder's name and path, so a link to a run holds across restarts, and no
    path ever comes from a request.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        for folder in folders:
            if not folder.is_dir():
                raise InputError(f"{folder} is no folder; give a run's folder, or one that holds runs")
        self._roots = [folder.absolute() for folder in folders]
        self._runs: dict[str, Path] = {}
        self._looked = -_FRESH

    def runs(self) -> dict[str, Path]:
        """Id -> folder of every run there is now."""
        if time.monotonic() - self._looked >= _FRESH:
            found = (folder for root in self._roots for folder in _below(root))
            self._runs = {run_id(folder): folder for folder in found}
            self._looked = time.monotonic()
        return self._runs

    def folder(self, run: str) -> Path | None:
        """The folder of a run, or None if there is no such run."""
        return self.runs().get(run)


def run_id(folder: Path) -> str:
    """A name for a run that can stand in an address: `digits-20260101-120000-1f2e3d`."""
    name = re.sub(r"[^a-z0-9]+", "-", folder.name.lower()).strip("-")[:60] or "run"
    return f"{name}-{hashlib.sha256(str(folder).encode()).hexdigest()[:6]}"


def _below(root: Path) -> list[Path]:
    if (root / DATABASE).is_file():
        return [root]
    try:
        return sorted(entry for entry in root.iterdir() if (entry / DATABASE).is_file())
    except OSError:  # removed while we look
        return []
