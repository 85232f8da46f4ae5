"""The task contract: what is learned, in one small object that a user writes in one file."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from numpy.typing import NDArray

from fedloom_client.data.preprocess import Preprocess
from fedloom_client.data.samples import Data
from fedloom_client.space import Dimension, Space
from fedloom_client.training import Training
from fedloom_edge.errors import unknown

if TYPE_CHECKING:
    from torch import nn

Loss = Literal["cross_entropy", "binary_cross_entropy", "mse", "huber"]
Metric = Callable[[NDArray[Any], NDArray[Any]], float]
"""(model outputs (N, ...), targets (N, ...)) -> one figure."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a federation learns.

    Attributes:
        name: short name, shown in runs and reports.
        model: makes a fresh `torch.nn.Module`. Outputs: cross_entropy (B, classes) logits;
            binary_cross_entropy (B,) or (B, 1) logits; mse and huber the targets' shape.
        data: reads the data. Its argument is the folder of `--data`, or None.
        loss: cross_entropy, binary_cross_entropy, mse or huber.
        preprocess: fitted over all clients' training parts before round 1 without moving a sample;
            None to use the inputs as they are.
        metrics: figures beside the loss and the standard one (accuracy for the two cross-entropies,
            mae for mse and huber), computed on whole evaluation sets.
        training: default settings of local training.
        partition: default `--partition`.
        clients: default `--clients`; 0 for one client per natural group.
        baselines: name -> the standard metric of a reference that no federation is needed for
            (majority class, naive forecast), computed on the held-out test set for honesty.
        space: what `fedloom tune` may vary: `training.KEY` or `strategy.KEY` -> Real, Whole or Choice;
            empty for the step size, the batch size and the epochs around their defaults.
    """

    name: str
    model: "Callable[[], nn.Module]"
    data: Callable[[Path | None], Data]
    loss: Loss = "cross_entropy"
    preprocess: Preprocess | None = None
    metrics: Mapping[str, Metric] = field(default_factory=dict[str, Metric])
    training: Training = field(default_factory=Training)
    partition: str = "iid"
    clients: int = 10
    baselines: Mapping[str, Callable[[Data], float]] = field(
        default_factory=dict[str, Callable[[Data], float]]
    )
    space: Space = field(default_factory=dict[str, Dimension])

    def __post_init__(self) -> None:
        if self.loss not in get_args(Loss):
            raise unknown("loss", self.loss, get_args(Loss))

    @property
    def metric(self) -> str:
        """The standard metric: `accuracy` (higher is better) or `mae` (lower is better)."""
        return "accuracy" if self.loss.endswith("cross_entropy") else "mae"
