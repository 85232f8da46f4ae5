"""The round loop under Flower's SuperLink: `serverapp = "fedloom_server.server_app:app"` (docs/superlink.md).

Settings come from the run's configuration: `task`, `partition`, `clients`, `rounds`, `strategy`, `seed`,
`out` (the run's folder on the machine of the SuperLink), `secure-aggregation` and, if any, `data`.
"""

from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation on Flower's own grid and leave a run's folder."""
    from fedloom_client.client_app import SECURE
    from fedloom_client.loading import load_data, load_task
    from fedloom_client.orders import Orders
    from fedloom_client.torch_trainer import TorchTrainer
    from fedloom_edge.compression import require_fixed
    from fedloom_edge.errors import FedloomError
    from fedloom_server.report.finish import finish_run
    from fedloom_server.report.results import versions
    from fedloom_server.rounds.federation import Federation
    from fedloom_server.rounds.plan import Plan
    from fedloom_server.secure.settings import SecureSettings, refuse_unmasked
    from fedloom_server.store.run_store import RunStore
    from fedloom_server.strategies.composed import check_model
    from fedloom_server.strategies.registry import make_strategy

    config: dict[str, Any] = dict(context.run_config)
    task = load_task(str(config["task"]))
    data = load_data(task, Path(str(config["data"])) if config.get("data") else None)
    clients, seed, rounds = int(config["clients"]), int(config["seed"]), int(config["rounds"])
    orders = Orders(compress=str(config.get("compress", "")))
    require_fixed(orders.compress)
    name = str(config["strategy"])
    strategy = make_strategy(
        name, {}, clients=clients, lr=task.training.lr, optimizer=task.training.optimizer
    )
    check_model(strategy, lambda: TorchTrainer(task))
    secure = None
    if config.get(SECURE):
        refuse_unmasked(name, strategy, orders.compress, clients)
        secure = SecureSettings()
    plan = Plan(
        task=task,
        training=task.training,
        rounds=rounds,
        clients=clients,
        seed=seed,
        orders=orders,
        secure=secure,
        secret=True,
    )
    facts = {
        "task": task.name,
        "engine": "superlink",
        "strategy": config["strategy"],
        "partition": config["partition"],
        "seed": seed,
        "clients": clients,
        "planned_rounds": rounds,
        "metric": task.metric,
        "class_names": list(data.class_names),
        "training": task.training.to_config(),
        "versions": versions(),
    }
    with RunStore.create(Path(str(config["out"])), facts) as store:
        status, reason = "finished", ""
        try:
            Federation(plan, strategy, TorchTrainer(task), data.test, store).run(grid)
        except FedloomError as error:
            status, reason = "failed", str(error)
            raise
        finally:
            store.set_facts({"status": status, "reason": reason})
            store.event(status, reason=reason)
            finish_run(store, task, data)
