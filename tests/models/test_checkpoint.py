import json
import pickle
from functools import cache
from pathlib import Path

import pytest
import torch
import torchvision
from references import reference_of
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from nuclei.errors import InputError
from nuclei.models.backbone import Backbone
from nuclei.models.calibration import Calibration, Neighbourhood
from nuclei.models.checkpoint import Model, load_fold_models, load_model, save_model
from nuclei.models.networks import build
from nuclei.models.small_cnn import SmallCNN
from nuclei.models.transforms import MEAN, STD
from nuclei.task import CLASSES

TINY = SmallCNN(channels=3, filters=(4, 4, 8, 8), widths=(8, 8), dropout=0.2)
SHAPES = [
    TINY,
    SmallCNN(channels=1, filters=(4, 4, 8, 8), widths=(16, 8), dropout=0.0),
    *(Backbone(channels, "resnet18", stem) for channels in (1, 3) for stem in ("pretrained", "no_pool", "small")),
]
AROUND = Neighbourhood((0.6, 1.0, 1.25, 0.5, 0.0), (0.7, 0.5, 0.3), (0.8, 0.9, 0.95))
AVERAGED = Calibration(1.5, (0.6, 0.4, 0.2), (0.8, 0.9, 0.95), AROUND)
SINGLE = Calibration(2.5, (0.5, 0.3, 0.1), (0.8, 0.9, 0.9))


def model(shape=TINY, seed=0, averaged=AVERAGED, single=SINGLE):
    name = "cnn" if isinstance(shape, SmallCNN) else "resnet"
    network = build(shape, seed)
    return Model(name, network, shape, averaged, single, reference_of(network, shape))


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
    saved = model(shape, seed=1)
    saved.network(inputs(shape.channels))  # moves the batch-norm statistics, so that they are seen to be saved
    with torch.inference_mode():
        logits = saved.network.eval()(inputs(shape.channels))
    assert logits.shape == (2, len(CLASSES)) and logits.dtype == torch.float32
    save_model(tmp_path / "model.safetensors", saved)
    loaded = load_model(tmp_path / "model.safetensors")
    assert (loaded.name, loaded.architecture) == (saved.name, shape)
    assert (loaded.averaged, loaded.single) == (AVERAGED, SINGLE)
    assert not loaded.network.training
    with torch.inference_mode():
        assert torch.equal(loaded.network(inputs(shape.channels)), logits)


def test_a_model_file_is_the_same_bytes_every_time(tmp_path):
    save_model(tmp_path / "one.safetensors", model())
    save_model(tmp_path / "two.safetensors", load_model(tmp_path / "one.safetensors"))
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.safetensors", "two.safetensors"]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_model_file_says_all_that_is_needed_to_predict(channels, tmp_path):
    shape = Backbone(channels, "resnet18", "pretrained")
    save_model(tmp_path / "model.safetensors", model(shape))
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        description = json.loads(file.metadata()["nuclei"])
    assert description == {
        "name": "resnet",
        "architecture": {
            "channels": channels,
            "backbone": "resnet18",
            "stem": "pretrained",
            "size": None,
            "frozen": 0.0,
            "classes": 4,
        },
        "classes": list(CLASSES),
        "side": 100,
        "mpp": 0.25,
        "mean": list(MEAN[channels]),
        "std": list(STD[channels]),
        "averaged": {
            "temperature": 1.5,
            "thresholds": [0.6, 0.4, 0.2],
            "promised": [0.8, 0.9, 0.95],
            "neighbourhood": {
                "weights": [0.6, 1.0, 1.25, 0.5, 0.0],
                "thresholds": [0.7, 0.5, 0.3],
                "promised": [0.8, 0.9, 0.95],
            },
        },
        "single": {
            "temperature": 2.5,
            "thresholds": [0.5, 0.3, 0.1],
            "promised": [0.8, 0.9, 0.9],
            "neighbourhood": None,
        },
    }


@cache
def tiny():
    return model()


def rewritten(path, **changes):
    """Change what the metadata of a saved TINY say."""
    save_model(path, tiny())
    with safe_open(path, framework="pt") as file:
        description = json.loads(file.metadata()["nuclei"]) | changes
    save_file(load_file(path), path, metadata={"nuclei": json.dumps(description)})


ARCHITECTURE = {"channels": 3, "filters": [4, 4, 8, 8], "widths": [8, 8], "dropout": 0.2, "classes": 4}
CALIBRATION = {"temperature": 1.0, "thresholds": [0.5, 0.3, 0.1], "promised": [0.8, 0.9, 0.95]}
CALIBRATION |= {"neighbourhood": None}
NEIGHBOURHOOD = {"weights": [1.0] * 5, "thresholds": [0.5, 0.3, 0.1], "promised": [0.8, 0.9, 0.95]}


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "transformer"},
        {"name": "resnet"},
        {"name": ["cnn"]},
        {"name": "os.system"},
        {"architecture": []},
        {"architecture": ARCHITECTURE | {"filters": [4, 4, 8, 16]}},
        {"architecture": ARCHITECTURE | {"filters": [10**30] * 4}},
        {"architecture": ARCHITECTURE | {"filters": [-1] * 4}},
        {"architecture": ARCHITECTURE | {"widths": ["8", 8]}},
        {"architecture": ARCHITECTURE | {"dropout": 2}},
        {"architecture": ARCHITECTURE | {"classes": 5}},
        {"architecture": ARCHITECTURE | {"unknown": 1}},
        {"classes": ["benign", "malignant", "muscle"]},
        {"classes": ["benign", "malignant", "muscle", 3]},
        {"classes": ["benign", "malignant", "muscle", "\n"]},
        {"side": 99},
        {"mpp": 0},
        {"mean": [0.5, 0.5, 0.5]},
        {"std": [1, 1, 1]},
        *(
            {views: CALIBRATION | {"temperature": value}}
            for views in ("averaged", "single")
            for value in (0, 1e-310, 0.04, 21, 1e300, float("inf"), float("nan"), "1", [1.0])
        ),
        *({"averaged": CALIBRATION | {"thresholds": value}} for value in ([], [0.5], [0.5, 0.3, 1.1], [0.5, 0.3, "1"])),
        {"single": CALIBRATION | {"thresholds": [0.5, 0.3, float("nan")]}},
        {"single": CALIBRATION | {"promised": [0.8, 0.9, -0.1]}},
        {"single": CALIBRATION | {"promised": [0.8, 0.9]}},
        {"single": CALIBRATION | {"unknown": 1}},
        *(
            {"averaged": CALIBRATION | {"neighbourhood": value}}
            for value in (
                [],
                "none",
                NEIGHBOURHOOD | {"weights": [1.0] * 4},
                NEIGHBOURHOOD | {"weights": [1.0, 1.0, 1.0, 1.0, -0.1]},
                NEIGHBOURHOOD | {"weights": [1.0, 1.0, 1.0, 1.0, float("nan")]},
                NEIGHBOURHOOD | {"weights": None},
                NEIGHBOURHOOD | {"thresholds": [0.5, 0.3]},
                NEIGHBOURHOOD | {"promised": [0.5, 0.3, 1.1]},
                NEIGHBOURHOOD | {"unknown": 1},
            )
        ),
        {"averaged": {name: value for name, value in CALIBRATION.items() if name != "neighbourhood"}},
        {"averaged": None},
    ],
    ids=str,
)
def test_metadata_that_do_not_fit_are_refused(changes, tmp_path):
    rewritten(tmp_path / "model.safetensors")
    load_model(tmp_path / "model.safetensors")  # rewriting alone does no harm
    rewritten(
        tmp_path / "model.safetensors", averaged=CALIBRATION | {"neighbourhood": NEIGHBOURHOOD}, single=CALIBRATION
    )
    load_model(tmp_path / "model.safetensors")  # nor do these
    rewritten(tmp_path / "model.safetensors", **changes)
    with pytest.raises(InputError, match=r"model\.safetensors: not a model of this project") as caught:
        load_model(tmp_path / "model.safetensors")
    assert "\n" not in str(caught.value)


def test_files_that_are_no_models_are_refused(tmp_path):
    save_model(tmp_path / "model.safetensors", model())
    whole = (tmp_path / "model.safetensors").read_bytes()
    files = {"empty": b"", "text": b"hello", "short": whole[: len(whole) // 2], "header": b"\xff" * 8 + whole[8:]}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=f"{name}: not a readable safetensors file"):
            load_model(tmp_path / name)
    with pytest.raises(InputError, match=f"{tmp_path.name}: not a readable safetensors file"):
        load_model(tmp_path)
    with pytest.raises(InputError, match="missing: no such file: train the network first"):
        load_model(tmp_path / "missing")


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


def test_the_models_of_the_folds_come_by_their_number_and_the_final_one_alone(tmp_path):
    temperatures = {"fold_0": 1.0, "fold_2": 2.0, "fold_10": 3.0, "final": 4.0}
    for name, temperature in temperatures.items():
        save_model(tmp_path / f"{name}.safetensors", model(averaged=Calibration(temperature)))
    (tmp_path / "out_of_fold.npz").touch()
    folds = load_fold_models(tmp_path)
    assert list(folds) == [0, 2, 10]
    assert [each.averaged.temperature for each in folds.values()] == [1.0, 2.0, 3.0]
    assert load_model(tmp_path / "final.safetensors").averaged.temperature == 4.0


def test_a_folder_without_models_is_an_error(tmp_path):
    with pytest.raises(InputError, match=r"expected fold_0\.safetensors"):
        load_fold_models(tmp_path)
    with pytest.raises(InputError, match=r"final\.safetensors: no such file"):
        load_model(tmp_path / "final.safetensors")
