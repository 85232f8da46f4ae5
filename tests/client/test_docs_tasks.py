"""Every task in docs/tasks.md runs, as it stands there, on real files."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fedloom_edge.cli import main

TEXT = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text()
TASKS = {re.search(r'name="(\w+)"', code)[1]: code for code in re.findall(r"```python\n(.*?)```", TEXT, re.S)}


def arrays(folder):
    rng = np.random.default_rng(0)
    np.save(folder / "x.npy", rng.normal(size=(60, 4)))
    np.save(folder / "y.npy", rng.integers(0, 3, 60))


def table(folder):
    for name in ("north", "south", "east"):
        rows = "".join(f"{i},{i % 7},{'old' if i % 3 else 'new'}\n" for i in range(40))
        (folder / f"{name}.csv").write_text(f"age,height,kind\n{rows}")


def parquet(folder):
    columns = {
        "area": list(range(60)),
        "rooms": [i % 5 for i in range(60)],
        "price": [i * 1.5 for i in range(60)],
    }
    pq.write_table(pa.table(columns), folder / "table.parquet")


def packed(folder):
    rng = np.random.default_rng(0)
    for day in ("monday", "tuesday"):
        np.savez(folder / f"{day}.npz", x=rng.normal(size=(30, 4)), y=rng.integers(0, 2, 30))


def pictures(folder):
    for color, name in ((250, "bright"), (20, "dark")):
        (folder / name).mkdir()
        for i in range(12):
            Image.new("RGB", (20, 24), (color, color, i)).save(folder / name / f"{i}.png")


def hub(folder):
    (folder / "table.csv").write_text("a,b,label\n" + "".join(f"{i},{i % 5},{i % 2}\n" for i in range(60)))


FILES = {
    "arrays": arrays,
    "table": table,
    "parquet": parquet,
    "packed": packed,
    "pictures": pictures,
    "hub": hub,
}


@pytest.mark.parametrize("name", TASKS)
def test_the_task_in_the_document_runs(name, tmp_path, capsys):
    folder = tmp_path / "data"
    folder.mkdir()
    FILES.get(name, lambda _: None)(folder)
    file = tmp_path / f"{name}_task.py"
    file.write_text(TASKS[name])
    clients = [] if "clients=0" in TASKS[name] else ["--clients", "3"]
    code = main(
        [
            "simulate",
            str(file),
            "--data",
            str(folder),
            "--rounds",
            "2",
            *clients,
            "--out",
            str(tmp_path / "run"),
        ]
    )
    assert code == 0, capsys.readouterr().err


def test_every_task_in_the_document_takes_less_than_60_lines():
    assert all(code.count("\n") < 60 for code in TASKS.values())
    assert set(TASKS) == {*FILES, "parity", "searched"}
