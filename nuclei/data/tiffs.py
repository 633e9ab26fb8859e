"""TIFFs: which of their pages make up the image, and its tiles or strips read one by one, whatever they claim."""

import lzma
import zlib
from collections.abc import Callable
from functools import lru_cache
from typing import BinaryIO

import numpy as np
import PIL.Image
import tifffile

from nuclei.data.resolution import LONGEST_TEXT, Resolution, imagej_values, ome_pixels, tiff_resolution
from nuclei.errors import InputError

MAX_DECODED_PIXELS = 2**27  # pixels that are decoded at once
CACHE = 2**27  # bytes of decoded segments
MOST_PAGES = 64  # that are looked at
SPARSE = 2**29, 2**13  # pixels of any file, and per byte of it: gaps and tiles that repeat take time as well
LZMA_MEMORY = 2**28  # bytes
STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
REDUCED, MASK = 1, 4  # bits of NewSubfileType
# By tag: what is unpacked here, and what Pillow or OpenSlide unpack. Other packages make no difference.
NONE, DEFLATE, PACKBITS, LZMA = 1, (8, 32946), 32773, 34925
HERE = (NONE, *DEFLATE, PACKBITS, LZMA)
ELSEWHERE = (*HERE, 2, 3, 4, 5, 6, 7, 32771, 32809, 33003, 33005, 34926, 50000)
COMPRESSIONS = {
    **dict.fromkeys((33003, 33004, 33005, 34712), "JPEG 2000"),
    **dict.fromkeys((22610, 34934), "JPEG XR"),
    **dict.fromkeys((50002, 52546), "JPEG XL"),
    **{5: "LZW", 6: "old-style JPEG", 7: "JPEG", 34887: "LERC", 50000: "Zstandard", 34926: "Zstandard"},
    **{50001: "WebP", 34892: "lossy JPEG", 34933: "PNG", 34925: "LZMA"},
}
ReadRegion = Callable[[int, int, int, int], np.ndarray]


def _image_pages(file: tifffile.TiffFile, where: str, whole: bool) -> tuple[list[tifffile.TiffPage], Resolution]:
    """Return the page that is the image, or its three channels, and the resolution.

    Further pages that are smaller (a pyramid, a label) or marked as reduced are passed over. Which page is the image
    where a further one is larger is left to OpenSlide, unless the first is read here, or `whole`.
    Raises InputError, which starts with `where`, where there is no one image, or none of plain pixels.
    """
    first = _page(file, 0)
    if min(first.imagelength, first.imagewidth) < 1:
        raise InputError(f"{where}: a damaged TIFF, without pixels: copy or save it again")
    _require_plain(first, where)
    text = str(first.description or "")[:LONGEST_TEXT]
    pages = [first]
    for number in range(1, MOST_PAGES):
        try:
            page = _page(file, number)
        except IndexError:
            break
        if (whole or in_segments(first)) and (
            page.imagelength > first.imagelength or page.imagewidth > first.imagewidth
        ):
            raise InputError(f"{where}: page {number + 1} is larger than the first, expected one image: save it as RGB")
        same = (page.imagelength, page.imagewidth) == (first.imagelength, first.imagewidth)
        if same and not int(page.subfiletype or 0) & (REDUCED | MASK):
            pages.append(page)
    planes = max(len(pages), _planes(text))
    resolution = tiff_resolution(first, where)
    if planes > 1 and not (len(pages) == planes == 3 and _is_brightfield_rgb(text)):
        count = f"{planes}{' or more' if len(pages) == MOST_PAGES else ''}"
        raise InputError(f"{where}: {count} pages of one size, expected one image: save it as RGB")
    if planes > 1 and not all(in_segments(page) and page.samplesperpixel == 1 for page in pages):
        raise InputError(f"{where}: colour in three pages, compressed in a way that is not read here: save it as RGB")
    return pages, resolution


def _page(file: tifffile.TiffFile, number: int) -> tifffile.TiffPage:
    page = file.pages[number]
    assert isinstance(page, tifffile.TiffPage)  # which it is unless `useframes` was asked for
    return page


def _require_plain(page: tifffile.TiffPage, where: str) -> None:
    """Raise InputError where tags say that values are no plain colours, or stand elsewhere than they seem to."""
    orientation = int(page.tags.valueof(274, default=1) or 1)
    if orientation != 1:
        raise InputError(f"{where}: to be rotated or flipped when it is shown (orientation {orientation}): save it so")
    formats = page.tags.valueof(339, default=1)
    if set(formats if isinstance(formats, tuple) else (formats,)) - {1, 4} or int(page.bitspersample or 1) > 8:
        raise InputError(f"{where}: values that are not 8-bit unsigned integers: rescale to 8 bits first")
    if page.photometric not in (0, 1, 2, 3, 6):
        kind = tifffile.PHOTOMETRIC(page.photometric).name
        raise InputError(f"{where}: colours are {kind}, expected grey or RGB: save it as RGB")
    if page.imagedepth > 1:
        raise InputError(f"{where}: a volume of {page.imagedepth} planes, expected one image: save it as RGB")
    if page.compression not in ELSEWHERE:
        raise unreadable(page, where)


def unreadable(page: tifffile.TiffPage, where: str) -> InputError:
    """Return the error that names the compression."""
    name = COMPRESSIONS.get(int(page.compression), f"method {int(page.compression)}")
    return InputError(f"{where}: compressed as {name}, which nothing here can read: save it with deflate or JPEG")


def _planes(text: str) -> int:
    """Return how many planes a description tells, which may follow each other without pages of their own."""
    values = imagej_values(text)
    if values.get("images", "").strip().isdecimal():
        return int(values["images"][:9])
    pixels = ome_pixels(text)
    if pixels is None:
        return 1
    sizes = [pixels.get(f"Size{axis}", "1") for axis in "ZT"]
    return int(np.prod([min(int(size), 10**6) for size in sizes if size.isdecimal()] or [1]))


def _is_brightfield_rgb(text: str) -> bool:
    """Whether OME-XML says that three planes are the red, green and blue of one image, and not three stains."""
    pixels = ome_pixels(text)
    if pixels is None or pixels.get("SizeC") != "3" or {pixels.get("SizeZ", "1"), pixels.get("SizeT", "1")} != {"1"}:
        return False
    channels = [element for element in pixels if element.tag.rpartition("}")[2] == "Channel"]
    if len(channels) != 3 or any(channel.get("EmissionWavelength") or channel.get("Fluor") for channel in channels):
        return False
    names = [channel.get("Name", "").strip().lower() for channel in channels]
    return names in (["red", "green", "blue"], ["r", "g", "b"]) or all(
        channel.get("ContrastMethod") == "Brightfield" for channel in channels
    )


def in_segments(page: tifffile.TiffPage) -> bool:
    """Whether the page is 8-bit grey or RGB, whole or in tiles or strips of a sensible size, packed as known here."""
    return (
        page.dtype == np.uint8
        and page.bitspersample == 8
        and page.samplesperpixel in (1, 3)
        and page.planarconfig == tifffile.PLANARCONFIG.CONTIG
        and page.fillorder == 1
        and page.photometric in (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB)
        and page.compression in HERE
        and page.predictor in (1, 2)
        and (page.is_memmappable or page.chunks[0] * page.chunks[1] <= MAX_DECODED_PIXELS)
    )


def require_possible(page: tifffile.TiffPage, where: str) -> None:
    """Raise InputError where a page claims more than its file can hold, before anything of that size is made."""
    tall, wide = page.chunks[:2]
    segments = -(-page.imagelength // tall) * -(-page.imagewidth // wide)
    size = page.parent.filehandle.size
    if not len(page.dataoffsets) == len(page.databytecounts) == segments:
        raise InputError(f"{where}: a damaged TIFF: copy or save it again")
    if page.imagelength * page.imagewidth > SPARSE[0] + SPARSE[1] * size:
        raise InputError(
            f"{where}: a damaged TIFF, which claims {page.imagewidth}x{page.imagelength} pixels in {size:,} bytes: "
            "copy or save it again"
        )


def segment_reader(page: tifffile.TiffPage, where: str) -> ReadRegion:
    """Return what reads (top, left, bottom, right) of a page, uint8 (H, W, samples), and keeps the last segments.

    The page must be one of `in_segments`. Reading raises InputError where a tile or strip is damaged.
    """
    require_possible(page, where)
    file, (tall, wide), across = page.parent.filehandle, page.chunks[:2], -(-page.imagewidth // page.chunks[1])
    samples = page.samplesperpixel

    @lru_cache(maxsize=max(CACHE // (tall * wide * samples), 1))
    def decode(offset: int, size: int, rows: int) -> np.ndarray:  # tiles that repeat are decoded once
        file.seek(offset)
        return _unpack(file.read(size), page, (rows, wide, samples))

    def read(top: int, left: int, bottom: int, right: int) -> np.ndarray:
        region = np.full((bottom - top, right - left, samples), 255, np.uint8)  # a gap in a sparse file is bare glass
        for row in range(top // tall, -(-bottom // tall)):
            for column in range(left // wide, -(-right // wide)):
                index = row * across + column
                offset, size = page.dataoffsets[index], page.databytecounts[index]
                if not (offset and size):
                    continue
                y, x = row * tall, column * wide
                rows = tall if page.is_tiled else min(tall, page.imagelength - y)
                try:
                    pixels = decode(offset, size, rows)
                except Exception:  # whatever damaged bytes make of their decoder
                    message = f"{where}: damaged in tile or strip {index}: copy or save it again"
                    raise InputError(message) from None
                first, last = max(top, y), min(bottom, y + tall)
                begin, end = max(left, x), min(right, x + wide)
                region[first - top : last - top, begin - left : end - left] = pixels[
                    first - y : last - y, begin - x : end - x
                ]
        return region

    return read


def _unpack(data: bytes, page: tifffile.TiffPage, shape: tuple[int, int, int]) -> np.ndarray:
    """Unpack a tile or strip to uint8 of `shape`, no more than that. Raises what its decoder raises, or ValueError."""
    size = int(np.prod(shape))
    if page.compression in DEFLATE:
        data = zlib.decompressobj().decompress(data, size)
    elif page.compression == LZMA:
        data = lzma.LZMADecompressor(lzma.FORMAT_XZ, LZMA_MEMORY).decompress(data, size)
    elif page.compression == PACKBITS:
        data = _unpack_bits(data, size)
    if len(data) < size:
        raise ValueError("it ends early")
    pixels = np.frombuffer(data, np.uint8, size).reshape(shape)
    return np.cumsum(pixels, axis=1, dtype=np.uint8) if page.predictor == 2 else pixels


def _unpack_bits(data: bytes, size: int) -> bytes:
    """Unpack Apple's PackBits (TIFF 6.0, section 9), up to `size` bytes."""
    out, at = bytearray(), 0
    while at < len(data) and len(out) < size:
        count = data[at]
        if count < 128:
            out += data[at + 1 : at + 2 + count]
            at += 2 + count
        else:
            out += data[at + 1 : at + 2] * (257 - count if count > 128 else 0)
            at += 2 if count > 128 else 1
    return bytes(out)


def check_tiff(file: BinaryIO, where: str) -> Resolution:
    """Return the resolution of a TIFF that is to be decoded whole, its single image or the first of a pyramid.

    Raises InputError as `_image_pages` does, and where it is damaged.
    """
    with open_tiff(file, where) as tiff:
        pages, resolution = read_pages(tiff, where, whole=True)
    if len(pages) > 1:
        raise InputError(f"{where}: colour in three pages: save it as RGB")
    return resolution


def open_tiff(file: BinaryIO, where: str) -> tifffile.TiffFile:
    """Open a TIFF, a file in binary mode. Raises InputError."""
    try:
        file.seek(0)
        return tifffile.TiffFile(file)
    except Exception:  # what a damaged header makes of tifffile is anyone's guess
        raise InputError(f"{where}: a damaged TIFF: copy or save it again") from None


def read_pages(tiff: tifffile.TiffFile, where: str, whole: bool = False) -> tuple[list[tifffile.TiffPage], Resolution]:
    """Return what `_image_pages` does. Raises InputError for whatever befalls tifffile, too."""
    try:
        return _image_pages(tiff, where, whole)
    except InputError:
        raise
    except Exception:
        raise InputError(f"{where}: a damaged TIFF: copy or save it again") from None


def grey_to_rgb(pixels: np.ndarray) -> np.ndarray:
    """Turn (H, W), (H, W, 1) or (H, W, 3) into (H, W, 3)."""
    return np.broadcast_to(pixels.reshape(*pixels.shape[:2], -1), (*pixels.shape[:2], 3))


def reduce_image(read: ReadRegion, height: int, width: int, longest: int, block: int = 2**25) -> np.ndarray:
    """Average squares of pixels so that no side is longer than `longest`; at most `block` pixels are held at once."""
    factor = -(-max(height, width) // longest)
    columns = factor * max(block // factor**2, 1)
    columns = min(columns, -(-width // factor) * factor)
    rows = factor * max(block // (factor * columns), 1)
    bands = []
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        parts = [
            np.asarray(PIL.Image.fromarray(np.ascontiguousarray(read(top, left, bottom, right))).reduce(factor))
            for left, right in ((left, min(left + columns, width)) for left in range(0, width, columns))
        ]
        bands.append(np.concatenate(parts, axis=1))
    return np.concatenate(bands)
