from pathlib import Path

import pytest
import torch
import torchvision

from nuclei.errors import InputError
from nuclei.models.backbone import Backbone
from nuclei.models.networks import architecture_class, build, shift_logits
from nuclei.models.small_cnn import SmallCNN
from nuclei.params import load_params
from nuclei.task import CLASSES, COLON, NETWORKS

TINY = SmallCNN(channels=3, filters=(4, 4, 8, 8), widths=(8, 8), dropout=0.2)
SHAPES = [
    TINY,
    SmallCNN(channels=1, filters=(4, 4, 8, 8), widths=(16, 8), dropout=0.0),
    *(Backbone(channels, "resnet18", stem) for channels in (1, 3) for stem in ("pretrained", "no_pool", "small")),
]


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


@pytest.mark.parametrize("shape", [TINY, Backbone(1, "resnet18", "pretrained")], ids=str)
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


@pytest.mark.parametrize("stem", ["pretrained", "no_pool"])
def test_pretrained_weights_are_kept_in_every_layer_but_the_last(stem, weights):
    shape = Backbone(3, "resnet18", stem)
    network = build(shape, seed=0)
    classifier = network.fc.weight.clone()
    shape.load_pretrained(network, weights)
    own = network.state_dict()
    assert all(torch.equal(own[name], weights[name]) for name in weights if not name.startswith("fc."))
    assert torch.equal(network.fc.weight, classifier)


def test_pretrained_weights_of_four_classes_do_not_fill_the_last_layer():
    shape = Backbone(3, "resnet18", "pretrained")
    network = build(shape, seed=0)
    classifier = network.fc.weight.clone()
    shape.load_pretrained(network, imagenet_like(num_classes=4))
    assert torch.equal(network.fc.weight, classifier)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_small_stem_keeps_its_own_first_convolution(channels, weights):
    shape = Backbone(channels, "resnet18", "small")
    network = build(shape, seed=0)
    first = network.conv1.weight.clone()
    shape.load_pretrained(network, weights)
    assert torch.equal(network.conv1.weight, first)
    assert torch.equal(network.layer4[1].conv2.weight, weights["layer4.1.conv2.weight"])


@pytest.mark.parametrize("stem", ["pretrained", "no_pool"])
def test_a_grey_stem_answers_as_the_coloured_one_does_to_grey(stem, weights):
    shapes = Backbone(3, "resnet18", stem), Backbone(1, "resnet18", stem)
    coloured, grey = (build(shape, seed=0).eval() for shape in shapes)
    for shape, network in zip(shapes, (coloured, grey), strict=True):
        shape.load_pretrained(network, weights)
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
    shape = Backbone(3, "resnet18", "pretrained")
    with pytest.raises(InputError, match=name):
        shape.load_pretrained(build(shape, seed=0), rest)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["conv1.weight", "layer3.1.conv2.weight"])
def test_pretrained_weights_of_another_shape_are_refused(channels, name, weights):
    shape = Backbone(channels, "resnet18", "pretrained")
    network = build(shape, seed=0)
    before = {other: value.clone() for other, value in network.state_dict().items()}
    with pytest.raises(InputError, match=name):
        shape.load_pretrained(network, weights | {name: torch.zeros(8, 3, 2, 2)})
    assert all(torch.equal(value, before[other]) for other, value in network.state_dict().items())


@pytest.mark.parametrize("name", NETWORKS)
def test_each_network_of_the_pipeline_is_built_from_what_the_search_found(name):
    params = load_params(Path("params.yaml"))
    kind = architecture_class(name)
    tuned = {key: values[-1] for key, values in kind.search_space(params).items()}
    shape = kind.from_params(params, COLON, tuned)
    assert (shape.channels, shape.classes) == (params.data.channels, len(CLASSES))
    for key, values in kind.search_space(params).items():
        if len(values) > 1:
            assert kind.from_params(params, COLON, tuned | {key: values[0]}) != shape
    with torch.inference_mode():
        assert build(shape, seed=0).eval()(inputs(shape.channels)).shape == (2, len(CLASSES))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_layer_of_the_heat_maps_resolves_a_nucleus_and_is_never_negative(shape):
    network, maps = build(shape, seed=0).eval(), []
    shape.cam_layer(network).register_forward_hook(lambda *arguments: maps.append(arguments[-1]))
    with torch.inference_mode():
        network(inputs(shape.channels))
    assert maps[0].shape[-1] >= 12  # of 100 pixels: 8 a cell, where a nucleus has some 30
    assert maps[0].min() >= 0


@pytest.mark.parametrize("shape", [TINY, Backbone(3, "resnet18", "pretrained")], ids=str)
def test_shifted_logits_are_the_old_ones_and_the_offsets(shape):
    network, offsets = build(shape, seed=0).eval(), torch.tensor([1.0, -2.0, 0.0, 0.5], dtype=torch.float64)
    with torch.inference_mode():
        before = network(inputs(shape.channels))
        shift_logits(network, offsets)
        torch.testing.assert_close(network(inputs(shape.channels)), before + offsets.float())


def test_networks_answer_with_as_many_classes_as_they_are_built_for():
    for shape in (SmallCNN(3, (4, 4, 8, 8), (8, 8), 0.0, classes=3), Backbone(1, "resnet18", "small", classes=7)):
        with torch.inference_mode():
            assert build(shape, seed=0).eval()(inputs(shape.channels)).shape == (2, shape.classes)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: SmallCNN(2, (4, 4, 8, 8), (8, 8), 0.0),
        lambda: SmallCNN(3, (4, 4, 8), (8, 8), 0.0),
        lambda: SmallCNN(3, (4, 4, 8, 8), (8,), 0.0),
        lambda: SmallCNN(3, (4, 4, 8, 8), (8, 8), 1.0),
        lambda: Backbone(2, "resnet18", "pretrained"),
        lambda: Backbone(3, "resnet18", "large"),
    ],
)
def test_a_shape_that_no_network_has_is_refused(wrong):
    with pytest.raises(ValueError, match="channels"):
        wrong()


def test_no_random_weights_are_drawn_where_only_shapes_are_asked_for(monkeypatch):
    """PyTorch would import its compiler for that, which takes seconds whenever a checkpoint is read."""
    monkeypatch.setattr(torch.nn.init, "kaiming_normal_", lambda *_, **__: pytest.fail("they are drawn"))
    with torch.device("meta"):
        network = build(Backbone(3, "resnet18", "pretrained"), seed=0)
    assert network.state_dict()["conv1.weight"].shape == (64, 3, 7, 7)
