"""Every strategy's state survives: one that goes on from it does what the other would have done."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

from fedloom_client.algorithms.registry import ALGORITHMS
from fedloom_client.flower.records import from_record, to_record
from fedloom_edge.errors import InputError
from fedloom_server.grids.flower_ids import adopt_identity
from fedloom_server.recovery.strategy_state import require_codec, restore_state, state_of
from fedloom_server.strategies.registry import TREES, make_strategy, names
from fedloom_simulations.engine.inline import InlineGrid

adopt_identity()
# Our own algorithms' state is tested with real clients (tests/simulations/test_algorithms.py).
TRAINABLE = [name for name in names() if name not in (*TREES, *ALGORITHMS)]
WRAPPED = [
    f"{wrapper}:fedadam" for wrapper in ("dp-server-fixed", "dp-server-adaptive", "dp-client-adaptive")
]
GLOBAL = {"w": np.ones((3, 2), np.float32), "b": np.zeros(2, np.float32)}


def made(name):
    options = {"noise_multiplier": "0.1"} if name.startswith("dp-") else {}
    options |= {"clipping_norm": "1"} if "fixed" in name or "local" in name else {}
    options |= {"server_momentum": "0.9"} if name.startswith("fedavgm") else {}
    return make_strategy(name, options, clients=5, lr=0.1)


def step(strategy, number, arrays):
    """One round with replies that depend on the round alone; gives the new global arrays."""
    np.random.seed(number)
    strategy.configure_train(number, to_record(arrays), ConfigRecord({}), InlineGrid(None, 5))
    rng = np.random.default_rng(number)
    replies = []
    for client in range(5):
        update = {k: (v + rng.normal(0, 0.3, v.shape)).astype(v.dtype) for k, v in arrays.items()}
        metrics = {"num-examples": client + 1, "train-loss": 1.0, "clipped": client % 2}
        content = {
            "arrays": ArrayRecord({k: Array(v) for k, v in update.items()}),
            "metrics": MetricRecord(metrics),
        }
        replies.append(Message(RecordDict(content), client + 2, MessageType.TRAIN))
    record, _ = strategy.aggregate_train(number, replies)
    return {k: v.astype(arrays[k].dtype) for k, v in from_record(record).items()}


@pytest.mark.parametrize("name", [*TRAINABLE, *WRAPPED])
def test_a_strategy_goes_on_from_its_state_as_if_nothing_had_happened(name, tmp_path):
    from fedloom_edge.arrays import load_arrays, save_arrays

    strategy, arrays = made(name), GLOBAL
    for number in (1, 2, 3):
        arrays = step(strategy, number, arrays)
    save_arrays(tmp_path / "state", state_of(strategy))
    fresh = made(name)
    restore_state(fresh, load_arrays(tmp_path / "state"))
    for number in (4, 5):
        expected, found = step(strategy, number, arrays), step(fresh, number, arrays)
        assert {k: v.tobytes() for k, v in found.items()} == {k: v.tobytes() for k, v in expected.items()}
        arrays = expected


@pytest.mark.parametrize("name", ["fedadam", "fedyogi", "fedadagrad", "fedavgm", "centredclipping"])
def test_the_state_matters(name):
    strategy, arrays = made(name), GLOBAL
    for number in (1, 2):
        arrays = step(strategy, number, arrays)
    assert state_of(strategy)
    expected, forgetful = step(strategy, 3, arrays), step(made(name), 3, arrays)
    assert any(not np.array_equal(expected[k], forgetful[k]) for k in expected)


class Own(FedAvg):
    """A strategy with state of its own that nobody can see."""


def test_a_strategy_without_a_codec_is_refused_before_the_run():
    with pytest.raises(InputError, match="Own cannot be resumed"):
        require_codec(Own())
    with pytest.raises(InputError, match="Own cannot be resumed"):
        wrapper = made("dp-server-fixed:fedavg")
        wrapper.strategy = Own()
        require_codec(wrapper)


def test_a_strategy_may_bring_its_own_codec():
    class Counting(FedAvg):
        count = 0

        def state(self):
            return {"count": np.array(self.count)}

        def restore(self, state):
            self.count = int(state["count"])

    strategy, other = Counting(), Counting()
    require_codec(strategy)
    strategy.count = 7
    restore_state(other, state_of(strategy))
    assert other.count == 7
