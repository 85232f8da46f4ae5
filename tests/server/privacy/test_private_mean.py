"""Noise is added once, on a sum that no client can change by more than the bound."""

import math

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom_client.flower.records import from_record, to_record
from fedloom_client.update_privacy import clipped_difference
from fedloom_server.grids.flower_ids import adopt_identity
from fedloom_server.strategies.registry import make_strategy
from fedloom_simulations.engine.inline import InlineGrid

adopt_identity()
CLIENTS = 10
GLOBAL = {"w": np.ones((4, 3), np.float32), "b": np.zeros(3, np.float32)}


def made(name="dp-server-fixed", clients=CLIENTS, **options):
    defaults = {"noise_multiplier": "0"} | ({} if "adaptive" in name else {"clipping_norm": "1"})
    texts = {key: str(value) for key, value in options.items()}
    return make_strategy(name, defaults | texts, clients=clients, lr=0.1)


def asked(strategy, number=1, clients=CLIENTS, arrays=GLOBAL, attempt=1):
    """The nodes that are asked."""
    config = ConfigRecord({"attempt": attempt})
    messages = strategy.configure_train(number, to_record(arrays), config, InlineGrid(None, clients))
    return [message.metadata.dst_node_id for message in messages]


def updates(seed, clients=CLIENTS, scale=1.0, arrays=GLOBAL):
    rng = np.random.default_rng(seed)
    return [
        {k: (v + rng.normal(0, scale, v.shape)).astype(v.dtype) for k, v in arrays.items()}
        for _ in range(clients)
    ]


def aggregated(strategy, sent, number=1, arrays=GLOBAL):
    asked(strategy, number, arrays=arrays)
    replies = []
    for client, update in enumerate(sent):
        metrics = MetricRecord({"num-examples": 1 + client, "train-loss": 1.0})
        content = RecordDict({"arrays": to_record(update), "metrics": metrics})
        replies.append(Message(content, client + 2, MessageType.TRAIN))
    record, _ = strategy.aggregate_train(number, replies)
    return from_record(record)


def distance(first, second):
    return math.sqrt(sum(float(np.square(first[k].astype(float) - second[k]).sum()) for k in first))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.floats(0.01, 100), st.integers(0, CLIENTS - 1), st.floats(0.1, 5))
def test_a_client_moves_the_mean_by_the_bound_over_the_expected_number_at_most(seed, scale, client, bound):
    """Whatever it sends, whoever else is there, however many examples it says it has."""
    sent = updates(seed, scale=scale)
    with_it = aggregated(made(clipping_norm=bound), sent)
    without = aggregated(made(clipping_norm=bound), sent[:client] + sent[client + 1 :])
    assert distance(with_it, without) <= bound / CLIENTS * (1 + 1e-3) + 1e-5


def test_it_is_the_mean_of_clipped_updates():
    sent = updates(0)
    parts = [clipped_difference(GLOBAL, update, 1.0)[0] for update in sent]
    found = aggregated(made(), sent)
    for name, array in GLOBAL.items():
        assert np.allclose(found[name], array + sum(part[name] for part in parts) / CLIENTS, atol=1e-6)


WIDE = {"w": np.zeros((300, 300), np.float32)}


@pytest.mark.parametrize(("name", "rate"), [("dp-server-fixed", 1.0), ("dp-client-fixed", 0.5)])
def test_the_noise_has_the_deviation_that_the_accountant_is_told(name, rate):
    strategy = made(name, noise_multiplier=2, clipping_norm=3, fraction_train=rate)
    found = aggregated(strategy, [WIDE] * CLIENTS, arrays=WIDE)["w"]
    expected = 2 * 3 / (CLIENTS * rate)
    assert abs(found.std() / expected - 1) < 0.02
    assert abs(found.mean()) < 5 * expected / 300


def test_sum_and_count_of_adaptive_clipping_together_cost_what_was_asked_for():
    strategy = made("dp-server-adaptive", noise_multiplier=0.8, clipped_count_stddev=2)
    on_count = 2 / 0.5  # a client changes the count by 1/2
    assert math.isclose(strategy.noise_on_sum**-2 + on_count**-2, 0.8**-2)


def test_adaptive_clipping_finds_the_quantile():
    """Updates have norms from 1 to 10: half of them are longer than 5.5."""
    strategy = made("dp-server-adaptive", clip_norm_lr=0.3)
    arrays = {"w": np.zeros(1, np.float32)}
    sent = [{"w": np.array([norm], np.float32)} for norm in range(1, 11)]
    for number in range(1, 80):
        aggregated(strategy, sent, number, arrays)
    assert 5 <= strategy.clipping_norm <= 6


def test_what_follows_the_noise_works_on_the_noisy_mean_alone():
    """A server optimiser gets what the mean alone would give it: its state holds nothing bare."""
    sent = updates(1)
    noisy = aggregated(made(noise_multiplier=1), sent)
    stepped = aggregated(made("dp-server-fixed:fedadam", noise_multiplier=1, eta=0.1), sent)
    plain = make_strategy("fedadam", {"eta": "0.1"}, clients=CLIENTS, lr=0.1)
    assert distance(stepped, aggregated(plain, [noisy])) == 0


def test_noise_is_the_same_for_the_same_sum_and_another_for_any_other():
    """The same noise on two sums would give away their difference."""
    sent = updates(2)
    noise = [
        distance(aggregated(made(noise_multiplier=1), u), aggregated(made(noise_multiplier=1), v))
        for u, v in [(sent, sent), (sent, sent[1:])]
    ]
    assert noise[0] == 0
    assert noise[1] > 0.1 * math.sqrt(15)  # two independent draws of deviation 0.1, on 15 elements


def test_secret_noise_is_never_the_same():
    first, second = made(noise_multiplier=1), made(noise_multiplier=1)
    first.seeded = second.seeded = False
    assert distance(aggregated(first, updates(3)), aggregated(second, updates(3))) > 0


def test_each_client_takes_part_by_a_coin_of_its_own():
    strategy = made(clients=400, fraction_train=0.25)
    drawn = [set(asked(strategy, number, clients=400)) for number in range(1, 21)]
    assert abs(sum(map(len, drawn)) / (400 * 20) - 0.25) < 0.02
    assert len({len(nodes) for nodes in drawn}) > 5  # not a fixed number
    smaller = set(asked(strategy, 1, clients=200))
    assert smaller == {node for node in drawn[0] if node < 202}  # who else is there changes no coin
    assert set(asked(strategy, 1, clients=400, attempt=2)) != drawn[0]


def test_a_round_that_nobody_was_drawn_for_is_noise():
    found = aggregated(made(noise_multiplier=1), [])
    assert 0 < distance(found, GLOBAL) < 2
