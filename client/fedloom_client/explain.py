"""What an artefact's model looks at in this device's own data, with onnxruntime alone.

Leaves a JSON file with the attributions of the predicted class's output, or of the forecast. Gradients
need an artefact that was exported with --explain; occlusion needs any.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedloom_client.finetune.command import add_source_arguments
from fedloom_edge.errors import InputError

METHODS = ("integrated-gradients", "saliency", "occlusion")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `fedloom edge explain`."""
    add_source_arguments(parser)
    parser.add_argument("--method", choices=METHODS, default=METHODS[0], help="how")
    parser.add_argument("--samples", type=int, default=6, metavar="N", help="how many samples")
    parser.add_argument("--seed", type=int, default=0, metavar="K", help="of the choice of samples")
    parser.add_argument("--out", type=Path, default=Path("explain.json"), metavar="FILE", help="where to")


def run(arguments: argparse.Namespace) -> int:
    """Explain some samples of the device's data, write, tell."""
    import numpy as np

    from fedloom_client.attribution import attribute, deletion, verdict
    from fedloom_client.finetune.data import read_data
    from fedloom_client.seeds import generator
    from fedloom_edge.artefact.check import check
    from fedloom_edge.artefact.manifest import INFER
    from fedloom_edge.artefact.storage import Artefact
    from fedloom_edge.files import write_atomic
    from fedloom_edge.sessions import open_session

    if arguments.samples < 1:
        raise InputError(f"--samples {arguments.samples}: give at least 1")
    if not arguments.out.parent.is_dir():
        raise InputError(f"--out {arguments.out}: there is no folder {arguments.out.parent}; make it first")
    if arguments.out.is_dir():
        raise InputError(f"--out {arguments.out} is a folder; name a file, for example explain.json in it")
    artefact = Artefact(arguments.artefact)
    check(artefact)
    gradient = None if arguments.method == "occlusion" else _gradient(artefact)
    samples, classes = read_data(arguments.data, artefact.manifest, arguments.target)
    order = generator(arguments.seed, "explain").permutation(len(samples))
    chosen = np.sort(order[: arguments.samples])
    x, y = samples.take(chosen)
    x = np.ascontiguousarray(x, artefact.manifest.input.dtype)
    session = open_session(artefact.read(INFER))

    def outputs(inputs: Any) -> Any:
        return session.run(["output"], {"input": inputs})[0].reshape(len(inputs), -1)

    found = attribute(outputs, gradient, x, arguments.method)
    checked = deletion(outputs, x, found, arguments.seed)
    entries = [
        {
            "index": int(index),
            "target": np.asarray(y[place]).tolist(),
            "predicted": classes[found.targets[place]] if classes else float(found.outputs[place]),
            "output": float(found.outputs[place]),
            "attribution": found.values[place].tolist(),
        }
        for place, index in enumerate(chosen)
    ]
    facts = {"artefact": artefact.manifest.name, "method": arguments.method, "completeness_gap": found.gap}
    write_atomic(arguments.out, json.dumps({**facts, **checked, "samples": entries}) + "\n")
    sys.stdout.write("\n".join([*verdict(found, checked), f"{arguments.out}: {len(entries)} samples"]) + "\n")
    return 0


def _gradient(artefact: Any) -> Callable[[Any, Any], Any]:
    """The gradient of an output, by the artefact's own graph."""
    from fedloom_edge.artefact.manifest import EXPLAIN
    from fedloom_edge.sessions import open_session
    from fedloom_edge.step_settings import GRADIENT, TARGET

    if EXPLAIN not in artefact.manifest.files:
        raise InputError(
            f"{artefact.path} has no {EXPLAIN}: export it with --explain, or take --method occlusion"
        )
    session = open_session(artefact.read(EXPLAIN))
    return lambda inputs, targets: session.run([GRADIENT], {"input": inputs, TARGET: targets})[0]
