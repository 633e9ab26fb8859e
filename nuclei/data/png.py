"""Crops as PNG, judged by their header before any pixel is decoded."""

import io
import struct
import zipfile

import numpy as np
from PIL import Image

from nuclei.data.png_rows import has_all_rows
from nuclei.data.zips import BROKEN, read_member
from nuclei.errors import InputError, show

ORIENTATION = 0x0112  # EXIF's
SMALLEST, LARGEST = 16, 1024  # pixels per side of a crop
PNG_START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"


def crop_side(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> int:
    """Return the pixels per side of a crop, by its header. Raises InputError where it is not square, or too large."""
    where, content = _read(archive, info)
    width, height = struct.unpack(">II", content[16:24])
    if width != height or not SMALLEST <= width <= LARGEST:
        raise InputError(
            f"{where}: {width}x{height} pixels, expected a square of {SMALLEST} to {LARGEST} pixels a side: cut it so"
        )
    return int(width)


def decode_one(archive: zipfile.ZipFile, info: zipfile.ZipInfo, side: int, channels: int) -> np.ndarray:
    """Return uint8 (side, side, channels). The header is judged before any pixel is decoded."""
    where, content = _read(archive, info)
    width, height, bits = struct.unpack(">IIB", content[16:25])
    if (width, height) != (side, side):
        raise InputError(
            f"{where}: {width}x{height} pixels, expected {side}x{side} like the first crop: cut it to that size"
        )
    if bits == 16:
        raise InputError(f"{where}: 16 bits a channel, expected 8: convert it (how to scale it is for you to say)")
    try:
        file = io.BytesIO(content)
        with Image.open(file, formats=["PNG"]) as image:
            frames = getattr(image, "n_frames", 1)
            if image.size != (side, side):  # a second header
                raise ValueError
            if frames > 1:
                raise InputError(f"{where}: {frames} frames, expected one: save the one that counts")
            image.load()  # chunks behind the pixels count as well
            orientation = image.getexif().get(ORIENTATION, 1)
            if orientation not in (0, 1):
                raise InputError(
                    f"{where}: to be rotated or flipped when it is shown (orientation {orientation}): save it so"
                )
            if image.mode == "P" and np.max(image.getextrema()) >= len(image.getpalette() or []) // 3:
                raise ValueError  # colours that the palette lacks
            if not has_all_rows(image, file):
                raise ValueError
            plain: Image.Image = image
            if "A" in image.getbands() or "transparency" in image.info:
                plain = image.convert("RGBA")
                if np.min(plain.getchannel("A").getextrema()) < 255:
                    raise InputError(f"{where}: has transparent pixels: put it on a background and save it as RGB")
            colour = plain.convert("RGB")
            pixels = np.asarray(colour if channels == 3 else colour.convert("L"))
    except BROKEN:
        raise InputError(f"{where}: a damaged PNG: save the crop again") from None
    return pixels.reshape(side, side, channels)


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> tuple[str, bytes]:
    """Return where a PNG is, for messages, and its bytes."""
    where = f"{archive.filename}, member {show(info.orig_filename)}"
    content = read_member(archive, info)
    if not content.startswith(PNG_START) or len(content) < 33:
        raise InputError(f"{where}: not a PNG: convert it")
    return where, content
