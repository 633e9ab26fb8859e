"""Pictures of tissue, from a crop to a slide, read piece by piece: PNG, JPEG, TIFF, and what OpenSlide opens."""

import os
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL.Image
import tifffile

from nuclei.data.png_rows import has_all_rows
from nuclei.data.resolution import UNKNOWN, Resolution, density_resolution
from nuclei.data.slides import Slide, open_slide, slide_resolution
from nuclei.data.tiffs import (
    LARGEST,
    STARTS,
    check_tiff,
    grey_to_rgb,
    in_segments,
    open_tiff,
    read_pages,
    reduce_image,
    segment_reader,
    unreadable,
)
from nuclei.data.zips import BROKEN
from nuclei.errors import InputError
from nuclei.files import require_file

BLOCK = 2048  # pixels a side of what is best read together
WHOLE = ("PNG", "JPEG", "TIFF")
NO_SLIDES = (b"\x89PNG", b"GIF8", b"BM")  # starts of files that OpenSlide need not be asked about
OPENSLIDE_ALONE = (33003, 33005)  # compressions of Aperio's slides
MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "YCbCr")


@dataclass(frozen=True)
class Image:
    """A picture whose pixels stay on the disk until they are asked for.

    mpp: microns a pixel, None where the file does not tell; mpp_source: where it does
    block: rows and columns of what is best read together
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
    mpp_source: str = ""


@contextmanager
def open_image(path: Path) -> Iterator[Image]:
    """Open a picture. Raises InputError where nothing here can read it.

    TIFFs are read in their tiles or strips where that needs no more than this package; other TIFFs, and slides, by
    OpenSlide where it is installed; what then is left, PNG and JPEG among it, whole.
    """
    with ExitStack() as stack:
        yield _open(path, stack)


def _open(path: Path, stack: ExitStack) -> Image:
    try:
        require_file(path)
        file = stack.enter_context(path.open("rb"))
        start = file.read(4)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}): expected a picture") from None
    page, resolution = None, UNKNOWN
    if start in STARTS:
        pages, resolution = read_pages(stack.enter_context(open_tiff(file, str(path))), str(path))
        page = pages[0]
        try:
            if len(pages) > 1 or in_segments(page):
                return _from_pages(path, pages, resolution)
        except InputError:
            raise
        except Exception:  # whatever lying tags make of NumPy and tifffile
            raise InputError(f"{path}: a damaged TIFF: copy or save it again") from None
    slide = (
        None
        if start.startswith(NO_SLIDES) or path.suffix.lower() in (".jpg", ".jpeg")
        else _open_slide(path, stack, page)
    )
    if slide:
        return _from_slide(slide, resolution)
    if page and page.compression in OPENSLIDE_ALONE:
        raise unreadable(page, str(path))
    try:
        return _from_array(path, *_decode(path, str(path)))
    except InputError as error:
        hint = "" if find_openslide() else "; for slides, pip install -e '.[slide]'"
        raise InputError(f"{error}{hint}") from None


def find_openslide() -> bool:
    """Whether the extra `slide` is installed."""
    try:
        return find_spec("openslide") is not None
    except ValueError:
        return False


def _open_slide(path: Path, stack: ExitStack, page: tifffile.TiffPage | None) -> Slide | None:
    if not find_openslide():
        return None
    try:
        return stack.enter_context(open_slide(path))
    except InputError as error:
        raise _compression_named(error, page, str(path)) from None


def _compression_named(error: InputError, page: tifffile.TiffPage | None, where: str) -> InputError:
    return unreadable(page, where) if page and "Unsupported TIFF compression" in str(error) else error


def decode(file: Path | BinaryIO, where: str) -> np.ndarray:
    """Decode a whole PNG, JPEG or TIFF to RGB, uint8 (H, W, 3). Raises InputError that starts with `where`."""
    return _decode(file, where)[0]


def decode_with_resolution(file: Path | BinaryIO, where: str) -> tuple[np.ndarray, Resolution]:
    """Decode as `decode` does; return also what the file tells of its resolution."""
    return _decode(file, where)


def _decode(file: Path | BinaryIO, where: str) -> tuple[np.ndarray, Resolution]:
    with ExitStack() as stack:
        stream = stack.enter_context(file.open("rb")) if isinstance(file, Path) else file
        start = stream.read(8)
        stream.seek(0)
        resolution = UNKNOWN
        if start[:4] in STARTS:
            resolution = check_tiff(stream, where)
            stream.seek(0)
            stack.enter_context(_quiet())
        pixels, density = _decode_whole(stream, where)
        return pixels, resolution if resolution.mpp else density


def _decode_whole(stream: BinaryIO, where: str) -> tuple[np.ndarray, Resolution]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures, which are judged here, and of odd tags
            with PIL.Image.open(stream, formats=WHOLE) as image:
                size = f"{image.width}x{image.height}"
                if image.width * image.height > LARGEST:
                    raise _too_large(size, where)
                if image.mode[0] in "IF" or ";16" in str(image.tile):
                    raise InputError(f"{where}: more than 8 bits a channel: rescale to 8 bits first")
                if image.mode not in MODES:
                    raise InputError(f"{where}: colours are {image.mode}, expected grey or RGB: save it as RGB")
                if image.format != "TIFF" and getattr(image, "n_frames", 1) > 1:  # pages of a TIFF are judged before
                    raise InputError(f"{where}: {image.n_frames} frames, expected one: save the one that counts")
                orientation = image.getexif().get(274, 1) if image.format != "TIFF" else 1
                if orientation not in (0, 1):
                    raise InputError(
                        f"{where}: to be rotated or flipped when it is shown (orientation {orientation}): save it so"
                    )
                image.load()
                density = density_resolution(image.info.get("dpi")) if image.format != "TIFF" else UNKNOWN
                if image.format == "PNG" and not has_all_rows(image, stream):
                    raise InputError(f"{where}: damaged: copy or save it again")
                if "A" in image.getbands() or "transparency" in image.info:
                    image = image.convert("RGBA")
                    if image.getchannel("A").getextrema()[0] < 255:
                        raise InputError(f"{where}: has transparent pixels: put it on a background, save it as RGB")
                return np.asarray(image.convert("RGB")), density
    except PIL.UnidentifiedImageError:
        raise InputError(f"{where}: not a PNG, JPEG or TIFF: convert it") from None
    except PIL.Image.DecompressionBombError:
        raise _too_large("too large", where) from None
    except (*BROKEN, TypeError, LookupError, ArithmeticError, AttributeError, MemoryError, zlib.error):
        raise InputError(f"{where}: damaged: copy or save it again") from None


def _too_large(size: str, where: str) -> InputError:
    many = f"{size} pixels, too many" if size[0].isdigit() else f"more than {LARGEST:,} pixels, too many"
    return InputError(f"{where}: {many} to decode at once: save it as a tiled TIFF without compression or with deflate")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what libtiff prints from standard error: what matters of it is raised."""
    try:
        before = os.dup(2)
    except OSError:  # closed
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


def as_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """Return RGB pixels, uint8 (H, W, 3), as they are or, where channels is 1, as luma (H, W, 1) by ITU-R 601-2."""
    return pixels if channels == 3 else np.asarray(PIL.Image.fromarray(pixels).convert("L"))[..., None]


def _from_array(path: Path, pixels: np.ndarray, resolution: Resolution) -> Image:
    def read(top: int, left: int, bottom: int, right: int) -> np.ndarray:
        return pixels[top:bottom, left:right]

    return _image(path, pixels.shape[:2], resolution, (BLOCK, BLOCK), read)


def _from_pages(path: Path, pages: list[tifffile.TiffPage], resolution: Resolution) -> Image:
    """Read the tiles or strips of a page, or of each of three, when they are asked for."""
    first = pages[0]
    height, width = first.imagelength, first.imagewidth
    readers = [_page_reader(path, page) for page in pages]

    def read(top: int, left: int, bottom: int, right: int) -> np.ndarray:
        parts = [reader(top, left, bottom, right) for reader in readers]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)

    is_large_strip = not first.is_tiled and not first.is_memmappable
    block = (max(BLOCK**2 // width, 1), width) if is_large_strip else (BLOCK, BLOCK)
    return _image(path, (height, width), resolution, block, read)


def _page_reader(path: Path, page: tifffile.TiffPage) -> Callable[[int, int, int, int], np.ndarray]:
    if not page.is_memmappable:
        return segment_reader(page, str(path))
    pixels = tifffile.memmap(path, page=page.index, mode="r")
    pixels = pixels.reshape(page.imagelength, page.imagewidth, page.samplesperpixel)
    return lambda top, left, bottom, right: pixels[top:bottom, left:right]


def _image(
    path: Path,
    size: tuple[int, int],
    resolution: Resolution,
    block: tuple[int, int],
    read_region: Callable[[int, int, int, int], np.ndarray],
) -> Image:
    height, width = size

    def read(top: int, left: int, bottom: int, right: int) -> np.ndarray:
        return grey_to_rgb(read_region(top, left, bottom, right))

    def thumbnail(longest: int) -> np.ndarray:
        return reduce_image(read, height, width, longest)

    return Image(path, width, height, resolution.mpp, block, read, thumbnail, resolution.source)


def _from_slide(slide: Slide, resolution: Resolution) -> Image:
    left, top, width, height = _scanned(slide)

    def reader(level: int) -> Callable[[int, int, int, int], np.ndarray]:
        step = slide.downsamples[level]

        def read(first: int, begin: int, last: int, end: int) -> np.ndarray:
            corner = left + round(step * begin), top + round(step * first)
            return slide.read(corner, level, (end - begin, last - first))

        return read

    def thumbnail(longest: int) -> np.ndarray:
        wanted = max(height, width) / longest
        level = max((n for n, step in enumerate(slide.downsamples) if step <= wanted), default=0)
        step = slide.downsamples[level]
        return reduce_image(reader(level), max(int(height / step), 1), max(int(width / step), 1), longest, BLOCK**2)

    told = slide_resolution(slide)
    if not told.mpp or (resolution.mpp and told.source.startswith("an objective")):
        told = resolution if resolution.mpp else told
    return Image(slide.path, width, height, told.mpp, (BLOCK, BLOCK), reader(0), thumbnail, told.source)


def _scanned(slide: Slide) -> tuple[int, int, int, int]:
    """Return left, top, width and height of what was scanned, the whole where the slide does not tell.

    QuPath counts from that corner too (its OpenslideImageServer).
    """
    try:
        left, top, width, height = (
            int(slide.properties[f"openslide.bounds-{name}"]) for name in ("x", "y", "width", "height")
        )
    except (KeyError, ValueError):
        return 0, 0, *slide.levels[0]
    return left, top, width, height
