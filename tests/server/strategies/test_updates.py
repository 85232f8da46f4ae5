"""Updates reach a strategy as their mean where that is all it needs, and one by one where it is not."""

import copy
import logging

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

from fedloom_client.flower.records import from_record, to_record
from fedloom_server.grids.flower_ids import adopt_identity
from fedloom_server.strategies.registry import make_strategy
from fedloom_server.strategies.updates import AllUpdates, MeanOfUpdates, collect, same_metrics, uses_only_mean
from fedloom_simulations.engine.inline import InlineGrid

adopt_identity()
RNG = np.random.default_rng(5)
GLOBAL = {"w": RNG.normal(size=(4, 3)).astype(np.float32), "mean": np.ones(3, np.float32)}
NONE: frozenset[str] = frozenset()


def reply(client, arrays, **metrics):
    content = {
        "arrays": ArrayRecord({name: Array(array) for name, array in arrays.items()}),
        "metrics": MetricRecord(metrics),
    }
    return Message(RecordDict(content), client + 2, MessageType.TRAIN)


def replies(clients=7):
    rng = np.random.default_rng(1)
    return [
        reply(
            client,
            {name: array + rng.normal(0, 0.1, array.shape).astype("f4") for name, array in GLOBAL.items()},
            **{"num-examples": int(rng.integers(1, 90)), "train-loss": float(rng.random())},
        )
        for client in range(clients)
    ]


def aggregated(strategy, given, updates):
    """What a strategy makes of replies, with a step before it so that momenta matter."""
    for number in (1, 2):
        strategy.configure_train(number, to_record(GLOBAL), ConfigRecord({}), InlineGrid(None, 7))
        gathered = updates()
        for client, message in enumerate(copy.deepcopy(given)):
            gathered.add(client, message, 1.0)
        arrays, metrics = strategy.aggregate_train(number, gathered.for_strategy()[0])
    return from_record(arrays), dict(metrics)


@pytest.mark.parametrize("name", ["fedavg", "fedprox", "fedavgm", "fedadagrad", "fedadam", "fedyogi"])
def test_a_strategy_of_the_mean_does_the_same_with_the_mean_alone(name):
    options = {"server_momentum": "0.5"} if name == "fedavgm" else {}
    strategies = [make_strategy(name, options, clients=7, lr=0.1) for _ in range(2)]
    assert all(uses_only_mean(strategy) for strategy in strategies)
    mean, metrics = aggregated(strategies[0], replies(), lambda: MeanOfUpdates(GLOBAL, NONE, 90))
    every, expected = aggregated(strategies[1], replies(), lambda: AllUpdates(GLOBAL, NONE, 90))
    assert metrics == pytest.approx(expected)
    for key, array in every.items():
        assert mean[key].dtype == array.dtype
        np.testing.assert_allclose(mean[key], array, rtol=0, atol=3e-6)


@pytest.mark.parametrize(
    "name",
    ["fedmedian", "fedtrimmedavg", "krum", "multikrum", "bulyan", "qfedavg", "dp-server-adaptive:fedavg"],
)
def test_a_strategy_that_needs_every_update_gets_them_in_the_order_of_the_shards(name):
    options = {"noise_multiplier": "0.1"} if name.startswith("dp") else {}
    strategy = make_strategy(name, options, clients=7, lr=0.1)
    updates = collect(strategy, GLOBAL, NONE, 90)
    for client, message in reversed(list(enumerate(replies()))):
        updates.add(client, message, 1.0)
    assert [message.metadata.dst_node_id for message in updates.for_strategy()[0]] == list(range(2, 9))


def test_a_strategy_of_ones_own_may_say_that_the_mean_is_enough():
    class Own(FedAvg):
        pass

    assert not uses_only_mean(Own())
    Own.only_weighted_mean = True
    assert uses_only_mean(Own())


def test_own_metric_aggregation_needs_every_update():
    assert not uses_only_mean(FedAvg(train_metrics_aggr_fn=lambda records, key: MetricRecord({})))


@pytest.mark.parametrize("kind", [MeanOfUpdates, AllUpdates])
def test_statistics_are_averaged_beside_the_strategy(kind):
    updates = kind(GLOBAL, frozenset({"mean"}), 90)
    for client, message in enumerate(replies()):
        updates.add(client, message, 1.0)
    shown, statistics = updates.for_strategy()
    assert all(list(message.content["arrays"]) == ["w"] for message in shown)
    weights = [message.content["metrics"]["num-examples"] for message in replies()]
    values = [from_record(message.content["arrays"])["mean"] for message in replies()]
    np.testing.assert_allclose(statistics["mean"], np.average(values, axis=0, weights=weights), rtol=1e-6)


def test_statistics_are_taken_out_of_a_devices_record_without_a_word_of_flowers(caplog):
    class OfADevice(ArrayRecord):
        pass

    given = replies(2)
    for message in given:
        message.content["arrays"] = OfADevice(dict(message.content.array_records["arrays"]))
    caplog.clear()
    gathered = AllUpdates(GLOBAL, frozenset({"mean"}), 90)
    with caplog.at_level(logging.WARNING, "flwr"):
        for client, message in enumerate(given):
            gathered.add(client, message, 1.0)
        gathered.for_strategy()
    assert caplog.records == []


@pytest.mark.parametrize("kind", [MeanOfUpdates, AllUpdates])
def test_no_updates_give_no_reply(kind):
    assert kind(GLOBAL, NONE, 1).for_strategy() == ([], {})


def test_a_metric_that_one_client_alone_reports_does_not_end_the_round():
    arrays = {"w": GLOBAL["w"]}
    given = [
        reply(0, arrays, **{"num-examples": 1, "train-loss": 1.0, "odd": 3}),
        reply(1, arrays, **{"train-loss": 4.0, "num-examples": 2}),
    ]
    updates = MeanOfUpdates(arrays, NONE, 2)
    for client, message in enumerate(given):
        updates.add(client, message, 1.0)
    assert dict(updates.for_strategy()[0][0].content["metrics"]) == {"num-examples": 3, "train-loss": 3.0}
    assert {tuple(message.content["metrics"]) for message in same_metrics(given)} == {
        ("num-examples", "train-loss")
    }
