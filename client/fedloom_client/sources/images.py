"""A folder of images, one folder a class."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedloom_client.samples import LazySamples
from fedloom_edge.errors import DataError, InputError

_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"}


def image_folder(root: str | Path, *, size: tuple[int, int], gray: bool = False) -> LazySamples:
    """Samples from `root/CLASS/*.png` (or .jpg, ...); an image is decoded when it is fetched.

    Args:
        root: folder with a folder a class; classes in alphabetical order.
        size: (height, width) that every image is resized to, bilinearly.
        gray: one channel instead of three.

    Returns:
        Samples with inputs (C, H, W) float32 in [0, 1] and int64 classes.

    Raises:
        InputError: Pillow is not installed.
        DataError: no class folder or no image; a broken image is named when it is fetched.
    """
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise InputError("image folders need Pillow: pip install 'fedloom[data]'") from error
    root = Path(root)
    names = sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    if not names:
        raise DataError(f"{root} has no folders; put the images of each class into a folder of its own")
    files = [
        (p, c)
        for c, name in enumerate(names)
        for p in sorted((root / name).iterdir())
        if p.suffix.lower() in _SUFFIXES
    ]
    if not files:
        raise DataError(f"{root}: no images in its folders; known endings: {', '.join(sorted(_SUFFIXES))}")

    def fetch(index: int) -> NDArray[np.float32]:
        path = files[index][0]
        try:
            with Image.open(path) as image:
                ready = image.convert("L" if gray else "RGB").resize(
                    (size[1], size[0]), Image.Resampling.BILINEAR
                )
        except OSError as error:
            raise DataError(f"{path} cannot be read as an image ({error}); remove or mend it") from error
        pixels = np.asarray(ready, np.float32) / np.float32(255)
        return pixels[np.newaxis] if gray else pixels.transpose(2, 0, 1)

    return LazySamples(fetch, np.array([c for _, c in files], np.int64), class_names=tuple(names))
