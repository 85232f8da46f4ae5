"""Which runs are killed, and when; and what came of it."""

import shutil
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fedloom_client.seeds import generator
from fedloom_server.store.run_store import RunStore
from fedloom_simulations.soak.laws import compare
from fedloom_simulations.soak.process import Conditions, left_running, run_command

STRATEGIES: Sequence[tuple[str, ...]] = (
    ("fedavg",),
    ("fedadam", "--set", "strategy.eta=0.01"),
    ("fedavgm", "--set", "strategy.server_momentum=0.5"),
    ("fedmedian",),
    ("centredclipping",),
    ("dp-server-adaptive:fedavg", "--set", "strategy.noise_multiplier=0.01"),
)
FAULTS = ("", "drop=0.2,stale=0.2", "crash=0.2,nan=0.2,slow=0.2:9s", "drop=0.3,crash=0.1,nan=0.1,stale=0.2")
ATTACKS = ("", "", "alie:0.5", "scale:0.25")
_SHORT = ("digits", "--set", "training.epochs=1")
PHASES = {
    "nothing": "before a run was written down",
    "start": "before the first round",
    "open": "in a round",
    "round": "between rounds",
}


@dataclass(frozen=True)
class Schedule:
    """One federation and when its processes are killed.

    Attributes:
        command: `simulate` or `serve`.
        options: of it.
        kills: share of a process's life, in (0, 1), at which it is killed; one entry a process.
        every_update: whether an open round is saved after each update, or only at a slow pace.
        stateful: whether clients have a state that their updates depend on.
    """

    command: str
    options: tuple[str, ...]
    kills: tuple[float, ...]
    every_update: bool
    stateful: bool

    @classmethod
    def drawn(cls, seed: int, number: int, most_kills: int = 3) -> "Schedule":
        """The schedule `number` of a soak of many different simulations."""
        draw = generator(seed, "soak", number)
        options = [*_SHORT, "--rounds", "3", "--clients", "4", "--seed", str(number)]
        options += ["--strategy", *STRATEGIES[int(draw.integers(len(STRATEGIES)))]]
        if faults := FAULTS[int(draw.integers(len(FAULTS)))]:
            options += ["--faults", faults, "--set", "guard.attempts=6", "--deadline", "5"]
        if attack := ATTACKS[int(draw.integers(len(ATTACKS)))]:
            options += ["--attack", attack]
        norms = ("quarantine", "clip")[int(draw.integers(2))]
        if not any(word.startswith("dp-") for word in options):  # whose clipping is instead of it
            options += ["--set", f"guard.norms={norms}"]
        kills = tuple(draw.random(int(draw.integers(1, most_kills + 1))).tolist())
        return cls("simulate", tuple(options), kills, bool(draw.integers(2)), stateful=True)

    @classmethod
    def repeated(cls, command: str, seed: int, number: int, most_kills: int = 3) -> "Schedule":
        """The schedule `number` of a soak of one run with FedAdam, which differ in their kills alone."""
        draw = generator(seed, "soak", command, number)
        nodes = {"simulate": ("--clients", "10"), "serve": ("--local", "3", "--trainer", "torch")}[command]
        options = (*_SHORT, "--rounds", "6", *nodes, "--seed", str(seed), "--strategy", *STRATEGIES[1])
        kills = tuple(draw.random(int(draw.integers(1, most_kills + 1))).tolist())
        # Devices keep no Flower state.
        return cls(command, options, kills, bool(draw.integers(2)), stateful=command == "simulate")


@dataclass
class Outcome:
    """What a schedule came to.

    Attributes:
        killed: processes that died of SIGKILL, the others having been done before.
        faults: laws that do not hold, in words.
        phases: where the run stood when it was taken up again, each one of `PHASES`.
    """

    killed: int = 0
    faults: list[str] = field(default_factory=list[str])
    phases: list[str] = field(default_factory=list[str])


@dataclass(frozen=True)
class Whole:
    """A run without a break: its folder, exit code, seconds, and what it leaves among temporary files."""

    folder: Path
    code: int
    life: float
    temporary: frozenset[str]


def run_whole(schedule: Schedule, folder: Path) -> Whole:
    """Run a schedule's federation without a kill."""
    began = time.monotonic()
    argv = [schedule.command, *schedule.options, "--out", str(folder)]
    conditions = _conditions(schedule, folder)
    code = run_command(argv, conditions)
    return Whole(folder, code, time.monotonic() - began, _names(conditions.temporary))


def run_schedule(schedule: Schedule, folder: Path, whole: Whole | None = None) -> Outcome:
    """Run a schedule in `folder` and check the laws against `whole`, run first if it is not given."""
    whole = whole or run_whole(schedule, folder / "whole")
    broken = folder / "broken"
    conditions = _conditions(schedule, broken)
    outcome = Outcome()
    start = [schedule.command, *schedule.options, "--out", str(broken)]
    argv = start
    for share in schedule.kills:
        ended = run_command(argv, conditions, share * whole.life)
        outcome.killed += ended == -signal.SIGKILL
        outcome.phases.append(_phase(broken))
        if outcome.phases[-1] == "nothing":  # it hadn't written down what it is, and is started again
            shutil.rmtree(broken, ignore_errors=True)
            argv = start
        else:
            argv = ["resume", str(broken)]
    last = run_command(argv, conditions)
    if last != whole.code:
        outcome.faults.append(f"exit code {last} instead of {whole.code}")
        return outcome
    outcome.faults += compare(whole.folder, broken)
    if running := left_running(conditions.mark):
        outcome.faults.append(f"processes left: {running}")
    outcome.faults += [
        f"left over: {name}" for name in sorted(_names(conditions.temporary) - whole.temporary)
    ]
    return outcome


def _names(folder: Path) -> frozenset[str]:
    return frozenset(str(path.relative_to(folder)) for path in folder.rglob("*"))


def _conditions(schedule: Schedule, folder: Path) -> Conditions:
    temporary = folder.with_name(f"{folder.name}-temporary")
    temporary.mkdir(parents=True, exist_ok=True)
    return Conditions(str(folder), temporary, schedule.every_update, schedule.stateful)


def _phase(folder: Path) -> str:
    try:
        with RunStore.open(folder) as store:
            begun = "arguments" in store.facts()
            rows = store.execute("SELECT open FROM checkpoint ORDER BY id DESC LIMIT 1")
    except Exception:  # noqa: BLE001  (killed while the database was made: nothing of the run is there)
        return "nothing"
    if not begun:
        return "nothing"
    return "start" if not rows else "open" if rows[0][0] else "round"
