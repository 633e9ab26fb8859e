"""The four files of a competition, made by hand: good ones, and changes that spoil them byte by byte."""

import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest

from nuclei.data.unpack import unpack
from nuclei.errors import InputError

GREY, RGB, PALETTE, GREY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6  # colour types of PNG
ADAM7 = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def header(height: int, width: int, bits: int = 8, colour: int = RGB, interlaced: bool = False) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced))


def png(values: np.ndarray, bits: int = 8, colour: int = RGB, interlaced: bool = False, before: bytes = b"") -> bytes:
    """Encode (H, W, samples) by the letter of the standard; `before`: chunks that go before the pixels."""
    scanlines = b""
    for y, x, down, right in ADAM7 if interlaced else [(0, 0, 1, 1)]:
        for row in values[y::down, x::right]:
            samples = np.unpackbits(row.astype(">u2").reshape(-1, 1).view(np.uint8), axis=1)[:, 16 - bits :]
            scanlines += b"\0" + np.packbits(samples).tobytes()
    head = b"\x89PNG\r\n\x1a\n" + header(*values.shape[:2], bits, colour, interlaced) + before
    return head + chunk(b"IDAT", zlib.compress(scanlines, 1)) + chunk(b"IEND", b"")


def noise(seed: int, samples: int = 3, levels: int = 256) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, levels, (100, 100, samples), dtype=np.uint16)


TRAIN = [5, 2, 8, 1, 7, 3, 6, 4]  # rows of train.csv; the zip has them in the order of their numbers
TEST = [13, 11, 14, 12]
LABELS = [0, 1, 2, 3, 0, 1, 2, 3]
PIXELS = {number: noise(number).astype(np.uint8) for number in TRAIN + TEST}
PNGS = {number: png(pixels) for number, pixels in PIXELS.items()}
MEMBERS = {
    "train": {f"train/{number}.png": PNGS[number] for number in sorted(TRAIN)},
    "test": {f"{number}.png": PNGS[number] for number in sorted(TEST)},
}
TRAIN_CSV = "Filename,Label\n" + "".join(f"{n}.png,{label}\n" for n, label in zip(TRAIN, LABELS, strict=True))
EXAMPLE_CSV = "Filename,Label\n" + "".join(f"{n}.png,0\n" for n in TEST)
GROUPS = "".join(f"{number}.png,g{number % 3}\n" for number in sorted(TRAIN + TEST))

Change = Callable[[Path], object]


def write_zip(path: Path | BinaryIO, members: dict, compression: int = zipfile.ZIP_DEFLATED) -> None:
    """members: from name, or ZipInfo, to content; None for a member that is not to be there."""
    with zipfile.ZipFile(path, "w", compression, compresslevel=1) as archive:
        for name, content in members.items():
            if content is not None:
                archive.writestr(name, content)


def write_good(folder: Path) -> None:
    """Write the four files."""
    folder.mkdir(parents=True)
    write_zip(folder / "train.zip", MEMBERS["train"])
    write_zip(folder / "test.zip", MEMBERS["test"])
    (folder / "train.csv").write_text(TRAIN_CSV)
    (folder / "example.csv").write_text(EXAMPLE_CSV)


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


def complaint(raw: Path, out: Path) -> str:
    """Return the message without the folder of the files; nothing on the disk may have changed."""
    before = files(raw.parents[1])
    with pytest.raises(InputError) as caught:
        unpack(raw, out, 3)
    assert files(raw.parents[1]) == before
    message = str(caught.value)
    assert message.startswith(f"{raw}/") and message.isprintable() and message.isascii()
    return message.replace(f"{raw}/", "")


def cases(table: dict) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", table.values(), ids=table.keys())


# Each of the following returns a change of the four files.


def both(first: Change, second: Change) -> Change:
    return lambda raw: [first(raw), second(raw)]


def remove(name: str) -> Change:
    return lambda raw: (raw / name).unlink()


def folder(name: str) -> Change:
    return lambda raw: [(raw / name).unlink(), (raw / name).mkdir()]


def write(name: str, content: str | bytes) -> Change:
    return lambda raw: (raw / name).write_bytes(content.encode() if isinstance(content, str) else content)


def edit(name: str, old: str, new: str, times: int = 1) -> Change:
    def change(raw: Path) -> None:
        content = (raw / name).read_bytes()
        assert content.count(old.encode()) >= times
        (raw / name).write_bytes(content.replace(old.encode(), new.encode(), times))

    return change


def members(changes: dict, part: str = "train", compression: int = zipfile.ZIP_DEFLATED) -> Change:
    return lambda raw: write_zip(raw / f"{part}.zip", MEMBERS[part] | changes, compression)


def crop(content: bytes) -> Change:
    return members({"train/3.png": content})


def renamed(name: str) -> Change:
    return members({"train/3.png": None, name: PNGS[3]})


def special(**attributes) -> Change:
    """Write train/3.png with other fields of ZipInfo."""

    def change(raw: Path) -> None:
        info = zipfile.ZipInfo("train/3.png")
        for name, value in attributes.items():
            setattr(info, name, value)
        write_zip(raw / "train.zip", MEMBERS["train"] | {"train/3.png": None, info: PNGS[3]})

    return change


def entry(offset: int, value: bytes) -> Change:
    """Overwrite bytes of train/3.png's entry in the central directory."""

    def change(raw: Path) -> None:
        content = bytearray((raw / "train.zip").read_bytes())
        start = content.rindex(b"train/3.png") - 46 + offset
        content[start : start + len(value)] = value
        (raw / "train.zip").write_bytes(content)

    return change


def damaged(part: str, keep: float = 1.0, at: float | None = None) -> Change:
    """Keep the first share of a zip; add one to the byte at a share of it."""

    def change(raw: Path) -> None:
        content = bytearray((raw / f"{part}.zip").read_bytes())
        if at is not None:
            place = int(at * len(content))
            content[place] = (content[place] + 1) % 256
        (raw / f"{part}.zip").write_bytes(content[: int(keep * len(content))])

    return change


def groups(text: str) -> Change:
    return write("groups.csv", "Filename,Group\n" + text)
