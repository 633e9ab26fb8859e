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
from nuclei.inference import features

PIXELS, NUCLEI = tissue()
PLACES = NUCLEI[["x", "y"]].to_numpy()


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(features, "ROWS_AT_ONCE", 16)  # several row groups
    write_model(Path("model.safetensors"))
    PIL.Image.fromarray(PIXELS).save("tile.png")
    return tmp_path


def ellipse(x, y, a, b):
    angles = np.linspace(0, 2 * np.pi, 41)
    return [[x + a * np.cos(angle), y + b * np.sin(angle)] for angle in angles]


def predict(*words):
    act(["predict", "model.safetensors", *words, "--features", "--no-tta", "--threads", "1"])


def outlined():
    """Every second nucleus has an outline, the others are points."""
    geometries = [
        {"type": "Polygon", "coordinates": [ellipse(x, y, 12, 6)]}
        if row % 2
        else {"type": "Point", "coordinates": [x, y]}
        for row, (x, y) in enumerate(PLACES.tolist())
    ]
    items = [{"type": "Feature", "geometry": geometry, "properties": {}} for geometry in geometries]
    Path("nuclei.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": items}))


def test_nuclei_get_embeddings_measures_and_neighbours_in_the_order_of_the_table(work, capsys):
    outlined()
    predict("tile.png", "--nuclei", "nuclei.geojson")
    line = capsys.readouterr().out
    table, written = (
        pd.read_csv("predictions/tile_predictions.csv"),
        pd.read_parquet("predictions/tile_features.parquet"),
    )
    assert f"{table.Unsure.sum()} unsure, {table.Unlike.sum()} unlike anything in training" in line
    np.testing.assert_allclose(written[["x", "y"]], table[["x", "y"]], rtol=1e-9)

    model = load("model.safetensors", tta=False, threads=1)
    answers = model.answer(np.stack([cut(PIXELS, y, x, 100) for x, y in PLACES]))
    embeddings = written.filter(like="embedding_")
    assert (
        set(embeddings.dtypes) == {np.dtype(np.float32)}
        and list(embeddings)[-1] == f"embedding_{embeddings.shape[1] - 1}"
    )
    np.testing.assert_allclose(embeddings, answers.embeddings, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(table.Novelty, answers.novelty, rtol=1e-3)

    near = cdist(PLACES, PLACES) * 0.25 <= 50
    np.fill_diagonal(near, False)
    counts = near @ np.eye(4, dtype=int)[table.Predicted]
    assert np.array_equal(written.filter(like="neighbours_"), counts)

    inside = written[1::2][((PLACES > 12) & (PLACES < (788, 388))).all(axis=1)[1::2]]
    assert inside.area_um2.median() == pytest.approx(np.pi * 12 * 6 / 16, rel=0.02)
    assert inside.eccentricity.median() == pytest.approx(np.sqrt(3) / 2, abs=0.02)
    measures = written[["area_um2", "eccentricity", "haematoxylin"]]
    assert measures[::2].isna().all(axis=None) and measures[1::2].notna().all(axis=None)


def test_haematoxylin_is_higher_in_nuclei_than_beside_them(work):
    on_nuclei, beside = (
        [
            {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ellipse(x, y, 5, 5)]}, "properties": {}}
            for x, y in places
        ]
        for places in (PLACES.tolist(), np.random.default_rng(0).uniform(20, 380, (50, 2)).tolist())
    )
    Path("nuclei.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [*on_nuclei, *beside]}))
    predict("tile.png", "--nuclei", "nuclei.geojson")
    stain = pd.read_parquet("predictions/tile_features.parquet").haematoxylin
    assert stain[: len(on_nuclei)].median() > 1.5 * stain[len(on_nuclei) :].median()


def test_crops_get_their_names_and_embeddings_and_tables_of_nuclei_no_measures(work):
    Path("crops").mkdir()
    for row, (x, y) in enumerate(PLACES[:20]):
        PIL.Image.fromarray(cut(PIXELS, y, x, 100)).save(f"crops/{row}.png")
    predict("crops")
    written = pd.read_parquet("predictions/crops_features.parquet")
    assert written.Filename.tolist() == pd.read_csv("predictions/crops_predictions.csv").Filename.tolist()
    assert [name for name in written if not name.startswith("embedding_")] == ["Filename"]
    NUCLEI[["x", "y"]].to_csv("nuclei.csv", index=False)
    predict("tile.png", "--nuclei", "nuclei.csv")
    written = pd.read_parquet("predictions/tile_features.parquet")
    assert [name for name in written if not name.startswith("embedding_")] == [
        "x",
        "y",
        *(f"neighbours_{k}" for k in range(4)),
    ]


def test_running_again_writes_the_same_bytes(work):
    outlined()
    contents = []
    for _ in range(2):
        predict("tile.png", "--nuclei", "nuclei.geojson")
        contents.append({path.name: path.read_bytes() for path in Path("predictions").iterdir()})
    assert contents[0] == contents[1]
    assert "tile_features.parquet" in contents[0]


@pytest.mark.skipif(not find_spec("anndata"), reason="anndata is not installed")
def test_anndata_has_embeddings_predictions_and_positions(work):
    import anndata

    outlined()
    predict("tile.png", "--nuclei", "nuclei.geojson")
    data, written = (
        anndata.read_h5ad("predictions/tile_features.h5ad"),
        pd.read_parquet("predictions/tile_features.parquet"),
    )
    np.testing.assert_array_equal(data.X, written.filter(like="embedding_"))
    np.testing.assert_array_equal(data.obsm["spatial"], written[["x", "y"]])
    assert data.obs["Class"].tolist() == pd.read_csv("predictions/tile_predictions.csv").Class.tolist()
    assert {"area_um2", "neighbours_0", "Unlike"} <= set(data.obs)
