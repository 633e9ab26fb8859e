"""Tables in other encodings and dialects, of other sizes, with numbers that only look like labels."""

import os
import zlib
from pathlib import Path

from hostile.outcomes import Accepted, Cases, Refused
from raw_files import EXAMPLE_CSV, GROUPS, TRAIN_CSV, Change, edit, groups, write

HEADER, ROWS = TRAIN_CSV.split("\n", 1)
NOT_UTF8 = Refused("train.csv: not UTF-8 at byte ")
NO_COLUMN = Refused("train.csv: no column Filename; expected the header Filename,Label, found ")
ONE_OF = "expected one of 0, 1, 2, 3"
DIALECT = Accepted("other programs write tables so, and it says the same")


def text(content: str, encoding: str = "utf-8") -> Change:
    return write("train.csv", content.encode(encoding))


def large(start: str, middle: str, times: int, end: str = "") -> Change:
    return lambda raw: (raw / "train.csv").write_text(start + middle * times + end)


def row(line: str) -> Change:
    """Put `line` in the place of 3.png,1."""
    return edit("train.csv", "3.png,1\n", f"{line}\n")


def label(value: str) -> Change:
    return row(f"3.png,{value}")


def no_label(value: str) -> tuple[Change, Refused]:
    return label(value), Refused(f"train.csv, line 7: Label is {value.strip(chr(34))!a}, {ONE_OF}")


def wide(columns: int) -> Change:
    """Add columns without names or values."""
    return text("".join(line + "," * columns + "\n" for line in TRAIN_CSV.splitlines()))


def named(table: str, columns: int) -> str:
    """Add columns with names, each another."""
    header, *lines = table.splitlines()
    more = "".join(f",feature_{number:x}" for number in range(columns))
    return "".join(f"{line}\n" for line in (header + more, *(line + "," * columns for line in lines)))


def rows(count: int, line: str = "{}") -> Change:
    return lambda raw: (raw / "train.csv").write_text(
        f"{HEADER}\n" + "".join(f"{line.format(number)},0\n" for number in range(count))
    )


def replaced(name: str, make) -> Change:
    return lambda raw: [(raw / name).unlink(missing_ok=True), make(raw / name)]


def mixed_line_ends(raw: Path) -> None:
    first, second, *rest = TRAIN_CSV.splitlines()
    (raw / "train.csv").write_bytes(f"{first}\r\n{second}\r".encode() + "\n".join(rest).encode())


TABLES: Cases = {
    # labels that are none
    "1e0": no_label("1e0"),
    "+1": no_label("+1"),
    "01": no_label("01"),
    "1_0": no_label("1_0"),
    "0x1": no_label("0x1"),
    "NaN": no_label("NaN"),
    "inf": no_label("inf"),
    "None": no_label("None"),
    "TRUE": no_label("TRUE"),
    "1.5": no_label("1.5"),
    "1,0 in quotes": no_label('"1,0"'),
    "a minus that is none": no_label("\u22121"),
    "full-width digit": no_label("\uff11"),
    "superscript digit": no_label("\u00b9"),
    "a digit and a zero-width space": no_label("1\u200b"),
    "a digit and a no-break space": no_label("1\u00a0"),
    "a label of 100,000 digits": (label("1" * 100_000), Refused("train.csv, line 7: Label is '" + "1" * 57 + "...'")),
    "a name for a label": (label("Cancer epithelial"), Accepted("names of classes are labels")),
    "a name of no class": no_label("muscles"),
    # sizes
    "10 million rows": (
        large(HEADER + "\n", "1.png,0\n", 10_000_000),
        Refused("train.csv: larger than 16 MiB: a table of crops is expected there"),
    ),
    "a row too many": (rows(2**20 + 1), Refused("train.csv: more than 1,048,576 rows: hand in fewer crops at a time")),
    "300,000 rows of one class": (
        rows(300_000, "{}.png"),
        Refused("train.csv: no crop of label 1 (cancer epithelial)"),
    ),
    "8 million rows of nothing": (
        large(HEADER + "\n", "\n", 2**23, ROWS),
        Accepted("blank lines don't count"),
    ),
    "a row of 16 million values": (
        large(HEADER + "\n", ",", 16_000_000),
        Refused("train.csv, line 2: 16000001 values, expected 2 as in the header"),
    ),
    "a header of 16 million columns": (large("", ",", 16_000_000), NO_COLUMN),
    "100,000 more columns": (wide(100_000), Accepted("columns that nobody asked for are left out")),
    "5,000 more columns with names": (
        text(named(TRAIN_CSV, 5_000)),
        Accepted("columns that nobody asked for are left out"),
    ),
    "100,000 more columns with names": (
        text(named(TRAIN_CSV, 100_000)),
        Refused("train.csv: more than 10,000 columns: leave out those that nobody asked for"),
    ),
    "a header of 2.7 million names": (large("", "Label,", 2_700_000), NO_COLUMN),
    "a field of 100,000 letters that nobody asked for": (
        text(TRAIN_CSV.replace("\n", "," + "x" * 100_000 + "\n")),
        Accepted("columns that nobody asked for are left out"),
    ),
    "control characters that nobody asked for": (
        text(TRAIN_CSV.replace("\n", ",\x1b[2J\0\n")),
        Accepted("columns that nobody asked for are left out"),
    ),
    # encodings
    "UTF-16 of the other order": (text("\ufeff" + TRAIN_CSV, "utf-16-be"), NOT_UTF8),
    "UTF-32": (text(TRAIN_CSV, "utf-32"), NOT_UTF8),
    "GBK": (text(TRAIN_CSV + "核", "gbk"), NOT_UTF8),
    "UTF-8 in more bytes than needed": (write("train.csv", TRAIN_CSV.encode() + b"\xc0\xaf"), NOT_UTF8),
    "half a character": (write("train.csv", TRAIN_CSV.encode() + "\ud800".encode("utf-8", "surrogatepass")), NOT_UTF8),
    "two byte order marks": (text("\ufeff\ufeff" + TRAIN_CSV), NO_COLUMN),
    "gzip": (write("train.csv", zlib.compress(TRAIN_CSV.encode(), wbits=31)), NOT_UTF8),
    "a workbook": (write("train.csv", b"PK\3\4" + bytes(100)), NO_COLUMN),
    "a page that asks to log in": (text("<!doctype html><title>Log in</title>"), NO_COLUMN),
    "JSON": (text('[{"Filename": "3.png", "Label": 1}]'), NO_COLUMN),
    "nothing but NUL": (write("train.csv", bytes(10_000)), NO_COLUMN),
    # dialects
    "CR alone": (text(TRAIN_CSV.replace("\n", "\r")), DIALECT),
    "line ends of all kinds": (mixed_line_ends, DIALECT),
    "everything in quotes": (
        text("".join(f'"{line.replace(",", chr(34) + "," + chr(34))}"\n' for line in TRAIN_CSV.splitlines())),
        DIALECT,
    ),
    "a comma at the end of each line": (text(TRAIN_CSV.replace("\n", ",\n")), DIALECT),
    "tabs": (text(TRAIN_CSV.replace(",", "\t")), NO_COLUMN),
    "a space behind each comma": (text(TRAIN_CSV.replace(",", ", ")), Refused("train.csv: no column Label; expected")),
    "a header in capitals": (text(TRAIN_CSV.replace("Filename", "FILENAME")), NO_COLUMN),
    "a comment above": (text("# by hand\n" + TRAIN_CSV), NO_COLUMN),
    "a hint for spreadsheets above": (text("sep=,\n" + TRAIN_CSV), NO_COLUMN),
    "the header a second time": (row(f"3.png,1\n{HEADER}"), Refused(f"line 8: Label is 'Label', {ONE_OF}")),
    "single quotes": (row("'3.png',1"), Refused("train.csv, line 7: \"'3.png'\" is not in ")),
    "quotes twice": (row('"""3.png""",1'), Refused("train.csv, line 7: '\"3.png\"' is not in ")),
    "a quote in the middle": (row('3".png,1'), Refused("train.csv, line 7: '3\".png' is not in ")),
    "a quote that takes in the rest": (edit("train.csv", "2.png", '"2.png'), Refused("not valid CSV (unexpected end")),
    "a backslash": (row("3\\.png,1"), Refused("train.csv, line 7: '3\\\\.png' is not in ")),
    # names
    "a name with a line break": (row('"3\n.png",1'), Refused("line 8: Filename is '3\\n.png', expected plain text")),
    "a name with a next-line character": (row("3\x85.png,1"), Refused("Filename is '3\\x85.png', expected plain")),
    "a name with a line separator": (row("3\u2028.png,1"), Refused("'3\\u2028.png' is not in ")),
    "a name with a terminal code": (row("\x1b]0;x\x07.png,1"), Refused("Filename is '\\x1b]0;x\\x07.png', expected")),
    "a name of another folder": (row("../../../etc/passwd,1"), Refused("'../../../etc/passwd' is not in ")),
    "an absolute name": (row("/etc/passwd,1"), Refused("'/etc/passwd' is not in ")),
    "an address": (row("https://example.org/3.png,1"), Refused("'https://example.org/3.png' is not in ")),
    "a name with a space before it": (row(" 3.png,1"), Refused("' 3.png' is not in ")),
    "a number without .png": (row("3,1"), Refused("'3' is not in ")),
    # the other tables
    "example.csv with labels that are none": (
        write("example.csv", EXAMPLE_CSV.replace(",0", ",x")),
        Accepted("its labels stand for nothing"),
    ),
    "example.csv with a training crop": (
        edit("example.csv", "11.png", "3.png"),
        Refused("example.csv, line 3: '3.png' is not in "),
    ),
    "groups that look like numbers": (
        groups(GROUPS.replace("g0", "1.0").replace("g1", "1e0").replace("g2", "NaN")),
        Accepted("groups are text: equal or not"),
    ),
    "groups in two scripts": (
        groups(GROUPS.replace("g0", "患者").replace("g1", "пациент")),
        Accepted("groups are text"),
    ),
    "a row twice in groups.csv": (
        groups(GROUPS + "3.png,g1\n"),
        Refused("groups.csv, line 14: '3.png' occurs a second time: keep one row"),
    ),
    "a group of 300 letters": (
        groups(GROUPS.replace("g0", "x" * 300)),
        Refused("groups.csv, line 4: Group is '" + "x" * 57 + "...', 300 characters, expected at most 255: shorten it"),
    ),
    "a group with a control character": (
        groups(GROUPS.replace("g0", "\b")),
        Refused("Group is '\\x08', expected plain"),
    ),
    "groups.csv empty": (write("groups.csv", ""), Refused("groups.csv: no column Filename; expected the header ")),
    "groups.csv for the test alone": (
        groups("11.png,a\n"),
        Refused("groups.csv: no row for '5.png' of train.csv (and 7"),
    ),
    "groups.csv with more columns": (
        lambda raw: write("groups.csv", "Age,Filename,Group\n" + "".join(f"?,{line}\n" for line in GROUPS.split()))(
            raw
        ),
        Accepted("columns that nobody asked for are left out"),
    ),
    "groups.csv a link to nothing": (
        replaced("groups.csv", lambda path: path.symlink_to("nowhere")),
        Refused("groups.csv: cannot be read (No such file or directory): put a table with Filename,Group there"),
    ),
    # no plain files
    "a link to a table": (
        lambda raw: [(raw / "train.csv").rename(raw.parent / "a.csv"), (raw / "train.csv").symlink_to("../a.csv")],
        Accepted("data may lie elsewhere"),
    ),
    "a pipe": (replaced("train.csv", os.mkfifo), Refused("train.csv: cannot be read (Not a plain file): put a table")),
    "a device": (
        replaced("example.csv", lambda path: path.symlink_to("/dev/zero")),
        Refused("example.csv: cannot be read (Not a plain file): put a table with Filename there"),
    ),
    "a link to itself": (
        replaced("train.csv", lambda path: path.symlink_to(path.name)),
        Refused("train.csv: cannot be read (Too many levels of symbolic links): put a table"),
    ),
}
