"""From a device's settings to an agent that is ready to run."""

import hashlib
import importlib.util
from pathlib import Path

from fedloom_client.device.home import DeviceSettings
from fedloom_client.loading import BUILT_IN, load_data, load_task
from fedloom_client.node import Node
from fedloom_client.samples import Shard
from fedloom_client.shards import ShardRecipe
from fedloom_client.task import Task
from fedloom_client.trainer import Trainer
from fedloom_edge.errors import InputError
from fedloom_protos.v1 import link_pb2 as pb


def make_node(settings: DeviceSettings) -> tuple[Node, pb.Hello]:
    """Open the device's data and make its trainer.

    Returns:
        The node, and what the device says of itself.

    Raises:
        InputError: the task, its data or the trainer is not there, or is wrong.
    """
    task = load_task(settings.task)
    shard = _shard(settings, task)
    trainer, name = make_trainer(settings.trainer, task)
    hello = pb.Hello(
        trainer=name,
        task=task.name,
        task_digest=task_digest(settings.task),
        examples=len(shard.train),
        validation=len(shard.validation),
    )
    return Node(task, shard, trainer), hello


def make_trainer(name: str, task: Task) -> tuple[Trainer, str]:
    """The trainer `torch`, `onnx` or, for `auto`, the one that is there; and which it is.

    Raises:
        InputError: it is not installed.
    """
    if name == "onnx":
        raise InputError('trainer onnx: this version trains with torch; set trainer = "torch"')
    if importlib.util.find_spec("torch") is None:
        raise InputError("trainer torch needs the package torch: pip install 'fedloom[train]'")
    from fedloom_client.torch_trainer import TorchTrainer

    return TorchTrainer(task), "torch"


def task_digest(reference: str) -> bytes:
    """SHA-256 of the source of a task, without importing it: both ends must have the same.

    Raises:
        InputError: there is no such task.
    """
    path = Path(reference.partition(":")[0])
    if path.suffix != ".py":
        spec = (
            importlib.util.find_spec(f"fedloom_client.tasks.{reference}") if reference in BUILT_IN else None
        )
        if spec is None or spec.origin is None:
            raise InputError(f"unknown task {reference!r} (known: {', '.join(BUILT_IN)})")
        path = Path(spec.origin)
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError as error:
        raise InputError(f"task file {path}: {error.strerror}") from error


def _shard(settings: DeviceSettings, task: Task) -> Shard:
    folder = settings.data or None
    if (cut := settings.shard) is not None:
        recipe = ShardRecipe(settings.task, folder, cut.partition, cut.clients, cut.seed)
        return recipe.open()[cut.index]
    # A device's own data: what the task holds out is the part that the device measures on.
    data = load_data(task, Path(folder) if folder else None)
    return Shard(data.train, data.test)
