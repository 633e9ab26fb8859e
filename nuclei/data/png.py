"""Crops as PNG, judged by their header before any pixel is decoded."""

import io
import struct
import zipfile
import zlib

import numpy as np
from PIL import Image

from nuclei.data.zips import BROKEN, read_member
from nuclei.errors import InputError, show
from nuclei.task import SIDE

ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
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
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            if image.size != (SIDE, SIDE):  # a second header
                raise ValueError
            if image.is_animated:
                raise InputError(f"{where}: {image.n_frames} frames, expected one: save the one that counts")
            image.load()  # chunks behind the pixels count as well
            if image.mode == "P" and image.getextrema()[1] >= len(image.getpalette() or []) // 3:
                raise ValueError  # colours that the palette lacks
            last = image.crop((0, SIDE - 1, SIDE, SIDE))
            if not last.getbbox(alpha_only=False) and not _has_all_rows(content):  # Pillow leaves what is missing at 0
                raise ValueError
            if "A" in image.getbands() or "transparency" in image.info:
                image = image.convert("RGBA")
                if image.getchannel("A").getextrema()[0] < 255:
                    raise InputError(f"{where}: has transparent pixels: put it on a background and save it as RGB")
            colour = image.convert("RGB")
            pixels = np.asarray(colour if channels == 3 else colour.convert("L"))
    except BROKEN:
        raise InputError(f"{where}: a damaged PNG: save the crop again") from None
    return pixels.reshape(SIDE, SIDE, channels)


def _has_all_rows(content: bytes) -> bool:
    """Whether the pixels of a PNG unpack to as many bytes as its header asks for (PNG specification, 7.2 and 8.2)."""
    bits, colour, _, _, interlaced = struct.unpack_from(">5B", content, 24)
    bits_a_pixel = bits * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    needed = 0
    for left, top, across, down in ADAM7 if interlaced else [(0, 0, 1, 1)]:
        rows, columns = len(range(top, SIDE, down)), len(range(left, SIDE, across))
        needed += rows * (1 + -(-columns * bits_a_pixel // 8))
    packed, place = [], 8
    while place + 8 <= len(content):
        size, kind = struct.unpack_from(">I4s", content, place)
        if kind == b"IDAT":
            packed.append(content[place + 8 : place + 8 + size])
        place += 12 + size
    return len(zlib.decompressobj().decompress(b"".join(packed), needed)) == needed
