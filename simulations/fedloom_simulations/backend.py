"""Which backend trains faster here, and whether the stacked one computes the same: tried once, kept.

`vmap` trains clients together, `torch` one after the other. The choice is kept in the user's cache
folder under a hash of everything that it depends on, so that equal runs choose alike.
"""

import hashlib
import inspect
import json
import math
import os
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from fedloom_edge.arrays import Arrays
from fedloom_simulations.cohort import Cohort, Job, Phase, allocate

BACKENDS = ("auto", "torch", "vmap")
_TOLERANCE = 0.01  # of an update's length after a few steps of plain SGD; rounding makes some 1e-5
_STEPS = 2
_WORTH = 1.1  # times the speed, from which rounding that differs from one client at a time pays
_COMPARED = 2
_RUNS = 3
_FORMAT = 1


@dataclass(frozen=True)
class Choice:
    """A backend, and why.

    Attributes:
        backend: torch or vmap.
        reason: for the run's events.
    """

    backend: str
    reason: str


def choose(wanted: str, cohort: Cohort, phase: Phase, clients: Job) -> Choice:
    """The backend for a phase of training: `wanted`, or for `auto` the faster one that is right.

    `vmap` is checked even where it is wanted: if it does not compute the same, `torch` is taken.
    """
    if wanted == "torch":
        return Choice("torch", "as asked for")
    if len(clients) < 2:
        return Choice("torch", "there is one client")
    file = _cache() / f"backend-{_key(wanted, cohort, phase, clients)}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads(file.read_text())
        return Choice(kept["backend"], kept["reason"])
    return _kept_once(file, _tried(wanted, cohort, phase, clients))


def _tried(wanted: str, cohort: Cohort, phase: Phase, clients: Job) -> Choice:
    assert phase.training is not None
    short = replace(phase.training, steps=min(phase.training.steps or _STEPS, _STEPS), patience=0)
    together, alone = (replace(phase, training=short, stacked=stacked) for stacked in (True, False))
    job = cohort.plan(together, clients)[0]
    if len(job) < 2:
        return Choice("torch", "one client of this model fills the processor's caches")
    compared = job[:1] + job[-1:]
    plain = replace(short, optimizer="sgd")
    updates = [_updates(cohort, replace(form, training=plain), compared) for form in (together, alone)]
    if cohort.troubles:
        return Choice("torch", cohort.troubles[0])
    if (difference := _difference(*updates)) > _TOLERANCE:
        return Choice("torch", f"stacked training differs by {difference:.2g} of an update")
    if wanted == "vmap":
        return Choice("vmap", "as asked for")
    stacked = _seconds(lambda: cohort.train(together, job, allocate(phase.arrays, len(job)))) / len(job)
    single = _seconds(lambda: cohort.train(alone, compared, allocate(phase.arrays, len(compared))))
    ratio = single / len(compared) / stacked
    return Choice(
        "vmap" if ratio > _WORTH else "torch", f"stacked training ran at {ratio:.2f} times the speed"
    )


def _updates(cohort: Cohort, phase: Phase, job: Job) -> Arrays:
    out = allocate(phase.arrays, len(job))
    rows = cohort.train(phase, job, out)
    good = [k for k, row in enumerate(rows) if not row.error]
    return {name: stack[good] - phase.arrays[name] for name, stack in out.items()}


def _difference(ours: Arrays, reference: Arrays) -> float:
    if any(ours[name].shape != reference[name].shape for name in reference):
        return math.inf  # other clients failed
    squares = [sum(float(np.square(a, dtype=np.float64).sum()) for a in side) for side in (
        [ours[name] - reference[name] for name in reference],
        reference.values(),
    )]  # fmt: skip
    return float(np.sqrt(squares[0] / squares[1])) if squares[1] else 0.0


def _seconds(work: Callable[[], object]) -> float:
    taken = []
    for _ in range(_RUNS):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return min(taken)


def _kept_once(file: Path, choice: Choice) -> Choice:
    """Keep a choice unless another process has just kept one; returns the one that is kept."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        file.parent.mkdir(parents=True, exist_ok=True)
        own = file.with_suffix(f".{os.getpid()}")
        own.write_text(json.dumps(asdict(choice)))
        try:
            os.link(own, file)  # fails where the file exists, and shows it whole
        finally:
            own.unlink()
    with suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads(file.read_text())
        return Choice(kept["backend"], kept["reason"])
    return choice


def _key(wanted: str, cohort: Cohort, phase: Phase, clients: Job) -> str:
    model = cohort.trainer.module(phase.arrays)
    sources = []
    for module in {type(m): m for m in model.modules()}:
        with suppress(OSError, TypeError):
            sources.append(inspect.getsource(module))
    assert phase.training is not None
    examples = [len(cohort.parts(client)[0]) for client, _ in clients]
    facts = [
        _FORMAT, wanted, cohort.task.name, cohort.task.loss, repr(model), sorted(sources),
        asdict(replace(phase.training, lr=0.1)), phase.proximal_mu > 0, len(clients),
        int(np.median(examples)), torch.__version__, platform.machine(), platform.processor(), os.cpu_count(),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fedloom"
