"""pfl-research 0.6 (Granqvist et al., 2024), as its own benchmarks set it up: PYTHON pfl_side.py FILE."""

import os
import random
from typing import Any

import torch
from given import Given, Laps
from models import MODELS
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.callback.central_evaluation import CentralEvaluationCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel


class Lap(TrainingProcessCallback):
    """Ends a round after all other callbacks."""

    def __init__(self, laps: Laps) -> None:
        self._laps = laps

    def on_train_begin(self, *, model: Any) -> Metrics:
        """The first round begins."""
        self._laps.start()
        return Metrics()

    def after_central_iteration(
        self, aggregate_metrics: Any, model: Any, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        """A round ends."""
        self._laps.lap()
        return False, Metrics()


def main() -> None:
    """Run the workload."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    given, laps = Given.read(), Laps()
    settings = given.settings
    x, y = torch.from_numpy(given.x), torch.from_numpy(given.y)
    users = [Dataset(raw_data=[x[part], y[part]]) for part in map(torch.from_numpy, given.parts)]
    model: Any = MODELS[settings["task"]]()
    model.loss = lambda inputs, targets, eval=False: torch.nn.functional.cross_entropy(model(inputs), targets)

    @torch.no_grad()
    def metrics(inputs: Any, targets: Any, eval: bool = True) -> dict[str, Any]:
        loss = torch.nn.functional.cross_entropy(model(inputs), targets, reduction="sum")
        return {"loss": Weighted(loss.item(), len(targets))}

    model.metrics = metrics

    def local(parameters: Any, lr: float) -> Any:
        return torch.optim.SGD(parameters, lr, settings["momentum"])

    pfl_model = PyTorchModel(model, local, torch.optim.SGD(model.parameters(), 1.0))
    data = FederatedDataset(lambda user: users[user], lambda: random.randrange(len(users)))
    evaluation = NNEvalHyperParams(local_batch_size=256)
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=settings["rounds"],
            evaluation_frequency=settings["rounds"] + 1,  # of the clients: other sides measure none either
            train_cohort_size=settings["cohort"],
            val_cohort_size=0,
        ),
        SimulatedBackend(training_data=data, val_data=data),
        pfl_model,
        NNTrainHyperParams(
            local_num_epochs=settings["epochs"],
            local_learning_rate=settings["lr"],
            local_batch_size=settings["batch_size"],
        ),
        evaluation,
        callbacks=[
            CentralEvaluationCallback(
                Dataset(raw_data=[torch.from_numpy(given.test_x), torch.from_numpy(given.test_y)]),
                evaluation,
            ),
            Lap(laps),
        ],
    )
    laps.print()


if __name__ == "__main__":
    main()
