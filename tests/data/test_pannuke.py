import io
import tracemalloc
import zipfile

import numpy as np
import pytest
from tissue import tissue

from nuclei.data.public.pannuke import NAMES, import_pannuke
from nuclei.data.unpack import unpack
from nuclei.errors import InputError

SIDE = 256
PLANE_OF_LABEL = {0: 4, 1: 0, 2: 2, 3: 1}  # of the classes that are drawn


def npy(array: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, **options)
    return file.getvalue()


def draw(tissues: list[str], start: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tiles of 256x256 pixels, their masks with dead cells (plane 3) too, their tissues: as PanNuke's arrays."""
    pixels, nuclei = tissue()
    images = np.empty((len(tissues), SIDE, SIDE, 3))
    masks = np.zeros((len(tissues), SIDE, SIDE, 6))
    for tile in range(len(tissues)):
        left, top = 130 * (start + tile), 30 * (start + tile)
        images[tile] = pixels[top : top + SIDE, left : left + SIDE]
        inside = nuclei[nuclei.y.between(top + 5, top + SIDE - 6) & nuclei.x.between(left + 5, left + SIDE - 6)]
        for number, row in enumerate(inside.itertuples(), start=1):
            plane = 3 if number % 7 == 0 else PLANE_OF_LABEL[row.label]
            y, x = row.y - top, row.x - left
            masks[tile, y - 3 : y + 4, x - 3 : x + 4] = 0
            masks[tile, y - 3 : y + 4, x - 3 : x + 4, plane] = number
        masks[tile, ..., 5] = masks[tile, ..., :5].max(axis=-1) == 0
    return images, masks, np.array(tissues)


def write_fold(path, number, arrays, **changes):
    images, masks, types = arrays
    folder = f"Fold {number}"
    members = {
        f"{folder}/images/fold{number}/images.npy": npy(images),
        f"{folder}/images/fold{number}/types.npy": npy(types),
        f"{folder}/masks/fold{number}/masks.npy": npy(masks),
        f"{folder}/README.md": b"...",
    }
    with zipfile.ZipFile(path / f"fold_{number}.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in (members | {f"{folder}/{name}": content for name, content in changes.items()}).items():
            archive.writestr(name, content)
    return path / f"fold_{number}.zip"


@pytest.fixture(scope="module")
def folds():
    return {1: draw(["Colon", "Breast", "Colon"], 0), 2: draw(["Colon", "Bile-duct"], 3)}


def expected(folds, tissue_name="Colon"):
    """Name of the tile, y, x and label of every nucleus that is to be a crop."""
    found = []
    for number, (_, masks, types) in folds.items():
        for tile in np.flatnonzero(types == tissue_name):
            for plane, label in enumerate(NAMES):
                nucleus = masks[tile, ..., plane]
                for which in np.unique(nucleus[nucleus > 0]):
                    y, x = np.rint(np.argwhere(nucleus == which).mean(axis=0)).astype(int)
                    if min(y, x) >= 50 and max(y, x) <= SIDE - 50:
                        found.append((f"fold_{number}_{tile}", y, x, label))
    return sorted(found)


def test_nuclei_of_the_colon_become_crops(folds, tmp_path):
    archives = [write_fold(tmp_path, number, arrays) for number, arrays in folds.items()]
    table = import_pannuke(archives, tmp_path / "raw", seed=0, tissue="Colon")
    unpack(tmp_path / "raw", tmp_path / "crops", channels=3, classes=None)
    assert sorted(table[["tile", "y", "x", "name"]].itertuples(index=False, name=None)) == expected(folds)
    assert set(table.tile) == {"fold_1_0", "fold_1_2", "fold_2_0"}
    assert set(table.name) == {"neoplastic", "inflammatory", "connective", "dead", "epithelial"}
    for role in ("train", "test"):
        rows = table[table.role == role]
        for crop, row in zip(np.load(tmp_path / f"crops/{role}.npy"), rows.itertuples(), strict=True):
            _, fold, tile = row.tile.split("_")
            picture = folds[int(fold)][0][int(tile)]
            assert np.array_equal(crop, picture[row.y - 50 : row.y + 50, row.x - 50 : row.x + 50])


def test_another_tissue_can_be_asked_for(folds, tmp_path):
    images, masks, types = folds[1]
    other = {1: (images, masks, np.where(types == "Colon", "Bile-duct", types))}
    table = import_pannuke([write_fold(tmp_path, 1, other[1])], tmp_path / "raw", seed=0, tissue="Bile-duct")
    assert sorted(table[["tile", "y", "x", "name"]].itertuples(index=False, name=None)) == expected(other, "Bile-duct")
    with pytest.raises(InputError, match="no tile of 'Colon', expected one of Bile-duct, Breast: see --tissue"):
        import_pannuke([tmp_path / "fold_1.zip"], tmp_path / "raw", seed=0, tissue="Colon")


def test_gigabytes_are_read_tile_by_tile(folds, tmp_path):
    images, masks, types = folds[1]
    many = np.array([0, *[1] * 20, 2])
    archive = write_fold(tmp_path, 1, (images[many], masks[many], types[many]))
    size = len(many) * (images[0].nbytes + masks[0].nbytes)
    tracemalloc.start()
    import_pannuke([archive], tmp_path / "raw", seed=0, tissue="Colon")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < size / 4


class Bomb:
    def __reduce__(self):
        return exec, ("raise SystemExit('it went off')",)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        (
            "images/fold1/types.npy",
            npy(np.array([Bomb()] * 3, object), allow_pickle=True),
            "expected an array of names",
        ),
        ("masks/fold1/masks.npy", npy(np.array([Bomb()] * 3, object), allow_pickle=True), "it holds object (3,)"),
        ("masks/fold1/masks.npy", npy(np.zeros((2, 256, 256, 6))), "it holds float64 (2, 256, 256, 6)"),
        (
            "masks/fold1/masks.npy",
            npy(np.asfortranarray(np.zeros((3, 8, 8, 6)))),
            "expected 3 tiles of 6 channels in C",
        ),
        ("images/fold1/images.npy", npy(np.zeros((3, 256, 256, 3)))[:-1], "it ends early"),
        ("images/fold1/images.npy", b"no array", "expected 3 tiles of 3 channels"),
        ("images/fold1/types.npy", b"no array", "expected an array of names"),
    ],
    ids=["pickled types", "pickled masks", "too few", "Fortran", "cut off", "no array", "no types"],
)
def test_what_is_not_pannuke_ends_with_one_line_and_writes_nothing(name, content, complaint, folds, tmp_path):
    path = write_fold(tmp_path, 1, folds[1], **{name: content})
    with pytest.raises(InputError) as caught:
        import_pannuke([path], tmp_path / "raw", seed=0, tissue="Colon")
    assert f"{name.split('/')[-1]}': " in str(caught.value)
    assert complaint in str(caught.value) and "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [path]


def test_another_zip_is_not_taken_for_a_fold(tmp_path):
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("notes.txt", "mine")
    with pytest.raises(InputError, match=r"other\.zip: no types\.npy in it: expected a fold of PanNuke"):
        import_pannuke([tmp_path / "other.zip"], tmp_path / "raw", seed=0, tissue="Colon")
