"""fluke 0.8 (Polato et al., 2024): PYTHON fluke_side.py FILE."""

import os
from typing import Any

import torch
from fluke import DDict, FlukeENV
from fluke.algorithms.fedavg import FedAVG
from fluke.client import Client
from fluke.config import OptimizerConfigurator
from fluke.data import FastDataLoader
from fluke.evaluation import ClassificationEval
from fluke.server import Server
from given import Given, Laps
from models import MODELS


def main() -> None:
    """Run the workload."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    given, laps = Given.read(), Laps()
    settings = given.settings
    environment = FlukeENV()
    environment.set_evaluator(ClassificationEval(eval_every=1, n_classes=10))
    environment.set_eval_cfg(pre_fit=False, post_fit=False, locals=False, server=True)
    x, y = torch.from_numpy(given.x), torch.from_numpy(given.y)
    optimiser = DDict(name=torch.optim.SGD, lr=settings["lr"], momentum=settings["momentum"])
    clients = []
    for k, part in enumerate(map(torch.from_numpy, given.parts)):
        train = FastDataLoader(
            x[part], y[part], num_labels=10, batch_size=settings["batch_size"], shuffle=True
        )
        clients.append(
            Client(
                k, train, None, OptimizerConfigurator(optimiser, DDict(name="StepLR", step_size=10**9)),
                torch.nn.CrossEntropyLoss(), local_epochs=settings["epochs"], persistency=False,
            )
        )  # fmt: skip
    test = FastDataLoader(
        torch.from_numpy(given.test_x), torch.from_numpy(given.test_y), num_labels=10, batch_size=256
    )
    server = Server(MODELS[settings["task"]](), test, clients, weighted=True)
    algorithm = FedAVG(len(clients), None, {}, clients, server)

    class Lapping:
        """Ends a round when fluke says that it is over."""

        def start_round(self, round: int, global_model: Any) -> None:
            """A round begins."""
            laps.start()

        def end_round(self, round: int) -> None:
            """A round ends."""
            laps.lap()

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return lambda *_, **__: None

    algorithm.attach(Lapping())
    algorithm.run(settings["rounds"], settings["cohort"] / len(clients), finalize=False)
    laps.print()


if __name__ == "__main__":
    main()
