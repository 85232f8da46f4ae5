"""The artefact on its way to a device: by its hash, once, on from where it stopped, and never another."""

import asyncio
import hashlib
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

import grpc
import numpy as np
import pytest

from fedloom_client.device import artefacts
from fedloom_protos.v1 import link_pb2 as pb
from fedloom_protos.v1.link_pb2_grpc import ArtefactsStub
from fedloom_server.link import depot as depot_module
from fedloom_server.link.depot import Depot

from .conftest import questions, until

CONTENT = np.random.default_rng(0).bytes(3_500_000)
NAME = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def stocked(site, tmp_path):
    """A coordinator that has an artefact; counts the bytes that it gives."""
    path = tmp_path / "artefact.fedloom"
    path.write_bytes(CONTENT)
    site.stop()
    site.start(Depot(path))
    return site


def fetched(site, name="a"):
    return site.folder / name / "artefacts" / f"{NAME}.fedloom"


def replies(site):
    site.grid.gather(len(site.agents), 20)
    return list(site.grid.send_and_receive(questions(site.grid)))


def test_work_begins_when_the_artefact_is_here_and_it_is_fetched_once(stocked):
    equipped = []
    stocked.agent("a", equip=lambda path: equipped.append(path.read_bytes()))
    (reply,) = replies(stocked)
    assert reply.has_content()
    assert equipped == [CONTENT]
    stocked.stop_agent("a")
    stamp = fetched(stocked).stat().st_mtime_ns
    stocked.agent("a", equip=lambda path: equipped.append(path.read_bytes()))
    until(lambda: len(equipped) == 2)
    assert fetched(stocked).stat().st_mtime_ns == stamp


def test_a_transfer_that_was_cut_goes_on_where_it_stopped(stocked, monkeypatch):
    offsets = []
    fetch = Depot.Fetch

    async def noted(self, request, context):
        offsets.append(request.offset)
        await fetch(self, request, context)

    monkeypatch.setattr(Depot, "Fetch", noted)
    stocked.stop()
    stocked.start(Depot(stocked.folder / "artefact.fedloom"))
    folder = stocked.folder / "a" / "artefacts"
    folder.mkdir(parents=True)
    (folder / f"{NAME}.part").write_bytes(CONTENT[:2_000_000])
    equipped = []
    stocked.agent("a", equip=equipped.append)
    until(lambda: equipped)
    assert offsets == [2_000_000]
    assert fetched(stocked).read_bytes() == CONTENT
    assert [path.name for path in folder.iterdir()] == [f"{NAME}.fedloom"]


@pytest.mark.parametrize("left", [b"x" * 2_000_000, b"x" * 9_000_000])
def test_a_rotten_beginning_is_never_used_and_does_not_stay(stocked, left):
    folder = stocked.folder / "a" / "artefacts"
    folder.mkdir(parents=True)
    (folder / f"{NAME}.part").write_bytes(left)
    equipped = []
    stocked.agent("a", equip=equipped.append)
    (reply,) = replies(stocked)
    if len(left) > len(CONTENT):
        assert equipped
        return
    assert "artefact: it is not what its hash says" in reply.error.reason
    assert not equipped
    assert not list(folder.iterdir())


def test_a_device_that_needs_an_artefact_says_why_it_cannot_work_without(site):
    site.stop()
    site.start(Depot(None, "operator Sin has no gradient rule"))
    site.agent("a", equip=lambda path: None)
    (reply,) = replies(site)
    assert "a: artefact: operator Sin has no gradient rule" in reply.error.reason


def test_a_device_whose_trainer_needs_none_fetches_none(stocked):
    stocked.agent("a")
    (reply,) = replies(stocked)
    assert reply.has_content()
    assert not (stocked.folder / "a" / "artefacts").exists()


def test_a_full_disk_is_said(stocked, monkeypatch):
    full = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(artefacts, "disk_usage", lambda _: full)
    stocked.agent("a", equip=lambda path: None)
    (reply,) = replies(stocked)
    assert "artefact: it takes 3.5 MB, the device's disk has 0.0 MB" in reply.error.reason


def fetch(site, identity, **request):
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(f"127.0.0.1:{site.port}", identity.credentials, options) as channel:
        try:
            return b"".join(piece.data for piece in ArtefactsStub(channel).Fetch(pb.FetchRequest(**request)))
        except grpc.RpcError as error:
            return error.code().name, error.details()


def test_only_what_is_there_is_given_and_only_to_members(stocked):
    identity, digest = stocked.identity("a"), bytes.fromhex(NAME)
    assert fetch(stocked, identity, sha256=digest, offset=3_499_990) == CONTENT[-10:]
    assert fetch(stocked, identity, sha256=digest, offset=3_500_000) == b""
    assert fetch(stocked, identity, sha256=digest, offset=2**63)[0] == "OUT_OF_RANGE"
    assert fetch(stocked, identity, sha256=b"../../etc/passwd")[0] == "NOT_FOUND"
    stocked.fleet.registry.revoke("a")
    assert fetch(stocked, identity, sha256=digest)[0] == "PERMISSION_DENIED"
    nobody = grpc.ssl_channel_credentials(identity.authority_pem)  # without a certificate
    with (
        grpc.secure_channel(f"127.0.0.1:{stocked.port}", nobody) as channel,
        pytest.raises(grpc.RpcError) as refused,
    ):
        list(ArtefactsStub(channel).Fetch(pb.FetchRequest(sha256=digest)))
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE


def test_a_device_that_takes_nothing_loses_its_place(site, tmp_path, monkeypatch):
    monkeypatch.setattr(depot_module, "PIECE_SECONDS", 0.3)
    path = tmp_path / "large"
    path.write_bytes(bytes(60 << 20))  # more than the buffers between the two take
    site.stop()
    site.start(Depot(path))
    options = [("grpc.use_local_subchannel_pool", 1)]
    credentials = site.identity("a").credentials
    with grpc.secure_channel(f"127.0.0.1:{site.port}", credentials, options) as channel:
        digest = hashlib.sha256(path.read_bytes()).digest()
        call = ArtefactsStub(channel).Fetch(pb.FetchRequest(sha256=digest))
        next(call)
        time.sleep(1.5)
        with pytest.raises(grpc.RpcError) as ended:
            list(call)
    assert ended.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


AGENT = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from conftest import DIGEST, working
from fedloom_client.device.agent import Agent
from fedloom_client.device.identity import Identity
from fedloom_client.device.supply import TrainerSupply
from fedloom_protos.v1 import link_pb2 as pb

async def main():
    home = Path(sys.argv[1])
    supply = TrainerSupply(home, lambda path: (home / "equipped").write_text(path.name))
    hello = pb.Hello(trainer="onnx", task="small", task_digest=DIGEST)
    await Agent(home, sys.argv[2], Identity.load(home), working(home), hello, supply=supply).run()

asyncio.run(main())
"""


class Slow(Depot):
    """A depot behind a slow line; notes where each transfer begins."""

    offsets: ClassVar = []

    async def Fetch(self, request, context):
        self.offsets.append(request.offset)
        write = context.write

        class Line:
            abort, auth_context, peer = context.abort, context.auth_context, context.peer

            async def write(self, piece):
                await asyncio.sleep(0.2)
                await write(piece)

        await super().Fetch(request, Line())


def test_an_agent_that_is_killed_in_the_middle_of_a_transfer_goes_on_with_it(stocked):
    stocked.stop()
    Slow.offsets.clear()
    stocked.start(Slow(stocked.folder / "artefact.fedloom"))
    home = stocked.folder / "a"
    home.mkdir()
    stocked.identity("a").save(home)
    command = [
        sys.executable,
        "-c",
        AGENT,
        str(home),
        f"127.0.0.1:{stocked.port}",
        str(Path(__file__).parent),
    ]
    part = home / "artefacts" / f"{NAME}.part"
    process = subprocess.Popen(command)
    try:
        until(lambda: part.exists() and part.stat().st_size >= 1 << 20)
        process.kill()
        process.wait()
        held = part.stat().st_size
        assert held < len(CONTENT)
        process = subprocess.Popen(command)
        until((home / "equipped").exists)
    finally:
        process.kill()
        process.wait()
    assert Slow.offsets == [0, held]
    assert fetched(stocked).read_bytes() == CONTENT
