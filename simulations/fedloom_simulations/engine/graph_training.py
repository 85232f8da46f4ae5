"""Clients one after the other by a train-step graph on onnxruntime: no Python and no autograd in a step."""

import os

import numpy as np

from fedloom_client.data.samples import Samples
from fedloom_client.onnx_trainer import OnnxTrainer
from fedloom_client.onnx_trainer.graphs import TaskGraphs
from fedloom_client.onnx_trainer.trainer import ready, step_settings
from fedloom_client.task import Task
from fedloom_client.trainer import Terms
from fedloom_client.training import Training
from fedloom_edge.arrays import Arrays
from fedloom_edge.errors import FedloomError


class GraphTraining:
    """The trainers of a task, one a batch size; a process that was forked makes its own."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._made: dict[tuple[int, int], tuple[OnnxTrainer, TaskGraphs]] = {}

    def trainer(self, batch: int) -> OnnxTrainer:
        """For clients whose batches have `batch` examples, or fewer."""
        return self._pair(batch)[0]

    def obstacle(self, arrays: Arrays, samples: Samples, training: Training, *, proximal: bool) -> str:
        """Why the model has no graph that trains it as PyTorch does; empty where it has one."""
        terms = Terms(proximal=proximal)
        settings = step_settings(self._task.loss, training, terms, alone=training.batch_size == 1)
        try:
            graphs = self._pair(training.batch_size)[1]
            x = ready(samples.take(np.arange(1))[0])
            step = graphs.step(settings, arrays, x, training.batch_size)
        except FedloomError as error:
            return str(error).splitlines()[0]
        return "dropout in a graph draws other masks" if step.draws else ""

    def _pair(self, batch: int) -> "tuple[OnnxTrainer, TaskGraphs]":
        key = (os.getpid(), batch)
        if key not in self._made:
            # One batch size: graphs of every size that a client may have would each take time to build.
            graphs = TaskGraphs(self._task, branches=False, batch=batch)
            self._made[key] = OnnxTrainer(graphs, self._task.loss, self._task.metrics), graphs
        return self._made[key]
