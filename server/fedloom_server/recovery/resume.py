"""Go on with a run after a crash, a stop or a failure, from the folder alone.

The result is that of a run that was never broken off, bit for bit: the same weights, the same figures.
"""

import argparse
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fedloom_edge.cli import COMMANDS
from fedloom_edge.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `fedloom resume`."""
    parser.add_argument("folder", type=Path, metavar="DIR", help="the run's folder")


def run(arguments: argparse.Namespace) -> int:
    """Run `fedloom resume`; returns the exit code."""
    from fedloom_server.store.run_store import RunStore

    folder: Path = arguments.folder
    with RunStore.open(folder) as store:
        facts = store.facts()
    if "arguments" not in facts:
        raise InputError(f"{folder} does not say how it was started; start it again with another --out")
    # The command that began the run knows how to go on with it: `resume(folder, arguments)`.
    module = importlib.import_module(COMMANDS[facts["command"]].module)
    return int(module.resume(folder, facts["arguments"]))


def kept_arguments(options: argparse.Namespace, *, without: tuple[str, ...]) -> dict[str, Any]:
    """A command's options as JSON values for the run's folder; what --config and variables gave is in."""
    ignored = ("config", "out", "sections", "foreign", *without)
    kept = {name: value for name, value in vars(options).items() if name not in ignored}
    return {name: str(value.absolute()) if isinstance(value, Path) else value for name, value in kept.items()}


def restored_arguments(
    declare: Callable[[argparse.ArgumentParser], None], folder: Path, arguments: Mapping[str, Any]
) -> argparse.Namespace:
    """The options of the run in `folder`, in the types that `declare` says.

    Options that are younger than the run have their defaults.
    """
    parser = argparse.ArgumentParser()
    declare(parser)
    options = parser.parse_args([])
    for action in parser._actions:
        if (value := arguments.get(action.dest)) is not None:
            setattr(options, action.dest, action.type(value) if callable(action.type) else value)
    options.out = folder
    return options
