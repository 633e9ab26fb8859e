from raw_files import (
    GROUPS,
    LABELS,
    PNGS,
    TRAIN,
    TRAIN_CSV,
    both,
    cases,
    complaint,
    edit,
    groups,
    members,
    write,
)

from nuclei.data.unpack import unpack
from nuclei.task import CLASSES

ALL_FOUR = "add some, all of 0, 1, 2, 3 are needed, or take it out of `classes` in params.yaml"
ONE_OF = f"expected one of 0, 1, 2, 3, or their names: {', '.join(CLASSES)}"
MEMBER = "train.zip, member 'train/3.png'"
BAD_TABLES = {
    "row without crop": (
        members({"train/3.png": None}),
        "train.csv, line 7: '3.png' is not in train.zip: add the crop or remove the row",
    ),
    "rows without crops in the test": (
        members({"11.png": None, "14.png": None}, part="test"),
        "example.csv, line 3: '11.png' is not in test.zip (and 1 more): add the crop or remove the row",
    ),
    "crop without row": (
        edit("train.csv", "3.png,1\n", ""),
        f"{MEMBER}: no row in train.csv: add the row or remove the crop",
    ),
    "crops without rows": (
        members({"photos/9.png": PNGS[3], "notes.txt": b"x", "a.b": b""}, part="test"),
        "test.zip, member 'photos/9.png': no row in example.csv (and 2 more): add the row or remove the crop",
    ),
    "a folder in the table": (
        edit("train.csv", "3.png", "train/3.png"),
        "train.csv, line 7: 'train/3.png' is not in train.zip: add the crop or remove the row",
    ),
    "row twice": (
        edit("train.csv", "3.png,1\n", "3.png,1\n3.png,1\n"),
        "train.csv, line 8: '3.png' occurs a second time: keep one row",
    ),
    "row twice in the test": (
        edit("example.csv", "11.png", "13.png"),
        "example.csv, line 3: '13.png' occurs a second time: keep one row",
    ),
    "label 4": (edit("train.csv", "3.png,1", "3.png,4"), f"train.csv, line 7: Label is '4', {ONE_OF}"),
    "label -1": (edit("train.csv", "3.png,1", "3.png,-1"), f"train.csv, line 7: Label is '-1', {ONE_OF}"),
    "label 1.0": (edit("train.csv", "3.png,1", "3.png,1.0"), f"train.csv, line 7: Label is '1.0', {ONE_OF}"),
    "label abc": (edit("train.csv", "3.png,1", "3.png,abc"), f"train.csv, line 7: Label is 'abc', {ONE_OF}"),
    "label with a space": (edit("train.csv", "3.png,1", "3.png, 1"), f"train.csv, line 7: Label is ' 1', {ONE_OF}"),
    "label in other digits": (
        edit("train.csv", "3.png,1", "3.png,١"),
        f"train.csv, line 7: Label is '\\u0661', {ONE_OF}",
    ),
    "endless label": (
        edit("train.csv", "3.png,1", "3.png," + 100 * "1"),
        f"train.csv, line 7: Label is '{57 * '1'}...', {ONE_OF}",
    ),
    "label with a line break": (
        edit("train.csv", "3.png,1", '3.png,"1\n"'),
        "train.csv, line 8: Label is '1\\n', expected plain text: correct it",
    ),
    "no label": (
        edit("train.csv", "3.png,1", "3.png,"),
        "train.csv, line 7: Label is '', expected plain text: correct it",
    ),
    "no name": (
        edit("train.csv", "3.png,1", ",1"),
        "train.csv, line 7: Filename is '', expected plain text: correct it",
    ),
    "NUL": (
        edit("example.csv", "11.png", "11\0.png"),
        "example.csv, line 3: Filename is '11\\x00.png', expected plain text: correct it",
    ),
    "class without a crop": (
        write("train.csv", TRAIN_CSV.replace(",2", ",3")),
        f"train.csv: no crop of label 2 (muscle): {ALL_FOUR}",
    ),
    "column missing": (
        edit("train.csv", "Label", "Class"),
        "train.csv: no column Label; expected the header Filename,Label, found 'Filename,Class'",
    ),
    "column in another case": (
        edit("example.csv", "Filename", "filename"),
        "example.csv: no column Filename; expected the header Filename, found 'filename,Label'",
    ),
    "no header": (
        edit("train.csv", "Filename,Label\n", ""),
        "train.csv: no column Filename; expected the header Filename,Label, found '5.png,0'",
    ),
    "column twice": (
        write("train.csv", TRAIN_CSV.replace("\n", ",0\n").replace("Label,0", "Label,Label")),
        "train.csv: the column Label occurs 2 times: keep one",
    ),
    "semicolons": (
        write("train.csv", TRAIN_CSV.replace(",", ";")),
        "train.csv: no column Filename; expected the header Filename,Label, found 'Filename;Label'",
    ),
    "a value too many": (
        edit("train.csv", "3.png,1", "3.png,1,1"),
        "train.csv, line 7: 3 values, expected 2 as in the header",
    ),
    "a value too few": (
        edit("train.csv", "3.png,1", "3.png"),
        "train.csv, line 7: 1 values, expected 2 as in the header",
    ),
    "UTF-16": (write("train.csv", TRAIN_CSV.encode("utf-16")), "train.csv: not UTF-8 at byte 0: save it as UTF-8"),
    "UTF-16 without its mark": (
        write("train.csv", "Filename,Label".encode("utf-16-le")),
        "train.csv: no column Filename; expected the header Filename,Label, found "
        + ascii("Filename,Label".encode("utf-16-le").decode()),
    ),
    "Latin-1": (
        write("train.csv", (TRAIN_CSV + "é").encode("latin-1")),
        f"train.csv: not UTF-8 at byte {len(TRAIN_CSV)}: save it as UTF-8",
    ),
    "no rows": (write("train.csv", "Filename,Label\n\n"), "train.csv: no rows below the header: add one for each crop"),
    "quote left open": (
        edit("train.csv", "3.png", '"3.png'),
        "train.csv, line 9: not valid CSV (unexpected end of data): check the quotes",
    ),
    "text behind a quote": (
        edit("train.csv", "3.png", '"3".png'),
        "train.csv, line 7: not valid CSV (',' expected after '\"'): check the quotes",
    ),
    "endless field": (
        edit("train.csv", "3.png", 200_000 * "3"),
        "train.csv, line 7: not valid CSV (field larger than field limit (131072)): check the quotes",
    ),
    "endless table": (
        lambda raw: (raw / "train.csv").open("r+b").truncate(2**24 + 1),
        "train.csv: larger than 16 MiB: a table of crops is expected there",
    ),
    "groups in two places": (
        both(write("train.csv", TRAIN_CSV.replace("\n", ",a\n").replace("Label,a", "Label,Group")), groups(GROUPS)),
        "groups.csv: train.csv has a column Group already: remove one of the two",
    ),
    "crop without group": (
        groups(GROUPS.replace("3.png,g0\n", "")),
        "groups.csv: no row for '3.png' of train.csv: add it",
    ),
    "crops without groups": (groups("5.png,a\n"), "groups.csv: no row for '2.png' of train.csv (and 6 more): add it"),
    "empty group": (
        groups(GROUPS.replace("3.png,g0", "3.png, ", 1)),
        "groups.csv, line 4: Group is ' ', expected plain text: correct it",
    ),
    "empty group in train.csv": (
        write("train.csv", TRAIN_CSV.replace("\n", ",\n").replace("Label,", "Label,Group")),
        "train.csv, line 2: Group is '', expected plain text: correct it",
    ),
    "groups.csv a folder": (
        lambda raw: (raw / "groups.csv").mkdir(),
        "groups.csv: cannot be read (Is a directory): put a table with Filename,Group there",
    ),
    "groups without a header": (
        write("groups.csv", GROUPS),
        "groups.csv: no column Filename; expected the header Filename,Group, found '1.png,g1'",
    ),
}


@cases(BAD_TABLES)
def test_bad_tables_are_refused_in_one_line_that_says_what_to_do(case, raw, out):
    change, message = case
    change(raw)
    assert complaint(raw, out) == message


def test_groups_are_kept_whichever_file_has_them(raw, tmp_path):
    groups(GROUPS)(raw)
    unpack(raw, tmp_path / "beside", 3)
    (raw / "groups.csv").unlink()
    rows = zip(TRAIN, LABELS, strict=True)
    table = "Filename,Label,Group\n" + "".join(f"{number}.png,{label},g{number % 3}\n" for number, label in rows)
    write("train.csv", table)(raw)
    unpack(raw, tmp_path / "within", 3)
    assert (tmp_path / "beside" / "train.csv").read_text() == table
    assert (tmp_path / "within" / "train.csv").read_text() == table
