"""One served run, from checked options to the files that it leaves."""

import argparse
import logging
import secrets
import signal
import sqlite3
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from flwr.serverapp.strategy import Strategy
from rich.logging import RichHandler

from fedloom_client.data.samples import Data
from fedloom_client.data.shards import ShardRecipe
from fedloom_client.loading import absolute_reference, load_data, load_task
from fedloom_client.orders import Orders
from fedloom_client.torch_trainer import TorchTrainer
from fedloom_client.torch_trainer.checks import check_task
from fedloom_edge import STARTED
from fedloom_edge.cli import INTERRUPTED
from fedloom_edge.config import override, parse_settings
from fedloom_edge.errors import FedloomError, InputError
from fedloom_server.dashboard.launch import dashboard_beside, linger
from fedloom_server.energy import of_machine
from fedloom_server.fleet.fleet import Fleet
from fedloom_server.link.grid import LinkGrid
from fedloom_server.link.opening import linked
from fedloom_server.link.options import SECTIONS, check_link
from fedloom_server.link.quorum import Quorum
from fedloom_server.privacy.budget import Budget
from fedloom_server.privacy.mechanisms import Mechanisms, check_budget
from fedloom_server.privacy.options import check_private_training, guard_settings, run_warnings
from fedloom_server.recovery.checkpoints import Keep
from fedloom_server.recovery.resume import kept_arguments
from fedloom_server.recovery.strategy_state import require_codec
from fedloom_server.report.finish import finish_run
from fedloom_server.report.progress import ProgressFacts, RoundTable
from fedloom_server.report.results import said_of, versions
from fedloom_server.report.tensorboard import TensorBoardLog
from fedloom_server.rounds.commands import Stopped
from fedloom_server.rounds.early_stop import EarlyStop
from fedloom_server.rounds.federation import Federation
from fedloom_server.rounds.plan import Plan
from fedloom_server.secure.settings import secure_settings
from fedloom_server.store.process_mark import process_mark
from fedloom_server.store.run_store import DATABASE, RunStore
from fedloom_server.strategies.composed import check_model
from fedloom_server.strategies.registry import make_strategy

log = logging.getLogger("fedloom.link")

_PLANNED_GUARD = {"room": "3"}
"""Where many train the last layer alone, an update of the whole model has up to 7 times their norm."""


@dataclass(frozen=True, kw_only=True)
class Serving:
    """A served run that is ready to begin."""

    options: argparse.Namespace
    plan: Plan
    data: Data
    quorum: Quorum
    out: Path
    strategy_options: dict[str, str]
    resume: bool = False

    @classmethod
    def prepare(cls, options: argparse.Namespace, *, resume: bool = False) -> Self:
        """Check every option, and load the task and the coordinator's test data.

        With `resume` the folder `options.out` must hold the run; otherwise it must hold none.

        Raises:
            InputError: something that the user gave is wrong; nothing has been written.
        """
        quorum = _check(options)
        settings = parse_settings(options.settings, SECTIONS)
        task = load_task(options.task)
        out = options.out or Path("runs") / f"{task.name}-{time.strftime('%Y%m%d-%H%M%S')}"
        if (out / DATABASE).exists() and not resume:
            raise InputError(f"--out {out} already holds a run; choose another folder or remove this one")
        training = override(task.training, settings["training"], "training")
        plan = Plan(
            task=task,
            training=training,
            rounds=options.rounds,
            clients=options.local or options.min_devices,
            seed=options.seed,
            early_stop=EarlyStop.parse(options.early_stop, task.metric) if options.early_stop else None,
            orders=Orders(compress=options.compress, plan=options.plan),
            keep=override(Keep(), settings["checkpoints"], "checkpoints"),
            privacy=None if options.privacy is None else Budget.parse(options.privacy),
            secret=True,
        )
        if not options.local:
            Fleet(options.fleet).close()
        data = load_data(task, options.data)
        check_task(task, data)
        strategy = make_strategy(
            options.strategy,
            settings["strategy"],
            clients=plan.clients,
            lr=training.lr,
            optimizer=training.optimizer,
        )
        require_codec(strategy)
        check_model(strategy, lambda: TorchTrainer(task))
        guard = (_PLANNED_GUARD if options.plan else {}) | settings["guard"]
        plan = replace(plan, guard=guard_settings(guard, strategy))
        _check_privacy(plan, strategy, options)
        secure = secure_settings(options, settings, strategy, plan.clients)
        plan = replace(plan, secure=secure)
        return cls(
            options=options,
            plan=plan,
            data=data,
            quorum=quorum,
            out=out,
            strategy_options=settings["strategy"],
            resume=resume,
        )

    def run(self) -> int:
        """Serve the run and leave a readable folder, however it ends; returns the exit code."""
        handler = RichHandler(show_path=False, show_level=False, log_time_format="[%X]")
        logging.basicConfig(format="%(message)s", level=logging.INFO, handlers=[handler])
        # systemd stops a unit with SIGTERM: the round is broken off, devices are told, nothing is lost.
        # Not by way of SIGINT, which a shell has its background jobs ignore.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            with ExitStack() as stack:
                made = RunStore.reopen(self.out) if self.resume else RunStore.create(self.out, self._facts())
                store = stack.enter_context(made)
                if self.resume:
                    store.set_facts({"status": "running", "reason": "", "process": process_mark()})
                if self.options.dashboard:
                    sys.stdout.write(f"{stack.enter_context(dashboard_beside(self.out))}\n")
                    sys.stdout.flush()
                status, reason, code = self._serve(store)
                store.set_facts({"status": status, "reason": reason})
                store.event(status, reason=reason)
                result = finish_run(store, self.plan.task, self.data)
                self._say(result)
                if self.options.dashboard and code == 0:
                    linger()
        except (OSError, sqlite3.OperationalError) as error:
            raise InputError(
                f"{self.out}: {error}; make room, then go on with: fedloom resume {self.out}"
            ) from error
        if code:
            sys.stderr.write(
                f"fedloom: {status}: {reason}; the rounds so far are in {self.out}, "
                f"go on with: fedloom resume {self.out}\n"
            )
        return code

    def _say(self, result: Mapping[str, Any]) -> None:
        metric = self.plan.task.metric
        sys.stdout.writelines(f"{line}\n" for line in said_of(result))
        if result["final"]:
            sys.stdout.write(f"{metric} on the held-out test set: {result['final'][metric]:.4f}\n")
        sys.stdout.write(f"{self.out}: result.json, run.db, model.safetensors, model.onnx, report.png\n")

    def _facts(self) -> dict[str, Any]:
        local = self.options.local
        return {
            "task": self.plan.task.name,
            "engine": "link",
            "strategy": self.options.strategy,
            "partition": self.partition if local else "each device's own data",
            "seed": self.plan.seed,
            "clients": self.plan.clients,
            "planned_rounds": self.plan.rounds,
            "metric": self.plan.task.metric,
            "class_names": list(self.data.class_names),
            "training": self.plan.training.to_config(),
            "versions": versions(),
            "process": process_mark(),
            "link_run": secrets.token_hex(8),
            "command": "serve",
            "arguments": {
                **kept_arguments(self.options, without=("dashboard",)),
                "task": absolute_reference(self.options.task),
            },
        }

    @property
    def partition(self) -> str:
        """How --local cuts the task's data into shards."""
        return self.options.partition or self.plan.task.partition

    def _serve(self, store: RunStore) -> tuple[str, str, int]:
        """Wait for the devices and run the rounds; returns status, reason and exit code."""
        began = time.perf_counter()
        before: float = store.facts().get("seconds") or 0.0
        try:
            with linked(self, store) as grid:
                known = _enlisted(store)
                devices = grid.gather(len(known) or self.plan.clients, self.options.deadline)
                if known:  # the run's clients stay who they are; one that is away is waited for
                    grid.enlist(devices := known)
                store.set_facts({"clients": len(devices), "startup_seconds": time.perf_counter() - STARTED})
                began = time.perf_counter()
                ended = self._rounds(store, grid, len(devices))
        except KeyboardInterrupt:
            return "interrupted", "stopped by the user", INTERRUPTED
        except Stopped as stopped:
            return "interrupted", str(stopped), INTERRUPTED
        except FedloomError as error:
            return "failed", str(error), error.exit_code
        finally:
            store.set_facts({"seconds": before + time.perf_counter() - began})
        return "finished", ended, 0

    def _rounds(self, store: RunStore, grid: LinkGrid, clients: int) -> str:
        """Run the rounds; returns why they ended before the last one, or nothing."""
        plan = replace(self.plan, clients=clients)
        strategy = make_strategy(
            self.options.strategy,
            self.strategy_options,
            clients=clients,
            lr=plan.training.lr,
            optimizer=plan.training.optimizer,
        )
        for warning in run_warnings(plan, strategy, lambda: 0):  # devices have not told yet
            sys.stderr.write(f"fedloom: {warning}\n")
        counts = self._recipe(clients).open().label_counts() if self.options.local else None
        with ExitStack() as stack:
            board = TensorBoardLog(self.out)
            stack.callback(board.close)
            table = stack.enter_context(
                RoundTable(
                    plan.task.metric, plan.rounds, private=Mechanisms.of(strategy, plan.training) is not None
                )
            )
            if self.options.local:  # devices with a board of their own tell theirs
                stack.enter_context(of_machine(store))
            trainer = TorchTrainer(plan.task)
            federation = Federation(
                plan,
                strategy,
                trainer,
                self.data.test,
                store,
                [table, board, ProgressFacts(store)],
                lambda client: None if counts is None else counts[client].tolist(),
            )
            federation.run(grid)
            return federation.ended

    def _recipe(self, clients: int) -> ShardRecipe:
        folder = str(self.options.data.absolute()) if self.options.data else None
        return ShardRecipe(
            absolute_reference(self.options.task), folder, self.partition, clients, self.plan.seed
        )


def _enlisted(store: RunStore) -> list[str]:
    """The devices that are the run's clients, in their order; none before the run has begun."""
    if not store.clients():
        return []
    return [
        row["id"] for row in store.execute("SELECT id FROM device WHERE client IS NOT NULL ORDER BY client")
    ]


def _check_privacy(plan: Plan, strategy: Strategy, options: argparse.Namespace) -> None:
    """What can be known of a private run before devices have told how much data they have."""
    partition = (options.partition or plan.task.partition) if options.local else ""
    check_private_training(strategy, plan.training, partition)
    if plan.training.dp_noise and options.plan:
        raise InputError(
            "--plan lets a device choose its batch size, by which training.dp_noise is accounted for; leave "
            "one out"
        )
    if plan.training.dp_noise and options.local and options.trainer == "onnx":
        raise InputError(
            "--trainer onnx: training.dp_noise needs torch, for the gradients of single examples"
        )
    mechanisms = Mechanisms.of(strategy, plan.training)
    check_budget(plan.privacy, mechanisms, [] if plan.training.dp_noise else [1])
    TorchTrainer(plan.task).check_private(plan.training)


def _check(options: argparse.Namespace) -> Quorum:
    if options.rounds < 1:
        raise InputError(f"--rounds {options.rounds}: give at least 1")
    if options.local < 0:
        raise InputError(f"--local {options.local}: give at least 1")
    return check_link(options)
