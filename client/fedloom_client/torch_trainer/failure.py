"""Why a loss is not finite: where it started, and how to mend it."""

from typing import Any

import torch
from torch import Tensor, nn

from fedloom_edge.errors import TrainingError


def not_finite(
    model: nn.Module, x: Tensor, y: Tensor, *, loss: float, epoch: int, step: int
) -> TrainingError:
    """The error for a step whose loss or gradients are not finite.

    Args:
        model: as it was at that step, its gradients included.
        x: the step's inputs (B, ...).
        y: the step's targets (B, ...).
        loss: the step's loss.
        epoch: 1-based, of this round.
        step: 1-based, of this round.
    """
    return TrainingError(f"loss is {loss:g} in epoch {epoch}, step {step}: {_reason(model, x, y)}")


def _reason(model: nn.Module, x: Tensor, y: Tensor) -> str:
    if not _finite(x) or not _finite(y):
        return "an input or a target is NaN or infinite; remove or fill such samples in data()"
    weights = [name for name, value in model.state_dict().items() if not _finite(value)]
    # Forward it starts in the first layer that is hit, backward in the last.
    gradients = [name for name, p in model.named_parameters() if p.grad is not None and _overflows(p.grad)]
    if weights:
        where = f"it starts in the values of {weights[0]}"
    elif layer := _first_bad_output(model, x):
        where = f"it starts in the output of layer {layer}"
    elif gradients:
        where = f"it starts in the gradient of {gradients[-1]}"
    else:
        where = "the outputs are finite and the loss of them is not"
    return f"{where}; lower training.lr, set training.clip_norm, or check the data's scale"


@torch.no_grad()
def _first_bad_output(model: nn.Module, x: Tensor) -> str:
    """The first layer, in the order they run, whose output is not finite; empty if there is none."""
    bad: list[str] = []

    def listen(name: str, module: nn.Module) -> Any:
        def hear(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and not _finite(output):
                bad.append(f"{name} ({type(module).__name__})" if name else type(module).__name__)

        return module.register_forward_hook(hear)

    hooks = [listen(name, module) for name, module in model.named_modules()]
    model(x)
    for hook in hooks:
        hook.remove()
    return bad[0] if bad else ""


def _finite(value: Tensor) -> bool:
    return bool(torch.isfinite(value).all())


def _overflows(gradient: Tensor) -> bool:
    """Whether the norm is not finite: squares of large numbers overflow before the numbers do."""
    return not _finite(torch.linalg.vector_norm(gradient))
