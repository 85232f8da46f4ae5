"""PyTorch's own optimisers by the names that `Training.optimizer` takes: what a plain loop uses."""

from collections.abc import Iterable

from torch import nn, optim

from fedloom_client.training import Training


def make_optimiser(parameters: Iterable[nn.Parameter], training: Training) -> optim.Optimizer:
    """A fresh optimiser: a client keeps no momentum between rounds, the global model has moved.

    Fused, where there is a fused one: a step of the digits model took 53 µs instead of 115 (momentum)
    and 108 instead of 378 (Adam); of the sentiment model with Adam, 0.35 ms instead of 7.
    """
    lr, decay, momentum = training.lr, training.weight_decay, training.momentum
    match training.optimizer:
        case "sgd":
            return optim.SGD(parameters, lr, weight_decay=decay, fused=True)
        case "momentum":
            return optim.SGD(parameters, lr, momentum, weight_decay=decay, fused=True)
        case "nesterov":
            # PyTorch refuses Nesterov without momentum; the two are then the same.
            nesterov = momentum > 0
            return optim.SGD(parameters, lr, momentum, weight_decay=decay, nesterov=nesterov, fused=True)
        case "adam":
            return optim.Adam(parameters, lr, weight_decay=decay, fused=True)
        case "adamw":
            return optim.AdamW(parameters, lr, weight_decay=decay, fused=True)
        case "rmsprop":
            return optim.RMSprop(parameters, lr, weight_decay=decay, foreach=True)
