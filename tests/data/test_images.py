import io
import sys
import tracemalloc
from contextlib import contextmanager

import numpy as np
import PIL.Image
import pytest
import tifffile
from tissue import tissue

from nuclei.data.images import as_channels, open_image
from nuclei.data.slides import open_slide
from nuclei.errors import InputError

TILED = {"tile": (128, 128), "compression": "zlib"}
LOSSLESS = {
    "picture.png": lambda path, pixels: PIL.Image.fromarray(pixels).save(path),
    "uncompressed.tif": lambda path, pixels: tifffile.imwrite(path, pixels),
    "tiles.tif": lambda path, pixels: tifffile.imwrite(path, pixels, **TILED, predictor=True),
    "strips.tif": lambda path, pixels: tifffile.imwrite(path, pixels, rowsperstrip=7, compression="zlib"),
    "big.tif": lambda path, pixels: tifffile.imwrite(path, pixels, **TILED, bigtiff=True),
    "lzw.tif": lambda path, pixels: PIL.Image.fromarray(pixels).save(path, compression="tiff_lzw"),
    "opaque.png": lambda path, pixels: PIL.Image.fromarray(pixels).convert("RGBA").save(path),
}
LOSSY = {
    "picture.jpg": lambda path, pixels: PIL.Image.fromarray(pixels).save(path, quality=95),
    "jpeg.tif": lambda path, pixels: PIL.Image.fromarray(pixels).save(path, compression="jpeg", quality=95),
}


@pytest.mark.parametrize("name", LOSSLESS | LOSSY)
def test_any_part_of_a_picture_has_the_pixels_that_were_saved(name, tmp_path):
    pixels, _ = tissue()
    (LOSSLESS | LOSSY)[name](tmp_path / name, pixels)
    with open_image(tmp_path / name) as image:
        assert (image.height, image.width) == pixels.shape[:2]
        for top, left, bottom, right in (
            (0, 0, 400, 800),
            (100, 130, 390, 700),
            (255, 127, 257, 129),
            (399, 799, 400, 800),
        ):
            part = image.read(top, left, bottom, right)
            assert part.shape == (bottom - top, right - left, 3) and part.dtype == np.uint8
            difference = np.abs(part.astype(int) - pixels[top:bottom, left:right])
            assert difference.max() == 0 if name in LOSSLESS else difference.mean() < 15


@pytest.mark.parametrize("name", ["grey.png", "grey.tif"])
def test_a_grey_picture_is_read_as_rgb(name, tmp_path):
    grey = tissue()[0][..., 0]
    if name == "grey.png":
        PIL.Image.fromarray(grey).save(tmp_path / name)
    else:
        tifffile.imwrite(tmp_path / name, grey, **TILED)
    with open_image(tmp_path / name) as image:
        assert np.array_equal(image.read(3, 5, 100, 200), np.repeat(grey[3:100, 5:200, None], 3, axis=2))


@pytest.mark.parametrize(
    ("tags", "mpp"),
    [
        ({"resolution": (40_000, 40_000), "resolutionunit": "CENTIMETER"}, 0.25),
        ({"resolution": (50_800, 50_800), "resolutionunit": "INCH"}, 0.5),
        ({"resolution": (72, 72), "resolutionunit": "INCH"}, None),  # what editors write unasked
        ({"resolution": (0, 1), "resolutionunit": "CENTIMETER"}, None),
        ({"resolution": (4, 4), "resolutionunit": "NONE"}, None),
        ({}, None),
    ],
)
def test_a_tiff_tells_its_resolution_where_it_is_that_of_a_microscope(tags, mpp, tmp_path):
    for name, how in (("tiles.tif", TILED), ("plain.tif", {})):
        tifffile.imwrite(tmp_path / name, tissue()[0], **how, **tags)
        with open_image(tmp_path / name) as image:
            assert image.mpp == (pytest.approx(mpp) if mpp else None)


@pytest.mark.parametrize(
    "how", [{}, TILED, {"compression": "zlib", "rowsperstrip": 64}], ids=["plain", "tiles", "strips"]
)
def test_a_part_of_a_large_tiff_takes_little_memory(how, tmp_path):
    tifffile.imwrite(tmp_path / "large.tif", np.full((3000, 3000, 3), 240, np.uint8), **how)
    with open_image(tmp_path / "large.tif") as image:
        tracemalloc.start()
        assert (image.read(2000, 2000, 2200, 2200) == 240).all()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 6e6  # of 27e6
        assert image.thumbnail(1000).shape == (1000, 1000, 3)


def test_a_gap_in_a_sparse_tiff_is_bare_glass(tmp_path):
    tiles = (None if place else np.zeros((128, 128, 3), np.uint8) for place in range(4))
    tifffile.imwrite(tmp_path / "sparse.tif", tiles, shape=(256, 256, 3), dtype=np.uint8, photometric="rgb", **TILED)
    with open_image(tmp_path / "sparse.tif") as image:
        whole = image.read(0, 0, 256, 256)
    assert (whole[:128, :128] == 0).all() and (whole[128:] == 255).all() and (whole[:, 128:] == 255).all()


@pytest.fixture
def slide(tmp_path):
    """A TIFF as scanners write them, in JPEG tiles: OpenSlide reads it, tifffile alone does not."""
    pixels, _ = tissue()

    def tiles():
        for top in range(0, pixels.shape[0], 128):
            for left in range(0, pixels.shape[1], 128):
                tile = np.full((128, 128, 3), 255, np.uint8)
                part = pixels[top : top + 128, left : left + 128]
                tile[: part.shape[0], : part.shape[1]] = part
                jpeg = io.BytesIO()
                PIL.Image.fromarray(tile).save(jpeg, "JPEG", quality=95, subsampling=0)
                yield jpeg.getvalue()

    path = tmp_path / "slide.tif"
    tifffile.imwrite(
        path,
        tiles(),
        shape=pixels.shape,
        dtype=np.uint8,
        photometric="rgb",
        metadata=None,
        resolution=(20_000, 20_000),
        resolutionunit="CENTIMETER",
        **TILED,
    )
    with tifffile.TiffFile(path, mode="r+b") as file:  # tifffile has no JPEG of its own: say what the tiles are
        file.pages[0].tags["Compression"].overwrite(tifffile.COMPRESSION.JPEG)
        file.pages[0].tags["PhotometricInterpretation"].overwrite(tifffile.PHOTOMETRIC.YCBCR)
    return path


def test_a_slide_is_read_by_openslide(slide):
    pixels, _ = tissue()
    with open_image(slide) as image:
        assert (image.height, image.width, image.mpp) == (*pixels.shape[:2], 0.5)
        part = image.read(100, 130, 390, 700)
        assert part.shape == (290, 570, 3) and part.dtype == np.uint8
        assert np.abs(part.astype(int) - pixels[100:390, 130:700]).mean() < 3
        assert image.thumbnail(100).shape == (50, 100, 3)


def test_a_slide_that_was_scanned_in_part_counts_from_there_as_qupath_does(slide, monkeypatch):
    bounds = {"x": 100, "y": 50, "width": 600, "height": 300}

    @contextmanager
    def partly(path):
        with open_slide(path) as opened:
            told = {f"openslide.bounds-{name}": str(value) for name, value in bounds.items()}
            yield opened._replace(properties=opened.properties | told)

    with open_image(slide) as whole:
        expected, small = whole.read(60, 130, 350, 700), whole.thumbnail(400)
    monkeypatch.setattr("nuclei.data.images.open_slide", partly)
    with open_image(slide) as image:
        assert (image.width, image.height) == (600, 300)
        assert np.array_equal(image.read(10, 30, 300, 600), expected)
        assert np.array_equal(image.thumbnail(300), small[25:175, 50:350])


def test_a_slide_that_is_damaged_is_named(slide):
    with tifffile.TiffFile(slide) as file:
        offset, size = file.pages[0].dataoffsets[5], file.pages[0].databytecounts[5]
    content = bytearray(slide.read_bytes())
    content[offset : offset + size] = bytes(size)
    slide.write_bytes(content)
    for look in (lambda image: image.read(0, 0, 400, 800), lambda image: image.thumbnail(100)):
        message = r"slide\.tif: a damaged slide \(.*\): copy it again"
        with open_image(slide) as image, pytest.raises(InputError, match=message):
            look(image)


def test_where_openslide_is_not_installed_the_message_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openslide", None)
    (tmp_path / "slide.mrxs").write_bytes(b"of a scanner")
    with pytest.raises(InputError) as caught, open_image(tmp_path / "slide.mrxs"):
        pass
    assert str(caught.value).endswith("not a PNG, JPEG or TIFF: convert it; for slides, pip install -e '.[slide]'")


def cut_off(path, pixels):
    tifffile.imwrite(path, pixels, **TILED)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def transparent(path, pixels):
    PIL.Image.fromarray(np.dstack([pixels, np.full(pixels.shape[:2], 128, np.uint8)])).save(path)


DEEP = "rescale to 8 bits first"
BAD = {
    "text.png": (lambda path, _: path.write_text("hello"), "not a PNG, JPEG or TIFF: convert it"),
    "empty.tif": (lambda path, _: path.write_bytes(b""), "not a PNG, JPEG or TIFF: convert it"),
    "start.tif": (lambda path, _: path.write_bytes(b"II*\0"), "a damaged TIFF: copy or save it again"),
    "nowhere.tif": (lambda path, _: path.write_bytes(b"II*\0broken"), "a damaged TIFF: copy or save it again"),
    "half.tif": (cut_off, "damaged in tile or strip 10: copy or save it again"),
    "half.png": (
        lambda path, pixels: (PIL.Image.fromarray(pixels).save(path), path.write_bytes(path.read_bytes()[:5000])),
        "damaged: copy or save it again",
    ),
    "deep.tif": (lambda path, pixels: tifffile.imwrite(path, pixels.astype(np.uint16)), DEEP),
    "deep.png": (lambda path, pixels: PIL.Image.fromarray(pixels[..., 0].astype(np.uint16)).save(path), DEEP),
    "float.tif": (lambda path, pixels: tifffile.imwrite(path, pixels[..., 0].astype(np.float32)), DEEP),
    "transparent.png": (transparent, "has transparent pixels: put it on a background, save it as RGB"),
    "folder.png": (lambda path, _: path.mkdir(), "cannot be read (Is a directory): expected an image"),
    "missing.png": (lambda path, _: None, "cannot be read (No such file or directory): expected an image"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_picture_ends_with_one_line(name, tmp_path):
    write, complaint = BAD[name]
    write(tmp_path / name, tissue()[0])
    with pytest.raises(InputError) as caught, open_image(tmp_path / name) as image:
        image.read(0, 0, image.height, image.width)
    assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert complaint in str(caught.value)


def test_mistakes_in_the_use_of_a_picture_are_not_taken_for_damage(tmp_path):
    tifffile.imwrite(tmp_path / "tiles.tif", tissue()[0], **TILED)
    with pytest.raises(ZeroDivisionError), open_image(tmp_path / "tiles.tif"):
        _ = 1 / 0


def test_a_tile_that_is_damaged_is_named(tmp_path):
    tifffile.imwrite(tmp_path / "tiles.tif", tissue()[0], **TILED)
    with tifffile.TiffFile(tmp_path / "tiles.tif") as file:
        offset, size = file.pages[0].dataoffsets[5], file.pages[0].databytecounts[5]
    content = bytearray((tmp_path / "tiles.tif").read_bytes())
    content[offset : offset + size] = bytes(size)
    (tmp_path / "tiles.tif").write_bytes(content)
    with open_image(tmp_path / "tiles.tif") as image:
        image.read(0, 0, 100, 100)
        with pytest.raises(InputError, match="damaged in tile or strip 5"):
            image.read(0, 0, 400, 800)


def test_grey_channels_are_those_of_the_pipeline():
    pixels = tissue()[0][:100, :100]
    assert as_channels(pixels, 3) is pixels
    luma = np.asarray(PIL.Image.fromarray(pixels).convert("L"))
    assert np.array_equal(as_channels(pixels, 1), luma[..., None])
