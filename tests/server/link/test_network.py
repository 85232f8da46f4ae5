"""The link over a network that is cut or loses packets: two namespaces with a bad wire between them."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from fedloom_client.flower.records import from_record
from fedloom_server.fleet.fleet import Fleet

from .conftest import Site, questions, until

HERE = Path(__file__).parent
AGENT = """
import asyncio, logging, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
logging.basicConfig(level=logging.INFO)
from conftest import DIGEST, working
from fedloom_client.device.agent import Agent
from fedloom_client.device.identity import Identity
from fedloom_protos.v1 import link_pb2 as pb

async def main():
    home = Path(sys.argv[1])
    hello = pb.Hello(trainer="torch", task="small", task_digest=DIGEST)
    await Agent(home, sys.argv[2], Identity.load(home), working(home), hello).run()

asyncio.run(main())
"""


def possible() -> bool:
    return os.geteuid() == 0 and Path("/dev/net/tun").exists() and Path("/usr/sbin/ip").exists()


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not possible(), reason="needs root and /dev/net/tun"),
]


class Wire:
    """A namespace behind a wire whose loss can be changed."""

    def __init__(self, share: float) -> None:
        self.namespace = f"fedloom-{os.getpid()}"
        subprocess.run(["ip", "netns", "add", self.namespace], check=True)
        self.relay = subprocess.Popen(
            [sys.executable, str(HERE / "lossy.py"), self.namespace, str(share)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.relay.stdout.readline() == "ready\n"

    def lose(self, share: float) -> None:
        self.relay.stdin.write(f"{share}\n")
        self.relay.stdin.flush()

    def run(self, *command: str, log: Path) -> subprocess.Popen:
        with log.open("wb") as output:
            return subprocess.Popen(
                ["ip", "netns", "exec", self.namespace, *command], stdout=output, stderr=output
            )

    def close(self) -> None:
        self.relay.stdin.close()
        self.relay.wait(10)
        subprocess.run(["ip", "netns", "del", self.namespace], check=True)


@pytest.fixture
def far(tmp_path, monkeypatch):
    """`far(share)` -> (site, wire): a coordinator, and one agent in a process beyond the wire."""
    made = []

    def connect(share: float):
        wire = Wire(share)
        made.append(wire.close)
        create = Fleet.create.__func__
        monkeypatch.setattr(Fleet, "create", lambda folder, names: create(Fleet, folder, ["10.99.0.1"]))
        site = Site(tmp_path, listen="10.99.0.1")
        made.append(site.close)
        home = tmp_path / "far"
        home.mkdir()
        site.identity("far").save(home)
        address = f"10.99.0.1:{site.port}"
        agent = wire.run(sys.executable, "-c", AGENT, str(home), address, str(HERE), log=tmp_path / "far.log")

        def end():
            agent.terminate()
            agent.wait(10)

        made.append(end)
        site.grid.gather(1, 60)
        return site, wire

    yield connect
    for end in reversed(made):
        end()


def test_a_cut_of_ten_seconds_in_the_middle_of_transfers_loses_nothing(far):
    site, wire = far(0.0)
    rng = np.random.default_rng(0)
    rounds = 0

    def cut():
        until(lambda: rounds >= 3, 60)
        wire.lose(1.0)
        time.sleep(10)
        wire.lose(0.0)

    cutter = threading.Thread(target=cut)
    cutter.start()
    while rounds < 6 or cutter.is_alive():
        arrays = {"w": rng.normal(size=2_000_000).astype(np.float32)}  # 8 MB: the round is its transfer
        (reply,) = site.grid.send_and_receive(questions(site.grid, arrays=arrays, number=rounds + 1))
        assert not reply.has_error()
        assert np.array_equal(from_record(reply.content.array_records["arrays"])["w"], arrays["w"] + 1)
        rounds += 1
    cutter.join()


def test_a_wire_that_loses_a_fifth_of_its_packets_is_only_slow(far):
    site, _ = far(0.2)
    for number in range(1, 4):
        (reply,) = site.grid.send_and_receive(questions(site.grid, number=number))
        assert not reply.has_error()
        assert (from_record(reply.content.array_records["arrays"])["w"] == 1).all()
