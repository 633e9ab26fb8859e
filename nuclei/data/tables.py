"""The competition's tables, checked: train.csv, example.csv, groups.csv."""

import csv
import io
import re
from itertools import islice
from pathlib import Path

import pandas as pd

from nuclei.errors import InputError, and_others, show
from nuclei.files import require_file
from nuclei.task import CLASSES

MOST_CROPS = 2**20  # a part
LARGEST_TABLE = 2**24  # bytes: as many rows
LONGEST_NAME = 255  # characters, as on a disk: names end up in titles and tables
CONTROL = r"\x00-\x1f\x7f-\x9f"  # characters, for a regular expression


def read_training_table(raw: Path) -> pd.DataFrame:
    """Return Filename, Label and, where given, Group."""
    path = raw / "train.csv"
    table = read_table(path, ("Filename", "Label"), optional=("Group",))
    allowed = [str(label) for label in range(len(CLASSES))]
    for line, label in table["Label"].items():
        if label not in allowed:
            raise InputError(f"{path}, line {line}: Label is {show(label)}, expected one of {', '.join(allowed)}")
    for label, name in zip(allowed, CLASSES, strict=True):
        if not (table["Label"] == label).any():
            raise InputError(
                f"{path}: no crop of label {label} ({name}): add some, all of {', '.join(allowed)} are needed"
            )
    extra = raw / "groups.csv"
    if extra.exists() or extra.is_symlink():  # a dead link is no table to pass over
        if "Group" in table:
            raise InputError(f"{extra}: {path.name} has a column Group already: remove one of the two")
        groups = read_table(extra, ("Filename", "Group")).set_index("Filename")["Group"]
        missing = table[~table["Filename"].isin(groups.index)]
        if len(missing):
            raise InputError(
                f"{extra}: no row for {show(missing['Filename'].iloc[0])} of {path.name}{and_others(missing)}: add it"
            )
        table["Group"] = table["Filename"].map(groups)
    return table


def read_table(path: Path, columns: tuple[str, ...], optional: tuple[str, ...] = ()) -> pd.DataFrame:
    """Return `columns` and those of `optional` that are there, all as text; the index is the line in the file."""
    expected = ",".join(columns)
    try:
        require_file(path)
        if path.stat().st_size > LARGEST_TABLE:
            raise InputError(f"{path}: larger than {LARGEST_TABLE // 2**20} MiB: a table of crops is expected there")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}): put a table with {expected} there") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}: save it as UTF-8") from None
    reader = csv.reader(io.StringIO(text), strict=True)
    try:
        lines = ((reader.line_num, values) for values in reader if values)
        (_, header), *rows = list(islice(lines, MOST_CROPS + 2)) or [(1, [])]
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: not valid CSV ({error}): check the quotes") from None
    for name in columns:
        if name not in header:
            raise InputError(
                f"{path}: no column {name}; expected the header {expected}, found {show(','.join(header))}"
            )
    wanted = [name for name in columns + optional if name in header]
    for name in wanted:
        if header.count(name) > 1:
            raise InputError(f"{path}: the column {name} occurs {header.count(name)} times: keep one")
    if not rows:
        raise InputError(f"{path}: no rows below the header: add one for each crop")
    if len(rows) > MOST_CROPS:
        raise InputError(f"{path}: more than {MOST_CROPS:,} rows: hand in fewer crops at a time")
    for line, values in rows:
        if len(values) != len(header):
            raise InputError(f"{path}, line {line}: {len(values)} values, expected {len(header)} as in the header")
    places = [header.index(name) for name in wanted]
    values = [[values[place] for place in places] for _, values in rows]
    table = pd.DataFrame(values, index=[line for line, _ in rows], columns=pd.Index(wanted), dtype=object)
    for name in wanted:
        for line, value in table[name].items():
            if not value.strip() or re.search(f"[{CONTROL}]", value):
                raise InputError(f"{path}, line {line}: {name} is {show(value)}, expected plain text: correct it")
            if len(value) > LONGEST_NAME:
                raise InputError(
                    f"{path}, line {line}: {name} is {show(value)}, {len(value):,} characters, "
                    f"expected at most {LONGEST_NAME}: shorten it"
                )
    again = table[table["Filename"].duplicated()]
    if len(again):
        name = show(again["Filename"].iloc[0])
        raise InputError(f"{path}, line {again.index[0]}: {name} occurs a second time: keep one row")
    return table
