"""Atomic file writes: a reader sees the old content or the new, never a part."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path, *, synced: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success fsync it and rename it over `path`.

    On any exception the temporary file is removed and `path` is untouched. Without `synced` a power
    cut, not a kill, can leave anything under `path` until `sync_files` is called.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{path.suffix}")
    try:
        temporary.touch()
        yield temporary
        if synced:
            _sync(temporary)
        temporary.replace(path)
        if synced:
            _sync(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomic(path: Path, content: bytes | str, *, synced: bool = True) -> None:
    """Write `content` to `path` in one step (temporary file, fsync unless told otherwise, rename)."""
    with replacing(path, synced=synced) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def sync_files(paths: Iterable[Path]) -> None:
    """Make files that were written without fsync, and their names, survive a power cut."""
    there = [path for path in paths if path.exists()]
    for path in (*there, *{path.parent for path in there}):
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_private(path: Path, content: bytes) -> None:
    """Write `content` to `path` in one step, readable and writable by its owner alone (0600)."""
    with replacing(path) as temporary:
        temporary.chmod(0o600)
        temporary.write_bytes(content)
