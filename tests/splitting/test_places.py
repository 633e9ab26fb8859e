import numpy as np

from nuclei.splitting.overlap import overlapping_pairs
from nuclei.splitting.places import crop_places
from nuclei.task import COLON


def test_nuclei_lie_in_the_middle_of_their_crops_microns_apart():
    tiles = np.random.default_rng(0).integers(0, 256, (2, 200, 200, 3)).astype(np.uint8)
    corners = (0, 0, 0), (0, 20, 60), (1, 0, 0)
    crops = np.stack([tiles[tile, y : y + 100, x : x + 100] for tile, y, x in corners])
    crops[1] = np.rot90(crops[1])
    places = crop_places(overlapping_pairs(crops), 3, COLON)
    assert places.tissue.tolist() == [0, 0, 1]
    assert (places.y[1] - places.y[0], places.x[1] - places.x[0]) == (20 * COLON.mpp, 60 * COLON.mpp)
    assert (places.y[0], places.x[0]) == (50 * COLON.mpp, 50 * COLON.mpp)
