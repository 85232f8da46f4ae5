"""The plan of a device's round: a pure function of what was measured and what the round allows.

It chooses the batch size (never above what the run asks for, halved until it fits the memory), the local
steps, the compression of the update, and of the parts that an artefact has train steps for the one to train.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fedloom_client.training import Training

TRAINING_SHARE = 0.8
"""Of the round's time, the most that training may take."""
ENOUGH = 0.5
"""Of the examples that a run asks for: who would see fewer of them trains a smaller part of the model.

Measured with half of the clients slow: the last half of the layers on all examples is worth as much as the
whole model on half of them or a third, and takes a quarter to half of the time a step.
"""
_SLACK = 0.9  # steps that are planned into the allowed time, against what differs from the measurement
_HOT_SHARE = 0.5  # of the time, on a board that is hot: a Pi that throttles runs at about half its clock
_PATIENCE = 1.0  # seconds that an update may take to send, however fast the training was


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How fast a device trains and sends: a step on n examples takes `step + example * n` seconds.

    Attributes:
        step: seconds a step, whatever its batch.
        example: seconds more for every example in it.
        memory: bytes that training takes beside the batch.
        memory_example: bytes more for every example in a batch.
        uplink: bytes a second; 0 where nothing was sent yet.
        hot: the board throttles, or is about to.
    """

    step: float
    example: float
    memory: float = 0.0
    memory_example: float = 0.0
    uplink: float = 0.0
    hot: bool = False

    def seconds(self, batch: int) -> float:
        """Of a step."""
        return self.step + self.example * batch

    def bytes(self, batch: int) -> float:
        """That training with this batch size takes."""
        return self.memory + self.memory_example * batch


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a round allows and asks for.

    Attributes:
        training: what the run asks every device for.
        examples: of the device, >= 1.
        seconds: until the round's deadline; infinity for none.
        memory: bytes that may be taken; infinity where unknown.
        sendings: (codec, bytes of an update) to choose from, the most exact first; empty codec for none.
    """

    training: Training
    examples: int
    seconds: float = math.inf
    memory: float = math.inf
    sendings: Sequence[tuple[str, int]] = (("", 0),)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a device does in a round.

    Attributes:
        batch_size: examples a step.
        steps: optimiser steps.
        compress: codec of the update; empty for none.
        seconds: that training and sending are expected to take; None where no uplink was measured and the
            sending is therefore unknown.
        train_seconds: of it, training.
        memory: bytes that training is expected to take.
        share: of the examples that the run asks for, how many are seen in time; 1 for all of them.
        fits: neither the deadline nor the memory is exceeded; where False the plan is the least there is.
        reasons: sentences, one for each choice.
    """

    batch_size: int
    steps: int
    compress: str
    seconds: float | None
    train_seconds: float
    memory: float
    share: float
    fits: bool
    reasons: tuple[str, ...]

    @property
    def whole(self) -> bool:
        """Whether the steps are all that the run asks for."""
        return self.share == 1

    @property
    def shortcoming(self) -> str:
        """What keeps it from all that the run asks for."""
        return self.reasons[1 if self.fits else 0]


def plan(pace: Pace, limits: Limits) -> Plan:
    """The plan that uses the deadline best.

    A faster device never gets less work, a slower uplink never less compression, and nothing is planned
    beyond the memory or the deadline if anything fits them.
    """
    sizes = _halvings(min(limits.training.batch_size, limits.examples))
    light = [size for size in sizes if pace.bytes(size) <= limits.memory]
    codec, sending = _codec(pace, limits, (light or sizes[-1:])[0])
    room = _training_time(pace, limits, sending)
    quick = [size for size in light if pace.seconds(size) <= room]
    batch = quick[0] if quick else (light or sizes)[-1]
    wanted = _wanted(limits, batch)
    steps = wanted if math.isinf(room) else min(wanted, int(room / max(pace.seconds(batch), 1e-9)))
    train = max(steps, 1) * pace.seconds(batch)
    return Plan(
        batch_size=batch,
        steps=max(steps, 1),
        compress=codec,
        seconds=train + sending if pace.uplink else None,
        train_seconds=train,
        memory=pace.bytes(batch),
        share=min(steps / wanted, 1.0),
        fits=bool(light) and steps >= 1,
        reasons=(
            _batch_reason(pace, limits, batch, light=bool(light), quick=bool(quick)),
            _steps_reason(limits, max(steps, 1), wanted, room),
            _codec_reason(pace, limits, codec, sending),
            *(("the board is hot: half the time is left for it to slow down",) if pace.hot else ()),
        ),
    )


@dataclass(frozen=True)
class Choice:
    """What a device trains, and how.

    Attributes:
        part: of the model; empty for all of it.
        plan: for this part.
        why: no more than this part is trained; empty for all.
    """

    part: str
    plan: Plan
    why: str = ""


def choose(plans: Iterable[tuple[str, Plan]]) -> Choice | None:
    """The first of the plans that does enough; else the first of those that do most, to a factor of two.

    Where none fits it is the last; None of none.

    Args:
        plans: (part, plan), the largest part first; no more are asked for than it takes.
    """
    made: list[Choice] = []
    for part, each in plans:
        made.append(Choice(part, each, made[0].plan.shortcoming if made else ""))
        if each.fits and each.share >= ENOUGH:
            return made[-1]
    fitting = [choice for choice in made if choice.plan.fits]
    if not fitting:
        return made[-1] if made else None
    return max(fitting, key=lambda choice: math.floor(math.log2(choice.plan.share)))


def _halvings(most: int) -> list[int]:
    """`most` and its halves down to 2: batch normalisation is trained on no single example."""
    return [most, *(size for k in range(1, most.bit_length()) if (size := most >> k) > 1)]


def _sending(pace: Pace, size: int) -> float:
    """Seconds that so many bytes take; 0 where no bandwidth is known, so that nothing follows from it."""
    return size / pace.uplink if pace.uplink else 0.0


def _training_time(pace: Pace, limits: Limits, sending: float) -> float:
    """Seconds that training may take beside so many of sending."""
    allowed = min(TRAINING_SHARE * limits.seconds, limits.seconds - sending)
    return allowed * _SLACK * (_HOT_SHARE if pace.hot else 1.0)


def _wanted(limits: Limits, batch: int) -> int:
    """Steps of this batch that show the examples which the run asks for."""
    asked, examples = limits.training, limits.examples
    epochs = asked.epochs * -(-examples // batch)
    if not asked.steps:
        return epochs
    return min(epochs, -(-asked.steps * min(asked.batch_size, examples) // batch))


def _codec(pace: Pace, limits: Limits, batch: int) -> tuple[str, float]:
    """The most exact codec that costs no step and whose sending is no longer than the training."""
    need = _wanted(limits, batch) * pace.seconds(batch)
    choices = [(codec, _sending(pace, size)) for codec, size in limits.sendings]
    last = min(choices, key=lambda choice: choice[1])
    enough = min(need, _training_time(pace, limits, last[1]))
    for codec, sending in choices:
        if sending <= max(need, _PATIENCE) and _training_time(pace, limits, sending) >= enough:
            return codec, sending
    return last


def _batch_reason(pace: Pace, limits: Limits, batch: int, *, light: bool, quick: bool) -> str:
    asked = limits.training.batch_size
    if not light:
        takes = f"{'more than ' * math.isinf(pace.step)}{pace.bytes(batch) / 1e6:.0f} MB"
        return f"batch size {batch}: even this takes {takes}, and {limits.memory / 1e6:.0f} MB may be taken"
    if not quick:
        return f"batch size {batch}: not even a step of it ends in time"
    if batch == asked:
        return f"batch size {batch}: as the run asks"
    if batch == limits.examples:
        return f"batch size {batch}: there are no more examples"
    twice = pace.bytes(2 * batch)
    if twice > limits.memory:
        return (
            f"batch size {batch}, not {asked}: {2 * batch} would take {twice / 1e6:.0f} MB of the "
            f"{limits.memory / 1e6:.0f} MB that may be taken"
        )
    return f"batch size {batch}, not {asked}: a step of {2 * batch} is longer than the deadline allows"


def _steps_reason(limits: Limits, steps: int, wanted: int, room: float) -> str:
    if room < math.inf and steps < wanted:
        return (
            f"{steps} of {wanted} steps: {max(room, 0):.3g} s of the {limits.seconds:.3g} s "
            "may be spent on training"
        )
    return f"{steps} steps: all that the run asks for"


def _codec_reason(pace: Pace, limits: Limits, codec: str, sending: float) -> str:
    name = codec or "no compression"
    if len(limits.sendings) == 1:
        return f"{name}: as the run asks"
    if not pace.uplink:
        return f"{name}: nothing was sent yet, so the uplink is not known"
    return f"{name}: the update takes {sending:.2g} s at {8 * pace.uplink / 1e6:.3g} Mbit/s"
