import numpy as np
import pandas as pd
import pytest

from nuclei.data.synthetic.sample import draw_sample
from nuclei.data.synthetic.tissue import draw_stain, draw_tile
from nuclei.params import Sample

CONFIG = Sample(seed=0, train=150, test=50, patients=4)


@pytest.fixture(scope="module")
def drawn():
    """A sample in memory, where it is known which tile a crop comes from."""
    return draw_sample(CONFIG)


def test_a_tile_holds_normal_or_cancer_epithelium_never_both(drawn):
    _, table = drawn
    epithelium = table[table.label < 2].groupby("tile").label
    assert (epithelium.nunique() == 1).all()
    assert set(epithelium.first()) == {0, 1}


def test_every_patient_has_normal_and_cancer_tissue(drawn):
    _, table = drawn
    assert set(table.patient) == {0, 1, 2, 3}
    assert (table[table.label < 2].groupby("patient").label.nunique() == 2).all()


def test_stain_changes_the_colours_and_not_the_tissue():
    (pink, nuclei), (violet, same) = (
        draw_tile(np.random.default_rng(5), draw_stain(np.random.default_rng(patient)), cancer=True)
        for patient in (0, 1)
    )
    pd.testing.assert_frame_equal(nuclei, same)
    assert np.abs(pink.mean((0, 1)) - violet.mean((0, 1))).max() > 4
    assert np.corrcoef(pink[..., 0].ravel(), violet[..., 0].ravel())[0, 1] > 0.8


def test_tiles_of_a_patient_look_more_alike_than_those_of_others(drawn):
    tiles, _ = drawn
    hues = []
    for tile in tiles:
        dark = tile[tile[..., 0] < np.percentile(tile[..., 0], 10)]
        density = -np.log(dark.mean(axis=0) / 255)
        hues.append(density / density.sum())
    hues = np.array(hues)[: len(tiles) // 4 * 4].reshape(-1, 4, 3)  # tiles come patient after patient
    assert hues.mean(axis=0).std(axis=0).sum() > hues.std(axis=0).mean(axis=0).sum()
