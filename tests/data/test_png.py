import zlib

import numpy as np
from raw_files import (
    GREY,
    GREY_ALPHA,
    PALETTE,
    PIXELS,
    PNGS,
    RGB_ALPHA,
    TRAIN,
    cases,
    chunk,
    complaint,
    crop,
    header,
    noise,
    png,
)

from nuclei.data.unpack import unpack

MEMBER = "train.zip, member 'train/3.png'"
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
    "99 wide": (png(SMALL[:, :99]), "99x100 pixels, expected 100x100 like the first crop: cut it to that size"),
    "101 high": (
        png(np.pad(SMALL, ((0, 1), (0, 0), (0, 0)))),
        "100x101 pixels, expected 100x100 like the first crop: cut it to that size",
    ),
    "huge": (
        PNGS[3][:8] + header(60_000, 60_000),
        "60000x60000 pixels, expected 100x100 like the first crop: cut it to that size",
    ),
    "nothing wide": (
        PNGS[3][:8] + header(100, 0),
        "0x100 pixels, expected 100x100 like the first crop: cut it to that size",
    ),
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


@cases(BAD_CROPS)
def test_a_member_that_is_no_crop_is_refused(case, raw, out):
    content, message = case
    crop(content)(raw)
    assert complaint(raw, out) == f"{MEMBER}: {message}"


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
