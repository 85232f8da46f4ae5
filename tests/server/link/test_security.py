"""What comes over the link is refused with a named reason when it is wrong, and the coordinator goes on."""

import contextlib
import socket
import threading

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedloom_client.wire import CHUNK, Content
from fedloom_edge.errors import RunError
from fedloom_protos.v1 import link_pb2 as pb

from .conftest import questions, until
from .raw import hello

pytestmark = pytest.mark.usefixtures("goes_on")


def asked_for_a_result(site, raw, number=1):
    """A raw device that was given work; returns it and the work."""
    device = raw("a").say(hello())
    device.next("welcome")
    site.grid.enlist(["a"])

    def ask():
        with contextlib.suppress(RunError):  # nobody answers as it should
            list(site.grid.send_and_receive(questions(site.grid, number=number), timeout=1))

    site.asking = threading.Thread(target=ask, daemon=True)
    site.asking.start()
    return device, device.next("work")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"device": "b"}, "identity: the device calls itself 'b', its certificate says a"),
        ({"protocol": 2}, "version: the device speaks protocol 2, this coordinator 1"),
        ({"protocol": 0}, "version: the device speaks protocol 0"),
        ({"task": "other"}, "task: the device has 'other', this run is 'small'"),
        ({"task_digest": bytes(31) + b"x"}, "task: the device's 'small' is another version"),
        ({"version": "x" * 65}, "version: 'xxx"),
        ({"board": pb.Board(model="a\x1b[2J")}, "board: 'a"),
        ({"examples": 2**63}, "hello: more finished works or examples"),
        ({"finished": ["x"] * 65}, "hello: more finished works or examples"),
    ],
)
def test_a_hello_that_is_not_in_order_is_refused(site, raw, changes, reason):
    code, said = raw().say(hello(**changes)).refusal()
    assert code == "FAILED_PRECONDITION"
    assert said.startswith(reason)


def test_the_first_message_must_be_a_hello(site, raw):
    assert raw().say(pb.FromDevice(progress=pb.Progress())).refusal()[1] == (
        "protocol: the first message is no hello"
    )


def test_a_second_hello_is_refused(site, raw):
    assert raw().say(hello(), hello()).refusal()[1] == "protocol: unexpected hello"


def test_a_stream_without_a_hello_is_ended(site, raw, monkeypatch):
    monkeypatch.setattr("fedloom_server.link.coordinator.HELLO_SECONDS", 0.5)
    assert raw().refusal() == ("DEADLINE_EXCEEDED", "slow: no hello in 0.5 s")


def test_a_stream_that_falls_silent_is_ended(site, raw):
    assert raw().say(hello()).refusal() == ("DEADLINE_EXCEEDED", "silent: no heartbeat for 3 s")


def test_a_handshake_that_never_ends_holds_nobody_up(site):
    with socket.create_connection(("127.0.0.1", site.port)) as slow:
        slow.send(b"\x16\x03\x01")  # the first bytes of a handshake, and then nothing
        site.agent("quick")
        until(lambda: "quick" in site.coordinator.connected())
        site.stop_agent("quick")


def test_a_frame_beyond_the_bound_ends_the_stream(site, raw):
    device = raw().say(hello())
    device.next("welcome")
    device.say(pb.FromDevice(piece=pb.Piece(data=bytes(3 << 20))))
    assert device.refusal()[0] in ("RESOURCE_EXHAUSTED", "CANCELLED", "INTERNAL", "UNKNOWN")
    until(lambda: "a" not in site.coordinator.connected())


def test_a_chunk_with_a_wrong_hash_ends_the_stream(site, raw):
    device, work = asked_for_a_result(site, raw)
    content = Content({"w": np.zeros(1000, np.float32), "b": np.zeros((), np.float32)})
    content.tensors.chunks[0] = bytes(32)
    device.say(pb.FromDevice(result=pb.Result(work=work.id, examples=1, arrays=content.tensors)))
    device.next("wants")
    device.say(pb.FromDevice(piece=pb.Piece(data=b"something else")))
    assert device.refusal() == (
        "INVALID_ARGUMENT",
        "chunk: it was not asked for, or is not what its hash says",
    )


def test_pieces_of_more_than_a_chunk_end_the_stream(site, raw):
    device = raw().say(hello())
    device.next("welcome")
    piece = pb.FromDevice(piece=pb.Piece(data=bytes(CHUNK // 2), more=True))
    assert device.say(piece, piece, piece).refusal() == (
        "INVALID_ARGUMENT",
        "chunk: its pieces are more than 1048576 bytes",
    )


def test_an_upload_that_stalls_is_ended_though_heartbeats_come(site, raw, monkeypatch):
    monkeypatch.setattr("fedloom_server.link.session.UPLOAD_SECONDS", 0.2)
    device, work = asked_for_a_result(site, raw)
    content = Content({"w": np.ones(1000, np.float32), "b": np.zeros((), np.float32)})
    device.say(pb.FromDevice(result=pb.Result(work=work.id, examples=1, arrays=content.tensors)))
    device.next("wants")
    device.say(*[pb.FromDevice(heartbeat=pb.Heartbeat())] * 3)
    assert device.refusal() == ("INVALID_ARGUMENT", "slow: nothing of the result came in 0.2 s")


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        (
            pb.Tensors(tensors=[pb.Tensor(name="w", dtype="float32", shape=[2**40])], chunks=[bytes(32)]),
            "arrays: they take more than",
        ),
        (
            pb.Tensors(tensors=[pb.Tensor(name="w", dtype="float32", shape=[2**63, 2**63])]),
            "arrays: they take more than",
        ),
        (
            pb.Tensors(tensors=[pb.Tensor(name="../../etc/passwd\0", dtype="float32", shape=[1])]),
            "arrays: the name",
        ),
        (pb.Tensors(tensors=[pb.Tensor(name="w", dtype="object", shape=[1])]), "arrays: 'w' has the unknown"),
    ],
)
def test_an_array_bomb_is_refused_before_it_takes_room(site, raw, tensors, reason):
    device, work = asked_for_a_result(site, raw)
    device.say(pb.FromDevice(result=pb.Result(work=work.id, examples=1, arrays=tensors)))
    code, said = device.refusal()
    assert code == "INVALID_ARGUMENT"
    assert said.startswith(reason)


def test_a_device_that_asks_and_never_reads_is_ended(site, raw):
    device = raw().say(hello())
    result = pb.FromDevice(result=pb.Result(work="x" * 64))
    for _ in range(20_000):
        device.say(result)
    until(lambda: "slow: 1001 answers" in str(site.events("device-disconnected")), 60)
    assert device.refusal() == ("INVALID_ARGUMENT", "slow: 1001 answers wait to be read")


def test_a_path_as_a_works_name_touches_no_file(site, raw, tmp_path):
    device = raw().say(hello())
    device.next("welcome")
    device.say(pb.FromDevice(result=pb.Result(work="../../../escaped", examples=1)))
    answer = device.next("acknowledgement")
    assert not answer.counted
    assert not list(tmp_path.rglob("*escaped*"))


def test_a_chunk_that_was_not_offered_is_not_given(site, raw):
    device, _ = asked_for_a_result(site, raw)
    device.say(pb.FromDevice(wants=pb.Wants(chunks=[bytes(32)])))
    assert device.refusal()[1].startswith("wants: no chunk 0000")


def test_the_same_device_twice_is_one_device_the_newer(site, raw):
    identity = site.identity("a")
    first, second = raw(identity=identity).say(hello()), raw(identity=identity)
    first.next("welcome")
    second.say(hello()).next("welcome")
    assert first.refusal() == ("ABORTED", "replaced: the device connected again")


FRAMES = st.one_of(
    st.binary(max_size=200),
    st.builds(
        lambda w: pb.FromDevice(wants=pb.Wants(chunks=w)).SerializeToString(),
        st.lists(st.binary(max_size=40), max_size=4),
    ),
    st.builds(
        lambda d, m: pb.FromDevice(piece=pb.Piece(data=d, more=m)).SerializeToString(),
        st.binary(max_size=100),
        st.booleans(),
    ),
    st.builds(
        lambda w, n, s: pb.FromDevice(
            result=pb.Result(work=w, arrays=pb.Tensors(tensors=[pb.Tensor(name=n, dtype="float32", shape=s)]))
        ).SerializeToString(),
        st.text(max_size=70),
        st.text(max_size=10),
        st.lists(st.integers(0, 2**64 - 1), max_size=3),
    ),
    st.builds(
        lambda w, r: pb.FromDevice(refusal=pb.Refusal(work=w, reason=r)).SerializeToString(),
        st.text(max_size=70),
        st.text(max_size=50),
    ),
)


@given(st.lists(FRAMES, max_size=5))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_no_frames_hurt_the_coordinator(site, raw, frames):
    """Any bytes as frames behind a good hello: the stream goes on or ends; nothing else happens."""
    if not hasattr(site, "fuzzer"):
        site.fuzzer = site.identity("fuzzer")
    identity = site.fuzzer
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(f"127.0.0.1:{site.port}", identity.credentials, options) as channel:
        connect = channel.stream_stream("/fedloom.v1.Link/Connect")
        first = hello("fuzzer").SerializeToString()
        call = connect(
            iter([first, *frames, pb.FromDevice(goodbye=pb.Goodbye()).SerializeToString()]), timeout=10
        )
        try:
            list(call)
        except grpc.RpcError as error:
            assert error.code() in (
                grpc.StatusCode.INVALID_ARGUMENT,
                grpc.StatusCode.ABORTED,
                grpc.StatusCode.INTERNAL,
                grpc.StatusCode.UNKNOWN,
                grpc.StatusCode.CANCELLED,
            ), error
