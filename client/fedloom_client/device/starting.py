"""From a device's settings to an agent that is ready to run."""

import hashlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fedloom_client.data.samples import Shard
from fedloom_client.device.artefact_trainer import ArtefactTrainer
from fedloom_client.device.growing import GrowingNode
from fedloom_client.device.home import DeviceSettings
from fedloom_client.device.node_worker import Measured
from fedloom_client.device.reading import load_task_light, read_shard, shard_of
from fedloom_client.device.shelf import Shelf
from fedloom_client.loading import BUILT_IN, load_task
from fedloom_client.node import Node
from fedloom_client.task import Task
from fedloom_client.trainer import Trainer
from fedloom_edge.errors import InputError
from fedloom_protos.v1 import link_pb2 as pb


@dataclass(frozen=True)
class Outfit:
    """What a device works with.

    Attributes:
        node: does the work.
        hello: what the device says of itself.
        equip: takes the artefact that the node trains with; None if it needs none.
        measured: takes the model of every evaluation, to serve it; None if none is served.
        artefact: gives the path of what the node trains with; None before there is one, or with torch.
        alone: the board is this device's own, so its energy is this device's.
    """

    node: Node
    hello: pb.Hello
    equip: Callable[[Path], None] | None
    measured: Measured | None = None
    artefact: Callable[[], Path | None] = lambda: None
    alone: bool = True


def make_outfit(settings: DeviceSettings, home: Path) -> Outfit:
    """Open the device's data and make its trainer.

    Args:
        settings: of the device.
        home: the device's folder.

    Raises:
        InputError: the task, its data or the trainer is not there, or is wrong.
    """
    if settings.trainer == "torch":
        task = load_task(settings.task)
        read = shard_of
        trainer: Trainer = make_torch_trainer(task)
        equip = given = None
    else:
        task = load_task_light(settings.task)
        read = read_shard
        trainer = given = ArtefactTrainer(task, home)
        equip = given.equip
    node = _node(settings, task, trainer, partial(read, settings, task))
    hello = pb.Hello(
        trainer="torch" if equip is None else "onnx",
        task=task.name,
        task_digest=task_digest(settings.task),
        examples=len(node.raw.train),
        validation=len(node.raw.validation),
    )
    measured = Shelf(home, node, given).offer if settings.serve and given is not None else None
    return Outfit(
        node, hello, equip, measured, lambda: given.path if given else None, alone=settings.shard is None
    )


def _node(settings: DeviceSettings, task: Task, trainer: Trainer, read: Callable[[], Shard]) -> Node:
    if settings.data and settings.shard is None:
        return GrowingNode(task, read, trainer, Path(settings.data))
    return Node(task, read(), trainer)


def make_torch_trainer(task: Task) -> Trainer:
    """A TorchTrainer.

    Raises:
        InputError: torch is not installed.
    """
    if importlib.util.find_spec("torch") is None:
        raise InputError("trainer torch needs the package torch: pip install 'fedloom[train]'")
    from fedloom_client.torch_trainer import TorchTrainer

    return TorchTrainer(task)


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
