"""A folder that one process at a time works on."""

import fcntl
import os
from pathlib import Path
from weakref import WeakSet


class FolderLock:
    """Held by this process until it is released; a crash lets it go.

    Raises:
        BlockingIOError: another process holds it.
    """

    def __init__(self, folder: Path) -> None:
        # On a folder, because SQLite's own locks on run.db end when any handle of that file is closed.
        self._handle: int | None = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            raise
        _HELD.add(self)

    def release(self) -> None:
        """Let go of it; a second time does nothing."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


_HELD: WeakSet[FolderLock] = WeakSet()


def _release_in_child() -> None:
    # A worker process may outlive its killed parent by a moment, in which the run can be resumed.
    for lock in _HELD:
        lock.release()


os.register_at_fork(after_in_child=_release_in_child)
