"""How clients are trained: stacked (`vmap`), or one by one by a step graph (`onnx`) or by PyTorch (`torch`).

The choice depends on what is trained and on nothing else: no clock, no machine, no file. All ways
compute the same up to rounding, and a run's arrays must be the same bits whenever it is repeated.
"""

from dataclasses import dataclass, replace

import numpy as np

from fedloom_edge.arrays import Arrays
from fedloom_simulations.engine.cohort import Cohort, Job, Phase, allocate

BACKENDS = ("auto", "torch", "vmap", "onnx")
_TOLERANCE = 0.01  # of an update's length after a few steps of plain SGD; rounding makes some 1e-5
_STEPS = 2


@dataclass(frozen=True)
class Choice:
    """A backend, and why.

    Attributes:
        backend: torch, vmap or onnx.
        reason: for the run's events.
    """

    backend: str
    reason: str


def choose(wanted: str, cohort: Cohort, phase: Phase, clients: Job) -> Choice:
    """The backend for a phase of training: `wanted`, or for `auto` the one that is faster by rule.

    Any but `torch` is checked, even where it is wanted: two clients take two steps both ways, and if
    that does not come to the same, `torch` is taken.
    """
    if wanted == "torch":
        return Choice("torch", "as asked for")
    if phase.training is not None and phase.training.dp_noise:
        return Choice("torch", "DP-SGD takes a client's examples together, not clients")
    if len(clients) < 2:
        return Choice("torch", "there is one client")
    if wanted != "auto":
        return _checked(wanted, cohort, phase, clients, "as asked for")
    room = cohort.room(phase)
    if not room.heavy and not room.tiny:
        reason = "steps of this model are short, and as a graph shortest"
        choice = _checked("onnx", cohort, phase, clients, reason)
        if choice.backend == "onnx" or not room.pays:
            return choice
    if not room.pays:
        return Choice("torch", room.reason)
    return _checked("vmap", cohort, phase, clients, room.reason)


def _checked(backend: str, cohort: Cohort, phase: Phase, clients: Job, reason: str) -> Choice:
    """`backend`, or torch where it does not come to the same."""
    assert phase.training is not None
    if backend == "onnx" and (obstacle := cohort.obstacle(phase)):
        return Choice("torch", obstacle)
    short = replace(phase.training, steps=min(phase.training.steps or _STEPS, _STEPS), optimizer="sgd")
    other, plain = (replace(phase, training=short, backend=name) for name in (backend, "torch"))
    job = cohort.plan(other, clients)[0] if backend == "vmap" else clients
    if len(job) < 2:
        return Choice("torch", "no two clients of this phase can be stacked")
    compared = job[:1] + job[-1:]
    updates = [_updates(cohort, form, compared) for form in (other, plain)]
    if cohort.troubles:
        return Choice("torch", cohort.troubles[0])
    if (difference := _difference(*updates)) > _TOLERANCE:
        return Choice("torch", f"training by {backend} differs by {difference:.2g} of an update")
    return Choice(backend, reason)


def _updates(cohort: Cohort, phase: Phase, job: Job) -> Arrays:
    out = allocate(phase.arrays, len(job))
    rows = cohort.train(phase, job, out)
    good = [k for k, row in enumerate(rows) if not row.error]
    return {name: stack[good] - phase.arrays[name] for name, stack in out.items()}


def _difference(ours: Arrays, reference: Arrays) -> float:
    """Length of the difference over the reference's; infinite where other clients failed."""
    if any(ours[name].shape != reference[name].shape for name in reference):
        return float("inf")
    far, length = (
        sum(float(np.square(array, dtype=np.float64).sum()) for array in arrays)
        for arrays in ([ours[name] - reference[name] for name in reference], reference.values())
    )
    return float(np.sqrt(far / length)) if length else 0.0
