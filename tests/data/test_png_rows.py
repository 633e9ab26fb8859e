"""A PNG without its last rows is refused wherever crops and pictures are read, by one rule."""

import io
import struct
import tracemalloc
import zlib

import numpy as np
import PIL.Image
import pytest
from raw_files import GREY, RGB, chunk, complaint, crop, header, png

from nuclei.data.images import decode
from nuclei.data.png_rows import has_all_rows
from nuclei.errors import InputError

SIZES = [(2, 5), (3, 8), (100, 100), (101, 7), (99, 100)]  # height and width


def pixels(height: int, width: int, samples: int, level: int) -> np.ndarray:
    return np.full((height, width, samples), level, np.uint16)


def shortened(content: bytes, by: int) -> bytes:
    """Pack all of a PNG's pixels but the last bytes."""
    start = content.index(b"IDAT") - 4
    (size,) = struct.unpack_from(">I", content, start)
    scanlines = zlib.decompress(content[start + 8 : start + 8 + size])
    return content[:start] + chunk(b"IDAT", zlib.compress(scanlines[: len(scanlines) - by])) + content[-12:]


def is_whole(content: bytes) -> bool:
    file = io.BytesIO(content)
    with PIL.Image.open(file, formats=["PNG"]) as image:
        image.load()
        return has_all_rows(image, file)


@pytest.mark.parametrize("level", [0, 200], ids=["black", "bright"])
@pytest.mark.parametrize("interlaced", [False, True], ids=["row by row", "interlaced"])
@pytest.mark.parametrize("colour", [RGB, GREY], ids=["RGB", "grey"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_png_is_whole_with_its_last_row_and_not_without_it(size, colour, interlaced, level):
    """Pillow says nothing: it finds the data's end where a row would begin. It sends odd rows last when interlaced."""
    samples = 3 if colour == RGB else 1
    content = png(pixels(*size, samples, level), colour=colour, interlaced=interlaced)
    assert is_whole(content)
    assert not is_whole(shortened(content, by=1 + samples * size[1]))


@pytest.mark.parametrize("interlaced", [False, True], ids=["row by row", "interlaced"])
def test_crops_of_the_competition_and_pictures_are_judged_alike(interlaced, raw, out):
    content = shortened(png(pixels(100, 100, 3, 200), interlaced=interlaced), by=301)
    crop(content)(raw)
    assert complaint(raw, out) == "train.zip, member 'train/3.png': a damaged PNG: save the crop again"
    with pytest.raises(InputError, match=r"crop\.png: damaged: copy or save it again"):
        decode(io.BytesIO(content), "crop.png")


def test_a_chunk_that_claims_4_gb_takes_no_memory():
    rows = zlib.compress(100 * (b"\0" + bytes(300)))
    content = b"\x89PNG\r\n\x1a\n" + header(100, 100) + b"\xff\xff\xff\xffIDAT" + rows
    with PIL.Image.new("RGB", (100, 100)) as image:
        tracemalloc.start()
        assert has_all_rows(image, io.BytesIO(content))
        assert not has_all_rows(image, io.BytesIO(content[:-20]))
        assert tracemalloc.get_traced_memory()[1] < 2**22
        tracemalloc.stop()
