import json
import pickle
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from nuclei.errors import InputError
from nuclei.models.checkpoint import Model, load_model, save_model
from nuclei.models.networks import ResNet18, SmallCNN, build
from nuclei.models.transforms import MEAN, STD
from nuclei.task import CLASSES

TINY = SmallCNN(channels=3, filters=(4, 4, 8, 8), widths=(8, 8), dropout=0.2)
SHAPES = [
    TINY,
    SmallCNN(channels=1, filters=(4, 4, 8, 8), widths=(16, 8), dropout=0.0),
    *(ResNet18(channels, stem) for channels in (1, 3) for stem in ("pretrained", "no_pool", "small")),
]


class CreatesFile:
    """A pickle of this creates the file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def inputs(channels, n=2):
    return torch.randn(n, channels, 100, 100, generator=torch.Generator().manual_seed(0))


def imagenet_like(num_classes=1000):
    """What torchvision's file holds: no counts of batches, a thousand classes, statistics away from their start."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        network = torchvision.models.resnet18(num_classes=num_classes)
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
    return {name: value for name, value in network.state_dict().items() if not name.endswith("num_batches_tracked")}


@pytest.fixture(scope="module")
def weights():
    return imagenet_like()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_saved_model_comes_back_with_the_same_logits(shape, tmp_path):
    network = build(shape, seed=1)
    network(inputs(shape.channels))  # moves the batch-norm statistics, so that they are seen to be saved
    with torch.inference_mode():
        logits = network.eval()(inputs(shape.channels))
    assert logits.shape == (2, len(CLASSES)) and logits.dtype == torch.float32
    save_model(tmp_path / "model.safetensors", Model(network, shape, temperature=1.5))
    loaded = load_model(tmp_path / "model.safetensors")
    assert (loaded.architecture, loaded.temperature) == (shape, 1.5)
    assert not loaded.network.training
    with torch.inference_mode():
        assert torch.equal(loaded.network(inputs(shape.channels)), logits)


def test_a_model_file_is_the_same_bytes_every_time(tmp_path):
    network = build(TINY, seed=0)
    save_model(tmp_path / "one.safetensors", Model(network, TINY))
    save_model(tmp_path / "two.safetensors", load_model(tmp_path / "one.safetensors"))
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.safetensors", "two.safetensors"]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_model_file_says_all_that_is_needed_to_predict(channels, tmp_path):
    shape = ResNet18(channels, "pretrained")
    save_model(tmp_path / "model.safetensors", Model(build(shape, seed=0), shape))
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        description = json.loads(file.metadata()["nuclei"])
    assert description == {
        "kind": "ResNet18",
        "architecture": {"channels": channels, "stem": "pretrained"},
        "classes": list(CLASSES),
        "mean": list(MEAN[channels]),
        "std": list(STD[channels]),
        "temperature": 1.0,
    }


def rewritten(path, **changes):
    """Change what the metadata of a saved TINY say."""
    save_model(path, Model(build(TINY, seed=0), TINY))
    with safe_open(path, framework="pt") as file:
        description = json.loads(file.metadata()["nuclei"]) | changes
    save_file(load_file(path), path, metadata={"nuclei": json.dumps(description)})


ARCHITECTURE = {"channels": 3, "filters": [4, 4, 8, 8], "widths": [8, 8], "dropout": 0.2}


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "Transformer"},
        {"kind": ["SmallCNN"]},
        {"architecture": []},
        {"architecture": ARCHITECTURE | {"filters": [4, 4, 8, 16]}},
        {"architecture": ARCHITECTURE | {"filters": [10**30] * 4}},
        {"architecture": ARCHITECTURE | {"filters": [-1] * 4}},
        {"architecture": ARCHITECTURE | {"widths": ["8", 8]}},
        {"architecture": ARCHITECTURE | {"dropout": 2}},
        {"architecture": ARCHITECTURE | {"unknown": 1}},
        {"classes": ["benign", "malignant", "muscle", "immune leukocyte"]},
        {"mean": [0.5, 0.5, 0.5]},
        {"std": [1, 1, 1]},
        {"temperature": 0},
        {"temperature": 1e-310},
        {"temperature": 0.04},
        {"temperature": 21},
        {"temperature": 1e300},
        {"temperature": float("inf")},
        {"temperature": "1"},
    ],
    ids=str,
)
def test_metadata_that_do_not_fit_are_refused(changes, tmp_path):
    rewritten(tmp_path / "model.safetensors")
    load_model(tmp_path / "model.safetensors")  # rewriting alone does no harm
    rewritten(tmp_path / "model.safetensors", **changes)
    with pytest.raises(InputError, match=r"model\.safetensors: not a model of this project") as caught:
        load_model(tmp_path / "model.safetensors")
    assert "\n" not in str(caught.value)


def test_files_that_are_no_models_are_refused(tmp_path):
    save_model(tmp_path / "model.safetensors", Model(build(TINY, seed=0), TINY))
    whole = (tmp_path / "model.safetensors").read_bytes()
    files = {"empty": b"", "text": b"hello", "short": whole[: len(whole) // 2], "header": b"\xff" * 8 + whole[8:]}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=f"{name}: not a readable safetensors file"):
            load_model(tmp_path / name)
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(InputError, match=f"{path.name}: not a readable safetensors file"):
            load_model(path)


def test_somebody_elses_safetensors_are_refused(tmp_path, weights):
    save_file(weights, tmp_path / "resnet18.safetensors")
    with pytest.raises(InputError, match=r"resnet18\.safetensors: not a model of this project"):
        load_model(tmp_path / "resnet18.safetensors")
    save_file(weights, tmp_path / "resnet18.safetensors", metadata={"nuclei": "no JSON"})
    with pytest.raises(InputError, match=r"resnet18\.safetensors: not a model of this project"):
        load_model(tmp_path / "resnet18.safetensors")


def test_a_pickle_in_disguise_is_refused_and_runs_nothing(tmp_path):
    bomb, path = tmp_path / "bomb", tmp_path / "model.safetensors"
    path.write_bytes(pickle.dumps(CreatesFile(bomb)))
    with pytest.raises(InputError, match="not a readable safetensors file"):
        load_model(path)
    torch.save(CreatesFile(bomb), path)
    with pytest.raises(InputError, match="not a readable safetensors file"):
        load_model(path)
    assert not bomb.exists()
    pickle.loads(pickle.dumps(CreatesFile(bomb)))
    assert bomb.exists()  # it would have gone off
