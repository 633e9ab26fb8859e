"""Disks that are full, read-only or somebody else's: one line says so, and earlier outputs stay."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from raw_files import write_good
from references import NO_REFERENCE
from stage_runs import run_stage

from nuclei.errors import run
from nuclei.files import write_json
from nuclei.models.backbone import Backbone
from nuclei.models.calibration import Calibration
from nuclei.models.checkpoint import Model, save_model
from nuclei.models.networks import build
from tools.clone import ROOT, change_params


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 3 MB with the project's params.yaml and what an earlier run left in data/."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not mount("-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)):
        pytest.skip("only root may mount a small disk, and not in every container")
    shutil.copy(ROOT / "params.yaml", folder)
    change_params(folder / "params.yaml", {"sample": {"train": 40, "test": 8, "patients": 2}})
    for name in ("sample", "crops"):
        (folder / "data" / name).mkdir(parents=True)
        (folder / "data" / name / "old").write_text("of an earlier run")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def mount(*arguments: str) -> bool:
    return bool(shutil.which("mount")) and subprocess.run(["mount", *arguments], capture_output=True).returncode == 0


def fill(folder: Path, leave: int) -> None:
    """Leave so many bytes free."""
    status = os.statvfs(folder)
    (folder / "ballast").write_bytes(bytes(status.f_bavail * status.f_frsize - leave))


def assert_refused(done: subprocess.CompletedProcess, message: str, folder: Path) -> None:
    assert (done.returncode, done.stderr) == (1, f"error: {message}\n")
    for name in ("sample", "crops"):
        assert [path.name for path in (folder / "data" / name).iterdir()] == ["old"]
    assert sorted(path.name for path in (folder / "data").iterdir()) == ["crops", "sample"]


def test_a_full_disk_keeps_the_old_sample(disk):
    fill(disk, 300_000)
    assert_refused(run_stage("sample", disk), "data/sample: No space left on device: free some space", disk)


def test_a_full_disk_keeps_the_old_crops(disk, tmp_path):
    """Writing to a memory map of a file that the disk has no room for would end in a bus error."""
    write_good(tmp_path / "raw")
    change_params(disk / "params.yaml", {"data.raw": "../raw"})
    fill(disk, 100_000)
    assert_refused(run_stage("unzip", disk), "data/crops: No space left on device: free some space", disk)


def test_a_read_only_disk_is_named(disk):
    assert mount("-o", "remount,ro", str(disk))
    message = "data/sample: Read-only file system: make the folder writable, or work in another one"
    assert_refused(run_stage("sample", disk), message, disk)


def test_a_full_disk_keeps_the_old_model(disk, capsys):
    path = disk / "data" / "model.safetensors"
    path.write_text("of an earlier run")
    architecture = Backbone(3, "resnet18", "pretrained")
    model = Model("resnet", build(architecture, seed=0), architecture, Calibration(), Calibration(), NO_REFERENCE)
    with pytest.raises(SystemExit):
        run(lambda: save_model(path, model))
    assert capsys.readouterr().err == f"error: {path}: No space left on device: free some space\n"
    assert path.read_text() == "of an earlier run"
    assert sorted(other.name for other in path.parent.iterdir()) == ["crops", "model.safetensors", "sample"]


def test_a_full_disk_keeps_the_old_table(disk, capsys):
    path = disk / "data" / "table.json"
    path.write_text("of an earlier run")
    fill(disk, 0)
    with pytest.raises(SystemExit):
        run(lambda: write_json(path, list(range(100_000))))
    assert capsys.readouterr().err == f"error: {path}: No space left on device: free some space\n"
    assert path.read_text() == "of an earlier run"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may act as somebody else")
def test_somebody_elses_folder_is_named(capsys):
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders hide from others
        folder = Path(name)
        folder.chmod(0o755)
        os.seteuid(65534)
        try:
            with pytest.raises(SystemExit):
                run(lambda: write_json(folder / "table.json", [1]))
        finally:
            os.seteuid(0)
        line = capsys.readouterr().err
        assert line == f"error: {folder}/table.json: Permission denied: ask for it, or work in another folder\n"
        assert list(folder.iterdir()) == []
