import json
from collections import Counter

import numpy as np
import pytest

from nuclei.data.geojson import classified, point, read_nuclei, write_features
from nuclei.errors import InputError

SQUARE = [[10, 20], [30, 20], [30, 40], [10, 40], [10, 20]]
DETECTION = {  # as QuPath writes what StarDist found
    "type": "Feature",
    "id": "9d0aa4b0-8d27-4a43-b1c7-3f24ba8ea2a3",
    "geometry": {"type": "Polygon", "coordinates": [SQUARE]},
    "properties": {"objectType": "detection", "measurements": {"Detection probability": 0.75}},
}
CELL = {
    "type": "Feature",
    "id": "PathCellObject",
    "geometry": {"type": "Polygon", "coordinates": [[[0, 0], [100, 0], [100, 100], [0, 100], [0, 0]]]},
    "nucleusGeometry": {"type": "Polygon", "coordinates": [SQUARE]},
    "properties": {"objectType": "cell"},
}


def collection(*features):
    return {"type": "FeatureCollection", "features": list(features)}


def feature(kind, coordinates):
    return {"type": "Feature", "geometry": {"type": kind, "coordinates": coordinates}, "properties": {}}


def places(path, value):
    path.write_text(json.dumps(value))
    return [(nucleus.x, nucleus.y) for nucleus in read_nuclei(path)]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (collection(point(3.5, 4)), [(3.5, 4)]),
        ([point(3.5, 4), point(1, 2)], [(3.5, 4), (1, 2)]),  # QuPath without "FeatureCollection"
        (collection(feature("MultiPoint", [[1, 2], [3, 4]]), point(5, 6)), [(1, 2), (3, 4), (5, 6)]),
        (collection(DETECTION), [(20, 30)]),
        (collection(feature("Polygon", [SQUARE[::-1]])), [(20, 30)]),  # clockwise
        (collection(feature("Polygon", [[[0, 0], [30, 0], [0, 60], [0, 0]]])), [(10, 20)]),
        (collection(feature("Polygon", [SQUARE, [[11, 21], [12, 21], [12, 22], [11, 21]]])), [(20, 30)]),  # a hole
        (
            collection(feature("MultiPolygon", [[SQUARE], [[[40, 20], [50, 20], [50, 40], [40, 40], [40, 20]]]])),
            [(85 / 3, 30)],
        ),
        (collection(feature("Polygon", [[[1, 1], [3, 1], [1, 1]]])), [(5 / 3, 1)]),  # without area
        (collection(CELL), [(20, 30)]),  # the nucleus counts, not the cell
        (collection(feature("Point", [1, 2, 0])), [(1, 2)]),
        (collection(), []),
    ],
)
def test_nuclei_are_where_their_geometries_say(value, expected, tmp_path):
    found = places(tmp_path / "nuclei.geojson", value)
    assert len(found) == len(expected)
    assert np.allclose(found, expected)


def test_a_mark_of_the_byte_order_is_passed_over(tmp_path):
    (tmp_path / "nuclei.geojson").write_text("\ufeff" + json.dumps([point(1, 2)]), encoding="utf-8")
    assert [(nucleus.x, nucleus.y) for nucleus in read_nuclei(tmp_path / "nuclei.geojson")] == [(1, 2)]


def test_the_centroid_of_a_round_nucleus_far_from_the_corner_is_exact(tmp_path):
    angle = np.linspace(0, 2 * np.pi, 41)
    ring = np.stack([98_765.25 + 8 * np.cos(angle), 43_210.75 + 5 * np.sin(angle)], axis=1)
    ((x, y),) = places(tmp_path / "nuclei.geojson", collection(feature("Polygon", [ring.tolist()])))
    assert (x, y) == pytest.approx((98_765.25, 43_210.75), abs=1e-6)


@pytest.mark.parametrize(
    "bad",
    [
        feature("LineString", [[1, 2], [3, 4]]),
        feature("Point", [1]),
        feature("Point", ["a", 2]),
        feature("Polygon", []),
        feature("Polygon", [[[1, 2], [3]]]),
        feature("Polygon", [[]]),
        feature(None, [1, 2]),
        {"type": "Feature", "geometry": None},
        {"type": "Feature"},
        point(1, 2) | {"properties": [1]},
        [1, 2],
        "text",
        7,
    ],
    ids=str,
)
def test_a_feature_that_is_no_nucleus_is_named(bad, tmp_path):
    with pytest.raises(InputError, match=r"nuclei\.geojson, feature 2: expected a Point"):
        places(tmp_path / "nuclei.geojson", collection(point(1, 2), bad))


@pytest.mark.parametrize(
    "text", ["", "hello", '{"features": [', '{"features": [{"geometry": {"type": "Point", "coordinates": [NaN, 1]}}]}']
)
def test_what_is_no_json_ends_with_one_line(text, tmp_path):
    (tmp_path / "nuclei.geojson").write_text(text)
    with pytest.raises(InputError, match=r"nuclei\.geojson: not valid JSON \(.*\): export it again") as caught:
        list(read_nuclei(tmp_path / "nuclei.geojson"))
    assert "\n" not in str(caught.value)


def test_a_missing_file_ends_with_one_line(tmp_path):
    with pytest.raises(InputError, match=r"nuclei\.geojson: cannot be read \(No such file or directory\)"):
        list(read_nuclei(tmp_path / "nuclei.geojson"))


def test_a_classified_nucleus_keeps_its_outline_and_what_was_measured(tmp_path):
    coloured = classified(DETECTION, "muscle", (86, 180, 233), {"Probability: muscle": 0.9})
    write_features(tmp_path / "out.geojson", [coloured, classified(point(1, 2), "muscle", (1, 2, 3), {})])
    written = json.loads((tmp_path / "out.geojson").read_text())
    assert written["type"] == "FeatureCollection"
    first, second = written["features"]
    assert (first["id"], first["geometry"]) == (DETECTION["id"], DETECTION["geometry"])
    assert first["properties"] == {
        "objectType": "detection",
        "measurements": {"Detection probability": 0.75, "Probability: muscle": 0.9},
        "classification": {"name": "muscle", "color": [86, 180, 233]},
    }
    assert second["properties"]["objectType"] == "detection"
    further = classified(DETECTION, "muscle", (1, 2, 3), {}, {"Set": "muscle", "Unsure": False})["properties"]
    assert (further["Set"], further["Unsure"], further["objectType"]) == ("muscle", False, "detection")
    assert [(n.x, n.y) for n in read_nuclei(tmp_path / "out.geojson")] == [(20, 30), (1, 2)]
    assert "measurements" in DETECTION["properties"] and len(DETECTION["properties"]["measurements"]) == 1


def test_measurements_as_older_versions_wrote_them_are_replaced():
    old = point(1, 2) | {"properties": {"measurements": [{"name": "Area", "value": 3}]}}
    assert classified(old, "muscle", (1, 2, 3), {"a": 1.0})["properties"]["measurements"] == {"a": 1.0}


@pytest.mark.parametrize(
    "names",
    [
        {"properties": {"objectType": "annotation"}},
        {"properties": {"object_type": "annotation"}},
        {"id": "PathAnnotationObject"},
    ],
    ids=str,
)
def test_a_large_annotation_is_no_nucleus_in_any_version_of_qupath(names, tmp_path):
    ring = [[0, 0], [900, 0], [900, 900], [0, 900], [0, 0]]
    area = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": {}} | names
    path = tmp_path / "nuclei.geojson"
    path.write_text(json.dumps([area, point(5.0, 6.0)]))
    left_out = Counter()
    assert [(nucleus.x, nucleus.y) for nucleus in read_nuclei(path, 100, left_out)] == [(5.0, 6.0)]
    assert left_out.total() == 1
