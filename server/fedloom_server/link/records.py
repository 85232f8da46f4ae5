"""Between Flower's records and the wire; only the coordinator converts, a device knows nothing of Flower."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from numpy.lib import format as npy
from numpy.typing import NDArray

from fedloom_client.flower.records import HeldArray
from fedloom_client.orders import ALGORITHM, RUN, SETTINGS, Orders
from fedloom_client.secure.flower import OWN, QUESTION
from fedloom_client.seeds import derive_seed
from fedloom_client.wire import Content, settings, view_arrays
from fedloom_protos.v1 import link_pb2 as pb

KINDS = {
    MessageType.QUERY: pb.KIND_DESCRIBE,
    MessageType.TRAIN: pb.KIND_TRAIN,
    MessageType.EVALUATE: pb.KIND_EVALUATE,
    QUESTION: pb.KIND_SECURE,
}
EMPTY = Content({})
DEVICES = "devices"
"""A gateway's figure when it is asked what it has: how many devices it speaks for."""
MOST_DEVICES = 100_000


@dataclass(frozen=True)
class Place:
    """Where a device stands in a run.

    Attributes:
        client: index among the coordinator's own clients.
        first: index of the device, or of a gateway's first, among the run's devices that train.
        gateway: whether others stand behind it.
    """

    client: int
    first: int
    gateway: bool = False


class Contents:
    """Array records made ready to send, each once however many messages share it."""

    def __init__(self) -> None:
        self._made: dict[int, tuple[ArrayRecord, Content]] = {}

    def of(self, record: ArrayRecord | None) -> Content:
        """The content of a record; views on its bytes, not copies."""
        if record is None:
            return EMPTY
        if id(record) not in self._made:
            content = Content({name: _view(array) for name, array in record.items()})
            self._made[id(record)] = (record, content)
        return self._made[id(record)][1]

    def with_broadcast(self, constants: ArrayRecord | None, broadcast: ArrayRecord | None) -> Content:
        """Constants and what an algorithm broadcasts, under its prefix, as one content."""
        if broadcast is None:
            return self.of(constants)
        if id(broadcast) not in self._made:
            records = {**(constants or {}), **{f"{ALGORITHM}/{name}": a for name, a in broadcast.items()}}
            content = Content({name: _view(array) for name, array in records.items()})
            self._made[id(broadcast)] = (broadcast, content)
        return self._made[id(broadcast)][1]


def to_work(message: Message, run: str, place: Place, arrays: Content, constants: Content) -> pb.Work:
    """The work that a message asks of the device at `place`.

    Its id is made from all that decides the result, so that it is the same when a run goes on after
    a restart of the coordinator.
    """
    config: Mapping[str, Any] = message.content.config_records.get("config", ConfigRecord())
    work = pb.Work(
        kind=KINDS[message.metadata.message_type],
        round=int(config.get("server-round", 0)),
        arrays=arrays.tensors,
        constants=constants.tensors,
        settings=settings(_settings({**config, **message.content.config_records.get(OWN, {})}, run)),
        proximal_mu=float(config.get("proximal-mu", 0.0)),
    )
    if "seed" in config:
        set_seed(work, int(config["seed"]), place)
    return identified(work, run, place.client)


def set_seed(work: pb.Work, seed: int, place: Place) -> None:
    """Give a work the seed of the device at `place` in a run with `seed`."""
    if place.gateway:
        work.behind.CopyFrom(pb.Behind(seed=seed, first=place.first))
    else:
        work.seed = derive_seed(seed, work.round, place.first)


def identified(work: pb.Work, run: str, client: int) -> pb.Work:
    """The work with its id."""
    content = work.SerializeToString(deterministic=True)
    work.id = hashlib.sha256(f"{run}\0{client}\0".encode() + content).hexdigest()
    return work


def _settings(config: Mapping[str, Any], run: str) -> dict[str, Any]:
    chosen = {key: value for key, value in config.items() if key.startswith(SETTINGS)}
    return chosen if Orders.from_config(config) == Orders() else {**chosen, RUN: run}


def to_reply(
    message: Message,
    result: pb.Result,
    client: int,
    content: Path | None,
    measured: Mapping[str, float] | None = None,
) -> Message:
    """A device's result as the reply that Flower and the guard expect, with what the link `measured`."""
    config: Mapping[str, Any] = message.content.config_records.get("config", ConfigRecord())
    number = config.get("server-round")
    kind = KINDS[message.metadata.message_type]
    return Message(reply_content(kind, number, result, client, content, measured), reply_to=message)


def reply_content(
    kind: pb.Kind,
    number: int | None,
    result: pb.Result,
    client: int,
    content: Path | None,
    measured: Mapping[str, float] | None = None,
) -> RecordDict:
    """The records of a reply to a work of this kind in round `number`."""
    metrics: dict[str, Any] = {figure.name: figure.value for figure in result.figures} | dict(measured or {})
    metrics["num-examples"] = result.examples
    records: dict[str, Any] = {}
    if kind == pb.KIND_DESCRIBE:
        metrics["partition-id"] = client
        metrics["validation-examples"] = int(metrics.get("validation-examples", 0))
    if kind != pb.KIND_EVALUATE:
        name = "summary" if kind == pb.KIND_DESCRIBE else "arrays"
        records[name] = stored_arrays(result.arrays, content)
    records["metrics"] = MetricRecord(metrics)
    if number is not None:  # which round is answered
        records["server-round"] = ConfigRecord({"server-round": number})
    if result.warnings:
        records["warnings"] = ConfigRecord({"warnings": list(result.warnings)})
    return RecordDict(records)


def stored_arrays(tensors: pb.Tensors, content: Path | None) -> ArrayRecord:
    """A record whose arrays stay in a file until they are looked at: memory does not grow with devices."""
    size = content.stat().st_size if content else 0
    buffer = np.memmap(content, np.uint8, "r") if content and size else np.zeros(0, np.uint8)
    record = StoredRecord()
    for name, array in view_arrays(tensors, buffer).items():
        record[name] = StoredArray(array)  # not by the constructor, which copies
    return record


class StoredRecord(ArrayRecord):
    """A record of stored arrays, which is measured without reading them."""

    def count_bytes(self) -> int:
        """Bytes of the arrays and their names."""
        return sum(array.numpy().nbytes + len(name) for name, array in self.items())


class StoredArray(Array):
    """Flower's array without bytes of its own: a view on a file."""

    def __init__(self, stored: NDArray[Any]) -> None:
        self.dtype = str(stored.dtype)
        self.shape = tuple(stored.shape)
        self.stype = "numpy.ndarray"
        self._stored = stored

    def numpy(self) -> NDArray[Any]:
        """The array, read-only."""
        return self._stored

    @property
    def data(self) -> bytes:  # type: ignore[override]
        """The array in numpy's file format, made each time."""
        buffer = BytesIO()
        np.save(buffer, self._stored, allow_pickle=False)
        return buffer.getvalue()


def _view(array: Array) -> NDArray[Any]:
    """A Flower array as numpy's, on the same bytes."""
    if isinstance(array, StoredArray):
        return array.numpy()
    if isinstance(array, HeldArray):
        return array.held
    head = BytesIO(array.data[:4096])
    version = npy.read_magic(head)
    if version != (1, 0):  # a header of more than 64 kB: numpy reads it, with a copy
        return array.numpy()
    shape, fortran, dtype = npy.read_array_header_1_0(head)
    if dtype.hasobject or fortran:
        return array.numpy()
    view: NDArray[Any] = np.frombuffer(array.data, dtype, offset=head.tell()).reshape(shape)
    return view
