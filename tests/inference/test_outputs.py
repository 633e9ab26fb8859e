"""What `nuclei predict` and its kin write, and where: no work and no file of a user is lost."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from tissue import tissue, write_model

from nuclei.cli import act, main
from nuclei.errors import InputError
from nuclei.inference.overlay import draw_overlay
from nuclei.task import CLASSES

PIXELS = tissue()[0]


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
    crop(work / "patient_1" / "tile.tif", 50)
    with pytest.raises(InputError, match=r"tile_predictions\.csv: exists, and is of .*tile\.png: give another --out"):
        predict("patient_1/tile.tif")
    with pytest.raises(InputError, match="two results would have this name"):
        predict("patient_1/tile.png", "patient_1/tile.tif", "--out", "new")
    assert Path("predictions/tile_predictions.csv").read_bytes() == first and not Path("new").exists()
    Path("mine").mkdir()
    Path("mine/tile_predictions.csv").write_text("of a user")
    with pytest.raises(InputError, match="exists, of another program or version"):
        predict("patient_1/tile.png", "--out", "mine")
    assert Path("mine/tile_predictions.csv").read_text() == "of a user"


@pytest.mark.parametrize("names", [("Case.png", "case.PNG"), ("gr\u00f6\u00dfe.png", "GRO\u0308SSE.tif")])
def test_names_that_other_disks_do_not_tell_apart_are_two_results_of_one_name(names, work):
    for number, name in enumerate(names):
        crop(work / str(number) / name, 50 * number)
    with pytest.raises(InputError, match="two results would have this name: run them with an --out each"):
        predict(*(f"{number}/{name}" for number, name in enumerate(names)))
    assert not Path("predictions").exists()


@pytest.mark.parametrize("place", ["predictions", "predictions/a_run.json", "predictions/a_predictions.csv"])
def test_a_folder_or_file_in_the_place_of_results_is_named_before_any_work(place, work):
    crop(work / "a.png")
    if place == "predictions":
        Path(place).write_text("of a user")
    else:
        Path(place).mkdir(parents=True)
    before = sorted(work.rglob("*"))
    with pytest.raises(InputError, match=rf"{place}[ :].*(not a folder|exists, of another program or version)"):
        predict("a.png")
    assert sorted(work.rglob("*")) == before
    with pytest.raises(InputError, match=r"a folder: name the file to be written"):
        act(["export", "model.safetensors", "."])


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


def test_long_names_are_written_and_names_too_long_refused_before_any_work(work, monkeypatch, capsys):
    crop(work / ("n" * 230 + ".png"))
    predict("n" * 230 + ".png")
    assert (work / "predictions" / ("n" * 230 + "_predictions.csv")).exists()
    crop(work / ("n" * 245 + ".png"))
    monkeypatch.setattr(sys, "argv", ["nuclei", "predict", "model.safetensors", "n" * 245 + ".png", "--out", "new"])
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main()
    errors = capsys.readouterr().err
    assert errors.startswith("error: new/nnn") and errors.count("\n") == 1
    assert errors.endswith("n_predictions.csv: File name too long: give a shorter name\n")
    assert not Path("new").exists()


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
    place, true = np.array([0.5]), np.array([True])
    figure = draw_overlay(thumbnail, place, place, np.array([1]), 3.0, CLASSES, unsure=true, unlike=true)
    across, down = (value * figure.dpi / figure.dpi for value in figure.get_size_inches() * 100)
    assert across * down < 40e6
