"""From a command line to a checked set-up: everything that can be wrong is found before a run begins."""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flwr.clientapp.typing import Mod
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedloom_client.data.shards import ShardRecipe, Shards
from fedloom_client.loading import absolute_reference, load_task
from fedloom_client.orders import Orders
from fedloom_client.secure.flower import masking
from fedloom_client.task import Task
from fedloom_client.torch_trainer import TorchTrainer
from fedloom_edge.compression import require_fixed
from fedloom_edge.config import override, parse_settings
from fedloom_edge.errors import InputError
from fedloom_server.grids.clocked_grid import ClockSettings, Mode
from fedloom_server.privacy.budget import Budget
from fedloom_server.privacy.mechanisms import Mechanisms, check_budget
from fedloom_server.privacy.options import check_private_training, guard_settings
from fedloom_server.recovery.checkpoints import Keep
from fedloom_server.recovery.resume import kept_arguments
from fedloom_server.recovery.strategy_state import require_codec
from fedloom_server.rounds.early_stop import EarlyStop
from fedloom_server.rounds.plan import Plan, Watcher
from fedloom_server.secure.settings import SecureSettings, secure_settings
from fedloom_server.store.run_store import DATABASE
from fedloom_server.strategies.composed import check_model
from fedloom_server.strategies.registry import make_strategy
from fedloom_simulations.adversity.attacks import POISONS, Attack, attacking_client
from fedloom_simulations.adversity.faults import Faults, faulty_client
from fedloom_simulations.adversity.poison import PoisonedRecipe
from fedloom_simulations.combinations import refuse_combinations
from fedloom_simulations.folds import FoldRecipe
from fedloom_simulations.options import SECTIONS

MODS: list[Mod] = []
"""Flower mods around the training of every run of this process; tests wrap clients in theirs."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A run that is ready to begin."""

    recipe: ShardRecipe
    shards: Shards
    plan: Plan
    strategy_name: str
    strategy: Strategy
    mods: list[Mod]
    engine: str
    mode: Mode | None = None
    clock: ClockSettings = field(default_factory=ClockSettings)
    backend: str
    workers: int
    out: Path
    arguments: dict[str, Any]
    faults: Faults | None = None
    attack: Attack | None = None
    dashboard: bool = False
    watchers: Sequence[Watcher] = ()
    wrap: Callable[[Grid], Grid] | None = None

    def examples(self) -> int:
        """In the training parts of all clients."""
        return sum(len(self.shards.parts(client)[0]) for client in range(self.plan.clients))


def prepare_run(arguments: argparse.Namespace, *, resume: bool = False) -> Setup:
    """Load the task and its data, cut the shards, check all of it, and make the strategy.

    With `resume` the folder `arguments.out` must hold the run; otherwise it must hold none.

    Raises:
        InputError: something that the user gave is wrong; nothing has been written.
    """
    if arguments.rounds < 1:
        raise InputError(f"--rounds {arguments.rounds}: give at least 1")
    _check_engine(arguments)
    settings = parse_settings(arguments.settings, SECTIONS)
    task = load_task(arguments.task)
    out = arguments.out or Path("runs") / f"{task.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    if (out / DATABASE).exists() and not (arguments.show_partition or resume):
        raise InputError(f"--out {out} already holds a run; choose another folder or remove this one")
    training = override(task.training, settings["training"], "training")
    early_stop = EarlyStop.parse(arguments.early_stop, task.metric) if arguments.early_stop else None
    faults = Faults.parse(arguments.faults, arguments.seed) if arguments.faults else None
    attack = Attack.parse(arguments.attack, arguments.seed) if arguments.attack else None
    require_fixed(arguments.compress)
    orders = Orders(compress=arguments.compress)
    recipe = _recipe(arguments, task, attack)
    shards = recipe.open()
    clients = len(shards)
    strategy = make_strategy(
        arguments.strategy,
        settings["strategy"],
        clients=clients,
        lr=training.lr,
        optimizer=training.optimizer,
    )
    if settings["clock"] and arguments.mode is None:
        raise InputError("--set clock.* needs --mode sync, semisync or async")
    refuse_combinations(arguments, strategy, training, attack, faults, resume=resume)
    check_private_training(strategy, training, recipe.partition)
    secure = secure_settings(arguments, settings, strategy, clients)
    privacy = None if arguments.privacy is None else Budget.parse(arguments.privacy)
    if not resume:
        sizes = (len(shards.parts(client)[0]) for client in range(clients))
        check_budget(privacy, Mechanisms.of(strategy, training), sizes)
    if not arguments.show_partition:
        require_codec(strategy)
        _check(shards)
        check_model(strategy, lambda: TorchTrainer(task))
    return Setup(
        recipe=recipe,
        shards=shards,
        plan=Plan(
            task=task,
            training=training,
            rounds=arguments.rounds,
            clients=clients,
            seed=arguments.seed,
            early_stop=early_stop,
            orders=orders,
            guard=guard_settings(settings["guard"], strategy),
            keep=override(Keep(), settings["checkpoints"], "checkpoints"),
            secure=secure,
            deadline=arguments.deadline,
            privacy=privacy,
        ),
        strategy_name=arguments.strategy,
        strategy=strategy,
        mods=_mods(task, secure, attack, faults, clients),
        faults=faults,
        attack=attack,
        engine=arguments.engine,
        mode=arguments.mode,
        clock=override(ClockSettings(), settings["clock"], "clock"),
        backend=arguments.backend,
        workers=arguments.workers,
        out=out,
        dashboard=arguments.dashboard,
        arguments={
            **kept_arguments(arguments, without=("show_partition", "dashboard")),
            "task": recipe.task,
        },
    )


def _recipe(arguments: argparse.Namespace, task: Task, attack: Attack | None) -> ShardRecipe:
    recipe = ShardRecipe(
        task=absolute_reference(arguments.task),
        data_dir=str(arguments.data.absolute()) if arguments.data else None,
        partition=arguments.partition or task.partition,
        clients=task.clients if arguments.clients is None else arguments.clients,
        seed=arguments.seed,
    )
    poison = attack if attack and attack.name in POISONS else None
    if poison and arguments.fold is not None:
        raise InputError(f"--attack {poison.name} poisons clients by number; leave out --fold")
    if poison:
        return PoisonedRecipe(**vars(recipe), attack=poison)
    return recipe if arguments.fold is None else FoldRecipe(**vars(recipe), fold=arguments.fold)


def _mods(
    task: Task,
    secure: SecureSettings | None,
    attack: Attack | None,
    faults: Faults | None,
    clients: int,
) -> list[Mod]:
    """What clients wrap around training, the outermost first."""
    mods = [faulty_client(faults)] if faults else []
    if secure is None:
        return [*mods, *MODS]
    if attack and attack.name not in POISONS:  # which a grid could not do to masked updates
        mods.append(attacking_client(attack, clients))
    return [masking(TorchTrainer(task).statistics), *mods, *MODS]


def _check_engine(arguments: argparse.Namespace) -> None:
    if arguments.workers < 0:
        raise InputError(
            f"--workers {arguments.workers}: give a number of processes, or 0 for as many as pay"
        )
    if arguments.engine == "ray" and (arguments.backend in ("vmap", "onnx") or arguments.workers):
        raise InputError(
            "--engine ray trains each client in a process of Ray's; leave out --backend and --workers"
        )


def _check(shards: Shards) -> None:
    from fedloom_client.torch_trainer.checks import check_task

    check_task(shards.task, shards.data)
