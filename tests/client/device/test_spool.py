"""A result survives a kill in the spool; a torn or rotten file is no result."""

import threading

import numpy as np
import pytest

from fedloom_client.device import spool as spool_module
from fedloom_client.device.spool import Spool
from fedloom_edge.errors import LinkError
from fedloom_protos.v1 import link_pb2 as pb

ARRAYS = {"w": np.arange(600_000, dtype=np.float32), "b": np.zeros((), np.float64)}


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    monkeypatch.setattr(spool_module, "PATIENCE", 0.0)


@pytest.fixture
def folder(tmp_path):
    spool = Spool(tmp_path)
    spool.put(pb.Result(work="one", examples=3), ARRAYS)
    spool.persist("one")
    return tmp_path


def test_a_result_is_there_after_a_restart_with_every_chunk(folder):
    spool = Spool(folder)
    stored = spool["one"]
    assert stored.result.examples == 3
    sent = b"".join(part for digest in stored.result.arrays.chunks for part in stored.chunk(digest))
    assert sent == ARRAYS["w"].tobytes() + ARRAYS["b"].tobytes()


def test_an_acknowledged_result_is_forgotten(folder):
    spool = Spool(folder)
    spool.forget("one")
    spool.forget("unknown")
    assert not list(folder.iterdir())
    assert Spool(folder).works == []


def test_a_result_that_was_acknowledged_while_it_was_sent_leaves_no_file(tmp_path):
    spool = Spool(tmp_path)
    spool.put(pb.Result(work="one"), ARRAYS)
    spool.forget("one")
    spool.persist("one")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("cut", [0, 4, 20, 100, 1_000_000])
def test_a_torn_file_is_no_result(folder, cut):
    (path,) = folder.iterdir()
    path.write_bytes(path.read_bytes()[:cut])
    assert Spool(folder).works == []
    assert not list(folder.iterdir())


def test_a_flipped_bit_is_no_result(folder):
    (path,) = folder.iterdir()
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)
    assert Spool(folder).works == []


def test_a_file_that_was_being_written_is_removed(folder):
    (folder / ".two.result.123").write_bytes(b"half")
    assert Spool(folder).works == ["one"]
    assert len(list(folder.iterdir())) == 1


def test_a_chunk_that_no_result_has_is_refused(folder):
    with pytest.raises(LinkError, match="no chunk"):
        Spool(folder)["one"].chunk(bytes(32))


def test_a_result_that_is_acknowledged_soon_is_never_written(tmp_path, monkeypatch):
    monkeypatch.setattr(spool_module, "PATIENCE", 20.0)
    spool = Spool(tmp_path)
    spool.put(pb.Result(work="one"), ARRAYS)
    writing = threading.Thread(target=spool.persist, args=("one",))
    writing.start()
    spool.forget("one")
    writing.join(10)
    assert not writing.is_alive()
    assert not list(tmp_path.iterdir())


def test_a_stop_puts_every_result_on_disk_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(spool_module, "PATIENCE", 20.0)
    spool = Spool(tmp_path)
    for work in ("one", "two"):
        spool.put(pb.Result(work=work), ARRAYS)
    spool.persist_all()
    assert sorted(Spool(tmp_path).works) == ["one", "two"]
