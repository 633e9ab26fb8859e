"""How far maps of what a network looks at can be trusted, and whether it looks at the nucleus in the middle."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from nuclei.explanation.deletion_insertion import NULLS
from nuclei.explanation.map_scores import rank_correlation, share_inside, shift
from nuclei.explanation.segmentation import centre_disc
from nuclei.task import MPP

GAINS = ("Deletion_gain", "Insertion_gain")

Maps = Mapping[str, np.ndarray]  # by method, float (N, H, W)


@dataclass(frozen=True)
class Attributions:
    """What one model says of N crops and looks at in them, each crop judged by the network that did not see it.

    Attributes:
        probabilities: float (N, K), of the crops as they are, not averaged over flips and rotations: so are the maps.
        targets: int (N,), their argmax: the classes that the maps explain.
        baselines: By baseline, float (N, K): what the network says where there is nothing to see.
        maps: By method.
        shifted: By method, of the first M crops, shifted by a pixel.
        randomized: By method, of the first M crops by R networks with random weights: float (R, M, H, W).
        curves: Of the first S crops, see `deletion_insertion`, with the columns Network (0: the trained one's maps, 1
            to R: those of a random one) and Crop.
        pixels_per_cell: Pixels of the crop per pixel of the feature map that LayerCAM weighs.
    """

    probabilities: np.ndarray
    targets: np.ndarray
    baselines: Mapping[str, np.ndarray]
    maps: Maps
    shifted: Maps
    randomized: Maps
    curves: pd.DataFrame
    pixels_per_cell: float


def score_models(
    attributions: Mapping[str, Attributions], nuclei: np.ndarray, patch: int, mpp: float = MPP
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Score the maps of all models.

    Args:
        attributions: By model, of the same N crops, the first S of them scored.
        nuclei: bool (N, H, W), the nucleus in the middle of each crop.
        patch: As in `deletion_insertion`.
        mpp: Microns per pixel of the crops.

    Returns:
        scores: One row per Model, Network (0: trained; 1 to R: random weights), Baseline, Method and Crop:
            Deletion, Insertion: areas under the curves, in [0, 1].
            Deletion_gain, Insertion_gain: by how much they are better than the better of the null orders, the one
                that is better in the mean over the crops.
            In_disc, In_nucleus: shares of the map in the disc in the middle, and in the nucleus there.
            Stability: rank correlation with the map of the crop shifted by a pixel, shifted back.
            Agreement: rank correlation with the map of the other model (of several: the mean) where both explain the
                same class; of random weights, with the trained network's map: near 0 where a method shows what was
                learned (Adebayo et al. 2018, "Sanity checks for saliency maps").
            Convergence_delta: of integrated gradients, how far they miss the change of the log-probability that they
                should add up to.
        curves: Mean Probability of the trained networks' maps by Model, Curve with its baseline, Method and Share.
    """
    scores, curves = [], []
    for name, model in attributions.items():
        areas = _gains(_areas(model.curves))
        others = [attributions[other] for other in attributions if other != name]
        properties = _properties(model, others, nuclei, patch, mpp)
        scores.append(areas.merge(properties, how="left", on=["Network", "Method", "Crop"]).assign(Model=name))
        trained = model.curves[model.curves["Network"] == 0]
        mean = trained.groupby(["Curve", "Baseline", "Method", "Share"], sort=False)["Probability"].mean().reset_index()
        mean["Curve"] += ", " + mean.pop("Baseline").str.replace("_", " ")
        curves.append(mean.assign(Model=name))
    return pd.concat(scores, ignore_index=True), pd.concat(curves, ignore_index=True)


def _areas(curves: pd.DataFrame) -> pd.DataFrame:
    keys = ["Network", "Baseline", "Method", "Crop"]
    wide = curves.pivot(index=[*keys, "Curve"], columns="Share", values="Probability")
    areas = pd.Series(np.trapezoid(wide.to_numpy(), wide.columns.to_numpy(float), axis=1), wide.index).unstack("Curve")
    order = pd.MultiIndex.from_frame(curves[keys].drop_duplicates())
    return areas.reindex(order).rename(columns=str.capitalize).rename_axis(columns=None).reset_index()


def _gains(areas: pd.DataFrame) -> pd.DataFrame:
    """Add the gains over the better null order; random networks' maps are compared on the crops that they have."""
    nulls = areas[areas["Method"].isin(NULLS)]
    means = nulls.groupby(["Baseline", "Method"])[["Deletion", "Insertion"]].mean().reset_index("Method")
    best = {
        "Deletion": means.set_index("Method", append=True)["Deletion"].groupby("Baseline").idxmin(),
        "Insertion": means.set_index("Method", append=True)["Insertion"].groupby("Baseline").idxmax(),
    }
    for score, sign in (("Deletion", -1), ("Insertion", 1)):
        chosen = pd.MultiIndex.from_frame(nulls[["Baseline", "Method"]]).isin(best[score])
        null = nulls[chosen].set_index(["Baseline", "Crop"])[score]
        reference = null.reindex(pd.MultiIndex.from_frame(areas[["Baseline", "Crop"]])).to_numpy()
        areas[f"{score}_gain"] = sign * (areas[score] - reference)
    return areas


def _properties(
    model: Attributions, others: Sequence[Attributions], nuclei: np.ndarray, patch: int, mpp: float
) -> pd.DataFrame:
    """Return what is known of each map of the scored crops apart from its curves, by Network, Method and Crop."""
    scored = model.curves["Crop"].max() + 1
    discs = np.broadcast_to(centre_disc(nuclei.shape[1:], mpp), nuclei.shape)
    nulls = {name: np.ones(nuclei.shape) for name in NULLS}  # their share of the map is their share of the area
    tables = []
    for method, maps in (nulls | dict(model.maps)).items():
        table = pd.DataFrame({"Network": 0, "Method": method, "Crop": np.arange(scored)})
        table["In_disc"] = share_inside(maps[:scored], discs[:scored])
        table["In_nucleus"] = share_inside(maps[:scored], nuclei[:scored])
        if method in model.shifted:
            shifted_back = shift(model.shifted[method], -1)
            correlation = rank_correlation(maps[: len(shifted_back)], shifted_back, patch)
            table["Stability"] = _padded(correlation, scored)
        if method in model.maps and others:
            table["Agreement"] = _agreement(model, others, method, patch)[:scored]
        if method == "integrated_gradients":
            table["Convergence_delta"] = _convergence_delta(model)[:scored]
        tables.append(table)
    for method, networks in model.randomized.items():
        for number, maps in enumerate(networks, start=1):
            table = pd.DataFrame({"Network": number, "Method": method, "Crop": np.arange(len(maps))})
            table["In_disc"] = share_inside(maps, discs[: len(maps)])
            table["In_nucleus"] = share_inside(maps, nuclei[: len(maps)])
            table["Agreement"] = rank_correlation(model.maps[method][: len(maps)], maps, patch)
            tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _padded(values: np.ndarray, length: int) -> np.ndarray:
    return np.append(values, np.full(length - len(values), np.nan))


def _agreement(model: Attributions, others: Sequence[Attributions], method: str, patch: int) -> np.ndarray:
    correlations = [
        np.where(
            model.targets == other.targets, rank_correlation(model.maps[method], other.maps[method], patch), np.nan
        )
        for other in others
    ]
    return pd.DataFrame(correlations).mean().to_numpy()


def _convergence_delta(model: Attributions) -> np.ndarray:
    """Return |sum of the map - change of the log-probability| as a share of that change's mean, float (N,)."""
    rows = np.arange(len(model.targets))
    whole, *empty = (
        np.log(np.maximum(values[rows, model.targets].astype(np.float64), 1e-30))
        for values in (model.probabilities, *model.baselines.values())
    )
    change = whole - np.mean(empty, axis=0)
    missed = np.abs(model.maps["integrated_gradients"].sum(axis=(1, 2)) - change)
    return missed / (np.abs(change).mean() or np.nan)


def summarise(
    scores: pd.DataFrame, attributions: Mapping[str, Attributions], groups: np.ndarray, classes: Sequence[str]
) -> pd.DataFrame:
    """Return the means over the crops by Model, Weights (trained, random), Baseline and Method.

    Args:
        scores: Of `score_models`.
        attributions: As there.
        groups: (N,), crops of one group are not independent: the standard errors are those over groups.
        classes: Names of the K classes.

    Returns:
        The means of the scores, and
        Networks, Crops, Groups: how many they are taken over.
        Deletion_error, Insertion_error: standard errors of the gains, over groups.
        Deletion_spread, Insertion_spread: standard deviations of the gains over the random networks.
        Rank: of the trained networks' methods by the sum of both gains, 1: the best.
        Pixels_per_cell: pixels of the crop per pixel of LayerCAM's feature map.
        Baseline_class, Baseline_share: what the networks most often take the baseline for, and how often.
        Finding: what follows, see `finding`.
    """
    scores = scores.assign(Weights=np.where(scores["Network"] == 0, "trained", "random"))
    keys, rows = ["Model", "Weights", "Baseline", "Method"], []
    for key, table in scores.groupby(keys, sort=False):
        per_crop = table.groupby("Crop").mean(numeric_only=True).drop(columns="Network")
        per_network = table.groupby("Network")[[*GAINS]].mean()
        members = groups[per_crop.index]
        row = dict(zip(keys, key, strict=True)) | {"Networks": len(per_network), "Crops": len(per_crop)}
        row |= {"Groups": len(np.unique(members))} | per_crop.mean().to_dict()
        for gain in GAINS:
            name = gain.removesuffix("_gain")
            row[f"{name}_error"] = standard_error(per_crop[gain].to_numpy(), members)
            row[f"{name}_spread"] = per_network[gain].std() if len(per_network) > 1 else np.nan
        if row["Method"] == "layer_cam":
            row["Pixels_per_cell"] = attributions[row["Model"]].pixels_per_cell
        predicted = attributions[row["Model"]].baselines[row["Baseline"]][per_crop.index].argmax(axis=1)
        counts = np.bincount(predicted)
        row |= {"Baseline_class": classes[int(counts.argmax())], "Baseline_share": counts.max() / len(predicted)}
        rows.append(row)
    means = pd.DataFrame(rows)
    maps = means[(means["Weights"] == "trained") & ~means["Method"].isin(NULLS)]
    totals = maps[[*GAINS]].sum(axis=1)
    means["Rank"] = totals.groupby([maps["Model"], maps["Baseline"]]).rank(ascending=False, method="min")
    means["Finding"] = [finding(row, means) for _, row in means.iterrows()]
    return means


def standard_error(values: np.ndarray, groups: np.ndarray) -> float:
    """Return the standard error of a mean over crops of which those of one group are not independent.

    Args:
        values: float (N,).
        groups: (N,), any sortable values.

    Returns:
        It, or NaN where there is a single group.

    Source: Liang & Zeger 1986, "Longitudinal data analysis using generalized linear models", for a mean.
    """
    sums = pd.Series(values - values.mean()).groupby(groups).sum()
    if len(sums) < 2:
        return np.nan
    return float(np.sqrt(len(sums) / (len(sums) - 1) * (sums**2).sum()) / len(values))


def finding(row: pd.Series, means: pd.DataFrame) -> str:
    """Say what follows from the scores of a map, no more.

    Args:
        row: A row of `summarise`.
        means: All rows.

    Returns:
        Of the trained networks' maps: "consistent with what the network uses" where both gains are above zero, by
        their 95 % intervals (t, groups - 1), and above those of the random networks' maps by twice their standard
        deviation; "no better than a blind order" where one is below zero; else "cannot be told". Of others: "".
    """
    if row["Weights"] != "trained" or row["Method"] in NULLS:
        return ""
    same = (means["Weights"] == "random") & (means["Model"] == row["Model"]) & (means["Method"] == row["Method"])
    random = means[same & (means["Baseline"] == row["Baseline"])]
    lows, highs, above = [], [], True
    for gain in GAINS:
        name = gain.removesuffix("_gain")
        half = stdtrit(max(row["Groups"] - 1, 1), 0.975) * row[f"{name}_error"]
        lows.append(row[gain] - half)
        highs.append(row[gain] + half)
        above &= bool((row[gain] > random[gain] + 2 * random[f"{name}_spread"]).all())
    if min(lows) > 0 and above:  # NaN, of a single group, is not
        return "consistent with what the network uses"
    return "no better than a blind order" if min(highs) < 0 else "cannot be told"


def metrics(means: pd.DataFrame, model: str) -> dict[str, dict[str, float]]:
    """Return the scores of a trained model, for a JSON file.

    Args:
        means: Of `summarise`.
        model: Its name.

    Returns:
        By score (with its baseline, where it has one), then by method; without those that are unknown.
    """
    trained = means[(means["Model"] == model) & (means["Weights"] == "trained") & ~means["Method"].isin(NULLS)]
    first, *_ = trained["Baseline"].unique()
    scores: dict[str, dict[str, float]] = {}
    for baseline, rows in trained.groupby("Baseline", sort=False):
        for gain in GAINS:
            scores[f"{gain.lower()}_{baseline}"] = rows.set_index("Method")[gain].to_dict()
    rows = trained[trained["Baseline"] == first].set_index("Method")
    for name in ("In_nucleus", "In_disc", "Stability", "Agreement", "Convergence_delta"):
        scores[name.lower()] = rows[name].dropna().to_dict() if name in rows else {}
    shares = trained.drop_duplicates("Baseline").set_index("Baseline")
    scores["baseline_share"] = {
        f"{baseline}_{row['Baseline_class'].replace(' ', '_')}": row["Baseline_share"]
        for baseline, row in shares.iterrows()
    }
    ranks = trained.pivot(index="Method", columns="Baseline", values="Rank")
    correlation = float(ranks.corr().iloc[0, -1])  # unknown of a single method, or of ties alone
    scores["rank_correlation_of_methods"] = {} if np.isnan(correlation) else {"between_baselines": correlation}
    return scores
