"""TIFFs whose tags say how their bits become pixels: the right pixels, by every way of reading, in bounded memory."""

import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile
from tissue import tissue

from nuclei.data.images import decode, open_image
from nuclei.errors import InputError

PIXELS = tissue()[0][:200, :240]
GREY = PIXELS[..., 0]
TURNED = np.array([int(f"{value:08b}"[::-1], 2) for value in range(256)], np.uint8)  # bits in the other order
HOW = {
    "strips": {},
    "tiles": {"tile": (64, 64)},
    "packed strips": {"compression": "zlib"},
    "packed tiles": {"compression": "zlib", "tile": (64, 64)},
}


def require_pixels(path: Path, expected: np.ndarray) -> None:
    """Read a file as a tile and as a crop."""
    expected = np.broadcast_to(expected.reshape(*expected.shape[:2], -1), (*expected.shape[:2], 3))
    with open_image(path) as image:
        assert np.array_equal(image.read(0, 0, image.height, image.width), expected)
        assert np.array_equal(image.read(70, 50, 90, 240), expected[70:90, 50:240])
    assert np.array_equal(decode(path, str(path)), expected)


def write(path: Path, pixels: np.ndarray, **options) -> Path:
    tifffile.imwrite(path, pixels, metadata=None, **options)
    return path


def turn_bits(path: Path) -> None:
    """Turn the bits of every byte of the pixels, and say so in the tag FillOrder, which tifffile does not write."""
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        places = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    content = bytearray(path.read_bytes())
    for start, size in places:
        content[start : start + size] = TURNED[np.frombuffer(content[start : start + size], np.uint8)].tobytes()
    start = struct.unpack_from("<I", content, 4)[0]
    count = struct.unpack_from("<H", content, start)[0]
    entries = [bytes(content[at : at + 12]) for at in range(start + 2, start + 2 + 12 * count, 12)]
    entries.append(struct.pack("<HHIHH", 266, 3, 1, 2, 0))
    entries.sort(key=lambda entry: struct.unpack_from("<H", entry))
    struct.pack_into("<I", content, 4, len(content))
    path.write_bytes(content + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4))


@pytest.mark.parametrize("how", HOW)
def test_white_is_zero(how, tmp_path):
    require_pixels(write(tmp_path / "a.tif", 255 - GREY, photometric="miniswhite", **HOW[how]), GREY)


@pytest.mark.parametrize("how", HOW)
def test_a_plane_for_each_colour(how, tmp_path):
    planes = np.moveaxis(PIXELS, 2, 0)
    require_pixels(write(tmp_path / "a.tif", planes, photometric="rgb", planarconfig="separate", **HOW[how]), PIXELS)


@pytest.mark.parametrize("how", HOW)
def test_bits_in_the_other_order(how, tmp_path):
    turn_bits(write(tmp_path / "a.tif", PIXELS, photometric="rgb", **HOW[how]))
    require_pixels(tmp_path / "a.tif", PIXELS)


@pytest.mark.parametrize("compression", [None, "group4", "tiff_lzw"])
def test_black_and_white_and_palettes(compression, tmp_path):
    black = PIL.Image.fromarray(GREY > 128)
    black.save(tmp_path / "a.tif", compression=compression)
    require_pixels(tmp_path / "a.tif", np.uint8(255) * np.asarray(black))
    if compression != "group4":
        few = PIL.Image.fromarray(PIXELS).quantize(64)
        few.save(tmp_path / "b.tif", compression=compression)
        require_pixels(tmp_path / "b.tif", np.asarray(few.convert("RGB")))


@pytest.mark.parametrize("options", [{"bigtiff": True}, {"byteorder": ">"}, {"compression": "zlib", "predictor": True}])
def test_other_headers_and_a_predictor(options, tmp_path):
    require_pixels(write(tmp_path / "a.tif", PIXELS, photometric="rgb", **options), PIXELS)


@pytest.mark.parametrize("how", HOW)
def test_a_page_larger_than_the_first_is_not_passed_over(how, tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(PIXELS[:100, :100], photometric="rgb", metadata=None, **HOW[how])
        file.write(PIXELS, photometric="rgb", metadata=None, **HOW[how])
    with pytest.raises(InputError, match="page 2 is larger than the first, expected one image"):
        require_pixels(tmp_path / "a.tif", PIXELS)
    PIL.Image.fromarray(PIXELS[:100, :100]).save(
        tmp_path / "b.tif", compression="tiff_lzw", save_all=True, append_images=[PIL.Image.fromarray(PIXELS)]
    )
    with pytest.raises(InputError, match="page 2 is larger than the first, expected one image"):
        require_pixels(tmp_path / "b.tif", PIXELS)


BOMBS = {8: lambda: zlib.compress(bytes(2**26), 9), 32773: lambda: b"\x81\0" * 2**19}  # 64 MB each


@pytest.mark.parametrize("code", BOMBS)
def test_a_tile_that_unpacks_without_end_is_bounded(code, tmp_path):
    write(tmp_path / "a.tif", PIXELS[:128, :128], photometric="rgb", compression="zlib", tile=(128, 128))
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as file:
        tags, start = file.pages[0].tags, file.pages[0].dataoffsets[0]
        bomb = BOMBS[code]()
        tags["Compression"].overwrite(code)
        tags["TileByteCounts"].overwrite(len(bomb))
    (tmp_path / "a.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:start] + bomb)
    tracemalloc.start()
    with open_image(tmp_path / "a.tif") as image:
        assert not image.read(0, 0, 128, 128).any()
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()
