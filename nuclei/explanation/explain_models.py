"""What the networks of one model look at in crops, each judged by the network that did not see it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd

from nuclei.cluster import map_crops
from nuclei.device import Compute, setup_device
from nuclei.explanation.attribution import Method, attribute, methods
from nuclei.explanation.deletion_insertion import deletion_insertion, null_orders
from nuclei.explanation.explainable import BASELINES, explainable, predict_single_view
from nuclei.explanation.faithfulness import Attributions, Maps
from nuclei.explanation.layer_cam import pixels_per_cell
from nuclei.explanation.map_scores import shift
from nuclei.models.checkpoint import Model
from nuclei.models.networks import build
from nuclei.params import Explain


def explain_models(
    networks: Mapping[int, Model],
    crops: np.ndarray,
    folds: np.ndarray,
    seeds: np.ndarray,
    scored: int,
    colours: Mapping[int, np.ndarray],
    settings: Explain,
    precision: str,
    compute: Compute,
    desc: str = "",
) -> Attributions:
    """Explain crops by the networks of one model, each crop by the network of its fold, which did not see it.

    Args:
        networks: By fold.
        crops: uint8 (N, H, W, C).
        folds: int (N,), keys of `networks`.
        seeds: int (N,), of all that is random.
        scored: The first so many crops are scored; of these, the first `settings.sanity_crops` are checked.
        colours: By fold, see `methods`.
        settings: The section `explain` of params.yaml.
        precision: Of what needs no gradient, see `autocast`.
        compute: What each process computes with.
        desc: Heads the progress bars; empty: none.
    """
    device = setup_device(compute.device, compute.threads)
    sanity = min(settings.sanity_crops, scored)
    positions = {fold: np.flatnonzero(folds == fold) for fold in np.unique(folds)}
    predicted = []
    for fold, chosen in positions.items():
        network = explainable(networks[fold]).to(device)
        predicted.append((chosen, {"crops": predict_single_view(network, crops[chosen], device, precision)}))
    probabilities = _in_order(predicted)["crops"]
    targets = probabilities.argmax(axis=1)
    randomized = _randomized(
        next(iter(networks.values())), crops[:sanity], targets, seeds, colours, settings, precision, compute, desc
    )
    explained = [
        (
            chosen,
            explain_crops(
                networks[fold],
                crops[chosen],
                targets[chosen],
                seeds[chosen],
                int((chosen < scored).sum()),
                {method: maps[:, chosen[chosen < sanity]] for method, maps in randomized.items()},
                colours[fold],
                settings,
                precision,
                compute,
                f"{desc}, fold {fold}" if desc else "",
            ),
        )
        for fold, chosen in positions.items()
    ]
    curves = [fold.curves.assign(Crop=chosen[fold.curves["Crop"]]) for chosen, fold in explained]
    return Attributions(
        probabilities=probabilities,
        targets=targets,
        baselines=_in_order([(chosen, fold.baselines) for chosen, fold in explained]),
        maps=_in_order([(chosen, fold.maps) for chosen, fold in explained]),
        shifted=_in_order([(chosen[chosen < sanity], fold.shifted) for chosen, fold in explained]),
        randomized=randomized,
        curves=pd.concat([table for table in curves if len(table)] or curves, ignore_index=True),  # see `scored`
        pixels_per_cell=explained[0][1].pixels_per_cell,
    )


def explain_crops(
    model: Model,
    crops: np.ndarray,
    targets: np.ndarray,
    seeds: np.ndarray,
    scored: int,
    randomized: Maps,
    colours: np.ndarray,
    settings: Explain,
    precision: str,
    compute: Compute,
    desc: str = "",
) -> Attributions:
    """Explain crops by one network.

    Args:
        model: The network, which did not train on the crops.
        crops: uint8 (N, H, W, C).
        targets: int (N,), the classes to explain.
        seeds: int (N,), of all that is random.
        scored: The first so many crops get deletion and insertion curves.
        randomized: By method, maps of the first M crops by random networks, float (R, M, H, W); these M crops are also
            explained after a shift by one pixel.
        colours: See `methods`.
        settings: The section `explain` of params.yaml.
        precision: As in `explain_models`.
        compute: What each process computes with.
        desc: Heads the progress bars; empty: none.
    """
    device = setup_device(compute.device, compute.threads)
    network = explainable(model).to(device)
    predict = partial(predict_single_view, network, device=device, precision=precision)
    selected = methods(settings, precision, colours)
    sanity = next((maps.shape[1] for maps in randomized.values()), min(settings.sanity_crops, scored))
    maps = _map(model, crops, targets, seeds, selected, compute, desc)
    shifted = _map(model, shift(crops[:sanity], 1), targets[:sanity], seeds[:sanity], selected, compute, "")
    baselines = {name: baseline(crops) for name, baseline in BASELINES.items()}
    points, patch, curves = settings.curve_points, settings.patch, []
    if scored:
        hidden = {name: images[:scored] for name, images in baselines.items()}
        orders = null_orders(crops[:scored], seeds[:scored])
        orders |= {name: [values[:scored]] for name, values in maps.items()}
        table = deletion_insertion(predict, crops[:scored], hidden, targets[:scored], orders, points, patch)
        curves.append(table.assign(Network=0))
    if sanity and randomized:
        times = settings.random_networks  # all random networks' maps in one pass
        repeated, hidden = np.tile(crops[:sanity], (times, 1, 1, 1)), _repeat(baselines, sanity, times)
        orders = {name: [np.concatenate(values)] for name, values in randomized.items()}
        table = deletion_insertion(predict, repeated, hidden, np.tile(targets[:sanity], times), orders, points, patch)
        curves.append(table.assign(Network=table["Crop"] // sanity + 1, Crop=table["Crop"] % sanity))
    columns = ["Baseline", "Method", "Curve", "Crop", "Share", "Probability", "Network"]
    return Attributions(
        probabilities=predict(crops),
        targets=targets,
        baselines={name: predict(images) for name, images in baselines.items()},
        maps=maps,
        shifted=shifted,
        randomized=randomized,
        curves=pd.concat(curves, ignore_index=True) if curves else pd.DataFrame(columns=columns),
        pixels_per_cell=pixels_per_cell(network, crops.shape[1:]),
    )


def _randomized(
    model: Model,
    crops: np.ndarray,
    targets: np.ndarray,
    seeds: np.ndarray,
    colours: Mapping[int, np.ndarray],
    settings: Explain,
    precision: str,
    compute: Compute,
    desc: str,
) -> dict[str, np.ndarray]:
    """Return maps of `crops` by networks with random weights, of the methods that look at gradients: float (R, ...).

    Occlusion asks the network for its answers alone, which are random as well: nothing to check, for most of the time.
    """
    selected = methods(settings, precision, next(iter(colours.values())))
    selected = {name: method for name, method in selected.items() if not name.startswith("occlusion")}
    count, maps = len(crops), []
    for number in range(settings.random_networks if selected else 0):
        network = build(model.architecture, seed=2**31 + settings.seed + number)  # no training starts from this seed
        random = replace(model, network=network)
        heading = f"{desc}, random weights {number + 1}" if desc else ""
        maps.append(_map(random, crops, targets[:count], seeds[:count], selected, compute, heading))
    return {name: np.stack([of_network[name] for of_network in maps]) for name in selected}


def _map(
    model: Model,
    crops: np.ndarray,
    targets: np.ndarray,
    seeds: np.ndarray,
    selected: Mapping[str, Method],
    compute: Compute,
    desc: str,
) -> Maps:
    """Return the maps of each method, computed on the cluster where there is one."""
    if not len(crops):
        return {name: np.empty(crops.shape[:3], np.float32) for name in selected}
    return map_crops(partial(attribute, model, methods=selected, desc=desc), [crops, targets, seeds], compute)


def _repeat(images: Maps, count: int, times: int) -> dict[str, np.ndarray]:
    return {name: np.tile(values[:count], (times, 1, 1, 1)) for name, values in images.items()}


def _in_order(folds: Sequence[tuple[np.ndarray, Maps]]) -> dict[str, np.ndarray]:
    """Join arrays of several folds by name; each fold says at which positions its rows belong."""
    positions = np.concatenate([chosen for chosen, _ in folds]).argsort()
    return {name: np.concatenate([arrays[name] for _, arrays in folds])[positions] for name in folds[0][1]}
