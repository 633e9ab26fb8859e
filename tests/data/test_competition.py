import zipfile

import numpy as np
import pandas as pd
import pytest
from tissue import some_crops

from nuclei.data.competition import competition_writer, numbers
from nuclei.data.unpack import unpack


def table(groups: bool) -> pd.DataFrame:
    parts = numbers(8, 4)
    rows = pd.DataFrame(
        {"role": 8 * ["train"] + 4 * ["test"], "number": [*parts[0], *parts[1]], "label": 3 * [0, 1, 2, 3]}
    )
    return rows.assign(group=[f"tile {n // 3}" for n in range(12)]) if groups else rows


def write(out, groups=True):
    crops = some_crops(12)
    with competition_writer(out, table(groups)) as add:
        for crop, row in list(zip(crops, table(groups).itertuples(), strict=True))[::-1]:  # in any order
            add(row.role, row.number, crop)
    return crops


@pytest.mark.parametrize("groups", [True, False])
def test_what_was_written_is_what_the_pipeline_reads(groups, tmp_path):
    crops = write(tmp_path / "raw", groups)
    unpack(tmp_path / "raw", tmp_path / "crops", channels=3)
    assert np.array_equal(np.load(tmp_path / "crops/train.npy"), crops[:8])
    assert np.array_equal(np.load(tmp_path / "crops/test.npy"), crops[8:])
    train = pd.read_csv(tmp_path / "crops/train.csv")
    assert train.Label.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert pd.read_csv(tmp_path / "crops/test.csv").Filename.tolist() == [f"{n}.png" for n in range(10001, 10005)]
    assert pd.read_csv(tmp_path / "raw/example.csv").Label.tolist() == [0, 0, 0, 0]
    if groups:
        assert train.Group.tolist() == table(True).group[:8].tolist()
        assert pd.read_csv(tmp_path / "raw/groups.csv").Filename.tolist() == train.Filename.tolist()


def test_the_same_crops_give_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        write(tmp_path / name)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["example.csv", "groups.csv", "test.zip", "train.csv", "train.zip"]
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in names)


def test_a_failure_half_way_writes_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), competition_writer(tmp_path / "raw", table(True)) as add:
        add("train", 1, some_crops(1)[0])
        _ = 1 / 0
    assert list(tmp_path.iterdir()) == []


def test_numbers_of_training_and_test_crops_never_meet():
    assert numbers(7560, 5041) == (range(1, 7561), range(10001, 15042))
    assert numbers(50_000, 10)[1].start == 100_001


def test_members_lie_in_folders_as_the_competitions(tmp_path):
    write(tmp_path / "raw")
    with zipfile.ZipFile(tmp_path / "raw/test.zip") as archive:
        assert sorted(archive.namelist()) == [f"test/{n}.png" for n in range(10001, 10005)]
