"""Many inputs: what is done is not done again, what fails does not stop the others."""

import json
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import PIL.Image
import pytest
from tissue import tissue, write_model

from nuclei.cli import act
from nuclei.errors import InputError
from nuclei.inference.record import BLOCK, BLOCKS, fingerprint, write_record
from nuclei.models.calibration import Neighbourhood
from nuclei.models.checkpoint import load_model, save_model

DPI = 25_400 / 0.25


@pytest.fixture
def work(tmp_path, monkeypatch) -> Path:
    """Two models, and two tiles with their nuclei."""
    monkeypatch.chdir(tmp_path)
    write_model(Path("model.safetensors"))
    for folder in ("slides", "nuclei"):
        Path(folder).mkdir()
    for number, name in enumerate(("case_1", "case_2")):
        pixels = tissue()[0][:, 400 * number : 400 * number + 400]
        PIL.Image.fromarray(pixels).save(f"slides/{name}.png", dpi=(DPI, DPI), compress_level=1)
        Path(f"nuclei/{name}.csv").write_text(f"x,y\n100,100\n{200 + number},{200 + number}\n")
    return tmp_path


@pytest.fixture
def crops(work) -> None:
    """Crops in the place of the tiles."""
    for path in Path("slides").iterdir():
        PIL.Image.open(path).crop((0, 0, 100, 100)).save(path)


def predict(*words: str, slides: tuple[str, ...] = ("slides/case_1.png", "slides/case_2.png")) -> None:
    act(["predict", "model.safetensors", *slides, "--no-tta", "--threads", "1", *words])


def results(folder: str = "predictions") -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def done_before(capsys) -> list[str]:
    """Which inputs the command that has run passed over."""
    lines = capsys.readouterr().out.splitlines()
    return [Path(line.partition(":")[0]).stem for line in lines if ": done before" in line]


@pytest.mark.parametrize("nuclei", [["nuclei"], ["nuclei/case_2.csv", "nuclei/case_1.csv"], ["all.csv"]])
def test_nuclei_of_several_slides_are_found_by_name(nuclei, work):
    Path("nuclei/case_3.csv").write_text("x,y\n1,1\n")  # of a slide that is not asked for
    rows = [f"case_{number}.png,{x},{x}" for number in (1, 2) for x in (100, 199 + number)]
    Path("all.csv").write_text("\n".join(["Image,x,y", *rows]))
    predict("--nuclei", *nuclei)
    for number in (1, 2):
        lines = Path(f"predictions/case_{number}_predictions.csv").read_text().splitlines()
        x = str(199 + number)
        assert [line.split(",")[:2] for line in lines[1:]] == [["100", "100"], [x, x]]


@pytest.mark.parametrize(("mag", "refused"), [(20, True), (40.0, False), (None, False)])
def test_nuclei_in_pixels_of_another_magnification_are_refused(mag, refused, work):
    nuclei = {"mag": mag, "nuc": {"1": {"bbox": [], "centroid": [100, 100], "contour": None, "type": None}}}
    Path("case_1.json").write_text(json.dumps(nuclei))
    with pytest.raises(InputError, match=r"in pixels of 20x, 0\.5 microns each") if refused else nullcontext():
        predict("--nuclei", "case_1.json", slides=("slides/case_1.png",))
    assert Path("predictions/case_1_predictions.csv").exists() != refused


@pytest.mark.parametrize(("nuclei", "warned"), [("slides/case_2.csv", True), ("nuclei/case_2.csv", False)])
def test_nuclei_with_the_name_of_another_image_beside_them_are_warned_of(nuclei, warned, work, capsys):
    shutil.copy("nuclei/case_2.csv", "slides")
    predict("--nuclei", nuclei, slides=("slides/case_1.png",))
    warning = f"{nuclei} has the name of slides/case_2.png, not of slides/case_1.png: are these its nuclei?"
    assert (warning in capsys.readouterr().err) == warned


@pytest.mark.parametrize(
    ("nuclei", "message"),
    [
        (["nuclei/case_1.csv", "nuclei/other.csv"], "case_2.png: no file of nuclei has its name"),
        (["nuclei/case_1.csv"], "nuclei/case_1.csv: no column Image, and 2 images: say which each row is of"),
        (["slides"], "case_1.png: no file of nuclei has its name: expected case_1.geojson or .csv in slides"),
        (["nuclei", "nuclei/case_1.csv"], "no file of nuclei has its name"),
        (["twice"], r"twice/case_1.geojson: twice/case_1.csv has this name too: leave one out"),
    ],
)
def test_nuclei_that_are_of_no_slide_or_of_any_are_refused_before_any_work(nuclei, message, work):
    Path("nuclei/other.csv").write_text("x,y\n1,1\n")
    Path("twice").mkdir()
    for name in ("case_1.csv", "case_1.geojson", "case_2.csv"):
        Path("twice", name).write_text("x,y\n1,1\n")
    with pytest.raises(InputError, match=message):
        predict("--nuclei", *nuclei)
    assert not Path("predictions").exists()


def test_what_is_done_is_passed_over_until_its_nuclei_change(work, capsys):
    predict("--nuclei", "nuclei")
    assert done_before(capsys) == []
    first = results()
    predict("--nuclei", "nuclei")
    assert done_before(capsys) == ["case_1", "case_2"] and results() == first
    Path("nuclei/case_1.csv").write_text("x,y\n100,100\n200,201\n")
    predict("--nuclei", "nuclei")
    assert done_before(capsys) == ["case_2"]


def test_what_is_done_is_done_again_with_another_input_setting_or_model(crops, capsys):
    predict()
    assert done_before(capsys) == []
    PIL.Image.new("RGB", (100, 100)).save("slides/case_2.png")
    predict()
    assert done_before(capsys) == ["case_1"]
    predict("--mpp", "0.25")
    assert done_before(capsys) == []
    write_model(Path("model.safetensors"), seed=1)
    predict("--mpp", "0.25")
    assert done_before(capsys) == []


def test_results_that_were_changed_or_lost_are_made_again(crops, capsys):
    predict()
    first = results()
    Path("predictions/case_1_predictions.csv").write_text("half")
    Path("predictions/case_2_predictions.csv").unlink()
    predict()
    assert done_before(capsys) == [] and results() == first


def test_a_killed_run_goes_on(crops, capsys, monkeypatch):
    """What is there when the first result of case_2 has its name, and the record, which comes last, has not."""

    def note(path, made_of, *arguments):
        if "case_2" in made_of["input"] and not Path("killed").exists():
            shutil.copytree("predictions", "killed")
        write_record(path, made_of, *arguments)

    monkeypatch.setattr("nuclei.inference.predict_inputs.write_record", note)
    predict()
    assert "case_2_predictions.csv" in results("killed")
    predict("--out", "killed")
    assert done_before(capsys) == ["case_1"]
    assert results("killed") == results()


def test_a_slide_that_fails_does_not_stop_the_others(work, capsys):
    Path("slides/case_0.png").write_bytes(b"\x89PNG but no more")
    Path("nuclei/case_0.csv").write_text("x,y\n1,1\n")
    slides = tuple(f"slides/case_{number}.png" for number in range(3))
    Path("nuclei/case_1.csv").write_text("x,y\n5000,1\n")
    with pytest.raises(InputError, match=r"^2 of 3 inputs were not classified: see above$"):
        predict("--nuclei", "nuclei", slides=slides)
    lines = [line.partition(": ")[2] for line in capsys.readouterr().err.splitlines()]
    assert [line.partition(": ")[0] for line in lines] == ["slides/case_0.png", "nuclei/case_1.csv"]
    assert {name[:6] for name in results()} == {"case_2"}
    Path("nuclei/case_1.csv").write_text("x,y\n50,1\n")
    predict("--nuclei", "nuclei", slides=slides[1:])
    assert done_before(capsys) == ["case_2"]


def test_a_fingerprint_reads_large_files_in_samples(tmp_path):
    """Of ten times as much as is read: another size, and another end, are told."""
    with (tmp_path / "slide").open("wb") as file:
        file.truncate(10 * BLOCKS * BLOCK)
    first = fingerprint(tmp_path / "slide")
    with (tmp_path / "slide").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"x")
    second = fingerprint(tmp_path / "slide")
    with (tmp_path / "slide").open("ab") as file:
        file.write(b"\0")
    assert len({first, second, fingerprint(tmp_path / "slide")}) == 3


def test_neighbours_are_another_setting_and_crops_have_none(work, capsys):
    model = load_model(Path("model.safetensors"))
    around = Neighbourhood((1.0,) * 5, (0.6, 0.5, 0.4), (0.8, 0.9, 0.9))
    save_model(Path("model.safetensors"), replace(model, single=replace(model.single, neighbourhood=around)))
    slide = ("slides/case_1.png",)
    predict("--nuclei", "nuclei/case_1.csv", slides=slide)
    predict("--nuclei", "nuclei/case_1.csv", "--neighbours", slides=slide)
    assert not done_before(capsys)
    record = json.loads(Path("predictions/case_1_run.json").read_text())
    assert record["asked"]["neighbours"] is True
    assert (record["set_threshold"], record["set_coverage_promised"]) == (0.5, 0.9)
    PIL.Image.open("slides/case_1.png").crop((0, 0, 100, 100)).save("crop.png")
    with pytest.raises(InputError, match=r"crop\.png: crops do not tell .* leave out --neighbours"):
        predict("--neighbours", slides=("crop.png",))
    assert not Path("predictions/crop_run.json").exists()
