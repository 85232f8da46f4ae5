"""A device's memory: each round begins from the newest one before it, of its own run."""

import numpy as np
import pytest

from fedloom_client.device.memory import Memory


def arrays(value):
    return {"residual/w": np.full(3, value, np.float32)}


@pytest.fixture
def memory(tmp_path):
    return Memory(tmp_path / "memory")


def value(found):
    return float(found["residual/w"][0]) if found else None


def test_a_round_begins_from_the_newest_before_it_however_often_it_is_done(memory):
    assert memory.before("run", 1) == {}
    memory.keep("run", 1, arrays(1))
    memory.keep("run", 4, arrays(4))
    assert value(memory.before("run", 4)) == 1
    assert value(memory.before("run", 5)) == 4
    memory.keep("run", 4, arrays(40))
    assert value(memory.before("run", 9)) == 40
    assert memory.before("run", 1) == {}


def test_another_run_begins_anew_and_old_rounds_are_forgotten(memory, tmp_path):
    for number in range(1, 9):
        memory.keep("run", number, arrays(number))
    assert len(list((tmp_path / "memory").rglob("*.safetensors"))) == 4
    assert memory.before("other", 5) == {}
    memory.keep("other", 1, arrays(0))
    assert memory.before("run", 9) == {}


def test_a_run_named_like_a_path_stays_in_the_folder(memory, tmp_path):
    memory.keep("../../etc", 1, arrays(1))
    assert value(memory.before("../../etc", 2)) == 1
    assert len(list((tmp_path / "memory").rglob("*.safetensors"))) == 1


def test_a_torn_file_is_passed_over(memory, tmp_path):
    memory.keep("run", 1, arrays(1))
    memory.keep("run", 2, arrays(2))
    torn = next((tmp_path / "memory").rglob("2.safetensors"))
    torn.write_bytes(torn.read_bytes()[:40])
    assert value(memory.before("run", 3)) == 1
