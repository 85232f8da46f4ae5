"""Arrays survive the wire bit for bit, and nothing that a peer describes is believed."""

import contextlib

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedloom_client.frames import Chunk, from_coordinator, from_device, kind_of, to_wire
from fedloom_client.wire import CHUNK, Assembly, Content, check_tensors, sha256
from fedloom_edge.errors import LinkError
from fedloom_protos.v1 import link_pb2 as pb

DTYPES = ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"]
ARRAYS = st.dictionaries(
    st.text("abc.weight_0", min_size=1, max_size=20),
    st.sampled_from(DTYPES).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=7))
    ),
    max_size=6,
)


def received(content: Content, limit=1 << 30) -> Assembly:
    assembly = Assembly(content.tensors, limit)
    for digest in assembly.missing:
        # As on the way: cut in parts, put together into a frame, taken out of it.
        chunk = from_device(to_wire(Chunk(content.chunk(digest))))
        assert assembly.take(sha256(*chunk.parts), chunk.parts)
    return assembly


def take(assembly, data):
    return assembly.take(sha256(data), (memoryview(data),))


@given(ARRAYS)
def test_what_arrives_is_what_was_sent(arrays):
    got = received(Content(arrays)).arrays()
    assert list(got) == list(arrays)
    for name, array in arrays.items():
        assert got[name].dtype == array.dtype
        assert got[name].shape == array.shape
        assert got[name].tobytes() == array.tobytes()


@pytest.mark.parametrize("size", [CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5])
def test_chunks_cut_arrays_anywhere(size):
    rng = np.random.default_rng(size)
    arrays = {"a": rng.integers(0, 255, size, np.uint8), "b": rng.normal(size=CHUNK // 8)}
    got = received(Content(arrays)).arrays()
    assert all(np.array_equal(got[name], array) for name, array in arrays.items())


def test_a_chunk_that_is_held_is_not_asked_for_again():
    rng = np.random.default_rng(0)
    frozen, old, new = (rng.normal(size=CHUNK // 8) for _ in range(3))
    before = received(Content({"frozen": frozen, "head": old}))
    after = Assembly(Content({"frozen": frozen, "head": new}).tensors, 1 << 30)
    after.fill(before)
    assert len(after.missing) == 1


def test_equal_chunks_travel_once():
    assert len(Assembly(Content({"zeros": np.zeros(CHUNK)}).tensors, 1 << 30).missing) == 1


def test_a_wrong_chunk_is_not_taken():
    assembly = Assembly(Content({"a": np.arange(10)}).tensors, 1 << 30)
    assert not take(assembly, b"something else")
    assert not assembly.complete


def test_a_chunk_of_the_right_hash_and_another_length_is_refused():
    tensors = pb.Tensors(tensors=[pb.Tensor(name="a", dtype="uint8", shape=[5])], chunks=[sha256(b"four")])
    with pytest.raises(LinkError, match="chunk: 4 bytes where 5 belong"):
        take(Assembly(tensors, 100), b"four")


@pytest.mark.parametrize(
    ("tensor", "rule"),
    [
        (pb.Tensor(name="a", dtype="float32", shape=[2**62, 2**62]), "more than 1000 bytes"),
        (pb.Tensor(name="a", dtype="float32", shape=[251]), "more than 1000 bytes"),
        (pb.Tensor(name="a", dtype="object", shape=[1]), "unknown dtype"),
        (pb.Tensor(name="a", dtype="U5", shape=[1]), "unknown dtype"),
        (pb.Tensor(name="", dtype="float32", shape=[1]), "printable"),
        (pb.Tensor(name="a\n", dtype="float32", shape=[1]), "printable"),
        (pb.Tensor(name="a" * 257, dtype="float32", shape=[1]), "printable"),
        (pb.Tensor(name="a", dtype="float32", shape=[1] * 17), "axes"),
    ],
)
def test_a_description_beyond_the_bounds_is_refused_before_memory_is_taken(tensor, rule):
    with pytest.raises(LinkError, match=rule):
        check_tensors(pb.Tensors(tensors=[tensor], chunks=[bytes(32)]), 1000)


def test_the_number_of_chunks_must_be_that_of_the_bytes():
    content = Content({"a": np.zeros(10)})
    content.tensors.chunks.append(bytes(32))
    with pytest.raises(LinkError, match="80 bytes are not 2 chunks"):
        check_tensors(content.tensors, 1000)


def test_a_name_that_stands_twice_is_refused():
    tensors = Content({"a": np.zeros(1)}).tensors
    tensors.tensors.append(tensors.tensors[0])
    with pytest.raises(LinkError, match="twice"):
        check_tensors(tensors, 1000)


@given(st.binary(max_size=400))
@settings(max_examples=300)
def test_no_bytes_make_the_decoder_do_anything_but_accept_or_refuse(data):
    tensors = pb.Tensors()
    try:
        tensors.ParseFromString(data)
    except DecodeError:
        return
    with contextlib.suppress(LinkError):
        Assembly(tensors, 1 << 16)


@given(st.binary(max_size=300), st.integers(0, 300))
def test_a_chunks_frame_is_protobufs_own(data, cut):
    frame = to_wire(Chunk((memoryview(data)[:cut], memoryview(data)[cut:])))
    assert frame == pb.FromDevice(piece=pb.Piece(data=data)).SerializeToString() or not data
    for read in (from_device, from_coordinator):
        assert b"".join(read(frame).parts) == data


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, CHUNK])
def test_frames_of_every_length_are_taken_apart(size):
    for message in (pb.FromDevice(piece=pb.Piece(data=bytes(size))), Chunk((memoryview(bytes(size)),))):
        chunk = from_device(to_wire(message))
        assert kind_of(chunk) == "piece"
        assert sum(map(len, chunk.parts)) == size


@given(st.binary(max_size=300), st.integers(0, 300), st.integers(1, 400))
def test_a_chunk_in_pieces_is_the_chunk(data, middle, size):
    pieces, rest = [], Chunk((memoryview(data)[:middle], memoryview(data)[middle:]))
    while rest is not None:
        piece, rest = rest.cut(size)
        pieces.append(piece)
    read = [from_device(to_wire(piece)) for piece in pieces]
    assert b"".join(part for piece in read for part in piece.parts) == data
    assert [piece.more for piece in read] == [True] * (len(read) - 1) + [False]
    assert [piece.size for piece in read[:-1]] == [size] * (len(read) - 1)
    assert read[-1].size <= size
    for piece in pieces:
        whole = pb.Piece(data=b"".join(piece.parts), more=piece.more)
        assert to_wire(piece) == pb.FromDevice(piece=whole).SerializeToString() or not data


@given(st.binary(max_size=40).map(lambda rest: b"\x22" + rest))
def test_a_frame_that_begins_like_a_chunk_is_read_as_protobuf_reads_it(frame):
    try:
        expected = pb.FromDevice.FromString(frame)
    except DecodeError:
        with pytest.raises(DecodeError):
            from_device(frame)
        return
    got = from_device(frame)
    if expected.WhichOneof("body") == "piece":
        assert b"".join(got.parts) == expected.piece.data
    else:
        assert got == expected
