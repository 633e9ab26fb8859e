import numpy as np
import torch
from skimage.color import rgb_from_hed
from torch import nn

from nuclei.evaluation.robustness import stain_shift
from nuclei.models.predict import BATCH_SIZE

CPU = torch.device("cpu")


def stained(strengths):
    """Crops of even colour: haematoxylin and eosin of the given strengths, (N, 2)."""
    density = np.asarray(strengths) @ rgb_from_hed[:2]
    colours = (256 * np.exp(-density) - 1).round().astype(np.uint8)
    return np.broadcast_to(colours[:, None, None], (len(colours), 6, 6, 3)).copy()


class Darkness(nn.Module):
    """Says 1 for a crop whose red is darker than a threshold: haematoxylin takes red, eosin hardly does."""

    def forward(self, inputs):
        red = inputs[:, 0].mean(dim=(1, 2))
        return torch.stack([red, torch.full_like(red, 0.5)], dim=1)


WEAK, STRONG = [0.3, 0.5], [1.2, 0.5]  # of haematoxylin, eosin
CROPS, LABELS = stained([WEAK] * 3 + [STRONG]), np.array([0, 0, 0, 1])


def test_a_stain_that_decides_the_class_changes_the_scores():
    table = stain_shift(Darkness(), CROPS, LABELS, [0.1, 1.0, 6.0], CPU, "float32")
    assert table["factor"].tolist() == [0.1, 1, 6]
    assert table["haematoxylin_accuracy"].tolist() == [0.75, 1, 0.25]  # all pale; as they were; all dark
    assert table["haematoxylin_balanced_accuracy"].tolist() == [0.5, 1, 0.5]
    assert table["eosin_accuracy"].tolist() == [1, 1, 1]


def test_an_unchanged_stain_gives_the_scores_of_the_crops_as_they_are():
    crops = np.random.default_rng(0).integers(0, 256, (BATCH_SIZE + 3, 6, 6, 3)).astype(np.uint8)
    labels = np.arange(len(crops)) % 2
    table = stain_shift(Darkness(), crops, labels, [1.0], CPU, "float32")
    red = (crops[..., 0] / 255).mean(axis=(1, 2))
    expected = ((red - 0.485) / 0.229 < 0.5) == labels
    assert table["haematoxylin_accuracy"][0] == table["eosin_accuracy"][0] == expected.mean()


def test_grey_crops_have_one_density():
    grey = CROPS[..., :1].copy()
    table = stain_shift(Darkness(), grey, LABELS, [1.0, 6.0], CPU, "float32")
    assert table["haematoxylin_accuracy"].nunique() == 2
    assert table["eosin_accuracy"].nunique() == 1


def test_memory_mapped_crops_are_not_written(tmp_path):
    np.save(tmp_path / "crops.npy", CROPS)
    mapped = np.load(tmp_path / "crops.npy", mmap_mode="r")
    first, second = (stain_shift(Darkness(), crops, LABELS, [0.5, 2.0], CPU, "float32") for crops in (mapped, CROPS))
    assert first.equals(second)
    assert np.array_equal(np.load(tmp_path / "crops.npy"), CROPS)
