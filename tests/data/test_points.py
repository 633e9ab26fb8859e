"""Slides with labelled nuclei, as their annotators hand them over, become the competition's files."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from nuclei.cli import act
from nuclei.data.cut import cut
from nuclei.data.folders import import_folders
from nuclei.data.geojson import read_nuclei
from nuclei.data.points import Settings, import_points
from nuclei.data.synthetic.example import write_example
from nuclei.data.unpack import unpack
from nuclei.errors import InputError
from nuclei.task import CLASSES


@pytest.fixture(scope="module")
def tiles(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("example") / "tiles"
    write_example(folder, tiles=4, seed=0)
    return folder


def slides(tiles: Path) -> list[Path]:
    return sorted(tiles.glob("*.png"))


def read(out: Path, tmp_path: Path) -> tuple[pd.DataFrame, np.ndarray]:
    """What the pipeline makes of what was written: the table with names and groups, and the crops."""
    unpack(out, tmp_path / "crops", channels=3, classes=None)
    table = pd.read_csv(tmp_path / "crops/train.csv")
    names = json.loads((tmp_path / "crops/task.json").read_text())["classes"]
    return table.assign(Name=[names[label] for label in table.Label]), np.load(tmp_path / "crops/train.npy")


def test_an_example_is_the_same_bytes_again(tiles, tmp_path):
    write_example(tmp_path / "again", tiles=4, seed=0)
    for path in tiles.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


@pytest.mark.parametrize("kind", ["table", "geojson"])
def test_every_labelled_nucleus_becomes_a_crop_round_it(kind, tiles, tmp_path):
    points = [tiles / "points.csv"] if kind == "table" else sorted(tiles.glob("*.geojson"))
    group = "patient" if kind == "table" else None
    done = import_points(slides(tiles), points, tmp_path / "out", Settings(100, 0.25, group=group))
    given = pd.read_csv(tiles / "points.csv")
    assert done.classes == tuple(sorted(CLASSES)) and len(done.table) == len(given)
    assert (done.table.role == "test").sum() == pytest.approx(0.2 * len(given), abs=3)
    table, crops = read(tmp_path / "out", tmp_path)
    pixels = {path.name: np.asarray(Image.open(path).convert("RGB")) for path in slides(tiles)}
    expected = {}
    for row in given.itertuples():
        where = row.patient if kind == "table" else Path(row.Image).stem
        expected[cut(pixels[row.Image], row.y, row.x, 100).tobytes()] = (row.label, where)
    found = [expected[crop.tobytes()] for crop in crops]
    assert found == list(zip(table.Name, table.Group, strict=True))


def test_other_sizes_and_resolutions(tiles, tmp_path):
    import_points(slides(tiles)[:1], [tiles / "tile_1.geojson"], tmp_path / "out", Settings(64, 0.5))
    _, crops = read(tmp_path / "out", tmp_path)
    assert crops.shape[1:] == (64, 64, 3)
    row = pd.read_csv(tiles / "points.csv").iloc[0]
    pixels = np.asarray(Image.open(tiles / "tile_1.png").convert("RGB"))
    assert any(np.array_equal(crop, cut(pixels, row.y, row.x, 128.0, 64)) for crop in crops) or row.label not in crops


def test_crops_at_a_border_are_mirrored_or_skipped_and_counted(tiles, tmp_path):
    given = pd.read_csv(tiles / "points.csv")
    near = (given[["x", "y"]].min(axis=1) < 50) | (given[["x", "y"]].max(axis=1) > 350)
    done = import_points(slides(tiles), [tiles / "points.csv"], tmp_path / "a", Settings(100, 0.25))
    assert f"{near.sum()} crops reach beyond the border of their slide: mirrored at it" in done.notes
    done = import_points(slides(tiles), [tiles / "points.csv"], tmp_path / "b", Settings(100, 0.25, border="skip"))
    assert len(done.table) == (~near).sum() and any("left out" in note for note in done.notes)


def test_microns_are_divided_by_the_resolution(tiles, tmp_path):
    table = pd.read_csv(tiles / "points.csv").query("Image == 'tile_1.png'")
    table = table.assign(**{"Centroid X µm": table.x / 4, "Centroid Y µm": table.y / 4}).drop(columns=["x", "y"])
    table.to_csv(tmp_path / "measured.csv", index=False)
    import_points(slides(tiles)[:1], [tiles / "tile_1.geojson"], tmp_path / "a", Settings(100, 0.25))
    import_points(slides(tiles)[:1], [tmp_path / "measured.csv"], tmp_path / "b", Settings(100, 0.25))
    for name in ("train.zip", "train.csv", "test.zip"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_what_has_no_label_is_left_out_and_counted(tiles, tmp_path):
    table = pd.read_csv(tiles / "points.csv").query("Image == 'tile_1.png'").drop(columns="Image")
    table.loc[table.index[:5], "label"] = ""
    table.to_csv(tmp_path / "tile_1.csv", index=False)
    done = import_points(slides(tiles)[:1], [tmp_path / "tile_1.csv"], tmp_path / "out", Settings(100, 0.25))
    assert len(done.table) == len(table) - 5 and "left out: 5 without a label" in done.notes


def test_labels_in_two_spellings_are_one_class(tiles, tmp_path):
    table = pd.read_csv(tiles / "points.csv").query("Image == 'tile_1.png'").drop(columns="Image")
    table.loc[table.index[:40:2], "label"] = table.label.str.upper()
    table.to_csv(tmp_path / "tile_1.csv", index=False)
    done = import_points(slides(tiles)[:1], [tmp_path / "tile_1.csv"], tmp_path / "out", Settings(100, 0.25))
    assert len(done.classes) == pd.read_csv(tiles / "points.csv").query("Image == 'tile_1.png'").label.nunique()


def written(tmp_path: Path, tiles: Path, **changes) -> Path:
    table = pd.read_csv(tiles / "points.csv").query("Image == 'tile_1.png'").drop(columns="Image")
    table.assign(**changes).to_csv(tmp_path / "tile_1.csv", index=False)
    return tmp_path / "tile_1.csv"


REFUSED = {
    "outside": ({"x": 5000}, {}, r"line 2 at x 5000, y \d+ \(and \d+ more\) lies outside of .*tile_1.png"),
    "unknown class": ({}, {"classes": ("muscle", "nerve")}, "expected one of muscle, nerve: see --classes"),
    "one class": ({"label": "muscle"}, {}, "1 classes, expected 2 to 32"),
    "numbers": ({"label": "3"}, {}, "expected a name of"),
    "no labels": ({"label": ""}, {}, "no labelled nucleus in it"),
    "no group": ({}, {"group": "slide"}, r"expected one column 'slide' \(--group\)"),
    "empty group": ({"patient": ""}, {"group": "patient"}, "line 2: no patient: every nucleus needs one"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_points_are_refused_in_one_line_and_nothing_is_written(case, tiles, tmp_path):
    changes, settings, message = REFUSED[case]
    points = written(tmp_path, tiles, **changes)
    with pytest.raises(InputError, match=message) as caught:
        import_points(slides(tiles)[:1], [points], tmp_path / "out", Settings(100, 0.25, **settings))
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_files_are_matched_by_name_or_refused(tiles, tmp_path):
    geojson = sorted(tiles.glob("*.geojson"))
    for given, points, message in (
        (slides(tiles)[:2], geojson[1:3], "no file of nuclei has its name"),
        (slides(tiles)[:2], geojson[:3], "no image has its name"),
        ([slides(tiles)[0]] * 2, geojson[:2], "another image has this name"),
        (slides(tiles)[:1], [tmp_path / "no.csv"], "cannot be read"),
    ):
        with pytest.raises(InputError, match=message):
            import_points(given, points, tmp_path / "out", Settings(100, 0.25))
    done = import_points(slides(tiles)[:1], geojson[1:2], tmp_path / "out", Settings(100, 0.25))
    assert any("has another name than" in note for note in done.notes)


def test_an_image_that_the_table_does_not_name_is_refused(tiles, tmp_path):
    Image.new("RGB", (400, 400)).save(tmp_path / "other.png", dpi=(101600, 101600))
    with pytest.raises(InputError, match=r"its column Image names .*, expected 'other.png'"):
        import_points([tmp_path / "other.png"], [tiles / "points.csv"], tmp_path / "out", Settings(100, 0.25))


def test_an_unknown_resolution_is_asked_for(tiles, tmp_path):
    Image.open(tiles / "tile_1.png").save(tmp_path / "tile_1.png")
    points = [tiles / "tile_1.geojson"]
    with pytest.raises(InputError, match="does not tell its resolution: give --slide-mpp"):
        import_points([tmp_path / "tile_1.png"], points, tmp_path / "out", Settings(100, 0.25))
    import_points([tmp_path / "tile_1.png"], points, tmp_path / "out", Settings(100, 0.25, slide_mpp=0.25))


def test_too_many_points_are_refused_before_they_fill_the_memory(tiles, tmp_path, monkeypatch):
    monkeypatch.setattr("nuclei.data.points.MOST_CROPS", 50)
    for points in (tiles / "tile_1.geojson", tiles / "points.csv"):
        with pytest.raises(InputError, match="more than 50 nuclei"):
            import_points(slides(tiles)[:1], [points], tmp_path / "out", Settings(100, 0.25))


def test_rows_of_slides_that_are_not_asked_for_count_for_nothing(tiles, tmp_path, monkeypatch):
    table = pd.read_csv(tiles / "points.csv").assign(label=lambda rows: rows.label.where(rows.index % 9 > 0, ""))
    table.to_csv(tmp_path / "points.csv", index=False)
    mine = table.query("Image in ('tile_1.png', 'tile_2.png')")
    monkeypatch.setattr("nuclei.data.points.MOST_CROPS", int((mine.label != "").sum()))
    done = import_points(slides(tiles)[:2], [tmp_path / "points.csv"], tmp_path / "out", Settings(100, 0.25))
    assert len(done.table) == (mine.label != "").sum()
    assert f"left out: {(mine.label == '').sum()} without a label" in done.notes


def test_a_table_that_does_not_say_which_slide_a_row_is_of_is_refused(tiles, tmp_path):
    points = written(tmp_path, tiles)
    with pytest.raises(InputError, match=r"tile_1.csv: no column Image, and 2 images: say which each row is of"):
        import_points(slides(tiles)[:2], [points], tmp_path / "out", Settings(100, 0.25))
    assert not (tmp_path / "out").exists()


def test_slides_of_two_resolutions_are_brought_to_one_and_that_is_said(tiles, tmp_path):
    """The second tile, at half the size, has its nuclei at half the coordinates: nearly the same crops."""
    table = pd.read_csv(tiles / "points.csv").query("Image == 'tile_1.png'").drop(columns="Image")
    with Image.open(tiles / "tile_1.png") as tile:
        tile.save(tmp_path / "a.png", dpi=(101_600, 101_600))
        tile.resize((200, 200), Image.Resampling.BOX).save(tmp_path / "b.png", dpi=(50_800, 50_800))
    table.to_csv(tmp_path / "a.csv", index=False)
    table.assign(x=table.x / 2, y=table.y / 2).to_csv(tmp_path / "b.csv", index=False)
    images, points = ([tmp_path / f"{name}.{kind}" for name in "ab"] for kind in ("png", "csv"))
    done = import_points(images, points, tmp_path / "out", Settings(64, 0.25))
    assert "slides of 0.25, 0.5 microns per pixel: all crops are brought to 0.25" in done.notes
    found, crops = read(tmp_path / "out", tmp_path)
    places = pd.read_csv(tmp_path / "out/positions.csv").set_index("Filename").loc[found.Filename].reset_index()
    fine, coarse = (places[places.Image == f"{name}.png"] for name in "ab")
    pairs = fine.merge(coarse.assign(x=2 * coarse.x, y=2 * coarse.y).reset_index(), on=["x", "y"])
    pairs["at"] = [places.index[places.Filename == name][0] for name in pairs.Filename_x]
    assert len(pairs) > 20
    first, second = (crops[pairs[column]].astype(int) for column in ("at", "index"))
    assert np.abs(first - second).mean() < 12


def test_folders_become_classes_and_folders_in_them_groups(tmp_path, capsys):
    rng, crops = np.random.default_rng(0), {}
    for label in ("benign", "malignant"):
        for patient in ("a", "b"):
            (tmp_path / f"in/{label}/{patient}").mkdir(parents=True)
            for i, suffix in enumerate(("png", "tif", "png", "bmp")):
                pixels = rng.integers(0, 256, (48, 48, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / f"in/{label}/{patient}/{i}.{suffix}")
                if suffix != "bmp":
                    crops[pixels.tobytes()] = (label, patient)
    act(["import", "folders", str(tmp_path / "in"), "--out", str(tmp_path / "out")])
    assert f"next: dvc exp run -S data.raw={tmp_path}/out -S classes=null" in capsys.readouterr().out
    table, arrays = read(tmp_path / "out", tmp_path)
    assert len(table) == 10
    assert [crops[crop.tobytes()] for crop in arrays] == list(zip(table.Name, table.Group, strict=True))


def test_folders_that_hold_no_crops_of_one_size_are_refused(tmp_path):
    folder = tmp_path / "in"
    (folder / "a").mkdir(parents=True)

    def refused(message):
        with pytest.raises(InputError, match=message):
            act(["import", "folders", str(folder), "--out", str(tmp_path / "out")])
        assert not (tmp_path / "out").exists()

    refused("no crop in it")
    for name in ("1", "2"):
        Image.new("RGB", (40, 40)).save(folder / f"a/{name}.png")
    refused("1 folders with crops, expected one per class, 2 to 32")
    (folder / "b").mkdir()
    Image.new("RGB", (40, 40)).save(folder / "b/1.png")
    refused("b: 1 crop, expected two or more")
    Image.new("RGB", (41, 41)).save(folder / "b/2.png")
    refused("41x41 pixels, expected 40x40|40x40 pixels, expected 41x41")
    Image.new("RGB", (40, 50)).save(folder / "b/2.png")
    refused("expected a square")
    (folder / "b/c/d").mkdir(parents=True)
    Image.new("RGB", (40, 40)).save(folder / "b/c/d/3.png")
    refused("expected CLASS/crop or CLASS/GROUP/crop")


def rows_of(tiles: Path) -> pd.DataFrame:
    return pd.read_csv(tiles / "points.csv")


MISTAKES = {
    "an empty Image": (lambda rows: rows.assign(Image=rows["Image"].where(rows.index != 2, "")), "line 4: no Image"),
    "an Image in the first row alone": (
        lambda rows: rows.assign(Image=rows["Image"].where(rows.index == 0, "")),
        "line 3: no Image, as other rows have: fill it in",
    ),
    "two spellings of an image": (
        lambda rows: rows.assign(Image=rows["Image"].where(rows.index > 2, "tile_1")),
        r"has '(tile_1|tile_1\.png)' and '(tile_1|tile_1\.png)': write one name for both",
    ),
    "two columns of labels": (lambda rows: rows.assign(Class="cell"), "columns label and class: keep the one"),
    "two columns of patients": (
        lambda rows: rows.assign(**{"Patient": "p"}),
        r"expected one column 'patient' \(--group\), found",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_nothing_is_left_out_unseen(mistake, tiles, tmp_path):
    change, message = MISTAKES[mistake]
    change(rows_of(tiles)).to_csv(tmp_path / "points.csv", index=False)
    with pytest.raises(InputError, match=message):
        settings = Settings(100, 0.25, group="patient")
        import_points(slides(tiles), [tmp_path / "points.csv"], tmp_path / "out", settings)
    assert not (tmp_path / "out").exists()


def test_a_group_without_a_name_is_no_column(tiles, tmp_path):
    with pytest.raises(InputError, match=r"expected one column '' \(--group\)"):
        import_points(slides(tiles), [tiles / "points.csv"], tmp_path / "out", Settings(100, 0.25, group=""))


def test_a_table_that_names_its_images_may_have_any_name(tiles, tmp_path):
    done = import_points(slides(tiles)[:1], [tiles / "points.csv"], tmp_path / "out", Settings(100, 0.25))
    assert not any("another name" in note for note in done.notes)


def test_every_class_keeps_a_training_crop(tiles, tmp_path):
    rows = rows_of(tiles).groupby("label").head(2)
    rows.to_csv(tmp_path / "points.csv", index=False)
    settings = Settings(100, 0.25, test_share=0.9)
    done = import_points(slides(tiles)[:1], [tmp_path / "points.csv"], tmp_path / "out", settings)
    assert (done.table.groupby("label").role.value_counts() == 1).all()


def test_nuclei_that_all_lie_at_the_border_are_an_error_that_says_so(tiles, tmp_path):
    rows_of(tiles).assign(x=1).to_csv(tmp_path / "points.csv", index=False)
    settings = Settings(100, 0.25, border="skip")
    with pytest.raises(InputError, match="all nuclei lie at a border, nearer than half a crop"):
        import_points(slides(tiles), [tmp_path / "points.csv"], tmp_path / "out", settings)


def test_a_name_that_is_not_utf8_is_an_error_that_says_so(tiles, tmp_path):
    slide = tmp_path / "Pr\udce4p.png"
    slide.write_bytes(slides(tiles)[0].read_bytes())
    geojson = slide.with_suffix(".geojson")
    geojson.write_bytes((tiles / "tile_1.geojson").read_bytes())
    with pytest.raises(InputError, match=r"the name 'Pr\\udce4p.png' is not UTF-8: rename that file"):
        import_points([slide], [geojson], tmp_path / "out", Settings(100, 0.25))


def test_a_classification_may_be_a_number(tmp_path):
    geometry = {"type": "Point", "coordinates": [5, 6]}
    feature = {"type": "Feature", "geometry": geometry, "properties": {"classification": {"name": 7}}}
    (tmp_path / "a.geojson").write_text(json.dumps(feature))
    (nucleus,) = read_nuclei(tmp_path / "a.geojson")
    assert nucleus.label == "7"


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (["0", "1"], "a folder '0', expected the name of a class"),
        (["a;b", "c"], "a folder 'a;b', expected the name of a class"),
        ([" a", "b"], "a folder ' a', expected the name of a class"),
        (["Tumor", "stroma", "tumor"], "folders Tumor and tumor are one class: put their crops together"),
        (["M\udcfcller", "b"], r"the name 'M\\udcfcller/0.png' is not UTF-8: rename that file"),
    ],
)
def test_folders_that_are_no_classes_are_refused(folders, message, tmp_path):
    for name in folders:
        (tmp_path / "in" / name).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (32, 32)).save(tmp_path / "in" / name / f"{number}.png")
    with pytest.raises(InputError, match=message):
        import_folders(tmp_path / "in", tmp_path / "out", 0.2, 0)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_crops_that_is_a_link_is_refused(tmp_path):
    for name in ("in/a/p1", "in/b/p1", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (32, 32)).save(tmp_path / name / f"{number}.png")
    (tmp_path / "in/a/p2").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="in/a/p2: a link to a folder: put the folder itself there"):
        import_folders(tmp_path / "in", tmp_path / "out", 0.2, 0)
