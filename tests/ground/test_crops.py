import numpy as np
import pandas as pd
import pytest

from nuclei.crops import FoldedCrops, LabelledCrops, open_crops, open_folds
from nuclei.files import write_json
from nuclei.task import COLON


@pytest.fixture
def folded(tmp_path):
    """Six crops on disk, each of one value, its number; fold 1 is not held out."""
    crops = np.arange(6, dtype=np.uint8).repeat(12 * 12 * 3).reshape(6, 12, 12, 3)
    np.save(tmp_path / "train.npy", crops)
    write_json(tmp_path / "task.json", COLON._asdict())
    table = {"Filename": [f"{number}.png" for number in range(6)], "Label": [3, 2, 1, 0, 3, 2]}
    table |= {"Group": [4, 4, 5, 5, 6, 7], "Fold": [2, 2, 1, 1, 0, 0], "Held_out": [1, 1, 0, 0, 1, 1]}
    table |= {"Mosaic": [0, 0, 1, 1, 2, 3], "X": [50, 72, 50, 40, 50, 50], "Y": [50, -4, 50, 50, 50, 50]}
    pd.DataFrame(table).to_csv(tmp_path / "split.csv", index=False)
    return open_folds(tmp_path, tmp_path / "split.csv")


def numbers(data: LabelledCrops) -> list[int]:
    return data.crops[:, 0, 0, 0].tolist()


def test_crops_on_disk_are_not_written(folded, tmp_path):
    crops = open_crops(tmp_path, "train")
    assert not crops.flags.writeable and not isinstance(crops, np.memmap)
    assert np.array_equal(crops, folded.data.crops)


def test_crops_come_with_the_labels_groups_and_folds_of_the_table(folded):
    assert len(folded.data) == 6
    assert folded.data.labels.tolist() == [3, 2, 1, 0, 3, 2] and folded.data.labels.dtype == np.int64
    assert folded.folds.tolist() == [2, 2, 1, 1, 0, 0]
    assert folded.groups.tolist() == [4, 4, 5, 5, 6, 7]
    assert folded.folds.dtype == folded.groups.dtype == np.int64
    assert folded.held_out == [0, 2]


def test_places_are_in_microns(folded):
    assert folded.places.tissue.tolist() == [0, 0, 1, 1, 2, 3]
    assert folded.places.x.tolist() == [12.5, 18, 12.5, 10, 12.5, 12.5]
    assert folded.places.y.tolist() == [12.5, -1, 12.5, 12.5, 12.5, 12.5]


def test_what_a_fold_holds_out_is_not_trained_on(folded):
    train, heldout = folded.split(2)
    assert (numbers(train), train.labels.tolist()) == ([2, 3, 4, 5], [1, 0, 3, 2])
    assert (numbers(heldout), heldout.labels.tolist()) == ([0, 1], [3, 2])


def test_without_a_fold_every_crop_is_trained_on(folded):
    train, heldout = folded.split(None)
    assert (numbers(train), train.labels.tolist()) == ([0, 1, 2, 3, 4, 5], [3, 2, 1, 0, 3, 2])
    assert heldout is None


def test_crops_that_are_taken_keep_the_order_asked_for_and_are_a_copy(folded):
    taken = folded.data.take(np.array([4, 1]))
    assert (numbers(taken), taken.labels.tolist()) == ([4, 1], [3, 2])
    taken.crops[:] = 99  # in memory: the file is read-only
    assert numbers(folded.data) == [0, 1, 2, 3, 4, 5]
    assert isinstance(folded, FoldedCrops)
