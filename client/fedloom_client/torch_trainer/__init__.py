"""Local backpropagation with PyTorch; the only place at a client that imports torch."""

from fedloom_client.torch_trainer.trainer import TorchTrainer

__all__ = ["TorchTrainer"]
