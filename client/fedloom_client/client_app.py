"""The same node under Flower's SuperNode: `clientapp = "fedloom_client.client_app:app"` (docs/superlink.md).

Settings come from the run's configuration (`task`, `partition`, `clients`, `seed`), and what is the
node's own from its `--node-config`: `partition-id`, and `data`, the folder of its data.
"""

from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedloom_client.flower_app import make_client_app
from fedloom_client.shards import ShardRecipe

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
    return make_client_app(recipe(context), secret=True)(message, context)


app.query()(_answer)
app.train()(_answer)
app.evaluate()(_answer)
