"""TensorBoard events: what is written can be read back, round by round, while the run goes on."""

import math

import pytest
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c

from fedloom_server.report.tensorboard import TensorBoardLog
from fedloom_server.store.rows import Round


def read_back(folder):
    """{(name, step): value} of every scalar in the event files, checking each record's checksums."""
    found = {}
    for path in folder.glob("tensorboard/events.out.tfevents.*"):
        content = path.read_bytes()
        while content:
            length = int.from_bytes(content[:8], "little")
            record, rest = content[12 : 12 + length], content[12 + length :]
            assert int.from_bytes(content[8:12], "little") == masked_crc32c(content[:8])
            assert int.from_bytes(rest[:4], "little") == masked_crc32c(record)
            content = rest[4:]
            event = Event.FromString(record)
            for value in event.summary.value:
                found[value.tag, event.step] = value.simple_value
    return found


FULL = Round(
    number=2, loss=0.5, metric=0.875, metrics={"accuracy": 0.875, "f1": 0.75}, train_loss=0.25,
    federated_loss=0.625, federated_metric=0.75, worst_metric=0.5, clients_ok=8, clients_failed=1, rejected=1,
    bytes_up=1000, bytes_down=2000, seconds=1.5,
)  # fmt: skip


def test_a_round_can_be_read_back_before_the_log_is_closed(tmp_path):
    log = TensorBoardLog(tmp_path)
    log.client_done(2, "train", 1, 10)
    log.round_done(FULL)
    expected = {
        "test/loss": 0.5,
        "test/accuracy": 0.875,
        "test/f1": 0.75,
        "train/loss": 0.25,
        "federated/loss": 0.625,
        "federated/accuracy": 0.75,
        "federated/accuracy-worst-5-percent": 0.5,
        "clients/ok": 8,
        "clients/failed": 1,
        "clients/rejected": 1,
        "bytes/up": 1000,
        "bytes/down": 2000,
        "seconds": 1.5,
    }
    assert read_back(tmp_path) == {(name, 2): value for name, value in expected.items()}
    log.close()
    assert len(read_back(tmp_path)) == len(expected)


@pytest.mark.parametrize("missing", [None, math.nan, math.inf])
def test_what_was_not_measured_is_left_out(tmp_path, missing):
    log = TensorBoardLog(tmp_path)
    log.round_done(Round(0, missing, missing, {"mae": math.nan}, clients_ok=3))
    log.close()
    names = {name for name, _ in read_back(tmp_path)}
    assert not names & {"test/loss", "test/mae", "train/loss", "federated/loss"}
    assert "clients/ok" in names
