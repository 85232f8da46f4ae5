"""A device's shard, read in a process of its own that ends when it is done.

What a data source imports stays out of the agent's memory that way (scikit-learn alone takes 160 MB),
and of the whole data only the device's own part comes over. Samples that are made when they are fetched
(images in folders) cannot come over a pipe and are read by the agent itself.
"""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np

from fedloom_client.data.samples import ArraySamples, Samples, Shard, View
from fedloom_client.data.shards import ShardRecipe, Shards
from fedloom_client.device.home import DeviceSettings, ShardOf
from fedloom_client.loading import load_data, load_task
from fedloom_client.task import Task
from fedloom_client.without_torch import without_torch
from fedloom_edge.errors import DataError, FedloomError, InputError


def read_shard(settings: DeviceSettings, task: Task) -> Shard:
    """The device's own data.

    Raises:
        InputError: it is not there, or is wrong.
    """
    command = [sys.executable, "-m", "fedloom_client.device.reading"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin and child.stdout
        child.stdin.write(json.dumps(asdict(settings)).encode())
        child.stdin.close()
        shard = _received(child.stdout)
    if child.returncode:
        raise DataError(f"task {task.name}: reading its data ended with {child.returncode}, see above")
    return shard or shard_of(settings, task)


def load_task_light(reference: str) -> Task:
    """The task, without importing torch if its file can do without.

    Raises:
        InputError: there is no such task, or its file fails.
    """
    try:
        with without_torch():
            return load_task(reference)
    except InputError as error:
        try:
            return load_task(reference)
        except InputError:
            raise error from None


def shard_of(settings: DeviceSettings, task: Task) -> Shard:
    """The device's own data, read in this process."""
    folder = settings.data or None
    if (cut := settings.shard) is not None:
        recipe = ShardRecipe(settings.task, folder, cut.partition, cut.clients, cut.seed)
        return Shards(recipe, task)[cut.index]
    # What the task holds out is the part that the device measures on.
    data = load_data(task, Path(folder) if folder else None)
    return Shard(data.train, data.test)


def _received(stream: IO[bytes]) -> Shard | None:
    """The shard that the process sent; None if it cannot be sent."""
    line = stream.readline()
    if not line:
        return None  # it failed: its exit code tells
    said = json.loads(line)
    if "error" in said:
        raise InputError(said["error"])
    if not said["plain"]:
        return None
    pipe = _Pipe(stream)
    x, y, held_x, held_y = (np.lib.format.read_array(pipe, allow_pickle=False) for _ in range(4))
    return Shard(ArraySamples(x, y), ArraySamples(held_x, held_y))


class _Pipe:
    """A pipe as numpy takes it: of what is an open file it asks a position, which a pipe has not."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.read, self.write = stream.read, stream.write


def _main() -> int:
    """Settings from standard input, the shard to standard output; a user's prints go to standard error."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    content: dict[str, Any] = json.load(sys.stdin)
    shard = content.pop("shard")
    settings = DeviceSettings(**content, shard=ShardOf(**shard) if shard else None)
    try:
        own = shard_of(settings, load_task_light(settings.task))
        arrays = [array for part in (own.train, own.validation) for array in _arrays(part)]
    except FedloomError as error:
        out.write(json.dumps({"error": str(error)}).encode() + b"\n")
        out.close()
        return 0
    out.write(json.dumps({"plain": len(arrays) == 4}).encode() + b"\n")
    for array in arrays:
        np.lib.format.write_array(_Pipe(out), array, allow_pickle=False)
    out.close()
    return 0


def _arrays(samples: Samples) -> list[Any]:
    """Inputs and targets of samples in memory; nothing for others."""
    base = samples
    while isinstance(base, View):
        base = base.base
    if not isinstance(base, ArraySamples) or base.x.dtype.hasobject or base.y.dtype.hasobject:
        return []
    return list(samples.take(np.arange(len(samples))))


if __name__ == "__main__":
    sys.exit(_main())
