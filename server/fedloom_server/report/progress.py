"""What a person sees of a run: a bar on a terminal, plain lines elsewhere; a table of rounds in both."""

import sys
import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from fedloom_server.privacy.budget import FIGURES
from fedloom_server.store.rows import Round
from fedloom_server.store.run_store import RunStore


def bar_under(console: Console, *columns: ProgressColumn) -> Progress:
    """A bar that stays below what is printed and leaves nothing behind; none where there is no terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        *columns,
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


class RoundTable:
    """Prints a row a round as it finishes, under a bar with the ETA where there is a terminal."""

    def __init__(self, metric: str, rounds: int, *, private: bool = False) -> None:
        """With `private` what has been spent of the privacy budget is a column."""
        self._metric, self._private = metric, private
        self._console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
        self._progress = bar_under(
            self._console, TaskProgressColumn(), TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn()
        )
        self._bar = self._progress.add_task("meeting the clients", total=float(rounds))
        self._latest = ""

    def __enter__(self) -> Self:
        self._console.print(
            f"{'round':>5}  {'loss':>8}  {self._metric:>8}  {'clients':>8}  {'worst 5%':>8}  "
            f"{'failed':>6}  {'rejected':>8}  {'up MB':>7}  {'seconds':>7}{self._spent('epsilon')}"
        )
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def client_done(self, round_number: int, phase: str, done: int, total: int) -> None:
        """Move the bar: training is most of a round, evaluation the rest."""
        share = 0.9 * done / total if phase == "train" else 0.9 + 0.1 * done / total
        text = f"round {round_number}: {phase} {done}/{total} clients{self._latest}"
        self._progress.update(self._bar, completed=round_number - 1 + share, description=text)

    def round_done(self, entry: Round) -> None:
        """Print the round's row."""
        figures = (entry.loss, entry.metric, entry.federated_metric, entry.worst_metric)
        up = entry.bytes_up / 1e6
        self._say(
            f"{entry.number:>5}  {'  '.join(map(_figure, figures))}  {entry.clients_failed:>6}  "
            f"{entry.rejected:>8}  {up:>7.{4 if 0 < up < 0.1 else 2}f}  {entry.seconds:>7.2f}"
            f"{self._spent(f'{entry.metrics.get(FIGURES[0], 0):.4g}')}"
        )
        if entry.loss is not None and entry.metric is not None:
            self._latest = f" | loss {entry.loss:.4f} {self._metric} {entry.metric:.4f}"
            if self._private:
                self._latest += f" ε {entry.metrics.get(FIGURES[0], 0):.3g}"
        self._progress.update(self._bar, completed=entry.number)

    def _spent(self, text: str) -> str:
        return f"  {text:>8}" if self._private else ""

    def _say(self, line: str) -> None:
        if self._console.is_terminal:
            self._console.print(line)
        else:  # rich takes as long over a line as a small round over its training
            self._console.file.write(line + "\n")
            self._console.file.flush()


class ProgressFacts:
    """Writes how far the open round is into the store, a few times a second at most."""

    _INTERVAL = 0.5  # seconds

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._wrote = 0.0

    def client_done(self, round_number: int, phase: str, done: int, total: int) -> None:
        """Write the fact `progress`."""
        now = time.monotonic()
        if now - self._wrote < self._INTERVAL:
            return
        self._wrote = now
        progress: dict[str, Any] = {"round": round_number, "phase": phase, "done": done, "total": total}
        progress["time"] = time.time()
        self._store.set_facts({"progress": progress})

    def round_done(self, entry: Round) -> None:
        """Nothing: the round itself says more."""


def _figure(value: float | None) -> str:
    return f"{'-':>8}" if value is None else f"{value:>8.4f}"
