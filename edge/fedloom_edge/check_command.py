"""Check an artefact before it is loaded: hashes, safety, shapes, and that this onnxruntime takes it.

Neither torch nor onnx is needed. Exit code 0 if all is well, 2 with one line that says what is not.
"""

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `fedloom edge check`."""
    parser.add_argument("artefact", type=Path, metavar="ARTEFACT", help="folder or .fedloom file")


def run(arguments: argparse.Namespace) -> int:
    """Check and tell what is in it."""
    from fedloom_edge.artefact.check import check
    from fedloom_edge.artefact.storage import Artefact

    artefact = Artefact(arguments.artefact)
    found = check(artefact)
    manifest = artefact.manifest
    lines = [f"{artefact.path}: good; {manifest.name}, trains {manifest.trainable}, serves {manifest.serve}"]
    for name, entry in manifest.files.items():
        nodes = f", {found[name].nodes} nodes" if name in found else ""
        lines.append(f"  {name:<18} {entry.bytes:>10} bytes{nodes}, sha256 {entry.sha256[:12]}")
    sys.stdout.write("\n".join([*lines, ""]))
    return 0
