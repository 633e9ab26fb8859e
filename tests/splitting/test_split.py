"""The split stage on crops of tiles with known positions."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import stages.overlap
import stages.split
from nuclei.errors import InputError
from nuclei.files import write_json
from nuclei.task import COLON
from tools.clone import ROOT, change_params

N_TILES, A_TILE = 12, 10


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Decoded crops of twelve tiles; in each, a chain of ten crops of all classes that overlap."""
    rng = np.random.default_rng(0)
    crops = []
    for _ in range(N_TILES):
        tile = rng.integers(0, 256, (100, 100 + 40 * A_TILE, 3)).astype(np.uint8)
        crops += [tile[:, 40 * i : 40 * i + 100] for i in range(A_TILE)]
    crops = np.stack(crops)
    folder = tmp_path / "data/crops"
    folder.mkdir(parents=True)
    order = rng.permutation(len(crops))
    names = [f"{i}.png" for i in range(len(crops))]
    np.save(folder / "train.npy", crops[order])
    np.save(folder / "test.npy", crops[:3])
    table = pd.DataFrame({"Filename": names, "Label": np.arange(len(crops))[order] % 4})
    table["Tile"], table["Column"] = order // A_TILE, order % A_TILE
    table[["Filename", "Label"]].to_csv(folder / "train.csv", index=False)
    write_json(folder / "task.json", COLON._asdict())
    pd.DataFrame({"Filename": ["x.png", "y.png", "z.png"]}).to_csv(folder / "test.csv", index=False)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return table


def split(raw="data/sample", **changes):
    change_params(Path("params.yaml"), {"data.raw": raw} | {f"split.{key}": value for key, value in changes.items()})
    stages.split.main()
    return pd.read_csv("data/split.csv"), json.loads(Path("reports/split/leakage.json").read_text())


def test_crops_of_a_tile_stay_together_without_being_told(project, capsys):
    stages.overlap.main()
    table, report = split()
    assert table.assign(Tile=project["Tile"]).groupby("Tile")[["Group", "Fold"]].nunique().eq(1).all(axis=None)
    assert (report["groups"], report["largest_group"], report["overlapping_share"]) == (N_TILES, A_TILE, 1.0)
    assert (report["pairs_across_folds"], report["test_overlapping_share"]) == (0, 1.0)
    assert min(report["leaking_share_of_random_fold"].values()) > 0.5
    assert "WARNING" not in capsys.readouterr().out


def test_a_random_split_is_made_when_asked_for_and_says_that_it_leaks(project, capsys):
    stages.overlap.main()
    table, report = split(by="random")
    assert table.assign(Tile=project["Tile"]).groupby("Tile")["Fold"].nunique().min() > 1
    assert table.groupby("Group")["Fold"].nunique().min() > 1  # the groups are told all the same
    assert report["pairs_across_folds"] > 0
    assert f"WARNING: the split leaks: {report['pairs_across_folds']} pairs" in capsys.readouterr().out


def test_a_patient_of_two_tiles_stays_in_one_fold(project):
    stages.overlap.main()
    index = pd.read_csv("data/crops/train.csv").assign(Group=[f"patient {tile // 2}" for tile in project["Tile"]])
    index.to_csv("data/crops/train.csv", index=False)
    for by in ("overlap", "group"):
        table, report = split(by=by)
        assert table.assign(Patient=index["Group"]).groupby("Patient")[["Group", "Fold"]].nunique().eq(1).all(axis=None)
        assert report["pairs_across_folds"] == 0


def test_groups_that_cut_through_tiles_fail_at_the_gate_and_leave_the_old_split(project):
    stages.overlap.main()
    split()
    before = Path("data/split.csv").read_bytes()
    index = pd.read_csv("data/crops/train.csv").assign(Group=np.arange(len(project)) % 30)
    index.to_csv("data/crops/train.csv", index=False)
    with pytest.raises(InputError, match=r"the split leaks: \d+ pairs .* use split\.by: overlap"):
        split(by="group")
    assert Path("data/split.csv").read_bytes() == before


def test_a_split_by_group_needs_groups(project):
    stages.overlap.main()
    with pytest.raises(InputError, match=r"split\.by: group needs a column Group"):
        split(by="group")


def test_the_mosaic_picture_shows_tissue_and_folds(project):
    stages.overlap.main()
    split()
    with Image.open("reports/split/mosaics.png") as image:
        assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 1000


def test_crops_without_any_overlap_have_a_sentence_instead_of_mosaics(project):
    crops = np.random.default_rng(1).integers(0, 256, (len(project), 100, 100, 3)).astype(np.uint8)
    np.save("data/crops/train.npy", crops)
    stages.overlap.main()
    _, report = split()
    assert (report["pairs"], report["groups"]) == (0, len(project))
    assert Path("reports/split/mosaics.png").exists()


def test_near_duplicates_warn_and_join_nothing(project, capsys):
    rng = np.random.default_rng(2)
    coarse = rng.integers(60, 256, (len(project), 30, 30, 3)).astype(np.uint8)
    crops = np.stack([np.asarray(Image.fromarray(each).resize((100, 100))) for each in coarse])
    crops[1] = np.clip(crops[0].astype(int) + 9, 0, 255)  # the same picture, brighter
    np.save("data/crops/train.npy", crops)
    change_params(Path("params.yaml"), {"overlap.near_duplicates": True})
    stages.overlap.main()
    assert "WARNING: 1 pairs look alike without sharing pixels" in capsys.readouterr().out
    found = pd.read_csv("reports/overlap/near_duplicates.csv")
    assert found[["First", "Second"]].values.tolist() == [["0.png", "1.png"]]
    assert split()[1]["groups"] == len(project)


def held_out(table):
    """The folds that are held out in turn: whole ones."""
    assert table.groupby("Fold")["Held_out"].nunique().eq(1).all()
    return sorted(table.loc[table["Held_out"] == 1, "Fold"].unique())


def test_all_folds_are_held_out_in_turn_but_two_on_the_sample(project, capsys):
    stages.overlap.main()
    assert held_out(split(raw="data/raw")[0]) == [0, 1, 2, 3, 4]
    assert held_out(split(raw="data/sample")[0]) == [0, 1]
    printed = capsys.readouterr().out.splitlines()[-5:]
    assert [line.endswith("held out in turn") for line in printed] == [True, True, False, False, False]


def test_as_many_folds_are_held_out_as_asked_for_and_the_folds_stay_the_same(project):
    stages.overlap.main()
    three, few, many = (split(held_out=number)[0] for number in (3, 2, 100))
    assert (held_out(three), held_out(few), held_out(many)) == ([0, 1, 2], [0, 1], [0, 1, 2, 3, 4])
    assert three["Fold"].equals(few["Fold"]) and three["Fold"].equals(many["Fold"])


def test_the_table_has_a_row_for_each_crop_in_their_order(project):
    stages.overlap.main()
    table, _ = split()
    assert list(table) == ["Filename", "Label", "Group", "Fold", "Held_out", "Mosaic", "X", "Y"]
    assert table[["Filename", "Label"]].equals(project[["Filename", "Label"]])


def test_crops_lie_in_their_mosaic_as_they_lay_in_their_tile(project):
    """Crops of a tile are 40 pixels apart from left to right; the first one's centre is at (50, 50)."""
    stages.overlap.main()
    table = split()[0].assign(Tile=project["Tile"], Column=project["Column"])
    assert table.groupby("Tile")["Mosaic"].nunique().eq(1).all() and table["Mosaic"].nunique() == N_TILES
    assert (table["Y"] == 50).all()
    assert (table["X"] - 40 * table["Column"]).groupby(table["Mosaic"]).nunique().eq(1).all()
    assert table.drop_duplicates("Mosaic")["X"].eq(50).all()


def test_another_seed_holds_out_other_tiles(project):
    stages.overlap.main()
    first, again, other = (split(seed=seed)[0] for seed in (0, 0, 1))
    assert first.equals(again)
    pairs = [np.equal.outer(*[table["Fold"].to_numpy()] * 2) for table in (first, other)]
    assert (pairs[0] != pairs[1]).any()  # not the same folds by other numbers


def test_crops_that_both_share_pixels_with_a_test_crop_stay_together(project):
    """Tile 0 and tile 1 have nothing in common but a test crop that shows the seam between them."""
    crops = np.load("data/crops/train.npy")
    first, second = (crops[np.flatnonzero(project["Tile"] == tile)[0]] for tile in (0, 1))
    bridge = np.concatenate([first[:, 50:], second[:, :50]], axis=1)
    np.save("data/crops/test.npy", np.stack([bridge] * 3))
    stages.overlap.main()
    table, report = split()
    groups = table.assign(Tile=project["Tile"]).groupby("Tile")["Group"].first()
    assert groups[0] == groups[1] and groups.nunique() == N_TILES - 1
    assert report["pairs_across_folds"] == 0
