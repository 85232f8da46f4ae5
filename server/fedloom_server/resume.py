"""Go on with a run after a crash, a stop or a failure, from the folder alone.

The result is that of a run that was never broken off, bit for bit: the same weights, the same figures.
"""

import argparse
import importlib
from pathlib import Path

from fedloom_edge.cli import COMMANDS
from fedloom_edge.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `fedloom resume`."""
    parser.add_argument("folder", type=Path, metavar="DIR", help="the run's folder")


def run(arguments: argparse.Namespace) -> int:
    """Run `fedloom resume`; returns the exit code."""
    from fedloom_server.store import RunStore

    folder: Path = arguments.folder
    with RunStore.open(folder) as store:
        facts = store.facts()
    if "arguments" not in facts:
        raise InputError(f"{folder} does not say how it was started; start it again with another --out")
    # The command that began the run knows how to go on with it: `resume(folder, arguments)`.
    module = importlib.import_module(COMMANDS[facts["command"]].module)
    return int(module.resume(folder, facts["arguments"]))
