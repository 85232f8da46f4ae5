"""The training loop: one round of one client, plain."""

from collections.abc import Callable
from typing import Any

from torch import nn

from fedloom_client.early_stopping import Best
from fedloom_client.seeds import generator
from fedloom_client.torch_trainer.losses import LossFunction
from fedloom_client.torch_trainer.private_step import PrivateStep
from fedloom_client.torch_trainer.state import read_arrays
from fedloom_client.torch_trainer.step import Step
from fedloom_client.torch_trainer.tensors import Fetch
from fedloom_client.trainer import Assignment, Update


def train(
    model: nn.Module,
    loss_function: LossFunction,
    examples: int,
    fetch: Fetch,
    assignment: Assignment,
    validate: Callable[[], float] | None = None,
) -> Update:
    """Train `model` in place; the round ends at `epochs`, `steps` or `patience`, whichever comes first.

    Metrics: train-loss (mean over the examples seen, without the proximal term), gradient-norm and
    gradient-norm-max (over the steps, with the proximal term, before clipping), steps, epochs (begun).

    Args:
        model: holds the arrays to start from.
        loss_function: (outputs, targets) -> mean over the batch.
        examples: how many there are, 1 or more.
        fetch: indices (B,) -> inputs (B, ...) and targets (B, ...).
        assignment: settings, seed, FedProx's coefficient, progress.
        validate: the validation loss of the model, wanted after each epoch if `patience` is set; None
            if there is nothing to validate on.

    Raises:
        TrainingError: the loss or a gradient is not finite.
    """
    training = assignment.training
    kind = PrivateStep if training.dp_noise else Step
    step = kind(model, loss_function, assignment, examples)
    best = Best(training.patience)
    order = generator(assignment.seed, "order")
    loss_sum, seen, epoch, over, cut_short = 0.0, 0, 0, False, False
    while not over:
        epoch += 1
        epoch_sum, epoch_seen = 0.0, 0
        to_training_mode(model, alone=min(examples, training.batch_size) == 1)
        batches = step.batches(order)
        if training.steps:
            batches = batches[: training.steps - step.health.steps]
        for batch in batches:
            x, y = fetch(batch)  # (B, ...), (B, ...)
            epoch_sum += step(x, y, epoch=epoch) * len(batch)
            epoch_seen += len(batch)
            if assignment.enough is not None and assignment.enough():
                cut_short = True
                break
        loss_sum, seen = loss_sum + epoch_sum, seen + epoch_seen
        if assignment.progress is not None:
            assignment.progress(epoch, epoch_sum / max(epoch_seen, 1))
        over = epoch == training.epochs or step.health.steps == training.steps or cut_short
        if not cut_short and training.patience and validate is not None:
            best.note(validate(), lambda: read_arrays(model))
            over = over or best.over
    metrics = {
        "train-loss": loss_sum / max(seen, 1),  # coins may leave every batch empty
        "gradient-norm": step.health.mean,
        "gradient-norm-max": step.health.largest,
        "steps": float(step.health.steps),
        "epochs": float(epoch),
    }
    counted = min(examples, seen) if cut_short else examples
    return Update(best.arrays or read_arrays(model), counted, metrics, step.warnings())


def to_training_mode(model: nn.Module, *, alone: bool) -> None:
    """Training mode; batch norm keeps to its running statistics where every batch is one example."""
    model.train()
    norms: Any = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    for module in model.modules() if alone else ():
        if isinstance(module, norms):
            module.eval()
