import zipfile
from pathlib import Path

import numpy as np
from raw_files import (
    EXAMPLE_CSV,
    PIXELS,
    PNGS,
    TEST,
    TRAIN,
    TRAIN_CSV,
    cases,
    complaint,
    crop,
    damaged,
    edit,
    entry,
    files,
    folder,
    members,
    png,
    remove,
    renamed,
    write,
    write_zip,
)

from nuclei.data.unpack import unpack

AGAIN = "copy or download it again"
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


@cases(MISSING | FOLDERS | BAD_FILES)
def test_bad_files_are_refused_in_one_line_that_says_what_to_do(case, raw, out):
    change, message = case
    change(raw)
    assert complaint(raw, out) == message


def test_a_bad_first_run_leaves_nothing(raw, tmp_path):
    crop(b"")(raw)
    complaint(raw, tmp_path / "new")


def test_arrays_hold_the_pixels_in_the_order_of_the_tables(raw, out):
    before = files(raw)
    unpack(raw, out, 3)
    assert files(raw) == before and sorted(raw.parent.iterdir()) == [out, raw]
    assert sorted(path.name for path in out.iterdir()) == [
        "task.json",
        "test.csv",
        "test.npy",
        "train.csv",
        "train.npy",
    ]
    for part, numbers in (("train", TRAIN), ("test", TEST)):
        crops = np.load(out / f"{part}.npy", mmap_mode="r")
        assert crops.dtype == np.uint8 and crops.flags.c_contiguous
        assert np.array_equal(crops, [PIXELS[number] for number in numbers])
    assert (out / "train.csv").read_text() == TRAIN_CSV
    assert (out / "test.csv").read_text() == "Filename\n13.png\n11.png\n14.png\n12.png\n"


def test_the_largest_crops_are_taken_though_noise_does_not_compress(raw, out):
    pixels = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), dtype=np.uint8)
    for part, numbers in (("train", TRAIN), ("test", TEST)):
        write_zip(raw / f"{part}.zip", dict.fromkeys([f"{number}.png" for number in numbers], png(pixels)))
    unpack(raw, out, 3)
    crops = np.load(out / "train.npy", mmap_mode="r")
    assert crops.shape == (len(TRAIN), *pixels.shape) and (crops[0] == pixels).all() and (crops[-1] == pixels).all()


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
    assert report["train"]["crops_per_class"] == {
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
