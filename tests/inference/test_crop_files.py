import zipfile

import numpy as np
import PIL.Image
import pytest
import tifffile
from tissue import tissue, write_tile

from nuclei.errors import InputError
from nuclei.inference.crop_files import open_crop_files
from nuclei.task import COLON

CROPS = {f"{n}.png": tissue()[0][n : n + 100, 3 * n : 3 * n + 100] for n in (7, 30, 100)}


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "crops"
    path.mkdir()
    for name, crop in CROPS.items():
        PIL.Image.fromarray(crop).save(path / name)
    return path


def write_zip(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def read_all(path, **options):
    with open_crop_files(path, COLON, **options) as (names, read):
        return {name: read(name) for name in names}


def complaint(path, **options):
    with pytest.raises(InputError) as caught:
        read_all(path, **options)
    return str(caught.value).removeprefix(f"{path.parent}/")


def test_a_crop_a_folder_and_a_zip_give_the_same_crops(folder):
    write_zip(folder.parent / "crops.zip", {f"test/{name}": (folder / name).read_bytes() for name in CROPS})
    for found in (read_all(folder), read_all(folder.parent / "crops.zip")):
        assert sorted(found) == sorted(CROPS)
        assert all(np.array_equal(found[name], crop) for name, crop in CROPS.items())
    assert np.array_equal(read_all(folder / "7.png")["7.png"], CROPS["7.png"])


def test_a_folder_is_read_in_the_order_of_names_and_a_zip_in_its_own(folder):
    assert list(read_all(folder)) == ["100.png", "30.png", "7.png"]
    write_zip(
        folder.parent / "crops.zip", {name: (folder / name).read_bytes() for name in ("30.png", "100.png", "7.png")}
    )
    assert list(read_all(folder.parent / "crops.zip")) == ["30.png", "100.png", "7.png"]


def test_other_files_are_passed_over_and_other_formats_read(folder):
    PIL.Image.fromarray(CROPS["7.png"]).save(folder / "a.TIF", format="TIFF")
    PIL.Image.fromarray(CROPS["7.png"]).save(folder / "b.jpeg", quality=95)
    (folder / "notes.txt").write_text("mine")
    (folder / "._7.png").write_text("of macOS")
    (folder / "more").mkdir()
    found = read_all(folder)
    assert set(found) == {*CROPS, "a.TIF", "b.jpeg"}
    assert np.array_equal(found["a.TIF"], CROPS["7.png"])
    assert np.abs(found["b.jpeg"].astype(int) - CROPS["7.png"]).mean() < 10
    content = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name[0] != "."}
    write_zip(folder.parent / "crops.zip", content)
    assert set(read_all(folder.parent / "crops.zip")) == set(found)


def test_crops_of_another_resolution_are_brought_to_size(folder):
    for path in folder.iterdir():
        PIL.Image.open(path).resize((50, 50), PIL.Image.Resampling.BICUBIC).save(path)
    for name, crop in read_all(folder, mpp=0.5).items():
        assert crop.shape == (100, 100, 3)
        assert np.abs(crop.astype(int) - CROPS[name]).mean() < 8


def test_wrong_sizes_say_what_was_expected(folder):
    tile = folder.parent / "tile.png"
    write_tile(tile)
    hint = "cut it to that size, or name the file of its nuclei with --nuclei where it is a tile or slide"
    assert complaint(tile) == f"tile.png: 800x400 pixels, expected 100x100 for a crop: {hint}"
    assert complaint(folder, mpp=0.5) == f"crops/100.png: 100x100 pixels, expected 50x50 for a crop: {hint}"


def test_a_slide_without_its_nuclei_is_refused_before_its_pixels_are_read(folder):
    slide = folder.parent / "slide.svs"
    tiles = (None if place else np.zeros((512, 512, 3), np.uint8) for place in range(40 * 40))
    how = {"photometric": "rgb", "tile": (512, 512), "compression": "zlib"}
    tifffile.imwrite(slide, tiles, shape=(20_000, 20_000, 3), dtype=np.uint8, **how)
    assert "slide.svs: 20000x20000 pixels, expected 100x100 for a crop" in complaint(slide)


def test_what_holds_no_crops_says_so(folder):
    none = "no crop in it: expected files that end with .png, .jpg, .jpeg, .tif, .tiff"
    (folder.parent / "empty").mkdir()
    write_zip(folder.parent / "notes.zip", {"notes.txt": "mine"})
    missing = (
        "cannot be read (No such file or directory): expected a crop, a folder or a zip of crops, or a tile or slide"
    )
    assert complaint(folder.parent / "empty") == f"empty: {none}"
    assert complaint(folder.parent / "notes.zip") == f"notes.zip: {none}"
    assert complaint(folder.parent / "missing.zip") == f"missing.zip: {missing}"


def test_a_bad_crop_is_named_wherever_it_is(folder):
    (folder / "30.png").write_bytes((folder / "30.png").read_bytes()[:3000])
    write_zip(folder.parent / "crops.zip", {f"test/{name}": (folder / name).read_bytes() for name in CROPS})
    assert complaint(folder) == "crops/30.png: damaged: copy or save it again"
    assert complaint(folder.parent / "crops.zip") == "crops.zip, member '30.png': damaged: copy or save it again"


def test_a_zip_is_checked_as_the_pipelines_are(folder):
    write_zip(folder.parent / "crops.zip", {"../7.png": (folder / "7.png").read_bytes()})
    assert "expected a plain relative name" in complaint(folder.parent / "crops.zip")
    write_zip(folder.parent / "crops.zip", {"a/7.png": b"", "b/7.png": b""})
    assert "there is another '7.png'" in complaint(folder.parent / "crops.zip")


@pytest.mark.parametrize("content", [b"PK\3\4 the start of a download", b"<html>log in first</html>", b""])
def test_what_is_not_a_whole_zip_is_called_that(content, tmp_path):
    (tmp_path / "crops.zip").write_bytes(content)
    assert complaint(tmp_path / "crops.zip") == "crops.zip: not a whole zip file: copy or download it again"


def test_a_picture_with_a_zip_behind_it_is_a_picture(folder):
    write_zip(folder.parent / "crops.zip", {name: (folder / name).read_bytes() for name in CROPS})
    with (folder / "7.png").open("ab") as file:
        file.write((folder.parent / "crops.zip").read_bytes())
    assert list(read_all(folder / "7.png")) == ["7.png"]


def test_an_assumed_resolution_is_told_once_per_input(folder, capsys):
    write_zip(folder.parent / "crops.zip", {name: (folder / name).read_bytes() for name in CROPS})
    guess = "not told: taken for 0.25 microns per pixel; see --mpp\n"
    for path, crops in ((folder, "3 crops"), (folder.parent / "crops.zip", "3 crops"), (folder / "7.png", "1 crop")):
        read_all(path)
        assert capsys.readouterr().err == f"warning: {path}: resolution of {crops} {guess}"
        read_all(path, mpp=0.25)
        assert capsys.readouterr().err == ""
    for path in folder.iterdir():
        PIL.Image.open(path).save(path, dpi=(101_600, 101_600))
    read_all(folder)
    assert capsys.readouterr().err == ""


def test_a_resolution_by_the_objective_alone_is_told(tmp_path, capsys):
    described = {"description": "Aperio|AppMag = 20|", "metadata": None, "photometric": "rgb"}
    tifffile.imwrite(tmp_path / "crop.tif", CROPS["7.png"][:50, :50], **described)
    assert read_all(tmp_path / "crop.tif")["crop.tif"].shape == (100, 100, 3)
    assert "1 crop told by an objective of 20x alone: taken for 0.5 microns per pixel" in capsys.readouterr().err
