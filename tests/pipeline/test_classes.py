"""Other classes, and crops of other sizes, through every stage; what each stage wrote is looked at."""

import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_results import write_trials
from PIL import Image
from stage_runs import BEFORE_TUNING, FROM_TUNING, run_stages

import stages.unzip
from nuclei import load
from nuclei.cli import act
from nuclei.errors import run
from tools.clone import ROOT, TINY, change_params

SIX = ["adipose", "B cell", "glia/neuron", "Mitosis", "plasma cell", "tumour"]
TWO = ["benign", "malignant"]
PER_CLASS = {"Mitosis": 3}  # a very rare one; 24 of each other
HUES = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200], [200, 200, 60], [60, 200, 200], [200, 60, 200]])


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
}


@pytest.fixture(scope="module", params=CASES, ids=str)
def project(request, tmp_path_factory, local_ray, unchanged_torch) -> tuple[Path, list[str], int]:
    """A folder in which every stage has run, in this process: test_pipeline.py has them run by DVC."""
    classes, side, changes, numbers = CASES[request.param]
    folder = tmp_path_factory.mktemp("project")
    shutil.copy(ROOT / "params.yaml", folder)
    shown = {"report.title": "Cells of <another> organ", "report.tissue": "H&E-stained brain"}
    own = {
        "data.raw": "data/mine",
        "lr": 0.02,
        "train_cnn.epochs": 4,
        "train_resnet.weights": "none",
        "resnet.backbone": "test_resnet",  # timm's smallest
        "resnet.size": 32,
        "tune": {"trials": 1, "rungs": [0.05]},
        "explain.methods": ["occlusion"],
    }
    tiny = {key: value for key, value in TINY.items() if key != "sample"}
    change_params(folder / "params.yaml", tiny | own | shown | changes)
    write_raw(folder / "data/mine", classes, side, numbers)
    tuning, *others = FROM_TUNING
    if numbers:  # what a search leaves does not depend on the classes: the other case shows one
        write_trials(folder / "reports", "cnn", width_1=64, width_2=64)
        write_trials(folder / "reports", "resnet")
        run_stages(folder, [*BEFORE_TUNING, *others])
    else:
        run_stages(folder, [*BEFORE_TUNING, tuning, *others])
    return folder, classes, side


def test_the_crops_are_of_that_size_and_the_task_is_noted(project):
    folder, classes, side = project
    task = json.loads((folder / "data/crops/task.json").read_text())
    assert task["classes"] == classes and task["side"] == side and task["mpp"] == (0.25 if side == 64 else 0.5)
    assert np.load(folder / "data/crops/train.npy").shape[1:] == (side, side, 3)
    crops = json.loads((folder / "reports/unzip/data.json").read_text())["train"]["crops_per_class"]
    assert crops == {name: PER_CLASS.get(name, 24) for name in classes}


def test_the_networks_know_the_classes_and_predict_alone(project):
    folder, classes, side = project
    for network in ("cnn", "resnet"):
        model = load(folder / f"data/models/{network}/final.safetensors")
        assert model.classes == tuple(classes)
        probabilities = model.predict(np.load(folder / "data/crops/test.npy"))
        assert probabilities.shape == (2 * len(classes), len(classes))
        with pytest.raises(ValueError, match=rf"expected crops of uint8 \(N, {side}, {side}, 3\)"):
            model.predict(np.zeros((1, 100, 100, 3), np.uint8))


def test_the_cnn_learns_them(project):
    folder, classes, _ = project
    scores = json.loads((folder / "reports/evaluate/metrics_cnn.json").read_text())
    assert scores["accuracy"] > 1.2 / len(classes)
    table = pd.read_csv(folder / "reports/evaluate/classes_cnn.csv")
    assert table["Class"].tolist() == classes
    predictions = pd.read_csv(folder / "reports/evaluate/predictions_cnn.csv")
    assert [name for name in predictions if name.startswith("Prob")] == [
        f"Probability_{i}" for i in range(len(classes))
    ]


def test_the_report_and_the_cards_are_about_them(project):
    folder, classes, side = project
    page = (folder / "reports/index.html").read_text()
    assert "Cells of &lt;another&gt; organ" in page and "Types of nuclei in colon tissue</h1>" not in page
    assert all(name in page for name in classes) and "leukocyte" not in page
    card = (folder / "reports/model_card_cnn.md").read_text()
    assert f"crops of {side}x{side} pixels at about {0.25 if side == 64 else 0.5} µm per pixel" in card
    assert "of H&E-stained brain as" in card and "leukocyte" not in card


def test_galleries_have_a_file_for_each_class(project):
    folder, classes, _ = project
    names = sorted(path.name for path in (folder / "reports/explain").glob("*.png"))
    assert len(names) == len(classes) + 1 and all(name[0].isdigit() for name in names)


def test_the_submission_has_labels_of_these_classes(project):
    folder, classes, _ = project
    table = pd.read_csv(folder / "reports/submit/submission_cnn.csv")
    assert len(table) == 2 * len(classes) and set(table["Label"]) <= set(range(len(classes)))


def test_a_tile_is_predicted_with_their_colours_and_names(project, capsys, monkeypatch):
    folder, classes, _ = project
    monkeypatch.chdir(folder)
    Image.fromarray(np.full((300, 400, 3), 200, np.uint8)).save("tile.png")
    pd.DataFrame({"x": [100, 200], "y": [150, 150]}).to_csv("nuclei.csv", index=False)
    act(["predict", "data/models/cnn/final.safetensors", "tile.png", "--nuclei", "nuclei.csv", "--mpp", "0.25"])
    said = capsys.readouterr().out
    assert all(f" {name}" in said for name in classes)
    features = json.loads(Path("predictions/tile_predictions.geojson").read_text())["features"]
    assert {feature["properties"]["classification"]["name"] for feature in features} <= set(classes)
    assert f"Probability: {classes[-1]}" in features[0]["properties"]["measurements"]


@pytest.mark.parametrize("project", [next(iter(CASES))], indirect=True)
def test_it_is_exported_for_crops_of_that_size(project):
    import onnx

    folder, classes, side = project
    act(["export", str(folder / "data/models/cnn/final.safetensors"), str(folder / "cnn.onnx")])
    proto = onnx.load(folder / "cnn.onnx")
    properties = {item.key: item.value for item in proto.metadata_props}
    assert json.loads(properties["classes"]) == classes
    assert [dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim][1:] == [side, side, 3]


@pytest.mark.parametrize("project", [next(iter(CASES))], indirect=True)
def test_the_locale_and_a_senseless_number_of_threads_change_nothing(project):
    folder, *_ = project
    paths = [folder / name for name in ("data/crops/train.csv", "data/split.csv", "reports/figures/confusion.png")]
    before = [path.read_bytes() for path in paths]
    code = "from stages import figures, split, unzip\nfor stage in (unzip, split, figures): stage.main()"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "LC_ALL": "POSIX", "OMP_NUM_THREADS": "abc"}
    subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, check=True, capture_output=True)
    assert [path.read_bytes() for path in paths] == before


def test_crops_that_are_a_link_are_refused_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    change_params(tmp_path / "params.yaml", {"data.raw": "raw", "classes": TWO})
    write_raw(tmp_path / "raw", TWO, side=64, numbers=True)
    stages.unzip.main()
    Path("data/crops").rename("elsewhere")
    Path("data/crops").symlink_to(tmp_path / "elsewhere")
    capsys.readouterr()
    with pytest.raises(SystemExit, match=r"^1$"):
        run(stages.unzip.main)
    assert capsys.readouterr().err == "error: data/crops: a link: name the folder itself\n"


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
