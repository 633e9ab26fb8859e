"""Crops as PNG, judged by their header before any pixel is decoded."""

import io
import struct
import zipfile

import numpy as np
from PIL import Image

from nuclei.data.png_rows import has_all_rows
from nuclei.data.zips import BROKEN, read_member
from nuclei.errors import InputError, show
from nuclei.task import SIDE

PNG_START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"


def decode_one(archive: zipfile.ZipFile, info: zipfile.ZipInfo, channels: int) -> np.ndarray:
    """Return uint8 (100, 100, channels). The header is judged before any pixel is decoded."""
    where = f"{archive.filename}, member {show(info.orig_filename)}"
    content = read_member(archive, info)
    if not content.startswith(PNG_START) or len(content) < 33:
        raise InputError(f"{where}: not a PNG: convert it")
    width, height, bits = struct.unpack(">IIB", content[16:25])
    if (width, height) != (SIDE, SIDE):
        raise InputError(f"{where}: {width}x{height} pixels, expected {SIDE}x{SIDE}: cut the crop to that size")
    if bits == 16:
        raise InputError(f"{where}: 16 bits a channel, expected 8: convert it (how to scale it is for you to say)")
    try:
        file = io.BytesIO(content)
        with Image.open(file, formats=["PNG"]) as image:
            frames = getattr(image, "n_frames", 1)
            if image.size != (SIDE, SIDE):  # a second header
                raise ValueError
            if frames > 1:
                raise InputError(f"{where}: {frames} frames, expected one: save the one that counts")
            image.load()  # chunks behind the pixels count as well
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
    return pixels.reshape(SIDE, SIDE, channels)
