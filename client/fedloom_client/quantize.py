"""Calibrate an artefact's int8 model on data of your own, measure it, and choose what is served.

This needs onnx (`pip install 'fedloom[train]'`), so it runs where artefacts are exported. A device without
onnx uses the int8 model that it was given, and trains a head on it.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from fedloom_client.finetune.command import add_source_arguments
from fedloom_edge.errors import InputError

_CALIBRATION_SAMPLES = 256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `fedloom edge quantize`."""
    add_source_arguments(parser)
    parser.add_argument("--seed", type=int, default=0, help="which samples calibrate; the others measure")
    parser.add_argument("--out", type=Path, default=None, metavar="PATH", help="default: ARTEFACT itself")


def run(arguments: argparse.Namespace) -> int:
    """Quantise, measure on the samples that did not calibrate, write, tell."""
    from fedloom_client.data.samples import View
    from fedloom_client.finetune.data import read_data
    from fedloom_client.seeds import generator
    from fedloom_edge.artefact.check import check
    from fedloom_edge.artefact.manifest import INFER, INT8
    from fedloom_edge.artefact.serving import choose, measure, table
    from fedloom_edge.artefact.storage import Artefact, write_artefact
    from fedloom_edge.quantise import quantise

    artefact = Artefact(arguments.artefact)
    check(artefact)
    manifest = artefact.manifest
    if manifest.kind == "quantised":
        raise InputError(
            f"{artefact.path} was trained with the rounding of its int8 model, whose ranges must stay; "
            "export it again with --train int8 to calibrate it anew"
        )
    samples, _ = read_data(arguments.data, manifest, arguments.target)
    order = generator(arguments.seed, "calibration").permutation(len(samples))
    cut = min(_CALIBRATION_SAMPLES, max(len(order) // 2, 1))
    x, _ = View(samples, np.sort(order[:cut])).take(np.arange(cut))
    rest = View(samples, np.sort(order[cut:] if len(order) > cut else order))
    files = {name: artefact.read(name) for name in manifest.files}
    keep = manifest.parameters if manifest.kind == "head" else ()
    files[INT8] = quantise(files[INFER], np.ascontiguousarray(x, manifest.input.dtype), keep)
    test_x, test_y = rest.take(np.arange(len(rest)))
    models = {name: files[name] for name in (INFER, INT8)}
    figures = measure(models, manifest.loss, np.ascontiguousarray(test_x, manifest.input.dtype), test_y)
    serve, why = choose(figures)
    measured = {k: v for k, v in manifest.measured.items() if k == "torch_difference"}
    measured |= figures | {"serve": why, "test_samples": len(rest)}
    out = arguments.out or arguments.artefact
    write_artefact(out, replace(manifest, serve=serve, measured=measured), files)
    sys.stdout.write(f"{out}: calibrated on {cut} samples, measured on {len(rest)}\n{table(figures)}")
    sys.stdout.write(f"  serves {serve}: {why}\n")
    return 0
