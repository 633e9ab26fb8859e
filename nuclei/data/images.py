"""Pictures of tissue, from a crop to a slide, read piece by piece: PNG, JPEG, TIFF, and what OpenSlide opens."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL.Image
import tifffile

from nuclei.data.zips import BROKEN
from nuclei.errors import InputError
from nuclei.files import require_file

try:
    from openslide import OpenSlide, OpenSlideError
except (ImportError, OSError):  # the extra `slide` is not installed
    OpenSlide = None

LARGEST = 2**27  # pixels that are decoded at once
BLOCK = 2048  # pixels a side of what is best read together
CACHE = 2**27  # bytes of decoded TIFF segments
MICROSCOPE = 0.02, 10.0  # microns a pixel; other resolutions in a file are those of a printer or a screen
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
WHOLE = ("PNG", "JPEG", "TIFF")


@dataclass(frozen=True)
class Image:
    """A picture whose pixels stay on the disk until they are asked for.

    mpp: microns a pixel, None where the file does not tell; block: rows and columns of what is best read together
    read: of (top, left, bottom, right) within the picture returns RGB, uint8 (bottom - top, right - left, 3)
    thumbnail: of a number of pixels returns the whole in RGB, uint8 (h, w, 3), no side longer than that
    """

    path: Path
    width: int
    height: int
    mpp: float | None
    block: tuple[int, int]
    read: Callable[[int, int, int, int], np.ndarray]
    thumbnail: Callable[[int], np.ndarray]


@contextmanager
def open_image(path: Path) -> Iterator[Image]:
    """Open a picture. Raises InputError where nothing here can read it.

    TIFFs are read in their tiles or strips where that needs no more than tifffile; other TIFFs, and slides, by
    OpenSlide where it is installed; what then is left, PNG and JPEG among it, whole.
    """
    with ExitStack() as stack:
        yield _open(path, stack)


def _open(path: Path, stack: ExitStack) -> Image:
    try:
        require_file(path)
        with path.open("rb") as file:
            is_tiff = file.read(4) in TIFF_STARTS
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}): expected a picture") from None
    mpp = None
    if is_tiff:
        try:
            page = stack.enter_context(tifffile.TiffFile(path)).pages.first
            mpp = _mpp(page)
            if _in_segments(page):
                return _from_segments(path, page)
        except (tifffile.TiffFileError, LookupError, *BROKEN):
            raise InputError(f"{path}: a damaged TIFF: copy or save it again") from None
    if OpenSlide and OpenSlide.detect_format(path):
        return _from_slide(path, stack)
    try:
        return _from_array(path, decode(path, str(path)), mpp)
    except InputError as error:
        hint = "" if OpenSlide else "; for slides, pip install -e '.[slide]'"
        raise InputError(f"{error}{hint}") from None


def decode(file: Path | BinaryIO, where: str) -> np.ndarray:
    """Decode a whole PNG, JPEG or TIFF to RGB, uint8 (H, W, 3). Raises InputError that starts with `where`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures, which are judged here, and of odd tags
            with PIL.Image.open(file, formats=WHOLE) as image:
                if image.width * image.height > LARGEST:
                    raise InputError(
                        f"{where}: {image.width}x{image.height} pixels, too many to decode at once: save it as a tiled "
                        "TIFF without compression or with deflate"
                    )
                if image.mode[0] in "IF" or ";16" in str(image.tile):
                    raise InputError(f"{where}: more than 8 bits a channel: convert it (how to scale it is for you)")
                image.load()
                if "A" in image.getbands() or "transparency" in image.info:
                    image = image.convert("RGBA")
                    if image.getchannel("A").getextrema()[0] < 255:
                        raise InputError(f"{where}: has transparent pixels: put it on a background, save it as RGB")
                return np.asarray(image.convert("RGB"))
    except PIL.UnidentifiedImageError:
        raise InputError(f"{where}: not a PNG, JPEG or TIFF: convert it") from None
    except BROKEN:
        raise InputError(f"{where}: damaged: copy or save it again") from None


def as_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """Return RGB pixels, uint8 (H, W, 3), as they are or, where channels is 1, as luma (H, W, 1) by ITU-R 601-2."""
    return pixels if channels == 3 else np.asarray(PIL.Image.fromarray(pixels).convert("L"))[..., None]


def _from_array(path: Path, pixels: np.ndarray, mpp: float | None) -> Image:
    height, width = pixels.shape[:2]

    def read(top: int, left: int, bottom: int, right: int) -> np.ndarray:
        return _rgb(pixels[top:bottom, left:right])

    return Image(path, width, height, mpp, (BLOCK, BLOCK), read, lambda longest: _reduce(read, height, width, longest))


def _in_segments(page: tifffile.TiffPage) -> bool:
    """Whether the page is 8-bit grey or RGB, whole or in tiles or strips of a sensible size, in a known compression."""
    return (
        page.dtype == np.uint8
        and page.bitspersample == 8
        and page.samplesperpixel in (1, 3)
        and page.planarconfig == tifffile.PLANARCONFIG.CONTIG
        and page.imagedepth == 1
        and page.photometric in (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB)
        and page.compression in tifffile.TIFF.DECOMPRESSORS
        and page.predictor in tifffile.TIFF.UNPREDICTORS
        and (page.is_memmappable or page.chunks[0] * page.chunks[1] <= LARGEST)
    )


def _from_segments(path: Path, page: tifffile.TiffPage) -> Image:
    """Read the tiles or strips of a page when they are asked for, and keep the last ones."""
    if page.is_memmappable:
        return _from_array(path, tifffile.memmap(path, page=0, mode="r"), _mpp(page))
    file, (tall, wide), across = page.parent.filehandle, page.chunks[:2], -(-page.imagewidth // page.chunks[1])
    shape = (tall, wide, page.samplesperpixel)

    @lru_cache(maxsize=max(CACHE // (tall * wide * page.samplesperpixel), 1))
    def segment(index: int) -> np.ndarray:
        data = None
        if page.databytecounts[index]:
            file.seek(page.dataoffsets[index])
            data = file.read(page.databytecounts[index])
        try:
            decoded = page.decode(data, index, jpegtables=page.jpegtables)[0]
        except (tifffile.TiffFileError, *BROKEN):
            raise InputError(f"{path}: damaged in tile or strip {index}: copy or save it again") from None
        if decoded is None:  # a gap in a sparse file is bare glass
            return np.full(shape, 255, np.uint8)
        return decoded.reshape(-1, wide, page.samplesperpixel)

    def read(top: int, left: int, bottom: int, right: int) -> np.ndarray:
        region = np.empty((bottom - top, right - left, page.samplesperpixel), np.uint8)
        for row in range(top // tall, -(-bottom // tall)):
            for column in range(left // wide, -(-right // wide)):
                y, x = row * tall, column * wide
                first, last = max(top, y), min(bottom, y + tall)
                begin, end = max(left, x), min(right, x + wide)
                some = segment(row * across + column)[first - y : last - y, begin - x : end - x]
                region[first - top : last - top, begin - left : end - left] = some
        return _rgb(region)

    height, width = page.imagelength, page.imagewidth
    block = (BLOCK, BLOCK) if page.is_tiled else (max(BLOCK**2 // width, 1), width)
    return Image(path, width, height, _mpp(page), block, read, lambda longest: _reduce(read, height, width, longest))


def _from_slide(path: Path, stack: ExitStack) -> Image:
    try:
        slide = stack.enter_context(OpenSlide(path))
    except OpenSlideError as error:
        raise InputError(f"{path}: a damaged slide ({error}): copy it again") from None

    left, top, width, height = _scanned(slide)

    def reader(level: int) -> Callable[[int, int, int, int], np.ndarray]:
        step = slide.level_downsamples[level]

        def read(first: int, begin: int, last: int, end: int) -> np.ndarray:
            corner = left + round(step * begin), top + round(step * first)
            try:
                region = slide.read_region(corner, level, (end - begin, last - first))
            except OpenSlideError as error:
                raise InputError(f"{path}: a damaged slide ({error}): copy it again") from None
            glass = PIL.Image.new("RGB", region.size, "white")
            glass.paste(region, mask=region.getchannel("A"))
            return np.asarray(glass)

        return read

    def thumbnail(longest: int) -> np.ndarray:
        level = slide.get_best_level_for_downsample(max(height, width) / longest)
        step = slide.level_downsamples[level]
        return _reduce(reader(level), int(height / step), int(width / step), longest)

    mpp = _sensible(float(slide.properties.get("openslide.mpp-x", 0)))
    return Image(path, width, height, mpp, (BLOCK, BLOCK), reader(0), thumbnail)


def _scanned(slide: "OpenSlide") -> tuple[int, int, int, int]:
    """Return left, top, width and height of what was scanned, the whole where the slide does not tell.

    QuPath counts from that corner too (its OpenslideImageServer).
    """
    bounds = [slide.properties.get(f"openslide.bounds-{name}") for name in ("x", "y", "width", "height")]
    return tuple(map(int, bounds)) if all(bounds) else (0, 0, *slide.dimensions)


def _mpp(page: tifffile.TiffPage) -> float | None:
    """Microns a pixel by the resolution tags, None where they don't speak of a microscope."""
    if page.resolutionunit not in (tifffile.RESUNIT.INCH, tifffile.RESUNIT.CENTIMETER):
        return None
    pixels_a_micron = page.get_resolution(tifffile.RESUNIT.MICROMETER)[0]
    return _sensible(1 / pixels_a_micron) if pixels_a_micron > 0 else None


def _sensible(mpp: float) -> float | None:
    return mpp if MICROSCOPE[0] <= mpp <= MICROSCOPE[1] else None


def _rgb(pixels: np.ndarray) -> np.ndarray:
    """Turn (H, W), (H, W, 1) or (H, W, 3) into (H, W, 3)."""
    return np.broadcast_to(pixels.reshape(*pixels.shape[:2], -1), (*pixels.shape[:2], 3))


def _reduce(read: Callable[[int, int, int, int], np.ndarray], height: int, width: int, longest: int) -> np.ndarray:
    """Average squares of pixels so that no side is longer than `longest`, a band of rows at a time."""
    factor = -(-max(height, width) // longest)
    step = factor * max(BLOCK**2 // (factor * width), 1)
    bands = []
    for top in range(0, height, step):
        band = PIL.Image.fromarray(np.ascontiguousarray(read(top, 0, min(top + step, height), width)))
        bands.append(np.asarray(band.reduce(factor)))
    return np.concatenate(bands)
