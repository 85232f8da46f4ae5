"""What one machine makes of the artefacts: losses of every step, int8 answers, memory. Runs anywhere.

    python probe.py FOLDER RESULT.npz

FOLDER holds head/, all/ and int8/ (artefacts) and data.npz. Nothing but a device's packages is imported.
"""

import os
import sys
from pathlib import Path

import numpy as np

from fedloom_client.data.batches import cut
from fedloom_client.seeds import generator
from fedloom_edge.artefact.check import FEATURES, check, initial_arrays
from fedloom_edge.artefact.manifest import INFER, INT8, TRAIN
from fedloom_edge.artefact.serving import predict
from fedloom_edge.artefact.storage import Artefact
from fedloom_edge.cli import main
from fedloom_edge.sessions import open_session
from fedloom_edge.train_step import TrainStep

STEPS = 12


def losses(artefact, x, y):
    """Loss of each step (STEPS,) of the artefact's train step; a head is given features first."""
    if artefact.manifest.kind == "head":
        x = open_session(artefact.read(artefact.manifest.serve)).run([FEATURES], {"input": x})[0]
    step = TrainStep(artefact.read(TRAIN), batch=16)
    step.set_arrays(initial_arrays(artefact))
    batches = cut(generator(0, "order").permutation(len(x)), 16)[:STEPS]
    return np.array([step(x[b], y[b], lr=0.01, seed=1)[0] for b in batches])


def pss_mb():
    """Proportional memory of this process, MB; 0 where the kernel does not tell."""
    try:
        return int(Path("/proc/self/smaps_rollup").read_text().split("Pss:")[1].split()[0]) / 1024
    except (OSError, IndexError):
        return 0.0


def probe(folder, result):
    """Run everything and write the figures."""
    data = np.load(folder / "data.npz")
    x, y = data["x"], data["y"]
    found = {}
    for name in ("head", "all", "int8"):
        artefact = Artefact(folder / name)
        check(artefact)
        found[f"losses/{name}"] = losses(artefact, x, y)
        found[f"int8/{name}"] = predict(artefact.read(INT8), x[:64])
        found[f"float/{name}"] = predict(artefact.read(INFER), x[:64])
        out = result.with_name(f"{result.stem}-{name}")
        options = ["--data", str(folder / "data.npz"), "--epochs", "1", "--out", str(out)]
        if code := main(["edge", "finetune", str(folder / name), *options]):
            return code
    found["pss_mb"] = np.array(pss_mb())
    home = Path(os.environ["HOME"])
    left = [str(path) for path in home.rglob("*") if "icrosoft" in str(path) or "deviceid" in path.name]
    links = [str(fd.readlink()) for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()]
    found["telemetry"] = np.array([*left, *(link for link in links if link.startswith("socket:"))], str)
    np.savez(result, **found)
    return 0


if __name__ == "__main__":
    sys.exit(probe(Path(sys.argv[1]), Path(sys.argv[2])))
