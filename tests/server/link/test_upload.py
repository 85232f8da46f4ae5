"""An upload that breaks off goes on where it stopped, whichever side is killed."""

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np

from fedloom_client.flower.records import from_record
from fedloom_client.wire import CHUNK
from fedloom_server.link.session import Session

from .conftest import questions, until
from .test_network import AGENT

SIZE = 4_000_000
CHUNKS = -(-SIZE * 4 // CHUNK)


def slow(monkeypatch):
    """Let chunks of results arrive one after the other; gives the list of what arrived."""
    import asyncio

    arrived, place = [], Session._piece

    async def slowly(self, chunk):
        await asyncio.sleep(0.15)
        await place(self, chunk)
        if not chunk.more:
            arrived.append(chunk)

    monkeypatch.setattr(Session, "_piece", slowly)
    return arrived


def started(site):
    home = site.folder / "a"
    home.mkdir(exist_ok=True)
    if not (home / "identity.pem").exists():
        site.identity("a").save(home)
    command = [sys.executable, "-c", AGENT, str(home), f"127.0.0.1:{site.port}", str(Path(__file__).parent)]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


def asked(site, arrays):
    """Ask in a thread; gives it and the list that the replies come into."""
    replies = []
    messages = questions(site.grid, arrays=arrays)
    receive = lambda: replies.extend(site.grid.send_and_receive(messages))  # noqa: E731
    thread = threading.Thread(target=receive, daemon=True)
    thread.start()
    return thread, replies


def test_an_agent_killed_in_its_upload_goes_on_with_it_and_counts_once(site, monkeypatch):
    arrived = slow(monkeypatch)
    arrays = {"w": np.random.default_rng(0).normal(size=SIZE).astype(np.float32)}
    process = started(site)
    try:
        site.grid.gather(1, 20)
        thread, replies = asked(site, arrays)
        until(lambda: len(arrived) >= 5)
        process.kill()
        process.wait()
        process = started(site)
        thread.join(30)
    finally:
        process.kill()
        process.wait()
    (reply,) = replies
    assert np.array_equal(from_record(reply.content["arrays"])["w"], arrays["w"] + 1)
    assert len(arrived) <= CHUNKS + 1


def test_a_coordinator_that_stops_in_an_upload_asks_for_the_rest_alone(site, monkeypatch):
    arrived = slow(monkeypatch)
    arrays = {"w": np.random.default_rng(0).normal(size=SIZE).astype(np.float32)}
    site.agent("a")
    site.grid.gather(1, 20)
    thread, _ = asked(site, arrays)
    until(lambda: len(arrived) >= 5)
    site.stop()
    before = len(arrived)
    site.start()
    site.grid.enlist(["a"])
    (reply,) = site.grid.send_and_receive(questions(site.grid, arrays=arrays))
    assert np.array_equal(from_record(reply.content["arrays"])["w"], arrays["w"] + 1)
    assert len(arrived) <= CHUNKS + 1
    assert before < CHUNKS
    del thread
