from functools import partial

import numpy as np
import pytest
import torch
from skimage.color import rgb_from_hed
from torch import nn

from nuclei.evaluation.corruptions import Corruption, corruptions
from nuclei.evaluation.robustness import BATCH, predict_under, score_under, stain_corruptions
from nuclei.models.predict import predict_logits
from nuclei.report.curves import plot_robustness


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
PREDICT = partial(predict_logits, Darkness(), device=torch.device("cpu"), precision="float32")


def scores_of(crops, labels, factors):
    changes = stain_corruptions(factors)
    table = score_under(labels, predict_under(PREDICT, crops, changes), changes)
    return dict(iter(table.groupby("corruption")))


def test_a_stain_that_decides_the_class_changes_the_scores():
    scores = scores_of(CROPS, LABELS, [0.1, 1.0, 6.0])
    haematoxylin, eosin = scores["haematoxylin"], scores["eosin"]
    assert haematoxylin["severity"].tolist() == eosin["severity"].tolist() == [0.1, 1, 6]
    assert haematoxylin["accuracy"].tolist() == [0.75, 1, 0.25]  # all pale; as they were; all dark
    assert haematoxylin["balanced_accuracy"].tolist() == [0.5, 1, 0.5]
    assert eosin["accuracy"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("changes", [corruptions({}), stain_corruptions([1.0])])
def test_unchanged_crops_get_the_answers_that_they_had(changes):
    crops = np.random.default_rng(0).integers(0, 256, (BATCH + 3, 6, 6, 3)).astype(np.uint8)
    expected = PREDICT(crops).argmax(axis=1)
    assert 0 < expected.mean() < 1
    for row in predict_under(PREDICT, crops, changes):
        assert np.array_equal(row, expected)


def test_grey_crops_have_one_density():
    scores = scores_of(CROPS[..., :1].copy(), LABELS, [1.0, 6.0])
    assert scores["haematoxylin"]["accuracy"].nunique() == 2
    assert scores["eosin"]["accuracy"].nunique() == 1


def test_folds_predicted_apart_are_scored_together():
    dark = Corruption("dark", 1, lambda crops: crops // 8)
    changes = [*corruptions({"gamma": (1.0,)}), dark]
    predicted = np.empty((len(changes), len(CROPS)), np.int64)
    for rows in (np.array([0, 3]), np.array([1, 2])):
        predicted[:, rows] = predict_under(PREDICT, CROPS[rows], changes)
    table = score_under(LABELS, predicted, changes)
    assert table["corruption"].tolist() == ["none", "gamma", "dark"]
    assert table["accuracy"].tolist() == [1, 1, 0.25]


def test_memory_mapped_crops_are_not_written(tmp_path):
    np.save(tmp_path / "crops.npy", CROPS)
    mapped = np.load(tmp_path / "crops.npy", mmap_mode="r")
    changes = [*stain_corruptions([0.5, 2.0]), *corruptions({"blur": (1.0,), "jpeg": (50,)})]
    first, second = (predict_under(PREDICT, crops, changes) for crops in (mapped, CROPS))
    assert np.array_equal(first, second)
    assert np.array_equal(np.load(tmp_path / "crops.npy"), CROPS)


def test_each_corruption_is_drawn_with_its_scores():
    changes = [*corruptions({"jpeg": (90, 30), "blur": (1.0,), "resolution": (2.0,)}), *stain_corruptions([0.1, 6.0])]
    table = score_under(LABELS, predict_under(PREDICT, CROPS, changes), changes)
    figure = plot_robustness({"cnn": table, "resnet": table})
    panels = [ax for ax in figure.axes if ax.axison]
    labels = ["JPEG: quality", "blur: standard deviation, pixels", "resolution: pixels times as large"]
    assert [ax.get_xlabel() for ax in panels[:3]] == labels and len(panels) == 5
    accuracy = panels[3].get_lines()[0]
    assert accuracy.get_xdata().tolist() == [0.1, 6] and accuracy.get_ydata().tolist() == [0.75, 0.25]
    assert panels[0].get_lines()[0].get_xdata().tolist() == [30, 90]
