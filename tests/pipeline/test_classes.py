"""Other classes, and crops of other sizes, through every stage; what each stage wrote is looked at."""

import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from nuclei import load
from tools.clone import ROOT, TINY, Clone, change_params, copy_project

SIX = ["adipose", "B cell", "glia/neuron", "Mitosis", "plasma cell", "tumour"]
TWO = ["benign", "malignant"]
PER_CLASS = {"Mitosis": 3}  # a very rare one; 24 of each other
HUES = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200], [200, 200, 60], [60, 200, 200], [200, 60, 200]])

PROGRAM = """
import sys
from importlib import import_module

from nuclei.cluster import ray_cluster

BEFORE = "unzip overlap split weights tune train:cnn train:resnet evaluate primary_metrics robustness review"
with ray_cluster():  # the same one for all
    for stage in [*BEFORE.split(), "explain", "submit", "figures", "report"]:
        name, _, network = stage.partition(":")
        sys.argv[1:] = [network] if network else []
        import_module(f"stages.{name}").main()
"""


def write_raw(folder: Path, classes: list[str], side: int, numbers: bool) -> None:
    """Write a competition's four files: crops whose colour gives the class away, labels as names or numbers."""
    rng, rows = np.random.default_rng(0), []
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "train.zip", "w") as train, zipfile.ZipFile(folder / "test.zip", "w") as test:
        for label, name in enumerate(classes):
            for i in range(PER_CLASS.get(name, 24) + 2):
                pixels = HUES[label] + rng.normal(0, 40, (side, side, 3))
                file = io.BytesIO()
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "PNG")
                archive = test if i < 2 else train
                archive.writestr(f"{label}_{i}.png", file.getvalue())
                if i >= 2:
                    rows.append((f"{label}_{i}.png", label if numbers else name, f"patient {i % 8}"))
    pd.DataFrame(rows, columns=["Filename", "Label", "Group"]).to_csv(folder / "train.csv", index=False)
    tests = [f"{label}_{i}.png" for label in range(len(classes)) for i in range(2)]
    pd.DataFrame({"Filename": tests, "Label": 0}).to_csv(folder / "example.csv", index=False)


CASES = {
    "six by name, 64 pixels": (SIX, 64, {"classes": None}, False),
    "two by number, 128 pixels": (TWO, 128, {"classes": TWO, "data.mpp": 0.5}, True),
    "two by name, 224 pixels": (TWO, 224, {"classes": TWO, "data.mpp": 0.5, "epochs": 10}, False),
}


@pytest.fixture(scope="module", params=CASES, ids=str)
def project(request, tmp_path_factory) -> tuple[Clone, list[str], int]:
    classes, side, changes, numbers = CASES[request.param]
    clone = copy_project(tmp_path_factory.mktemp("project"))
    clone.set({key: value for key, value in TINY.items() if key != "sample"})
    shown = {"report.title": "Cells of <another> organ", "report.tissue": "H&E-stained brain"}
    clone.set({"data.raw": "data/mine", "lr": 0.02, "epochs": 4, "train_resnet.weights": "none"} | shown | changes)
    clone.set({"resnet.size": 32})
    write_raw(clone.path / "data/mine", classes, side, numbers)
    environment = os.environ | {"PYTHONPATH": str(clone.path)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=clone.path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return clone, classes, side


def test_the_crops_are_of_that_size_and_the_task_is_noted(project):
    clone, classes, side = project
    task = json.loads((clone.path / "data/crops/task.json").read_text())
    assert task["classes"] == classes and task["side"] == side and task["mpp"] == (0.25 if side == 64 else 0.5)
    assert np.load(clone.path / "data/crops/train.npy").shape[1:] == (side, side, 3)
    crops = json.loads((clone.path / "reports/unzip/data.json").read_text())["train"]["crops_per_class"]
    assert crops == {name: PER_CLASS.get(name, 24) for name in classes}


def test_the_networks_know_the_classes_and_predict_alone(project):
    clone, classes, side = project
    for network in ("cnn", "resnet"):
        model = load(clone.path / f"data/models/{network}/final.safetensors")
        assert model.classes == tuple(classes)
        probabilities = model.predict(np.load(clone.path / "data/crops/test.npy"))
        assert probabilities.shape == (2 * len(classes), len(classes))
        with pytest.raises(ValueError, match=rf"expected crops of uint8 \(N, {side}, {side}, 3\)"):
            model.predict(np.zeros((1, 100, 100, 3), np.uint8))


def test_the_cnn_learns_them(project):
    clone, classes, _ = project
    scores = json.loads((clone.path / "reports/evaluate/metrics_cnn.json").read_text())
    assert scores["accuracy"] > 1.2 / len(classes)
    table = pd.read_csv(clone.path / "reports/evaluate/classes_cnn.csv")
    assert table["Class"].tolist() == classes
    predictions = pd.read_csv(clone.path / "reports/evaluate/predictions_cnn.csv")
    assert [name for name in predictions if name.startswith("Prob")] == [
        f"Probability_{i}" for i in range(len(classes))
    ]


def test_the_report_and_the_cards_are_about_them(project):
    clone, classes, side = project
    page = (clone.path / "reports/index.html").read_text()
    assert "Cells of &lt;another&gt; organ" in page and "Types of nuclei in colon tissue</h1>" not in page
    assert all(name in page for name in classes) and "leukocyte" not in page
    card = (clone.path / "reports/model_card_cnn.md").read_text()
    assert f"crops of {side}x{side} pixels at about {0.25 if side == 64 else 0.5} µm per pixel" in card
    assert "of H&E-stained brain as" in card and "leukocyte" not in card


def test_galleries_have_a_file_for_each_class(project):
    clone, classes, _ = project
    names = sorted(path.name for path in (clone.path / "reports/explain").glob("*.png"))
    assert len(names) == len(classes) + 1 and all(name[0].isdigit() for name in names)


def test_the_submission_has_labels_of_these_classes(project):
    clone, classes, _ = project
    table = pd.read_csv(clone.path / "reports/submit/submission_cnn.csv")
    assert len(table) == 2 * len(classes) and set(table["Label"]) <= set(range(len(classes)))


def test_a_tile_is_predicted_with_their_colours_and_names(project):
    clone, classes, _ = project
    Image.fromarray(np.full((300, 400, 3), 200, np.uint8)).save(clone.path / "tile.png")
    pd.DataFrame({"x": [100, 200], "y": [150, 150]}).to_csv(clone.path / "nuclei.csv", index=False)
    model = "data/models/cnn/final.safetensors"
    done = clone.run("nuclei", "predict", model, "tile.png", "--nuclei", "nuclei.csv", "--mpp", "0.25")
    assert all(f" {name}" in done.stdout for name in classes)
    features = json.loads((clone.path / "predictions/tile_predictions.geojson").read_text())["features"]
    assert {feature["properties"]["classification"]["name"] for feature in features} <= set(classes)
    assert f"Probability: {classes[-1]}" in features[0]["properties"]["measurements"]


def test_it_is_exported_for_crops_of_that_size(project):
    import onnx

    clone, classes, side = project
    clone.run("nuclei", "export", "data/models/cnn/final.safetensors", "cnn.onnx")
    proto = onnx.load(clone.path / "cnn.onnx")
    properties = {item.key: item.value for item in proto.metadata_props}
    assert json.loads(properties["classes"]) == classes
    assert [dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim][1:] == [side, side, 3]


def test_the_locale_and_a_senseless_number_of_threads_change_nothing(project):
    clone, *_ = project
    paths = [clone.path / name for name in ("data/crops/train.csv", "data/split.csv", "reports/figures/confusion.png")]
    before = [path.read_bytes() for path in paths]
    for setting in ({"LC_ALL": "POSIX"}, {"OMP_NUM_THREADS": "abc"}):
        for stage in ("unzip", "split", "figures"):
            command = [sys.executable, "-m", f"stages.{stage}"]
            environment = clone.environment | {"PYTHONPATH": str(clone.path)} | setting
            subprocess.run(command, cwd=clone.path, env=environment, check=True, capture_output=True)
        assert [path.read_bytes() for path in paths] == before


def test_crops_that_are_a_link_are_refused_in_one_line(project, tmp_path):
    clone, *_ = project
    crops = clone.path / "data/crops"
    crops.rename(tmp_path / "crops")
    crops.symlink_to(tmp_path / "crops")
    command = [sys.executable, "-m", "stages.unzip"]
    environment = clone.environment | {"PYTHONPATH": str(clone.path)}
    done = subprocess.run(command, cwd=clone.path, env=environment, capture_output=True, text=True)
    crops.unlink()
    (tmp_path / "crops").rename(crops)
    assert (done.returncode, done.stderr) == (1, "error: data/crops: a link: name the folder itself\n")


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        (["benign", "Malignent"], TWO, r"line 3: Label is 'Malignent', expected one of 0, 1, .* \(did you mean mali"),
        (["0", "2"], [*TWO, "other"], r"no crop of label 1 \(malignant\)"),
        (["benign", "benign"], TWO, r"no crop of label 1 \(malignant\)"),
        (["0", "1"], None, r"line 2: Label is '0', expected the name of a class"),
        (["benign", "benign"], None, "1 different labels, expected 2 to 32 classes"),
        (["a;b", "c"], None, "without a semicolon"),
    ],
    ids=str,
)
def test_labels_that_are_no_classes_are_refused_in_one_line(labels, classes, message, tmp_path):
    from nuclei.data.tables import read_training_table
    from nuclei.errors import InputError

    table = pd.DataFrame({"Filename": ["a.png", "b.png"], "Label": labels})
    table.to_csv(tmp_path / "train.csv", index=False)
    with pytest.raises(InputError, match=message) as caught:
        read_training_table(tmp_path, classes)
    assert "\n" not in str(caught.value)


def test_names_are_taken_in_any_case_and_numbers_beside_them(tmp_path):
    from nuclei.data.tables import read_training_table

    table = pd.DataFrame({"Filename": ["a", "b", "c"], "Label": ["BENIGN", "1", " malignant "]})
    table.to_csv(tmp_path / "train.csv", index=False)
    read = read_training_table(tmp_path, TWO)
    assert read.rows["Label"].tolist() == ["0", "1", "1"] and read.classes == tuple(TWO)


@pytest.mark.parametrize(
    "classes", [["one"], ["a", "A"], ["a", "1"], ["a", "b;c"], ["a", " b"], ["a", "b\n"], [str(i) for i in range(40)]]
)
def test_bad_names_of_classes_are_refused(classes, tmp_path):
    from nuclei.errors import InputError
    from nuclei.params import load_params

    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    change_params(tmp_path / "params.yaml", {"classes": classes})
    with pytest.raises(InputError, match="classes"):
        load_params(tmp_path / "params.yaml")
