"""What the link is measured against: a bare gRPC stream with the same certificates."""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from fedloom_client.wire import CHUNK
from fedloom_server.fleet.fleet import Fleet

_ECHO = "/benchmark/Echo"


@contextmanager
def echoing(folder: Path) -> Iterator[Any]:
    """A bare stream: two processes that send back every chunk they get, with the same certificates."""
    fleet = Fleet(folder / "fleet")
    credentials = grpc.ssl_server_credentials([fleet.coordinator], fleet.authority.pem, True)
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    streams: list[Any] = []
    ended = asyncio.Event()

    async def echo(_: Any, context: Any) -> None:
        streams.append(context)
        await ended.wait()

    async def serve() -> tuple[grpc.aio.Server, int]:
        server = grpc.aio.server()
        handler: Any = grpc.stream_stream_rpc_method_handler(echo)
        server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler("benchmark", {"Echo": handler})]
        )
        port = server.add_secure_port("127.0.0.1:0", credentials)
        await server.start()
        return server, port

    async def one(context: Any, content: bytes) -> None:
        chunks = [content[start : start + CHUNK] for start in range(0, len(content), CHUNK)]

        async def send() -> None:
            for chunk in chunks:
                await context.write(chunk)

        sending = asyncio.create_task(send())
        back = [await context.read() for _ in chunks]
        await sending
        if b"".join(back) != content:
            raise SystemExit("the bare stream changed the content")

    async def everybody(content: bytes) -> None:
        await asyncio.gather(*(one(context, content) for context in streams))

    def bare(content: bytes) -> float:
        began = time.perf_counter()
        asyncio.run_coroutine_threadsafe(everybody(content), loop).result()
        return time.perf_counter() - began

    server, port = asyncio.run_coroutine_threadsafe(serve(), loop).result()
    command = [sys.executable, "-c", _MIRROR, f"127.0.0.1:{port}", _ECHO]
    mirrors = [subprocess.Popen([*command, str(folder / f"agent-{number:05d}")]) for number in range(2)]
    while len(streams) < 2:
        time.sleep(0.01)
    try:
        yield bare, mirrors
    finally:
        for mirror in mirrors:
            mirror.terminate()
            mirror.wait()
        asyncio.run_coroutine_threadsafe(server.stop(0), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        fleet.close()


_MIRROR = """
import asyncio, sys
from pathlib import Path
import grpc, grpc.aio
from fedloom_client.device.identity import Identity

async def main(address, method, home):
    credentials = Identity.load(Path(home)).credentials
    async with grpc.aio.secure_channel(address, credentials) as channel:
        call = channel.stream_stream(method)()
        held = []
        async for chunk in call:
            # As a device does, which trains between the two: everything is there before anything goes back.
            held.append(chunk)
            if len(chunk) < 1 << 20:
                for piece in held:
                    await call.write(piece)
                held = []

asyncio.run(main(*sys.argv[1:]))
"""
