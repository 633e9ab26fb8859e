import io

import numpy as np
from PIL import Image

from nuclei.splitting.near_duplicates import near_duplicates
from nuclei.splitting.overlap import overlapping_pairs


def tissue(rng, n, size=100):
    """Smooth coloured blobs, such as perceptual hashes are made for."""
    coarse = rng.integers(60, 256, (n, 30, 30, 3)).astype(np.uint8)
    return np.stack(
        [np.asarray(Image.fromarray(each).resize((size, size), Image.Resampling.BICUBIC)) for each in coarse]
    )


def as_set(pairs):
    return set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))


def test_jpeg_and_rescaled_copies_are_near_duplicates_but_share_no_pixels():
    crops = tissue(np.random.default_rng(11), 50)
    copies = []
    for i, crop in enumerate(crops):
        picture, buffer = Image.fromarray(crop), io.BytesIO()
        if i % 2:
            picture.save(buffer, "JPEG", quality=60)
            picture = Image.open(buffer)
        else:
            picture = picture.resize((60, 60), Image.Resampling.BICUBIC).resize((100, 100), Image.Resampling.BICUBIC)
        copies.append(np.asarray(picture.convert("RGB")))
    copies = np.stack(copies)
    similar = near_duplicates(crops, copies)
    assert np.array_equal(similar.first, np.arange(50))
    assert np.array_equal(similar.second, np.arange(50, 100))
    assert not as_set(overlapping_pairs(crops, copies)) & {(i, i + 50) for i in range(50)}


def test_near_duplicates_of_flat_or_of_many_identical_crops_are_not_slow():
    assert len(near_duplicates(np.full((2000, 64, 64, 3), 240, np.uint8)).first) == 0
    similar = near_duplicates(np.broadcast_to(tissue(np.random.default_rng(12), 1)[0], (2000, 100, 100, 3)))
    assert set(similar.first) | set(similar.second) == set(range(2000))
