"""PNGs that swell, contradict themselves or are something else."""

import gzip
import struct
import zlib
from functools import cache

from hostile.outcomes import Accepted, Cases, Refused
from raw_files import GREY, PALETTE, PIXELS, PNGS, RGB, RGB_ALPHA, chunk, crop, header, noise, png

SMALL = PIXELS[3].astype("u2")
START, IEND = PNGS[3][:8], chunk(b"IEND", b"")
SCANLINES = b"".join(b"\0" + row.tobytes() for row in PIXELS[3])
PACKED = zlib.compress(SCANLINES, 1)
IDAT = chunk(b"IDAT", PACKED)

MEMBER = "train.zip, member 'train/3.png': "
DAMAGED = Refused(f"{MEMBER}a damaged PNG: save the crop again")
NO_PNG = Refused(f"{MEMBER}not a PNG: convert it")
AS_STORED = Accepted("pixels are taken as they are stored, whatever else the file says of colours")
ALL_THERE = Accepted("the pixels are all there, and their check sum is right")
PASSED_OVER = Accepted("what a crop does not need is passed over, within the member's size")


def body(*chunks: bytes, head: bytes | None = None) -> bytes:
    return START + (head or header(100, 100)) + b"".join(chunks) + IEND


def with_chunks(*chunks: bytes) -> bytes:
    return body(*chunks, IDAT)


def ihdr(width: int, height: int, *rest: int) -> bytes:
    return chunk(b"IHDR", struct.pack(">II5B", width, height, *rest))


@cache
def packed_zeros(size: int) -> bytes:
    return zlib.compress(bytes(size), 1)


def bomb(kind: bytes, start: bytes, size: int = 50_000_000) -> bytes:
    return chunk(kind, start + packed_zeros(size))


def filled(size: int) -> bytes:
    """Fill a crop with text up to `size` bytes."""
    return with_chunks(chunk(b"tEXt", b"a\0" + b"b" * (size - len(PNGS[3]) - 14)))


def interlaced_without_a_row() -> bytes:
    packed = png(noise(0, 1), colour=GREY, interlaced=True)[41:-16]
    return body(chunk(b"IDAT", zlib.compress(zlib.decompress(packed)[:-101])), head=header(100, 100, 8, GREY, True))


def frames(count: int, *more: bytes) -> bytes:
    control = chunk(b"fcTL", struct.pack(">5I2H2B", 0, 100, 100, 0, 0, 1, 10, 0, 0))
    return with_chunks(chunk(b"acTL", struct.pack(">2I", count, 0)), control)[:-12] + b"".join(more) + IEND


SECOND_FRAME = chunk(b"fcTL", struct.pack(">5I2H2B", 1, 100, 100, 0, 0, 1, 10, 0, 0)) + chunk(
    b"fdAT", struct.pack(">I", 2) + PACKED
)
LATER_PALETTE = body(chunk(b"PLTE", bytes(768)), IDAT)

CROP_CONTENTS = {
    # animations
    "an animation": (frames(2, SECOND_FRAME), Refused(f"{MEMBER}2 frames, expected one: save the one that counts")),
    "an animation of 2**31 - 1 frames": (frames(2**31 - 1), Refused(f"{MEMBER}2147483647 frames, expected one")),
    "an animation of one frame": (frames(1), Accepted("one frame is one picture")),
    "an animation of no frames": (frames(0), Accepted("it is none; the picture is whole")),
    # what swells
    "a colour profile that unpacks to 50 MB": (with_chunks(bomb(b"iCCP", b"a\0\0")), DAMAGED),
    "international text that unpacks to 50 MB": (with_chunks(bomb(b"iTXt", b"a\0\1\0\0\0")), DAMAGED),
    "a hundred texts that unpack to 900 KB each": (
        with_chunks(*[bomb(b"zTXt", b"%d\0\0" % number, 900_000) for number in range(100)]),
        DAMAGED,
    ),
    "text behind the pixels that unpacks to 50 MB": (body(IDAT, bomb(b"zTXt", b"a\0\0")), DAMAGED),
    "pixels that unpack to 50 MB more than there are": (
        body(chunk(b"IDAT", zlib.compress(SCANLINES + bytes(50_000_000), 1))),
        Accepted("only as much is unpacked as the picture needs"),
    ),
    "a crop of 8 MiB": (filled(2**23), PASSED_OVER),
    "a crop of 8 MiB and a byte": (
        filled(2**23 + 1),
        Refused(f"{MEMBER}8,388,609 bytes, more than a crop can have (at most 8,388,608): remove it"),
    ),
    "80,000 empty chunks": (with_chunks(chunk(b"prIv", b"") * 80_000), PASSED_OVER),
    "pixels a byte a chunk": (body(*[chunk(b"IDAT", PACKED[at : at + 1]) for at in range(len(PACKED))]), PASSED_OVER),
    "chunks of pixels without any": (body(chunk(b"IDAT", b"") * 100, IDAT), PASSED_OVER),
    # sizes
    "2**31 wide": (START + ihdr(2**31, 100, 8, RGB, 0, 0, 0), Refused(f"{MEMBER}2147483648x100 pixels, expected")),
    "2**32 - 1 high": (START + ihdr(100, 2**32 - 1, 8, RGB, 0, 0, 0), Refused(f"{MEMBER}100x4294967295 pixels")),
    "60,000x60,000 with all of its pixels packed": (
        START + ihdr(60_000, 60_000, 1, GREY, 0, 0, 0) + chunk(b"IDAT", bytes(400_000)) + IEND,
        Refused(f"{MEMBER}60000x60000 pixels, expected 100x100 like the first crop: cut it to that size"),
    ),
    # headers
    "no bits": (body(IDAT, head=ihdr(100, 100, 0, RGB, 0, 0, 0)), DAMAGED),
    "3 bits": (body(IDAT, head=ihdr(100, 100, 3, GREY, 0, 0, 0)), DAMAGED),
    "32 bits": (body(IDAT, head=ihdr(100, 100, 32, RGB, 0, 0, 0)), DAMAGED),
    "4 bits of RGB": (body(IDAT, head=ihdr(100, 100, 4, RGB, 0, 0, 0)), DAMAGED),
    "colour type 255": (body(IDAT, head=ihdr(100, 100, 8, 255, 0, 0, 0)), DAMAGED),
    "an unknown compression": (
        body(IDAT, head=ihdr(100, 100, 8, RGB, 1, 0, 0)),
        Accepted("there is but one, and the pixels unpack by it"),
    ),
    "an unknown filter method": (body(IDAT, head=ihdr(100, 100, 8, RGB, 0, 64, 0)), DAMAGED),
    "said to be interlaced": (body(IDAT, head=ihdr(100, 100, 8, RGB, 0, 0, 1)), DAMAGED),
    "said to be RGBA": (body(IDAT, head=ihdr(100, 100, 8, RGB_ALPHA, 0, 0, 0)), DAMAGED),
    "said to be grey of one bit": (
        body(IDAT, head=ihdr(100, 100, 1, GREY, 0, 0, 0)),
        DAMAGED,
    ),
    "a longer header": (START + chunk(b"IHDR", struct.pack(">II5B", 100, 100, 8, 2, 0, 0, 0) + b"x") + IDAT, NO_PNG),
    # pixels
    "no pixels": (body(), DAMAGED),
    "a row of pixels missing": (body(chunk(b"IDAT", zlib.compress(SCANLINES[:-301]))), DAMAGED),
    "a byte of the pixels missing": (body(chunk(b"IDAT", zlib.compress(SCANLINES[:-1]))), DAMAGED),
    "a row of interlaced pixels missing": (interlaced_without_a_row(), DAMAGED),
    "an unknown filter of a row": (body(chunk(b"IDAT", zlib.compress(b"\5" + SCANLINES[1:]))), DAMAGED),
    "a wrong check sum of the pixels": (body(chunk(b"IDAT", PACKED[:-4] + b"abcd")), DAMAGED),
    "a packing that needs a dictionary": (body(chunk(b"IDAT", b"\x78\xbb" + PACKED[2:])), DAMAGED),
    "pixels not packed": (body(chunk(b"IDAT", SCANLINES)), DAMAGED),
    "a chunk that says it is 2 GB": (
        START + header(100, 100) + struct.pack(">I", 2**31 - 1) + b"IDAT" + PACKED,
        ALL_THERE,
    ),
    "a chunk that says it is 4 GB": (START + header(100, 100) + b"\xff\xff\xff\xffIDAT" + PACKED, ALL_THERE),
    "a chunk with a number for a name": (with_chunks(chunk(b"1234", b"x")), PASSED_OVER),
    "a chunk with a name that is none": (with_chunks(chunk(b"\0\0\0\0", b"x")), DAMAGED),
    # what else may be in it
    "gamma, primaries, time and resolution": (
        with_chunks(
            chunk(b"gAMA", struct.pack(">I", 1)),
            chunk(b"cHRM", struct.pack(">8I", *range(8))),
            chunk(b"tIME", bytes(7)),
            chunk(b"pHYs", struct.pack(">IIB", 0, 0, 1)),
            chunk(b"bKGD", bytes(6)),
        ),
        AS_STORED,
    ),
    "a broken gamma": (with_chunks(chunk(b"gAMA", b"")), DAMAGED),
    "a colour profile that is none": (with_chunks(chunk(b"iCCP", b"a\0\0" + zlib.compress(b"profile"))), AS_STORED),
    "a colour profile packed by an unknown method": (with_chunks(chunk(b"iCCP", b"a\0\1x")), DAMAGED),
    "an orientation": (
        with_chunks(chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0")),
        Refused(f"{MEMBER}to be rotated or flipped when it is shown (orientation 6): save it so"),
    ),
    "a broken orientation": (with_chunks(chunk(b"eXIf", b"MM\0*\xff\xff\xff\xff")), AS_STORED),
    "a suggested palette of RGB": (LATER_PALETTE, AS_STORED),
    "a palette without colours": (png(noise(0, 1), colour=PALETTE), DAMAGED),
    "a palette that lacks colours": (png(noise(0, 1), colour=PALETTE, before=chunk(b"PLTE", bytes(9))), DAMAGED),
    "a transparent colour of RGB with a byte of it": (with_chunks(chunk(b"tRNS", b"\0")), DAMAGED),
    "Apple's own PNG": (START + chunk(b"CgBI", b"\x50\0\x20\2") + header(100, 100) + IDAT + IEND, NO_PNG),
    "a page behind the picture": (body(IDAT) + b"<script>alert(1)</script>", Accepted("unread, and never shown")),
    "a zip behind the picture": (
        body(IDAT) + b"PK\5\6" + bytes(18),
        Accepted("it is not read"),
    ),
    "no end": (body(IDAT)[:-12], ALL_THERE),
    # something else
    "EPS, which is a program": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n(x) run\n", NO_PNG),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg' width='100' height='100'/>", NO_PNG),
    "PDF": (b"%PDF-1.7\n" + bytes(100), NO_PNG),
    "BMP": (b"BM" + bytes(100), NO_PNG),
    "GIF": (b"GIF89a\x64\0\x64\0" + bytes(100), NO_PNG),
    "TIFF": (b"II*\0" + bytes(100), NO_PNG),
    "WebP": (b"RIFF\x64\0\0\0WEBP" + bytes(100), NO_PNG),
    "MNG": (b"\x8aMNG\r\n\x1a\n" + PNGS[3][8:], NO_PNG),
    "a PNG packed once more": (gzip.compress(PNGS[3]), NO_PNG),
    "a PNG sent as text": (PNGS[3].replace(b"\r\n", b"\n"), NO_PNG),
    "a pickle": (b"\x80\4cos\nsystem\n(S'touch x'\ntR.", NO_PNG),
}

CROPS: Cases = {name: (crop(content), outcome) for name, (content, outcome) in CROP_CONTENTS.items()}
