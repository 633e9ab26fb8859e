"""The competition's tables, checked: train.csv, example.csv, groups.csv."""

import csv
import io
import re
from collections.abc import Sequence
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from nuclei.data.groups import (
    find_group_column,
    find_groups_file,
    normalise_groups,
    suspicious_columns,
    suspicious_files,
)
from nuclei.errors import InputError, and_others, show
from nuclei.files import require_file
from nuclei.task import CLASSES, LONGEST_CLASS, MOST_CLASSES, is_class_name

MOST_CROPS = 2**20  # a part
MOST_COLUMNS = 10_000  # with different names: each may be the group's
LARGEST_TABLE = 2**24  # bytes: as many rows
LONGEST_NAME = 255  # characters, as on a disk: names end up in titles and tables
CONTROL = r"\x00-\x1f\x7f-\x9f"  # characters, for a regular expression


class TrainingTable(NamedTuple):
    """The labelled crops.

    Attributes:
        rows: Filename, Label (0..K-1) and, where they are given, Group, in one spelling each; the index is the line in
            the file. All of them text.
        classes: The K names.
        notes: What was read otherwise than it was written, or might have been meant, a line each.
    """

    rows: pd.DataFrame
    classes: tuple[str, ...]
    notes: list[str]


def read_training_table(raw: Path, classes: Sequence[str] | None = CLASSES) -> TrainingTable:
    """Read train.csv of the folder `raw`, and groups.csv beside it where there is one.

    Args:
        raw: The folder.
        classes: Names by label: a Label is a number or a name. None: Labels are names, numbered by the alphabet.

    Raises:
        InputError: Where a label is no class, a class has no crop, a crop no group, or a column looks like groups
            under another name: passed over, they would tear patients apart.
    """
    path = raw / "train.csv"
    table = read_table(path, ("Filename", "Label"), optional=("Group",))
    names = tuple(classes) if classes else _class_names(path, table["Label"])
    table["Label"] = _number_labels(path, table["Label"], names)
    extra = find_groups_file(raw)
    if extra:
        if "Group" in table:
            raise InputError(f"{extra}: {path.name} has a column Group already: remove one of the two")
        groups = read_table(extra, ("Filename", "Group")).set_index("Filename")["Group"]
        missing = table[~table["Filename"].isin(groups.index)]
        if len(missing):
            raise InputError(
                f"{extra}: no row for {show(missing['Filename'].iloc[0])} of {path.name}{and_others(missing)}: add it"
            )
        table["Group"] = table["Filename"].map(groups)
    if "Group" not in table:
        return TrainingTable(
            table, names, [f"{raw / name}: groups? Call it groups.csv" for name in suspicious_files(raw)]
        )
    table["Group"], joined = normalise_groups(table["Group"].tolist())
    notes = [
        f"{extra or path}: {', '.join(map(show, others))} taken for the same group as {show(group)}"
        for group, others in joined
    ]
    return TrainingTable(table, names, notes)


def _class_names(path: Path, labels: pd.Series) -> tuple[str, ...]:
    """Return the different names in a column of labels, by the alphabet. Raises InputError where they are no names."""
    names: dict[str, str] = {}
    for line, label in labels.items():
        name = label.strip()
        if not is_class_name(name):
            raise InputError(
                f"{path}, line {line}: Label is {show(label)}, expected the name of a class, without a semicolon and "
                f"of {LONGEST_CLASS} characters at most: set `classes` in params.yaml where labels are numbers"
            )
        names.setdefault(name.casefold(), name)
    if not 2 <= len(names) <= MOST_CLASSES:
        raise InputError(f"{path}: {len(names)} different labels, expected 2 to {MOST_CLASSES} classes: correct them")
    return tuple(names[key] for key in sorted(names))


def _number_labels(path: Path, labels: pd.Series, classes: tuple[str, ...]) -> pd.Series:
    """Turn labels, numbers or names, into the numbers of the classes, as text.

    Raises InputError where a label is neither, or a class has no crop.
    """
    numbers = [str(number) for number in range(len(classes))]
    by_name = {name.casefold(): number for number, name in zip(numbers, classes, strict=True)}
    numbered = []
    for line, label in labels.items():
        number = label if label in numbers else by_name.get(label.strip().casefold())
        if number is None:
            near = get_close_matches(label.strip(), classes, n=1)
            raise InputError(
                f"{path}, line {line}: Label is {show(label)}, expected one of {', '.join(numbers)}, or their names: "
                f"{', '.join(classes)}{f' (did you mean {near[0]}?)' if near else ''}"
            )
        numbered.append(number)
    for number, name in zip(numbers, classes, strict=True):
        if number not in numbered:
            raise InputError(
                f"{path}: no crop of label {number} ({name}): add some, all of {', '.join(numbers)} are needed, or "
                "take it out of `classes` in params.yaml"
            )
    return pd.Series(numbered, labels.index, dtype=object)


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
    if "Group" in columns + optional:
        header = _with_group(path, header)
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
    columns_read = [header.index(name) for name in wanted]
    cells = [[values[column] for column in columns_read] for _, values in rows]
    table = pd.DataFrame(cells, index=[line for line, _ in rows], columns=pd.Index(wanted), dtype=object)
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


def _with_group(path: Path, header: list[str]) -> list[str]:
    """Call the column of groups Group, however it is written."""
    names = list(dict.fromkeys(header))  # there may be millions of one name
    if len(names) > MOST_COLUMNS:
        raise InputError(f"{path}: more than {MOST_COLUMNS:,} columns: leave out those that nobody asked for")
    group = find_group_column(names, str(path))
    if group is not None:
        return ["Group" if name == group else name for name in header]
    suspicious = suspicious_columns([name for name in names if name not in ("Filename", "Label")])
    if suspicious:
        raise InputError(
            f"{path}: a column {show(suspicious[0])}: did you mean Group? Call it Group, so that its crops stay in one "
            "fold, or remove it"
        )
    return header
