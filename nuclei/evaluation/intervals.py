"""95 % intervals of scores, for crops that come in groups (tiles, patients, crops that share pixels)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import expit, logit, stdtrit

from nuclei.evaluation.metrics import effective_groups, score, scores_without_each_group

LEVEL = 0.95
FEWEST_GROUPS = 5  # effective ones for any interval; groups per class for the means over classes
PSEUDO_GROUP = 0.1  # effective groups that it is worth: see `unit_interval`
CLASS_MEANS = ("balanced_accuracy", "macro_f1", "auc")
PROPORTIONS = ("accuracy", *CLASS_MEANS)


def score_intervals(
    labels: np.ndarray, probabilities: np.ndarray, groups: np.ndarray, classes: Sequence[str]
) -> dict[str, Any]:
    """Return the 95 % interval of every metric of `nuclei.evaluation.metrics.score` but the ece.

    The groups are the units: the interval is for new groups of the same kind, scored by this network. The ece has no
    interval, since it is biased by its noise: see `nuclei.evaluation.calibration.expected_ece`.

    Args:
        labels: int (N,) in 0..K-1.
        probabilities: float (N, K).
        groups: (N,), any sortable values.
        classes: The K names.

    Returns:
        <metric>_low and <metric>_high, None where withheld; intervals_withheld, the reasons in words ("" if none is);
        crops, groups, effective_groups; class_groups and class_effective_groups, both by class name. All of it JSON.
    """
    names, group = np.unique(groups, return_inverse=True)
    effective = effective_groups(group)
    groups_of_class = {name: group[labels == label] for label, name in enumerate(classes)}
    class_groups = {name: len(np.unique(members)) for name, members in groups_of_class.items()}
    reasons = withheld_reasons(effective, class_groups)
    intervals: dict[str, float | None] = {}
    values = score(labels, probabilities, bins=1)
    without = scores_without_each_group(labels, probabilities, group) if "all" not in reasons else {}
    uniform_losses = {"log_loss": np.log(len(classes)), "brier": 1 - 1 / len(classes)}
    for metric in (*PROPORTIONS, *uniform_losses):
        if "all" in reasons or (metric in CLASS_MEANS and reasons):
            low, high = None, None
        elif metric in PROPORTIONS:
            low, high = map(float, unit_interval(np.asarray(values[metric]), without[metric], effective))
        else:
            low, high = loss_interval(values[metric], without[metric], effective, uniform_losses[metric])
        intervals |= {f"{metric}_low": low, f"{metric}_high": high}
    return intervals | {
        "intervals_withheld": " ".join(reasons.values()),
        "crops": len(labels),
        "groups": len(names),
        "effective_groups": effective,
        "class_groups": class_groups,
        "class_effective_groups": {name: effective_groups(members) for name, members in groups_of_class.items()},
    }


def withheld_reasons(effective: float, class_groups: dict[str, int]) -> dict[str, str]:
    """Return why there are no intervals.

    A mean over classes is as uncertain as its rarest class: one tile cannot tell how a class does on other tiles.
    Classes without any crop are no part of the means.

    Args:
        effective: Effective groups.
        class_groups: By name of the class, the number of groups that hold it.

    Returns:
        A sentence under "all", which holds for any metric, or under "class_means", for `CLASS_MEANS`; empty where
        there are intervals.
    """
    if effective < FEWEST_GROUPS:
        return {
            "all": f"No intervals: the crops are worth {effective:.1f} groups of equal size, and fewer than "
            f"{FEWEST_GROUPS} cannot tell how much groups differ."
        }
    if sum(count > 0 for count in class_groups.values()) < 2:
        return {"class_means": "No intervals of balanced accuracy, macro-F1 and AUC: fewer than two classes occur."}
    rare = [f"{name} (in {count})" for name, count in class_groups.items() if 0 < count < FEWEST_GROUPS]
    if not rare:
        return {}
    return {
        "class_means": "No intervals of balanced accuracy, macro-F1 and AUC: they need every class in "
        f"{FEWEST_GROUPS} groups or more, unlike {', '.join(rare)}."
    }


def jackknife_variance(values: np.ndarray, without: np.ndarray) -> np.ndarray:
    """Return the delete-one-group jackknife variance (CV3) of scores.

    Args:
        values: float (...), of all crops.
        without: float (..., G), without each of the groups.

    Returns:
        float64 (...).

    Source: MacKinnon, Nielsen & Webb 2023, "Cluster-robust inference: a guide to empirical practice", CV3.
    """
    n_groups = without.shape[-1]
    return (n_groups - 1) / n_groups * ((without - values[..., None]) ** 2).sum(axis=-1)


def t_quantile(effective: float) -> float:
    """Return the two-sided 95 % quantile of t with one degree of freedom less than there are effective groups.

    Args:
        effective: Effective groups, above 1.

    Source: Carter, Schnepel & Steigerwald 2017, "Asymptotic behavior of a t-test robust to cluster heterogeneity".
    """
    return float(stdtrit(effective - 1, (1 + LEVEL) / 2))


def unit_interval(values: np.ndarray, without: np.ndarray, effective: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the 95 % interval of scores in [0, 1], from the scores without each group.

    Standard error: delete-one-group jackknife; on the logit scale, with t of G* - 1 degrees of freedom (G* effective
    groups). For the low end a pseudo-group where all is wrong joins the groups first, for the high end one where all
    is right; it is worth a tenth of an effective group, and the jackknife leaves it out in turn as it does the others.
    As adding successes and failures does for a binomial proportion, this keeps groups that happen to be nearly free of
    errors from promising that all groups are. The tenth and the degrees of freedom were chosen by simulation:
    `python -m tools.coverage`.

    No error at all (1, or 0 where all is wrong) says nothing of how groups differ. There the far end is the rule of
    three with the G* effective groups as the sample size, 0.05^(1 / G*): the worst case, that crops of a group are all
    right or all wrong. The near end is the score.

    Args:
        values: float (...), in [0, 1].
        without: float (..., G), without each of the groups.
        effective: Effective groups, above 1.

    Returns:
        The low and the high ends, float64 (...).

    Source: MacKinnon, Nielsen & Webb 2023 (as in `jackknife_variance`); Agresti & Coull 1998, "Approximate is better
        than 'exact' for interval estimation of binomial proportions", and Dean & Pagano 2015, "Evaluating confidence
        interval methods for binomial proportions in clustered surveys", who put effective sample sizes into it;
        Hanley & Lippman-Hand 1983, "If nothing goes wrong, is everything all right?" (rule of three).
    """
    ends = []
    for pseudo_score, sign in ((0, -1), (1, 1)):
        score_with, variance = _with_pseudo_group(values, without, effective, pseudo_score)
        derivative = 1 / np.maximum(score_with * (1 - score_with), np.finfo(float).tiny)
        ends.append(expit(logit(score_with) + sign * t_quantile(effective) * np.sqrt(variance) * derivative))
    rule_of_three = (1 - LEVEL) ** (1 / effective)
    low = np.where(values == 1, rule_of_three, np.where(values == 0, 0, ends[0]))
    high = np.where(values == 0, 1 - rule_of_three, np.where(values == 1, 1, ends[1]))
    return low, high


def loss_interval(value: float, without: np.ndarray, effective: float, uniform: float) -> tuple[float, float]:
    """Return the 95 % interval of a loss, which has no upper bound: as `unit_interval`, on the log scale.

    Args:
        value: The loss of all crops, 0 or more.
        without: float (G,), without each of the groups.
        effective: Effective groups, above 1.
        uniform: The loss of equal probabilities for all classes. The pseudo-group gets it for the high end, 0 for the
            low one.

    Returns:
        The low and the high end.
    """
    ends = []
    for pseudo_score, sign in ((0, -1), (uniform, 1)):
        loss_with, variance = _with_pseudo_group(np.asarray(value), without, effective, pseudo_score)
        ends.append(
            loss_with * np.exp(sign * t_quantile(effective) * np.sqrt(variance) / loss_with) if loss_with else 0
        )
    return float(min(ends[0], value)), float(max(ends[1], value))


def _with_pseudo_group(
    values: np.ndarray, without: np.ndarray, effective: float, pseudo_score: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores with the pseudo-group among the groups, and their jackknife variance.

    Without the pseudo-group they are `values` again, which gives its term of the variance.
    """
    share = PSEUDO_GROUP / (effective + PSEUDO_GROUP)
    score_with = (1 - share) * values + share * pseudo_score
    return score_with, (1 - share) ** 2 * jackknife_variance(values, without) + (score_with - values) ** 2
