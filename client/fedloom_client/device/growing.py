"""A node over a folder that grows while the device runs: its shard is read again when files have changed."""

import logging
from collections.abc import Callable
from pathlib import Path

from fedloom_client.data.samples import Shard
from fedloom_client.node import Description, Node
from fedloom_client.task import Task
from fedloom_client.trainer import Assignment, Trainer, Update
from fedloom_edge.arrays import Arrays
from fedloom_edge.errors import InputError

log = logging.getLogger("fedloom.device")

Print = tuple[tuple[str, int, int], ...]


class GrowingNode(Node):
    """A node that looks at its folder before it trains; in a round it measures on what it trained on.

    Args:
        task: of the device.
        read: reads the shard.
        trainer: of the device.
        folder: what the task reads.
    """

    def __init__(self, task: Task, read: Callable[[], Shard], trainer: Trainer, folder: Path) -> None:
        self._read, self._folder = read, folder
        self._seen = _print(folder)
        super().__init__(task, read(), trainer)

    def describe(self) -> Description:
        """The shard's size and its summary, as the folder is now."""
        self._refresh()
        return super().describe()

    def train(self, arrays: Arrays, constants: Arrays, assignment: Assignment) -> Update:
        """Fit `arrays` on what the folder holds now."""
        self._refresh()
        return super().train(arrays, constants, assignment)

    def _refresh(self) -> None:
        now = _print(self._folder)
        if now == self._seen:
            return
        try:
            self.raw = self._read()
        except InputError as error:  # a file that is being written: the next round looks again
            log.warning("the data as it was before is used: %s", error)
            return
        self._seen, self._ready = now, None
        log.info("the data has changed: %d examples", len(self.raw.train))


def _print(folder: Path) -> Print:
    """Name, size and time of change of every file."""
    files = [folder] if folder.is_file() else sorted(folder.rglob("*"))
    found = []
    for path in files:
        try:
            status = path.stat()
        except OSError:  # removed meanwhile
            continue
        if not path.is_dir():
            found.append((str(path), status.st_size, status.st_mtime_ns))
    return tuple(found)
