"""A coordinator and agents in this process, on loopback, with real certificates."""

import asyncio
import logging
import socket
import threading
import time
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from flwr.app import ConfigRecord, Message, RecordDict

from fedloom_client.device.agent import Agent
from fedloom_client.device.identity import Identity, new_request
from fedloom_client.device.memory import Memory
from fedloom_client.device.node_worker import NodeWorker
from fedloom_client.device.supply import TrainerSupply
from fedloom_client.flower.records import to_record
from fedloom_client.node import Description
from fedloom_client.trainer import Evaluation, Update
from fedloom_client.training import Training
from fedloom_protos.v1 import link_pb2 as pb
from fedloom_server.fleet.fleet import Fleet
from fedloom_server.link.coordinator import Coordinator
from fedloom_server.link.grid import LinkGrid
from fedloom_server.link.inbox import Inbox
from fedloom_server.link.quorum import Quorum
from fedloom_server.link.telemetry import DeviceLog
from fedloom_server.store.run_store import DATABASE, RunStore

DIGEST = bytes(32)


class AddOne:
    """A worker whose training adds 1 to every array; it counts what it was asked to do."""

    def __init__(self, examples=10, seconds=0.0):
        self.examples = examples
        self.seconds = seconds
        self.trained = 0
        self.assignments = []

    def describe(self):
        return Description(self.examples, 2, {})

    def train(self, arrays, constants, assignment):
        self.trained += 1
        self.assignments.append(assignment)
        assignment.progress(1, 0.5)
        deadline = time.monotonic() + self.seconds
        while time.monotonic() < deadline:
            time.sleep(0.01)
            assignment.progress(1, 0.5)
        return Update(
            {name: np.asarray(array + 1) for name, array in arrays.items()},
            self.examples,
            {"train-loss": 0.5},
        )

    def evaluate(self, arrays, constants):
        return Evaluation(0.25, {"accuracy": 0.75}, 2)


def working(home, learner=None):
    """A worker as a device has it."""
    if isinstance(learner, NodeWorker):
        return learner
    return NodeWorker(learner or AddOne(), Memory(home / "memory"))


class Site:
    """A fleet, its coordinator, and any number of agents in one event loop."""

    def __init__(self, folder: Path, quorum=None, heartbeat=0.5, listen="127.0.0.1"):
        self.listen = listen
        self.folder = folder
        self.fleet = Fleet.create(folder / "fleet", ["127.0.0.1", "localhost"])
        self.store = RunStore.create(folder / "run", {})
        self.quorum = quorum or Quorum(share=1.0)
        self.heartbeat = heartbeat
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.agents: dict[str, tuple[Agent, Future]] = {}
        self.port = 0
        self.start()

    def start(self, depot=None, run="test"):
        """Start a coordinator, as after a restart where there was one before: on the same port."""
        log = DeviceLog(self.folder / "run" / DATABASE)
        inbox = Inbox(self.folder / "run" / "inbox")
        self.coordinator = Coordinator(
            self.fleet,
            inbox,
            log,
            run=run,
            task="small",
            task_digest=DIGEST,
            heartbeat=self.heartbeat,
            depot=depot,
        ).start(f"{self.listen}:{self.port}", f"{self.listen}:0")
        self.port = self.coordinator.link_port
        self.grid = LinkGrid(self.coordinator, self.quorum, run)

    def stop(self):
        self.coordinator.stop("test over", 0.1)

    def identity(self, name, fleet=None) -> Identity:
        fleet = fleet or self.fleet
        key, request = new_request(name)
        certificate = fleet.registry.admit(name, request, fleet.authority)
        return Identity.of(key + certificate.public_bytes(Encoding.PEM), fleet.authority.pem)

    def agent(self, name, worker=None, port=None, identity=None, equip=None, **options):
        """Start an agent; its identity and spool are kept from an agent of the same name before."""
        home = self.folder / name
        home.mkdir(exist_ok=True)
        if not (home / "identity.pem").exists():
            (identity or self.identity(name)).save(home)
        hello = pb.Hello(trainer="torch", task="small", task_digest=DIGEST)
        address = f"127.0.0.1:{port or self.port}"

        async def make():
            supply = TrainerSupply(home, equip) if equip else None
            return Agent(
                home, address, Identity.load(home), working(home, worker), hello, supply=supply, **options
            )

        agent = asyncio.run_coroutine_threadsafe(make(), self.loop).result()
        self.agents[name] = agent, asyncio.run_coroutine_threadsafe(agent.run(), self.loop)
        return agent

    def stop_agent(self, name):
        agent, future = self.agents.pop(name)
        self.loop.call_soon_threadsafe(agent.stop)
        future.result(10)

    def close(self):
        for name in list(self.agents):
            self.stop_agent(name)
        self.stop()
        self.store.close()
        self.fleet.close()
        self.loop.call_soon_threadsafe(self.loop.stop)

    def events(self, kind):
        return [entry["data"] for entry in self.store.events(kind)]


@pytest.fixture
def site(tmp_path):
    made = Site(tmp_path)
    yield made
    made.close()


def questions(grid, kind="train", arrays=None, number=1, **config):
    """One message of this kind for each node of a grid."""
    if kind == "query":
        return [Message(RecordDict(), node, kind) for node in grid.get_node_ids()]
    settings = Training().to_config() | {"seed": 1, "server-round": number} | config
    records = {"arrays": to_record(arrays or model()), "config": ConfigRecord(settings)}
    return [Message(RecordDict(dict(records)), node, kind) for node in grid.get_node_ids()]


def model(size=1000, value=0.0):
    return {"w": np.full(size, value, np.float32), "b": np.array(value, np.float32)}


def free_ports(count=2):
    """TCP ports of this machine that nobody listens on."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def until(reached, seconds=20.0):
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


@pytest.fixture
def raw(site):
    from .raw import Raw  # here, because agents in processes of their own import this file by its path

    made = []

    def connect(name="a", identity=None):
        made.append(Raw(site, (identity or site.identity(name)).credentials))
        return made[-1]

    yield connect
    for one in made:
        one.outgoing.put(None)
        one.channel.close()


@pytest.fixture
def goes_on(site):
    """After whatever a test did, an honest device still completes a round."""
    site.asking = None
    yield
    if site.asking is not None:
        site.asking.join()
    site.agent("honest")
    until(lambda: "honest" in site.coordinator.connected())
    site.grid.enlist(["honest"])
    (reply,) = site.grid.send_and_receive(questions(site.grid, number=99))
    assert not reply.has_error()


@pytest.fixture(autouse=True)
def _logged(caplog):
    caplog.set_level(logging.INFO, logger="fedloom")
