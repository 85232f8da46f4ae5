"""The same node under Flower's SuperNode: `clientapp = "fedloom_client.client_app:app"` (docs/superlink.md).

Settings come from the run's configuration (`task`, `partition`, `clients`, `seed`, `secure-aggregation`),
and what is the node's own from its `--node-config`: `partition-id`, and `data`, the folder of its data.
"""

from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedloom_client.data.shards import ShardRecipe
from fedloom_client.flower.app import make_client_app
from fedloom_client.secure.flower import ACTION, masking

SECURE = "secure-aggregation"
"""Key of the run's configuration."""

app = ClientApp()


def recipe(context: Context) -> ShardRecipe:
    """Which shards this run's nodes have."""
    config: dict[str, Any] = dict(context.run_config)
    data = str(context.node_config.get("data", ""))
    return ShardRecipe(
        task=str(config["task"]),
        data_dir=data or None,
        partition=str(config["partition"]),
        clients=int(config["clients"]),
        seed=int(config["seed"]),
    )


def _answer(message: Message, context: Context) -> Message:
    shards = recipe(context)
    mods = []
    if context.run_config.get(SECURE):
        from fedloom_client.torch_trainer import TorchTrainer  # torch is imported where it trains

        mods.append(masking(TorchTrainer(shards.open().task).statistics))
    return make_client_app(shards, mods, secret=True)(message, context)


app.query()(_answer)
app.query(ACTION)(_answer)
app.train()(_answer)
app.evaluate()(_answer)
