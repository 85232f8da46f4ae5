"""The link of a served run: what it opens before the first round, and closes after the last."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fedloom_client.device.home import ShardOf, TrainerName
from fedloom_client.device.starting import task_digest
from fedloom_client.loading import absolute_reference
from fedloom_edge.errors import InputError
from fedloom_server.fleet.fleet import Fleet
from fedloom_server.link.artefact import run_artefact
from fedloom_server.link.coordinator import Coordinator
from fedloom_server.link.depot import Depot
from fedloom_server.link.grid import LinkGrid
from fedloom_server.link.inbox import Inbox
from fedloom_server.link.local import LocalAgents
from fedloom_server.link.options import enrol_address
from fedloom_server.link.telemetry import DeviceLog
from fedloom_server.store.run_store import DATABASE, RunStore
from fedloom_server.strategies.registry import make_strategy

if TYPE_CHECKING:
    from fedloom_server.link.serving import Serving

log = logging.getLogger("fedloom.link")


@contextmanager
def linked(serving: "Serving", store: RunStore) -> Iterator[LinkGrid]:
    """The link with its devices; those of --local are started and stopped here."""
    local, run = serving.options.local, str(store.facts()["link_run"])
    fleet = _fleet(serving)
    devices = DeviceLog(serving.out / DATABASE)
    digest = task_digest(serving.options.task)
    artefact, why, trainer = _artefact(serving)
    coordinator = Coordinator(
        fleet,
        Inbox(serving.out / "inbox"),
        devices,
        run=run,
        task=serving.plan.task.name,
        task_digest=digest,
        heartbeat=serving.quorum.heartbeat,
        depot=Depot(artefact, why),
    )
    listen = "127.0.0.1:0" if local else serving.options.listen
    coordinator.start(listen, enrol_address(listen, serving.options.enrol))
    agents = LocalAgents(serving.out / "local")
    finished, reason = False, "the coordinator stops"
    try:
        if local:
            shards = [
                ShardOf(partition=serving.partition, clients=local, seed=serving.plan.seed, index=index)
                for index in range(local)
            ]
            address = f"127.0.0.1:{coordinator.link_port}"
            task = absolute_reference(serving.options.task)
            agents.start(fleet, address, task, serving.options.data, shards, trainer)
        else:
            log.info(
                "devices connect at port %d and enrol at port %d",
                coordinator.link_port,
                coordinator.enrol_port,
            )
        yield LinkGrid(coordinator, serving.quorum, run, agents.check)
        finished, reason = True, "the run is finished"
    finally:
        agents.stop()
        coordinator.stop(reason)
        if finished:
            coordinator.inbox.clear(set())
        fleet.close()


def _artefact(serving: "Serving") -> tuple[Path | None, str, TrainerName]:
    """The artefact for devices, or why there is none; and what the agents of --local train with."""
    if serving.options.local and serving.options.trainer == "torch":
        return None, "the run was begun with --trainer torch", "torch"
    strategy = make_strategy(
        serving.options.strategy,
        serving.strategy_options,
        clients=serving.plan.clients,
        lr=serving.plan.training.lr,
    )
    path, why = run_artefact(serving.plan, strategy, serving.data, serving.out)
    if path is None:
        if serving.options.local and serving.options.trainer == "onnx":
            raise InputError(f"--trainer onnx: {why}")
        log.warning("devices need torch for this run: %s", why)
    return path, why, "onnx" if path else "torch"


def _fleet(serving: "Serving") -> Fleet:
    if not serving.options.local:
        fleet = Fleet(serving.options.fleet)
        fleet.refresh()
        return fleet
    folder = serving.out / "local" / "fleet"
    if (folder / "ca.key").exists():
        return Fleet(folder)
    return Fleet.create(folder, ["127.0.0.1", "localhost"])
