import numpy as np
import pandas as pd
import torch

from nuclei.crops import open_crops, select


def random_crops(n, channels=3, size=12):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (n, size, size, channels)).astype(np.uint8))


def test_select_takes_the_rows_of_the_folds(tmp_path):
    everything = random_crops(6).numpy()
    np.save(tmp_path / "train.npy", everything)
    split = pd.DataFrame({"Label": [3, 2, 1, 0, 3, 2], "Fold": [0, 2, 1, 2, 4, 1]})
    crops = open_crops(tmp_path, "train")
    assert not crops.flags.writeable
    chosen = select(crops, split, [1, 2])
    assert len(chosen) == 4
    assert np.array_equal(chosen.labels, [2, 1, 0, 2]) and chosen.labels.dtype == np.int64
    assert np.array_equal(chosen.crops, everything[[1, 2, 3, 5]])
    assert len(select(crops, split, range(5))) == 6
