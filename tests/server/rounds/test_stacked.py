"""Replies that come together are judged and summed as if each had come alone."""

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, MessageType, RecordDict

from fedloom_client.flower.messages import ROUND
from fedloom_client.flower.records import count_bytes, from_record
from fedloom_server.grids.flower_ids import adopt_identity
from fedloom_server.guard.guard import Guard
from fedloom_server.guard.norms import bucket
from fedloom_server.rounds.stacked import StackedReplies
from fedloom_server.strategies.updates import AllUpdates, MeanOfUpdates

RNG = np.random.default_rng(5)
# The larger array is longer than the piece in which norms are summed.
GLOBAL = {"w": RNG.normal(size=(200, 150)).astype(np.float32), "b": np.zeros(3, np.float32)}
CLIENTS = [3, 0, 7, 5, 1, 9]


@pytest.fixture
def stack():
    adopt_identity()
    content = RecordDict({"config": ConfigRecord({ROUND: 2})})
    scales = np.array([0.1, 0.1, 2.0, 0.1, 0.3, 0.1], np.float32)
    arrays = {
        name: (array + RNG.normal(size=(6, *array.shape)) * scales.reshape(6, *[1] * array.ndim)).astype("f4")
        for name, array in GLOBAL.items()
    }
    metrics = [{"num-examples": 5 + k, "train-loss": 0.5 + k, "seconds": 0.1} for k in range(6)]
    warnings = [(), ("a layer's gradients vanish",), (), (), (), ()]
    questions = [Message(content, 2 + client, MessageType.TRAIN) for client in CLIENTS]
    return StackedReplies(questions, metrics, warnings, arrays)


def test_the_guard_finds_the_same(stack):
    stack.arrays["w"][2, 5, 7] = np.nan
    stack.arrays["b"][4, 0] = np.inf
    stack.metrics[3]["num-examples"] = -1
    stack.metrics[5]["train-loss"] = float("nan")
    guard = Guard(GLOBAL, ("train-loss",), dict.fromkeys(CLIENTS, 8))
    findings = guard.check_stack(stack, 2, CLIENTS)
    alone = [
        guard.check_update(reply, 2, client) for client, reply in zip(CLIENTS, stack.messages(), strict=True)
    ]
    assert findings == alone
    assert [bool(finding.reason) for finding in findings] == [False, False, True, True, True, True]


@pytest.mark.parametrize(
    ("arrays", "number", "rule"),
    [
        ({"w": GLOBAL["w"]}, 2, "names"),
        ({**GLOBAL, "b": np.zeros(4, "f4")}, 2, "shape"),
        (GLOBAL, 3, "stale"),
    ],
)
def test_what_is_wrong_with_all_is_found_in_each(stack, arrays, number, rule):
    wrong = StackedReplies(
        stack.questions, stack.metrics, stack.warnings, {n: np.stack([a] * 6) for n, a in arrays.items()}
    )
    findings = Guard(GLOBAL, ("train-loss",)).check_stack(wrong, number, CLIENTS)
    assert [finding.reason.split(":")[0] for finding in findings] == [rule] * 6


@pytest.mark.parametrize("kind", [MeanOfUpdates, AllUpdates])
@pytest.mark.parametrize("kept", [range(6), [0, 2, 5]])
def test_updates_come_to_the_same_bits(stack, kind, kept):
    found = Guard(GLOBAL).check_stack(stack, 2, CLIENTS)
    norms = {k: found[k].norm for k in kept}
    assert len({bucket(norm) for norm in norms.values()}) > 1
    together, alone = (kind(GLOBAL, frozenset(), 20) for _ in range(2))
    together.add_stack(CLIENTS, stack, norms)
    for k in kept:
        alone.add(CLIENTS[k], stack.message(k), norms[k])
    for ours, theirs in zip(together.for_strategy()[0], alone.for_strategy()[0], strict=True):
        assert ours.content["metrics"] == theirs.content["metrics"]
        for name, array in from_record(ours.content["arrays"]).items():
            assert array.tobytes() == from_record(theirs.content["arrays"])[name].tobytes()


def test_bytes_are_those_of_each_reply(stack):
    counted = [sum(map(count_bytes, reply.content.values())) for reply in stack.messages()]
    assert stack.sizes() == counted
    assert counted[1] > counted[0]
