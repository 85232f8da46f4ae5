"""Malformed updates through a real round: none reaches the model, none ends the run, each is named."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fedloom_client.flower_app import ROUND, make_client_app
from fedloom_client.shards import ShardRecipe
from fedloom_client.torch_trainer import TorchTrainer
from fedloom_server.federation import Federation, Plan
from fedloom_server.grids import GridWrapper
from fedloom_server.store import RunStore
from fedloom_server.strategies import make_strategy
from fedloom_simulations.inline import InlineGrid

TASK = """
import numpy as np
from torch import nn
from fedloom_client import ArraySamples, Data, Task, Training

def load(folder):
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, (240, 4)).astype(np.float32)
    y = x[:, :3].argmax(1)
    return Data(train=ArraySamples(x[:200], y[:200]), test=ArraySamples(x[200:], y[200:]))

task = Task(name="small", model=lambda: nn.Linear(4, 3), data=load, training=Training(lr=0.1, batch_size=20))
"""
BAD = 1  # the client whose reply is changed


class Swapping(GridWrapper):
    """A grid that gives replies to `train` in place of the bad client's."""

    def __init__(self, inner, change):
        super().__init__(inner)
        self.change = change

    def send_and_receive(self, messages, *, timeout=None):
        for reply in list(self.inner.send_and_receive(messages)):
            bad = reply.metadata.message_type == "train" and reply.metadata.src_node_id == BAD + 2
            yield from self.change(reply) if bad else [reply]


@pytest.fixture(scope="module")
def final(tmp_path_factory):
    """Runs a round with the bad client's reply changed; gives the last hash, its row, and the refusals."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "small.py").write_text(TASK)
    recipe = ShardRecipe(str(folder / "small.py"), None, "iid", 5, 0)
    shards = recipe.open()

    def run(change, strategy="fedavg"):
        plan = Plan(task=shards.task, training=shards.task.training, rounds=1, clients=5, seed=0)
        with RunStore.create(folder / f"run-{len(list(folder.iterdir()))}", {}) as store:
            made = make_strategy(strategy, {}, clients=5, lr=0.1)
            federation = Federation(plan, made, TorchTrainer(shards.task), shards.data.test, store)
            federation.run(Swapping(InlineGrid(make_client_app(recipe), 5), change))
            return store.rounds()[-1].arrays, store.client_rounds("train")[BAD], store.events("rejected")

    return run


@pytest.fixture(scope="module")
def without(final):
    """The hash of the round in which the bad client never answers, by strategy."""
    return {strategy: final(lambda reply: [], strategy)[0] for strategy in ("fedavg", "fedmedian")}


def arrays(change):
    """Other arrays in the reply: `change` gets name -> array."""

    def apply(reply):
        given = {name: entry.numpy().copy() for name, entry in reply.content["arrays"].items()}
        changed = change(given)
        record = {name: a if isinstance(a, Array) else Array(np.asarray(a)) for name, a in changed.items()}
        reply.content["arrays"] = ArrayRecord(record)
        return [reply]

    return apply


def weight(change):
    return arrays(lambda a: {**a, "weight": change(a["weight"])})


def bias(change):
    return arrays(lambda a: {**a, "bias": change(a["bias"])})


def with_value(value):
    def change(array):
        array.flat[5] = value
        return array

    return weight(change)


def metrics(**changes):
    def apply(reply):
        kept = {**dict(reply.content["metrics"]), **{k.replace("_", "-"): v for k, v in changes.items()}}
        reply.content["metrics"] = MetricRecord({k: v for k, v in kept.items() if v is not None})
        return [reply]

    return apply


def content(change):
    def apply(reply):
        records = dict(reply.content)
        change(records)
        reply.content = RecordDict(records)
        return [reply]

    return apply


def bytes_of(data, stype="numpy.ndarray"):
    return bias(lambda b: Array(dtype="float32", shape=(3,), stype=stype, data=data))


DTYPES = [
    "float16",
    "float64",
    ">f4",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "bool",
    "complex64",
    "complex128",
]
SHAPES = [(), (1,), (3, 1), (1, 3), (0,), (4,), (2,), (6,), (3, 0)]
VALUES = [np.nan, np.inf, -np.inf]
COUNTS = [0, -1, -(10**9), 10**9 + 1, 2**62, 10**6, 5.0, 0.5, float("nan"), float("inf"), [5], None]
CORPUS = [
    *[(f"value {value}", "finite", with_value(value)) for value in VALUES],
    ("all NaN", "finite", weight(lambda w: w * np.nan)),
    *[(f"dtype {d}", "shape", bias(lambda b, d=d: b.astype(d))) for d in DTYPES],
    *[(f"bias of shape {s}", "shape", bias(lambda b, s=s: np.zeros(s, np.float32))) for s in SHAPES],
    ("weight transposed", "shape", weight(lambda w: w.T.copy())),
    ("weight flat", "shape", weight(np.ravel)),
    ("weight of one row", "shape", weight(lambda w: w[:1])),
    ("weight of one column", "shape", weight(lambda w: w[:, :1].copy())),
    ("weight with an axis more", "shape", weight(lambda w: w[None])),
    ("no arrays", "names", arrays(lambda a: {})),
    ("no bias", "names", arrays(lambda a: {"weight": a["weight"]})),
    ("an array more", "names", arrays(lambda a: {**a, "extra": a["bias"]})),
    ("other order", "names", arrays(lambda a: {"bias": a["bias"], "weight": a["weight"]})),
    ("renamed", "names", arrays(lambda a: {"weight": a["weight"], "Bias": a["bias"]})),
    ("empty name", "names", arrays(lambda a: {"weight": a["weight"], "": a["bias"]})),
    ("huge", "size", arrays(lambda a: {**a, "extra": np.zeros(400_000, np.float32)})),
    ("bytes of nothing", "bytes", bytes_of(b"")),
    ("bytes of garbage", "bytes", bytes_of(b"\x93NUMPY garbage")),
    ("bytes of a pickle", "bytes", bytes_of(b"\x80\x04K\x01.")),
    ("bytes of another kind", "bytes", bytes_of(b"\0" * 12, "torch.tensor")),
    *[(f"count {count}", "examples", metrics(num_examples=count)) for count in COUNTS],
    ("loss missing", "metrics", metrics(train_loss=None)),
    *[(f"loss {loss}", "metrics", metrics(train_loss=loss)) for loss in (np.nan, np.inf, -np.inf)],
    ("metric as a list", "metrics", metrics(odd=[1.0, 2.0])),
    ("metric NaN", "metrics", metrics(odd=float("nan"))),
    ("no metrics", "records", content(lambda r: r.pop("metrics"))),
    ("no array record", "records", content(lambda r: r.pop("arrays"))),
    ("two array records", "records", content(lambda r: r.update(more=r["arrays"]))),
    ("two metric records", "records", content(lambda r: r.update(more=r["metrics"]))),
    ("array record renamed", "records", content(lambda r: r.update(model=r.pop("arrays")))),
    ("nothing at all", "records", content(dict.clear)),
    *[
        (f"to round {n}", "stale", content(lambda r, n=n: r.update({ROUND: ConfigRecord({ROUND: n})})))
        for n in (0, 2, -1, "1 ")
    ],
    ("a thousand times too far", "norm", weight(lambda w: w * np.float32(1000))),
    ("sign and scale", "norm", weight(lambda w: w * np.float32(-500))),
    ("the largest float", "norm", with_value(np.finfo(np.float32).max)),
]


def test_the_corpus_is_large_enough():
    assert len(CORPUS) >= 60
    assert len({name for name, *_ in CORPUS}) == len(CORPUS)


@pytest.mark.parametrize("strategy", ["fedavg", "fedmedian"])
@pytest.mark.parametrize(("rule", "change"), [pytest.param(*case, id=name) for name, *case in CORPUS])
def test_a_malformed_update_is_named_and_leaves_no_trace(final, without, strategy, rule, change):
    arrays_after, row, events = final(change, strategy)
    assert (row.status, row.reason.partition(":")[0]) == ("rejected", rule)
    assert [event["client"] for event in events] == [BAD]
    assert events[0]["data"]["reason"] == row.reason
    assert arrays_after == without[strategy]


@pytest.mark.parametrize("strategy", ["fedavg", "fedmedian"])
def test_minus_zero_and_denormals_are_numbers_like_any_other(final, strategy):
    assert final(with_value(-0.0), strategy)[1].status == "ok"
    assert final(with_value(1e-42), strategy)[1].status == "ok"


def test_a_duplicate_counts_once_and_is_said(final):
    once, _, none = final(lambda reply: [reply])
    twice, row, events = final(lambda reply: [reply, reply])
    assert (once, none, row.status) == (twice, [], "ok")
    assert events[0]["data"]["reason"].startswith("duplicate")


def test_a_reply_of_a_stranger_counts_for_nothing(final, without):
    def stranger(reply):
        return [Message(reply.content, reply_to=Message(RecordDict(), 999, "train"))]

    arrays_after, row, events = final(stranger)
    assert (arrays_after, row.reason) == (without["fedavg"], "no reply")
    assert events[0]["data"]["reason"].startswith("stranger")
