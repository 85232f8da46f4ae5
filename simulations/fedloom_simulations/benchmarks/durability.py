"""What it costs that nothing is lost: `fedloom simulate mnist` with and without checkpoints, interleaved.

`python -m fedloom_simulations.benchmarks.durability` prints the table of docs/benchmarks.md. Without:
no checkpoint and no arrays are written, nothing is pruned, and no file is synced to the disk; the round
and its figures are in the store all the same.
"""

import argparse
import contextlib
import io
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

from fedloom_edge.cli import main as fedloom

OPTIONS = ("simulate", "mnist", "--workers", "1", "--seed", "1")
_PRELOADED = ["fedloom_simulations.session", "fedloom_simulations.engine.inline"]


def seconds(durable: bool) -> tuple[float, float]:
    """Wall and CPU seconds of the command, without imports."""
    ours, theirs = multiprocessing.Pipe()
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(_PRELOADED)
    process = processes.Process(target=_run, args=(durable, theirs))
    process.start()
    theirs.close()
    try:
        return ours.recv()  # type: ignore[no-any-return]
    finally:
        process.join()


def _run(durable: bool, pipe: Connection) -> None:
    if not durable:
        _keep_nothing()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        began, used = time.perf_counter(), _cpu()
        code = fedloom([*OPTIONS, "--out", str(Path(folder) / "run")])
        if code:
            raise SystemExit(code)
        pipe.send((time.perf_counter() - began, _cpu() - used))


def _keep_nothing() -> None:
    import fedloom_server.recovery.checkpoints
    import fedloom_server.store.run_store

    def nothing(*_: Any, **__: Any) -> None:
        """Instead of a write."""

    for method in ("add", "prune"):
        setattr(fedloom_server.recovery.checkpoints.Checkpoints, method, nothing)
    vars(fedloom_server.store.run_store)["save_arrays"] = nothing
    os.fsync = nothing


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def table(runs: int) -> str:
    """The table in Markdown: medians over interleaved runs, and the median of the ratios of pairs."""
    pairs = [(seconds(durable=True), seconds(durable=False)) for _ in range(runs)]
    lines = ["| mnist | with | without | with / without |", "|---|---|---|---|"]
    for place, name in enumerate(("wall, s", "CPU, s")):
        kept, lost = ([side[place] for side in sides] for sides in zip(*pairs, strict=True))
        ratio = median(a / b for a, b in zip(kept, lost, strict=True))
        lines.append(f"| {name} | {median(kept):.2f} | {median(lost):.2f} | {ratio:.3f} |")
    return "\n".join([*lines, ""])


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=5)
    sys.stdout.write(table(parser.parse_args(argv).runs))


if __name__ == "__main__":
    main()
