"""What a device sends first, and in pieces of what size."""

import asyncio

import pytest

from fedloom_client.device.conversation import SMALLEST, Outbox
from fedloom_client.frames import Chunk
from fedloom_client.wire import CHUNK
from fedloom_protos.v1 import link_pb2 as pb


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test moves on."""
    times = [0.0]
    monkeypatch.setattr("fedloom_client.device.conversation.time.monotonic", lambda: times[0])
    return times


def taken(outbox, count, seconds=1.0):
    async def get():
        return [await asyncio.wait_for(outbox.get(), seconds) for _ in range(count)]

    return asyncio.run(get())


def chunk(size=CHUNK):
    return lambda: Chunk((memoryview(bytes(size)),))


@pytest.fixture
def outbox():
    made = Outbox()
    made.beat = 5.0
    return made


def test_a_heartbeat_goes_between_the_pieces_of_a_chunk(outbox):
    outbox.put_pieces([chunk(2 * SMALLEST)])
    (first,) = taken(outbox, 1)
    outbox.put(pb.FromDevice(heartbeat=pb.Heartbeat()))
    (heartbeat,) = taken(outbox, 1)
    outbox.received()
    (second,) = taken(outbox, 1)
    assert heartbeat.WhichOneof("body") == "heartbeat"
    assert [(piece.size, piece.more) for piece in (first, second)] == [(SMALLEST, True), (SMALLEST, False)]


def test_a_piece_waits_until_the_one_before_is_received(outbox):
    outbox.put_pieces([chunk()])
    taken(outbox, 1)
    with pytest.raises(TimeoutError):
        taken(outbox, 1, seconds=0.05)
    outbox.received()
    taken(outbox, 1)


def sizes(outbox, clock, rate):
    """The sizes of the pieces of a chunk on an uplink of so many bytes a second."""
    outbox.put_pieces([chunk()])
    found, more = [], True
    while more:
        (piece,) = taken(outbox, 1)
        found.append(piece.size)
        clock[0] += piece.size / rate
        more = piece.more
        outbox.received()
    assert sum(found) == CHUNK
    return found


def test_on_a_thin_uplink_a_piece_is_what_it_carries_from_one_heartbeat_to_the_next(outbox, clock):
    for rate, size in ((20_000, 100_000), (8_000, 40_000), (100, SMALLEST)):
        assert all(abs(found - size) <= 1 for found in sizes(outbox, clock, rate)[3:-1])


def test_on_a_fast_uplink_chunks_are_soon_whole(outbox, clock):
    assert sizes(outbox, clock, 1e9) == [SMALLEST << i for i in range(6)] + [SMALLEST]
    assert sizes(outbox, clock, 1e9) == [CHUNK]


def test_a_chunk_that_nobody_waits_for_is_given_up(outbox):
    outbox.put_pieces([chunk(), chunk()])
    (first,) = taken(outbox, 1)
    outbox.drop_pieces()
    outbox.put_pieces([lambda: Chunk((memoryview(b"next"),))])
    outbox.received()
    second, following = taken(outbox, 2)
    assert [(piece.size, piece.more) for piece in (first, second)] == [(SMALLEST, True), (0, False)]
    assert bytes(following.parts[0]) == b"next"
