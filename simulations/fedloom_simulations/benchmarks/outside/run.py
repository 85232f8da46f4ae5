"""Runs a script of this folder on a workload, with the interpreter of the simulator's own environment."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

PEERS = ("pfl", "fluke", "fedjax")
ENVIRONMENTS = "FEDLOOM_PEERS"
"""Variable that names the folder with one environment a peer; default: .peers (`make peers`)."""


def interpreter(peer: str) -> Path:
    """Where a peer's interpreter should be."""
    return Path(os.environ.get(ENVIRONMENTS, ".peers")) / peer / "bin" / "python"


def become(peer: str, arrays: dict[str, Any], parts: list[Any], settings: dict[str, Any]) -> NoReturn:
    """Become the peer's process, so that its memory is measured and not ours; it prints its laps.

    Args:
        peer: of `PEERS`.
        arrays: x, y, test_x, test_y.
        parts: indices of each client's examples.
        settings: as `Given.settings`.

    Raises:
        SystemExit: the peer is not installed.
    """
    if not interpreter(peer).exists():
        raise SystemExit(f"{peer}: there is no {interpreter(peer)}; make peers installs it")
    handle, path = tempfile.mkstemp(suffix=".npz")  # who reads it removes it
    order, ends = np.concatenate(parts), np.cumsum([len(part) for part in parts])
    with os.fdopen(handle, "wb") as file:
        np.savez(file, order=order, ends=ends, settings=np.array(json.dumps(settings)), **arrays)
    script = Path(__file__).with_name(f"{peer}_side.py")
    os.execv(interpreter(peer), [str(interpreter(peer)), str(script), path])
