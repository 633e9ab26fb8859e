"""Suspected labels go out to a spreadsheet and to QuPath, and come back corrected: a round trip on drawn slides."""

import hashlib
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from nuclei.cli import act
from nuclei.data.points import Settings, import_points
from nuclei.data.relabel import relabel
from nuclei.data.synthetic.example import write_example
from nuclei.data.tables import read_training_table
from nuclei.data.to_correct import write_to_correct
from nuclei.errors import InputError
from nuclei.files import write_csv
from nuclei.task import CLASSES

NAMES = tuple(sorted(CLASSES))
SUSPECTS = 6


@pytest.fixture(scope="module")
def imported(tmp_path_factory) -> Path:
    """What `nuclei import points` makes of two tiles."""
    folder = tmp_path_factory.mktemp("imported")
    write_example(folder / "tiles", tiles=2, seed=0)
    slides = sorted((folder / "tiles").glob("*.png"))
    import_points(slides, [folder / "tiles/points.csv"], folder / "raw", Settings(100, 0.25, group="patient"))
    return folder


@pytest.fixture
def raw(imported) -> Path:
    return imported / "raw"


def labels_of(folder: Path) -> dict[str, str]:
    return pd.read_csv(folder / "train.csv", dtype=str).set_index("Filename")["Label"].to_dict()


def issues_of(raw: Path, classes: tuple[str, ...] = NAMES) -> pd.DataFrame:
    """The table of suspects, of the first crops of a data set."""
    rows = read_training_table(raw, classes).rows.head(SUSPECTS)
    labels = rows["Label"].astype(int).to_numpy()
    columns = {"Filename": rows["Filename"].to_numpy(), "Label": labels, "Suggested": (labels + 1) % len(classes)}
    return pd.DataFrame(columns).assign(Probability_cnn=0.75, Score=0.125)


@pytest.fixture
def handed_out(raw, tmp_path) -> pd.DataFrame:
    """to_correct.csv, as the stage `review` writes it, beside its GeoJSON files."""
    write_to_correct(tmp_path, issues_of(raw), NAMES, raw / "positions.csv")
    return pd.read_csv(tmp_path / "to_correct.csv", dtype=str, keep_default_na=False)


def answer(table: pd.DataFrame, path: Path, **answers: str) -> Path:
    """Save the table as a spreadsheet does that is set to semicolons, with answers: c1_png="muscle"."""
    table = table.set_index("Filename")
    for name, label in answers.items():
        table.loc[name.removeprefix("c").replace("_", "."), "Corrected"] = label
    table.reset_index().to_csv(path, sep=";", index=False, encoding="utf-8-sig", lineterminator="\r\n")
    return path


def key(filename: str) -> str:
    return "c" + filename.replace(".", "_")


def test_positions_say_where_each_labelled_crop_was_cut(imported, raw):
    positions = pd.read_csv(raw / "positions.csv").merge(pd.read_csv(raw / "train.csv"), on="Filename")
    given = pd.read_csv(imported / "tiles/points.csv")
    assert len(positions) == len(pd.read_csv(raw / "train.csv"))
    found = positions.merge(given, left_on=["Image", "x", "y", "Label"], right_on=["Image", "x", "y", "label"])
    assert len(found) == len(positions)


def test_suspects_go_out_with_names_and_places_and_an_empty_column(raw, handed_out):
    assert handed_out.columns.tolist() == [
        *("Filename", "Label", "Suggested", "Corrected", "Probability_cnn", "Score", "Image", "x", "y")
    ]
    assert set(handed_out["Corrected"]) == {""}
    labels = labels_of(raw)
    assert [labels[name] for name in handed_out["Filename"]] == handed_out["Label"].tolist()
    assert all(row.Suggested == NAMES[(NAMES.index(row.Label) + 1) % 4] for row in handed_out.itertuples())


def test_a_corrected_table_changes_these_labels_and_says_so(raw, handed_out, tmp_path):
    first, second, same, *_ = handed_out.to_dict("records")
    answers = {first["Filename"]: first["Suggested"].upper(), second["Filename"]: second["Suggested"]}
    answers[same["Filename"]] = same["Label"]  # confirmed
    file = answer(handed_out, tmp_path / "corrected.csv", **{key(name): label for name, label in answers.items()})
    before = {path.name: path.read_bytes() for path in raw.iterdir()}
    relabel(raw, [file], tmp_path / "out")
    assert {path.name: path.read_bytes() for path in raw.iterdir()} == before
    after = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert {name for name in after if after[name] != before.get(name)} == {"train.csv", "corrections.csv"}
    changed = {first["Filename"]: first["Suggested"], second["Filename"]: second["Suggested"]}
    assert labels_of(tmp_path / "out") == labels_of(raw) | changed
    assert list(labels_of(tmp_path / "out")) == list(labels_of(raw))
    record = pd.read_csv(tmp_path / "out/corrections.csv")
    assert record[["Filename", "Before", "After", "File"]].to_numpy().tolist() == [
        [row["Filename"], row["Label"], row["Suggested"], "corrected.csv"] for row in (first, second)
    ]
    assert set(record["SHA256"]) == {hashlib.sha256(file.read_bytes()).hexdigest()}


def test_what_was_corrected_in_qupath_comes_back(raw, handed_out, tmp_path):
    """QuPath's export has its classification and further members, and the user's objects beside these."""
    files, changed = sorted(tmp_path.glob("to_correct_*.geojson")), {}
    assert [file.stem.removeprefix("to_correct_") + ".png" for file in files] == sorted(set(handed_out["Image"]))
    rows = handed_out.set_index("Filename")
    for file in files:
        features = json.loads(file.read_text())["features"]
        for feature in features:
            name = feature["properties"]["name"].partition(";")[0]
            assert feature["geometry"]["coordinates"] == [float(rows.x[name]), float(rows.y[name])]
            assert feature["properties"]["classification"]["name"] == rows.Label[name]
            assert feature["properties"]["objectType"] == "annotation"
        name = features[0]["properties"]["name"].partition(";")[0]
        changed[name] = rows.Suggested[name]
        features[0]["properties"]["classification"] = {"name": changed[name], "color": [1, 2, 3]}
        features[0]["id"] = "5b1c2f0e-0000-4000-8000-000000000000"
        features.append({"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 1]}, "properties": {}})
        file.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    changes = relabel(raw, files, tmp_path / "out")
    assert dict(zip(changes["Filename"], changes["After"], strict=True)) == changed
    assert labels_of(tmp_path / "out") == labels_of(raw) | changed


def test_a_second_time_nothing_changes_and_a_second_round_is_added_to_the_record(raw, handed_out, tmp_path, capsys):
    first, second, *_ = handed_out.to_dict("records")
    file = answer(handed_out, tmp_path / "a.csv", **{key(first["Filename"]): first["Suggested"]})
    act(["relabel", str(raw), str(file), "--out", str(tmp_path / "one")])
    said = capsys.readouterr().out
    assert f"one: 1 labels changed: 1 {first['Label']} to {first['Suggested']}\n" in said
    assert f"next: dvc exp run -S data.raw={tmp_path / 'one'}\n" in said
    act(["relabel", str(tmp_path / "one"), str(file), "--out", str(tmp_path / "again")])
    assert "has all these labels already" in capsys.readouterr().out and not (tmp_path / "again").exists()
    with pytest.raises(InputError, match="one: exists and is not empty: give a new folder"):
        act(["relabel", str(raw), str(file), "--out", str(tmp_path / "one")])
    more = answer(handed_out, tmp_path / "b.csv", **{key(second["Filename"]): second["Suggested"]})
    relabel(tmp_path / "one", [file, more], tmp_path / "two")
    record = pd.read_csv(tmp_path / "two/corrections.csv")
    assert record["File"].tolist() == ["a.csv", "b.csv"]
    assert record["Filename"].tolist() == [first["Filename"], second["Filename"]]


def test_labels_that_are_numbers_stay_numbers_and_other_columns_stay(raw, handed_out, tmp_path):
    table = pd.read_csv(raw / "train.csv", dtype=str)
    table["Label"] = table["Label"].map(lambda name: str(CLASSES.index(name)))
    table["Note"] = "a, b"
    numbered = tmp_path / "numbered"
    numbered.mkdir()
    for name in ("train.zip", "test.zip", "example.csv", "groups.csv"):
        (numbered / name).hardlink_to(raw / name)
    write_csv(numbered / "train.csv", table)
    row = handed_out.iloc[0]
    file = answer(handed_out, tmp_path / "corrected.csv", **{key(row.Filename): row.Suggested})
    relabel(numbered, [file], tmp_path / "out")
    table.loc[table["Filename"] == row.Filename, "Label"] = str(CLASSES.index(row.Suggested))
    assert pd.read_csv(tmp_path / "out/train.csv", dtype=str).equals(table)


REFUSED = {
    "unknown file": ({"Filename": "no.png"}, "line 2: .*train.csv has no crop 'no.png': is it of another data set"),
    "unknown class": ({"Corrected": "musle"}, "line 2: 'musle' is no class, expected one of .*did you mean muscle"),
    "stale": ({"Label": "stale"}, r"line 2: the label of \d+.png was 'stale', and is .*: run the stage review again"),
    "two answers": ({"Filename": None}, "line 3: .*, but .* in .*line 2: keep one answer"),
    "no column": ({"Corrected": "DROP"}, "expected one column Corrected, found 'Filename,Label,Suggested'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_answers_in_doubt_are_refused_in_one_line_and_nothing_is_written(case, raw, handed_out, tmp_path):
    changes, message = REFUSED[case]
    table = handed_out[["Filename", "Label", "Suggested", "Corrected"]].head(2).copy()
    table["Corrected"] = table["Suggested"]
    if case == "two answers":
        table.loc[1] = table.loc[0]
        table.loc[1, "Corrected"] = next(name for name in NAMES if name not in table.loc[0].tolist())
    elif case == "no column":
        table = table.drop(columns="Corrected")
    else:
        table.loc[0, list(changes)] = list(changes.values())
    table.to_csv(tmp_path / "corrected.csv", index=False)
    with pytest.raises(InputError, match=message) as caught:
        relabel(raw, [tmp_path / "corrected.csv"], tmp_path / "out")
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_files_that_are_no_answers_are_refused(raw, handed_out, tmp_path):
    geojson = next(tmp_path.glob("*.geojson"))
    cleared = json.loads(geojson.read_text())
    del cleared["features"][0]["properties"]["classification"]
    (tmp_path / "cleared.geojson").write_text(json.dumps(cleared))
    (tmp_path / "other.geojson").write_text('{"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 1]}}')
    (tmp_path / "book.csv").write_bytes(b"PK\3\4")
    (tmp_path / "latin.csv").write_bytes("Filename,Label,Corrected\nä,a,b\n".encode("latin-1"))
    (tmp_path / "ragged.csv").write_text("Filename,Label,Corrected\n1.png\n")
    for name, message in {
        "cleared.geojson": "no classification: give it one, or delete the object",
        "other.geojson": "no object of to_correct_IMAGE.geojson in it",
        "book.csv": "an Excel workbook",
        "latin.csv": "not UTF-8 at byte 25: save it as CSV UTF-8",
        "ragged.csv": "line 2: 1 values, expected 3 as in the header",
        "missing.csv": r"cannot be read \(No such file or directory\)",
    }.items():
        with pytest.raises(InputError, match=message):
            relabel(raw, [tmp_path / name], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_class_that_would_lose_its_last_crop_is_kept(raw, tmp_path):
    (tmp_path / "few").mkdir()
    table = pd.read_csv(raw / "train.csv").drop_duplicates("Label")
    table.to_csv(tmp_path / "few/train.csv", index=False)
    first, second = table.head(2).to_dict("records")
    table.head(2).assign(Corrected=["", first["Label"]]).to_csv(tmp_path / "corrected.csv", index=False)
    with pytest.raises(InputError, match=f"no crop of class {second['Label']} would be left: each needs some"):
        relabel(tmp_path / "few", [tmp_path / "corrected.csv"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_answer_in_another_column_is_not_passed_over(raw, handed_out, tmp_path):
    first, second, *_ = handed_out["Filename"]
    other = handed_out["Suggested"][0]
    table = handed_out.assign(Label=handed_out["Label"].where(handed_out["Filename"] != first, other))
    path = answer(table, tmp_path / "corrected.csv", **{key(second): other})
    with pytest.raises(InputError, match=f"line 2: Label is '{other}', .*: write answers into Corrected"):
        relabel(raw, [path], tmp_path / "out")
    for rows in (handed_out, handed_out.head(0)):
        with pytest.raises(InputError, match="no answer in its column Corrected"):
            relabel(raw, [answer(rows, tmp_path / "corrected.csv")], tmp_path / "out")


def test_a_record_that_was_saved_by_another_program_is_kept_or_refused(raw, handed_out, tmp_path):
    record = "Filename,Before,After,File,SHA256\n1.png,a,b,c.csv,0"
    shutil.copytree(raw, tmp_path / "raw")
    path = answer(
        handed_out, tmp_path / "corrected.csv", **{key(handed_out["Filename"][0]): handed_out["Suggested"][0]}
    )
    (tmp_path / "raw/corrections.csv").write_text(record, encoding="utf-8-sig")
    relabel(tmp_path / "raw", [path], tmp_path / "out")
    written = pd.read_csv(tmp_path / "out/corrections.csv", dtype=str)
    assert list(written) == record.splitlines()[0].split(",") and len(written) == 2 and written["SHA256"][0] == "0"
    (tmp_path / "raw/corrections.csv").write_text(record, encoding="utf-16")
    with pytest.raises(InputError, match="not a record of corrections"):
        relabel(tmp_path / "raw", [path], tmp_path / "again")
