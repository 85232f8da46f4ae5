"""Images as they come: 16 bits, hidden folders, broken files."""

import io

import numpy as np
import pytest
from PIL import Image

from fedloom_client import sources
from fedloom_edge.errors import DataError


def read(folder, image, **form):
    (folder / "cat").mkdir(exist_ok=True)
    path = folder / "cat" / "1.png"
    path.write_bytes(image) if isinstance(image, bytes) else image.save(path)
    return sources.image_folder(folder, size=(4, 4), **form).take(np.array([0]))[0]


@pytest.mark.parametrize("gray", [True, False])
def test_sixteen_bits_keep_their_range(tmp_path, gray):
    x = read(tmp_path, Image.fromarray(np.full((4, 4), 30000, np.uint16)), gray=gray)
    assert x == pytest.approx(30000 / 65535, abs=1 / 255)


def test_a_hidden_folder_is_no_class(tmp_path):
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / "cat").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "cat" / "1.png")
    assert sources.image_folder(tmp_path, size=(4, 4)).class_names == ("cat",)


def test_an_image_that_claims_to_be_enormous_is_refused(tmp_path):
    file = io.BytesIO()
    Image.new("L", (4, 4)).save(file, "BMP")
    header = bytearray(file.getvalue())
    header[18:26] = (100_000).to_bytes(4, "little") * 2  # width and height
    with pytest.raises(DataError, match=r"1\.png cannot be read"):
        read(tmp_path, bytes(header))


def test_whatever_is_wrong_in_a_png_names_the_file(tmp_path):
    rng = np.random.default_rng(0)
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(file, "PNG")
    whole = file.getvalue()
    bad_chunk = whole[:-12] + bytes([0x8E, 0x80, 0xBB, 0x8D]) * 5  # no chunk's name
    for image in (bad_chunk, *(whole[: rng.integers(1, len(whole))] for _ in range(20))):
        try:
            read(tmp_path, image)
        except DataError as error:
            assert "1.png cannot be read" in str(error)


def test_no_data_folder_is_said():
    with pytest.raises(DataError, match="--data DIR"):
        sources.image_folder(None, size=(4, 4))
