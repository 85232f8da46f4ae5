"""What a device's worker sends under secure aggregation: masked vectors, and nothing beside them."""

import math

import numpy as np
import pytest

from fedloom_client.device.memory import Memory
from fedloom_client.device.node_worker import NodeWorker
from fedloom_client.device.workshop import Watch
from fedloom_client.node import Description
from fedloom_client.secure.participant import SecureError
from fedloom_client.trainer import Update
from fedloom_client.training import Training
from fedloom_client.wire import settings
from fedloom_protos.v1 import link_pb2 as pb

ARRAYS = {"w": np.zeros(30, np.float32)}
SUM = {"secure.clip": 10.0, "secure.heaviest": 100, "secure.clients": 3, "secure.present": "3"}


class Learner:
    """Adds 1 to everything, and tells how it goes."""

    def describe(self):
        return Description(10, 2, {})

    def train(self, arrays, constants, assignment):
        assignment.progress(1, 0.123)
        moved = {name: array + np.float32(1) for name, array in arrays.items()}
        return Update(moved, 10, {"train-loss": 0.123, "steps": 4.0}, ("a layer does not learn",))

    def evaluate(self, arrays, constants):
        raise NotImplementedError


class Devices:
    """Three of them, led through the steps by an honest coordinator."""

    def __init__(self, folder):
        self.workers = [NodeWorker(Learner(), Memory(folder / str(k))) for k in range(3)]
        self.told = []

    def do(self, k, kind, arrays, **named):
        chosen = {f"secure.{key}": value for key, value in named.items()}
        work = pb.Work(id="1" * 64, kind=kind, round=1, seed=7)
        if kind == pb.KIND_TRAIN:
            chosen = {**Training().to_config(), **SUM, **chosen}
        work.settings.extend(settings(chosen))
        watch = Watch(math.inf, lambda: False, lambda epoch, loss: self.told.append(loss))
        return self.workers[k].do(work, arrays, {}, watch)

    def agree(self):
        keys = [self.do(k, pb.KIND_SECURE, {}, step="keys", session="s")[1]["keys"][0] for k in range(3)]
        for k in range(3):
            others = {"keys": np.stack([key for other, key in enumerate(keys) if other != k])}
            self.do(k, pb.KIND_SECURE, others, step="shares", session="s", threshold=2)


@pytest.fixture
def devices(tmp_path):
    return Devices(tmp_path)


def test_a_masked_result_bears_no_figure_no_count_and_no_warning(devices):
    devices.agree()
    result, arrays = devices.do(0, pb.KIND_TRAIN, ARRAYS, session="s")
    assert list(arrays) == ["masked"]
    assert arrays["masked"].dtype == np.uint32
    assert (result.examples, len(result.figures), len(result.warnings)) == (0, 0, 0)
    assert devices.told == []


def test_without_secrecy_a_device_tells_how_training_goes(devices):
    work = pb.Work(id="1" * 64, kind=pb.KIND_TRAIN, round=1, seed=7)
    work.settings.extend(settings(Training().to_config()))
    watch = Watch(math.inf, lambda: False, lambda epoch, loss: devices.told.append(loss))
    result, arrays = devices.workers[0].do(work, ARRAYS, {}, watch)
    assert (list(arrays), result.examples, devices.told) == (["w"], 10, [0.123])


def test_asked_for_a_masked_update_without_keys_a_device_sends_none(devices):
    with pytest.raises(SecureError, match="keys of this session are gone"):
        devices.do(0, pb.KIND_TRAIN, ARRAYS, session="s")
    devices.agree()
    with pytest.raises(SecureError, match="keys of this session are gone"):
        devices.do(0, pb.KIND_TRAIN, ARRAYS, session="another")


def test_a_device_that_was_started_again_has_no_secrets(devices, tmp_path):
    devices.agree()
    devices.workers[0] = NodeWorker(Learner(), Memory(tmp_path / "0"))
    with pytest.raises(SecureError, match="gone"):
        devices.do(0, pb.KIND_TRAIN, ARRAYS, session="s")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_sum_without_bounds_is_refused(devices):
    devices.agree()
    with pytest.raises(SecureError, match="settings of the sum are missing"):
        devices.do(0, pb.KIND_TRAIN, ARRAYS, session="s", clip="wide")
