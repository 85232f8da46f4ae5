"""What slow clients should do with a round that is too short for them: a share of the steps, or of the model.

`python -m fedloom_simulations.benchmarks.parts digits` trains with every other of ten clients slow, which
then takes the first steps of its round, or all of them on the last layers, and prints the table of
docs/benchmarks.md.
"""

import sys
from collections.abc import Callable
from itertools import count
from statistics import fmean

from fedloom_client.data.samples import Shard
from fedloom_client.data.shards import ShardRecipe
from fedloom_client.loading import load_data, load_task
from fedloom_client.seeds import derive_seed
from fedloom_client.torch_trainer import TorchTrainer
from fedloom_client.trainer import Assignment, Update
from fedloom_edge.arrays import Arrays
from fedloom_server.strategies.exact_mean import ExactMean

CLIENTS, SEEDS = 10, (1, 2, 3)
ROUNDS = {"digits": 15, "mnist": 10}
CASES = (  # share of the steps, and last layers that are trained; 0 for all
    *((share, 0) for share in (1.0, 0.5, 0.25, 0.125, 0.0625, 0.0)),
    *((share, 2) for share in (1.0, 0.5, 0.25)),
    (1.0, 1),
)


def accuracy(name: str, share: float, layers: int, seed: int) -> float:
    """Accuracy on the test set of a federation whose slow clients do what a case says."""
    task = load_task(name)
    shards = ShardRecipe(name, None, "dirichlet:0.3", CLIENTS, seed).open()
    trainer, rounds = TorchTrainer(task), ROUNDS[name]
    arrays = trainer.initial_arrays(seed)
    for number in range(1, rounds + 1):
        training = task.training.at_round(number, rounds)
        updates: list[Update] = []
        for client in range(CLIENTS):
            job = Assignment(training=training, seed=derive_seed(seed, "train", number, client))
            if client % 2 == 0:
                updates.append(trainer.fit(arrays, shards[client], job))
            elif share:
                updates.append(_slow(trainer, arrays, shards[client], job, share, layers))
        mean = ExactMean(arrays, max(update.examples for update in updates))
        for update in updates:
            mean.add(update.arrays, update.examples)
        arrays = mean.mean()
    return trainer.evaluate(arrays, load_data(task, None).test).metrics["accuracy"]


def _slow(
    trainer: TorchTrainer, arrays: Arrays, shard: Shard, job: Assignment, share: float, layers: int
) -> Update:
    last = list(dict.fromkeys(map(_layer, arrays)))[-layers:]
    frozen = frozenset(name for name in arrays if layers and _layer(name) not in last)
    steps = max(int(share * job.training.most_steps(len(shard.train))), 1)
    enough: Callable[[], bool] | None = None
    if share < 1:
        taken = count(1)

        def enough() -> bool:
            return next(taken) >= steps

    return trainer.fit(
        arrays, shard, Assignment(training=job.training, seed=job.seed, frozen=frozen, enough=enough)
    )


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def main() -> None:
    """Print a row for each case."""
    name = sys.argv[1] if len(sys.argv) > 1 else "digits"
    sys.stdout.write("| slow clients take | of the model | accuracy | by seed |\n|---|---|---|---|\n")
    for share, layers in CASES:
        found = [accuracy(name, share, layers, seed) for seed in SEEDS]
        by_seed = " ".join(f"{value:.4f}" for value in found)
        part = f"last {layers}" if layers else "all"
        steps = f"{share:g} of the steps" if share else "no part"
        sys.stdout.write(f"| {steps} | {part} | {fmean(found):.4f} | {by_seed} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
