"""Whether two networks differ on the same crops by more than chance."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nuclei.evaluation.intervals import jackknife_variance, t_quantile, withheld_reasons
from nuclei.evaluation.metrics import accuracy, balanced_accuracy, count_per_group, effective_groups

SIGNIFICANCE = 0.05
FEWEST_DIFFERING = 6  # groups: of five, all favour the same network by chance in 2 of 2^5 cases, 6 %


def compare(
    labels: np.ndarray, predicted: Mapping[str, np.ndarray], groups: np.ndarray, classes: Sequence[str]
) -> dict[str, Any]:
    """Compare two trained networks on the same crops.

    Args:
        labels: int (N,) in 0..K-1.
        predicted: By the name of each of the two networks, int (N,) in 0..K-1.
        groups: (N,), any sortable values.
        classes: The K names.

    Returns:
        crops, groups, effective_groups; groups_that_differ, in which the networks have different numbers of correct
        crops; only_correct, by network, the crops that it alone classifies correctly; accuracy_difference and
        balanced_accuracy_difference, the second network's less the first's, with 95 % intervals under _low and _high
        (delete-one-group jackknife, t with G* - 1 degrees of freedom; None where `withheld_reasons` has a reason);
        p_value of `sign_flip_p`; verdict, a sentence on the accuracy that stands alone. The verdict is on these trained
        networks: trained again, with another seed, they may differ otherwise.
    """
    (first, first_predicted), (second, second_predicted) = predicted.items()
    _, group = np.unique(groups, return_inverse=True)
    first_correct, second_correct = first_predicted == labels, second_predicted == labels
    difference = np.rint(np.bincount(group, second_correct * 1.0 - first_correct)).astype(int)
    effective = effective_groups(group)
    class_groups = {name: len(np.unique(group[labels == label])) for label, name in enumerate(classes)}
    reasons = withheld_reasons(effective, class_groups)
    result = {
        "crops": len(labels),
        "groups": len(difference),
        "effective_groups": effective,
        "groups_that_differ": int(np.count_nonzero(difference)),
        "only_correct": {
            first: int((first_correct & ~second_correct).sum()),
            second: int((second_correct & ~first_correct).sum()),
        },
    }
    counts = [count_per_group(labels, values, group, len(classes)) for values in (first_predicted, second_predicted)]
    withheld = {"accuracy": {"all"}, "balanced_accuracy": {"all", "class_means"}}
    for metric, function in (("accuracy", accuracy), ("balanced_accuracy", balanced_accuracy)):
        scores = [function(per_group.total()) for per_group in counts]
        value, low, high = scores[1][0] - scores[0][0], None, None
        if not withheld[metric] & reasons.keys():
            scores = [function(per_group.without_each()) for per_group in counts]
            margin = t_quantile(effective) * np.sqrt(jackknife_variance(value, scores[1] - scores[0]))
            low, high = float(value - margin), float(value + margin)
        key = f"{metric}_difference"
        result |= {key: float(value), f"{key}_low": low, f"{key}_high": high}
    result["p_value"] = sign_flip_p(difference)
    return result | {"verdict": _verdict(first, second, result)}


def sign_flip_p(difference: np.ndarray) -> float:
    """Return the exact two-sided p-value of a sign-flip (randomisation) test on the sum of group differences.

    Of two equal networks either may be ahead in a group, so each group's difference is as likely with the other sign.
    All 2^G combinations of signs count, none is drawn: the sum of +d or -d with equal chance over the groups has the
    characteristic function prod cos(d w), and its inverse Fourier transform is the probability of each sum.

    Args:
        difference: int (G,), correct crops of one network less the other's in each group.

    Source: Canay, Romano & Shaikh 2017, "Randomization tests under an approximate symmetry assumption".
    """
    sizes, counts = np.unique(np.abs(difference[difference != 0]), return_counts=True)
    if not len(sizes):
        return 1.0
    largest = int(sizes @ counts)  # sum that there can be
    frequencies = 2 * np.pi * np.arange(largest + 1) / (2 * largest + 1)  # the rest is their mirror image
    transform = np.ones(largest + 1)
    for size, count in zip(sizes, counts, strict=True):
        transform *= np.cos(size * frequencies) ** count
    probability = np.fft.irfft(transform, n=2 * largest + 1)  # of the sums 0..largest, -largest..-1
    sums = np.concatenate([np.arange(largest + 1), np.arange(-largest, 0)])
    p = probability[np.abs(sums) >= abs(int(difference.sum()))].sum()
    return float(np.clip(p, max(2.0 ** (1 - counts.sum()), np.finfo(float).eps), 1))  # the transform rounds


def _verdict(first: str, second: str, result: Mapping[str, Any]) -> str:
    value, low, high = (result[f"accuracy_difference{end}"] for end in ("", "_low", "_high"))
    groups = f"{result['groups']:,} groups" if result["groups"] > 1 else "a single group"
    scope = f"the {result['crops']:,} crops in {groups}"
    if value == 0:
        finding = f"these trained networks, {first} and {second}, classify the same number of {scope} correctly"
    else:
        more = "more" if value > 0 else "fewer"
        finding = (
            f"of these trained networks, {second} classifies {100 * abs(value):.3g} percentage points {more} of "
            f"{scope} correctly than {first}"
        )
    if low is not None:
        finding += f" (95 % interval of the difference {100 * low:+.3g} to {100 * high:+.3g})"
    differ = result["groups_that_differ"]
    if differ < FEWEST_DIFFERING:
        return (
            f"Cannot be told: fewer than {FEWEST_DIFFERING} groups differ ({differ}), too few for any test at the 5 % "
            f"level; {finding}."
        )
    p = result["p_value"]
    test = f"sign-flip test over groups, p {f'= {p:.2g}' if p >= 0.001 else '< 0.001'}"
    if p <= SIGNIFICANCE:
        return f"The difference is significant at the 5 % level: {finding}; {test}."
    return f"No significant difference: {finding}; {test}."
