"""A node: one shard and its trainer, the same under every adapter (Flower's ClientApp, the device agent)."""

from dataclasses import dataclass

from fedloom_client.data.preprocess import prepare
from fedloom_client.data.samples import Shard
from fedloom_client.task import Task
from fedloom_client.trainer import Assignment, Evaluation, Trainer, Update
from fedloom_edge.arrays import Arrays, arrays_sha256


@dataclass(frozen=True)
class Description:
    """What a node tells before round 1.

    Attributes:
        examples: in its training part.
        validation: examples in its validation part.
        summary: of its training part for the task's preprocessing; empty without one.
    """

    examples: int
    validation: int
    summary: Arrays


class Node:
    """Trains and evaluates on its own shard, which is made ready once."""

    def __init__(self, task: Task, raw: Shard, trainer: Trainer) -> None:
        self.task = task
        self.raw = raw
        self.trainer = trainer
        self._ready: tuple[str, Shard] | None = None

    def describe(self) -> Description:
        """The shard's size and its summary."""
        preprocess = self.task.preprocess
        summary = {} if preprocess is None else preprocess.summarise(self.raw.train)
        return Description(len(self.raw.train), len(self.raw.validation), summary)

    def train(self, arrays: Arrays, constants: Arrays, assignment: Assignment) -> Update:
        """Fit `arrays` on the training part, made ready with the preprocessing's constants."""
        return self.trainer.fit(arrays, self.shard(constants), assignment)

    def evaluate(self, arrays: Arrays, constants: Arrays) -> Evaluation:
        """Loss and metrics of `arrays` on the validation part."""
        return self.trainer.evaluate(arrays, self.shard(constants).validation)

    def shard(self, constants: Arrays) -> Shard:
        """The shard with preprocessing applied, kept until the constants change."""
        if self.task.preprocess is None:
            return self.raw
        key = arrays_sha256(constants)
        if self._ready is None or self._ready[0] != key:
            parts = (
                prepare(part, self.task.preprocess, constants)
                for part in (self.raw.train, self.raw.validation)
            )
            self._ready = (key, Shard(*parts))
        return self._ready[1]
