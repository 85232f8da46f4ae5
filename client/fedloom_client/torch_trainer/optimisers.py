"""Optimisers by the names that `Training.optimizer` takes, with PyTorch's semantics."""

from collections.abc import Iterable

from torch import nn, optim

from fedloom_client.training import Training


def make_optimiser(parameters: Iterable[nn.Parameter], training: Training) -> optim.Optimizer:
    """A fresh optimiser: a client keeps no momentum between rounds, the global model has moved."""
    lr, decay = training.lr, training.weight_decay
    match training.optimizer:
        case "sgd":
            return optim.SGD(parameters, lr, weight_decay=decay)
        case "momentum":
            return optim.SGD(parameters, lr, training.momentum, weight_decay=decay)
        case "nesterov":
            # PyTorch refuses Nesterov without momentum; the two are then the same.
            return optim.SGD(
                parameters, lr, training.momentum, weight_decay=decay, nesterov=training.momentum > 0
            )
        case "adam":
            return optim.Adam(parameters, lr, weight_decay=decay)
        case "adamw":
            return optim.AdamW(parameters, lr, weight_decay=decay)
        case "rmsprop":
            return optim.RMSprop(parameters, lr, weight_decay=decay)
