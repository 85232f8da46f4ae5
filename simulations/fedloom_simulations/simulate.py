"""Run a federation on this machine: clients with private shards learn one model together.

TASK is a built-in task (digits, mnist, fashion, stocks, sentiment, activity, tabular) or your own,
`path/to/file.py[:name]`. Flags beat FEDLOOM_* variables, which beat the TOML file of --config.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedloom_simulations.options import add_arguments as add_arguments


def run(arguments: argparse.Namespace) -> int:
    """Run `fedloom simulate`; returns the exit code."""
    from fedloom_simulations.collector import settling

    with settling():
        from fedloom_simulations.session import run_session
        from fedloom_simulations.setup import prepare_run

        setup = prepare_run(arguments)
    if arguments.show_partition:
        from fedloom_simulations.show_partition import show_partition

        return show_partition(setup, arguments.out)
    return run_session(setup)


def resume(folder: Path, arguments: Mapping[str, Any]) -> int:
    """Go on with the run in `folder`, which `run` began with these options; returns the exit code."""
    from fedloom_simulations.collector import settling

    with settling():
        from fedloom_server.recovery.resume import restored_arguments
        from fedloom_simulations.session import run_session
        from fedloom_simulations.setup import prepare_run

        setup = prepare_run(restored_arguments(add_arguments, folder, arguments), resume=True)
    return run_session(setup, resume=True)
