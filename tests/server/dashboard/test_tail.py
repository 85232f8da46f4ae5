"""The server's look at the stores of runs that go on."""

import asyncio
import time

from fedloom_server.dashboard.catalog import Catalog, run_id
from fedloom_server.dashboard.tail import Tail
from fedloom_server.store.process_mark import process_mark
from fedloom_server.store.run_store import RunStore


def test_a_run_whose_store_could_not_be_read_for_a_moment_is_not_forgotten(tmp_path):
    folder = tmp_path / "run"
    run = run_id(folder)
    with RunStore.create(folder, {"status": "running", "process": process_mark()}):
        tail = Tail(Catalog([tmp_path]))

        async def watch():
            following = asyncio.create_task(tail.follow())
            try:
                await until(lambda: run in tail._live)
                first = tail._live[run]
                first._database.connection.close()
                await until(lambda: tail._live.get(run) not in (None, first))
            finally:
                following.cancel()

        asyncio.run(watch())
        tail.close()


async def until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
