"""Tables and JSON of nuclei as other tools write them: read right, or refused in one line, never wrong in silence."""

import gzip
import json
import zipfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from tissue import write_tile

from nuclei.data.geojson import point, read_nuclei
from nuclei.data.positions import read_positions
from nuclei.errors import InputError
from nuclei.inference.predict_files import predict_image
from nuclei.task import COLON


def test_positions_in_microns_without_a_resolution_are_refused(tmp_path):
    write_tile(tmp_path / "tile.png")
    (tmp_path / "nuclei.csv").write_text("Centroid X µm,Centroid Y µm\n20,20\n", encoding="utf-8")
    outputs = [tmp_path / "out" / name for name in ("a.csv", "a.geojson", "a.png")]
    with pytest.raises(InputError, match=r"does not tell its resolution, and .*nuclei\.csv counts in microns"):
        predict_image(SimpleNamespace(task=COLON), tmp_path / "tile.png", tmp_path / "nuclei.csv", None, *outputs)
    assert not (tmp_path / "out").exists()


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


def test_objects_as_older_versions_of_qupath_name_them(tmp_path):
    path = tmp_path / "nuclei.tsv"
    names = ["PathAnnotationObject", "PathDetectionObject", "TMACoreObject", "PathCellObject", "Tumour"]
    rows = "".join(f"tile.png\t{name}\t{n}\t{n}\n" for n, name in enumerate(names))
    for column in ("Name", "Object type"):
        path.write_text(f"Image\t{column}\tCentroid X px\tCentroid Y px\n" + rows)
        positions = read_positions(path, "tile.png")
        assert positions.x.tolist() == ([1, 3, 4] if column == "Name" else [1, 3])
        assert positions.left_out.startswith("left out, as no nuclei: 1 Annotation, 1 TMACore")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_text_in_utf16_is_named(encoding, tmp_path):
    for name, text in (("nuclei.csv", "x,y\n1,2\n"), ("nuclei.geojson", json.dumps([point(1, 2)]))):
        (tmp_path / name).write_text(text, encoding=encoding)
        with pytest.raises(InputError, match=r"text in UTF-16, expected UTF-8: save it so"):
            read_positions(tmp_path / name)


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


@pytest.mark.parametrize("name", ["nuclei.geojson", "nuclei.csv", "nuclei.zip", "nuclei.geojson.gz"])
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
