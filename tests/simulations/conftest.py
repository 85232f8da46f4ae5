"""Runs `fedloom` in this process, as a user would on a command line."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from fedloom_edge.cli import main


class Done(NamedTuple):
    """What a run of the command came to."""

    code: int
    out: str
    err: str
    folder: Path

    @property
    def result(self) -> dict[str, Any]:
        return json.loads((self.folder / "result.json").read_text())


@pytest.fixture
def simulate(tmp_path, capsys):
    """`simulate("digits", "--rounds", 2)` -> Done; every run has a folder of its own."""

    def run(*argv: object) -> Done:
        folder = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        code = main(["simulate", *map(str, argv), "--out", str(folder)])
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err, folder)

    return run


@pytest.fixture
def task_file(tmp_path):
    """Writes a small task of a user's own; any part of it can be replaced: `task_file(y="...")`."""

    def write(body: str = "", **changes: str) -> Path:
        parts = {
            "model": "lambda: nn.Linear(4, 3)",
            "data": "load",
            "x": "rng.normal(size=(120, 4)).astype(np.float32)",
            "y": "rng.integers(0, 3, 120)",
            "extra": "",
        } | changes
        path = tmp_path / "my_task.py"
        path.write_text(
            "import numpy as np\n"
            "from torch import nn\n"
            "from fedloom_client import ArraySamples, Data, Task, Training\n"
            "rng = np.random.default_rng(0)\n"
            f"{body}\n"
            "def load(folder):\n"
            f"    x = {parts['x']}\n"
            f"    y = {parts['y']}\n"
            "    return Data(train=ArraySamples(x[:90], y[:90]), test=ArraySamples(x[90:], y[90:]))\n"
            "task = Task(\n"
            f"    name='mine', clients=3, model={parts['model']}, data={parts['data']}, {parts['extra']}\n"
            ")\n"
        )
        return path

    return write
