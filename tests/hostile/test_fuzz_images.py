"""TIFFs, slides, pictures and files of nuclei damaged at random: read, or refused in one line, never a crash.

`FUZZ_EXAMPLES=20000 uv run pytest tests/hostile/test_fuzz_images.py` draws other damage, and more.
"""

import io
import json
import logging
import random
import struct
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from test_fuzz import CHANGES, damage, fuzz, refusing
from tissue import tissue

from nuclei.data.geojson import point
from nuclei.data.images import decode, open_image
from nuclei.data.positions import read_positions

PIXELS = tissue()[0][:150, :170]


def tiff(**options) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, PIXELS, photometric="rgb", **options)
    return file.getvalue()


def saved(kind: str, **options) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(PIXELS).save(file, kind, **options)
    return file.getvalue()


TIFFS = {
    "plain": tiff(),
    "tiles": tiff(tile=(64, 64), compression="zlib", predictor=True),
    "strips": tiff(rowsperstrip=7, compression="zlib"),
    "lzma": tiff(tile=(64, 64), compression="lzma"),
    "packbits": saved("TIFF", compression="packbits"),
    "big": tiff(bigtiff=True, tile=(64, 64), compression="zlib"),
    "ome": tiff(ome=True, metadata={"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}),
    "lzw": saved("TIFF", compression="tiff_lzw"),
    "jpeg": saved("TIFF", compression="jpeg"),
    "zstd": saved("TIFF", compression="zstd"),
}
PICTURES = {"png": saved("PNG"), "jpeg": saved("JPEG"), "progressive": saved("JPEG", progressive=True)}


def read_all(path: Path) -> None:
    with refusing(path), open_image(path) as image:
        if image.width * image.height < 10**7:
            image.read(0, 0, image.height, image.width)
        image.thumbnail(100)
    with refusing(path):
        decode(path, str(path))


def change_tag(content: bytes, number: int, field: int, value: int) -> bytes:
    """Overwrite the type, the count or the value of a tag of the first page."""
    start = struct.unpack_from("<I", content, 4)[0]
    if content[2] != 42 or start + 2 > len(content):
        return content
    entries = struct.unpack_from("<H", content, start)[0]
    at = start + 2 + 12 * (number % max(entries, 1)) + (0, 2, 4, 8)[field]
    size = 2 if field < 2 else 4
    return content[:at] + (value % 256**size).to_bytes(size, "little") + content[at + size :]


@fuzz(share=0.6)
@given(
    name=st.sampled_from(sorted(set(TIFFS) - {"lzw", "jpeg", "zstd"})),
    tags=st.lists(
        st.tuples(
            st.integers(0, 30),
            st.integers(1, 3),
            st.one_of(st.integers(0, 20), st.integers(0, 2**32 - 1), st.sampled_from([2**16, 2**31 - 1, 2**32 - 1])),
        ),
        min_size=1,
        max_size=3,
    ),
)
def test_a_tiff_whose_tags_lie(tmp_path, name, tags):
    content = TIFFS[name]
    for number, field, value in tags:
        content = change_tag(content, number, field, value)
    (tmp_path / "tile.tif").write_bytes(content)
    with refusing(tmp_path / "tile.tif"):
        decode(tmp_path / "tile.tif", str(tmp_path / "tile.tif"))


@fuzz(share=0.6)
@given(name=st.sampled_from(sorted(TIFFS)), changes=CHANGES)
def test_a_damaged_tiff_as_a_crop(tmp_path, capfd, name, changes):
    (tmp_path / "tile.tif").write_bytes(damage(TIFFS[name], changes))
    with refusing(tmp_path / "tile.tif"):
        decode(tmp_path / "tile.tif", str(tmp_path / "tile.tif"))
    assert capfd.readouterr() == ("", "")  # libtiff has a mouth of its own


@fuzz(share=0.2)
@given(name=st.sampled_from(sorted(TIFFS)), changes=CHANGES, number=st.integers(0, 30), value=st.integers(0, 2**32 - 1))
def test_a_damaged_tile_or_slide(tmp_path, name, changes, number, value):
    content = damage(TIFFS[name], changes) if value % 2 else change_tag(TIFFS[name], number, 1 + number % 3, value)
    (tmp_path / "tile.tif").write_bytes(content)
    read_all(tmp_path / "tile.tif")


@fuzz(share=0.5)
@given(name=st.sampled_from(sorted(PICTURES)), changes=CHANGES)
def test_a_damaged_picture(tmp_path, capfd, name, changes):
    path = tmp_path / "crop.png"
    path.write_bytes(damage(PICTURES[name], changes))
    with refusing(path):
        decode(path, str(path))
    assert capfd.readouterr() == ("", "")


SQUARE = [[10, 20], [30, 20], [30, 40], [10, 20]]
FEATURES = [point(1, 2), {"type": "Feature", "geometry": {"type": "MultiPolygon", "coordinates": [[SQUARE], [SQUARE]]}}]
NUCLEI = {
    "a.geojson": json.dumps({"type": "FeatureCollection", "features": FEATURES}).encode(),
    "b.json": json.dumps({"mag": 40, "nuc": {"1": {"centroid": [1.5, 2], "contour": SQUARE}}}).encode(),
    "c.json": json.dumps({"cells": [{"centroid": [1.5, 2]}]}).encode(),
    "d.csv": b"Image,Object type,x,y\na.png,Cell,1,2\na.png,Annotation,,\n",
    "e.tsv": "Centroid X µm\tCentroid Y µm\n1\t2\n".encode(),
}


@fuzz()
@given(name=st.sampled_from(sorted(NUCLEI)), changes=CHANGES)
def test_a_damaged_file_of_nuclei(tmp_path, name, changes):
    path = tmp_path / name
    path.write_bytes(damage(NUCLEI[name], changes))
    with refusing(path):
        positions = read_positions(path, "a.png")
        assert np.isfinite(positions.x).all() and len(positions.x) == len(positions.y) > 0


@pytest.mark.parametrize("seed", range(20))
def test_a_slide_damaged_in_its_tiles(seed, tmp_path, capfd):
    """As found: OpenSlide and libtiff may end the process that they run in."""
    rng = random.Random(seed)
    content = bytearray(TIFFS["jpeg"])
    for _ in range(rng.randrange(1, 30)):
        content[rng.randrange(8, len(content))] = rng.randrange(256)
    (tmp_path / "slide.svs").write_bytes(bytes(content))
    read_all(tmp_path / "slide.svs")
    assert capfd.readouterr() == ("", "")


@pytest.fixture(autouse=True)
def quiet(caplog):
    """As `nuclei predict` does."""
    caplog.set_level(logging.CRITICAL, logger="tifffile")
