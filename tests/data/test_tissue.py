import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from nuclei.data.synthetic.tissue import draw_stain, draw_tile


def test_stain_changes_the_colours_and_not_the_tissue():
    (pink, nuclei), (violet, same) = (
        draw_tile(np.random.default_rng(5), draw_stain(np.random.default_rng(patient)), cancer=True)
        for patient in (0, 1)
    )
    pd.testing.assert_frame_equal(nuclei, same)
    assert np.abs(pink.mean((0, 1)) - violet.mean((0, 1))).max() > 4
    assert np.corrcoef(pink[..., 0].ravel(), violet[..., 0].ravel())[0, 1] > 0.8


@pytest.mark.parametrize("cancer", [False, True])
def test_a_processor_that_rounds_otherwise_draws_the_same_tile(monkeypatch, cancer):
    stain = draw_stain(np.random.default_rng(1))
    tile, nuclei = draw_tile(np.random.default_rng(2), stain, cancer)
    last_bits = np.random.default_rng(3)
    rounded = []

    def otherwise(function):
        def wrapped(*args, **kwargs):
            value = function(*args, **kwargs)
            if np.asarray(value).dtype.kind != "f":
                return value
            rounded.append(function.__name__)
            return value * (1 + np.finfo(value.dtype).eps * last_bits.integers(-2, 3, np.shape(value))).astype(
                value.dtype
            )

        return wrapped

    for module, name in (
        *((np, name) for name in ("exp", "cos", "sin", "arctan2", "hypot")),
        *((ndimage, name) for name in ("gaussian_filter", "map_coordinates")),
    ):
        monkeypatch.setattr(module, name, otherwise(getattr(module, name)))
    again, same = draw_tile(np.random.default_rng(2), stain, cancer)
    assert set(rounded) >= {"exp", "cos", "sin", "arctan2", "hypot", "gaussian_filter", "map_coordinates"}
    pd.testing.assert_frame_equal(nuclei, same)
    assert (tile == again).all()
