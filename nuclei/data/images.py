"""Images of tissue, from a crop to a slide, read piece by piece: PNG, JPEG, TIFF, and what OpenSlide opens."""

import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL.Image
import tifffile

from nuclei.data.png_rows import has_all_rows
from nuclei.data.resolution import UNKNOWN, Resolution, density_resolution
from nuclei.data.slides import Slide, open_slide
from nuclei.data.tiffs import MAX_DECODED_PIXELS, STARTS, check_tiff, in_segments, open_tiff, read_pages, unreadable
from nuclei.data.tissue_image import TissueImage, from_array, from_pages, from_slide
from nuclei.data.zips import BROKEN
from nuclei.errors import InputError
from nuclei.files import require_file

WHOLE = ("PNG", "JPEG", "TIFF")
NO_SLIDES = (b"\x89PNG", b"GIF8", b"BM")  # starts of files that OpenSlide need not be asked about
OPENSLIDE_ALONE = (33003, 33005)  # compressions of Aperio's slides
MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "YCbCr")

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")  # of crops


def require_crop(path: Path) -> None:
    """Raise InputError where a file of a folder of crops is none: a dead link, a pipe. It would be left out unseen."""
    try:
        require_file(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}): put the crop there, or remove it") from None


def require_utf8(name: str, where: str) -> None:
    """Raise InputError where a name is not UTF-8, as in zips of other systems: no table could hold it."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InputError(f"{where}: the name {name!a} is not UTF-8: rename that file") from None


@contextmanager
def open_image(path: Path) -> Iterator[TissueImage]:
    """Open an image.

    TIFFs are read in their tiles or strips where that needs no more than this package; other TIFFs, and slides, by
    OpenSlide where it is installed; what then is left, PNG and JPEG among it, whole.

    Args:
        path: Of the file.

    Yields:
        The image, readable within the context.

    Raises:
        InputError: Nothing here can read it.
    """
    with ExitStack() as stack:
        yield _open(path, stack)


def _open(path: Path, stack: ExitStack) -> TissueImage:
    try:
        require_file(path)
        file = stack.enter_context(path.open("rb"))
        start = file.read(4)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}): expected an image") from None
    page, resolution = None, UNKNOWN
    if start in STARTS:
        pages, resolution = read_pages(stack.enter_context(open_tiff(file, str(path))), str(path))
        page = pages[0]
        try:
            if len(pages) > 1 or in_segments(page):
                return from_pages(path, pages, resolution)
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
        return from_slide(slide, resolution)
    if page and page.compression in OPENSLIDE_ALONE:
        raise unreadable(page, str(path))
    try:
        pixels, resolution = decode_with_resolution(path, str(path))
        return from_array(path, pixels, resolution)
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
    """Decode a whole PNG, JPEG or TIFF.

    Args:
        file: Its path, or the open file.
        where: What a message calls it.

    Returns:
        RGB, uint8 (H, W, 3).

    Raises:
        InputError: It cannot be read, or is more than a plain image of 8 bits; starts with `where`.
    """
    return decode_with_resolution(file, where)[0]


def decode_with_resolution(file: Path | BinaryIO, where: str) -> tuple[np.ndarray, Resolution]:
    """Decode a whole PNG, JPEG or TIFF, and tell its resolution.

    Args:
        file: As for `decode`.
        where: As for `decode`.

    Returns:
        RGB, uint8 (H, W, 3), and what the file tells of its resolution.

    Raises:
        InputError: As `decode`.
    """
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
            warnings.simplefilter("ignore")  # of large images, which are judged here, and of odd tags
            with PIL.Image.open(stream, formats=WHOLE) as image:
                size = f"{image.width}x{image.height}"
                if image.width * image.height > MAX_DECODED_PIXELS:
                    raise _too_large(size, where)
                if image.mode[0] in "IF" or ";16" in str(image.tile):
                    raise InputError(f"{where}: more than 8 bits per channel: rescale to 8 bits first")
                if image.mode not in MODES:
                    raise InputError(f"{where}: colours are {image.mode}, expected grey or RGB: save it as RGB")
                frames = getattr(image, "n_frames", 1) if image.format != "TIFF" else 1  # its pages are judged before
                if frames > 1:
                    raise InputError(f"{where}: {frames} frames, expected one: save the one that counts")
                orientation = image.getexif().get(274, 1) if image.format != "TIFF" else 1
                if orientation not in (0, 1):
                    raise InputError(
                        f"{where}: to be rotated or flipped when it is shown (orientation {orientation}): save it so"
                    )
                image.load()
                density = density_resolution(image.info.get("dpi")) if image.format != "TIFF" else UNKNOWN
                if image.format == "PNG" and not has_all_rows(image, stream):
                    raise InputError(f"{where}: damaged: copy or save it again")
                plain: PIL.Image.Image = image
                if "A" in image.getbands() or "transparency" in image.info:
                    plain = image.convert("RGBA")
                    if np.asarray(plain.getchannel("A")).min() < 255:
                        raise InputError(f"{where}: has transparent pixels: put it on a background, save it as RGB")
                return np.asarray(plain.convert("RGB")), density
    except PIL.UnidentifiedImageError:
        raise InputError(f"{where}: not a PNG, JPEG or TIFF: convert it") from None
    except PIL.Image.DecompressionBombError:
        raise _too_large("too large", where) from None
    except (*BROKEN, TypeError, LookupError, ArithmeticError, AttributeError, MemoryError):
        raise InputError(f"{where}: damaged: copy or save it again") from None


def _too_large(size: str, where: str) -> InputError:
    many = f"{size} pixels, too many" if size[0].isdigit() else f"more than {MAX_DECODED_PIXELS:,} pixels, too many"
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
    """Turn RGB pixels into what a network takes.

    Args:
        pixels: uint8 (H, W, 3).
        channels: 3: as they are; 1: luma by ITU-R 601-2.

    Returns:
        uint8 (H, W, channels).
    """
    return pixels if channels == 3 else np.asarray(PIL.Image.fromarray(pixels).convert("L"))[..., None]
