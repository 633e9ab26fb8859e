import random
import stat
import struct
import tracemalloc
import zipfile

import numpy as np
from raw_files import (
    PIXELS,
    PNGS,
    TEST,
    both,
    cases,
    complaint,
    crop,
    damaged,
    edit,
    entry,
    members,
    renamed,
    special,
)

from nuclei.data.unpack import unpack
from nuclei.errors import InputError

NAME = "expected a plain relative name: zip the crops again"
MEMBER = "train.zip, member 'train/3.png'"
BAD_MEMBERS = {
    "name twice": (
        members({"more/3.png": PNGS[2]}),
        "train.zip, member 'more/3.png': there is another '3.png': keep one",
    ),
    "absolute name": (renamed("/3.png"), f"train.zip, member '/3.png': {NAME}"),
    "name that climbs": (renamed("train/../../3.png"), f"train.zip, member 'train/../../3.png': {NAME}"),
    "backslash": (renamed("train\\3.png"), f"train.zip, member 'train\\\\3.png': {NAME}"),
    "drive letter": (renamed("C:/3.png"), f"train.zip, member 'C:/3.png': {NAME}"),
    "line break in a name": (renamed("train/3\n.png"), f"train.zip, member 'train/3\\n.png': {NAME}"),
    "terminal code in a name": (renamed("\x1b[2J3.png"), f"train.zip, member '\\x1b[2J3.png': {NAME}"),
    "NUL in a name": (
        both(renamed("3.png#.exe"), edit("train.zip", "3.png#.exe", "3.png\0.exe", times=2)),
        f"train.zip, member '3.png\\x00.exe': {NAME}",
    ),
    "folder that climbs": (members({"../": b""}), f"train.zip, member '../': {NAME}"),
    "link": (
        special(external_attr=(stat.S_IFLNK | 0o777) << 16, create_system=3),
        f"{MEMBER}: a symbolic link, expected a PNG: zip the crops themselves",
    ),
    "encrypted": (entry(8, b"\1"), f"{MEMBER}: encrypted: zip the crops again without a password"),
    "a patch to another zip": (entry(8, b"\x20"), f"{MEMBER}: damaged: copy or download the zip again"),
    "bzip2": (
        special(compress_type=zipfile.ZIP_BZIP2),
        f"{MEMBER}: compressed by method 12: zip the crops again with deflate",
    ),
    "lzma": (
        special(compress_type=zipfile.ZIP_LZMA),
        f"{MEMBER}: compressed by method 14: zip the crops again with deflate",
    ),
    "unknown compression": (
        entry(10, b"\x63"),
        f"{MEMBER}: compressed by method 99: zip the crops again with deflate",
    ),
    "50 MB": (
        crop(bytes(50_000_000)),
        f"{MEMBER}: 50,000,000 bytes, more than a crop can have (at most 8,388,608): remove it",
    ),
    "50 MB said to be little": (
        both(crop(bytes(50_000_000)), entry(24, struct.pack("<I", 30_000))),
        f"{MEMBER}: damaged: copy or download the zip again",
    ),
    "size too small": (entry(24, b"\x10\0\0\0"), f"{MEMBER}: damaged: copy or download the zip again"),
    "place outside of the file": (
        entry(42, b"\xff\xff\xff\x7f"),
        f"{MEMBER}: damaged: copy or download the zip again",
    ),
    "wrong check sum": (entry(16, b"abcd"), f"{MEMBER}: damaged: copy or download the zip again"),
    "wrong byte in a crop": (
        both(members({}, compression=zipfile.ZIP_STORED), damaged("train", at=0.05)),
        "train.zip, member 'train/1.png': damaged: copy or download the zip again",
    ),
}


@cases(BAD_MEMBERS)
def test_bad_members_are_refused_in_one_line_that_says_what_to_do(case, raw, out):
    change, message = case
    change(raw)
    assert complaint(raw, out) == message


def test_files_that_macos_and_windows_add_are_passed_over_wherever_they_are(raw, tmp_path):
    names = ["._3.png", "train/._3.png", "__MACOSX/train/._3.png", "train/__MACOSX/x", ".DS_Store", "train/.DS_Store"]
    names += ["Thumbs.db", "train/Thumbs.db", "train/thumbs.DB", "desktop.ini", "train/Desktop.ini"]
    unpack(raw, tmp_path / "plain", 3)
    for part in ("train", "test"):
        members(dict.fromkeys(names, b"\0\5\x16\7Mac OS X"), part)(raw)
    unpack(raw, tmp_path / "cluttered", 3)
    written = [
        sorted((path.name, path.read_bytes()) for path in (tmp_path / name).iterdir())
        for name in ("plain", "cluttered")
    ]
    assert written[0] == written[1]


def test_a_zip_that_lies_about_a_size_is_not_unpacked_to_see(raw, out):
    BAD_MEMBERS["50 MB said to be little"][0](raw)
    tracemalloc.start()
    try:
        complaint(raw, out)
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()


def test_a_damaged_zip_is_refused_or_read_right_but_never_a_crash(raw, out):
    rng = random.Random(0)
    whole = (raw / "test.zip").read_bytes()
    directory = whole.index(b"PK\1\2")
    refused = 0
    for _ in range(80):
        content = bytearray(whole)
        content[rng.choice([rng.randrange(60), rng.randrange(directory, len(content))])] = rng.randrange(256)
        (raw / "test.zip").write_bytes(content)
        try:
            unpack(raw, out, 3)
        except InputError:
            refused += 1
        else:
            assert np.array_equal(np.load(out / "test.npy"), [PIXELS[number] for number in TEST])
    assert 20 < refused < 80
