"""Sharing by DVC remotes, as docs/pipeline.md says: folder and S3, a second clone, corruption, garbage collection."""

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from tools.clone import ROOT, Clone

CACHE = Path(".dvc/cache/files/md5")


def recipe(start: str) -> str:
    """Return the page's command that begins so, without its comment."""
    (line,) = re.findall(rf"^{re.escape(start)}.*$", (ROOT / "docs/pipeline.md").read_text(), re.MULTILINE)
    return line.split("  #")[0].strip()


def outputs(clone: Clone) -> dict[str, str]:
    """Return the hashes of what DVC keeps; live curves and data/pretrained are a clone's, or Git's."""
    files = [path for part in ("data", "reports") for path in (clone.path / part).rglob("*") if path.is_file()]
    files = [path for path in files if not {"live", "pretrained"} & set(path.parts)]
    return {str(path.relative_to(clone.path)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def objects(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def second(clone: Clone, path: Path) -> Clone:
    """Clone what `clone` has committed, with the same remote."""
    clone.run("git", "clone", "-q", str(clone.path), str(path))
    return Clone(path)


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """An S3 server with a bucket; return its address."""
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        boto3.client("s3", endpoint_url=address).create_bucket(Bucket="nuclei")
        yield address
    server.stop()


@pytest.fixture(scope="module")
def shared(finished: Clone, s3: str, tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A copy of the finished clone whose outputs lie in a folder beside it and on S3; both remotes are in its Git."""
    path = tmp_path_factory.mktemp("shared") / "clone"
    shutil.copytree(finished.path, path, symlinks=True)
    clone = Clone(path)
    clone.run("dvc", "remote", "add", "-d", "folder", "../store")
    clone.run("dvc", "remote", "add", "s3", "s3://nuclei/crops")
    clone.run("dvc", "remote", "modify", "s3", "endpointurl", s3)
    clone.run(*recipe("dvc remote modify store verify true").replace("store", "folder").split())
    clone.commit()
    for name in ("folder", "s3"):
        clone.run("dvc", "push", "-r", name)
    return clone


@pytest.fixture
def copy(shared: Clone, tmp_path: Path) -> Clone:
    """A copy of `shared` that a test may spoil, with a store of its own."""
    shutil.copytree(shared.path.parent, tmp_path, symlinks=True, dirs_exist_ok=True)
    return Clone(tmp_path / "clone")


def store(clone: Clone) -> Path:
    return clone.path.parent / "store"


@pytest.mark.parametrize(
    "commands",
    [(("dvc", "repro", "--pull"),), (("dvc", "pull", "-r", "s3"), ("dvc", "repro"))],
    ids=["folder", "s3"],
)
def test_a_second_clone_gets_everything_and_runs_nothing(commands, copy, tmp_path):
    clone = second(copy, tmp_path / "second")
    assert not (clone.path / "data/crops").exists()
    printed = "".join(clone.run(*command).stdout for command in commands)
    assert "Running stage" not in printed and "Data and pipelines are up to date." in printed
    assert outputs(clone) == outputs(copy)
    assert clone.run("git", "status", "--porcelain").stdout == ""


def spoil(clone: Clone, path: str, folder: Path, silently: bool) -> str:
    """Change a byte of the object that holds `path`; return the object's name. silently: its times stay."""
    md5 = hashlib.md5((clone.path / path).read_bytes()).hexdigest()
    place = folder / md5[:2] / md5[2:]
    status = place.stat()
    content = bytearray(place.read_bytes())
    content[len(content) // 2] ^= 1
    place.chmod(0o644)
    place.write_bytes(content)
    if silently:
        os.utime(place, ns=(status.st_atime_ns, status.st_mtime_ns))
    return md5


def test_a_corrupted_object_in_the_cache_is_named_and_fetched_again(copy):
    md5 = spoil(copy, "data/models/cnn/final.safetensors", copy.path / CACHE, silently=False)
    before = outputs(copy)
    status = copy.run("dvc", "status").stdout
    assert re.search(r"not in cache: +data/models/cnn", status)
    copy.run("dvc", "pull")
    assert hashlib.md5((copy.path / CACHE / md5[:2] / md5[2:]).read_bytes()).hexdigest() == md5
    assert outputs(copy) == before


def test_a_corrupted_object_in_the_remote_is_named(copy, tmp_path):
    spoil(copy, "data/models/cnn/final.safetensors", store(copy) / "files" / "md5", silently=False)
    clone = second(copy, tmp_path / "second")
    done = clone.run("dvc", "pull", check=False)
    assert done.returncode != 0
    assert "Checkout failed for following targets:\ndata/models/cnn" in done.stderr
    assert not (clone.path / "data/models/cnn/final.safetensors").exists()


def test_the_pages_command_names_what_rotted_unseen(copy):
    command = recipe("(cd .dvc/cache/files/md5")
    assert copy.run("bash", "-c", command).stdout == ""
    spoilt = ["data/models/resnet/final.safetensors", "data/crops/test.npy"]
    names = [spoil(copy, path, copy.path / CACHE, silently=True) for path in spoilt]
    assert sorted(copy.run("bash", "-c", command).stdout.splitlines()) == sorted(f"corrupted: {md5}" for md5 in names)


def test_garbage_collection_keeps_what_any_branch_needs(copy):
    def keep_other_folds(label: str) -> set[str]:
        table = copy.path / "data" / "split.csv"
        table.write_text(table.read_text() + f"{label}.png,0,0,0,0\n")
        before = objects(copy.path / CACHE)
        copy.run("dvc", "commit", "--force", "split")
        return objects(copy.path / CACHE) - before

    copy.run("git", "checkout", "-q", "-b", "other")
    needed_by_other = keep_other_folds("other")
    copy.commit()
    copy.run("git", "checkout", "-q", "main")
    copy.run("dvc", "checkout")
    garbage = keep_other_folds("garbage")
    copy.run("git", "checkout", "-q", ".")
    copy.run("dvc", "checkout")
    needed = objects(store(copy) / "files" / "md5") | needed_by_other
    everything = objects(copy.path / CACHE)
    assert needed_by_other and garbage and needed | garbage <= everything

    command = recipe("dvc gc ").split()
    copy.run(*command, "--dry")
    assert objects(copy.path / CACHE) == everything
    copy.run(*command, "--force")
    kept = objects(copy.path / CACHE)
    assert needed <= kept and not kept & garbage
    before = outputs(copy)
    for path in set(before) - set(copy.run("git", "ls-files").stdout.splitlines()):
        (copy.path / path).unlink()
    copy.run("dvc", "checkout")
    assert outputs(copy) == before
