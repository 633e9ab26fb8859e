"""Groups as people write them: spellings of the same patient or slide, and the columns and files that name them."""

import difflib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

from nuclei.errors import InputError

UNITS = (  # what crops of one group come from
    *("patient", "pat", "subject", "case", "donor", "person", "participant", "individual", "mrn", "accession"),
    *("slide", "wsi", "scan", "image", "picture", "tile", "roi", "fov", "region"),
    *("specimen", "sample", "biopsy", "block", "core", "section"),
)
SUFFIXES = ("", "id", "ids", "uid", "no", "nr", "num", "number", "name", "code", "key", "barcode", "label", "index")
TABLES = (".csv", ".tsv", ".txt", ".xls", ".xlsx", ".ods")


def normalise_groups(values: Sequence[str]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Give every spelling of a group the same text.

    The same are: Unicode forms (NFKC), upper and lower case, kinds of dashes, white space wherever it is (between two
    digits it separates, as in "1 2"), characters without width, and numbers with leading zeros, nothing but zeros
    behind the point, an exponent or separated thousands (7, 07, 7.0, 7e0; 1,234). "1.1" and "1.10" are two groups. Two
    groups joined by mistake cost a little data; a group torn apart puts a patient into two folds.

    Args:
        values: N groups as written.

    Returns:
        The N groups, each in the most frequent of its spellings (the first of equally frequent ones), white space
        tidied; and for every group with several spellings that one and the others as written, in order of appearance.
        A value without visible characters becomes "".
    """
    keys = {value: _key(value) for value in dict.fromkeys(values)}
    spellings: dict[str, Counter[str]] = defaultdict(Counter)
    for value in values:
        spellings[keys[value]][value] += 1
    canonical = {key: counter.most_common(1)[0][0] for key, counter in spellings.items()}
    joined = [
        (_tidy(canonical[key]), [spelling for spelling in counter if spelling != canonical[key]])
        for key, counter in spellings.items()
        if len(counter) > 1
    ]
    return [_tidy(canonical[keys[value]]) for value in values], joined


def find_group_column(header: Sequence[str], table: str = "train.csv") -> str | None:
    """Return the column called Group or Groups, in any case and with any spaces, as it is written; None without one.

    Raises:
        InputError: several columns of `table` are called so.
    """
    named = [column for column in header if _key(column) in ("group", "groups")]
    if len(named) > 1:
        raise InputError(f"{table}: the columns {_listed(named)} all name the group: keep one")
    return named[0] if named else None


def suspicious_columns(header: Sequence[str]) -> list[str]:
    """Return the columns that may well tell the group under another name: Patient, slide_id, WSI, GroupID, Gruop."""
    return [column for column in header if _is_suspicious(column)]


def find_groups_file(folder: Path) -> Path | None:
    """Return groups.csv of `folder`, also as Groups.csv, group.csv or groups.CSV; None without one.

    Raises:
        InputError: the folder has several of them.
    """
    names = _names(folder)
    named = [name for name in names if _key(name) in ("group.csv", "groups.csv")]
    if len(named) > 1:
        raise InputError(f"{folder}: {_listed(named)} all name the groups: keep one, as groups.csv")
    return folder / named[0] if named else None


def suspicious_files(folder: Path) -> list[str]:
    """Return the tables in `folder` that may well tell the groups under another name: groups.xlsx, patients.csv."""
    suspicious = []
    for name in _names(folder):
        stem, *endings = _key(name).split(".")
        tabular = bool(endings) and f".{endings[-1]}" in TABLES
        if tabular and (endings != ["csv"] or stem not in ("group", "groups")) and _is_suspicious(stem, plain=True):
            suspicious.append(name)
    return suspicious


def _key(value: str) -> str:
    """Return what all spellings of a group have in common."""
    text = _visible(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", value).casefold()))
    text = text.replace("i\N{COMBINING DOT ABOVE}", "i").replace("\N{LATIN SMALL LETTER DOTLESS I}", "i")  # Turkish
    text = "".join(_plain(letter) for letter in text).strip()
    text = re.sub(r"(?<=\d)\s+(?=\d)", " ", text)
    text = re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", text)
    if re.fullmatch(r"[+-]?\d{1,3}([,'\u2019 ]\d{3})+([.]0*)?", text):
        text = re.sub(r"[,'\u2019 ]", "", text)
    if re.fullmatch(r"[+-]?\d{1,20}([.,]\d{0,20})?e[+]?\d{1,2}", text):
        text = f"{Decimal(text.replace(',', '.')):f}"
    text = re.sub(r"\A([+-]?\d+)[.,]0*\Z", r"\1", text)
    return re.sub(r"(?<![\d.,])0+(?=\d)", "", text)


def _plain(letter: str) -> str:
    """Return the hyphen for any dash, and the ASCII digit for one of any script."""
    if unicodedata.category(letter) == "Pd" or letter == "\N{MINUS SIGN}":
        return "-"
    return str(unicodedata.decimal(letter)) if letter.isdecimal() else letter


def _visible(text: str) -> str:
    """Remove what has no width: format characters such as zero width spaces and byte order marks."""
    return "".join(letter for letter in text if unicodedata.category(letter) != "Cf")


def _tidy(text: str) -> str:
    return " ".join(_visible(text).split())


def _is_suspicious(name: str, plain: bool = False) -> bool:
    """Tell whether a name is near Group or names a unit; `plain`: Group itself counts, too."""
    words = [word.casefold() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+", _visible(name))]
    squeezed = "".join(letter for letter in _key(name) if letter.isalnum())
    if squeezed in ("group", "groups"):
        return plain or _key(name) not in ("group", "groups")
    if {"group", "groups", "grp", "gruppe", "grupo", "groupe", "gruppo"} & {*words, squeezed}:
        return True
    if difflib.get_close_matches(squeezed, ["group", "groups"], cutoff=0.8):
        return True
    singular = {word.removesuffix("s") for word in words} | {*words}
    endings = {ending for unit in UNITS for ending in (unit + suffix for suffix in ("s", *SUFFIXES))}
    return bool(singular & set(UNITS)) or squeezed in endings


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def _listed(names: Sequence[str]) -> str:
    return " and ".join(repr(name) for name in names)
