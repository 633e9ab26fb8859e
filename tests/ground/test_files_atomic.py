"""Nothing of a user's is lost: what may be replaced, by whom, and what two processes make of one name."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nuclei.errors import InputError
from nuclei.files import atomic_directory, atomic_write, require_distinct

HOLD = """
import sys, time
from pathlib import Path
from nuclei.files import atomic_directory, atomic_write
path = Path(sys.argv[1])
with (atomic_directory if sys.argv[2] == "folder" else atomic_write)(path) as temporary:
    (temporary / "half" if temporary.is_dir() else temporary).write_text("first")
    print("holds", flush=True)
    sys.stdin.readline()
"""


def hold(path: Path, kind: str) -> subprocess.Popen:
    """Start a process that writes `path` until it gets a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "holds\n"
    return process


def write(path: Path, kind: str) -> None:
    with (atomic_directory if kind == "folder" else atomic_write)(path) as temporary:
        (temporary / "whole" if temporary.is_dir() else temporary).write_text("second")


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_second_process_is_refused_and_the_first_one_keeps_its_work(kind, tmp_path):
    first = hold(tmp_path / "table.csv", kind)
    with pytest.raises(InputError, match=r"table\.csv: another process is writing it"):
        write(tmp_path / "table.csv", kind)
    first.communicate("go on\n", timeout=30)
    assert first.returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]
    written = tmp_path / "table.csv" / "half" if kind == "folder" else tmp_path / "table.csv"
    assert written.read_text() == "first"


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_process_left_is_cleared_away(kind, tmp_path):
    first = hold(tmp_path / "table.csv", kind)
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=30)
    assert len(list(tmp_path.iterdir())) == 2
    write(tmp_path / "table.csv", kind)
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]
    written = tmp_path / "table.csv" / "whole" if kind == "folder" else tmp_path / "table.csv"
    assert written.read_text() == "second"


def test_names_alike_are_written_at_the_same_time(tmp_path):
    paths = [tmp_path / name for name in ("a.csv", "a.json", "b.csv")]
    with atomic_write(paths[0]) as a, atomic_write(paths[1]) as b, atomic_write(paths[2]) as c:
        for temporary, path in zip((a, b, c), paths, strict=True):
            temporary.write_text(path.name)
    assert all(path.read_text() == path.name for path in paths)


@pytest.mark.parametrize("name", [".", "..", "sub/..", "sub/../..", "link", "/", "~", "notes.txt", "full"])
def test_a_folder_of_the_users_is_never_replaced(name, tmp_path, monkeypatch):
    work = tmp_path / "work"
    (work / "sub").mkdir(parents=True)
    (work / "full").mkdir()
    (work / "elsewhere").mkdir()
    (work / "link").symlink_to("elsewhere")
    for file in ("thesis.txt", "full/thesis.txt", "notes.txt"):
        (work / file).write_text("all of it")
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(work)
    before = sorted(tmp_path.rglob("*"))
    target = home if name == "~" else Path(name)
    for replace in (False, True) if name != "full" else (False,):
        with pytest.raises(InputError), atomic_directory(target, replace):
            pytest.fail("the work must not begin")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_of_folders_is_never_replaced(tmp_path):
    """No stage writes folders within its folder: what holds some is something else."""
    (tmp_path / "crops" / ".git").mkdir(parents=True)
    with pytest.raises(InputError, match="holds folders that this program did not write"):
        write_folder(tmp_path / "crops", replace=True)
    assert (tmp_path / "crops" / ".git").is_dir()


def write_folder(path: Path, replace: bool) -> None:
    with atomic_directory(path, replace) as temporary:
        (temporary / "new").touch()


def test_what_appears_during_the_work_is_not_replaced(tmp_path):
    with pytest.raises(InputError, match="exists and is not empty"), atomic_directory(tmp_path / "raw") as temporary:
        (temporary / "new").touch()
        (tmp_path / "raw").mkdir()
        (tmp_path / "raw" / "thesis.txt").touch()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["raw", "thesis.txt"]


def test_links_in_a_folder_that_is_replaced_are_not_followed(tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "object").write_text("of DVC")
    (tmp_path / "crops").mkdir()
    (tmp_path / "crops" / "train.npy").symlink_to("../cache/object")
    write_folder(tmp_path / "crops", replace=True)
    assert (tmp_path / "cache" / "object").read_text() == "of DVC"
    assert [path.name for path in (tmp_path / "crops").iterdir()] == ["new"]


def test_a_process_killed_between_two_renames_loses_nothing(tmp_path, monkeypatch):
    (tmp_path / "crops").mkdir()
    (tmp_path / "crops" / "old").touch()

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("nuclei.files._remove_files", die)
        write_folder(tmp_path / "crops", replace=True)
    write_folder(tmp_path / "crops", replace=True)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["crops", "new"]


@pytest.mark.parametrize("name", ["/dev/null", "folder", "pipe"])
def test_what_is_no_file_is_never_replaced_by_one(name, tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError), atomic_write(tmp_path / name):
        pytest.fail("the work must not begin")


def test_a_failure_leaves_no_empty_folder(tmp_path):
    with pytest.raises(ZeroDivisionError), atomic_write(tmp_path / "new" / "deep" / "table.csv"):
        _ = 1 / 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("letter", ["a", "ä", "字"])
def test_names_as_long_as_a_disk_takes_are_written(letter, tmp_path):
    name = letter * (250 // len(letter.encode())) + ".csv"
    write(tmp_path / name, "file")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_an_output_is_never_an_input_however_it_is_spelled(tmp_path):
    source = tmp_path / "model.safetensors"
    source.touch()
    (tmp_path / "link").symlink_to(source)
    (tmp_path / "hard").hardlink_to(source)
    (tmp_path / "folder").symlink_to(tmp_path)
    for name in ("model.safetensors", "link", "hard", "folder/model.safetensors", "x/../model.safetensors"):
        (tmp_path / "x").mkdir(exist_ok=True)
        with pytest.raises(InputError, match="would be replaced, but is read"):
            require_distinct([tmp_path / name], [source])
    with pytest.raises(InputError, match="two results would have this name"):
        require_distinct([tmp_path / "a.csv", tmp_path / "x/../a.csv"], [source])
    require_distinct([tmp_path / "a.csv", tmp_path / "b.csv"], [source, tmp_path / "missing"])
