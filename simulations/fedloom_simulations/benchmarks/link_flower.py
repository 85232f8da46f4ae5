"""Flower's SuperLink and two SuperNodes for the link's benchmark: seconds of rounds that do nothing."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

ROUNDS = 4
client = ClientApp()
server = ServerApp()


@client.train()
def _train(message: Message, context: Context) -> Message:
    arrays = message.content.array_records["arrays"]
    return Message(
        RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 1})}), reply_to=message
    )


@server.main()
def _main(grid: Grid, context: Context) -> None:
    while len(list(grid.get_node_ids())) < 2:
        time.sleep(0.1)
    arrays = ArrayRecord({"w": Array(np.zeros(1000, np.float32))})
    seconds = []
    for _ in range(ROUNDS):
        messages = [Message(RecordDict({"arrays": arrays}), node, "train") for node in grid.get_node_ids()]
        began = time.perf_counter()
        replies = list(grid.send_and_receive(messages))
        if any(reply.has_error() for reply in replies) or len(replies) != len(messages):
            raise RuntimeError("a round failed")
        seconds.append(time.perf_counter() - began)
    Path(str(context.run_config["out"])).write_text(" ".join(map(str, seconds)))


_PROJECT = """
[project]
name = "link-benchmark"
version = "1.0.0"
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "fedloom"
[tool.flwr.app.components]
serverapp = "fedloom_simulations.benchmarks.link_flower:server"
clientapp = "fedloom_simulations.benchmarks.link_flower:client"
[tool.flwr.app.config]
out = ""
"""


def flower_latency(port: int = 29391) -> float:
    """Median seconds of a round of a 4 kB model, the first left out."""
    binaries = Path(sys.executable).parent
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = {
            **os.environ,
            "FLWR_HOME": str(folder / "flwr"),
            "PATH": f"{binaries}:{os.environ['PATH']}",
        }
        (folder / "flwr").mkdir()
        (folder / "flwr" / "config.toml").write_text(
            f'[superlink]\ndefault = "here"\n'
            f'[superlink.here]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
        )
        (folder / "app").mkdir()
        (folder / "app" / "pyproject.toml").write_text(_PROJECT)
        started: list[subprocess.Popen[bytes]] = []

        def start(*command: str) -> None:
            quiet = subprocess.DEVNULL
            words = [str(binaries / command[0]), "--insecure", *command[1:]]
            started.append(subprocess.Popen(words, env=environment, cwd=folder, stdout=quiet, stderr=quiet))

        try:
            start("flower-superlink", "--host", "127.0.0.1", "--port", str(port))
            time.sleep(6)
            for number in (1, 2):
                address = f"127.0.0.1:{port}"
                start("flower-supernode", "--superlink", address, "--port", str(port + number))
            out = folder / "seconds"
            command = [
                str(binaries / "flwr"),
                "run",
                str(folder / "app"),
                "here",
                "--run-config",
                f"out='{out}'",
            ]
            subprocess.run(command, env=environment, check=True, capture_output=True)
            deadline = time.monotonic() + 240
            while not out.exists() or not out.read_text():
                if time.monotonic() > deadline:
                    raise SystemExit("Flower's run did not end")
                time.sleep(0.2)
            return median([float(part) for part in out.read_text().split()][1:])
        finally:
            for process in reversed(started):
                process.terminate()
            for process in started:
                process.wait()
