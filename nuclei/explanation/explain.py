"""What one network looks at in chosen crops, with all that scoring its maps takes."""

from functools import partial

import numpy as np

from nuclei.cluster import map_crops
from nuclei.device import Compute, setup_device
from nuclei.explanation.attribution import attribute, methods
from nuclei.explanation.examples import Examples
from nuclei.explanation.faithfulness import Explained, Maps, pick, shift
from nuclei.models.checkpoint import Model
from nuclei.models.networks import build
from nuclei.models.predict import predict_probabilities
from nuclei.params import Explain


def explain(
    model: Model,
    crops: np.ndarray,
    targets: np.ndarray,
    seeds: np.ndarray,
    examples: Examples,
    colours: np.ndarray,
    settings: Explain,
    precision: str,
    place: Compute,
    label: str,
) -> tuple[Maps, Explained]:
    """Return maps of all `crops` by every method, and what `score_models` needs to know of the typical ones.

    crops: uint8 (N, H, W, C), those of `examples.rows`; targets: int (N,), the classes to explain
    seeds: int (N,), of all that is random; colours: as in `methods`; label: heads the progress bars
    Of the occlusions only the first is checked: it has the fewest windows.
    """
    device = setup_device(place.device, place.threads)
    ways = methods(settings, precision, colours)
    maps = map_crops(partial(attribute, model.network, methods=ways, label=label), [crops, targets, seeds], place)
    checked = examples.typical[examples.checked]
    few = {method: way for method, way in ways.items() if method not in list(ways)[1 : len(settings.occlusion)]}
    untrained = build(model.architecture, seed=2**31 + settings.seed)  # no training starts from this seed
    check = targets[checked], seeds[checked], few, device
    return maps, Explained(
        partial(predict_probabilities, model, device=device, precision=precision),
        targets[examples.typical],
        pick(maps, examples.typical),
        moved=attribute(model.network, shift(crops[checked], 1), *check, f"{label}, crops moved"),
        untrained=attribute(untrained, crops[checked], *check, f"{label}, random weights"),
    )
