"""Whether a PNG holds all of its rows: decoders fill what is missing without a word."""

import struct
import zlib
from typing import BinaryIO

ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # per pixel, by colour type
PIECE = 2**20  # bytes that are unpacked at once


def has_all_rows(file: BinaryIO) -> bool:
    """Whether the pixels unpack to as many bytes as the header asks for (PNG specification, 7.2 and 8.2).

    Args:
        file: a PNG, from its beginning.
    """
    width, height, bits, colour, _, _, interlaced = struct.unpack(">II5B", file.read(33)[16:29])
    needed = 0
    for left, top, across, down in ADAM7 if interlaced else [(0, 0, 1, 1)]:
        rows, columns = len(range(top, height, down)), len(range(left, width, across))
        needed += rows * (1 + -(-columns * bits * SAMPLES[colour] // 8)) if columns else 0
    stream, unpacked = zlib.decompressobj(), 0
    while len(header := file.read(8)) == 8 and unpacked < needed:
        size, kind = struct.unpack(">I4s", header)
        content = file.read(size)
        file.read(4)  # its check sum
        while kind == b"IDAT" and content and unpacked < needed:
            unpacked += len(stream.decompress(content, PIECE))
            content = stream.unconsumed_tail
    return unpacked >= needed
