"""Nuclei found in an image, through the command and its functions."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import tifffile
from scipy.spatial import cKDTree
from tissue import tissue, write_model, write_tile

from nuclei.cli import act
from nuclei.data.geojson import read_nuclei
from nuclei.data.images import open_image
from nuclei.errors import InputError
from nuclei.inference.detect import detect_nuclei, plan_detection

DPI = 25_400 / 0.25, 25_400 / 0.25
TOY = """
import numpy as np
from skimage.measure import label

def dark(tile, mpp):
    return label(tile[..., 0] < 140)

def wrong(tile, mpp):
    return np.zeros(tile.shape)

def one_argument(tile):
    return tile
"""


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_tile(Path("tile.png"), dpi=DPI)
    Path("toy.py").write_text(TOY)
    return tmp_path


def detections(name: str = "tile") -> tuple[pd.DataFrame, list[dict]]:
    table = pd.read_csv(f"detections/{name}_nuclei.csv")
    return table, json.loads(Path(f"detections/{name}_nuclei.geojson").read_text())["features"]


def test_most_nuclei_of_a_drawn_tile_are_found_within_3_microns(work):
    act(["detect", "tile.png"])
    table, _ = detections()
    true = tissue()[1]
    inside = true.x.between(12, 788) & true.y.between(12, 388)  # others are cut in half
    distance, nearest = cKDTree(table[["x", "y"]]).query(true[inside][["x", "y"]])
    assert (distance < 12).mean() > 0.9
    assert len(np.unique(nearest[distance < 12])) > 0.88 * inside.sum()
    assert 0.9 * len(true) < len(table) < 1.25 * len(true)  # fibroblasts are nuclei, too, without a label
    assert table.Area_um2.between(np.pi * 1.5**2, np.pi * 10**2).all()


def test_outlines_are_those_of_the_nuclei_in_the_table(work):
    act(["detect", "tile.png"])
    table, features = detections()
    assert len(features) == len(table)
    assert {feature["properties"]["objectType"] for feature in features} == {"detection"}
    rings = [np.array(feature["geometry"]["coordinates"][0]) for feature in features]
    assert all((ring[0] == ring[-1]).all() and len(ring) > 5 for ring in rings)
    centroids = np.array([(nucleus.x, nucleus.y) for nucleus in read_nuclei(Path("detections/tile_nuclei.geojson"))])
    assert np.abs(centroids - table[["x", "y"]]).to_numpy().max() < 2
    areas = [abs((x[:-1] * y[1:] - x[1:] * y[:-1]).sum()) / 2 * 0.25**2 for x, y in (ring.T for ring in rings)]
    np.testing.assert_allclose(areas, table.Area_um2, rtol=0.2, atol=3)
    pixels = tissue()[0]
    dark = pixels[table.y.astype(int), table.x.astype(int), 0]
    assert dark.mean() < pixels[..., 0].mean() - 30


def test_nuclei_do_not_depend_on_the_tiles(work):
    """To the last digit, at the tiles' borders too."""
    pixels = np.concatenate([tissue()[0], tissue()[0][:, ::-1]])  # 800 pixels a side, a border at 512 and at 600
    tifffile.imwrite("slide.tif", pixels, tile=(256, 256), compression="zlib")
    found = []
    with open_image(Path("slide.tif")) as image:
        plan = plan_detection(image, 0.26)
        for block in ((2048, 2048), (512, 600)):
            nuclei = detect_nuclei(replace(image, block=block), plan)
            found.append(sorted((n.x, n.y, n.area, n.ring.tolist()) for n in nuclei))
    assert found[0] == found[1]
    assert len(found[0]) > 400


def test_the_same_bytes_every_time(work):
    contents = []
    for _ in range(2):
        act(["detect", "tile.png"])
        contents.append([path.read_bytes() for path in sorted(Path("detections").iterdir())])
    assert contents[0] == contents[1] and len(contents[0]) == 3


def test_the_record_tells_all_that_made_the_nuclei(work):
    act(["detect", "tile.png", "--diameter", "4", "12", "--mpp", "0.24"])
    record = json.loads(Path("detections/tile_nuclei_run.json").read_text())
    assert record["detector"] == "haematoxylin" and 0.2 <= record["threshold"] < 1
    assert (record["diameter"], record["mpp"], record["mpp_source"]) == ([4, 12], 0.24, "--mpp")
    assert detections()[0].Area_um2.between(np.pi * 2**2, np.pi * 6**2).all()
    members = json.loads(Path("detections/tile_nuclei.geojson").read_text())
    assert members["threshold"] == record["threshold"]


def test_results_of_another_slide_are_not_replaced(work):
    act(["detect", "tile.png"])
    Path("other").mkdir()
    PIL.Image.fromarray(tissue()[0][:300, :300]).save("other/tile.png", dpi=DPI)
    before = Path("detections/tile_nuclei.csv").read_bytes()
    with pytest.raises(InputError, match=r"tile_nuclei\.csv: exists, and is of .*tile\.png: give another --out"):
        act(["detect", "other/tile.png"])
    assert Path("detections/tile_nuclei.csv").read_bytes() == before


BLANK = np.full((300, 300, 3), 245, np.uint8)
PINK = np.full((300, 300, 3), (230, 150, 190), np.uint8)


@pytest.mark.parametrize(
    ("pixels", "words", "complaint"),
    [
        (tissue()[0], [], "image.png: does not tell its resolution: give --mpp, microns per pixel"),
        (tissue()[0], ["--mpp", "3"], "image.png: 3 microns per pixel, expected 0.05 to 1 to find nuclei: see --mpp"),
        (BLANK, ["--mpp", "0.25"], "image.png: no tissue in it: expected an image in the colours of H&E"),
        (np.zeros_like(BLANK), ["--mpp", "0.25"], "image.png: no tissue in it"),
        (PINK, ["--mpp", "0.25"], "image.png: no nucleus found of 3 to 20 microns at 0.25 microns per pixel"),
        (PINK[:3, :3], ["--mpp", "0.25"], "image.png: no nucleus found"),
        (PINK[:1], ["--mpp", "0.25"], "image.png: no nucleus found"),
        (PINK[:, :1], ["--mpp", "0.3"], "image.png: no nucleus found"),
        (PINK[:1, :1], ["--mpp", "1"], "image.png: no nucleus found"),
        (tissue()[0][200:201], ["--mpp", "0.25"], "image.png: no nucleus found"),
        (PINK, ["--mpp", "0.25", "--diameter", "9", "3"], "--diameter 9 3: expected the smaller one first"),
        (
            PINK,
            ["--mpp", "0.25", "--detector", "no.py:dark"],
            "--detector 'no.py:dark': no such file: expected FILE.py",
        ),
        (PINK, ["--mpp", "0.25", "--detector", "toy.py:light"], "toy.py: has no function 'light'"),
        (
            PINK,
            ["--mpp", "0.25", "--detector", "broken.py:dark"],
            "broken.py: cannot be run (ModuleNotFoundError: No module named 'nothing'; line 1): mend it",
        ),
        (
            PINK,
            ["--mpp", "0.25", "--detector", "toy.py:one_argument"],
            "--detector 'toy.py:one_argument': failed on a tile (TypeError: one_argument() takes 1 positional argument",
        ),
        (
            PINK,
            ["--mpp", "0.25", "--detector", "toy.py:wrong"],
            "--detector 'toy.py:wrong': returned float64 (300, 300",
        ),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(pixels, words, complaint, work):
    PIL.Image.fromarray(pixels).save("image.png")
    Path("broken.py").write_text("import nothing")
    with pytest.raises(InputError) as caught:
        act(["detect", "image.png", *words])
    assert str(caught.value).startswith(complaint)
    assert not Path("detections").exists()


def test_a_detector_of_the_users_plugs_in(work):
    act(["detect", "tile.png", "--detector", "toy.py:dark"])
    record = json.loads(Path("detections/tile_nuclei_run.json").read_text())
    assert record["detector"] == "toy.py:dark" and len(record["detector_sha256"]) == 64 and "threshold" not in record
    table, _ = detections()
    pixels = tissue()[0]
    assert len(table) > 50 and (pixels[table.y.astype(int), table.x.astype(int), 0] < 170).mean() > 0.8


def predict(*words: str) -> None:
    act(["predict", "model.safetensors", *words, "--no-tta", "--threads", "1"])


def test_a_model_and_an_image_are_enough(work, capsys):
    write_model(Path("model.safetensors"))
    predict("tile.png")
    assert "tile.png: larger than a crop, and without --nuclei: " in capsys.readouterr().err
    act(["detect", "tile.png"])
    predict("tile.png", "--nuclei", "detections/tile_nuclei.geojson", "--out", "two_steps")
    for end in ("predictions.csv", "predictions.geojson", "overlay.png"):
        one, two = (Path(folder) / f"tile_{end}" for folder in ("predictions", "two_steps"))
        assert one.read_bytes() == two.read_bytes(), end
    record = json.loads(Path("predictions/tile_run.json").read_text())
    assert record["detector"] == "haematoxylin" and record["nuclei"] is None and record["mpp"] == 0.25
    features = json.loads(Path("predictions/tile_predictions.geojson").read_text())["features"]
    assert {feature["geometry"]["type"] for feature in features} == {"Polygon"}


@pytest.mark.parametrize(("side", "mpp"), [(199, 0.25), (120, 0.25), (99, 0.25), (90, 0.5), (60, 1.0)])
def test_what_is_neither_a_crop_nor_clearly_larger_is_refused(side, mpp, work):
    """Twice as large as a crop in one direction alone, too."""
    write_model(Path("model.safetensors"))
    PIL.Image.fromarray(tissue()[0][:side, : 4 * side]).save("strip.png")
    expected = round(25 / mpp)
    complaint = f"strip.png: {4 * side}x{side} pixels, expected {expected}x{expected} for a crop: cut it"
    if side >= 2 * expected:
        return predict("strip.png", "--mpp", str(mpp))
    with pytest.raises(InputError, match=complaint):
        predict("strip.png", "--mpp", str(mpp))
    assert not Path("predictions").exists()


def test_crops_stay_crops(work):
    write_model(Path("model.safetensors"))
    Path("crops").mkdir()
    PIL.Image.fromarray(tissue()[0][:100, :100]).save("crops/1.png")
    predict("crops/1.png", "crops")
    assert {path.suffix for path in Path("predictions").iterdir()} == {".csv", ".json"}
    PIL.Image.fromarray(tissue()[0][:300, :300]).save("crops/2.png", dpi=DPI)
    with pytest.raises(InputError, match="300x300 pixels, expected 100x100 for a crop"):
        predict("crops", "--out", "new")


def test_an_image_without_resolution_is_not_guessed_at(work):
    write_model(Path("model.safetensors"))
    write_tile(Path("plain.png"))
    with pytest.raises(InputError, match=r"^plain\.png: does not tell its resolution: give --mpp"):
        predict("plain.png")
    assert not Path("predictions").exists()
