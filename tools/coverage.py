"""How often the 95 % intervals hold the truth and equal networks are told apart: `python -m tools.coverage`.

Groups differ: their accuracies are drawn from a beta distribution of a given mean and intraclass correlation (ICC).
Their sizes are those of real data sets, since the sizes decide how hard the task is.
"""

import argparse
from typing import NamedTuple

import numpy as np

from nuclei.evaluation.comparison import SIGNIFICANCE, sign_flip_p
from nuclei.evaluation.intervals import jackknife_variance, t_quantile, unit_interval
from nuclei.evaluation.metrics import effective_groups

# Crops that share pixels, of the competition: one fold of five, and all five.
FOLD = (365, 255, 214, 204, 165, 20, 18, 15, 12, 10, 9, 8, 7, 6, 5, 5, *[4] * 3, *[3] * 7, *[2] * 7, *[1] * 25)
POOLED = (
    *(947, 366, 320, 315, 311, 285, 274, 273, 268, 259, 258, 250, 238, 232, 216, 214, 204, 189, 180, 168, 167, 166),
    *(136, 129, 121, 120, 110, 96, 83, 78, 63, 61, 41, 31, 30, 28, 27, 20, 13, 13, 12, 10, 10, *[9] * 4, 7, 7),
    *(*[6] * 3, *[5] * 5, *[4] * 4, *[3] * 9, *[2] * 22, *[1] * 48),
)
SETTINGS = {
    "equal groups": (29,) * 8,
    "patients of a fold": (241, 217, 112, 90, 84, 76, 70, 56, 7),
    "overlap groups of a fold": FOLD,
    "overlap groups of all folds": POOLED,
}
ACCURACIES = ((0.85, 0.3), (0.95, 0.2))  # mean and ICC


class Differences(NamedTuple):
    """Shares of studies of two equal networks: called different; difference of 0 within the 95 % interval."""

    false_verdicts: float
    coverage: float


def group_sizes(name: str) -> np.ndarray:
    """Return the crops of each group of a setting, int (G,)."""
    return np.array(SETTINGS[name])


def effective(sizes: np.ndarray) -> float:
    """Return the effective number of groups of sizes (G,)."""
    return effective_groups(np.repeat(np.arange(len(sizes)), sizes))


def interval_coverage(sizes: np.ndarray, mean: float, icc: float, studies: int, seed: int) -> float:
    """Return the share of simulated studies whose 95 % interval of the accuracy holds the mean over groups.

    Args:
        sizes: int (G,), crops per group.
        mean: of the groups' accuracies, in (0, 1).
        icc: intraclass correlation of crops of one group, in (0, 1).
        studies: how many are simulated.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    correct = rng.binomial(sizes, _beta(rng, np.full((studies, len(sizes)), mean), icc))
    low, high = unit_interval(*_with_jackknife(correct, sizes), effective(sizes))
    return float(((low <= mean) & (mean <= high)).mean())


def equal_networks(sizes: np.ndarray, mean: float, icc: float, studies: int, seed: int) -> Differences:
    """Simulate comparisons of two networks that are equally good over all groups, but not in each group.

    Args: as for `interval_coverage`; a third of the ICC is between networks, the same groups are hard for both.
    """
    rng = np.random.default_rng(seed)
    difficulty = _beta(rng, np.full((studies, len(sizes)), mean), icc)
    first, second = (rng.binomial(sizes, _beta(rng, difficulty, icc / 3)) for _ in range(2))
    p = np.array([sign_flip_p(difference) for difference in second - first])
    value, without = _with_jackknife(second - first, sizes)
    margin = t_quantile(effective(sizes)) * np.sqrt(jackknife_variance(value, without))
    return Differences(float((p <= SIGNIFICANCE).mean()), float((np.abs(value) <= margin).mean()))


def _beta(rng: np.random.Generator, mean: np.ndarray, icc: float) -> np.ndarray:
    total = 1 / icc - 1
    mean = mean.clip(1e-9, 1 - 1e-9)  # beta has no parameters of 0
    return rng.beta(total * mean, total * (1 - mean))


def _with_jackknife(counts: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return counts (S, G) per crop, of all groups (S,) and without each group (S, G)."""
    total = counts.sum(axis=1)
    return total / sizes.sum(), (total[:, None] - counts) / (sizes.sum() - sizes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=10_000, help="simulated studies per number (default: 10000)")
    parser.add_argument("--seed", type=int, default=0, help="of the simulation (default: 0)")
    options = parser.parse_args()
    accuracies = [f"accuracy {mean}, ICC {icc}" for mean, icc in ACCURACIES]
    heads = [
        *("groups", "crops", "G", "G*"),
        *(f"coverage, {text}" for text in accuracies),
        *(f"false verdicts, {text}" for text in accuracies),
        *(f"coverage of the difference, {text}" for text in accuracies),
    ]
    print("| " + " | ".join(heads) + " |\n|---|" + "--:|" * (len(heads) - 1))
    for name in SETTINGS:
        sizes = group_sizes(name)
        study = [(sizes, mean, icc, options.studies, options.seed) for mean, icc in ACCURACIES]
        equal = [equal_networks(*arguments) for arguments in study]
        numbers = [
            *(interval_coverage(*arguments) for arguments in study),
            *(shares.false_verdicts for shares in equal),
            *(shares.coverage for shares in equal),
        ]
        cells = [name, f"{sizes.sum():,}", str(len(sizes)), f"{effective(sizes):.1f}", *(f"{n:.3f}" for n in numbers)]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
