import unicodedata

import pytest

from nuclei.data.groups import (
    find_group_column,
    find_groups_file,
    normalise_groups,
    suspicious_columns,
    suspicious_files,
)
from nuclei.errors import InputError

NO_BREAK, ZERO_WIDTH, THIN, BYTE_ORDER_MARK = "\u00a0", "\u200b", "\u2009", "\ufeff"


@pytest.mark.parametrize(
    "spellings",
    [
        ("7", "07", "7.0", "007", "7.00", "7.", " 7", "7,0", "\uff17", "\u0667", f"7{NO_BREAK}", f"{ZERO_WIDTH}7"),
        (unicodedata.normalize("NFC", "Müller"), unicodedata.normalize("NFD", "Müller"), "MÜLLER", "müller "),
        ("Patient 7", "patient 7", "Patient  7", f"Patient{NO_BREAK}7", f"Patient{THIN}7", "Patient7", "Patient 07"),
        ("P-7", "P\u20107", "P\u20137", "P\u22127", "p - 7"),  # hyphen, en dash, minus
        ("Straße", "STRASSE", "strasse"),
        ("case 1", f"{BYTE_ORDER_MARK}case 1", f"case{ZERO_WIDTH} 1", "case 1\t", "ca\u00adse 1"),
        ("A 1 2", "a 1  2", f"A1{NO_BREAK}2"),
        ("0", "00", "0.0"),
        ("7", "7e0", "7E+00", "7.0e+00", "0.7e1"),
        ("1200", "1,200", "1'200", "1\u2019200", "1 200", f"1{NO_BREAK}200", "1,200.0", "1.2e3", "01200"),
        ("İzmir", "izmir", "IZMIR", "\u0131zm\u0131r", "I\u0307zmir"),  # Turkish
        ("Of\ufb01ce 7", "office 7", "OFFICE \uff17"),  # a ligature, a full-width digit
    ],
)
def test_spellings_of_a_patient_are_one_group(spellings):
    values = [spellings[0], *spellings]
    groups, joined = normalise_groups(values)
    assert groups == [spellings[0]] * len(values)
    assert joined == [(spellings[0], list(spellings[1:]))]


@pytest.mark.parametrize(
    "values",
    [
        ("7", "70", "-7", "7.5", "7.05", "17", "P7", "7a"),
        ("1.1", "1.10", "1.01", "1", "11"),  # the tenth slide of patient 1 is not the first
        ("1 2", "12", "1-2", "1_2", "1,2", "1e2"),
        ("1.234", "1,2345", "12345", "1234", "1e99"),
        ("TCGA-A6-2671", "TCGA-A6-2672", "TCGA-A6-267"),
        ("Müller", "Muller", "Mueller"),
        ("tile_1_01", "tile_10_1", "tile_101"),
        ("10", "1", "100"),
        ("O1", "01x", "l1"),
    ],
)
def test_different_patients_stay_apart(values):
    groups, joined = normalise_groups(values)
    assert groups == list(values) and joined == []


def test_the_most_frequent_spelling_is_kept_and_the_others_are_told():
    groups, joined = normalise_groups(["p 1", "P 1", "P 1", "Q", f"p1{NO_BREAK}", "q", "R"])
    assert groups == ["P 1", "P 1", "P 1", "Q", "P 1", "Q", "R"]
    assert joined == [("P 1", ["p 1", f"p1{NO_BREAK}"]), ("Q", ["q"])]


def test_spaces_that_nobody_sees_are_tidied_without_a_word():
    assert normalise_groups([f" A{NO_BREAK} 1 ", f"{ZERO_WIDTH}B"]) == (["A 1", "B"], [])


def test_a_group_that_nobody_sees_is_empty():
    assert normalise_groups([ZERO_WIDTH + NO_BREAK, "A"])[0] == ["", "A"]


@pytest.mark.parametrize(
    "name", ["Group", "group", "GROUP", " Group", "Group ", "Groups", "groups", f"Group{NO_BREAK}"]
)
def test_the_group_column_is_read_however_it_is_spelled(name):
    header = ["Filename", name, "Label"]
    assert find_group_column(header) == name
    assert suspicious_columns(header) == []


def test_two_group_columns_are_refused():
    with pytest.raises(InputError, match=r"train\.csv: the columns 'Group' and 'groups' all name the group: keep one"):
        find_group_column(["Filename", "Group", "Label", "groups"])
    with pytest.raises(InputError, match=r"groups\.csv: the columns 'Group' and 'Group'"):
        find_group_column(["Group", "Group"], "groups.csv")


@pytest.mark.parametrize(
    "name",
    [
        *("Patient", "patient_id", "PatientID", "patientid", "patients", "PATIENT ID", "Patient-Nr", "Patient.Name"),
        *("Slide", "slide_name", "SlideNo", "case", "CaseID", "WSI", "wsi_name", "wsiid", "tile", "Tile Id", "Subject"),
        *("donor", "Image", "image_id", "specimen", "Sample", "source_slide", "TMA core", "ROI", "biopsy2"),
        *("group_id", "GroupID", "Gruop", "Grp", "Goup", "Gruppe", "patient_group", "Group (patient)"),
    ],
)
def test_a_column_that_may_be_the_group_is_pointed_out(name):
    header = ["Filename", "Label", name]
    assert find_group_column(header) is None
    assert suspicious_columns(header) == [name]


def test_other_columns_are_left_alone():
    header = ["Filename", "Label", "x", "y", "Width", "lowercase", "Score", "Comment", "id", "Scanner", "Stain", "mpp"]
    assert suspicious_columns(header) == []


@pytest.mark.parametrize("name", ["groups.csv", "Groups.csv", "group.csv", "groups.CSV", "GROUPS.CSV", "groups .csv"])
def test_the_groups_file_is_found_however_it_is_spelled(tmp_path, name):
    (tmp_path / name).write_text("Filename,Group\n")
    (tmp_path / "train.csv").write_text("Filename,Label\n")
    (tmp_path / "._groups.csv").write_text("of a Mac")
    assert find_groups_file(tmp_path) == tmp_path / name
    assert suspicious_files(tmp_path) == []


def test_a_dead_link_is_no_missing_groups_file(tmp_path):
    (tmp_path / "groups.csv").symlink_to("nowhere")
    assert find_groups_file(tmp_path) == tmp_path / "groups.csv"


def test_two_groups_files_are_refused(tmp_path):
    for name in ("groups.csv", "group.csv"):
        (tmp_path / name).write_text("Filename,Group\n")
    with pytest.raises(InputError, match=r"'group\.csv' and 'groups\.csv' all name the groups: keep one"):
        find_groups_file(tmp_path)


def test_without_a_groups_file_near_names_are_pointed_out(tmp_path):
    assert find_groups_file(tmp_path) is None and find_groups_file(tmp_path / "missing") is None
    near = ["Patients.csv", "groups.csv.txt", "groups.tsv", "groups.xlsx", "slide_ids.csv"]
    for name in [*near, "train.csv", "example.csv", "train.zip", "group.png", "patients"]:
        (tmp_path / name).write_text("")
    assert find_groups_file(tmp_path) is None
    assert suspicious_files(tmp_path) == near
