"""Clients whose updates are known, on a grid on which each can go missing at any step."""

from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.app.user_config import UserConfig
from flwr.clientapp import ClientApp

from fedloom_client.flower.messages import CLIENT_FAILED, reply_content
from fedloom_client.flower.records import from_record, to_record
from fedloom_client.secure.flower import ACTION, masking, secure_step
from fedloom_client.secure.participant import SecureError
from fedloom_edge.arrays import Arrays
from fedloom_server.grids.flower_ids import RUN_ID, adopt_identity
from fedloom_server.grids.wrapped import GridWrapper
from fedloom_server.guard.guard import Finding
from fedloom_server.rounds.messages import Batch
from fedloom_server.rounds.open_round import OpenRound
from fedloom_server.rounds.roster import Member, OrderedGrid
from fedloom_server.secure.session import Session
from fedloom_server.secure.settings import SecureSettings

STEPS = ("keys", "shares", "train", "unmask")


class Swarm(GridWrapper):
    """`Swarm(10, {3: "train"}).round()` -> what the session came to; client 3 falls silent at training.

    What the coordinator is sent stands in `seen`: (step, client) -> arrays.
    """

    def __init__(self, count, gone=None, *, size=64, spread=0.1, dropouts=0.3, tamper=None, seed=0):
        adopt_identity()
        rng = np.random.default_rng(seed)
        self.origin: Arrays = {"w": rng.normal(size=size).astype(np.float32)}
        self.updates = [
            {"w": (self.origin["w"] + spread * rng.normal(size=size)).astype(np.float32)}
            for _ in range(count)
        ]
        self.examples = rng.integers(1, 50, count).tolist()
        self.gone, self.tamper, self.count, self.dropouts = gone or {}, tamper, count, dropouts
        self.seen: dict[tuple[str, int], Arrays] = {}
        self.contexts = [
            Context(RUN_ID, k + 2, UserConfig({"partition-id": k}), RecordDict(), UserConfig({}))
            for k in range(count)
        ]
        self.app = ClientApp()
        self.app.query(ACTION)(self._step)
        self.app.train(mods=[masking(frozenset())])(self._train)

    @staticmethod
    def _step(message, context):
        try:
            return Message(secure_step(message, context), reply_to=message)
        except SecureError as error:
            return Message(Error(CLIENT_FAILED, str(error)), reply_to=message)

    def _train(self, message, context):
        k = int(context.node_config["partition-id"])
        metrics = {"num-examples": self.examples[k], "train-loss": 0.5 + k, "seconds": 0.1}
        return Message(reply_content(message, metrics, self.updates[k]), reply_to=message)

    def get_node_ids(self):
        return range(2, 2 + self.count)

    def send_and_receive(self, messages, *, timeout=None):
        for message in messages:
            k = message.metadata.dst_node_id - 2
            config = message.content.config_records["config"]
            step = config.get("secure.step", "train")
            if k in self.gone and STEPS.index(step) >= STEPS.index(self.gone[k]):
                continue
            reply = self.app(message, self.contexts[k])
            if reply.has_error():
                yield reply
                continue
            if self.tamper is not None:
                self.tamper(step, k, reply)
            self.seen[step, k] = from_record(reply.content.array_records["arrays"])
            yield reply

    def session(self):
        members = [Member(k + 2, k, n, 0, {}) for k, n in enumerate(self.examples)]
        run = SimpleNamespace(
            roster=OrderedGrid(self, members),
            plan=SimpleNamespace(secure=SecureSettings(dropouts=self.dropouts), seed=0, deadline=None),
            arrays=self.origin,
            trainer=SimpleNamespace(statistics=frozenset()),
            strategy=None,
            most_examples=max(self.examples),
        )
        return Session(run, OpenRound(1, Batch(1, "train", "accuracy")))

    def round(self):
        """The total; who is in it stands in `left`, who is not and why in `lost`."""
        session = self.session()
        config = ConfigRecord({"seed": 0, "server-round": 1})
        content = RecordDict({"arrays": to_record(self.origin), "config": config})
        asked = session.agree([Message(content, node, "train") for node in self.get_node_ids()])
        self.left, self.lost = [], session.lost
        if not asked:
            return None
        for reply in session.run.roster.replies(asked):
            client = reply.metadata.src_node_id - 2
            finding = Finding(reply.error.reason) if reply.has_error() else session.one(client, reply, 0)
            session.lost.update({client: finding.reason} if finding.reason else {})
            self.left += [] if finding.reason else [client]
        return session.unmask()

    def plain(self, clients):
        """The weighted mean of these clients' updates."""
        total = sum(self.examples[k] * self.updates[k]["w"].astype(np.float64) for k in clients)
        return total / sum(self.examples[k] for k in clients)


@pytest.fixture(scope="session")
def swarm():
    return Swarm
