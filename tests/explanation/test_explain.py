import numpy as np
import torch

from nuclei.device import Compute
from nuclei.explanation.examples import Examples
from nuclei.explanation.explain import explain
from nuclei.models.checkpoint import Model
from nuclei.models.networks import SmallCNN, build
from nuclei.params import Explain

SETTINGS = Explain(
    seed=0,
    crops=1,
    errors=1,
    checks=1,
    occlusion=[{"window": 50, "stride": 50}, {"window": 25, "stride": 25}],
    noise=0.05,
    noise_samples=1,
    steps=2,
    shap_samples=2,
    points=2,
)
SHAPE = SmallCNN(3, (4, 4, 4, 4), (8, 8), 0.0)


def test_every_crop_gets_its_maps_and_the_checked_ones_those_that_are_quick():
    crops = np.random.default_rng(0).integers(0, 256, (3, 100, 100, 3), np.uint8)
    examples = Examples(np.arange(3), typical=np.array([0, 2]), worst=np.array([1]), checked=np.array([1]))
    targets, colours = np.array([0, 1, 2]), crops.mean(axis=(1, 2))
    threads = torch.get_num_threads()
    maps, explained = explain(
        *(Model(build(SHAPE, 0), SHAPE, 1.0), crops, targets, np.arange(3), examples, colours),
        *(SETTINGS, "float32", Compute("cpu", threads), ""),
    )
    gradients = ["integrated_gradients", "gradient_shap", "grad_cam"]
    assert list(maps) == ["occlusion_50", "occlusion_25", *gradients]
    assert all(own.shape == (3, 100, 100) for own in maps.values())
    assert explained.targets.tolist() == [0, 2]
    for method in maps:
        np.testing.assert_array_equal(explained.maps[method], maps[method][[0, 2]])
    for own in (explained.moved, explained.untrained):
        assert list(own) == ["occlusion_50", *gradients]
        assert all(values.shape == (1, 100, 100) for values in own.values())
    assert not np.allclose(explained.untrained["grad_cam"], maps["grad_cam"][[2]])
