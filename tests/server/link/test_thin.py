"""A device behind a thin uplink is heard all the while that it sends, and counted."""

import asyncio

import numpy as np
import pytest

from fedloom_client.flower.records import from_record
from fedloom_edge.errors import RunError
from fedloom_server.link.grid import node_id

from .conftest import AddOne, questions
from .thin import ThinLine


@pytest.fixture
def behind(site):
    """`behind(rate)` starts agent `a` behind a line that lets so many bytes a second up."""
    lines = []

    def connect(rate):
        lines.append(ThinLine(site.port, rate))
        site.agent("a", port=lines[-1].port)
        site.grid.gather(1, 20)
        return lines[-1]

    yield connect
    for line in lines:
        line.close()


def weights(size, seed=0):
    return {"w": np.random.default_rng(seed).normal(size=size).astype(np.float32)}


def test_a_chunk_that_takes_longer_than_silence_may_last_is_counted(site, behind):
    behind(100_000)
    arrays = weights(50_000)  # some 6 s on this line, and 3 s of silence end a stream
    (reply,) = site.grid.send_and_receive(questions(site.grid, arrays=arrays), timeout=60)
    assert not reply.has_error()
    assert np.array_equal(from_record(reply.content["arrays"])["w"], arrays["w"] + 1)
    assert not site.events("device-disconnected")


def test_a_thin_uplink_keeps_others_waiting_no_longer_than_a_while(site, behind, monkeypatch):
    monkeypatch.setattr("fedloom_server.link.session.UPLOAD_SECONDS", 2.0)
    site.coordinator.uploads = asyncio.Semaphore(1)
    behind(100_000)
    site.agent("b", AddOne(seconds=0.5))
    site.grid.gather(2, 20)
    replies = site.grid.send_and_receive(questions(site.grid, arrays=weights(50_000)), timeout=60)
    assert [reply.metadata.src_node_id for reply in replies] == [node_id("b"), node_id("a")]
    assert not site.events("device-disconnected")


def test_a_result_that_comes_too_late_does_not_spoil_the_next(site, behind):
    behind(100_000)
    late = questions(site.grid, arrays=weights(60_000))
    with pytest.raises(RunError, match="0 of 1 devices answered"):
        list(site.grid.send_and_receive(late, timeout=2))
    arrays = weights(10_000, seed=1)
    (reply,) = site.grid.send_and_receive(questions(site.grid, arrays=arrays, number=2), timeout=60)
    assert np.array_equal(from_record(reply.content["arrays"])["w"], arrays["w"] + 1)
    assert not site.events("device-disconnected")
