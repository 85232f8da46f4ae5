"""What a train-step graph computes besides the model: loss, optimiser, bounds; and what it is called."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

from fedloom_edge.errors import InputError, RunError, unknown

Loss = Literal["cross_entropy", "binary_cross_entropy", "mse", "huber"]
Optimizer = Literal["sgd", "momentum", "nesterov", "adam", "adamw", "rmsprop"]

LR, SEED, STEP, TARGET, MU = "lr", "seed", "step", "y", "mu"
LOSS, NORM, NORMS, GRADIENT = "loss", "gradient_norm", "gradient_norms", "gradient"
METADATA = "fedloom.step"


@dataclass(frozen=True, kw_only=True)
class StepSettings:
    """What is fixed when a step graph is built; the learning rate is an input of every step.

    Attributes:
        loss: cross_entropy, binary_cross_entropy, mse or huber.
        optimizer: sgd, momentum, nesterov, adam, adamw or rmsprop, with PyTorch's defaults.
        momentum: coefficient of momentum and nesterov, in [0, 1).
        weight_decay: L2 coefficient, >= 0 (decoupled from the gradient for adamw).
        clip_value: bound on each gradient element's magnitude; 0 for none. It comes before the norm's.
        clip_norm: bound on the gradient's global L2 norm; 0 for none.
        proximal: whether FedProx's term mu/2 ||w - w_start||² is in (Li et al., 2020, eq. 2); then `mu` and
            the start of each parameter are inputs.
        offset: whether something is added to each parameter's gradient, which is then an input.
        batch_statistics: whether batch normalisation uses the batch's moments and updates the running ones;
            if not, it stays with those, as in evaluation. What stands before every trainable parameter
            always stays.
    """

    loss: Loss = "cross_entropy"
    optimizer: Optimizer = "momentum"
    momentum: float = 0.9
    weight_decay: float = 0.0
    clip_value: float = 0.0
    clip_norm: float = 0.0
    proximal: bool = False
    offset: bool = False
    batch_statistics: bool = True

    def __post_init__(self) -> None:
        for name, kinds in (("loss", Loss), ("optimizer", Optimizer)):
            if getattr(self, name) not in get_args(kinds):
                raise unknown(name, getattr(self, name), get_args(kinds))
        for name in ("momentum", "weight_decay", "clip_value", "clip_norm"):
            value = getattr(self, name)
            high = 1.0 if name == "momentum" else math.inf
            if not 0 <= value < high:
                raise InputError(f"{name} is {value}; it must be at least 0 and below {high:g}")

    def serve(self, wanted: "StepSettings") -> bool:
        """Whether a graph with these can take steps with `wanted`: a term that is not wanted is zero."""
        return self == replace(
            wanted, proximal=wanted.proximal or self.proximal, offset=wanted.offset or self.offset
        )


@dataclass(frozen=True, kw_only=True)
class StepSignature:
    """The names in a step graph, kept in its metadata so that a device needs no onnx to read them.

    A new value has its old one's name with `new/` before it; the start of a parameter, for the proximal
    term, has `start/`, and what is added to its gradient `offset/`.

    Attributes:
        settings: of the build.
        inputs: names of the data inputs; their first axis is the batch.
        parameters: trained arrays.
        statistics: running means and variances that a step updates.
        states: of the optimiser, `kind/parameter`, each in its parameter's shape.
        given: arrays that a step takes and does not train, where those are no constants of the graph.
        classes: number of classes of cross_entropy; 0 for the other losses.
        forward_bytes: of the forward pass's values at the batch size that the graph was built for; 0 where
            that is not known, in graphs of earlier versions.
    """

    settings: StepSettings
    inputs: tuple[str, ...]
    parameters: tuple[str, ...]
    statistics: tuple[str, ...]
    states: tuple[str, ...]
    given: tuple[str, ...] = ()
    classes: int
    forward_bytes: int = 0

    @property
    def carried(self) -> tuple[str, ...]:
        """What goes into a step and comes out anew, in the graph's order."""
        return (*self.parameters, *self.statistics, *self.states)

    def to_json(self) -> str:
        """For the metadata of a graph."""
        content = asdict(self)
        if not self.settings.offset:  # of which versions before did not know
            del content["settings"]["offset"]
        return json.dumps(content)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> "StepSignature":
        """The signature in a graph's metadata.

        Raises:
            RunError: there is none, or it is damaged.
        """
        try:
            content: dict[str, Any] = json.loads(metadata[METADATA])
            content["settings"] = StepSettings(**content["settings"])
            content = {"forward_bytes": 0, "given": []} | content
            values: dict[str, Any] = {f.name: content[f.name] for f in fields(cls)}
            values |= {k: tuple(v) for k, v in values.items() if isinstance(v, list)}
            return cls(**values)
        except (KeyError, TypeError, ValueError, InputError) as error:
            raise RunError(f"the graph is no train step of fedloom ({error}); export it again") from error


def new(name: str) -> str:
    """Name of the output that replaces the input `name`."""
    return f"new/{name}"


def start(name: str) -> str:
    """Name of the input that holds where the parameter `name` started, for the proximal term."""
    return f"start/{name}"


def offset(name: str) -> str:
    """Name of the input that is added to the gradient of the parameter `name`."""
    return f"offset/{name}"
