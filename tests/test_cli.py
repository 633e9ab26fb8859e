import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import tifffile
from consep import draw_tiles, write_consep
from tissue import some_crops, tissue, write_model, write_tile

import stages.submit
from nuclei.cli import main, parse
from nuclei.params import load_params
from tools.clone import change_params

FAST = ["--no-tta", "--threads", "1"]


@pytest.fixture
def run(monkeypatch, capsys):
    """Run `nuclei` with some words: return its exit code and what it wrote to both streams."""

    def command(*words):
        monkeypatch.setattr(sys, "argv", ["nuclei", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code
        return (code or 0), *capsys.readouterr()

    return command


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path / "model.safetensors")


def test_the_command_is_installed():
    done = subprocess.run([Path(sys.executable).with_name("nuclei"), "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert all(command in done.stdout for command in ("predict", "export", "import"))


def test_the_command_imports_nothing_slow_before_it_knows_what_to_do():
    """What takes time is imported where Ctrl-C ends it in one line; and --help is there at once."""
    code = "import sys, nuclei.cli; print({'numpy', 'pandas', 'torch'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


def test_defaults_are_those_of_the_pipeline():
    args, params = parse(["predict", "model", "crops"]), load_params(Path("params.yaml"))
    assert args.tta == params.predict.tta
    assert args.device == params.device
    assert args.precision == params.train.precision


def test_predict_gives_the_answers_of_submit_without_labels_nearby(
    finished, tmp_path, run, monkeypatch, unchanged_torch
):
    shutil.copy(finished.path / "params.yaml", tmp_path)
    change_params(tmp_path / "params.yaml", {"predict.labelled_neighbours": False})
    (tmp_path / "data").symlink_to(finished.path / "data")
    monkeypatch.chdir(tmp_path)
    stages.submit.main()
    assert json.loads(Path("reports/submit/neighbours.json").read_text())["changed"] == {}
    params = load_params(Path("params.yaml"))
    for name in ("cnn", "resnet"):
        model = finished.path / f"data/models/{name}/final.safetensors"
        crops = finished.path / "data/sample/test.zip"
        code, out, _ = run("predict", model, crops, "--out", tmp_path, "--threads", params.threads)
        assert code == 0 and "test_predictions.csv" in out
        table = pd.read_csv(tmp_path / "test_predictions.csv").set_index("Filename")
        submission = pd.read_csv(f"reports/submit/submission_{name}.csv").set_index("Filename")
        assert table.Predicted.to_dict() == submission.Label.to_dict()


def test_predict_on_a_tile_writes_three_files(model, tmp_path, run):
    tifffile.imwrite(
        tmp_path / "tile.tif", tissue()[0], resolution=(40_000, 40_000), resolutionunit="CENTIMETER", metadata=None
    )
    tissue()[1][["x", "y"]].to_csv(tmp_path / "nuclei.csv", index=False)
    code, out, errors = run(
        "predict", model, tmp_path / "tile.tif", "--nuclei", tmp_path / "nuclei.csv", "--out", tmp_path / "out", *FAST
    )
    assert code == 0
    names = ["tile_overlay.png", "tile_predictions.csv", "tile_predictions.geojson", "tile_run.json"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    assert "resolution" not in out + errors
    table = pd.read_csv(tmp_path / "out/tile_predictions.csv")
    assert all(f"{count} {name}" in out for name, count in table.Class.value_counts().items())
    assert all(row.Class in row.Set and row.Unsure == ("; " in row.Set) for row in table.itertuples())
    record = json.loads((tmp_path / "out/tile_run.json").read_text())
    assert (record["mpp"], record["mpp_source"]) == (0.25, "resolution tags")
    assert record["set_coverage_promised"] == 0.9


def test_a_picture_without_a_resolution_is_taken_for_40x_and_that_is_said(model, tmp_path, run):
    write_tile(tmp_path / "tile.png")
    (tmp_path / "nuclei.csv").write_text("x,y\n100,100\n")
    words = [
        "predict",
        model,
        tmp_path / "tile.png",
        "--nuclei",
        tmp_path / "nuclei.csv",
        "--out",
        tmp_path / "out",
        *FAST,
    ]
    warning = "tile.png does not tell its resolution: taken for 0.25 microns per pixel; see --mpp\n"
    code, _, errors = run(*words)
    assert code == 0 and errors.startswith("warning: ") and errors.endswith(warning)
    assert json.loads((tmp_path / "out/tile_run.json").read_text())["mpp_source"] == "assumed"
    assert json.loads((tmp_path / "out/tile_predictions.geojson").read_text())["mpp_source"] == "assumed"
    first = (tmp_path / "out/tile_predictions.csv").read_bytes()
    assert run(*words, "--mpp", "0.25")[2] == ""
    assert (tmp_path / "out/tile_predictions.csv").read_bytes() == first
    run(*words, "--mpp", "0.5")
    assert (tmp_path / "out/tile_predictions.csv").read_bytes() != first


def test_a_resolution_by_the_objective_alone_is_said(model, tmp_path, run):
    description = "Aperio Image Library v11|AppMag = 20|"
    tifffile.imwrite(tmp_path / "tile.tif", tissue()[0], photometric="rgb", metadata=None, description=description)
    (tmp_path / "nuclei.csv").write_text("x,y\n100,100\n")
    tile, out = tmp_path / "tile.tif", tmp_path / "out"
    code, _, errors = run("predict", model, tile, "--nuclei", tmp_path / "nuclei.csv", "--out", out, *FAST)
    told = "an objective of 20x"
    assert (code, errors) == (0, f"warning: {tile} tells {told} alone: taken for 0.5 microns per pixel; see --mpp\n")
    record = json.loads((out / "tile_run.json").read_text())
    assert (record["mpp"], record["mpp_source"]) == (0.5, told)


def test_several_models_are_averaged(model, tmp_path, run):
    other = write_model(tmp_path / "other.safetensors", seed=1)
    (tmp_path / "crops").mkdir()
    for number, crop in enumerate(some_crops(3)):
        PIL.Image.fromarray(crop).save(tmp_path / "crops" / f"{number}.png")
    chances = []
    for models in ([model], [other], [model, other]):
        assert run("predict", *models, tmp_path / "crops", "--out", tmp_path, *FAST)[0] == 0
        chances.append(pd.read_csv(tmp_path / "crops_predictions.csv").filter(like="Probability").to_numpy())
    np.testing.assert_allclose((chances[0] + chances[1]) / 2, chances[2], atol=1e-5)


def test_results_of_the_folder_one_is_in_have_its_name(model, tmp_path, run, monkeypatch):
    (tmp_path / "crops").mkdir()
    monkeypatch.chdir(tmp_path / "crops")
    PIL.Image.fromarray(some_crops(1)[0]).save("1.png")
    assert run("predict", model, ".", *FAST)[0] == 0
    assert [str(path) for path in Path().rglob("*.csv")] == ["predictions/crops_predictions.csv"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["missing.safetensors", "tile.png"], "missing.safetensors: no such file: train the network first"),
        (
            ["model.safetensors", "missing.png"],
            "missing.png: cannot be read (No such file or directory): expected a crop",
        ),
        (["model.safetensors", "tile.png"], "tile.png: does not tell its resolution: give --mpp, microns per pixel"),
        (["model.safetensors", "tile.png", "--mpp", "3"], "tile.png: 3 microns per pixel, expected 0.05 to 1 to find"),
        (["model.safetensors", "notes.txt"], "notes.txt: not a PNG, JPEG or TIFF: convert it"),
        (["model.safetensors", "tile.png", "--nuclei", "notes.txt"], "notes.txt: expected a column x and a column y"),
        (["model.safetensors", "notes.txt", "--nuclei", "nuclei.csv"], "notes.txt: not a PNG, JPEG or TIFF"),
        (["model.safetensors", "tile.png", "--nuclei", "nuclei.csv"], "nuclei.csv: nucleus 2 at x 900, y 10"),
        (["tile.png", "tile.png"], "tile.png: not a readable safetensors file"),
        (["model.safetensors", "slide.svs"], "slide.svs: a damaged TIFF: copy or save it again"),
        (["model.safetensors", "slide.svs", "--nuclei", "nuclei.csv"], "slide.svs: a damaged TIFF"),
    ],
)
def test_bad_input_ends_with_one_line_and_writes_nothing(words, complaint, model, tmp_path, run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_tile(Path("tile.png"))
    Path("notes.txt").write_text("mine")
    Path("nuclei.csv").write_text("x,y\n10,10\n900,10\n")
    Path("slide.svs").write_bytes(b"II*\0broken")
    code, _, errors = run("predict", *words)
    assert code == 1 and errors.count("\n") == 1 and errors.startswith(f"error: {complaint}")
    assert not Path("predictions").exists()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "the following arguments are required: COMMAND: see nuclei --help"),
        (["predict", "m", "t", "--mpp", "0"], "argument --mpp: 0 is not from 0.01 to 10.0: see nuclei predict --help"),
        (["predict", "m", "t", "--mpp", "nan"], "argument --mpp: nan is not from 0.01 to 10.0"),
        (["predict", "m", "t", "--mpp", "x"], "argument --mpp: invalid number value: 'x'"),
        (["predict", "m", "t", "--threads", "0"], "argument --threads: 0 is not from 1 to 1024"),
        (["predict", "m", "t", "--precision", "half"], "argument --precision: invalid choice: 'half'"),
        (["predict", "m", "t", "--nuclei"], "argument --nuclei: expected at least one argument"),
        (["predict", "m"], "the following arguments are required: INPUT"),
        (["import", "lizard", "zip"], "argument SET: invalid choice: 'lizard'"),
    ],
)
def test_a_wrong_command_line_ends_with_one_line(words, complaint, run):
    code, out, errors = run(*words)
    assert (code, out, errors.count("\n")) == (1, "", 1) and errors.startswith(f"error: {complaint}")


@pytest.mark.parametrize("words", [["predict", "{model}", "crops"], ["export", "{model}"], ["import", "nucls", "zip"]])
def test_where_nothing_can_be_written_that_is_said_before_any_work(words, model, tmp_path, run):
    (tmp_path / "mine.txt").write_text("all of it")
    out = tmp_path / "mine.txt" / "out"
    words = [word.format(model=model) for word in words]
    code, _, errors = run(*words, *([out] if words[0] == "export" else ["--out", out]))
    assert code == 1 and errors.count("\n") == 1
    assert f"{tmp_path / 'mine.txt'} is not a folder that can be written to: give another one" in errors


def test_export_without_its_extra_names_it(model, tmp_path, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.delitem(sys.modules, "nuclei.inference.onnx", raising=False)
    code, _, errors = run("export", model, tmp_path / "model.onnx")
    assert code == 1
    assert errors == "error: nuclei export needs ONNX and ONNX Runtime: pip install -e '.[onnx]'\n"


def test_import_writes_what_the_pipeline_reads(tmp_path, run):
    archive = write_consep(tmp_path / "consep_dataset.zip", draw_tiles())
    code, out, _ = run("import", "consep", archive, "--out", tmp_path / "raw")
    assert code == 0
    names = ["example.csv", "groups.csv", "test.zip", "train.csv", "train.zip"]
    assert sorted(path.name for path in (tmp_path / "raw").iterdir()) == names
    counts = pd.read_csv(tmp_path / "raw/train.csv").Label.value_counts()
    assert f"train: {counts[0]} normal epithelial, {counts[1]} cancer epithelial" in out


def test_import_never_replaces_a_folder_that_holds_something(tmp_path, run):
    archive = write_consep(tmp_path / "consep_dataset.zip", draw_tiles())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("all of it")
    code, _, errors = run("import", "consep", archive, "--out", tmp_path / "mine")
    assert code == 1 and "mine: exists and is not empty: give a new folder" in errors
    assert (tmp_path / "mine/thesis.txt").read_text() == "all of it"


def test_import_of_the_wrong_set_ends_with_one_line(tmp_path, run):
    archive = write_consep(tmp_path / "consep_dataset.zip", draw_tiles())
    for name, complaint in (("nucls", "expected NuCLS's rgb/*.png"), ("pannuke", "no types.npy in it")):
        code, _, errors = run("import", name, archive, "--out", tmp_path / "raw")
        assert code == 1 and complaint in errors and errors.count("\n") == 1
        assert not (tmp_path / "raw").exists()
