"""Labels that were corrected by people, written into a copy of the competition's files, with a record."""

import csv
import hashlib
import io
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from nuclei.data.geojson import read_nuclei, require_unpacked
from nuclei.data.groups import find_groups_file
from nuclei.data.positions import GEOJSON, SEPARATORS
from nuclei.data.tables import LARGEST_TABLE, read_table, read_training_table
from nuclei.data.to_correct import OBJECT
from nuclei.errors import InputError, and_others, show
from nuclei.files import atomic_directory, require_file
from nuclei.task import CLASSES

FILES = ("train.zip", "test.zip", "example.csv")  # copied as they are, as are groups.csv and positions.csv
RECORD = ("Filename", "Before", "After", "File", "SHA256")  # of corrections.csv


class Answer(NamedTuple):
    """What somebody says of a crop.

    Attributes:
        where: File and line or object, for messages.
        filename: Of the crop.
        label: Its label when it was handed to them.
        corrected: The name of its class, "" where they leave it as it is.
        file: The file that holds the answer.
    """

    where: str
    filename: str
    label: str
    corrected: str
    file: Path


def relabel(raw: Path, corrected: Sequence[Path], out: Path, classes: Sequence[str] | None = None) -> pd.DataFrame:
    """Copy the files of a data set, with corrected labels in train.csv, and a record of all that was ever corrected.

    Args:
        raw: Folder with train.csv, train.zip, test.zip, example.csv; nothing in it changes.
        corrected: Files that `nuclei.data.to_correct` wrote: tables with answers in the column Corrected (no answer,
            no change), GeoJSON with corrected classifications.
        out: New folder; not written where no label changes. Its corrections.csv has those of `raw` and, below them,
            Filename, Before, After, File and SHA256 (the source) of each label that changed.
        classes: Names by label; None: train.csv has names, or the numbers of the competition's classes.

    Returns:
        The labels that changed: the columns of the record.

    Raises:
        InputError: An answer is about no crop of `raw`, names no class, was made of another label than train.csv has,
            or contradicts another one; nothing is written.
    """
    path = raw / "train.csv"
    if classes is None and read_table(path, ("Filename", "Label"))["Label"].str.isdecimal().all():
        classes = CLASSES
    training = read_training_table(raw, classes)
    names = training.classes
    numbers = training.rows.set_index("Filename")["Label"].astype(int)
    labels = {filename: names[number] for filename, number in numbers.items()}
    earlier = _read_record(raw / "corrections.csv")
    past = {(row["Filename"], (row["Before"] or "").casefold()) for row in csv.DictReader(io.StringIO(earlier))}
    answers = _check([answer for file in corrected for answer in _read(file)], labels, names, path, past)
    digests = {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in corrected}
    rows = [
        (filename, labels[filename], answer.corrected, answer.file.name, digests[answer.file])
        for filename, answer in answers.items()
        if answer.corrected != labels[filename]
    ]
    changes = pd.DataFrame(rows, columns=pd.Index(RECORD))
    if not rows:
        return changes
    after = dict(zip(changes["Filename"], changes["After"], strict=True))
    lost = [name for name in names if name not in (labels | after).values()]
    if lost:
        raise InputError(f"{path}: no crop of class {lost[0]} would be left{and_others(lost)}: each needs some")
    with atomic_directory(out) as folder:
        for file in [*(raw / name for name in FILES), find_groups_file(raw), raw / "positions.csv"]:
            if file and (file.exists() or file.name in FILES):
                _copy(file, folder / file.name)
        (folder / "train.csv").write_text(_rewritten(path, after, names), encoding="utf-8", newline="")
        record = changes.to_csv(index=False, header=not earlier, lineterminator="\n")
        (folder / "corrections.csv").write_text(earlier + record, encoding="utf-8", newline="")
    return changes


def _read(path: Path) -> Iterator[Answer]:
    """Yield the answers in a file. Raises InputError where it has none that could be one."""
    return _read_geojson(path) if path.suffix.lower() in GEOJSON else _read_csv(path)


def _read_geojson(path: Path) -> Iterator[Answer]:
    others = True
    for nucleus in read_nuclei(path):
        name = str((nucleus.feature.get("properties") or {}).get("name"))
        match = OBJECT.fullmatch(name)
        if match:  # else an object of the user's
            others = False
            where = f"{path}, object {show(name)}"
            if not nucleus.label:
                raise InputError(f"{where}: no classification: give it one, or delete the object")
            yield Answer(where, match[1], match[2], nucleus.label, path)
    if others:
        raise InputError(f"{path}: no object of to_correct_IMAGE.geojson in it: export these, with their names")


def _read_csv(path: Path) -> Iterator[Answer]:
    expected = "a table with Filename, Label and Corrected"
    try:
        require_file(path)
        require_unpacked(path)
        if path.stat().st_size > LARGEST_TABLE:
            raise InputError(f"{path}: larger than {LARGEST_TABLE // 2**20} MiB: expected {expected}")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}): expected {expected}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}: save it as CSV UTF-8") from None
    first = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text), delimiter=max(SEPARATORS, key=first.count), strict=True)
    try:
        header = next(reader, [])
        for name in ("Filename", "Label", "Corrected"):
            if header.count(name) != 1:
                raise InputError(f"{path}: expected one column {name}, found {show(','.join(header))}")
        columns = [header.index(name) for name in ("Filename", "Label", "Corrected")]
        answers = 0
        for values in reader:
            if len(values) != len(header) and values:
                raise InputError(
                    f"{path}, line {reader.line_num}: {len(values)} values, expected {len(header)} as in the header"
                )
            if values:
                filename, label, corrected = (values[column].strip() for column in columns)
                answers += bool(corrected)
                yield Answer(f"{path}, line {reader.line_num}", filename, label, corrected, path)
        if not answers:
            raise InputError(f"{path}: no answer in its column Corrected: write the right classes there")
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: not valid CSV ({error}): check the quotes") from None


def _check(
    answers: Sequence[Answer], labels: Mapping[str, str], names: Sequence[str], table: Path, past: set[tuple[str, str]]
) -> dict[str, Answer]:
    """Return the answer about each crop, classes in one spelling. Raises InputError at the first that is in doubt.

    past: crops and labels, in lower case, that they had before earlier corrections
    """
    spellings = {name.casefold(): name for name in names}
    by_filename: dict[str, Answer] = {}
    for answer in answers:
        if not answer.corrected:
            now, label = labels.get(answer.filename, answer.label), answer.label.casefold()
            if now.casefold() != label and (answer.filename, label) not in past:
                raise InputError(
                    f"{answer.where}: Label is {show(answer.label)}, {now} in {table}: write answers into Corrected"
                )
            continue
        if answer.filename not in labels:
            raise InputError(f"{answer.where}: {table} has no crop {show(answer.filename)}: is it of another data set?")
        name = spellings.get(answer.corrected.casefold())
        if name is None:
            near = get_close_matches(answer.corrected, names, n=1)
            raise InputError(
                f"{answer.where}: {show(answer.corrected)} is no class, expected one of {', '.join(names)}"
                f"{f' (did you mean {near[0]}?)' if near else ''}"
            )
        now = labels[answer.filename]
        if now not in (name, spellings.get(answer.label.casefold())):
            raise InputError(
                f"{answer.where}: the label of {answer.filename} was {show(answer.label)}, and is {now} in {table}: "
                "run the stage review again, and correct what it writes then"
            )
        other = by_filename.setdefault(answer.filename, answer._replace(corrected=name))
        if other.corrected != name:
            raise InputError(f"{answer.where}: {name}, but {other.corrected} in {other.where}: keep one answer")
    return by_filename


def _read_record(path: Path) -> str:
    """Return the text of an earlier record, "" where there is none."""
    if not path.exists():
        return ""
    try:
        require_file(path)
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        text = ""
    if not text.startswith(",".join(RECORD) + "\n"):
        raise InputError(f"{path}: not a record of corrections ({','.join(RECORD)}): move it elsewhere")
    return text if text.endswith("\n") else f"{text}\n"


def _copy(file: Path, target: Path) -> None:
    try:
        require_file(file)
        shutil.copyfile(file, target)
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(f"{file}: no such file: put it there, it is one of the four") from None


def _rewritten(path: Path, labels: Mapping[str, str], names: Sequence[str]) -> str:
    """Return train.csv with other labels for some files, numbers where it has numbers; all else in it stays."""
    rows = [row for row in csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig")), strict=True) if row]
    filename, label = (rows[0].index(name) for name in ("Filename", "Label"))
    for row in rows[1:]:
        if row[filename] in labels:
            name = labels[row[filename]]
            row[label] = str(names.index(name)) if row[label].isdecimal() else name
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def count_changes(changes: pd.DataFrame) -> str:
    """Say how many labels of each class became which: "3 muscle to immune leukocyte, ..."."""
    counts = Counter(zip(changes["Before"], changes["After"], strict=True))
    return ", ".join(f"{count:,} {before} to {after}" for (before, after), count in counts.most_common())
