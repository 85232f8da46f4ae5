"""One model measured on the validation parts of many clients at once, figures apart."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedloom_client.data.samples import Indices
from fedloom_client.task import Task
from fedloom_client.trainer import Evaluation
from fedloom_edge.measures import standard_metric
from fedloom_simulations.engine.vectorised.losses import LOSSES

_BATCH = 512


@torch.no_grad()
def evaluate_stacked(
    model: nn.Module,
    task: Task,
    rows: Callable[[Indices], tuple[Tensor, Tensor]],
    parts: Sequence[Indices],
) -> list[Evaluation]:
    """As `TorchTrainer.evaluate` for each of `parts`, indices (n,) of a client's examples."""
    model.eval()
    order = np.concatenate([np.empty(0, np.int64), *parts])
    outputs, targets = [], []
    for batch in np.split(order, range(_BATCH, len(order), _BATCH)) if len(order) else ():
        x, y = rows(batch)
        outputs.append(model(x))
        targets.append(y)
    names = [task.metric, *task.metrics]
    nothing = Evaluation(0.0, dict.fromkeys(names, 0.0), 0)
    if not outputs:
        return [nothing for _ in parts]
    out, y = torch.cat(outputs), torch.cat(targets)
    losses = LOSSES[task.loss](out, y).double().numpy()
    ends = np.cumsum([len(part) for part in parts])
    found = []
    for part, end in zip(parts, ends, strict=True):
        span = slice(int(end) - len(part), int(end))
        found.append(_one(task, losses[span], out.numpy()[span], y.numpy()[span]) if len(part) else nothing)
    return found


def _one(
    task: Task, losses: NDArray[np.float64], outputs: NDArray[np.float32], targets: NDArray[np.generic]
) -> Evaluation:
    metrics = {task.metric: standard_metric(task.loss, outputs, targets)}
    metrics |= {name: float(metric(outputs, targets)) for name, metric in task.metrics.items()}
    return Evaluation(float(losses.mean()), metrics, len(losses))
