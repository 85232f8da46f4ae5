"""The round loop on the inline grid, with a real trainer on a small task."""

import numpy as np
import pytest
from flwr.app import Array, Error, Message, RecordDict

from fedloom_client.data.shards import ShardRecipe
from fedloom_client.flower.app import make_client_app
from fedloom_client.loading import load_task
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
from fedloom_client import ArraySamples, Data, Standardize, Task, Training

def load(folder):
    rng = np.random.default_rng(0)
    x = rng.normal(5, 2, (240, 4)).astype(np.float32)
    y = x[:, :3].argmax(1)
    return Data(train=ArraySamples(x[:200], y[:200]), test=ArraySamples(x[200:], y[200:]))

def model():
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))

training = Training(lr=0.1, batch_size=20)
task = Task(name="small", model=model, data=load, preprocess=Standardize(), training=training)
"""


class Tampering(GridWrapper):
    """A grid between coordinator and clients that changes or reorders replies to `train`."""

    def __init__(self, inner, change):
        super().__init__(inner)
        self.change = change

    def send_and_receive(self, messages, *, timeout=None):
        replies = list(self.inner.send_and_receive(messages))
        return self.change(replies) if replies and replies[0].metadata.message_type == "train" else replies


@pytest.fixture
def federate(tmp_path):
    """Runs a federation of 5 clients and gives its store, closed at the end."""
    (tmp_path / "small.py").write_text(TASK)
    stores = []

    def run(change=lambda replies: replies, strategy="fedavg", rounds=2, seed=0, **options):
        recipe = ShardRecipe(str(tmp_path / "small.py"), None, "iid", 5, seed)
        shards = recipe.open()
        store = RunStore.create(tmp_path / f"run-{len(stores)}", {})
        stores.append(store)
        plan = Plan(task=shards.task, training=shards.task.training, rounds=rounds, clients=5, seed=seed)
        made = make_strategy(strategy, options, clients=5, lr=0.1)
        federation = Federation(plan, made, TorchTrainer(shards.task), shards.data.test, store)
        federation.run(Tampering(InlineGrid(make_client_app(recipe), 5), change))
        return store

    yield run
    for store in stores:
        store.close()


def final(store):
    return store.rounds()[-1].arrays


def of_client(replies, client):
    return next(reply for reply in replies if reply.metadata.src_node_id == client + 2)


def poison(replies):
    record = of_client(replies, 1).content["arrays"]
    name = next(iter(record))
    record[name] = Array(np.full_like(record[name].numpy(), np.nan))
    return replies


def test_the_order_in_which_replies_arrive_does_not_change_a_bit(federate):
    assert final(federate()) == final(federate(lambda replies: replies[::-1]))


def test_a_poisoned_update_is_rejected_named_and_leaves_no_trace_in_the_model(federate):
    poisoned = federate(poison)
    without = federate(lambda replies: [reply for reply in replies if reply is not of_client(replies, 1)])
    assert final(poisoned) == final(without)
    assert [entry.rejected for entry in poisoned.rounds()] == [0, 1, 1]
    assert poisoned.events("rejected")[0]["client"] == 1
    assert "finite" in poisoned.events("rejected")[0]["data"]["reason"]
    assert [entry.clients_failed for entry in without.rounds()] == [0, 1, 1]
    assert without.events("failed")[0]["data"]["reason"] == "no reply"


def test_an_error_reply_is_a_failed_client_with_its_reason(federate):
    def fail(replies):
        reply = of_client(replies, 0)
        question = Message(RecordDict(), reply.metadata.src_node_id, "train")
        return [
            Message(Error(1, "battery empty"), reply_to=question),
            *(r for r in replies if r is not reply),
        ]

    store = federate(fail)
    assert store.events("failed")[0]["data"]["reason"] == "battery empty"
    assert store.rounds()[-1].clients_ok == 4


def test_a_reply_counts_once(federate):
    assert final(federate(lambda replies: [*replies, *replies])) == final(federate())


def test_a_stranger_is_not_counted(federate):
    def stranger(replies):
        question = Message(RecordDict(), 999, "train")
        return [Message(replies[0].content, reply_to=question), *replies]

    assert final(federate(stranger)) == final(federate())


@pytest.mark.parametrize("strategy", ["fedadam", "fedyogi", "fedavgm"])
def test_a_server_optimiser_leaves_batch_norms_variance_positive(federate, strategy):
    options = {"server_learning_rate": "3.0"} if strategy == "fedavgm" else {"eta": "1.0"}
    store = federate(strategy=strategy, rounds=4, **options)
    arrays = store.get_arrays(final(store))
    assert (arrays["1.running_var"] > 0).all()
    assert all(np.isfinite(array).all() for array in arrays.values())


def test_every_strategy_keeps_the_tasks_dtypes_and_order(federate):
    store = federate(strategy="fedadam", eta="0.01")
    arrays = store.get_arrays(final(store))
    task = load_task(str(store.folder.parent / "small.py"))
    assert list(arrays) == list(TorchTrainer(task).initial_arrays(0))
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.float32)}


def test_only_arrays_in_use_stay_on_disk(federate):
    store = federate(rounds=9)
    kept = {path.stem for path in (store.folder / "arrays").iterdir()}
    assert final(store) in kept
    assert len(kept) <= 5  # the last three rounds, the best one, the preprocessing constants


def test_a_repeated_round_asks_as_many_clients_and_others_in_the_place_of_those_that_failed(federate):
    attempts = []

    def fail_at_first(replies):
        attempts.append({reply.metadata.src_node_id for reply in replies})
        if len(attempts) > 1:
            return replies
        questions = [Message(RecordDict(), node, "train") for node in sorted(attempts[0])]
        return [Message(Error(1, "no power"), reply_to=question) for question in questions]

    store = federate(fail_at_first, rounds=1, fraction_train="0.4", min_train_nodes="1")
    assert [len(asked) for asked in attempts] == [2, 2]
    assert not attempts[0] & attempts[1]
    assert [event["data"]["attempt"] for event in store.events("repeated")] == [1]
    assert store.rounds()[-1].clients_ok == 2
    assert store.rounds()[-1].clients_failed == 2


def test_where_everybody_was_asked_a_repeated_round_asks_everybody_again(federate):
    attempts = []

    def fail_at_first(replies):
        attempts.append(len(replies))
        return replies if len(attempts) > 1 else []

    federate(fail_at_first, rounds=1)
    assert attempts == [5, 5]
