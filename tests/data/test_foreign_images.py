"""Pictures as other tools write them: read right, or refused in one line, never wrong in silence."""

import lzma
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile
from raw_files import chunk, header
from tissue import tissue

from nuclei.data.images import decode, open_image
from nuclei.errors import InputError

TILES = {"tile": (128, 128), "compression": "zlib", "photometric": "rgb"}
PIXELS = tissue()[0][:400, :400]
OME = '<?xml version="1.0"?><OME><Image><Pixels SizeC="3" {size}>{channels}</Pixels></Image></OME>'
UNITS = {"": 0.5, "µm": 0.5, "um": 0.5, "nm": 500, "mm": 0.0005, "cm": 0.00005, "m": 0.0000005, "\u00c5": 5000}


def ome(size: float, unit: str) -> str:
    told = f'PhysicalSizeX="{size}" PhysicalSizeY="{size}"'
    return OME.format(
        size=told + (f' PhysicalSizeXUnit="{unit}" PhysicalSizeYUnit="{unit}"' if unit else ""), channels=""
    )


def imagej(unit: str, per_unit: float) -> dict:
    return {"description": f"ImageJ=1.53\nunit={unit}\n", "resolution": (per_unit, per_unit), "resolutionunit": "NONE"}


def aperio(rest: str) -> dict:
    return {"description": f"Aperio Image Library v11.2.1 \r\n200x200 (128x128) JPEG/RGB Q=95|{rest}"}


TOLD = {
    **{f"OME-XML in {unit or 'no unit'}": {"description": ome(size, unit)} for unit, size in UNITS.items()},
    **{f"ImageJ in {unit}": imagej(unit, 2) for unit in ("micron", "um", "\\u00B5m", "microns")},
    **{"ImageJ in nm": imagej("nm", 0.002), "ImageJ in mm": imagej("mm", 2000), "ImageJ in cm": imagej("cm", 20_000)},
    **{"ImageJ in inches": imagej("inch", 50_800)},
    **{"Aperio": aperio("AppMag = 20|MPP = 0.5"), "Aperio, commas": aperio("AppMag = 20|MPP = 0,5|Left = 1")},
    **{"Motic": {"description": "Motic|MPP = 0.5|"}, "only the objective": aperio("AppMag = 20")},
    **{f"tag {unit}": {"resolution": (n, n), "resolutionunit": unit} for unit, n in ((4, 2000), (5, 2), (3, 20_000))},
}


@pytest.mark.parametrize("name", TOLD)
def test_a_resolution_is_seen_wherever_a_file_tells_it(name, tmp_path):
    told = {key: value.encode() if isinstance(value, str) else value for key, value in TOLD[name].items()}
    if isinstance(told.get("resolutionunit"), bytes):
        told["resolutionunit"] = "NONE"
    tifffile.imwrite(tmp_path / "tile.tif", PIXELS, metadata=None, **TILES, **told)
    with open_image(tmp_path / "tile.tif") as image:
        assert image.mpp == pytest.approx(0.5)
        assert image.mpp_source.startswith("an objective") == (name == "only the objective")


@pytest.mark.parametrize("text", ["ImageJ=1.53\nunit=pixel\n", ome(3, "pixel"), "|MPP = 72|", "<OME", "BMPP = 0.5"])
def test_what_is_no_resolution_is_not_taken_for_one(text, tmp_path):
    tifffile.imwrite(tmp_path / "tile.tif", PIXELS, metadata=None, description=text, **TILES)
    with open_image(tmp_path / "tile.tif") as image:
        assert image.mpp is None


def test_pixels_that_are_no_squares_are_refused(tmp_path):
    text = OME.format(size='PhysicalSizeX="0.25" PhysicalSizeY="0.5"', channels="")
    tifffile.imwrite(tmp_path / "tile.tif", PIXELS, metadata=None, description=text, **TILES)
    assert "pixels of 0.25 x 0.5 microns, expected squares" in complaint(tmp_path / "tile.tif")


def complaint(path: Path) -> str:
    with pytest.raises(InputError) as caught, open_image(path) as image:
        image.read(0, 0, image.height, image.width)
        image.thumbnail(100)
    assert str(caught.value).startswith(str(path)) and str(caught.value).isprintable()
    return str(caught.value)


def planes(path: Path, **options) -> Path:
    tifffile.imwrite(path, np.moveaxis(PIXELS, 2, 0), photometric="minisblack", **options)
    return path


STACKS = {
    "three grey pages": lambda path: planes(path),
    "OME-XML of three stains": lambda path: planes(path, metadata={"axes": "CYX"}, ome=True),
    "an ImageJ composite": lambda path: planes(path, imagej=True, metadata={"axes": "CYX", "mode": "composite"}),
    "tiles": lambda path: planes(path, tile=(128, 128), compression="zlib"),
    "two focus planes": lambda path: tifffile.imwrite(path, np.stack([255 - PIXELS, PIXELS]), photometric="rgb"),
    "one page of several planes": lambda path: tifffile.imwrite(
        path, PIXELS, photometric="rgb", metadata=None, description="ImageJ=1.53\nimages=3\nslices=3\n"
    ),
    "planes in OME-XML": lambda path: tifffile.imwrite(
        path, PIXELS, photometric="rgb", metadata=None, description=OME.format(size='SizeZ="5"', channels="")
    ),
}


@pytest.mark.parametrize("name", STACKS)
def test_several_pages_of_one_size_are_not_one_image(name, tmp_path):
    STACKS[name](tmp_path / "stack.tif")
    assert "pages of one size, expected one image: save it as RGB" in complaint(tmp_path / "stack.tif")
    with pytest.raises(InputError, match="pages of one size"):
        decode(tmp_path / "stack.tif", "stack.tif")


@pytest.mark.parametrize("how", [{}, {"tile": (128, 128), "compression": "zlib"}], ids=["plain", "tiles"])
def test_colour_in_three_pages_is_read_where_it_is_said_to_be_colour(how, tmp_path):
    channels = "".join(
        f'<Channel ID="Channel:0:{n}" Name="{name}"/>' for n, name in enumerate(("Red", "Green", "Blue"))
    )
    text = OME.format(size="", channels=channels)
    with tifffile.TiffWriter(tmp_path / "planes.tif") as file:
        for number in range(3):
            plane = PIXELS[..., number]
            file.write(plane, photometric="minisblack", metadata=None, description=text if not number else None, **how)
    with open_image(tmp_path / "planes.tif") as image:
        assert np.array_equal(image.read(10, 20, 400, 400), PIXELS[10:, 20:])
        assert image.thumbnail(100).shape == (100, 100, 3)


def test_pyramids_are_read_as_before(tmp_path):
    with tifffile.TiffWriter(tmp_path / "pyramid.tif") as file:
        file.write(PIXELS, **TILES, metadata=None)
        file.write(PIXELS[::2, ::2], subfiletype=1, **TILES, metadata=None)
        file.write(PIXELS, subfiletype=1, **TILES, metadata=None)
    with open_image(tmp_path / "pyramid.tif") as image:
        assert np.array_equal(image.read(0, 0, 400, 400), PIXELS)


def with_tag(path: Path, code: int, value: int) -> Path:
    """Write a TIFF in which a tag has another value."""
    tifffile.imwrite(path, PIXELS, metadata=None, extratags=[(code, 3, 1, value, True)], **TILES)
    return path


@pytest.mark.parametrize("orientation", range(2, 9))
def test_what_is_to_be_rotated_when_it_is_shown_is_refused(orientation, tmp_path):
    assert f"orientation {orientation}" in complaint(with_tag(tmp_path / "tile.tif", 274, orientation))
    exif = PIL.Image.Exif()
    exif[274] = orientation
    PIL.Image.fromarray(PIXELS).save(tmp_path / "tile.jpg", exif=exif)
    assert f"orientation {orientation}" in complaint(tmp_path / "tile.jpg")


def test_values_and_colours_of_another_kind_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "signed.tif", PIXELS.view(np.int8), photometric="rgb")
    assert "not 8-bit unsigned integers" in complaint(tmp_path / "signed.tif")
    PIL.Image.fromarray(PIXELS).convert("CMYK").save(tmp_path / "cmyk.tif")
    assert "expected grey or RGB" in complaint(tmp_path / "cmyk.tif")
    PIL.Image.fromarray(PIXELS).convert("CMYK").save(tmp_path / "cmyk.jpg")
    assert "colours are CMYK, expected grey or RGB" in complaint(tmp_path / "cmyk.jpg")
    PIL.Image.fromarray(255 - PIXELS[..., 0]).save(tmp_path / "negative.tif", tiffinfo={262: 0})
    with open_image(tmp_path / "negative.tif") as image:
        assert image.read(0, 0, 9, 9).shape == (9, 9, 3)


@pytest.mark.parametrize("name", ["crop.png", "crop.tif", "crop.jpg"])
def test_frames_are_not_one_image(name, tmp_path):
    frames = [PIL.Image.fromarray(part) for part in (PIXELS[:100, :100], PIXELS[100:200, :100])]
    kind = {"crop.jpg": "MPO"}.get(name)
    frames[0].save(tmp_path / name, kind, save_all=True, append_images=frames[1:])
    message = complaint(tmp_path / name)
    assert "2 frames, expected one" in message or "2 pages of one size" in message


def test_a_png_without_its_last_rows_is_refused(tmp_path):
    rows = b"".join(b"\0" + row.tobytes() for row in PIXELS[:100, :100])
    for share, whole in ((1.0, True), (0.9, False)):
        data = zlib.compress(rows[: int(share * len(rows))])
        content = b"\x89PNG\r\n\x1a\n" + header(100, 100) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
        (tmp_path / "crop.png").write_bytes(content)
        if whole:
            assert np.array_equal(decode(tmp_path / "crop.png", "crop.png"), PIXELS[:100, :100])
        else:
            assert complaint(tmp_path / "crop.png").endswith("damaged: copy or save it again")


def test_a_picture_too_large_to_decode_is_not_called_damaged(tmp_path):
    for side in (12_000, 13_400, 60_000):
        content = b"\x89PNG\r\n\x1a\n" + header(side, side) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
        (tmp_path / "large.png").write_bytes(content)
        assert "too many to decode at once: save it as a tiled TIFF" in complaint(tmp_path / "large.png")


CODES = {
    33004: "JPEG 2000",
    34712: "JPEG 2000",
    50001: "WebP",
    22610: "JPEG XR",
    50002: "JPEG XL",
    12345: "method 12345",
}
CODES |= {33005: "JPEG 2000"}


def recompressed(path: Path, code: int, **how) -> Path:
    """Write a TIFF whose tag of the compression is another one."""
    tifffile.imwrite(path, PIXELS, photometric="rgb", compression="zlib", metadata=None, **how)
    content = bytearray(path.read_bytes())
    start = struct.unpack_from("<I", content, 4)[0]
    for entry in range(start + 2, start + 2 + 12 * struct.unpack_from("<H", content, start)[0], 12):
        if struct.unpack_from("<H", content, entry)[0] == 259:
            struct.pack_into("<H", content, entry + 8, code)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("how", [{"tile": (128, 128)}, {}], ids=["tiles", "strips"])
@pytest.mark.parametrize("code", CODES)
def test_a_compression_that_nothing_reads_is_named(code, how, tmp_path):
    message = complaint(recompressed(tmp_path / "tile.tif", code, **how))
    assert f"compressed as {CODES[code]}, which nothing here can read: save it with deflate or JPEG" in message


def test_zstandard_is_read_without_a_module_for_it(tmp_path):
    PIL.Image.fromarray(PIXELS).save(tmp_path / "zstd.tif", compression="zstd")
    with open_image(tmp_path / "zstd.tif") as image:
        assert np.array_equal(image.read(0, 0, 400, 400), PIXELS)


def test_lzma_and_packbits_are_read_and_damage_is_named(tmp_path):
    tifffile.imwrite(
        tmp_path / "lzma.tif", PIXELS, photometric="rgb", compression="lzma", tile=(128, 128), predictor=True
    )
    PIL.Image.fromarray(PIXELS).save(tmp_path / "packbits.tif", compression="packbits")
    for name in ("lzma.tif", "packbits.tif"):
        with open_image(tmp_path / name) as image:
            assert np.array_equal(image.read(0, 0, 400, 400), PIXELS)
    with tifffile.TiffFile(tmp_path / "lzma.tif") as file:
        start = file.pages[0].dataoffsets[2]
    content = bytearray((tmp_path / "lzma.tif").read_bytes())
    content[start : start + 4] = b"\x78\x9c\0\0"
    (tmp_path / "lzma.tif").write_bytes(content)
    assert complaint(tmp_path / "lzma.tif").endswith("damaged in tile or strip 2: copy or save it again")


def test_a_package_beside_this_one_changes_nothing(monkeypatch, tmp_path):
    """Compressions that tifffile would unpack with imagecodecs are left to OpenSlide and Pillow all the same."""
    PIL.Image.fromarray(PIXELS).save(tmp_path / "lzw.tif", compression="tiff_lzw")
    monkeypatch.setattr(tifffile.TIFF.DECOMPRESSORS, "_codecs", {5: None, 7: None})
    with open_image(tmp_path / "lzw.tif") as image:
        assert np.array_equal(image.read(0, 0, 400, 400), PIXELS)


def test_lzma_of_a_file_that_unpacks_without_end_is_bounded(tmp_path):
    tifffile.imwrite(tmp_path / "bomb.tif", PIXELS[:128, :128], **TILES | {"compression": "lzma"})
    bomb = lzma.compress(bytes(2**26), preset=0)
    with tifffile.TiffFile(tmp_path / "bomb.tif") as file:
        place = file.pages[0].dataoffsets[0]
        size_tag = file.pages[0].tags["TileByteCounts"].valueoffset
    content = bytearray((tmp_path / "bomb.tif").read_bytes())
    content[place:] = bomb
    struct.pack_into("<I", content, size_tag, len(bomb))
    (tmp_path / "bomb.tif").write_bytes(content)
    tracemalloc.start()
    with open_image(tmp_path / "bomb.tif") as image:
        assert not image.read(0, 0, 128, 128).any()
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


def test_a_tiny_tiff_that_claims_a_huge_picture_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "huge.tif", PIXELS[:16, :16], photometric="rgb", compression="zlib", metadata=None)
    with tifffile.TiffFile(tmp_path / "huge.tif", mode="r+b") as file:
        for name in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            file.pages[0].tags[name].overwrite(60_000)
    assert "damaged" in complaint(tmp_path / "huge.tif") or "too many" in complaint(tmp_path / "huge.tif")
