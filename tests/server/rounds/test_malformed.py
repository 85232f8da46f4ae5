"""Malformed updates, end to end: none reaches the model, none ends the run, each is named.

The global arrays after the round are those of a round without the bad client, bit for bit.
"""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fedloom_client.data.shards import ShardRecipe
from fedloom_client.flower.app import make_client_app
from fedloom_client.flower.records import from_record
from fedloom_client.torch_trainer import TorchTrainer
from fedloom_server.grids.wrapped import GridWrapper
from fedloom_server.rounds.federation import Federation
from fedloom_server.rounds.plan import Plan
from fedloom_server.store.run_store import RunStore
from fedloom_server.strategies.registry import make_strategy
from fedloom_simulations.engine.inline import InlineGrid

TASK = """
import numpy as np
from torch import nn
from fedloom_client import ArraySamples, Data, Task, Training

def load(folder):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(240, 4)).astype(np.float32)
    y = x[:, :3].argmax(1)
    return Data(train=ArraySamples(x[:200], y[:200]), test=ArraySamples(x[200:], y[200:]))

def model():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))

task = Task(name="small", model=model, data=load, training=Training(lr=0.1, batch_size=20))
"""
BAD = 1  # the client that sends them
W, B = "0.weight", "2.bias"  # (8, 4) and (3,), float32


def arrays(change):
    """A change of the arrays: a function of name -> array that gives name -> array."""

    def tamper(reply):
        made = change(dict(from_record(reply.content["arrays"])))
        reply.content["arrays"] = ArrayRecord({name: Array(np.asarray(a)) for name, a in made.items()})
        return [reply]

    return tamper


def value(name, number, index=0):
    def change(given):
        array = given[name].copy()
        array.reshape(-1)[index] = number
        return {**given, name: array}

    return arrays(change)


def other(name, make):
    return arrays(lambda given: {**given, name: make(given[name])})


def metrics(**changes):
    def tamper(reply):
        record = dict(reply.content["metrics"])
        for key, number in changes.items():
            name = key.replace("_", "-")
            record.pop(name, None)
            if number is not None:
                record[name] = number
        reply.content["metrics"] = MetricRecord(record)
        return [reply]

    return tamper


def content(change):
    def tamper(reply):
        change(reply.content)
        return [reply]

    return tamper


def broken_bytes(data, shape=(8, 4), dtype="float32"):
    def change(record):
        given = dict(record["arrays"])
        given[W] = Array(dtype=dtype, shape=shape, stype="numpy.ndarray", data=data)
        record["arrays"] = ArrayRecord(given)

    return content(change)


def scaled(factor):
    return arrays(lambda given: {name: (array * factor).astype(array.dtype) for name, array in given.items()})


CORPUS = {
    # finite
    "nan in the first element": ("finite", value(W, np.nan)),
    "nan in the last element": ("finite", value(B, np.nan, -1)),
    "nan with another payload": ("finite", value(B, np.uint32(0x7FC12345).view(np.float32))),
    "signalling nan": ("finite", value(B, np.uint32(0x7F800001).view(np.float32))),
    "infinity": ("finite", value(W, np.inf, 5)),
    "minus infinity": ("finite", value(W, -np.inf, 5)),
    "all nan": ("finite", other(W, lambda a: np.full_like(a, np.nan))),
    "infinities that cancel": ("finite", other(B, lambda a: np.array([np.inf, -np.inf, 0], np.float32))),
    # dtypes
    "float64": ("shape", other(W, lambda a: a.astype(np.float64))),
    "float16": ("shape", other(W, lambda a: a.astype(np.float16))),
    "int32": ("shape", other(W, lambda a: a.astype(np.int32))),
    "int64": ("shape", other(B, lambda a: a.astype(np.int64))),
    "uint8": ("shape", other(B, lambda a: a.astype(np.uint8))),
    "bool": ("shape", other(B, lambda a: a.astype(np.bool_))),
    "complex64": ("shape", other(B, lambda a: a.astype(np.complex64))),
    "big-endian float32": ("shape", other(W, lambda a: a.astype(">f4"))),
    "bytes as text": ("shape", other(B, lambda a: np.array(["a", "b", "c"]))),
    "dates": ("shape", other(B, lambda a: np.zeros(3, "datetime64[s]"))),
    # shapes, the broadcastable ones above all
    "one element for a vector": ("shape", other(B, lambda a: a[:1])),
    "a scalar for a vector": ("shape", other(B, lambda a: a[0])),
    "a row for a vector": ("shape", other(B, lambda a: a[np.newaxis])),
    "a column for a vector": ("shape", other(B, lambda a: a[:, np.newaxis])),
    "a row for a matrix": ("shape", other(W, lambda a: a[:1])),
    "a column for a matrix": ("shape", other(W, lambda a: a[:, :1])),
    "a flat matrix": ("shape", other(W, lambda a: a.reshape(-1))),
    "a transposed matrix": ("shape", other(W, lambda a: a.T)),
    "one more row": ("shape", other(W, lambda a: np.concatenate([a, a[:1]]))),
    "zero length": ("shape", other(B, lambda a: a[:0])),
    "zero rows": ("shape", other(W, lambda a: a[:0])),
    "one more axis": ("shape", other(W, lambda a: a[..., np.newaxis])),
    # names
    "a missing array": ("names", arrays(lambda g: {k: v for k, v in g.items() if k != B})),
    "an extra array": ("names", arrays(lambda g: {**g, "extra": np.zeros(3, np.float32)})),
    "an empty name": ("names", arrays(lambda g: {**g, "": np.zeros(3, np.float32)})),
    "a renamed array": ("names", arrays(lambda g: {k.replace(B, "2.Bias"): v for k, v in g.items()})),
    "another order": ("names", arrays(lambda g: dict(reversed(g.items())))),
    "no array": ("names", arrays(lambda g: {})),
    "a name with a path": ("names", arrays(lambda g: {**g, "../../etc/passwd": np.zeros(1, np.float32)})),
    # bytes
    "no numpy file": ("bytes", broken_bytes(b"garbage")),
    "no bytes": ("bytes", broken_bytes(b"")),
    "a numpy header cut short": ("bytes", broken_bytes(b"\x93NUMPY\x01\x00v\x00{'descr': '<f4'")),
    "a pickle": ("bytes", broken_bytes(b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00]\x94(K\x01K\x02e.")),
    "far too many bytes": ("size", broken_bytes(b"\0" * 3_000_000)),
    # records
    "no arrays record": ("records", content(lambda c: c.pop("arrays"))),
    "a second arrays record": ("records", content(lambda c: c.update(more=ArrayRecord({})))),
    "arrays under another name": ("records", content(lambda c: c.update(weights=c.pop("arrays")))),
    "no metrics record": ("records", content(lambda c: c.pop("metrics"))),
    "a second metrics record": ("records", content(lambda c: c.update(more=MetricRecord({})))),
    "an empty reply": ("records", content(lambda c: c.clear())),
    # counts
    "no count": ("examples", metrics(num_examples=None)),
    "a negative count": ("examples", metrics(num_examples=-5)),
    "a count of zero": ("examples", metrics(num_examples=0)),
    "a huge count": ("examples", metrics(num_examples=10**12)),
    "the largest integer": ("examples", metrics(num_examples=2**63 - 1)),
    "more than its shard holds": ("examples", metrics(num_examples=1000)),
    "a count that is a fraction": ("examples", metrics(num_examples=36.5)),
    "a count that is a float": ("examples", metrics(num_examples=36.0)),
    "a count that is nan": ("examples", metrics(num_examples=float("nan"))),
    "a count that is infinite": ("examples", metrics(num_examples=float("inf"))),
    "a list of counts": ("examples", metrics(num_examples=[36])),
    # metrics
    "no loss": ("metrics", metrics(train_loss=None)),
    "a loss that is nan": ("metrics", metrics(train_loss=float("nan"))),
    "a loss that is infinite": ("metrics", metrics(train_loss=float("inf"))),
    "a list of losses": ("metrics", metrics(train_loss=[0.5, 0.6])),
    "a metric of its own that is nan": ("metrics", metrics(odd=float("nan"))),
    # rounds
    "a reply to round 0": ("stale", content(lambda c: c["server-round"].update({"server-round": 0}))),
    "a reply to a round to come": ("stale", content(lambda c: c["server-round"].update({"server-round": 9}))),
    "a reply to no round": ("stale", content(lambda c: c.update({"server-round": ConfigRecord({})}))),
    # norms
    "a thousand times too large": ("norm", scaled(1000.0)),
    "the largest finite values": ("norm", other(W, lambda a: np.full_like(a, 3.4e38))),
    "one absurd element": ("norm", value(B, 1e30)),
}
HARMLESS = {
    "minus zero": value(B, -0.0),
    "denormals": value(B, 1e-42),
    "the smallest denormal": value(B, np.uint32(1).view(np.float32)),
    "a metric that nobody else has": metrics(odd=3),
    "no other metric": metrics(gradient_norm=None, steps=None),
    "a settings record more": content(lambda c: c.update(note=ConfigRecord({"a": "b"}))),
}


def absent(reply):
    return []


class Tampering(GridWrapper):
    """A grid on which one client's replies to `train` are changed."""

    def __init__(self, inner, tamper):
        super().__init__(inner)
        self.tamper = tamper

    def send_and_receive(self, messages, *, timeout=None):
        for reply in self.inner.send_and_receive(messages):
            if reply.metadata.message_type == "train" and reply.metadata.src_node_id == BAD + 2:
                yield from self.tamper(reply)
            else:
                yield reply


@pytest.fixture(scope="module")
def federate(tmp_path_factory):
    """Runs one round of 5 clients and gives its store; the same for the same change and strategy."""
    folder = tmp_path_factory.mktemp("malformed")
    (folder / "small.py").write_text(TASK)
    recipe = ShardRecipe(str(folder / "small.py"), None, "iid", 5, 0)
    shards = recipe.open()
    trainer = TorchTrainer(shards.task)
    app = make_client_app(recipe)
    stores = []

    def run(tamper, strategy="fedavg"):
        store = RunStore.create(folder / f"run-{len(stores)}", {})
        stores.append(store)
        plan = Plan(task=shards.task, training=shards.task.training, rounds=1, clients=5, seed=0)
        made = make_strategy(strategy, {}, clients=5, lr=0.1)
        Federation(plan, made, trainer, shards.data.test, store).run(Tampering(InlineGrid(app, 5), tamper))
        return store

    yield run
    for store in stores:
        store.close()


@pytest.fixture(scope="module")
def without(federate):
    """strategy -> arrays_sha256 of the round in which the client gave no reply."""
    return {name: federate(absent, name).rounds()[-1].arrays for name in ("fedavg", "fedmedian")}


def test_the_corpus_is_large_enough():
    assert len(CORPUS) >= 60


@pytest.mark.parametrize("strategy", ["fedavg", "fedmedian"])
@pytest.mark.parametrize("name", CORPUS)
def test_a_malformed_update_is_named_and_leaves_no_trace(federate, without, name, strategy):
    rule, tamper = CORPUS[name]
    store = federate(tamper, strategy)
    assert store.rounds()[-1].arrays == without[strategy]
    said = store.events("rejected")
    assert [(event["client"], event["round"]) for event in said] == [(BAD, 1)]
    assert said[0]["data"]["reason"].startswith(f"{rule}:")
    assert [(row["client"], row["rule"]) for row in store.quarantined()] == [(BAD, rule)]
    assert store.rounds()[-1].rejected == 1


@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_odd_but_harmless_is_accepted(federate, name):
    store = federate(HARMLESS[name])
    assert store.rounds()[-1].clients_ok == 5
    assert store.events("rejected") == []


def test_a_second_reply_of_a_client_is_named_and_counts_nothing(federate):
    once = federate(lambda reply: [reply]).rounds()[-1].arrays
    twice = federate(lambda reply: [reply, reply])
    assert twice.rounds()[-1].arrays == once
    assert "duplicate" in twice.events("rejected")[0]["data"]["reason"]


def test_a_reply_of_a_node_that_nobody_asked_is_named(federate):
    def stranger(reply):
        return [reply, Message(RecordDict(reply.content), reply_to=Message(RecordDict(), 999, "train"))]

    store = federate(stranger)
    assert store.rounds()[-1].clients_ok == 5
    assert "stranger" in store.events("rejected")[0]["data"]["reason"]


def test_quarantined_arrays_are_kept_as_they_came(federate):
    store = federate(scaled(1000.0))
    row = store.quarantined()[0]
    kept = store.get_arrays(row["arrays"])
    assert np.abs(kept[W]).max() > 100
    assert row["norm"] > 100
    assert row["examples"] == 36
