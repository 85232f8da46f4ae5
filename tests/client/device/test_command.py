"""An agent that another process started does not outlive it."""

import asyncio
import subprocess

from fedloom_client.device.running import follow


def test_an_agent_stops_whose_parent_ended_before_it_looked():
    ended = subprocess.Popen(["true"])
    ended.wait()
    stopped = []
    asyncio.run(asyncio.wait_for(follow(ended.pid, lambda: stopped.append(True)), 10))
    assert stopped == [True]
