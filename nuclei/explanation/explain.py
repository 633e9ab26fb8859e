"""What networks look at in held-out crops, each judged by the network that did not see it, and what that is worth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd

from nuclei.cluster import map_crops
from nuclei.device import Compute, setup_device
from nuclei.errors import InputError
from nuclei.explanation.attribution import Method, attribute, methods
from nuclei.explanation.deletion_insertion import deletion_insertion, null_orders
from nuclei.explanation.examples import Examples, choose
from nuclei.explanation.explainable import BASELINES, explainable, predict_single_view
from nuclei.explanation.faithfulness import Attributions, Maps, score_models, shift, summarise
from nuclei.explanation.layer_cam import pixels_per_cell
from nuclei.explanation.segmentation import centre_nucleus
from nuclei.models.checkpoint import Model
from nuclei.models.networks import build
from nuclei.params import Explain

COLOURS = 64  # mean colours of crops that the networks trained on, for GradientSHAP


@dataclass(frozen=True)
class Explanation:
    """What all models look at in N chosen crops, and how far that can be trusted.

    Attributes:
        table: A row per crop: Filename, Label, Group, Fold.
        examples: Why each crop was chosen.
        crops: uint8 (N, H, W, C).
        nuclei: bool (N, H, W), the nucleus in the middle.
        attributions: Of each model.
        scores, curves: See `score_models`.
        means: See `summarise`.
    """

    table: pd.DataFrame
    examples: Examples
    crops: np.ndarray
    nuclei: np.ndarray
    attributions: Mapping[str, Attributions]
    scores: pd.DataFrame
    curves: pd.DataFrame
    means: pd.DataFrame

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what `maps.npz` holds: the crops' names and labels, nuclei, and each model's maps and predictions."""
        arrays = {"Filename": self.table["Filename"].to_numpy(str), "Label": self.table["Label"].to_numpy()}
        arrays["nucleus"] = self.nuclei
        for model, own in self.attributions.items():
            arrays |= {f"{model}_{method}": maps for method, maps in own.maps.items()}
            arrays |= {f"{model}_predicted": own.targets, f"{model}_probabilities": own.probabilities}
        return arrays

    def named_scores(self) -> pd.DataFrame:
        """Return `scores` with the file name of each crop in the place of its number."""
        return self.scores.assign(Crop=self.table["Filename"][self.scores["Crop"]].array)


def select_and_explain(
    crops: np.ndarray,
    table: pd.DataFrame,
    predictions: Mapping[str, pd.DataFrame],
    models: Mapping[str, Mapping[int, Model]],
    classes: Sequence[str],
    settings: Explain,
    precision: str,
    place: Compute,
) -> Explanation:
    """Choose held-out crops and explain what each model says of them.

    Args:
        crops: uint8 (M, H, W, C), all labelled crops, may be memory-mapped.
        table: Their rows: Filename, Label, Group, Fold.
        predictions: Of each model, one row per held-out crop, in the order of `table`, with Probability_0..K-1; they
            only choose the errors.
        models: Of each model, the network of each fold that was held out from it.
        classes: Names of the K classes.
        settings: The section `explain` of params.yaml.
        precision: Of what needs no gradient, see `autocast`.
        place: What computes.

    Raises:
        InputError: A window or a patch is larger than the crops.
    """
    _check_sizes(settings, crops.shape[1:3])
    held_out = np.flatnonzero(table["Fold"].isin(set.intersection(*(set(folds) for folds in models.values()))))
    examples = choose(
        table["Label"].to_numpy()[held_out],
        np.stack([rows.filter(like="Probability_").to_numpy() for rows in predictions.values()]),
        settings.crops,
        settings.stratify,
        settings.errors,
        settings.seed,
    )
    rows = held_out[examples.rows]
    chosen, own_table = np.array(crops[rows]), table.iloc[rows].reset_index(drop=True)
    folds, seeds = own_table["Fold"].to_numpy(), settings.seed + rows
    colours = {fold: _colours(crops, table["Fold"].to_numpy() != fold, settings.seed) for fold in np.unique(folds)}
    attributions = {
        name: explain_models(
            networks, chosen, folds, seeds, examples.drawn, colours, settings, precision, place, desc=name
        )
        for name, networks in models.items()
    }
    nuclei = np.stack([centre_nucleus(crop) for crop in chosen])
    scores, curves = score_models(attributions, nuclei, settings.patch)
    means = summarise(scores, attributions, own_table["Group"].to_numpy(), classes)
    return Explanation(own_table, examples, chosen, nuclei, attributions, scores, curves, means)


def explain_models(
    networks: Mapping[int, Model],
    crops: np.ndarray,
    folds: np.ndarray,
    seeds: np.ndarray,
    scored: int,
    colours: Mapping[int, np.ndarray],
    settings: Explain,
    precision: str,
    place: Compute,
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
        settings, precision, place: As in `select_and_explain`.
        desc: Heads the progress bars; empty: none.
    """
    device = setup_device(place.device, place.threads)
    checked = min(settings.sanity_crops, scored)
    positions = {fold: np.flatnonzero(folds == fold) for fold in np.unique(folds)}
    views = _in_order(
        [
            (
                chosen,
                {
                    "crops": predict_single_view(
                        explainable(networks[fold]).to(device), crops[chosen], device, precision
                    )
                },
            )
            for fold, chosen in positions.items()
        ]
    )["crops"]
    targets = views.argmax(axis=1)
    randomized = _randomized(
        next(iter(networks.values())), crops[:checked], targets, seeds, colours, settings, precision, place, desc
    )
    parts = [
        (
            chosen,
            explain_crops(
                networks[fold],
                crops[chosen],
                targets[chosen],
                seeds[chosen],
                int((chosen < scored).sum()),
                {method: maps[:, chosen[chosen < checked]] for method, maps in randomized.items()},
                colours[fold],
                settings,
                precision,
                place,
                f"{desc}, fold {fold}" if desc else "",
            ),
        )
        for fold, chosen in positions.items()
    ]
    curves = [part.curves.assign(Crop=chosen[part.curves["Crop"]]) for chosen, part in parts]
    return Attributions(
        probabilities=views,
        targets=targets,
        baselines=_in_order([(chosen, part.baselines) for chosen, part in parts]),
        maps=_in_order([(chosen, part.maps) for chosen, part in parts]),
        shifted=_in_order([(chosen[chosen < checked], part.shifted) for chosen, part in parts]),
        randomized=randomized,
        curves=pd.concat(curves, ignore_index=True),
        pixels_per_cell=parts[0][1].pixels_per_cell,
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
    place: Compute,
    desc: str = "",
) -> Attributions:
    """Explain crops by one network.

    Args:
        model: The network, which did not train on the crops.
        crops: uint8 (N, H, W, C).
        targets: int (N,), the classes to explain.
        seeds: int (N,), of all that is random.
        scored: The first so many crops get deletion and insertion curves.
        randomized: Maps of the first M crops by random networks, float (R, M, H, W) of each method; these M crops are
            also explained after a shift by one pixel.
        colours: See `methods`.
        settings, precision, place, desc: As in `explain_models`.
    """
    device = setup_device(place.device, place.threads)
    network = explainable(model).to(device)
    predict = partial(predict_single_view, network, device=device, precision=precision)
    ways = methods(settings, precision, colours)
    checked = next((maps.shape[1] for maps in randomized.values()), min(settings.sanity_crops, scored))
    maps = _map(model, crops, targets, seeds, ways, place, desc)
    shifted = _map(model, shift(crops[:checked], 1), targets[:checked], seeds[:checked], ways, place, "")
    baselines = {name: baseline(crops) for name, baseline in BASELINES.items()}
    curves = []
    if scored:
        first = crops[:scored], {name: images[:scored] for name, images in baselines.items()}, targets[:scored]
        orders = null_orders(crops[:scored], seeds[:scored]) | {
            name: [values[:scored]] for name, values in maps.items()
        }
        curves.append(
            deletion_insertion(predict, *first, orders, settings.curve_points, settings.patch).assign(Network=0)
        )
    if checked and randomized:
        repeat = settings.random_networks  # all random networks' maps in one pass
        first = (np.tile(crops[:checked], (repeat, 1, 1, 1)), _repeat(baselines, checked, repeat))
        orders = {name: [np.concatenate(values)] for name, values in randomized.items()}
        table = deletion_insertion(
            predict, *first, np.tile(targets[:checked], repeat), orders, settings.curve_points, settings.patch
        )
        curves.append(table.assign(Network=table["Crop"] // checked + 1, Crop=table["Crop"] % checked))
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


def _check_sizes(settings: Explain, size: tuple[int, int]) -> None:
    largest = {f"explain.occlusion: window {item.window}": item.window for item in settings.occlusion}
    for name, length in (largest | {f"explain.patch: {settings.patch}": settings.patch}).items():
        if length > min(size):
            raise InputError(f"{name} is larger than the crops, {size[1]}x{size[0]} pixels: lower it")


def _colours(crops: np.ndarray, trained_on: np.ndarray, seed: int) -> np.ndarray:
    """Return the mean colours, float (B, C), of crops that a network trained on."""
    rows = np.random.default_rng(seed).permutation(np.flatnonzero(trained_on))[:COLOURS]
    return np.asarray(crops[rows]).mean(axis=(1, 2))


def _randomized(
    model: Model,
    crops: np.ndarray,
    targets: np.ndarray,
    seeds: np.ndarray,
    colours: Mapping[int, np.ndarray],
    settings: Explain,
    precision: str,
    place: Compute,
    desc: str,
) -> dict[str, np.ndarray]:
    """Return maps of `crops` by networks with random weights, of the methods that look at gradients: float (R, ...).

    Occlusion asks the network for its answers alone, which are random as well: nothing to check, for most of the time.
    """
    ways = methods(settings, precision, next(iter(colours.values())))
    ways = {name: way for name, way in ways.items() if not name.startswith("occlusion")}
    count, maps = len(crops), []
    for number in range(settings.random_networks if ways else 0):
        network = build(model.architecture, seed=2**31 + settings.seed + number)  # no training starts from this seed
        random = replace(model, network=network)
        label = f"{desc}, random weights {number + 1}" if desc else ""
        maps.append(_map(random, crops, targets[:count], seeds[:count], ways, place, label))
    return {name: np.stack([part[name] for part in maps]) for name in ways}


def _map(
    model: Model,
    crops: np.ndarray,
    targets: np.ndarray,
    seeds: np.ndarray,
    ways: Mapping[str, Method],
    place: Compute,
    desc: str,
) -> Maps:
    """Return the maps of each method, computed on the cluster where there is one."""
    if not len(crops):
        return {name: np.empty(crops.shape[:3], np.float32) for name in ways}
    return map_crops(partial(attribute, model, methods=ways, desc=desc), [crops, targets, seeds], place)


def _repeat(images: Maps, count: int, times: int) -> dict[str, np.ndarray]:
    return {name: np.tile(values[:count], (times, 1, 1, 1)) for name, values in images.items()}


def _in_order(parts: Sequence[tuple[np.ndarray, Maps]]) -> dict[str, np.ndarray]:
    """Join arrays of several folds by name; each part says at which positions its rows belong."""
    positions = np.concatenate([chosen for chosen, _ in parts]).argsort()
    return {name: np.concatenate([arrays[name] for _, arrays in parts])[positions] for name in parts[0][1]}
