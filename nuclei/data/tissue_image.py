"""An image of tissue whose pixels stay on the disk until they are asked for, whatever holds them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile

from nuclei.data.resolution import Resolution
from nuclei.data.slides import Slide, slide_resolution
from nuclei.data.tiffs import ReadRegion, grey_to_rgb, reduce_image, segment_reader

BLOCK = 2048  # pixels per side of what is best read together


@dataclass(frozen=True)
class TissueImage:
    """An image whose pixels stay on the disk until they are asked for.

    Attributes:
        path: Of the file.
        width: Pixels.
        height: Pixels.
        mpp: Microns per pixel, None where the file does not tell.
        block: Rows and columns of what is best read together.
        read: Of (top, left, bottom, right) within the image returns RGB, uint8 (bottom - top, right - left, 3).
        thumbnail: Of a number of pixels returns the whole in RGB, uint8 (h, w, 3), no side longer than that.
        mpp_source: Where the file tells `mpp`.
    """

    path: Path
    width: int
    height: int
    mpp: float | None
    block: tuple[int, int]
    read: ReadRegion
    thumbnail: Callable[[int], np.ndarray]
    mpp_source: str = ""


def from_array(path: Path, pixels: np.ndarray, resolution: Resolution) -> TissueImage:
    """Return an image that was decoded whole.

    Args:
        path: Of the file.
        pixels: RGB, uint8 (H, W, 3).
        resolution: As the file tells it.
    """

    def read(top: int, left: int, bottom: int, right: int) -> np.ndarray:
        return pixels[top:bottom, left:right]

    return _image(path, pixels.shape[:2], resolution, (BLOCK, BLOCK), read)


def from_pages(path: Path, pages: list[tifffile.TiffPage], resolution: Resolution) -> TissueImage:
    """Return an image whose tiles or strips are read when they are asked for.

    Args:
        path: Of the TIFF.
        pages: One, or three with a colour each; see `nuclei.data.tiffs.in_segments`.
        resolution: As the file tells it.
    """
    first = pages[0]
    height, width = first.imagelength, first.imagewidth
    readers = [_page_reader(path, page) for page in pages]

    def read(top: int, left: int, bottom: int, right: int) -> np.ndarray:
        colours = [reader(top, left, bottom, right) for reader in readers]
        return colours[0] if len(colours) == 1 else np.concatenate(colours, axis=2)

    is_large_strip = not first.is_tiled and not first.is_memmappable
    block = (max(BLOCK**2 // width, 1), width) if is_large_strip else (BLOCK, BLOCK)
    return _image(path, (height, width), resolution, block, read)


def _page_reader(path: Path, page: tifffile.TiffPage) -> ReadRegion:
    if not page.is_memmappable:
        return segment_reader(page, str(path))
    mapped = tifffile.memmap(path, page=page.index, mode="r")
    pixels = mapped.reshape(page.imagelength, page.imagewidth, page.samplesperpixel)
    return lambda top, left, bottom, right: pixels[top:bottom, left:right]


def _image(
    path: Path,
    size: tuple[int, int],
    resolution: Resolution,
    block: tuple[int, int],
    read_region: ReadRegion,
) -> TissueImage:
    height, width = size

    def read(top: int, left: int, bottom: int, right: int) -> np.ndarray:
        return grey_to_rgb(read_region(top, left, bottom, right))

    def thumbnail(longest: int) -> np.ndarray:
        return reduce_image(read, height, width, longest)

    return TissueImage(path, width, height, resolution.mpp, block, read, thumbnail, resolution.source)


def from_slide(slide: Slide, resolution: Resolution) -> TissueImage:
    """Return an image that OpenSlide reads.

    Args:
        slide: Open.
        resolution: As tags of the file tell it, for a slide that does not.
    """
    left, top, width, height = _scanned(slide)

    def reader(level: int) -> ReadRegion:
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
    return TissueImage(slide.path, width, height, told.mpp, (BLOCK, BLOCK), reader(0), thumbnail, told.source)


def _scanned(slide: Slide) -> tuple[int, int, int, int]:
    """Return left, top, width and height of what was scanned, the whole where the slide does not tell.

    QuPath counts from that corner too (its OpenslideImageServer).
    """
    try:
        left, top, width, height = (
            int(slide.properties[f"openslide.bounds-{name}"]) for name in ("x", "y", "width", "height")
        )
    except (KeyError, ValueError):
        width, height = slide.levels[0]
        return 0, 0, width, height
    return left, top, width, height
