"""Results as they arrive, in files of the run's folder: in no process's memory, and there after a restart."""

from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError

from fedloom_client.wire import CHUNK, Assembly, sha256
from fedloom_edge.errors import LinkError
from fedloom_protos.v1 import link_pb2 as pb


class _FileAssembly(Assembly):
    """Arrays that are received into a file. Written, not mapped: a fault a page is slower than a copy."""

    def __init__(self, tensors: pb.Tensors, limit: int, path: Path) -> None:
        super().__init__(tensors, limit, np.zeros(0, np.uint8))
        begun = path.exists() and path.stat().st_size == self.bytes
        self._file = path.open("r+b" if begun else "w+b", buffering=0)
        self._file.truncate(self.bytes)
        if begun:
            self._find_held()

    def _find_held(self) -> None:
        """Chunks that came before the connection broke, or the coordinator was killed."""
        lacking: set[bytes] = set()
        for index, digest in enumerate(self.tensors.chunks):
            self._file.seek(index * CHUNK)
            if sha256(self._file.read(CHUNK)) != digest:
                lacking.add(digest)
        self._missing = {digest: None for digest in self._missing if digest in lacking}

    def _write(self, start: int, data: memoryview) -> None:
        self._file.seek(start)
        self._file.write(data)


class Inbox:
    """Results by the id of their work: `ID.content` beside `ID.result`, the latter written last."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder

    def receive(self, result: pb.Result, limit: int) -> Assembly:
        """Room for a result's arrays, with what was received of them before.

        Raises:
            LinkError: the description breaks a rule or asks for more than `limit` bytes.
        """
        return _FileAssembly(result.arrays, limit, self.content(result.work))

    def keep(self, result: pb.Result) -> None:
        """The result is complete.

        Not fsynced: after a power cut its hashes tell whether it is whole, and if not the device still
        has it or does the work again.
        """
        partial = self._folder / f"{result.work}.partial"
        partial.write_bytes(result.SerializeToString())
        partial.replace(self._folder / f"{result.work}.result")

    def content(self, work: str) -> Path:
        """The file with a result's arrays."""
        return self._folder / f"{work}.content"

    def get(self, work: str) -> pb.Result | None:
        """A result that was complete when the coordinator stopped, or None."""
        result = pb.Result()
        try:
            result.ParseFromString((self._folder / f"{work}.result").read_bytes())
            content = self.content(work)
            size = content.stat().st_size
            Assembly.of_content(
                result.arrays, np.memmap(content, np.uint8, "r") if size else np.zeros(0, np.uint8)
            )
        except (OSError, DecodeError, LinkError, ValueError):
            return None
        return result if result.work == work else None

    def clear(self, keep: set[str]) -> None:
        """Remove everything but the results of some works; arrays in use stay readable."""
        for path in self._folder.iterdir():
            if path.stem not in keep:
                path.unlink(missing_ok=True)
