import random
import stat
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from crafted import (
    EXAMPLE_CSV,
    GREY,
    GREY_ALPHA,
    GROUPS,
    LABELS,
    PALETTE,
    PIXELS,
    PNGS,
    RGB_ALPHA,
    TEST,
    TRAIN,
    TRAIN_CSV,
    both,
    chunk,
    crop,
    damaged,
    edit,
    entry,
    files,
    folder,
    groups,
    header,
    members,
    noise,
    png,
    remove,
    renamed,
    special,
    write,
    write_good,
    write_zip,
)

from nuclei.data.unpack import unpack
from nuclei.errors import InputError


@pytest.fixture
def raw(tmp_path):
    """The four files, good ones."""
    folder = tmp_path / "data" / "raw"
    write_good(folder)
    return folder


@pytest.fixture
def out(tmp_path):
    """What an earlier run left."""
    folder = tmp_path / "data" / "out"
    folder.mkdir(parents=True)
    (folder / "train.npy").write_bytes(b"of an earlier run")
    return folder


def complaint(raw: Path, out: Path) -> str:
    """Return the message without the folder of the files; nothing on the disk may have changed."""
    before = files(raw.parents[1])
    with pytest.raises(InputError) as caught:
        unpack(raw, out, 3)
    assert files(raw.parents[1]) == before
    message = str(caught.value)
    assert message.startswith(f"{raw}/") and message.isprintable() and message.isascii()
    return message.replace(f"{raw}/", "")


ALL_FOUR = "add some, all of 0, 1, 2, 3 are needed"
ONE_OF = "expected one of 0, 1, 2, 3"
NAME = "expected a plain relative name: zip the crops again"
AGAIN = "copy or download it again"
MEMBER = "train.zip, member 'train/3.png'"

FILES = {
    "train.csv": "a table with Filename,Label",
    "example.csv": "a table with Filename",
    "train.zip": "a zip of PNG crops",
    "test.zip": "a zip of PNG crops",
}
MISSING = {
    f"{name} missing": (remove(name), f"{name}: cannot be read (No such file or directory): put {what} there")
    for name, what in FILES.items()
}
FOLDERS = {
    f"{name} a folder": (folder(name), f"{name}: cannot be read (Is a directory): put {what} there")
    for name, what in FILES.items()
}

BAD_FILES = {
    "train.csv empty": (
        write("train.csv", ""),
        "train.csv: no column Filename; expected the header Filename,Label, found ''",
    ),
    "example.csv empty": (
        write("example.csv", ""),
        "example.csv: no column Filename; expected the header Filename, found ''",
    ),
    "train.zip empty": (write("train.zip", ""), f"train.zip: not a whole zip file: {AGAIN}"),
    "test.zip empty": (write("test.zip", ""), f"test.zip: not a whole zip file: {AGAIN}"),
    "not a zip": (write("train.zip", TRAIN_CSV), f"train.zip: not a whole zip file: {AGAIN}"),
    "zip cut off": (damaged("train", keep=0.7), f"train.zip: not a whole zip file: {AGAIN}"),
    "zip cut off in its last bytes": (damaged("test", keep=0.9999), f"test.zip: not a whole zip file: {AGAIN}"),
    "zip without members": (
        lambda raw: write_zip(raw / "train.zip", {}),
        "train.csv, line 2: '5.png' is not in train.zip (and 7 more): add the crop or remove the row",
    ),
}

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
        f"{MEMBER}: 50,000,000 bytes, more than a crop can have (at most 1,048,576): remove it",
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

SMALL = PIXELS[3].astype(np.uint16)
BAD_CROPS = {
    "empty": (b"", "not a PNG: convert it"),
    "text": (b"crop " * 100, "not a PNG: convert it"),
    "JPEG": (b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(1000), "not a PNG: convert it"),
    "another signature": (bytes(8) + PNGS[3][8:], "not a PNG: convert it"),
    "signature alone": (PNGS[3][:8], "not a PNG: convert it"),
    "cut off in the header": (PNGS[3][:30], "not a PNG: convert it"),
    "no header": (PNGS[3][:8] + PNGS[3][33:], "not a PNG: convert it"),
    "cut off": (PNGS[3][:-5000], "a damaged PNG: save the crop again"),
    "header alone": (PNGS[3][:33], "a damaged PNG: save the crop again"),
    "wrong check sum": (PNGS[3][:29] + b"abcd" + PNGS[3][33:], "a damaged PNG: save the crop again"),
    "two headers": (
        PNGS[3][:33] + header(50, 100) + PNGS[3][33:],
        "a damaged PNG: save the crop again",
    ),
    "two headers, the second huge": (
        PNGS[3][:33] + header(60_000, 60_000) + PNGS[3][33:],
        "a damaged PNG: save the crop again",
    ),
    "colour type that is none": (png(SMALL, colour=1), "a damaged PNG: save the crop again"),
    "text that unpacks to 50 MB": (
        png(SMALL, before=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(50_000_000)))),
        "a damaged PNG: save the crop again",
    ),
    "99 wide": (png(SMALL[:, :99]), "99x100 pixels, expected 100x100: cut the crop to that size"),
    "101 high": (
        png(np.pad(SMALL, ((0, 1), (0, 0), (0, 0)))),
        "100x101 pixels, expected 100x100: cut the crop to that size",
    ),
    "huge": (
        PNGS[3][:8] + header(60_000, 60_000),
        "60000x60000 pixels, expected 100x100: cut the crop to that size",
    ),
    "nothing wide": (PNGS[3][:8] + header(100, 0), "0x100 pixels, expected 100x100: cut the crop to that size"),
    "16 bits of grey": (
        png(noise(0, 1, 2**16), bits=16, colour=GREY),
        "16 bits a channel, expected 8: convert it (how to scale it is for you to say)",
    ),
    "16 bits of RGB": (
        png(noise(0, 3, 2**16), bits=16),
        "16 bits a channel, expected 8: convert it (how to scale it is for you to say)",
    ),
    "transparent RGBA": (
        png(np.dstack([SMALL, np.where(SMALL[..., :1] > 254, 254, 255)]), colour=RGB_ALPHA),
        "has transparent pixels: put it on a background and save it as RGB",
    ),
    "transparent grey": (
        png(noise(0, 2), colour=GREY_ALPHA),
        "has transparent pixels: put it on a background and save it as RGB",
    ),
    "transparent colour of RGB": (
        png(SMALL, before=chunk(b"tRNS", SMALL[50, 50].astype(">u2").tobytes())),
        "has transparent pixels: put it on a background and save it as RGB",
    ),
    "transparent colour behind the pixels": (
        png(SMALL)[:-12] + chunk(b"tRNS", SMALL[50, 50].astype(">u2").tobytes()) + png(SMALL)[-12:],
        "has transparent pixels: put it on a background and save it as RGB",
    ),
    "transparent colour of a palette": (
        png(noise(0, 1, 4), 2, PALETTE, before=chunk(b"PLTE", bytes(range(12))) + chunk(b"tRNS", b"\xff\xff\x80")),
        "has transparent pixels: put it on a background and save it as RGB",
    ),
    "transparent colour of black and white": (
        png(noise(0, 1, 2), 1, GREY, before=chunk(b"tRNS", b"\0\1")),
        "has transparent pixels: put it on a background and save it as RGB",
    ),
}


def cases(table: dict) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", table.values(), ids=table.keys())


@cases(MISSING | FOLDERS | BAD_FILES | BAD_TABLES | BAD_MEMBERS)
def test_bad_files_are_refused_in_one_line_that_says_what_to_do(case, raw, out):
    change, message = case
    change(raw)
    assert complaint(raw, out) == message


@cases(BAD_CROPS)
def test_a_member_that_is_no_crop_is_refused(case, raw, out):
    content, message = case
    crop(content)(raw)
    assert complaint(raw, out) == f"{MEMBER}: {message}"


def test_a_bad_first_run_leaves_nothing(raw, tmp_path):
    crop(b"")(raw)
    complaint(raw, tmp_path / "new")


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


def test_arrays_hold_the_pixels_in_the_order_of_the_tables(raw, out):
    before = files(raw)
    unpack(raw, out, 3)
    assert files(raw) == before and sorted(raw.parent.iterdir()) == [out, raw]
    assert sorted(path.name for path in out.iterdir()) == ["test.csv", "test.npy", "train.csv", "train.npy"]
    for part, numbers in (("train", TRAIN), ("test", TEST)):
        crops = np.load(out / f"{part}.npy", mmap_mode="r")
        assert crops.dtype == np.uint8 and crops.flags.c_contiguous
        assert np.array_equal(crops, [PIXELS[number] for number in numbers])
    assert (out / "train.csv").read_text() == TRAIN_CSV
    assert (out / "test.csv").read_text() == "Filename\n13.png\n11.png\n14.png\n12.png\n"


def test_grey_crops_have_the_luma_of_the_colours(raw, out):
    report = unpack(raw, out, 1)
    crops = np.load(out / "test.npy")
    assert crops.shape == (4, 100, 100, 1) and crops.dtype == np.uint8
    luma = np.stack([PIXELS[number] for number in TEST]) @ [0.299, 0.587, 0.114]
    assert np.abs(crops[..., 0] - luma).max() <= 0.51
    assert report["test"]["channels"] == len(report["test"]["mean"]) == 1


def test_a_second_run_writes_the_same_bytes(raw, tmp_path):
    reports = [unpack(raw, tmp_path / name, 3) for name in ("one", "two")]
    assert reports[0] == reports[1]
    assert [*files(tmp_path / "one").values()] == [*files(tmp_path / "two").values()] != []


def test_the_report_counts_crops_and_duplicates(raw, out):
    # In the table: 2 and 6 are copies of 5, 4 is one of 3; all with labels of their own.
    members({"train/2.png": PNGS[5], "train/6.png": png(PIXELS[5], interlaced=True), "train/4.png": PNGS[3]})(raw)
    members({"11.png": PNGS[5], "12.png": PNGS[5], "13.png": PNGS[1]}, part="test")(raw)
    report = unpack(raw, out, 3)
    assert report["same_crop_other_label"] == 2
    assert report["test_crops_in_train"] == 3
    assert (report["train"]["duplicates"], report["test"]["duplicates"]) == (3, 1)
    assert (report["train"]["crops"], report["test"]["crops"]) == (8, 4)
    assert report["train"]["crops_a_class"] == {
        "normal epithelial": 2,
        "cancer epithelial": 2,
        "muscle": 2,
        "immune leukocyte": 2,
    }
    for part in ("train", "test"):
        crops = np.load(out / f"{part}.npy") / 255
        assert [report[part][key] for key in ("height", "width", "channels")] == [100, 100, 3]
        assert np.allclose(report[part]["mean"], crops.mean(axis=(0, 1, 2)), rtol=0, atol=1e-6)
        assert np.allclose(report[part]["std"], crops.std(axis=(0, 1, 2)), rtol=0, atol=1e-6)


def test_more_crops_than_one_thread_takes_at_a_time(raw, out):
    names = [f"{number}.png" for number in range(600)]
    colours = np.random.default_rng(0).integers(0, 256, (600, 3))
    content = {name: png(np.broadcast_to(colour, (100, 100, 3))) for name, colour in zip(names, colours, strict=True)}
    write_zip(raw / "test.zip", content)
    write("example.csv", "Filename\n" + "".join(f"{name}\n" for name in names))(raw)
    report = unpack(raw, out, 3)
    assert np.array_equal(np.load(out / "test.npy")[:, ::99, ::99].reshape(600, 4, 3), colours[:, None].repeat(4, 1))
    assert np.allclose(report["test"]["mean"], colours.mean(axis=0) / 255, rtol=0, atol=1e-6)
    assert np.allclose(report["test"]["std"], colours.std(axis=0) / 255, rtol=0, atol=1e-6)


def grey(values: np.ndarray, levels: int) -> np.ndarray:
    return np.repeat(values * (255 // (levels - 1)), 3, axis=-1)


COLOURS = np.random.default_rng(1).integers(0, 256, (16, 3), dtype=np.uint8)
PLTE = chunk(b"PLTE", COLOURS.tobytes())
FEW = noise(0, 1, 16)
SOLID = np.full((100, 100, 1), 255)
GOOD_CROPS = {
    "RGB interlaced": (png(SMALL, interlaced=True), SMALL),
    "RGBA without transparency": (png(np.dstack([SMALL, SOLID]), colour=RGB_ALPHA), SMALL),
    "RGB with a transparent colour that does not occur": (
        png(SMALL & 254, before=chunk(b"tRNS", b"\0\1\0\1\0\1")),
        SMALL & 254,
    ),
    "grey with alpha, not transparent": (png(np.dstack([FEW, SOLID]), colour=GREY_ALPHA), np.repeat(FEW, 3, axis=-1)),
    "grey": (png(noise(0, 1), colour=GREY), grey(noise(0, 1), 256)),
    "grey of 4 bits": (png(FEW, 4, GREY), grey(FEW, 16)),
    "grey of 4 bits interlaced": (png(FEW, 4, GREY, interlaced=True), grey(FEW, 16)),
    "grey of 2 bits": (png(FEW & 3, 2, GREY), grey(FEW & 3, 4)),
    "black and white": (png(FEW & 1, 1, GREY), grey(FEW & 1, 2)),
    "palette": (png(FEW, colour=PALETTE, before=PLTE), COLOURS[FEW[..., 0]]),
    "palette of 4 bits": (png(FEW, 4, PALETTE, before=PLTE), COLOURS[FEW[..., 0]]),
    "palette of 1 bit": (png(FEW & 1, 1, PALETTE, before=PLTE), COLOURS[FEW[..., 0] & 1]),
    "palette with a transparent colour that does not occur": (
        png(FEW | 1, colour=PALETTE, before=PLTE + chunk(b"tRNS", b"\0")),
        COLOURS[FEW[..., 0] | 1],
    ),
    "text and resolution": (png(SMALL, before=chunk(b"tEXt", b"a\0b") + chunk(b"pHYs", bytes(9))), SMALL),
}


@cases(GOOD_CROPS)
def test_any_8_bit_png_is_read(case, raw, out):
    content, pixels = case
    crop(content)(raw)
    unpack(raw, out, 3)
    assert np.array_equal(np.load(out / "train.npy")[TRAIN.index(3)], pixels)


def reordered(raw: Path) -> None:
    rows = [line.split(",") for line in TRAIN_CSV.splitlines()]
    (raw / "train.csv").write_text("".join(f"{i},{label},{name}\n" for i, (name, label) in enumerate(rows)))


GOOD_FILES = {
    "byte order mark": write("train.csv", "\ufeff" + TRAIN_CSV),
    "lines end with CR LF": write("train.csv", TRAIN_CSV.replace("\n", "\r\n")),
    "blank lines": write("train.csv", "\n" + TRAIN_CSV + "\n\n"),
    "no last line break": write("train.csv", TRAIN_CSV.rstrip("\n")),
    "quotes": edit("train.csv", "3.png,1", '"3.png","1"'),
    "more columns, in another order": reordered,
    "example.csv with names alone": write("example.csv", EXAMPLE_CSV.replace(",Label", "").replace(",0", "")),
    "crops not in a folder": lambda raw: write_zip(
        raw / "train.zip", {f"{n}.png": PNGS[n] for n in TRAIN}, zipfile.ZIP_STORED
    ),
    "folders have members of their own": members({"train/": b"", "train/more/": b""}),
    "crops in several folders": renamed("train/more/of/3.png"),
    "what macOS adds": members({"__MACOSX/train/._3.png": b"x", "train/.DS_Store": b"x", ".DS_Store": b"x"}),
    "a size that is said to be larger": entry(24, b"\xff\xff\0\0"),
}


@cases(GOOD_FILES)
def test_files_as_other_tools_write_them_are_read(case, raw, out):
    case(raw)
    unpack(raw, out, 3)
    assert (out / "train.csv").read_text() == TRAIN_CSV
    assert (out / "test.csv").read_text() == "Filename\n13.png\n11.png\n14.png\n12.png\n"
    assert np.array_equal(np.load(out / "train.npy"), [PIXELS[number] for number in TRAIN])


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
