import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pytest
from scipy.spatial.distance import cdist
from tissue import tissue, write_model

from nuclei import load
from nuclei.cli import act
from nuclei.data.cut import cut
from nuclei.data.geojson import point
from nuclei.inference import features

PIXELS = tissue()[0][:, :400]
PLACES = tissue()[1].query("15 < x < 385 and 15 < y < 385")[["x", "y"]].to_numpy(float)


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(features, "ROWS_AT_ONCE", 16)  # several row groups
    write_model(Path("model.safetensors"))
    PIL.Image.fromarray(PIXELS).save("tile.png")


def outline(x, y, a, b):
    angles = np.linspace(0, 2 * np.pi, 41)
    ring = [[x + a * np.cos(angle), y + b * np.sin(angle)] for angle in angles]
    return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}}


def write_nuclei(nuclei):
    Path("nuclei.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": list(nuclei)}))


def outlines_and_points():
    return (outline(x, y, 12, 6) if row % 2 else point(x, y) for row, (x, y) in enumerate(PLACES.tolist()))


def predict(*words):
    act(["predict", "model.safetensors", *words, "--features", "--no-tta", "--threads", "1"])


def read(name):
    return pd.read_csv(f"predictions/{name}_predictions.csv"), pd.read_parquet(f"predictions/{name}_features.parquet")


def other_than_embeddings(table):
    return [name for name in table if not name.startswith("embedding_")]


def test_nuclei_get_embeddings_measures_and_neighbours_in_the_order_of_the_table(work, capsys):
    write_nuclei(outlines_and_points())
    predict("tile.png", "--nuclei", "nuclei.geojson")
    table, written = read("tile")
    counted = f"{table.Unsure.sum()} unsure, {table.Unlike.sum()} unlike anything in training"
    assert counted in capsys.readouterr().out
    np.testing.assert_allclose(written[["x", "y"]], table[["x", "y"]], rtol=1e-9)

    crops = np.stack([cut(PIXELS, y, x, 100) for x, y in PLACES])
    answers = load("model.safetensors", tta=False, threads=1).answer(crops)
    embeddings = written.filter(like="embedding_")
    assert list(embeddings) == [f"embedding_{i}" for i in range(8)]
    assert set(embeddings.dtypes) == {np.dtype(np.float32)}
    np.testing.assert_allclose(embeddings, answers.embeddings, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(table.Novelty, answers.novelty, rtol=1e-3)

    near = cdist(PLACES, PLACES) * 0.25 <= 50
    np.fill_diagonal(near, False)
    assert np.array_equal(written.filter(like="neighbours_"), near @ np.eye(4, dtype=int)[table.Predicted])

    assert written.area_um2[1::2].median() == pytest.approx(np.pi * 12 * 6 / 16, rel=0.01)
    assert written.eccentricity[1::2].median() == pytest.approx(np.sqrt(3) / 2, abs=0.02)
    measures = written[list(features.MEASURES)]
    assert measures[::2].isna().all(axis=None) and measures[1::2].notna().all(axis=None)


def test_haematoxylin_is_higher_in_nuclei_than_elsewhere(work):
    elsewhere = np.random.default_rng(0).uniform(20, 380, (30, 2))
    write_nuclei(outline(x, y, 5, 5) for x, y in np.concatenate([PLACES, elsewhere]).tolist())
    predict("tile.png", "--nuclei", "nuclei.geojson")
    stain = read("tile")[1].haematoxylin
    assert stain[: len(PLACES)].median() > 1.5 * stain[len(PLACES) :].median()


def test_crops_get_their_names_and_tables_of_nuclei_no_measures(work):
    Path("crops").mkdir()
    for row, (x, y) in enumerate(PLACES[:20]):
        PIL.Image.fromarray(cut(PIXELS, y, x, 100)).save(f"crops/{row}.png")
    predict("crops")
    table, written = read("crops")
    assert written.Filename.tolist() == table.Filename.tolist()
    assert other_than_embeddings(written) == ["Filename"]
    pd.DataFrame(PLACES, columns=["x", "y"]).to_csv("nuclei.csv", index=False)
    predict("tile.png", "--nuclei", "nuclei.csv")
    assert other_than_embeddings(read("tile")[1]) == ["x", "y", *(f"neighbours_{label}" for label in range(4))]


def test_running_again_writes_the_same_bytes(work):
    write_nuclei(outlines_and_points())
    contents = []
    for _ in range(2):
        predict("tile.png", "--nuclei", "nuclei.geojson")
        contents.append({path.name: path.read_bytes() for path in Path("predictions").iterdir()})
    assert contents[0] == contents[1]
    assert "tile_features.parquet" in contents[0]


@pytest.mark.skipif(not find_spec("anndata"), reason="anndata is not installed")
def test_anndata_has_embeddings_predictions_and_positions(work):
    import anndata

    write_nuclei(outlines_and_points())
    predict("tile.png", "--nuclei", "nuclei.geojson")
    data, (table, written) = anndata.read_h5ad("predictions/tile_features.h5ad"), read("tile")
    np.testing.assert_array_equal(data.X, written.filter(like="embedding_"))
    np.testing.assert_array_equal(data.obsm["spatial"], written[["x", "y"]])
    assert data.obs["Class"].tolist() == table.Class.tolist()
    assert {"area_um2", "neighbours_0", "Unlike"} <= set(data.obs)
