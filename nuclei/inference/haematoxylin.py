"""The built-in detector: haematoxylin by colour deconvolution, a local threshold, watershed.

All that it looks at lies near a pixel, and its one estimate is made once for a slide: the nuclei do not depend on how
the slide is cut into tiles.
"""

import numpy as np
from scipy import ndimage
from skimage.color import hed_from_rgb, rgb2hsv
from skimage.feature import peak_local_max
from skimage.filters import threshold_otsu
from skimage.morphology import disk
from skimage.segmentation import watershed

from nuclei.data.tissue_image import TissueImage

# Microns. Chosen on drawn tiles and on mosaics of real crops: docs/detection.md
WORKING = 0.5  # per pixel, at which nuclei are looked for: finer images are averaged
SHARP = 0.5  # standard deviation, of the haematoxylin that is compared with its surroundings
AROUND = 3.0  # standard deviation, of these surroundings
OPENED = 0.5  # radius: threads and specks that are thinner vanish
ROUND = 0.25  # standard deviation, of the distance from the edge
BLOB = 2.0  # standard deviation, of the Laplacian of Gaussian
DEEPEST = 6.0  # distance from the edge that counts
APART = 1.5  # least distance of two middles, along rows and columns

SHARE = 0.6  # of the slide's threshold that a nucleus has to reach
CONTRAST = 0.1  # of the slide's threshold, over the surroundings
BLOBNESS = 0.6  # microns of distance from the edge that a blob as strong as the threshold is worth
FAINTEST = 0.2  # optical density, least threshold of a slide: else the texture of pale stroma would become nuclei

SAMPLES = 64  # places where the threshold is estimated
SAMPLE = 128.0  # microns a side
STAINED = 0.15  # optical density, of the densest colour: paler pixels are no tissue
BINS = 512  # of optical densities from 0 to 4

GRAIN = 8.0  # microns per pixel of the tissue mask
COLOURED = 0.06  # saturation of tissue
DARKEST = 0.1  # value of tissue: black is ink, or the frame of a scan


def label_nuclei(tile: np.ndarray, mpp: float, threshold: float) -> np.ndarray:
    """Label the nuclei of a tile.

    Pixels are nuclei where haematoxylin is dense for the slide and for the place. Middles are peaks of the distance
    from the edge plus the Laplacian of Gaussian; watershed parts what touches.

    Args:
        tile: RGB, uint8 (H, W, 3).
        mpp: Microns per pixel.
        threshold: Of the slide, optical density of haematoxylin, see `slide_threshold`.

    Returns:
        int32 (H, W): 0 where no nucleus is, else its number.

    Source: Ruifrok and Johnston 2001, "Quantification of histochemical staining by color deconvolution"; scikit-image.
    """
    factor = reduction(mpp)
    micron = 1 / (mpp * factor)  # pixels
    dense = haematoxylin(density(reduce(tile, factor)))
    sharp = ndimage.gaussian_filter(dense, SHARP * micron)
    around = ndimage.gaussian_filter(dense, AROUND * micron)
    mask = (sharp > SHARE * threshold) & (sharp > around + CONTRAST * threshold)
    mask = ndimage.binary_opening(mask, disk(max(1, round(OPENED * micron))))
    depth = np.minimum(ndimage.distance_transform_edt(mask) / micron, DEEPEST)
    blob = -ndimage.gaussian_laplace(dense, BLOB * micron) * (BLOB * micron) ** 2 / threshold
    surface = ndimage.gaussian_filter(depth, ROUND * micron) + BLOBNESS * blob
    middles = peak_local_max(
        surface, min_distance=max(1, round(APART * micron)), labels=mask.astype(np.uint8), exclude_border=False
    )
    markers = np.zeros(mask.shape, np.int32)
    markers[tuple(middles.T)] = np.arange(1, len(middles) + 1)
    labels = watershed(-surface, markers, mask=mask)
    return labels.repeat(factor, axis=0).repeat(factor, axis=1)[: tile.shape[0], : tile.shape[1]]


def reduction(mpp: float) -> int:
    """Return how many pixels of `mpp` microns are averaged, a side."""
    return max(1, round(WORKING / mpp))


def reduce(tile: np.ndarray, factor: int) -> np.ndarray:
    """Average squares of pixels, float32 (ceil(H / factor), ceil(W / factor), 3); at the edge what there is of them."""
    missing = [(0, -side % factor) for side in tile.shape[:2]]
    padded = np.pad(tile, (*missing, (0, 0)), mode="edge")
    total = np.zeros((padded.shape[0] // factor, padded.shape[1] // factor, 3), np.float32)
    for row, column in np.ndindex(factor, factor):
        total += padded[row::factor, column::factor]  # ten times as fast as a mean over two axes
    return total / factor**2


def density(pixels: np.ndarray) -> np.ndarray:
    """Return the optical density in red, green and blue, float32 (H, W, 3), of RGB pixels, 0..255."""
    return -np.log(np.maximum(pixels, 1, dtype=np.float32) / 255)


def haematoxylin(densities: np.ndarray) -> np.ndarray:
    """Return the part of haematoxylin, float32 (H, W), in optical densities, (H, W, 3)."""
    return densities @ hed_from_rgb[:, 0].astype(np.float32)


def tissue_mask(image: TissueImage, mpp: float) -> np.ndarray:
    """Tell where tissue is, coarsely and rather too much of it: what has a colour, and is not black.

    Returns:
        bool (h, w), of the whole image; about 8 microns a pixel.
    """
    longest = max(image.width, image.height)
    thumbnail = image.thumbnail(max(1, min(longest, round(longest * mpp / GRAIN))))
    _, saturation, value = np.moveaxis(rgb2hsv(thumbnail), 2, 0)
    return ndimage.binary_dilation((saturation > COLOURED) & (value > DARKEST), iterations=2)


def slide_threshold(image: TissueImage, mpp: float, tissue: np.ndarray) -> float:
    """Return the optical density of haematoxylin that best parts the tissue of a slide in two: Otsu's threshold.

    Args:
        image: The slide.
        mpp: Microns per pixel.
        tissue: As `tissue_mask` returns it; it has some. At most 64 places, evenly spaced in it, are looked at.

    Source: Otsu 1979, "A threshold selection method from gray-level histograms".
    """
    factor = reduction(mpp)
    edges = np.linspace(0, 4, BINS + 1)
    counts = np.zeros(BINS, np.int64)
    places = np.argwhere(tissue)
    side = max(factor, round(SAMPLE / mpp / factor) * factor)
    for row, column in places[np.unique(np.linspace(0, len(places) - 1, SAMPLES).astype(int))]:
        top, left = (
            int(max(0, min(place * length / cells - side / 2, length - side))) // factor * factor
            for place, length, cells in zip(
                (row + 0.5, column + 0.5), (image.height, image.width), tissue.shape, strict=True
            )
        )
        pixels = image.read(top, left, min(top + side, image.height), min(left + side, image.width))
        densities = density(reduce(pixels, factor))
        smooth = ndimage.gaussian_filter(haematoxylin(densities), 2 * SHARP / (mpp * factor))
        counts += np.histogram(smooth[densities.max(axis=2) > STAINED], edges)[0]
    if np.count_nonzero(counts) < 2:
        return FAINTEST
    return max(float(threshold_otsu(hist=(counts, (edges[:-1] + edges[1:]) / 2))), FAINTEST)
