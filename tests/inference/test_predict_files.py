import json
from dataclasses import replace

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import tifffile
from tissue import tissue, write_model, write_tile

from nuclei.crops import Places
from nuclei.data.cut import cut
from nuclei.data.geojson import COLOURS, point
from nuclei.data.images import as_channels, open_image
from nuclei.errors import InputError
from nuclei.inference.classifier import load_classifier
from nuclei.inference.overlay import LEGEND, LINE
from nuclei.inference.predict_files import predict_crops, predict_nuclei
from nuclei.models.calibration import Neighbourhood
from nuclei.models.checkpoint import load_model, save_model
from nuclei.task import CLASSES, MPP

CHANCES = [f"Probability_{label}" for label in range(len(CLASSES))]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    path = write_model(tmp_path_factory.mktemp("models") / "model.safetensors")
    return load_classifier([path], threads=1, precision="float32", tta=False)


@pytest.fixture
def tile(tmp_path):
    write_tile(tmp_path / "tile.png")
    tissue()[1][["x", "y"]].to_csv(tmp_path / "nuclei.csv", index=False)
    return tmp_path / "tile.png"


def outputs(folder):
    return folder / "out" / "table.csv", folder / "out" / "nuclei.geojson", folder / "out" / "picture.png"


def run(classifier, picture, nuclei, mpp=MPP):
    with open_image(picture) as image:
        predict_nuclei(classifier, image, nuclei, mpp, *outputs(picture.parent))
    table, geojson, _ = outputs(picture.parent)
    return pd.read_csv(table), json.loads(geojson.read_text())["features"]


def expected(classifier, mpp=MPP):
    pixels, nuclei = tissue()
    crops = [
        as_channels(cut(pixels, y, x, 100 * MPP / mpp), classifier.channels) for y, x in nuclei[["y", "x"]].to_numpy()
    ]
    return classifier.predict(np.stack(crops))


def test_every_nucleus_gets_the_probabilities_of_its_crop(classifier, tile):
    table, features = run(classifier, tile, tile.parent / "nuclei.csv")
    nuclei = tissue()[1]
    assert table.columns.tolist() == ["x", "y", "Predicted", "Class", *CHANCES, "Set", "Unsure", "Novelty", "Unlike"]
    assert table[["x", "y"]].to_numpy().tolist() == nuclei[["x", "y"]].to_numpy().tolist()
    np.testing.assert_allclose(table[CHANCES], expected(classifier), atol=1e-5)
    assert (table.Predicted == table[CHANCES].to_numpy().argmax(axis=1)).all()
    assert table.Predicted.nunique() > 1
    assert (table.Class == np.array(CLASSES)[table.Predicted]).all()
    assert [f["geometry"] for f in features] == [point(x, y)["geometry"] for x, y in table[["x", "y"]].to_numpy(float)]
    for feature, row in zip(features, table.itertuples(), strict=True):
        classification = {"name": row.Class, "color": list(COLOURS[row.Predicted])}
        assert feature["properties"]["classification"] == classification
        measured = feature["properties"]["measurements"]
        assert list(measured) == [*(f"Probability: {name}" for name in CLASSES), "Novelty"]
        np.testing.assert_allclose(list(measured.values()), [getattr(row, name) for name in (*CHANCES, "Novelty")])
        assert feature["properties"]["Unlike"] == row.Unlike == (row.Novelty > 1)
    assert table.Unlike.nunique() == 2


def test_a_nucleus_that_may_be_of_several_classes_is_unsure(classifier, tile):
    """`classifier`: its threshold for sets of coverage 0.9 is a probability of 0.3."""
    table, features = run(classifier, tile, tile.parent / "nuclei.csv")
    chances = table[CHANCES].to_numpy()
    likely = (chances >= 0.3) | (np.arange(len(CLASSES)) == chances.argmax(axis=1)[:, None])
    sets = ["; ".join(name for name, is_likely in zip(CLASSES, row, strict=True) if is_likely) for row in likely]
    assert table.Set.tolist() == sets
    assert table.Unsure.tolist() == (likely.sum(axis=1) > 1).tolist()
    assert table.Unsure.nunique() == 2
    written = [(feature["properties"]["Set"], feature["properties"]["Unsure"]) for feature in features]
    assert written == list(zip(sets, table.Unsure.tolist(), strict=True))


def test_a_tiff_in_tiles_gives_the_same_as_a_png(classifier, tile):
    first, _ = run(classifier, tile, tile.parent / "nuclei.csv")
    tifffile.imwrite(tile.with_suffix(".tif"), tissue()[0], tile=(64, 64), compression="zlib")
    second, _ = run(classifier, tile.with_suffix(".tif"), tile.parent / "nuclei.csv")
    pd.testing.assert_frame_equal(first, second)


def test_running_again_writes_the_same_bytes(classifier, tile):
    contents = []
    for _ in range(2):
        run(classifier, tile, tile.parent / "nuclei.csv")
        contents.append([path.read_bytes() for path in outputs(tile.parent)])
    assert contents[0] == contents[1]


def test_a_picture_at_20x_is_read_at_its_resolution(classifier, tile):
    pixels, nuclei = tissue()
    size = pixels.shape[1] // 2, pixels.shape[0] // 2
    PIL.Image.fromarray(pixels).resize(size, PIL.Image.Resampling.BICUBIC).save(tile)
    (nuclei[["x", "y"]] / 2).to_csv(tile.parent / "nuclei.csv", index=False)
    at_20x, _ = run(classifier, tile, tile.parent / "nuclei.csv", mpp=0.5)
    wrong, _ = run(classifier, tile, tile.parent / "nuclei.csv", mpp=0.25)
    near, far = (np.abs(table[CHANCES].to_numpy() - expected(classifier)).mean() for table in (at_20x, wrong))
    assert near < 0.15 < far


def test_centroids_in_microns_are_found(classifier, tile):
    nuclei = 0.25 * tissue()[1][["x", "y"]]
    nuclei.columns = ["Centroid X µm", "Centroid Y µm"]
    nuclei.to_csv(tile.parent / "microns.csv", index=False)
    in_microns, _ = run(classifier, tile, tile.parent / "microns.csv")
    in_pixels, _ = run(classifier, tile, tile.parent / "nuclei.csv")
    pd.testing.assert_frame_equal(in_microns, in_pixels, check_dtype=False)


def test_outlines_come_back_with_their_class(classifier, tile):
    nuclei = tissue()[1]
    features = []
    for number, (y, x) in enumerate(nuclei[["y", "x"]].to_numpy().tolist()):
        ring = [[x - 8, y - 5], [x + 8, y - 5], [x + 8, y + 5], [x - 8, y + 5], [x - 8, y - 5]]
        geometry = {"type": "Polygon", "coordinates": [ring]}
        features.append({"type": "Feature", "id": str(number), "geometry": geometry, "properties": {"isLocked": True}})
    (tile.parent / "cells.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    table, written = run(classifier, tile, tile.parent / "cells.geojson")
    assert [(f["id"], f["geometry"]) for f in written] == [(f["id"], f["geometry"]) for f in features]
    assert all(f["properties"]["isLocked"] for f in written)
    np.testing.assert_allclose(table[CHANCES], expected(classifier), atol=1e-5)


def test_coordinates_of_a_large_slide_keep_their_digits(classifier, tile):
    with open_image(tile) as image:
        far = replace(image, width=300_000, read=lambda y0, x0, y1, x1: np.full((y1 - y0, x1 - x0, 3), 200, np.uint8))
        (tile.parent / "far.csv").write_text("x,y\n234567.89,123.456\n")
        predict_nuclei(classifier, far, tile.parent / "far.csv", MPP, *outputs(tile.parent))
    assert pd.read_csv(outputs(tile.parent)[0])[["x", "y"]].to_numpy().tolist() == [[234567.89, 123.456]]


def test_the_picture_has_rings_in_the_colours_of_the_classes_where_the_nuclei_are(classifier, tile):
    table, _ = run(classifier, tile, tile.parent / "nuclei.csv")
    picture = np.asarray(PIL.Image.open(outputs(tile.parent)[2]).convert("RGB")).astype(int)
    pixels, _ = tissue()
    scale = 1000 / pixels.shape[1]  # narrow tiles are enlarged
    assert picture.shape[:2] == (round(pixels.shape[0] * scale) + LEGEND + LINE, 1000)
    seen = {}
    for row in table[(table.x.between(30, 770)) & (table.y.between(30, 370))].itertuples():
        y, x = int(row.y * scale), int(row.x * scale)
        around = picture[y - 18 : y + 18, x - 18 : x + 18].reshape(-1, 3)
        distance = np.abs(around[:, None] - np.array(COLOURS)).sum(axis=2).min(axis=0)
        seen.setdefault(row.Predicted, []).append(distance[row.Predicted] < 60)
    assert all(np.mean(found) > 0.9 for found in seen.values()) and len(seen) > 1


@pytest.mark.parametrize("place", ["801,10", "10,400.5", "-0.1,10"])
def test_a_nucleus_outside_of_the_picture_is_named_and_nothing_is_written(place, classifier, tile):
    (tile.parent / "nuclei.csv").write_text(f"x,y\n10,10\n{place}\n{place}\n")
    x, y = place.split(",")
    with pytest.raises(InputError) as caught:
        run(classifier, tile, tile.parent / "nuclei.csv")
    assert f"nuclei.csv: nucleus 2 at x {x}, y {y} (and 1 others) lies outside of" in str(caught.value)
    assert "(800x400 pixels)" in str(caught.value)
    assert not (tile.parent / "out").exists()


def test_a_failure_half_way_leaves_earlier_results_alone(classifier, tile):
    run(classifier, tile, tile.parent / "nuclei.csv")
    before = {path: path.read_bytes() for path in (tile.parent / "out").iterdir()}
    tifffile.imwrite(tile.with_suffix(".tif"), tissue()[0], tile=(64, 64), compression="zlib")
    with tifffile.TiffFile(tile.with_suffix(".tif")) as file:
        offset = file.pages[0].dataoffsets[-1]
    content = bytearray(tile.with_suffix(".tif").read_bytes())
    content[offset : offset + 20] = bytes(20)
    tile.with_suffix(".tif").write_bytes(content)
    with pytest.raises(InputError, match="damaged in tile or strip"):
        run(classifier, tile.with_suffix(".tif"), tile.parent / "nuclei.csv")
    assert {path: path.read_bytes() for path in (tile.parent / "out").iterdir()} == before


def test_grey_models_look_at_grey_crops(tile):
    grey = load_classifier(
        [write_model(tile.parent / "grey.safetensors", channels=1)], threads=1, precision="float32", tta=False
    )
    table, _ = run(grey, tile, tile.parent / "nuclei.csv")
    np.testing.assert_allclose(table[CHANCES], expected(grey), atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_crops_in_files_get_a_table_by_name(channels, tmp_path):
    model = write_model(tmp_path / "model.safetensors", channels)
    classifier = load_classifier([model], threads=1, precision="float32", tta=False)
    pixels, nuclei = tissue()
    crops = {f"{n}.png": cut(pixels, y, x, 100) for n, (y, x) in enumerate(nuclei[["y", "x"]].to_numpy()[:12])}
    (tmp_path / "crops").mkdir()
    for name, crop in crops.items():
        PIL.Image.fromarray(as_channels(crop, channels).squeeze()).save(tmp_path / "crops" / name)
    labels = predict_crops(classifier, tmp_path / "crops", MPP, tmp_path / "table.csv").labels
    table = pd.read_csv(tmp_path / "table.csv")
    assert table.columns.tolist() == ["Filename", "Predicted", "Class", *CHANCES, "Set", "Unsure", "Novelty", "Unlike"]
    assert table.Filename.tolist() == sorted(crops)
    assert table.Predicted.tolist() == labels.tolist()
    expected = classifier.predict(np.stack([as_channels(crops[name], channels) for name in sorted(crops)]))
    np.testing.assert_allclose(table[CHANCES], expected, atol=1e-5)
    sets = classifier.sets(expected)
    assert [row.split("; ") for row in table.Set] == [[CLASSES[label] for label in np.flatnonzero(row)] for row in sets]
    assert table.Unsure.tolist() == (sets.sum(axis=1) > 1).tolist()


def test_neighbours_are_weighed_in_by_their_distance_in_microns(tile):
    """Nuclei in microns: where a pixel is 25 microns wide, no nucleus has a neighbour."""
    path = write_model(tile.parent / "model.safetensors")
    model = load_model(path)
    around = Neighbourhood((0.5, 1.0, 2.0, 1.0, 0.5), (0.6, 0.5, 0.4), (0.8, 0.9, 0.9))
    save_model(path, replace(model, single=replace(model.single, neighbourhood=around)))
    how = {"threads": 1, "precision": "float32", "tta": False}
    alone, classifier = load_classifier([path], **how), load_classifier([path], **how, neighbours=True)
    table, features = run(classifier, tile, tile.parent / "nuclei.csv")
    nuclei = tissue()[1]
    places = Places(np.zeros(len(nuclei), int), MPP * nuclei["y"].to_numpy(), MPP * nuclei["x"].to_numpy())
    together = classifier.among_neighbours(expected(alone), places)
    np.testing.assert_allclose(table[CHANCES], together, atol=1e-5)
    assert (table.Predicted != expected(alone).argmax(axis=1)).any()
    assert (table.Unsure == (classifier.sets(together).sum(axis=1) > 1)).all()
    assert features[0]["properties"]["classification"]["name"] == table.Class[0]
    apart, _ = run(classifier, tile, tile.parent / "nuclei.csv", mpp=100 * MPP)  # all nuclei are 25 microns a pixel
    np.testing.assert_allclose(apart[CHANCES], run(alone, tile, tile.parent / "nuclei.csv", mpp=100 * MPP)[0][CHANCES])
