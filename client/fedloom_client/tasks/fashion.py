"""Fashion-MNIST, 28x28 pixels, 10 kinds of clothes: 60,000 images to train on, 10,000 to test."""

import gzip
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fedloom_client import ArraySamples, Data, Task, Training
from fedloom_edge.errors import DataError

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
CLASSES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")


def model() -> nn.Module:
    """A small convolutional network, chosen for accuracy per second on one core."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=2, padding=2),  # (B, 16, 14, 14)
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),  # (B, 32, 7, 7)
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 64),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(64, 10),
    )


def data(folder: Path | None) -> Data:
    """Pixels in [0, 1] as (N, 1, 28, 28), in the split that its authors made."""
    folder = folder or DEBIAN
    train, test = (
        ArraySamples(
            _pixels(read_idx(folder, f"{part}-images-idx3-ubyte")),
            read_idx(folder, f"{part}-labels-idx1-ubyte").astype(np.int64),
        )
        for part in ("train", "t10k")
    )
    return Data(train, test, class_names=CLASSES)


def _pixels(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N, 28, 28) as (N, 1, 28, 28) in [0, 1], in place: a copy of all images takes half a second."""
    x = images[:, np.newaxis].astype(np.float32)
    x /= 255
    return x


def read_idx(folder: Path, name: str) -> NDArray[np.uint8]:
    """The array in an idx file, gzipped or not: 2 zero bytes, type, rank, big-endian sizes, bytes."""
    packed, plain = folder / f"{name}.gz", folder / name
    try:
        content = gzip.decompress(packed.read_bytes()) if packed.is_file() else plain.read_bytes()
    except FileNotFoundError:
        raise DataError(
            f"{plain}(.gz) is missing: apt install dataset-fashion-mnist, or name a folder with --data DIR "
            "that holds train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and "
            "t10k-labels-idx1-ubyte"
        ) from None
    except (EOFError, gzip.BadGzipFile, zlib.error):
        content = b""
    rank = content[3] if content[:3] == b"\x00\x00\x08" else 0
    shape = np.frombuffer(content[4 : 4 + 4 * rank], ">u4").astype(int)
    values = np.frombuffer(memoryview(content)[4 + 4 * rank :], np.uint8)
    if rank == 0 or len(shape) != rank or values.size != shape.prod():
        raise DataError(f"{plain}(.gz) is no complete idx file of bytes; get it again")
    return values.reshape(shape)


task = Task(
    name="fashion",
    model=model,
    data=data,
    training=Training(optimizer="momentum", lr=0.03, batch_size=32, epochs=1, schedule="cosine"),
    clients=20,
)
