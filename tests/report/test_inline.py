import io
from base64 import b64decode

import numpy as np
import pytest
from PIL import Image

from nuclei.report.inline import inline_crop, inline_file

NOISE = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)


def decode(uri: str) -> np.ndarray:
    kind, data = uri.split(",")
    assert kind == "data:image/webp;base64"
    with Image.open(io.BytesIO(b64decode(data))) as image:
        assert image.format == "WEBP"
        return np.asarray(image)


def test_a_drawing_keeps_every_pixel(tmp_path):
    path = tmp_path / "drawing.png"
    Image.fromarray(NOISE).save(path)
    picture = inline_file(path, photograph=False)
    assert (picture.width, picture.height) == (30, 20)
    assert np.array_equal(decode(picture.uri), NOISE)


def test_a_photograph_gets_smaller_and_stays_alike(tmp_path):
    smooth = np.asarray(Image.fromarray(NOISE).resize((300, 200)))
    path = tmp_path / "photograph.png"
    Image.fromarray(smooth).save(path)
    picture = inline_file(path, photograph=True)
    assert len(picture.uri) < path.stat().st_size / 4
    assert np.abs(decode(picture.uri).astype(int) - smooth).mean() < 4


@pytest.mark.parametrize("channels", [1, 3])
def test_a_crop_is_shown_grey_or_in_colour(channels):
    crop = np.full((100, 100, channels), 200, np.uint8)
    crop[:50] = 40
    shown = decode(inline_crop(crop).uri)
    assert shown.shape == (100, 100, 3)
    assert np.abs(shown[[10, 90], 50].astype(int) - [[40], [200]]).max() < 4
