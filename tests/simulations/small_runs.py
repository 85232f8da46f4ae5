"""Short runs of a small task in this process, which can be killed at any reply and gone on with."""

from fedloom_client.data.shards import ShardRecipe
from fedloom_client.flower.app import make_client_app
from fedloom_client.torch_trainer import TorchTrainer
from fedloom_edge.arrays import arrays_sha256
from fedloom_server.rounds.federation import Federation
from fedloom_server.rounds.plan import Plan
from fedloom_server.store.run_store import DATABASE, RunStore
from fedloom_server.strategies.registry import make_strategy
from fedloom_simulations.engine.inline import InlineGrid

CLIENTS = 4
TASK = """
import numpy as np
from torch import nn
from fedloom_client import ArraySamples, Data, Standardize, Task, Training

def load(folder):
    rng = np.random.default_rng(0)
    x = rng.normal(5, 2, (240, 4)).astype(np.float32)
    y = x[:, :3].argmax(1)
    return Data(train=ArraySamples(x[:200], y[:200]), test=ArraySamples(x[200:], y[200:]))

def model():
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))

training = Training(lr=0.05, batch_size=10, epochs=2)
task = Task(name="small", model=model, data=load, preprocess=Standardize(), training=training)
"""


class Killed(BaseException):
    """What nothing in the round loop catches, like a kill."""


class Deadly:
    """A watcher that ends everything at the nth reply."""

    def __init__(self, after):
        self.left = after

    def client_done(self, round_number, phase, done, total):
        self.left -= 1
        if self.left == 0:
            raise Killed

    def round_done(self, entry):
        pass


class SmallRuns:
    """`go("a", "scaffold", kill=7)` begins a run of 4 clients, or goes on with it."""

    def __init__(self, folder, task=TASK):
        self.folder = folder
        (folder / "small.py").write_text(task)

    def go(
        self,
        name,
        strategy="fedavg",
        *,
        kill=0,
        rounds=3,
        options=None,
        partition="dirichlet:0.5",
        mods=None,
        **plan,
    ):
        """Gives rounds, events, metric by client, and the global arrays; None where it was killed."""
        folder = self.folder / name
        recipe = ShardRecipe(str(self.folder / "small.py"), None, partition, CLIENTS, 0)
        shards = recipe.open()
        made = make_strategy(strategy, options or {}, clients=CLIENTS, lr=0.05, optimizer="momentum")
        settings = {"training": shards.task.training, "rounds": rounds, "seed": 0, "save_seconds": 0, **plan}
        again = (folder / DATABASE).exists()
        with RunStore.reopen(folder) if again else RunStore.create(folder, {}) as store:
            federation = Federation(
                Plan(task=shards.task, clients=CLIENTS, **settings),
                made,
                TorchTrainer(shards.task),
                shards.data.test,
                store,
                [Deadly(kill)],
            )
            try:
                federation.run(InlineGrid(make_client_app(recipe, mods), CLIENTS))
            except Killed:
                return None
            self.ended = federation.ended
            rounds = store.rounds()
            return rounds, store.events(), self.clients(store), store.get_arrays(rounds[-1].arrays)

    @staticmethod
    def clients(store):
        """Client -> the metric of the model that it uses, in the last round."""
        rows = store.execute(
            "SELECT client, metric FROM client_round WHERE phase = 'evaluate' "
            "AND round = (SELECT max(number) FROM round)"
        )
        return {row["client"]: row["metric"] for row in rows}


def equal(first, second):
    """Whether two models are the same, bit for bit."""
    return arrays_sha256(first) == arrays_sha256(second)
