"""What a device keeps from round to round of a run (`orders.train`), on disk: it survives a kill.

There is one file a round, and a round begins from the newest file before it. So a round that is worked
on again, after a power cut or because the coordinator went back to a checkpoint, begins from the same
memory and comes to the same result.
"""

import hashlib
import shutil
from pathlib import Path

from fedloom_edge.arrays import Arrays, load_arrays, save_arrays
from fedloom_edge.errors import RunError

_KEPT = 4  # rounds: one more than the checkpoints that a coordinator keeps


class Memory:
    """The files of one device, those of one run at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def before(self, run: str, number: int) -> Arrays:
        """What was kept in the newest round of `run` before round `number`; empty without any."""
        for round_number, path in sorted(self._files(run), reverse=True):
            if round_number < number:
                try:
                    return load_arrays(path)
                except RunError:  # torn or rotten: the one before is better than none
                    path.unlink(missing_ok=True)
        return {}

    def keep(self, run: str, number: int, arrays: Arrays) -> None:
        """Keep `arrays` of round `number`, and forget other runs and old rounds."""
        folder = self._of(run)
        for other in self._folder.glob("*") if self._folder.exists() else ():
            if other != folder:
                shutil.rmtree(other)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        save_arrays(folder / f"{number}.safetensors", arrays)
        for _, path in sorted(self._files(run))[:-_KEPT]:
            path.unlink()

    def _files(self, run: str) -> list[tuple[int, Path]]:
        return [(int(path.stem), path) for path in self._of(run).glob("[0-9]*.safetensors")]

    def _of(self, run: str) -> Path:
        # A name from a peer is no path.
        return self._folder / hashlib.sha256(run.encode()).hexdigest()[:16]
