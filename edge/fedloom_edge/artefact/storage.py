"""An artefact on disk, a folder or a `.fedloom` zip, from which only checked bytes are handed out."""

import hashlib
import os
import stat
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from fedloom_edge.artefact.graph import MOST_BYTES
from fedloom_edge.artefact.manifest import MANIFEST, FileEntry, Manifest, is_file_of_artefact, read_manifest
from fedloom_edge.errors import DataError, InputError, RunError
from fedloom_edge.files import replacing, write_atomic

SUFFIX = ".fedloom"
_MANIFEST_BYTES = 16 << 20


class Artefact:
    """A folder or zip whose manifest was read; a file is read when it is asked for, and its hash compared.

    Args:
        path: folder, or zip.

    Raises:
        InputError: there is no artefact.
        DataError: its manifest is damaged, or it holds what no artefact does.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._place: _Place = _Folder(path) if path.is_dir() else _Zip(path)
        self.manifest = read_manifest(self._place.read(MANIFEST, _MANIFEST_BYTES))

    def read(self, name: str) -> bytes:
        """A file's bytes, which are what the manifest says.

        Raises:
            DataError: the file is missing, larger than it should be, or another.
        """
        entry = self.manifest.files.get(name)
        if entry is None:
            raise DataError(f"{self.path} has no {name}; export it again")
        if entry.bytes > MOST_BYTES:
            raise DataError(f"{self.path}: {name} has {entry.bytes} bytes, at most {MOST_BYTES} are allowed")
        content = self._place.read(name, entry.bytes)
        if len(content) != entry.bytes or hashlib.sha256(content).hexdigest() != entry.sha256:
            raise DataError(f"{self.path}: {name} is not the file that was exported; get the artefact again")
        return content


def write_artefact(path: Path, manifest: Manifest, files: Mapping[str, bytes]) -> Manifest:
    """Write an artefact: a zip if `path` ends in `.fedloom`, else a folder. Returns the manifest with hashes.

    In a folder every file is replaced in one step, the manifest last.

    Raises:
        RunError: it cannot be written.
    """
    entries = {n: FileEntry(len(c), hashlib.sha256(c).hexdigest()) for n, c in files.items()}
    manifest = replace(manifest, files=entries)
    everything = {**files, MANIFEST: manifest.to_json().encode()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == SUFFIX:
            with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as file:
                for name, content in everything.items():
                    # A fixed date: equal contents make equal files.
                    file.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
        else:
            path.mkdir(exist_ok=True)
            for name, content in everything.items():
                write_atomic(path / name, content)
    except OSError as error:
        raise RunError(
            f"{path} cannot be written ({error.strerror}); free space or name another --out"
        ) from error
    return manifest


class _Place(Protocol):
    """Where files are. A protocol: a folder and a zip are read in different ways."""

    def read(self, name: str, limit: int) -> bytes:
        """A file's bytes, `limit` + 1 at most."""
        ...


class _Folder:
    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, name: str, limit: int) -> bytes:
        path = self._path / name
        try:
            # A link could lead out of the folder, and a pipe would never end.
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with os.fdopen(descriptor, "rb") as file:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise DataError(f"{path} is no regular file")
                return file.read(limit + 1)
        except OSError as error:
            raise DataError(
                f"{path} cannot be read ({error.strerror}): is {self._path} an artefact?"
            ) from error


class _Zip:
    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with zipfile.ZipFile(path) as file:
                infos = file.infolist()
        except FileNotFoundError:
            raise InputError(
                f"{path} does not exist; name an artefact: a folder or a {SUFFIX} file"
            ) from None
        except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError) as error:
            raise DataError(f"{path} is neither a folder nor a whole zip ({error})") from error
        names = [info.filename for info in infos]
        for name in names:
            if name != MANIFEST and not is_file_of_artefact(name):
                raise DataError(f"{path} holds {name[:100]!r}, which no artefact does")
        if len(set(names)) != len(names):
            raise DataError(f"{path} holds a file twice")

    def read(self, name: str, limit: int) -> bytes:
        try:
            with zipfile.ZipFile(self._path) as file, file.open(name) as member:
                return member.read(limit + 1)  # whatever size the zip claims
        except KeyError:
            raise DataError(f"{self._path} lacks {name}; get the artefact again") from None
        except Exception as error:  # zlib, lzma, encryption: each fails in its own way
            raise DataError(
                f"{self._path}: {name} cannot be unpacked ({error}); get the artefact again"
            ) from error
