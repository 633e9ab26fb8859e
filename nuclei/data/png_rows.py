"""Whether a PNG holds all of its rows: decoders fill what is missing without a word."""

import struct
import zlib
from typing import BinaryIO

from PIL import Image

ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # per pixel, by colour type
PIECE = 2**20  # bytes that are read or unpacked at once


def has_all_rows(image: Image.Image, file: BinaryIO) -> bool:
    """Whether the pixels unpack to as many bytes as the header asks for (PNG specification, 7.2 and 8.2).

    Args:
        image: The PNG as Pillow decoded it, which leaves missing rows at 0: with another value in the last row, nothing
            is unpacked a second time.
        file: It was decoded from; may be read from anywhere.

    Raises:
        struct.error, zlib.error: Where what follows the header is no PNG.
    """
    file.seek(0)
    width, height, bits, colour, _, _, interlaced = struct.unpack(">II5B", file.read(33)[16:29])
    last = image.crop((0, height - 1, width, height))
    if not interlaced and last.getbbox(alpha_only=False):  # the last row of an interlaced PNG may not be sent last
        return True
    needed = 0
    for left, top, across, down in ADAM7 if interlaced else [(0, 0, 1, 1)]:
        rows, columns = len(range(top, height, down)), len(range(left, width, across))
        needed += rows * (1 + -(-columns * bits * SAMPLES[colour] // 8)) if columns else 0
    stream, unpacked = zlib.decompressobj(), 0
    while len(start := file.read(8)) == 8 and unpacked < needed:
        size, kind = struct.unpack(">I4s", start)
        if kind != b"IDAT":
            file.seek(size + 4, 1)  # and its check sum
            continue
        while unpacked < needed and (packed := file.read(min(size, PIECE))):
            size -= len(packed)
            while packed and unpacked < needed:
                unpacked += len(stream.decompress(packed, PIECE))
                packed = stream.unconsumed_tail
        file.seek(4, 1)
    return unpacked >= needed
