"""A folder of images, one folder a class."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedloom_client.data.samples import LazySamples
from fedloom_edge.errors import DataError, InputError

if TYPE_CHECKING:
    from PIL.Image import Image

_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"}


def image_folder(root: str | Path | None, *, size: tuple[int, int], gray: bool = False) -> LazySamples:
    """Samples from `root/CLASS/*.png` (or .jpg, ...); an image is decoded when it is fetched.

    Args:
        root: folder with a folder a class; classes in alphabetical order, hidden folders left out.
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
    if root is None:
        raise DataError("no image folder was given; name one with --data DIR")
    root = Path(root)
    folders = [path.name for path in root.iterdir() if path.is_dir()] if root.is_dir() else []
    names = sorted(name for name in folders if not name.startswith("."))
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
                return pixels(image, gray=gray, size=size)
        # Pillow raises each of these for one broken file or another.
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(f"{path} cannot be read as an image ({error}); remove or mend it") from error

    return LazySamples(fetch, np.array([c for _, c in files], np.int64), class_names=tuple(names))


def pixels(image: "Image", *, gray: bool, size: tuple[int, int] | None = None) -> NDArray[np.float32]:
    """An image as (C, H, W) in [0, 1]: one channel if `gray`, else three; resized to (height, width).

    Raises:
        ValueError: floating-point pixels, whose range nobody says.
    """
    from PIL import Image

    if image.mode == "F":
        raise ValueError("its pixels are floating-point; save it with 8 or 16 bits")
    if image.mode.startswith("I"):  # 16 bits; Pillow's own conversion to 8 clips them to white
        image = Image.fromarray((np.asarray(image) / 257).clip(0, 255).round().astype(np.uint8))
    image = image.convert("L" if gray else "RGB")
    if size is not None:
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    values = np.asarray(image, np.float32) / np.float32(255)
    return values[np.newaxis] if gray else values.transpose(2, 0, 1)
