"""The models that `fedloom_edge.bench` measures, in PyTorch, with a batch for each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Case:
    """A model, a batch, and what of it is trained.

    Attributes:
        model: makes the module; its outputs are logits of 10 classes.
        shape: of one input.
        batch: examples a step.
        trainable: as `build_train_step` takes it; torch trains everything.
        bar: smallest ratio of torch's step time to ours that the project asks for; 0 for none.
    """

    model: Callable[[], nn.Module]
    shape: tuple[int, ...]
    batch: int
    trainable: str | Sequence[str] = "all"
    bar: float = 0.0


def mlp() -> nn.Module:
    """64-64-10."""
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def cnn() -> nn.Module:
    """Two convolutions with pooling, one linear layer."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 10),
    )


class Inverted(nn.Module):
    """MobileNetV2's block (Sandler et al., 2018, figure 4)."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.same = stride == 1 and inputs == outputs
        first = [nn.Conv2d(inputs, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()]
        self.body = nn.Sequential(
            *(first if expansion > 1 else []),
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(),
            nn.Conv2d(wide, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, outputs, H / stride, W / stride)."""
        y: Tensor = self.body(x)
        return x + y if self.same else y


def mobilenet() -> nn.Module:
    """MobileNetV2 of width 0.35 (channels to multiples of 8), with batch normalisation."""
    rows = [
        (1, 8, 1, 1),
        (6, 8, 2, 2),
        (6, 16, 3, 2),
        (6, 24, 4, 2),
        (6, 32, 3, 1),
        (6, 56, 3, 2),
        (6, 112, 1, 1),
    ]
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6()]
    channels = 16
    for expansion, outputs, repeats, stride in rows:
        for index in range(repeats):
            layers.append(Inverted(channels, outputs, stride if index == 0 else 1, expansion))
            channels = outputs
    layers += [nn.Conv2d(channels, 1280, 1, bias=False), nn.BatchNorm2d(1280), nn.ReLU6()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 10))


class Recurrent(nn.Module):
    """A GRU over 20 steps, as the task `stocks` has it, wider."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(8, 32, batch_first=True)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, 8) -> (B, 10)."""
        states, _ = self.gru(x)
        out: Tensor = self.head(states[:, -1])
        return out


class Encoder(nn.Module):
    """A Transformer encoder layer over 32 places of width 64, as the task `sentiment` has it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(64, 4, 128, 0.0, "gelu", batch_first=True, norm_first=True)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 32, 64) -> (B, 10)."""
        out: Tensor = self.head(self.encoder(x).mean(1))
        return out


def _late_blocks() -> list[str]:
    """First pointwise convolutions and biases of the last blocks (Lin et al., 2022, section 3.2)."""
    blocks = range(13, 20)
    return [*(f"{i}.body.0.weight" for i in blocks), *(f"{i}.body.*.bias" for i in blocks), "25.*"]


CASES = {
    "mlp": Case(mlp, (64,), 32, bar=5.0),
    "cnn": Case(cnn, (1, 28, 28), 32, bar=1.2),
    "cnn, last layer": Case(cnn, (1, 28, 28), 32, "last:1", bar=10.0),
    "mobilenet": Case(mobilenet, (3, 96, 96), 8, bar=1.0),
    "mobilenet, sparse": Case(mobilenet, (3, 96, 96), 8, _late_blocks(), bar=4.0),
    "mobilenet, last layer": Case(mobilenet, (3, 96, 96), 8, "last:1", bar=4.0),
    "gru": Case(Recurrent, (20, 8), 32, bar=1.5),
    "transformer": Case(Encoder, (32, 64), 32, bar=1.2),
}


class TorchStep:
    """PyTorch's own step on a case, eager, with momentum.

    Args:
        case: its model is trained in full.
    """

    def __init__(self, case: Case) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(0)
        self.module = case.model().train()
        self.optimiser = torch.optim.SGD(self.module.parameters(), 0.01, 0.9, fused=True)
        self.x = torch.randn(case.batch, *case.shape)
        self.y = torch.randint(0, 10, (case.batch,))

    def __call__(self) -> float:
        """Take a step; returns the loss before it."""
        self.optimiser.zero_grad()
        loss = nn.functional.cross_entropy(self.module(self.x), self.y)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        return loss.item()
