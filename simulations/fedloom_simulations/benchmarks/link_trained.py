"""A real agent's memory and load: `fedloom device run` with onnxruntime, before, in and after work."""

import json
import tempfile
import threading
import time
from pathlib import Path

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp.strategy import FedAvg

from fedloom_client.device.home import ShardOf
from fedloom_client.device.starting import task_digest
from fedloom_client.flower.records import to_record
from fedloom_client.loading import load_data, load_task
from fedloom_client.task import Task
from fedloom_client.torch_trainer import TorchTrainer
from fedloom_server.fleet.fleet import Fleet
from fedloom_server.link.artefact import run_artefact
from fedloom_server.link.coordinator import Coordinator
from fedloom_server.link.depot import Depot
from fedloom_server.link.grid import LinkGrid
from fedloom_server.link.inbox import Inbox
from fedloom_server.link.local import LocalAgents
from fedloom_server.link.quorum import Quorum
from fedloom_server.link.telemetry import DeviceLog
from fedloom_server.rounds.plan import Plan
from fedloom_server.store.run_store import DATABASE, RunStore
from fedloom_simulations.benchmarks.processes import cpu_seconds, rss_mb


def trained(seconds: float = 60.0) -> dict[str, float]:
    """MB of RSS and CPU in percent of a core of a real agent with onnxruntime: before, in and after work."""
    task = load_task("digits")
    plan = Plan(task=task, training=task.training, rounds=1, clients=2, seed=0)
    data = load_data(task, None)
    with tempfile.TemporaryDirectory() as name, RunStore.create(Path(name) / "run", {}):
        folder = Path(name)
        path, _ = run_artefact(plan, FedAvg(), data, folder)
        fleet = Fleet.create(folder / "fleet", ["127.0.0.1"])
        coordinator = Coordinator(
            fleet,
            Inbox(folder / "run" / "inbox"),
            DeviceLog(folder / "run" / DATABASE),
            run="benchmark",
            task="digits",
            task_digest=task_digest("digits"),
            depot=Depot(path),
        ).start("127.0.0.1:0", "127.0.0.1:0")
        agents = LocalAgents(folder / "local")
        shards = [ShardOf(partition="iid", clients=2, seed=0, index=index) for index in range(2)]
        agents.start(fleet, f"127.0.0.1:{coordinator.link_port}", "digits", None, shards, "onnx")
        grid = LinkGrid(coordinator, Quorum(share=1.0), "benchmark")
        try:
            grid.gather(2, 60)
            time.sleep(5)
            pid = json.loads((folder / "local" / "local-0" / "status.json").read_text())["pid"]
            figures = {"waits for its first work": rss_mb(pid)}
            peak, over = [0.0], threading.Event()

            def watch() -> None:
                while not over.wait(0.005):
                    peak[0] = max(peak[0], rss_mb(pid))

            watcher = threading.Thread(target=watch)
            watcher.start()
            _rounds(grid, task, 3)
            over.set()
            watcher.join()
            figures["trains and evaluates, peak"] = peak[0]
            time.sleep(40)
            figures["waits for its next work"] = rss_mb(pid)
            before = cpu_seconds(pid)
            time.sleep(seconds)
            figures["CPU then, % of a core"] = 100 * (cpu_seconds(pid) - before) / seconds
            return figures
        finally:
            agents.stop()
            coordinator.stop("over")
            fleet.close()


def _rounds(grid: LinkGrid, task: Task, rounds: int) -> None:
    record = to_record(TorchTrainer(task).initial_arrays(0))
    for number in range(1, rounds + 1):
        config = ConfigRecord({**task.training.to_config(), "seed": 0, "server-round": number})
        for kind in ("train", "evaluate"):
            messages = [
                Message(RecordDict({"arrays": record, "config": config}), node, kind)
                for node in grid.get_node_ids()
            ]
            if any(reply.has_error() for reply in grid.send_and_receive(messages)):
                raise SystemExit("a work failed")
