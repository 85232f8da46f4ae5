"""The guard refuses every update that could harm the model, and says why."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MessageType, MetricRecord, RecordDict

from fedloom_server.grids.flower_ids import adopt_identity
from fedloom_server.guard.guard import MAX_EXAMPLES, Guard

GLOBAL = {"w": np.zeros((2, 3), np.float32), "b": np.zeros(3, np.float32)}


def reply(arrays=None, metrics=None, **extra):
    adopt_identity()
    arrays = GLOBAL if arrays is None else arrays
    content = {
        "arrays": ArrayRecord({name: Array(array) for name, array in arrays.items()}),
        "metrics": MetricRecord({"num-examples": 5, "train-loss": 0.5} if metrics is None else metrics),
        **extra,
    }
    return Message(RecordDict(content), 2, MessageType.TRAIN)


@pytest.fixture(scope="module")
def guard():
    return Guard(GLOBAL, ("train-loss",))


def test_the_tasks_own_arrays_pass_even_with_minus_zero_and_denormals(guard):
    odd = {"w": np.full((2, 3), -0.0, np.float32), "b": np.full(3, 1e-42, np.float32)}
    assert guard.check_update(reply(), 1).reason == ""
    assert guard.check_update(reply(odd), 1).reason == ""


def poisoned(value):
    w = np.zeros((2, 3), np.float32)
    w[1, 2] = value
    return {**GLOBAL, "w": w}


@pytest.mark.parametrize(
    ("arrays", "rule"),
    [
        (poisoned(np.nan), "finite"),
        (poisoned(np.inf), "finite"),
        (poisoned(-np.inf), "finite"),
        ({**GLOBAL, "b": np.zeros(1, np.float32)}, "shape"),
        ({**GLOBAL, "b": np.zeros((1, 3), np.float32)}, "shape"),
        ({**GLOBAL, "b": np.zeros(0, np.float32)}, "shape"),
        ({**GLOBAL, "b": np.float32(0)}, "shape"),
        ({**GLOBAL, "w": np.zeros((3, 2), np.float32)}, "shape"),
        ({**GLOBAL, "b": np.zeros(3)}, "shape"),
        ({**GLOBAL, "b": np.zeros(3, np.float16)}, "shape"),
        ({**GLOBAL, "b": np.zeros(3, np.int32)}, "shape"),
        ({**GLOBAL, "b": np.zeros(3, np.complex64)}, "shape"),
        ({**GLOBAL, "b": np.zeros(3, np.bool_)}, "shape"),
        ({"w": GLOBAL["w"]}, "names"),
        ({**GLOBAL, "c": GLOBAL["b"]}, "names"),
        ({"b": GLOBAL["b"], "w": GLOBAL["w"]}, "names"),
        ({}, "names"),
    ],
)
def test_other_arrays_than_the_tasks_are_refused_by_rule(guard, arrays, rule):
    assert guard.check_update(reply({k: np.asarray(v) for k, v in arrays.items()}), 1).reason.startswith(rule)


@pytest.mark.parametrize("count", [0, -1, MAX_EXAMPLES + 1, 5.0])
def test_an_absurd_example_count_is_refused(guard, count):
    assert guard.check_update(reply(metrics={"num-examples": count}), 1).reason.startswith("examples")


@pytest.mark.parametrize(
    "metrics",
    [
        {},
        {"train-loss": 1.0},
        {"num-examples": 5, "train-loss": float("nan")},
        {"num-examples": 5, "x": [1.0]},
    ],
)
def test_missing_or_non_finite_metrics_are_refused(guard, metrics):
    assert guard.check_update(reply(metrics=metrics), 1).reason


def test_a_second_array_record_is_refused(guard):
    extra = ArrayRecord({"w": Array(GLOBAL["w"])})
    assert guard.check_update(reply(extra=extra), 1).reason.startswith("records")


def test_bytes_that_are_no_array_are_refused(guard):
    broken = Array(dtype="float32", shape=(2, 3), stype="numpy.ndarray", data=b"\x93NUMPY garbage")
    message = reply()
    message.content["arrays"] = ArrayRecord({"w": broken, "b": Array(GLOBAL["b"])})
    assert guard.check_update(message, 1).reason.startswith("bytes")


def test_an_evaluation_may_have_measured_nothing(guard):
    assert guard.check_evaluation(reply(metrics={"num-examples": 0, "loss": 0.0}), 1).reason == ""
