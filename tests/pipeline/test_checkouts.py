"""Checkouts as other systems make them: Git for Windows, and a zip without Git."""

import shutil
import subprocess
from pathlib import Path

from tools.clone import Clone, copy_project


def test_a_clone_with_line_ends_of_windows_has_the_same_bytes_and_stays_clean(tmp_path):
    origin = copy_project(tmp_path / "origin")
    origin.commit()
    for setting in ("true", "input", "false"):
        clone = Clone(tmp_path / setting)
        command = ["git", "-c", f"core.autocrlf={setting}", "clone", "-q", "--config", f"core.autocrlf={setting}"]
        subprocess.run([*command, str(origin.path), str(clone.path)], check=True)
        names = clone.run("git", "ls-files").stdout.splitlines()
        assert all(_content(clone.path / name) == _content(origin.path / name) for name in names)
        assert clone.run("git", "status", "--porcelain").stdout == ""


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def test_without_git_the_readmes_setting_makes_dvc_repro_work(tmp_path):
    project = copy_project(tmp_path)
    project.set({"sample": {"train": 40, "test": 8, "patients": 2}})
    shutil.rmtree(tmp_path / ".git")
    done = project.run("dvc", "repro", "sample", check=False)
    assert done.returncode and "is not a git repository" in done.stderr
    project.run("dvc", "config", "core.no_scm", "true")
    project.run("dvc", "repro", "sample")
    assert (tmp_path / "data/sample/train.zip").exists()
