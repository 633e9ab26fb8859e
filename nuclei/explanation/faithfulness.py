"""How far maps of what a network looks at can be trusted, and whether it looks at the nucleus in the middle."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from nuclei.explanation.segmentation import centre_disc, centre_nucleus

CELL = 10  # pixels a side: crops are hidden and shown, and maps compared, square by square
CROPS_AT_ONCE = 64
RANDOM_ORDERS = 2  # a crop

Predict = Callable[[np.ndarray], np.ndarray]  # crops, uint8 (N, H, W, C), to probabilities (N, K)
Maps = Mapping[str, np.ndarray]  # of each method, float (N, H, W)


@dataclass(frozen=True)
class Explained:
    """What one network looks at.

    predict: the network; targets: int (N,), the classes that the maps explain; maps: of N crops;
    moved, untrained: of the M crops, and those methods, that are checked: of the crop after `shift` by one pixel, and
    by the same network with random weights
    """

    predict: Predict
    targets: np.ndarray
    maps: Maps
    moved: Maps
    untrained: Maps


def score_models(
    explained: Mapping[str, Explained], crops: np.ndarray, checked: np.ndarray, points: int, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Score the maps of two models; return a table of scores and one of curves, each with a column Model.

    crops: uint8 (N, H, W, C); checked: int (M,), rows of `crops`; points, seed: see `score_maps`.
    To the scores of `score_maps` come Weights (trained, random) and
    Stability: rank correlation of a map with that of the crop moved by one pixel, moved back;
    Agreement: rank correlation with the other model's map where both explain the same class; of random weights: with
    the trained network's map, near 0 where a method shows what was learned (Adebayo et al. 2018, "Sanity checks for
    saliency maps").
    """
    scores, curves = [], []
    for model, other in (tuple(explained), tuple(explained)[::-1]):
        own = explained[model]
        trained, curve = score_maps(own.predict, crops, own.targets, own.maps, points, seed)
        trained["Stability"] = _correlate(
            pick(own.maps, checked), {method: shift(maps, -1) for method, maps in own.moved.items()}, checked
        )
        alike = np.flatnonzero(own.targets == explained[other].targets)
        trained["Agreement"] = _correlate(pick(own.maps, alike), pick(explained[other].maps, alike), alike)
        scores.append(trained.reset_index().assign(Model=model, Weights="trained"))
        curves.append(curve.assign(Model=model))

        random, _ = score_maps(own.predict, crops[checked], own.targets[checked], own.untrained, points, seed)
        random["Agreement"] = _correlate(pick(own.maps, checked), own.untrained, np.arange(len(checked)))
        random = random.drop(index="random_order", level="Method").reset_index()
        scores.append(random.assign(Model=model, Weights="random", Crop=checked[random["Crop"]]))
    return pd.concat(scores, ignore_index=True), pd.concat(curves, ignore_index=True)


def pick(maps: Maps, rows: np.ndarray) -> Maps:
    """Return the maps of the crops in `rows`."""
    return {method: values[rows] for method, values in maps.items()}


def _correlate(one: Maps, other: Maps, crops: np.ndarray) -> pd.Series:
    """Return the rank correlations of two sets of maps of the same crops, by Method (of `other`) and Crop."""
    return pd.concat(
        {method: pd.Series(rank_correlation(one[method], maps), crops, float) for method, maps in other.items()},
        names=["Method", "Crop"],
    )


def score_maps(
    predict: Predict, crops: np.ndarray, targets: np.ndarray, maps: Maps, points: int, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Score the maps of one network; return a table of scores and one of curves.

    points: of a curve, denser at its start; seed: of the random orders.
    Scores, by Method and Crop (its row):
    Deletion, Insertion: areas under the curves of `fill_curves`, in [0, 1];
    Deletion_gain, Insertion_gain: by how much they are better than random orders: above 0 where a map finds what the
    network uses;
    In_disc, In_nucleus: shares of the map inside `centre_disc` and `centre_nucleus`.
    The method random_order is the chance level of them all.
    Curves: mean Probability of the targets, by Method, Curve (deletion, insertion) and Share of the squares.
    """
    shares = np.linspace(0, 1, points + 1) ** 2
    rng = np.random.default_rng(seed)
    orders = [rng.random(crops.shape[:3]) for _ in range(RANDOM_ORDERS)]
    found = {"random_order": np.mean([fill_curves(predict, crops, targets, order, shares) for order in orders], axis=0)}
    found |= {method: np.stack(fill_curves(predict, crops, targets, own, shares)) for method, own in maps.items()}
    areas = {method: np.trapezoid(pair, shares) for method, pair in found.items()}
    discs = np.repeat(centre_disc(crops.shape[1:3])[None], len(crops), axis=0)
    nuclei = np.stack([centre_nucleus(crop) for crop in crops])
    scores = {
        method: pd.DataFrame(
            {
                "Deletion": areas[method][0],
                "Insertion": areas[method][1],
                "Deletion_gain": areas["random_order"][0] - areas[method][0],
                "Insertion_gain": areas[method][1] - areas["random_order"][1],
                "In_disc": share_inside(own, discs),
                "In_nucleus": share_inside(own, nuclei),
            }
        )
        for method, own in ({"random_order": np.ones(crops.shape[:3])} | dict(maps)).items()
    }
    curves = [
        pd.DataFrame({"Method": method, "Curve": curve, "Share": shares, "Probability": probabilities.mean(axis=0)})
        for method, pair in found.items()
        for curve, probabilities in zip(("deletion", "insertion"), pair, strict=True)
    ]
    return pd.concat(scores, names=["Method", "Crop"]), pd.concat(curves, ignore_index=True)


def average(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the means over the crops, and the number of Crops, of each Model, Weights and Method.

    Deletion_error, Insertion_error: standard errors of the two gains
    """
    groups = scores.groupby(["Model", "Weights", "Method"], sort=False)
    means = groups.mean().drop(columns="Crop")
    means.insert(0, "Crops", groups.size())
    errors = groups[["Deletion_gain", "Insertion_gain"]].sem()
    return means.assign(Deletion_error=errors["Deletion_gain"], Insertion_error=errors["Insertion_gain"]).reset_index()


def metrics(means: pd.DataFrame, model: str) -> dict[str, dict[str, float]]:
    """Pick what the trained `model` comes to, score by score and method by method; what is not known is left out."""
    own = means[(means["Model"] == model) & (means["Weights"] == "trained") & (means["Method"] != "random_order")]
    own = own.set_index("Method")
    names = ("In_nucleus", "In_disc", "Deletion_gain", "Insertion_gain", "Stability", "Agreement")
    return {name.lower(): own[name].dropna().to_dict() for name in names}


def fill_curves(
    predict: Predict, crops: np.ndarray, targets: np.ndarray, maps: np.ndarray, shares: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the probability of the targets along deletion and along insertion, each float (N, P).

    The squares of a crop are hidden under its mean colour (deletion), or appear on it (insertion), those with the
    highest values in `maps`, float (N, H, W), first. shares: float (P,), of the squares, rising from 0 to 1.
    Sources: Petsiuk et al. 2018, "RISE"; squares, not pixels: Samek et al. 2017, "Evaluating the visualization of
    what a deep neural network has learned".
    """
    ranks = rankdata(-cell_means(maps), method="ordinal", axis=1) - 1
    counts = np.round(shares * ranks.shape[1])
    deletion, insertion = [], []
    for start in range(0, len(crops), CROPS_AT_ONCE):
        some = slice(start, start + CROPS_AT_ONCE)
        chosen = _pixels(ranks[some, None] < counts[:, None], crops.shape[1:3])[..., None]
        crop = crops[some, None]
        colour = crop.mean(axis=(2, 3), keepdims=True).round().astype(np.uint8)
        images = np.concatenate([np.where(chosen, colour, crop), np.where(chosen, crop, colour)[:, 1:-1]], axis=1)
        probabilities = predict(images.reshape(-1, *crops.shape[1:])).reshape(*images.shape[:2], -1)
        found = np.take_along_axis(probabilities, targets[some, None, None], axis=2)[..., 0]
        hidden, shown = found[:, : len(shares)], found[:, len(shares) :]
        deletion.append(hidden)
        insertion.append(np.hstack([hidden[:, -1:], shown, hidden[:, :1]]))  # its ends are those of the deletion
    return np.concatenate(deletion), np.concatenate(insertion)


def share_inside(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Return the share of each map's absolute values inside its mask, float (N,) in [0, 1].

    maps: float (N, H, W); masks: bool (N, H, W). A map of zeros counts as even.
    """
    size = np.abs(maps.astype(np.float64)) + 1e-30
    return (size * masks).sum(axis=(1, 2)) / size.sum(axis=(1, 2))


def rank_correlation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return Spearman's correlation of each two maps, float (N, H, W): float (N,) in [-1, 1], 0 where one is even.

    It is that of the squares' means: pixel by pixel, gradients are noise, which smoothing takes out.
    """
    one, other = (rankdata(cell_means(maps), axis=1) for maps in (one, other))
    one, other = (ranks - ranks.mean(axis=1, keepdims=True) for ranks in (one, other))
    spread = np.sqrt((one**2).sum(axis=1) * (other**2).sum(axis=1))
    return (one * other).sum(axis=1) / np.maximum(spread, 1e-30)


def cell_means(maps: np.ndarray) -> np.ndarray:
    """Return the means of squares of CELL pixels, float (N, squares), row by row. maps: float (N, H, W)."""
    n, height, width = maps.shape
    rows, columns = height // CELL, width // CELL
    return maps.reshape(n, rows, CELL, columns, CELL).mean(axis=(2, 4)).reshape(n, rows * columns)


def _pixels(cells: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Give every pixel the value of its square: (..., squares) to (..., H, W)."""
    grid = cells.reshape(*cells.shape[:-1], size[0] // CELL, size[1] // CELL)
    return grid.repeat(CELL, axis=-2).repeat(CELL, axis=-1)


def shift(images: np.ndarray, pixels: int) -> np.ndarray:
    """Move images (N, H, W, ...) down and right by `pixels` (below zero: up and left); the edge is repeated."""
    rows, columns = (np.clip(np.arange(size) - pixels, 0, size - 1) for size in images.shape[1:3])
    return images[:, rows[:, None], columns]
