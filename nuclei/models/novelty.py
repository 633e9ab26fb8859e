"""How unlike the crops that a network was trained on another crop is.

A network answers whatever it is shown, and mostly surely: other stains, other organs, text. What it answers from tells
them apart: the feature maps half-way up, averaged over each crop. Those of the training crops are taken for one normal
distribution, and novelty is the Mahalanobis distance from its mean, divided by the distance that only a hundredth of
the held-out crops exceeds: 1 is that threshold, at every network.

Not the last hidden layer, which drops what does not tell the classes apart: of crops of scikit-image's
`immunohistochemistry`, its distance calls 6 % unlike with a ResNet18 and a CNN of the built-in sample, and this one
all of them. A normal distribution per class, and nearest neighbours, were no better.

Source: Lee et al. 2018, "A simple unified framework for detecting out-of-distribution samples and adversarial attacks",
of which one layer and one normal distribution turned out to be enough; Ledoit & Wolf 2004, "A well-conditioned
estimator for large-dimensional covariance matrices".
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

UNLIKE_SHARE = 0.01  # of held-out crops of the same data, above the threshold
MOST_CROPS = 10_000  # that a distribution is fitted to: more change nothing, and each is predicted once more
RIDGE = 1e-6  # of the mean variance: features that never vary are near to singular
LEAST = 1e-6  # of what distances are divided by: those of a network that answers all crops alike are 0


@dataclass(frozen=True, eq=False)
class Reference:
    """The normal distribution of the training crops' features.

    Attributes:
        mean: float32 (D,).
        whitening: float32 (D, D), lower triangular, positive on the diagonal: turns deviations from the mean into a
            vector whose length is the novelty.
    """

    mean: Tensor
    whitening: Tensor


def fit_reference(features: np.ndarray) -> Reference:
    """Fit the distribution of training crops; the unit of its novelty is their median one.

    A network is nearer to the crops that it learned from than to others, and each network has its scale: in this unit,
    what one network says of its held-out crops holds for another that was trained in the same way.

    Args:
        features: float (N, D), of the training crops.
    """
    from sklearn.covariance import LedoitWolf  # takes a second, and most stages only read references
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):  # sums in one order, whatever the machine
        fitted = LedoitWolf().fit(features.astype(np.float64))
        ridge = RIDGE * np.trace(fitted.covariance_) / len(fitted.covariance_) + RIDGE**2
        inverse = np.linalg.inv(fitted.covariance_ + ridge * np.eye(len(fitted.covariance_)))
        whitening = np.linalg.cholesky((inverse + inverse.T) / 2)
    reference = Reference(*(torch.from_numpy(values.astype(np.float32)) for values in (fitted.location_, whitening)))
    return _divided(reference, float(np.median(novelty(reference, features))))


def novelty(reference: Reference, features: np.ndarray) -> np.ndarray:
    """Return how unlike the training crops others are.

    Args:
        reference: Of the training crops.
        features: float (N, D), of the others, by the same network.

    Returns:
        float32 (N,), 0 or more.
    """
    deviations = torch.from_numpy(features).double() - reference.mean.double()
    return torch.linalg.vector_norm(deviations @ reference.whitening.double(), dim=1).float().numpy()


def with_threshold(reference: Reference, heldout: np.ndarray) -> Reference:
    """Make 1 the novelty that `UNLIKE_SHARE` of the held-out crops exceeds.

    Args:
        reference: What `fit_reference` returned.
        heldout: float (M,), novelties of crops, each by a network that did not train on its fold.
    """
    return _divided(reference, float(np.quantile(heldout, 1 - UNLIKE_SHARE)))


def _divided(reference: Reference, distance: float) -> Reference:
    return Reference(reference.mean, reference.whitening / max(distance, LEAST))


def require_reference(reference: Reference) -> None:
    """Raise ValueError unless a file's tensors are a reference."""
    mean, whitening = reference.mean, reference.whitening
    if mean.ndim != 1 or not len(mean) or whitening.shape != (len(mean), len(mean)):
        raise ValueError(f"reference of shapes {tuple(mean.shape)} and {tuple(whitening.shape)}")
    if not all(values.dtype == torch.float32 and values.isfinite().all() for values in (mean, whitening)):
        raise ValueError("reference that is not float32, or holds NaN or infinity")
    if not (torch.equal(whitening, whitening.tril()) and (whitening.diagonal() > 0).all()):
        raise ValueError("reference that is not triangular and positive on its diagonal")
