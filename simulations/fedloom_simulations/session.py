"""One simulated run from the first round to the files that it leaves."""

import ctypes
import hashlib
import shutil
import sqlite3
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

from flwr.serverapp import Grid

from fedloom_client.flower.app import make_client_app
from fedloom_client.torch_trainer import TorchTrainer
from fedloom_edge import STARTED
from fedloom_edge.cli import INTERRUPTED
from fedloom_edge.errors import FedloomError, InputError, is_interruption
from fedloom_server.dashboard.launch import dashboard_beside, linger
from fedloom_server.energy import of_machine
from fedloom_server.grids.clocked_grid import ClockedGrid
from fedloom_server.privacy.mechanisms import Mechanisms
from fedloom_server.privacy.options import run_warnings
from fedloom_server.report.finish import finish_run
from fedloom_server.report.progress import ProgressFacts, RoundTable
from fedloom_server.report.results import said_of, versions
from fedloom_server.report.tensorboard import TensorBoardLog
from fedloom_server.rounds.commands import Stopped
from fedloom_server.rounds.federation import Federation
from fedloom_server.store.process_mark import process_mark
from fedloom_server.store.rows import Round
from fedloom_server.store.run_store import RunStore
from fedloom_simulations.adversity.attacks import POISONS, AttackedGrid
from fedloom_simulations.adversity.faults import FaultyGrid
from fedloom_simulations.setup import Setup

_KEPT_MEMORY = (
    32 << 20
)  # bytes of a block below which freed memory stays with the process; the most glibc takes
_SPARE_BYTES = 20_000_000  # the database, the report and the logs of a long run
_COPIES = 12  # of the model: the last rounds with their strategy's state, best, open, safetensors, ONNX


def run_session(setup: Setup, *, resume: bool = False) -> int:
    """Run the federation that `setup` describes and leave a readable folder, however it ends.

    With `resume` the folder holds the run already, and it goes on from where it stopped.

    Returns:
        The exit code: 0, 1, 2 or 130.
    """
    _keep_memory()
    trainer = TorchTrainer(setup.plan.task)
    trainer.check_private(setup.plan.training)
    _check_space(setup.out, sum(array.nbytes for array in trainer.initial_arrays(0).values()))
    try:
        with ExitStack() as stack:
            made = RunStore.reopen(setup.out) if resume else RunStore.create(setup.out, _facts(setup))
            store = stack.enter_context(made)
            if resume:
                _compare(setup, store)
            if setup.dashboard:
                sys.stdout.write(f"{stack.enter_context(dashboard_beside(setup.out))}\n")
                sys.stdout.flush()
            for warning in run_warnings(setup.plan, setup.strategy, setup.examples):
                sys.stderr.write(f"fedloom: {warning}\n")
            first = _FirstRound()
            status, reason, code = _train(setup, trainer, store, first)
            store.event(status, reason=reason)
            store.set_facts({"status": status, "reason": reason})
            result = finish_run(store, setup.plan.task, setup.shards.data)
            _say(setup, result, first.seconds)
            if setup.dashboard and code == 0:
                linger()
    except (OSError, sqlite3.OperationalError) as error:
        raise InputError(
            f"{setup.out}: {error}; make room, then go on with: fedloom resume {setup.out}"
        ) from error
    if code:
        sys.stderr.write(
            f"fedloom: {status}: {reason}; the rounds so far are in {setup.out}, "
            f"go on with: fedloom resume {setup.out}\n"
        )
    return code


class _FirstRound:
    """A watcher of the round loop: seconds from the command's start to the end of its first round."""

    seconds: float | None = None

    def client_done(self, round_number: int, phase: str, done: int, total: int) -> None:
        """Nothing."""

    def round_done(self, entry: Round) -> None:
        """Round 0 is start-up."""
        if entry.number and self.seconds is None:
            self.seconds = time.perf_counter() - STARTED


def _keep_memory() -> None:
    """Let glibc keep what is freed: a round frees and takes megabytes, and each new page costs a fault."""
    with suppress(OSError, AttributeError):  # another libc
        options = ctypes.CDLL(None).mallopt
        options(-3, _KEPT_MEMORY)  # M_MMAP_THRESHOLD
        options(-1, 16 * _KEPT_MEMORY)  # M_TRIM_THRESHOLD


def _compare(setup: Setup, store: RunStore) -> None:
    """Say what is not as it was when the run began: then its result may differ from an unbroken run's."""
    before, now = store.facts(), _facts(setup)
    old: dict[str, str] = before["versions"]
    changed = [
        f"{name} is {v}, was {old.get(name)}" for name, v in now["versions"].items() if old.get(name) != v
    ]
    if before["task_sha256"] != now["task_sha256"]:
        changed.append("the task's file has changed")
    for change in changed:
        store.event("warning", reason=f"resumed although {change}")
        sys.stderr.write(f"fedloom: {change} since the run began; it goes on, but not bit for bit\n")
    store.set_facts({"status": "running", "reason": "", "process": now["process"]})


def _facts(setup: Setup) -> dict[str, Any]:
    return {
        "task": setup.plan.task.name,
        "engine": setup.engine,
        "strategy": setup.strategy_name,
        "partition": setup.recipe.partition,
        "seed": setup.plan.seed,
        "clients": setup.plan.clients,
        "planned_rounds": setup.plan.rounds,
        "metric": setup.plan.task.metric,
        "class_names": list(setup.shards.data.class_names),
        "training": setup.plan.training.to_config(),
        "versions": versions(),
        "process": process_mark(),
        "command": "simulate",
        "arguments": setup.arguments,
        "attackers": sorted(setup.attack.attackers(setup.plan.clients)) if setup.attack else [],
        "task_sha256": _task_sha256(setup.recipe.task),
    }


def _task_sha256(reference: str) -> str | None:
    """Hash of a task's file; None for a built-in task, which the version stands for."""
    path = Path(reference.partition(":")[0])
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.suffix == ".py" else None


def _train(
    setup: Setup, trainer: TorchTrainer, store: RunStore, first: "_FirstRound"
) -> tuple[str, str, int]:
    """Run the rounds; returns status, reason and exit code."""
    with ExitStack() as stack:
        board = TensorBoardLog(setup.out)
        stack.callback(board.close)
        table = stack.enter_context(_table(setup))
        federation = Federation(
            setup.plan,
            setup.strategy,
            trainer,
            setup.shards.data.test,
            store,
            [table, board, ProgressFacts(store), first, *setup.watchers],
            setup.shards.labels_of,
        )
        stack.enter_context(of_machine(store))
        began = time.perf_counter()
        before: float = store.facts().get("seconds") or 0.0
        store.set_facts({"startup_seconds": began - STARTED})
        try:
            _drive(setup, federation, store)
            baselines = {
                name: compute(setup.shards.data) for name, compute in setup.plan.task.baselines.items()
            }
            store.set_facts({"baselines": baselines})
        except (KeyboardInterrupt, ImportError) as error:
            if not is_interruption(error):
                raise
            return "interrupted", "interrupted by the user", INTERRUPTED
        except Stopped as stopped:
            return "interrupted", str(stopped), INTERRUPTED
        except FedloomError as error:
            return "failed", str(error), error.exit_code
        finally:
            store.set_facts({"seconds": before + time.perf_counter() - began})
    return "finished", federation.ended, 0


def _table(setup: Setup) -> RoundTable:
    private = Mechanisms.of(setup.strategy, setup.plan.training) is not None
    return RoundTable(setup.plan.task.metric, setup.plan.rounds, private=private)


def _drive(setup: Setup, federation: Federation, store: RunStore) -> None:
    if setup.engine == "ray":
        from fedloom_simulations.engine.ray_engine import run_on_ray

        app = make_client_app(setup.recipe, setup.mods)
        store.set_facts({"backend": "torch"})
        run_on_ray(app, setup.plan.clients, lambda grid: federation.run(_disturbed(setup, grid)))
        return
    from fedloom_simulations.engine.cohort_grid import CohortGrid

    def note(backend: str, reason: str) -> None:
        if backend:
            store.set_facts({"backend": backend})
            store.event("backend", backend=backend, reason=reason)
        else:
            store.event("warning", reason=reason)
            sys.stderr.write(f"fedloom: {reason}\n")

    # A run that goes on keeps what it began with, whatever this machine or version would choose.
    before = store.facts().get("backend")
    grid = CohortGrid(
        setup.recipe, setup.plan.clients, setup.mods, before or setup.backend, setup.workers, note,
        chosen=before is not None, apart=setup.mode in ("semisync", "async"),
    )  # fmt: skip
    with closing(grid):
        federation.run(_disturbed(setup, grid))


def _disturbed(setup: Setup, grid: Grid) -> Grid:
    """The grid with the attacks and faults that were asked for."""
    if setup.attack and setup.attack.name not in POISONS and setup.plan.secure is None:
        grid = AttackedGrid(grid, setup.attack, setup.plan.clients)
    if setup.faults:
        grid = FaultyGrid(grid, setup.faults)
    if setup.mode is not None:
        statistics = TorchTrainer(setup.plan.task).statistics
        grid = ClockedGrid(grid, setup.mode, setup.clock, setup.plan.seed, statistics)
    return setup.wrap(grid) if setup.wrap else grid


def _check_space(out: Path, model_bytes: int) -> None:
    folder = next(parent for parent in (out.absolute(), *out.absolute().parents) if parent.exists())
    needed = _SPARE_BYTES + _COPIES * model_bytes
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"--out {out}: {free / 1e6:.0f} MB are free and the run needs about {needed / 1e6:.0f} MB; "
            "make room or choose another folder"
        )


def _say(setup: Setup, result: Mapping[str, Any], first_round: float | None) -> None:
    metric = setup.plan.task.metric
    lines = list(said_of(result))
    if result["final"]:
        tested = "test set" if setup.arguments["fold"] is None else "clients"
        lines.append(f"{metric} on the held-out {tested}: {result['final'][metric]:.4f}")
    lines += [f"  against {name}: {value:.4f}" for name, value in result["baselines"].items()]
    if first_round is not None:
        ready = result["startup_seconds"]
        lines.append(f"ready after {ready:.1f} s, first round done after {first_round:.1f} s")
    lines.append(f"{setup.out}: result.json, run.db, model.safetensors, model.onnx, report.png, tensorboard/")
    sys.stdout.write("\n".join(lines) + "\n")
