"""Show a run, or compare several: a table in the terminal and a picture.

For one DIR: its rounds, its report.png drawn anew, and where the pictures of `fedloom explain` are.
For several: a row a run, and comparison.png.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedloom_server.store.run_store import RunStore


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `fedloom report`."""
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="a run's folder")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="the picture (.png, .pdf or .svg); default: DIR/report.png, or comparison.png for several",
    )
    parser.add_argument(
        "--quarantine",
        action="store_true",
        help="list the updates that the guard refused and kept, each with its rule, figures and file",
    )
    parser.add_argument(
        "--mlflow",
        nargs="?",
        const="",
        metavar="URI",
        help="write the runs to MLflow: a server's address or sqlite:///FILE; default: MLFLOW_TRACKING_URI",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run `fedloom report`; returns the exit code."""
    from fedloom_edge.errors import InputError
    from fedloom_server.store.run_store import RunStore

    with ExitStack() as stack:
        stores = [stack.enter_context(RunStore.open(folder)) for folder in arguments.folders]
        if arguments.mlflow is not None:
            return _export(stores, arguments.mlflow)
        if arguments.quarantine:
            return _refused(stores)
        one = len(stores) == 1
        out: Path = arguments.out or (stores[0].folder / "report.png" if one else Path("comparison.png"))
        try:
            _show(stores, out)
        except OSError as error:
            raise InputError(f"--out {out}: {error.strerror}; choose another file") from error
    return 0


def _refused(stores: "Sequence[RunStore]") -> int:
    from fedloom_server.report.table import quarantine_table

    for store in stores:
        _say(f"{store.folder}: {quarantine_table(store)}")
    return 0


def _export(stores: "Sequence[RunStore]", uri: str) -> int:
    from fedloom_edge.errors import InputError
    from fedloom_server.report.mlflow import export_run

    uri = uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri:
        raise InputError("--mlflow: give a URI, or set MLFLOW_TRACKING_URI, for example sqlite:///mlflow.db")
    for store in stores:
        _say(f"{store.folder}: run {export_run(store, uri)} at {uri}")
    return 0


def _show(stores: "Sequence[RunStore]", out: Path) -> None:
    from fedloom_server.energy import energy_text, run_energy
    from fedloom_server.report.comparison import draw_comparison
    from fedloom_server.report.explained import pictures
    from fedloom_server.report.run import draw_run
    from fedloom_server.report.style import check_format
    from fedloom_server.report.table import rounds_table, runs_table

    check_format(out)
    _say(runs_table(stores))
    if len(stores) == 1:
        _say("\n" + rounds_table(stores[0]))
        _say("\n" + energy_text(run_energy(stores[0])))
    drawn = [store for store in stores if store.rounds()]
    if not drawn:
        _say("no round is finished yet, so there is nothing to draw")
        return
    if len(stores) == 1:
        draw_run(drawn[0], out)
    else:
        draw_comparison(drawn, out)
    _say(f"\n{out}")
    if len(stores) == 1:
        for name, what in pictures(stores[0].folder).items():
            _say(f"{stores[0].folder / name}: {what}")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
