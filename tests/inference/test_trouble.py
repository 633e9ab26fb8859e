"""What people of other tools stumbled over, made anew: read right, or refused in one line, never wrong in silence."""

import gzip
import json
import lzma
import os
import struct
import subprocess
import sys
import tracemalloc
import zipfile
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile
from crafted import chunk, header
from tissue import tissue, write_model

from nuclei.cli import act
from nuclei.data.images import decode, open_image
from nuclei.errors import InputError
from nuclei.inference.geojson import point, read_nuclei
from nuclei.inference.overlay import draw_overlay
from nuclei.inference.positions import read_positions
from nuclei.inference.predict_files import predict_image

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


def test_positions_in_microns_without_a_resolution_are_refused(tmp_path):
    PIL.Image.fromarray(PIXELS).save(tmp_path / "tile.png")
    (tmp_path / "nuclei.csv").write_text("Centroid X µm,Centroid Y µm\n20,20\n", encoding="utf-8")
    outputs = [tmp_path / "out" / name for name in ("a.csv", "a.geojson", "a.png")]
    with pytest.raises(InputError, match=r"does not tell its resolution, and .*nuclei\.csv counts in microns"):
        predict_image(None, tmp_path / "tile.png", tmp_path / "nuclei.csv", None, *outputs)
    assert not (tmp_path / "out").exists()


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


# Tables.


def test_rows_longer_than_the_header_are_refused_and_empty_ends_are_not(tmp_path):
    path = tmp_path / "nuclei.csv"
    for text in ('"x","y"\n"1",272,254\n', "x,y\n272,5,254,5\n", "label,x,y\n7,0,10,20\n"):
        path.write_text(text)
        with pytest.raises(InputError, match=r"line 2: \d values, expected \d as in the header"):
            read_positions(path)
    path.write_text("x,y\n272,254,,\n")
    assert (read_positions(path).x[0], read_positions(path).y[0]) == (272, 254)


@pytest.mark.parametrize("row", ['"a,10,20\nb,30,40\nc",50,60', 'a,10,20\n"b,30,40\nc,50,60\n', '"a"b,10,20'])
def test_a_stray_quote_swallows_no_rows(row, tmp_path):
    (tmp_path / "nuclei.csv").write_text(f"name,x,y\n{row}\n")
    with pytest.raises(InputError, match="check the quotes"):
        read_positions(tmp_path / "nuclei.csv")


@pytest.mark.parametrize("row", ["272,5;254,5", "1.234,5;20", "1_000;20"])
def test_numbers_written_in_another_way_are_refused(row, tmp_path):
    (tmp_path / "nuclei.csv").write_text(f"x;y\n{row}\n")
    with pytest.raises(InputError, match=r"line 2: .*expected finite numbers for x and y"):
        read_positions(tmp_path / "nuclei.csv")


HEADER = "Image\tObject ID\tObject type\tCentroid X px\tCentroid Y px\n"


def test_only_the_rows_of_the_image_count(tmp_path):
    path = tmp_path / "nuclei.tsv"
    rows = ["tile.png\t1\tDetection\t10\t20\n", "other.svs\t2\tCell\t30\t40\n", "tile.png\t3\tCell\t50\t60\n"]
    path.write_text(HEADER + "".join(rows))
    for image in ("tile.png", "Tile.PNG", "tile.tif"):
        assert read_positions(path, image).x.tolist() == [10, 50]
    assert read_positions(path, "other.svs").x.tolist() == [30]
    for image in ("third.png", None):
        with pytest.raises(InputError, match=r"its column Image names 'tile\.png', 'other\.svs', expected"):
            read_positions(path, image)
    path.write_text(HEADER + rows[1])
    with pytest.raises(InputError, match=r"its column Image names 'other\.svs', expected 'tile\.png'"):
        read_positions(path, "tile.png")


def test_annotations_are_no_nuclei_and_that_is_said(tmp_path):
    path = tmp_path / "nuclei.tsv"
    kinds = ["Annotation", "Detection", "TMA core", "Cell", "Annotation"]
    path.write_text(HEADER + "".join(f"tile.png\t{n}\t{kind}\t{n}\t{n}\n" for n, kind in enumerate(kinds)))
    positions = read_positions(path, "tile.png")
    assert positions.x.tolist() == [1, 3]
    assert positions.left_out == "left out, as no nuclei: 2 Annotation, 1 TMA core"
    path.write_text(HEADER + "tile.png\t0\tAnnotation\t\t\n")
    with pytest.raises(InputError, match="no nucleus in it but 1 Annotation"):
        read_positions(path, "tile.png")


# GeoJSON and other JSON.


def square(x: float, y: float, half: float = 8) -> list[list[float]]:
    return [
        [x - half, y - half],
        [x + half, y - half],
        [x + half, y + half],
        [x - half, y + half],
        [x - half, y - half],
    ]


def write(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value))
    return path


def feature(kind: str, coordinates: list, **properties: str) -> dict:
    return {"type": "Feature", "geometry": {"type": kind, "coordinates": coordinates}, "properties": properties}


def places(path: Path, **options) -> list[tuple[float, float]]:
    return [(nucleus.x, nucleus.y) for nucleus in read_nuclei(path, **options)]


def test_a_multipolygon_of_many_nuclei_is_a_nucleus_each(tmp_path):
    centres = [(100.0, 100.0), (130.0, 300.0), (350.0, 40.0)]
    shape = feature("MultiPolygon", [[square(x, y)] for x, y in centres], objectType="annotation")
    nuclei = list(read_nuclei(write(tmp_path / "cells.geojson", [shape])))
    assert [(nucleus.x, nucleus.y) for nucleus in nuclei] == centres
    assert [nucleus.feature["geometry"] for nucleus in nuclei] == [
        {"type": "Polygon", "coordinates": [square(x, y)]} for x, y in centres
    ]


def test_a_nucleus_in_two_pieces_stays_one(tmp_path):
    shape = feature("MultiPolygon", [[square(100, 100)], [square(120, 100)]])
    assert places(write(tmp_path / "cells.geojson", [shape])) == [(110, 100)]
    assert places(tmp_path / "cells.geojson", side=25.0) == [(100, 100), (120, 100)]  # 10x


def test_an_annotation_larger_than_a_crop_is_left_out_and_counted(tmp_path):
    region = feature("Polygon", [square(200, 200, 200)], objectType="annotation")
    cell = feature("Polygon", [square(50, 60)], objectType="annotation")
    counts = Counter()
    assert places(write(tmp_path / "cells.geojson", [region, cell]), left_out=counts) == [(50, 60)]
    assert counts == {"annotation": 1}


def test_outlines_as_people_draw_them_have_their_middle_inside(tmp_path):
    bow_tie = [[0, 0], [20, 20], [20, 0], [0, 20.5], [0, 0]]
    ((x, y),) = places(write(tmp_path / "drawn.geojson", [feature("Polygon", [bow_tie])]))
    assert 0 <= x <= 20 and 0 <= y <= 20.5
    assert places(write(tmp_path / "drawn.geojson", [feature("Polygon", [square(10, 10)[:-1]])])) == [(10, 10)]  # open


NUCLEUS = {"bbox": [[92, 92], [108, 108]], "centroid": [100.0, 120.0], "contour": square(100, 120)[:-1], "type": 1}


@pytest.mark.parametrize(
    "value",
    [
        {"mag": 40, "nuc": {"1": NUCLEUS}},
        {"wsi_metadata": {"magnification": 40}, "cells": [NUCLEUS]},
        {"type_map": {}, "cells": [{"centroid": [100.0, 120.0]}]},
        feature("Polygon", [square(100, 120)]),
        {"features": [point(100, 120)], "type": "FeatureCollection"},
    ],
    ids=["HoVer-Net", "CellViT", "CellViT's detections", "a feature alone", "keys in another order"],
)
def test_json_of_other_tools_is_read(value, tmp_path):
    (nucleus,) = read_nuclei(write(tmp_path / "nuclei.json", value))
    assert (nucleus.x, nucleus.y) == (100, 120)
    assert nucleus.feature["type"] == "Feature"
    if nucleus.feature["geometry"]["type"] == "Polygon":
        assert nucleus.feature["geometry"]["coordinates"] == [square(100, 120)]


def test_json_that_is_something_else_says_what_was_expected(tmp_path):
    for value in ({}, {"type": "Polygon", "coordinates": []}, {"a": {"features": []}}, 7, "text"):
        with pytest.raises(InputError, match="expected a FeatureCollection, an array of features, HoVer-Net's nuc"):
            places(write(tmp_path / "nuclei.json", value))
    (tmp_path / "lines.geojson").write_text("\n".join([json.dumps(point(1, 2))] * 2))
    with pytest.raises(InputError, match="more than one JSON value: put the features into one array"):
        places(tmp_path / "lines.geojson")


@pytest.mark.parametrize("name", ["nuclei.geojson", "nuclei.csv", "nuclei.zip", "nuclei.inference.geojson.gz"])
def test_what_is_packed_is_named(name, tmp_path):
    with zipfile.ZipFile(tmp_path / name, "w") as archive:
        archive.writestr("a.geojson", json.dumps([point(1, 2)]))
    with pytest.raises(InputError, match="a zip or an Excel workbook: unpack it first"):
        read_positions(tmp_path / name)
    with gzip.open(tmp_path / name, "wt") as file:
        json.dump([point(1, 2)], file)
    with pytest.raises(InputError, match="packed by gzip: unpack it first"):
        read_positions(tmp_path / name)


@pytest.mark.parametrize("text", ['"' + 2**23 * "a" + '"', '"' + 2**22 * '\\"a' + '"', 2**23 * "1"])
def test_a_text_whose_time_grows_with_its_square_is_refused(text, tmp_path):
    (tmp_path / "nuclei.geojson").write_text('{"features": [{"a": ' + text + "}]}")
    with pytest.raises(InputError, match="a text or number of more than"):
        places(tmp_path / "nuclei.geojson")


def test_many_short_texts_are_read(tmp_path):
    features = [feature("Point", [n, n], name=200 * '\\"') for n in range(20_000)]
    assert len(places(write(tmp_path / "nuclei.geojson", features))) == 20_000


# Outputs and the command line.


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_model(Path("model.safetensors"))
    return tmp_path


def crop(path: Path, at: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(PIXELS[at : at + 100, at : at + 100]).save(path)


def predict(*words: str) -> None:
    act(["predict", "model.safetensors", *words, "--no-tta", "--threads", "1"])


def test_several_inputs_are_classified_one_after_the_other(work):
    for name in ("case.01", "case.02"):
        crop(work / name / "1.png")
    crop(work / "a.png")
    predict("a.png", "case.01", "case.02")
    written = {path.name for path in Path("predictions").iterdir()}
    assert written == {
        f"{name}_{end}" for name in ("a", "case.01", "case.02") for end in ("predictions.csv", "run.json")
    }


def test_results_of_another_input_are_not_replaced(work):
    crop(work / "patient_1" / "tile.png")
    crop(work / "patient_2" / "tile.png", 50)
    predict("patient_1/tile.png")
    first = Path("predictions/tile_predictions.csv").read_bytes()
    with pytest.raises(InputError, match=r"tile_predictions\.csv: exists, and is of .*patient_1.*: give another --out"):
        predict("patient_2/tile.png")
    assert Path("predictions/tile_predictions.csv").read_bytes() == first
    predict("patient_1/tile.png")  # again: the same input may
    with pytest.raises(InputError, match="two results would have this name"):
        predict("patient_1/tile.png", "patient_2/tile.png", "--out", "new")
    assert not Path("new").exists()
    Path("mine").mkdir()
    Path("mine/tile_predictions.csv").write_text("of a user")
    with pytest.raises(InputError, match="exists, of another program or version"):
        predict("patient_1/tile.png", "--out", "mine")
    assert Path("mine/tile_predictions.csv").read_text() == "of a user"


def test_an_output_that_is_an_input_is_refused_before_any_work(work):
    model = Path("model.safetensors").read_bytes()
    Path("link.onnx").symlink_to("model.safetensors")
    Path("hard.onnx").hardlink_to("model.safetensors")
    for name in ("model.safetensors", "link.onnx", "hard.onnx", "./model.safetensors"):
        with pytest.raises(InputError, match="would be replaced, but is read"):
            act(["export", "model.safetensors", name])
    Path("other.safetensors").write_bytes(b"another model")
    with pytest.raises(InputError, match=r"exists and is not an \.onnx file"):
        act(["export", "model.safetensors", "other.safetensors"])
    crop(work / "a.png")
    Path("out").mkdir()
    Path("nuclei.csv").write_text("x,y\n50,50\n")
    Path("out/a_predictions.csv").symlink_to("../nuclei.csv")
    with pytest.raises(InputError, match="would be replaced, but is read"):
        predict("a.png", "--nuclei", "nuclei.csv", "--out", "out")
    assert Path("model.safetensors").read_bytes() == model and Path("nuclei.csv").read_text() == "x,y\n50,50\n"


def test_a_second_process_into_the_same_results_is_refused(work):
    crop(work / "a.png")
    hold = "from pathlib import Path; from nuclei.files import atomic_write\n"
    hold += "with atomic_write(Path('predictions/a_run.json')) as path: print('holds', flush=True); input()"
    first = subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert first.stdout.readline() == "holds\n"
    with pytest.raises(InputError, match=r"a_run\.json: another process is writing it"):
        predict("a.png")
    first.kill()
    first.communicate()
    predict("a.png")


@pytest.mark.parametrize("name", ["data/..", ".", "link", "full", "notes.txt"])
def test_import_into_a_place_of_the_users_is_refused_before_any_work(name, work):
    for folder in ("data", "full", "elsewhere"):
        (work / folder).mkdir()
    (work / "full/thesis.txt").write_text("all of it")
    (work / "notes.txt").write_text("mine")
    (work / "link").symlink_to("elsewhere")
    before = sorted(work.rglob("*"))
    with pytest.raises(InputError, match=r"give a new folder|name the folder itself"):
        act(["import", "consep", "no.zip", "--out", name])
    assert sorted(work.rglob("*")) == before


def test_a_name_that_is_not_utf8_is_named_before_anything_is_predicted(work):
    crop(work / "crops" / "1.png")
    (work / "crops" / "1.png").rename(os.fsdecode(os.fsencode(work / "crops") + b"/gr\xf6sse.png"))
    with pytest.raises(InputError, match=r"crops: the name 'gr\\udcf6sse\.png' is not UTF-8: rename that file"):
        predict("crops")
    assert not Path("predictions").exists()


def test_long_names_are_written_and_names_too_long_refused_before_any_work(work):
    crop(work / ("n" * 230 + ".png"))
    predict("n" * 230 + ".png")
    assert (work / "predictions" / ("n" * 230 + "_predictions.csv")).exists()
    crop(work / ("n" * 245 + ".png"))
    with pytest.raises(OSError, match="File name too long"):
        predict("n" * 245 + ".png")


def test_files_that_macos_puts_into_zips_are_passed_over(work):
    crop(work / "1.png")
    with zipfile.ZipFile("crops.zip", "w") as archive:
        archive.write("1.png", "crops/1.png")
        archive.writestr("crops/._1.png", b"\0\5\x16\7Mac OS X")
    predict("crops.zip")
    assert Path("predictions/crops_predictions.csv").read_text().count("\n") == 2


@pytest.mark.parametrize("size", [(8000, 50), (4000, 1), (1, 4000), (30, 30)])
def test_the_overlay_of_a_narrow_picture_is_of_moderate_size(size):
    height, width = size
    scale = min(4000 / max(size), 1)
    thumbnail = np.full((max(int(height * scale), 1), max(int(width * scale), 1), 3), 200, np.uint8)
    figure = draw_overlay(thumbnail, np.array([0.5]), np.array([0.5]), np.array([1]), 3.0)
    across, down = (value * figure.dpi / figure.dpi for value in figure.get_size_inches() * 100)
    assert across * down < 40e6


def test_lzma_of_a_file_that_unpacks_without_end_is_bounded(tmp_path):
    tifffile.imwrite(tmp_path / "bomb.tif", PIXELS[:128, :128], **TILES | {"compression": "lzma"})
    bomb = lzma.compress(bytes(2**28))
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
