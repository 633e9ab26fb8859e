"""Where the nucleus in the middle of a crop is."""

import numpy as np
from scipy.ndimage import binary_fill_holes
from skimage.color import rgb2hed
from skimage.filters import gaussian, threshold_otsu
from skimage.measure import label
from skimage.morphology import disk, opening

from nuclei.task import MPP

RADIUS = 3.0  # microns: about a nucleus
REACH = 5.0  # microns from the centre: what lies farther out belongs to a neighbour that touches it


def centre_disc(size: tuple[int, int], mpp: float = MPP) -> np.ndarray:
    """Return the disc of RADIUS microns in the middle of a crop.

    Args:
        size: (H, W) of the crop, pixels.
        mpp: Microns per pixel.

    Returns:
        bool (H, W).
    """
    return _distance(size) < RADIUS / mpp


def centre_nucleus(crop: np.ndarray, mpp: float = MPP) -> np.ndarray:
    """Return the mask of the nucleus in the middle of a crop.

    Haematoxylin (Ruifrok & Johnston 2001; grey crops: darkness) above Otsu's threshold, without thin bridges; of its
    connected regions the one nearest to the centre, as far as REACH. The disc where none comes near the centre.

    Args:
        crop: uint8 (H, W, C), C: 1 or 3.
        mpp: Microns per pixel.

    Returns:
        bool (H, W).
    """
    stain = rgb2hed(crop)[..., 0] if crop.shape[2] == 3 else 1 - crop[..., 0] / 255
    stain = gaussian(stain, sigma=2)  # chromatin is mottled
    regions = label(opening(binary_fill_holes(stain > threshold_otsu(stain)), disk(3)), connectivity=1)
    distance = _distance(crop.shape[:2])
    from_centre = np.where(regions > 0, distance, np.inf)
    if from_centre.min() >= RADIUS / mpp:
        return distance < RADIUS / mpp
    return (regions == regions.flat[from_centre.argmin()]) & (distance < REACH / mpp)


def _distance(size: tuple[int, int]) -> np.ndarray:
    """Return the distance of each pixel from the middle of the crop, in pixels."""
    rows, columns = (np.arange(length) - (length - 1) / 2 for length in size)
    return np.hypot(rows[:, None], columns)
