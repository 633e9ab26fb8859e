import json
import pickle
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from nuclei.classes import CLASSES
from nuclei.crops import MEAN, STD
from nuclei.errors import InputError
from nuclei.models import Model, ResNet18, SmallCNN, build, load_model, load_pretrained, save_model
from nuclei.params import load_params

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


def test_the_cnn_stays_small_at_the_largest_widths():
    params = load_params(Path("params.yaml"))
    widest = max(params.tune.widths)
    network = build(SmallCNN(3, tuple(params.cnn.filters), (widest, widest), params.cnn.dropout), seed=0)
    assert sum(parameter.numel() for parameter in network.parameters()) < 1_500_000


def test_the_cnn_has_four_convolutions_and_two_wide_layers():
    network = build(SmallCNN(3, (4, 6, 8, 10), (12, 14), 0.3), seed=0)
    assert [m.out_channels for m in network.modules() if isinstance(m, torch.nn.Conv2d)] == [4, 6, 8, 10]
    assert [m.out_features for m in network.modules() if isinstance(m, torch.nn.Linear)] == [12, 14, len(CLASSES)]
    assert [m.p for m in network.modules() if isinstance(m, torch.nn.Dropout)] == [0.3]


@pytest.mark.parametrize("shape", [TINY, ResNet18(1, "pretrained")], ids=str)
def test_the_seed_alone_chooses_the_first_weights(shape):
    torch.manual_seed(5)
    first = build(shape, seed=3).state_dict()
    drawn = torch.rand(1)
    torch.manual_seed(6)
    again, other = build(shape, seed=3).state_dict(), build(shape, seed=4).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), drawn)  # building takes nothing from the caller's random numbers


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


@pytest.mark.parametrize("stem", ["pretrained", "no_pool"])
def test_pretrained_weights_are_kept_in_every_layer_but_the_last(stem, weights):
    network = build(ResNet18(3, stem), seed=0)
    classifier = network.fc.weight.clone()
    load_pretrained(network, weights)
    own = network.state_dict()
    assert all(torch.equal(own[name], weights[name]) for name in weights if not name.startswith("fc."))
    assert torch.equal(network.fc.weight, classifier)


def test_pretrained_weights_of_four_classes_do_not_fill_the_last_layer():
    network = build(ResNet18(3, "pretrained"), seed=0)
    classifier = network.fc.weight.clone()
    load_pretrained(network, imagenet_like(num_classes=4))
    assert torch.equal(network.fc.weight, classifier)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_small_stem_keeps_its_own_first_convolution(channels, weights):
    network = build(ResNet18(channels, "small"), seed=0)
    first = network.conv1.weight.clone()
    load_pretrained(network, weights)
    assert torch.equal(network.conv1.weight, first)
    assert torch.equal(network.layer4[1].conv2.weight, weights["layer4.1.conv2.weight"])


@pytest.mark.parametrize("stem", ["pretrained", "no_pool"])
def test_a_grey_stem_answers_as_the_coloured_one_does_to_grey(stem, weights):
    coloured, grey = build(ResNet18(3, stem), seed=0), build(ResNet18(1, stem), seed=0)
    for network in (coloured, grey):
        load_pretrained(network, weights)
        network.eval()
    grey.fc.load_state_dict(coloured.fc.state_dict())
    with torch.inference_mode():
        expected = coloured(inputs(1).expand(-1, 3, -1, -1))
        torch.testing.assert_close(grey(inputs(1)), expected, rtol=1e-3, atol=1e-4)
    assert expected.std() > 1e-3


@pytest.mark.parametrize(
    "name", ["conv1.weight", "bn1.running_mean", "layer2.0.downsample.0.weight", "layer4.1.bn2.bias"]
)
def test_pretrained_weights_that_lack_a_layer_are_refused(name, weights):
    rest = {other: value for other, value in weights.items() if other != name}
    with pytest.raises(InputError, match=name):
        load_pretrained(build(ResNet18(3, "pretrained"), seed=0), rest)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["conv1.weight", "layer3.1.conv2.weight"])
def test_pretrained_weights_of_another_shape_are_refused(channels, name, weights):
    network = build(ResNet18(channels, "pretrained"), seed=0)
    before = {other: value.clone() for other, value in network.state_dict().items()}
    with pytest.raises(InputError, match=name):
        load_pretrained(network, weights | {name: torch.zeros(8, 3, 2, 2)})
    assert all(torch.equal(value, before[other]) for other, value in network.state_dict().items())
