"""The link measured: round latency, throughput against a bare stream, idle agents, many agents.

`python -m fedloom_simulations.benchmarks.link` prints the tables of docs/benchmarks.md; with `--flower`
the latency table has Flower's SuperLink and two SuperNodes beside ours.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.serialization import Encoding
from flwr.app import ConfigRecord, Message, RecordDict
from numpy.typing import NDArray

from fedloom_client.device.identity import Identity, new_request
from fedloom_client.flower.records import to_record
from fedloom_client.training import Training
from fedloom_server.fleet.fleet import Fleet
from fedloom_server.link.coordinator import Coordinator
from fedloom_server.link.grid import LinkGrid
from fedloom_server.link.inbox import Inbox
from fedloom_server.link.quorum import Quorum
from fedloom_server.link.telemetry import DeviceLog
from fedloom_server.store.run_store import DATABASE, RunStore
from fedloom_simulations.benchmarks.link_agents import DIGEST, TASK
from fedloom_simulations.benchmarks.link_stream import echoing
from fedloom_simulations.benchmarks.processes import anonymous_mb, cpu_seconds, rss_mb


@contextmanager
def linked(
    folder: Path, agents: int, processes: int
) -> Iterator[tuple[LinkGrid, list[subprocess.Popen[bytes]]]]:
    """A coordinator in this process and `agents` idle agents in `processes` others."""
    fleet = Fleet.create(folder / "fleet", ["127.0.0.1"])
    with RunStore.create(folder / "run", {}):
        coordinator = Coordinator(
            fleet,
            Inbox(folder / "run" / "inbox"),
            DeviceLog(folder / "run" / DATABASE),
            run="benchmark",
            task=TASK,
            task_digest=DIGEST,
        ).start("127.0.0.1:0", "127.0.0.1:0")
        homes = []
        for number in range(agents):
            home = folder / f"agent-{number:05d}"
            home.mkdir()
            key, request = new_request(home.name)
            pem = fleet.registry.admit(home.name, request, fleet.authority).public_bytes(Encoding.PEM)
            Identity.of(key + pem, fleet.authority.pem).save(home)
            homes.append(str(home))
        address = f"127.0.0.1:{coordinator.link_port}"
        module = "fedloom_simulations.benchmarks.link_agents"
        started = [
            subprocess.Popen([sys.executable, "-m", module, address, *homes[index::processes]])
            for index in range(processes)
        ]
        grid = LinkGrid(coordinator, Quorum(share=1.0), "benchmark")
        try:
            grid.gather(agents, 300)
            yield grid, started
        finally:
            for process in started:
                process.terminate()
                process.wait()
            coordinator.stop("over")
            fleet.close()


def one_round(grid: LinkGrid, arrays: dict[str, NDArray[Any]], number: int) -> float:
    """Seconds from the messages to the last reply."""
    config = ConfigRecord({**Training().to_config(), "seed": 0, "server-round": number})
    record = to_record(arrays)
    messages = [
        Message(RecordDict({"arrays": record, "config": config}), node, "train")
        for node in grid.get_node_ids()
    ]
    began = time.perf_counter()
    replies = list(grid.send_and_receive(messages))
    seconds = time.perf_counter() - began
    faults = [reply.error.reason for reply in replies if reply.has_error()]
    if faults or len(replies) != len(messages):
        raise SystemExit(f"a round failed: {faults[:3]}")
    return seconds


def latency(rounds: int = 50) -> float:
    """Median seconds of a round of a 4 kB model with 2 agents in processes of their own."""
    with tempfile.TemporaryDirectory() as folder, linked(Path(folder), 2, 2) as (grid, _):
        arrays = {"w": np.zeros(1000, np.float32)}
        return median(one_round(grid, arrays, number) for number in range(rounds))


@dataclass(frozen=True)
class Cost:
    """Medians of one side's rounds: wall seconds, and processor seconds of all its processes."""

    wall: float
    cpu: float


def throughput(megabytes: int = 40, rounds: int = 9) -> tuple[Cost, Cost]:
    """What it costs to bring a model to 2 agents and back: the link, a bare gRPC stream; in turn."""
    with (
        tempfile.TemporaryDirectory() as folder,
        linked(Path(folder), 2, 2) as (grid, agents),
        echoing(Path(folder)) as (bare, mirrors),
    ):
        rng = np.random.default_rng(0)
        link, stream = [], []
        for number in range(rounds + 1):
            arrays = {"w": rng.normal(size=megabytes * 250_000).astype(np.float32)}
            link.append(_cost(agents, partial(one_round, grid, arrays, number)))
            stream.append(_cost(mirrors, partial(bare, arrays["w"].tobytes())))
        return _medians(link[1:]), _medians(stream[1:])


def _cost(others: Sequence["subprocess.Popen[bytes]"], run: Callable[[], float]) -> Cost:
    pids = [os.getpid(), *(process.pid for process in others)]
    before = sum(map(cpu_seconds, pids))
    wall = run()
    time.sleep(2.0)  # what goes on behind a round is its own cost, and not the next one's
    return Cost(wall, sum(map(cpu_seconds, pids)) - before)


def _medians(costs: Sequence[Cost]) -> Cost:
    return Cost(median(cost.wall for cost in costs), median(cost.cpu for cost in costs))


def many(agents: int, rounds: int) -> tuple[float, float]:
    """(median seconds of a round of a 4 kB model, MB of RSS that the coordinator has more than before)."""
    with tempfile.TemporaryDirectory() as folder:
        before = rss_mb(os.getpid())
        with linked(Path(folder), agents, 2) as (grid, _):
            arrays = {"w": np.zeros(1000, np.float32)}
            seconds = median([one_round(grid, arrays, number) for number in range(rounds)] or [0.0])
            return seconds, rss_mb(os.getpid()) - before


def memory(megabytes: int, agents: int) -> float:
    """MB by which a coordinator's RSS peaks in a round, the files that it maps left out."""
    with tempfile.TemporaryDirectory() as folder, linked(Path(folder), agents, 2) as (grid, _):
        arrays = {"w": np.zeros(megabytes * 250_000, np.float32)}
        one_round(grid, {"w": np.zeros(10, np.float32)}, 0)
        peak, over = [0.0], threading.Event()

        def watch() -> None:
            while not over.wait(0.005):
                peak[0] = max(peak[0], anonymous_mb(os.getpid()))

        before = anonymous_mb(os.getpid())
        watcher = threading.Thread(target=watch)
        watcher.start()
        one_round(grid, arrays, 1)
        over.set()
        watcher.join()
        return peak[0] - before


def main() -> None:
    """Print the tables."""
    parts = {
        "latency": _write_latency,
        "throughput": _write_throughput,
        "memory": _write_memory,
        "agent": _write_agent,
        "many": _write_many,
    }
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flower", action="store_true", help="measure SuperLink and SuperNodes too")
    parser.add_argument("--only", nargs="+", choices=parts, default=list(parts), help="which tables")
    arguments = parser.parse_args()
    for part in arguments.only:
        parts[part](arguments.flower)


def _write_latency(flower: bool) -> None:
    ours = latency()
    _write("| a round of a 4 kB model, 2 local agents | s, median |\n|---|---|\n")
    _write(f"| fedloom link, mutual TLS | {ours:.4f} |\n")
    if flower:
        from fedloom_simulations.benchmarks.link_flower import flower_latency

        theirs = flower_latency()
        _write(f"| Flower SuperLink, 2 SuperNodes, insecure | {theirs:.2f} |\n")
        _write(f"| ratio | {theirs / ours:.0f} |\n")


def _write_throughput(flower: bool) -> None:
    link, stream = throughput()
    _write("\n| a 40 MB model to 2 agents and back | s, median | CPU s, all processes |\n|---|---|---|\n")
    _write(f"| fedloom link | {link.wall:.3f} | {link.cpu:.2f} |\n")
    _write(f"| bare gRPC stream, same TLS | {stream.wall:.3f} | {stream.cpu:.2f} |\n")
    _write(f"| ratio | {link.wall / stream.wall:.2f} | {link.cpu / stream.cpu:.2f} |\n")


def _write_memory(flower: bool) -> None:
    _write("\n| coordinator's memory in a round of a 40 MB model | MB, peak above idle |\n|---|---|\n")
    for agents in (2, 8):
        _write(f"| {agents} agents | {memory(40, agents):.0f} |\n")


def _write_agent(flower: bool) -> None:
    from fedloom_simulations.benchmarks.link_trained import trained

    _write("\n| an agent that trains `digits` with onnxruntime | MB of RSS |\n|---|---|\n")
    for what, figure in trained().items():
        _write(f"| {what} | {figure:.{2 if 'CPU' in what else 0}f} |\n")


def _write_many(flower: bool) -> None:
    _write("\n| many agents in 2 processes | round, s | coordinator's RSS, MB more |\n|---|---|---|\n")
    for agents, rounds in ((200, 5), (2000, 0)):
        seconds, more = many(agents, rounds)
        _write(f"| {agents} | {f'{seconds:.2f}' if rounds else 'idle'} | {more:.0f} |\n")


def _write(line: str) -> None:
    sys.stdout.write(line)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
