"""Zips that lie, climb, hide, repeat or swell."""

import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from hostile.outcomes import Accepted, Cases, Refused
from raw_files import EXAMPLE_CSV, MEMBERS, PNGS, TRAIN_CSV, Change, both, edit, entry, members, renamed, special, write

STORED, DEFLATED = 0, 8
MEMBER = "train.zip, member 'train/3.png': "
NOT_WHOLE = Refused("train.zip: not a whole zip file: copy or download it again")
DAMAGED = Refused(f"{MEMBER}damaged: copy or download the zip again")
NO_CROP = Refused("train.csv, line 7: '3.png' is not in ")
SHARED = Refused("shares its bytes with ")
CENTRAL_COUNTS = Accepted("the list of members counts, and it is right")
NOT_EXTRACTED = Accepted("nothing is extracted: only a member's bytes are read")
ONLY_A_NAME = Accepted("a name is compared and shown, never run, opened or filled in")


class Entry:
    """A member to the byte. `local` and `central` override fields in its two headers."""

    def __init__(self, name: str | bytes, content: bytes, local: dict | None = None, central: dict | None = None):
        packer = zlib.compressobj(1, zlib.DEFLATED, -15)
        self.packed = packer.compress(content) + packer.flush()
        self.fields = {
            "version": 20,
            "flags": 0,
            "method": DEFLATED,
            "crc": zlib.crc32(content),
            "packed_size": len(self.packed),
            "size": len(content),
            "name": name.encode() if isinstance(name, str) else name,
            "extra": b"",
            "place": None,
        }
        self.local, self.central = self.fields | (local or {}), self.fields | (central or {})

    def head(self, fields: dict) -> bytes:
        return struct.pack(
            "<HHHIIIIHH",
            *(fields["version"], fields["flags"], fields["method"], 0x21 << 16, fields["crc"]),
            *(fields["packed_size"], fields["size"], len(fields["name"]), len(fields["extra"])),
        )

    def before(self) -> bytes:
        return b"PK\3\4" + self.head(self.local) + self.local["name"] + self.local["extra"]

    def listed(self, place: int) -> bytes:
        place = self.central["place"] if self.central["place"] is not None else place
        head = b"PK\1\2\x14\3" + self.head(self.central)
        return head + struct.pack("<HHHII", 0, 0, 0, 0, place) + self.central["name"] + self.central["extra"]


def end(count: int, size: int, place: int, comment: bytes = b"", disk: int = 0) -> bytes:
    return struct.pack("<4sHHHHIIH", b"PK\5\6", disk, 0, count, count, size, place, len(comment)) + comment


def pack(entries: list[Entry], comment: bytes = b"", more: int = 0, shift: int = 0, disk: int = 0) -> bytes:
    """Put a zip together; its end says `more` members than there are, and a list `shift` bytes further on."""
    content, listed = b"", b""
    for item in entries:
        listed += item.listed(len(content))
        content += item.before() + item.packed
    return content + listed + end(len(entries) + more, len(listed), len(content) + shift, comment, disk)


def crafted(local: dict | None = None, central: dict | None = None, also: list[Entry] | None = None, **options):
    """Write train.zip to the byte, with other fields in the headers of train/3.png."""

    def change(raw: Path) -> None:
        entries = [
            Entry(name, content, *([local, central] if name == "train/3.png" else []))
            for name, content in MEMBERS["train"].items()
        ]
        (raw / "train.zip").write_bytes(pack(entries + (also or []), **options))

    return change


def named(name: str, row: str | None = None) -> Change:
    """Call train/3.png otherwise, in the zip and in the table."""
    row = row or name.split("/")[-1]
    quoted = '"' + row.replace('"', '""') + '"'
    return both(renamed(name), edit("train.csv", "3.png", quoted))


def around(before: bytes = b"", behind: bytes = b"") -> Change:
    return lambda raw: (raw / "train.zip").write_bytes(before + (raw / "train.zip").read_bytes() + behind)


def streamed(raw: Path) -> None:
    """As a program writes that cannot go back: sizes come behind each member."""

    class OneWay:
        def __init__(self, path: Path):
            self.file = path.open("wb")
            self.write, self.flush = self.file.write, self.file.flush

    out = OneWay(raw / "train.zip")
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in MEMBERS["train"].items():
            archive.writestr(name, content)
    out.file.close()


def zip64(raw: Path) -> None:
    with zipfile.ZipFile(raw / "train.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in MEMBERS["train"].items():
            with archive.open(name, "w", force_zip64=True) as member:
                member.write(content)


def long_list(raw: Path) -> None:
    """A list of members of 70 MB, of which not one is read."""
    place, size = 100, 70_000_000
    with (raw / "train.zip").open("wb") as file:
        file.truncate(place + size)
        file.seek(place + size)
        file.write(end(1, size, place))


def quoting_bomb(raw: Path) -> None:
    """Each member holds, in a stored block, the headers of all that follow: 30 kernels from one (Fifield 2019)."""
    kernel = Entry("train/3.png", bytes(900_000))
    tail = kernel.before() + kernel.packed
    chain: list[tuple[Entry, int]] = [(kernel, len(tail))]
    content, packed = bytes(900_000), kernel.packed
    for number in range(30):
        head = tail[: len(tail) - len(packed)]
        content, packed = head + content, b"\0" + struct.pack("<HH", len(head), len(head) ^ 0xFFFF) + head + packed
        quoting = Entry(f"train/{100 + number}.png", content)
        fields = {"packed_size": len(packed)}
        quoting.local |= fields
        quoting.central |= fields
        tail = quoting.before() + packed
        chain.append((quoting, len(tail)))
    listed = b"".join(item.listed(len(tail) - from_end) for item, from_end in reversed(chain))
    (raw / "train.zip").write_bytes(tail + listed + end(len(chain), len(listed), len(tail)))


def many_members(raw: Path) -> None:
    listed = b"".join(Entry(f"{number}.png", b"").listed(0) for number in range(50_000))
    (raw / "train.zip").write_bytes(listed + end(50_000 & 0xFFFF, len(listed), 0))


def sparse(raw: Path) -> None:
    content = (raw / "train.zip").read_bytes()
    with (raw / "train.zip").open("r+b") as file:
        file.truncate(0)
        file.seek(8 * 2**30)
        file.write(content)


def replaced(make: Callable[[Path], object], name: str = "train.zip") -> Change:
    return lambda raw: [(raw / name).unlink(), make(raw / name)]


def linked(raw: Path) -> None:
    (raw / "train.zip").rename(raw.parent / "elsewhere.zip")
    (raw / "train.zip").symlink_to("../elsewhere.zip")


def zip64_extra(*values: int) -> bytes:
    return struct.pack(f"<HH{len(values)}Q", 1, 8 * len(values), *values)


BIG = 0xFFFFFFFF  # in a header: look in the zip64 field

ZIPS: Cases = {
    # names
    "the same member twice": (
        crafted(also=[Entry("train/3.png", PNGS[3])]),
        Refused(f"{MEMBER}there is another '3.png': keep one"),
    ),
    "the same member twice, the second a bomb": (
        crafted(also=[Entry("train/3.png", bytes(2**24))]),
        Refused(f"{MEMBER}16,777,216 bytes, more than a crop can have"),
    ),
    "a member without a name": (
        crafted(also=[Entry("", b"x")]),
        Accepted("what has no name can be no crop; as a folder, it is passed over"),
    ),
    "a member whose name is a slash": (renamed("/"), Refused("train.zip, member '/': expected a plain relative name")),
    "a member whose name is a dot": (renamed("."), NO_CROP),
    "a folder that holds bytes": (renamed("train/3.png/"), NO_CROP),
    "./ before a name": (renamed("./train/3.png"), Accepted("some tools write it; it stays in the folder")),
    "two slashes in a name": (renamed("train//3.png"), Accepted("folders don't matter")),
    "another case": (renamed("train/3.PNG"), NO_CROP),
    "a space behind a name": (renamed("train/3.png "), NO_CROP),
    "a delete character in a name": (renamed("train/3\x7f.png"), Refused("expected a plain relative name")),
    "a next-line character in a name": (renamed("train/3\x85.png"), Refused("expected a plain relative name")),
    "a carriage return in a name": (renamed("train/3\r.png"), Refused("expected a plain relative name")),
    "a name of 65,535 bytes": (
        crafted(also=[Entry("x" * 65_535, PNGS[3])]),
        Refused("train.zip, member '" + 57 * "x" + "...': no row in "),
    ),
    "a name of 300 characters, in the table too": (
        named("y" * 300 + ".png"),
        Refused("train.csv, line 7: Filename is '" + 57 * "y" + "...', 304 characters, expected at most 255: shorten"),
    ),
    "a name of 255 characters": (named("z" * 251 + ".png"), Accepted("disks allow as many")),
    "accents": (named("é.png"), Accepted("any letters may stand in a name")),
    "accents written otherwise in the table": (
        named("e\u0301.png", row="\u00e9.png"),
        Refused("train.csv, line 7: '\\xe9.png' is not in "),
    ),
    "letters that run leftward": (named("\u202egnp.exe.png"), Accepted("messages show it as \\u202e")),
    "a zero-width space": (named("3\u200b.png"), Accepted("messages show it as \\u200b")),
    "an emoji": (named("🧫.png"), Accepted("any characters may stand in a name")),
    "a name in an old encoding": (
        crafted(also=[Entry("é.png".encode("latin-1"), PNGS[3])]),
        Refused("train.zip, member '\\u0398.png': no row in "),
    ),
    "a name that is not the UTF-8 it says it is": (
        crafted(central={"flags": 0x800, "name": b"train/\xff\xfe.png"}),
        NOT_WHOLE,
    ),
    "a device's name": (named("CON"), NOT_EXTRACTED),
    "an alternate stream": (named("3.png:evil"), Refused("expected a plain relative name: zip the crops again")),
    "a shell command": (named("$(touch x);`touch y`|touch z.png"), ONLY_A_NAME),
    "an option": (named("--help.png"), ONLY_A_NAME),
    "a spreadsheet formula": (named("=1+1.png"), ONLY_A_NAME),
    "format fields": (named("{0.__class__}%s%n.png"), ONLY_A_NAME),
    "mathematics": (named("$a^b^c$.png"), ONLY_A_NAME),
    "a page's markup": (named("<script>alert(1)<.png"), ONLY_A_NAME),
    "quotes": (named("'3\".png"), ONLY_A_NAME),
    "three dots": (named(".../3.png", row="3.png"), Accepted("it climbs nowhere")),
    "a home folder": (named("~/3.png", row="3.png"), NOT_EXTRACTED),
    "a share of another computer": (
        renamed("\\\\server\\3.png"),
        Refused("expected a plain relative name: zip the crops again"),
    ),
    "a folder that climbs, among what macOS adds": (
        members({"__MACOSX/../../../evil": b"x"}),
        Accepted("what macOS adds is passed over unread"),
    ),
    "a bomb among what macOS adds": (
        members({"__MACOSX/bomb": bytes(50_000_000)}),
        Accepted("what macOS adds is passed over unread"),
    ),
    "the table within the zip": (
        members({"train.csv": TRAIN_CSV.encode()}),
        Refused("train.zip, member 'train.csv': no row in "),
    ),
    "a bomb among what Windows adds": (
        members({"train/Thumbs.db": bytes(50_000_000), "desktop.ini": b"x"}),
        Accepted("what Windows adds is passed over unread"),
    ),
    "a bomb in what macOS adds to a crop": (
        members({"train/._3.png": bytes(50_000_000)}),
        Accepted("what macOS adds is passed over unread"),
    ),
    "a crop with the name of what macOS adds": (named("._3.png"), Refused("train.csv, line 7: '._3.png' is not in ")),
    "another zip within the zip": (
        members({"train/3.png": pack([Entry("3.png", PNGS[3])])}),
        Refused(f"{MEMBER}not a PNG: convert it"),
    ),
    "two names for one header": (
        crafted(local={"name": b"train/4.png"}),
        DAMAGED,
    ),
    # kinds of members
    "a device": (special(external_attr=(stat.S_IFCHR | 0o666) << 16, create_system=3), NOT_EXTRACTED),
    "a pipe": (special(external_attr=(stat.S_IFIFO | 0o666) << 16, create_system=3), NOT_EXTRACTED),
    "a program with its owner's rights": (
        special(external_attr=(stat.S_IFREG | 0o6777) << 16, create_system=3),
        NOT_EXTRACTED,
    ),
    "a crop that calls itself a folder": (special(external_attr=0x10), Accepted("its name says what it is")),
    "a day that was never": (entry(12, b"\xff\xff\xff\xff"), Accepted("the time of a member does not matter")),
    # encryption and compression
    "encrypted with AES": (
        crafted(central={"method": 99, "flags": 1}),
        Refused(f"{MEMBER}encrypted: zip the crops again without a password"),
    ),
    "encrypted, says only the member": (crafted(local={"flags": 1}), CENTRAL_COUNTS),
    "strong encryption": (crafted(central={"flags": 0x40}, local={"flags": 0x40}), DAMAGED),
    "deflate64": (
        crafted(central={"method": 9}),
        Refused(f"{MEMBER}compressed by method 9: zip the crops again with deflate"),
    ),
    "zstandard": (
        crafted(central={"method": 93}),
        Refused(f"{MEMBER}compressed by method 93: zip the crops again with deflate"),
    ),
    "said to be stored, but deflated": (crafted(central={"method": STORED}), DAMAGED),
    "says the member that it is stored": (crafted(local={"method": STORED}), CENTRAL_COUNTS),
    "a version to come": (crafted(central={"version": 99}), NOT_WHOLE),
    # sizes, places, check sums
    "sizes behind each member": (streamed, Accepted("programs that write to a pipe do so")),
    "no size in the member's header": (crafted(local={"size": 0, "packed_size": 0, "crc": 0}), CENTRAL_COUNTS),
    "another check sum in the member's header": (crafted(local={"crc": 1}), CENTRAL_COUNTS),
    "no bytes, it says": (crafted(central={"size": 0}), DAMAGED),
    "no packed bytes, it says": (crafted(central={"packed_size": 0}), DAMAGED),
    "a packed byte less": (crafted(central={"packed_size": 1000}), DAMAGED),
    "more packed bytes than there are": (crafted(central={"packed_size": 10**9}), SHARED),
    "4 GB, it says": (
        crafted(central={"size": BIG - 1}),
        Refused(f"{MEMBER}4,294,967,294 bytes, more than a crop can have (at most 8,388,608): remove it"),
    ),
    "zip64": (zip64, Accepted("large zips are written so")),
    "zip64 with an endless size": (
        crafted(central={"size": BIG, "extra": zip64_extra(2**63)}),
        Refused(f"{MEMBER}9,223,372,036,854,775,808 bytes, more than a crop can have"),
    ),
    "zip64 with an endless place": (
        crafted(central={"place": BIG, "extra": zip64_extra(2**63 - 1)}),
        DAMAGED,
    ),
    "zip64 without its sizes": (crafted(central={"size": BIG, "extra": struct.pack("<HH", 1, 0)}), NOT_WHOLE),
    "an extra field longer than it is": (crafted(central={"extra": struct.pack("<HH", 7, 500)}), NOT_WHOLE),
    "an extra field of 65,535 bytes": (
        crafted(central={"extra": struct.pack("<HH", 7, 65_531) + bytes(65_531)}),
        Accepted("what other tools add is passed over"),
    ),
    "all members in one place": (crafted(central={"place": 0}), SHARED),
    "members that quote each other": (quoting_bomb, SHARED),
    "50,000 members in one place": (many_members, SHARED),
    # the list of members and its end
    "a list of 70 MB": (long_list, Refused("train.zip: cannot be read (too many members): put a zip of PNG crops")),
    "an end that counts more members": (crafted(more=100), Accepted("the list itself counts, and it is right")),
    "an end that counts fewer members": (crafted(more=-7), Accepted("the list itself counts, and it is right")),
    "an end that points beside the list": (crafted(shift=1), Refused("member 'train/5.png': damaged: ")),
    "an end that points far away": (crafted(shift=10**9), Refused("member 'train/5.png': damaged: ")),
    "a list with a wrong mark": (edit("train.zip", "PK\1\2", "PK\1\3"), NOT_WHOLE),
    "a comment of 65,535 bytes": (crafted(comment=b"x" * 65_535), Accepted("a comment is passed over")),
    "a comment with an empty zip in it": (crafted(comment=end(0, 0, 0)), Refused("' is not in ")),
    "bytes before the zip": (around(before=b"#!/bin/sh\nexit\n"), Accepted("self-extracting zips begin so; unread")),
    "bytes behind the zip": (around(behind=b"\n\n"), Accepted("some downloads end so")),
    "another zip before it": (
        lambda raw: around(before=pack([Entry("train/3.png", bytes(100))]))(raw),
        Accepted("a zip's end names its members: the last one counts"),
    ),
    "8 GB of nothing before it": (sparse, Accepted("what comes before the members is passed over unread")),
    "the last of several disks": (crafted(disk=3), Accepted("all its members are there")),
    "the first piece of a split zip": (
        lambda raw: (raw / "train.zip").write_bytes(b"PK\7\x08" + (raw / "train.zip").read_bytes()[:60_000]),
        NOT_WHOLE,
    ),
    # no zips
    "gzip": (write("train.zip", zlib.compress(TRAIN_CSV.encode(), wbits=31)), NOT_WHOLE),
    "tar": (write("train.zip", b"train/3.png" + bytes(246) + b"ustar\0" + bytes(10_000)), NOT_WHOLE),
    "7z": (write("train.zip", b"7z\xbc\xaf\x27\x1c" + bytes(1000)), NOT_WHOLE),
    "rar": (write("train.zip", b"Rar!\x1a\7\0" + bytes(1000)), NOT_WHOLE),
    "a page that asks to log in": (write("train.zip", "<!doctype html><title>Log in</title>" * 100), NOT_WHOLE),
    "a Git LFS pointer": (write("train.zip", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), NOT_WHOLE),
    "an end alone": (write("train.zip", end(0, 0, 0)), Refused("train.csv, line 2: '5.png' is not in ")),
    "a list without members": (write("train.zip", end(8, 0, 0)), Refused("train.csv, line 2: '5.png' is not in ")),
    # no plain files
    "a link to a zip": (linked, Accepted("data may lie elsewhere")),
    "a link to nothing": (
        replaced(lambda path: path.symlink_to("nowhere")),
        Refused("train.zip: cannot be read (No such file or directory): put a zip of PNG crops there"),
    ),
    "a link to itself": (
        replaced(lambda path: path.symlink_to(path.name)),
        Refused("train.zip: cannot be read (Too many levels of symbolic links)"),
    ),
    "a pipe in place of a zip": (replaced(os.mkfifo), Refused("train.zip: cannot be read (Not a plain file)")),
    "a device in place of a zip": (
        replaced(lambda path: path.symlink_to("/dev/zero")),
        Refused("train.zip: cannot be read (Not a plain file): put a zip of PNG crops there"),
    ),
    "the other zip": (
        lambda raw: (raw / "train.zip").write_bytes((raw / "test.zip").read_bytes()),
        Refused("train.csv, line 2: '5.png' is not in "),
    ),
    "the tables mixed up": (
        both(write("train.csv", EXAMPLE_CSV), write("example.csv", TRAIN_CSV)),
        Refused("train.csv: no crop of label 1 (cancer epithelial): add some"),
    ),
}
