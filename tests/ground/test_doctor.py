import os
import shutil
import socket
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from nuclei import cluster, doctor
from nuclei.cli import main
from nuclei.doctor import Check, examine, is_fit, screen
from nuclei.models.pretrained import RESNET18_URL

GB = 10**9


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with params.yaml and ImageNet weights, on a machine that lacks nothing that a test can give it."""
    shutil.copy("params.yaml", tmp_path)
    weights = tmp_path / "data/pretrained/resnet18.pth"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(bytes(2_000_000))
    for name in ("RAY_ADDRESS", "RAY_TMPDIR", "RAY_GCS_SERVER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(doctor, "usable_threads", lambda: 8)
    monkeypatch.setattr(doctor, "usable_memory", lambda: 32 * GB)
    monkeypatch.setattr(doctor, "free_space", lambda folder: 100 * GB)
    return tmp_path


def check(topic: str, folder: Path) -> Check:
    (check,) = (each for each in examine(folder) if each.topic == topic)
    return check


def test_a_good_machine_is_fit_and_nothing_is_contacted(project, monkeypatch):
    def refuse(*address):
        raise AssertionError(f"contacted {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    checks = examine(project)
    assert is_fit(checks)
    topics = {each.topic for each in checks if each.lack}
    assert topics <= {"processor", "gpu", "openslide", "onnx", "chromium", "git"}  # what a test cannot give
    text = screen(checks)
    assert "Nothing that the pipeline needs is missing." in text
    assert len(text.splitlines()) < 40 and max(map(len, text.splitlines())) < 150  # one screen


@pytest.mark.parametrize(
    ("name", "value", "topic", "words"),
    [
        ("usable_threads", lambda: 1, "threads", "set threads: 1"),
        ("usable_memory", lambda: 2 * GB, "memory", "give the container or job more"),
        ("free_space", lambda folder: GB, "disk", "free some space"),
    ],
)
def test_too_little_of_something_is_told_with_its_remedy(project, monkeypatch, name, value, topic, words):
    monkeypatch.setattr(doctor, name, value)
    assert words in check(topic, project).lack
    assert is_fit(examine(project))


def test_a_missing_package_is_an_error_and_says_what_to_run(project, monkeypatch):
    real = doctor.version

    def version(name):
        if name == "tqdm":
            raise PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(doctor, "version", version)
    assert "no tqdm: run `uv sync`" in check("packages", project).lack
    assert not is_fit(examine(project))


def test_a_package_of_another_version_is_told(project, monkeypatch):
    real = doctor.version
    monkeypatch.setattr(doctor, "version", lambda name: "0.1" if name == "numpy" else real(name))
    assert "numpy 0.1 instead of " in check("packages", project).lack
    assert is_fit(examine(project))


def test_parameters_that_this_machine_cannot_follow_are_an_error(project, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    path = project / "params.yaml"
    path.write_text(path.read_text().replace("device: auto", "device: cuda"))
    assert "use auto or cpu" in check("gpu", project).lack
    path.write_text("lr: fast")
    checks = examine(project)
    assert "params.yaml" in next(each.lack for each in checks if each.topic == "params") and not is_fit(checks)


def test_outside_of_the_project_one_line_says_so(tmp_path):
    assert "go there" in check("params", tmp_path).lack


def test_weights_are_found_where_torch_keeps_them(project, tmp_path, monkeypatch):
    shutil.rmtree(project / "data/pretrained")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    assert "set train_resnet.weights to its name" in check("weights", project).lack
    cached = tmp_path / "torch/hub/checkpoints" / doctor.IMAGENET
    cached.parent.mkdir(parents=True)
    cached.write_bytes(bytes(2_000_000))
    assert check("weights", project) == Check("weights", str(cached))


def test_the_name_of_the_weights_is_torchvisions():
    from torchvision.models import ResNet18_Weights

    assert ResNet18_Weights.IMAGENET1K_V1.url == RESNET18_URL and RESNET18_URL.endswith("/" + doctor.IMAGENET)


def test_a_proxys_password_is_not_shown(project, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://me:secret@proxy:3128")
    assert "https by http://proxy:3128" in check("network", project).finding


def test_ray_without_a_port_or_folder_is_an_error(project, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(project / "missing"))
    assert "set RAY_TMPDIR to a folder that can" in check("ray", project).lack
    monkeypatch.delenv("RAY_TMPDIR")
    with socket.create_server(("", 0)) as taken:
        monkeypatch.setenv("RAY_GCS_SERVER_PORT", str(taken.getsockname()[1]))
        assert "unset it" in check("ray", project).lack
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert check("ray", project).lack == ""
    assert cluster.cluster_address() == "head:6379"


def test_the_command_ends_with_1_where_something_needed_is_missing(project, monkeypatch, capsys):
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "argv", ["nuclei", "doctor"])
    main()
    assert f"nuclei {version('nuclei')}" in capsys.readouterr().out
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    assert "ERROR: the folder cannot be written to" in capsys.readouterr().out
