"""Patients as people write them, from the four files to the folds: nobody is torn apart without a word."""

import shutil
import unicodedata
from pathlib import Path

import pandas as pd
import pytest
from raw_files import noise, png, write_good, write_zip

import stages.overlap
import stages.split
import stages.unzip
from nuclei.errors import InputError
from tools.clone import ROOT, change_params

# Three patients of four crops, one of each class; every crop has its own spelling.
SPELLINGS = [
    *("Patient 7", "patient 07", " PATIENT\u00a07", "Patient\u200b 7"),
    *(unicodedata.normalize(form, name) for form in ("NFC", "NFD") for name in ("Müller", "MÜLLER ")),
    *("1,200", "1200", "1200.0", "1.2e3"),
]
ROWS = [(number, number % 4, group) for number, group in enumerate(SPELLINGS, start=1)]
PNGS = {f"{number}.png": png(noise(number).astype("uint8")) for number, _, _ in ROWS}


@pytest.fixture
def raw(tmp_path, monkeypatch):
    write_raw(tmp_path / "raw")
    (tmp_path / "data").mkdir()
    shutil.copy(ROOT / "params.yaml", tmp_path)
    change_params(tmp_path / "params.yaml", {"data.raw": "raw", "split.folds": 3})
    monkeypatch.chdir(tmp_path)
    return tmp_path / "raw"


def write_raw(folder: Path) -> None:
    write_good(folder)
    write_zip(folder / "train.zip", PNGS)
    (folder / "train.csv").write_text("Filename,Label\n" + "".join(f"{n}.png,{label}\n" for n, label, _ in ROWS))


def write_column(raw: Path, name: str) -> None:
    text = f"Filename,{name},Label\n" + "".join(f'{n}.png,"{group}",{label}\n' for n, label, group in ROWS)
    (raw / "train.csv").write_text(text, encoding="utf-8")


def write_file(raw: Path, name: str, column: str = "Group") -> None:
    text = f"Filename,{column}\n" + "".join(f'{n}.png,"{group}"\n' for n, _, group in ROWS)
    (raw / name).write_text(text, encoding="utf-8")


def split() -> pd.DataFrame:
    for stage in (stages.unzip, stages.overlap, stages.split):
        stage.main()
    return pd.read_csv("data/split.csv")


COLUMNS = [" Group", "GROUP"]
FILES = ["group.csv", "groups.CSV"]


@pytest.mark.parametrize("name", COLUMNS + FILES)
def test_each_patient_is_in_one_fold_however_it_is_spelled(name, raw, capsys):
    write_file(raw, name) if name in FILES else write_column(raw, name)
    table = split()
    assert [table.Fold[start : start + 4].nunique() for start in (0, 4, 8)] == [1, 1, 1]
    assert table.Fold.nunique() == 3
    source = f"raw/{name if name in FILES else 'train.csv'}"
    notes = [line for line in capsys.readouterr().out.splitlines() if "taken for the same group" in line]
    joined = {
        "'Patient 7'": "'patient 07', ' PATIENT\\xa07', 'Patient\\u200b 7'",
        "'M\\xfcller'": "'M\\xdcLLER ', 'Mu\\u0308ller', 'MU\\u0308LLER '",
        "'1,200'": "'1200', '1200.0', '1.2e3'",
    }
    assert notes == [
        f"WARNING: {source}: {those} taken for the same group as {first}" for first, those in joined.items()
    ]


@pytest.mark.parametrize("name", ["Patient", "patient_id", "Slide", "Gruop"])
def test_a_column_that_may_be_the_group_stops_the_first_stage(name, raw):
    complaint = rf"a column '{name}': did you mean Group\? Call it Group, so that its crops stay in one fold, or remove"
    write_column(raw, name)
    with pytest.raises(InputError, match=rf"train\.csv: {complaint}"):
        stages.unzip.main()
    write_raw(raw / "again")
    write_file(raw / "again", "groups.csv", name)
    change_params(Path("params.yaml"), {"data.raw": "raw/again"})
    with pytest.raises(InputError, match=rf"groups\.csv: {complaint}"):
        stages.unzip.main()
    assert not Path("data/crops").exists()


@pytest.mark.parametrize("name", ["patients.csv", "groups.xlsx", "groups.csv.txt"])
def test_a_file_that_may_be_the_groups_is_pointed_out(name, raw, capsys):
    write_file(raw, name)
    stages.unzip.main()
    assert f"WARNING: raw/{name}: groups? Call it groups.csv" in capsys.readouterr().out
