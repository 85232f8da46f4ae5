"""Local training on stock onnxruntime: `OnnxTrainer`, and where its graphs come from."""

from fedloom_client.onnx_trainer.graphs import Graphs, TaskGraphs
from fedloom_client.onnx_trainer.trainer import OnnxTrainer

__all__ = ["Graphs", "OnnxTrainer", "TaskGraphs"]
