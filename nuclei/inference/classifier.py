"""Trained models, loaded and ready to say what crops show."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch

from nuclei.crops import Places
from nuclei.device import setup_device
from nuclei.errors import InputError
from nuclei.machine import usable_threads
from nuclei.models.calibration import TARGETS, Calibration, Neighbourhood
from nuclei.models.checkpoint import Model, load_model
from nuclei.models.conformal import conformal_sets
from nuclei.models.neighbours import add_neighbours, mean_of_neighbours
from nuclei.models.networks import last_linear
from nuclei.models.novelty import novelty
from nuclei.models.predict import BATCH_SIZE, neighbour_weights, predict_outputs
from nuclei.models.temperature import softmax
from nuclei.task import Task

COVERAGE = 0.9  # of conformal sets, where nothing else is asked for
AT_ONCE = 8 * BATCH_SIZE  # crops, 30 MB: full batches, as in `submit`, and so the same digits

Key = TypeVar("Key")


class Answers(NamedTuple):
    """What a classifier says of N crops.

    Attributes:
        probabilities: float32 (N, K), see `Classifier.predict`.
        novelty: float32 (N,), see `Classifier.novelty`.
        embeddings: float32 (N, D), what goes into the last layer of the (first) model.
    """

    probabilities: np.ndarray
    novelty: np.ndarray
    embeddings: np.ndarray


@dataclass(frozen=True)
class Classifier:
    """One model, or several whose probabilities are averaged; see `nuclei.load`.

    Attributes:
        models: One or more, for crops with the same number of channels.
        channels: Of the crops, 1 (grey) or 3 (RGB).
        device: What computes.
        precision: As in `nuclei.device.autocast`.
        tta: Whether to average over the eight flips and rotations of each crop.
        task: The classes, and the kind of crops.
        neighbours: Whether sets are of probabilities that `among_neighbours` returned.
    """

    models: tuple[Model, ...]
    channels: int
    device: torch.device
    precision: str
    tta: bool
    task: Task
    neighbours: bool = False

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the K classes, in the order of the labels."""
        return self.task.classes

    def predict(self, crops: np.ndarray) -> np.ndarray:
        """Return the calibrated probability of each class.

        Args:
            crops: uint8 (N, side, side, channels), the nucleus in the middle; `task` has the side and the resolution. N
                may be 0.

        Returns:
            float32 (N, K) in [0, 1], rows sum to 1.

        Raises:
            ValueError: The crops are of another kind.
            InputError: An answer is not finite.
        """
        return self.answer(crops).probabilities

    def novelty(self, crops: np.ndarray) -> np.ndarray:
        """Return how unlike the training crops each crop is: above 1, it is unlike anything in training.

        Of held-out crops of the training data, a hundredth is above 1 (`nuclei.models.novelty`). Several models: the
        mean of their novelties. Flips and rotations are not averaged.

        Args:
            crops: As in `predict`.

        Returns:
            float32 (N,), 0 or more.

        Raises:
            ValueError: The crops are of another kind.
            InputError: An answer is not finite.
        """
        return self.answer(crops).novelty

    def answer(self, crops: np.ndarray) -> Answers:
        """Return what `predict` and `novelty` return, and the embeddings, for the price of `predict`.

        Args:
            crops: As in `predict`.

        Raises:
            ValueError: The crops are of another kind.
            InputError: An answer is not finite.
        """
        side = self.task.side
        if crops.dtype != np.uint8 or crops.shape[1:] != (side, side, self.channels):
            raise ValueError(
                f"expected crops of uint8 (N, {side}, {side}, {self.channels}), got {crops.dtype} {crops.shape}"
            )
        if not len(crops):
            width = last_linear(self.models[0].network).in_features
            return Answers(*(np.empty(shape, np.float32) for shape in ((0, len(self.classes)), 0, (0, width))))
        each = [
            predict_outputs(model.network, model.architecture, crops, self.device, self.precision, self.tta)
            for model in self.models
        ]
        probabilities = [
            softmax(outputs.logits, calibration.temperature)
            for outputs, calibration in zip(each, self._calibrations(), strict=True)
        ]
        unlike = [novelty(model.reference, outputs.features) for model, outputs in zip(self.models, each, strict=True)]
        means = [np.mean(values, axis=0).astype(np.float32) for values in (probabilities, unlike)]
        answers = Answers(means[0], means[1], each[0].embeddings)
        if not all(np.isfinite(values).all() for values in answers):
            raise InputError("the model answers with NaN or infinity: copy it again, train it again, or use float32")
        return answers

    def among_neighbours(self, probabilities: np.ndarray, places: Places) -> np.ndarray:
        """Return the probabilities of nuclei in the light of those of their neighbours, see `nuclei.models.neighbours`.

        Several models: with the mean of their weights.

        Args:
            probabilities: Of `predict`, float32 (N, K).
            places: Of the N nuclei.

        Returns:
            float32 (N, K), rows sum to 1.

        Raises:
            ValueError: A model has no weights of neighbours.
        """
        weights = neighbour_weights(self.models, self.tta)
        if weights is None:
            raise ValueError(
                "a model was trained on crops that share no pixels: it does not know what neighbours count"
            )
        around = mean_of_neighbours(probabilities, places)
        return add_neighbours(probabilities, around, weights).astype(np.float32)

    def sets(self, probabilities: np.ndarray, coverage: float = COVERAGE) -> np.ndarray:
        """Return the conformal set of each crop: the classes that it may well be, the predicted one always among them.

        A set with more than one class says that the model is unsure. For new groups (tiles or patients) like those of
        the training crops, sets hold the true class of a share of `promised_coverage` of the crops, on average over
        groups; other tissue or stains void that.

        Several models: the lowest of their thresholds for the averaged probability. Without neighbours, they miss the
        true class only where the set of at least one of the models, by itself, misses it: its probability for that
        class is not above the average, and its threshold is not below the lowest one. A higher threshold would not
        have that property; with this one, sets are rather too large than too small.

        Args:
            probabilities: Of this classifier's `predict`, or `among_neighbours`, float (N, K); N may be 0.
            coverage: One of `nuclei.models.calibration.TARGETS`: 0.8, 0.9 or 0.95.

        Returns:
            bool (N, K).

        Raises:
            ValueError: The models have no threshold for that coverage, or there are not K columns.
        """
        if probabilities.ndim != 2 or probabilities.shape[1] != len(self.classes):
            raise ValueError(f"expected probabilities (N, {len(self.classes)}), got {probabilities.shape}")
        return conformal_sets(probabilities, self.set_threshold(coverage))

    def set_threshold(self, coverage: float = COVERAGE) -> float:
        """Return the probability from which a class belongs to a set.

        Args:
            coverage: As in `sets`.

        Raises:
            ValueError: The models have no threshold for that coverage.
        """
        column = _target(coverage)
        return min(fitted.thresholds[column] for fitted in self._thresholds())

    def promised_coverage(self, coverage: float = COVERAGE) -> float:
        """Return the coverage that `sets` can promise: `coverage`, or less where the models saw few groups.

        Of several models, the least of what each of them promises by itself; for the average that is to be expected,
        but not proven: where they miss different crops, the misses may add up.

        Args:
            coverage: As in `sets`.

        Raises:
            ValueError: The models have no threshold for that coverage.
        """
        column = _target(coverage)
        return min(fitted.promised[column] for fitted in self._thresholds())

    def _calibrations(self) -> list[Calibration]:
        return [model.calibration(self.tta) for model in self.models]

    def _neighbourhoods(self) -> list[Neighbourhood]:
        return [fitted.neighbourhood for fitted in self._calibrations() if fitted.neighbourhood]

    def _thresholds(self) -> list[Calibration] | list[Neighbourhood]:
        return self._neighbourhoods() if self.neighbours else self._calibrations()

    def predict_all(self, crops: Iterable[tuple[Key, np.ndarray]]) -> Iterator[tuple[list[Key], Answers]]:
        """Classify any number of crops.

        Args:
            crops: Keys and crops, uint8 (side, side, channels); they are taken in another thread, so that the next ones
                are read or cut while these are classified.

        Yields:
            Keys and answers of as many crops as are best classified at once.
        """
        pending = iter(crops)

        def take() -> list[tuple[Key, np.ndarray]]:
            return list(islice(pending, AT_ONCE))

        with ThreadPoolExecutor(1) as pool:
            following = pool.submit(take)
            while batch := following.result():
                following = pool.submit(take)
                yield [key for key, _ in batch], self.answer(np.stack([crop for _, crop in batch]))


def _target(coverage: float) -> int:
    if coverage not in TARGETS:
        raise ValueError(f"coverage is {coverage}, expected one of {', '.join(map(str, TARGETS))}")
    return TARGETS.index(coverage)


def load_classifier(
    paths: Iterable[Path],
    device: str = "auto",
    threads: int | None = None,
    precision: str = "auto",
    tta: bool = True,
    neighbours: bool = False,
) -> Classifier:
    """Load one model, or several that are to be averaged.

    Args:
        paths: Of the models.
        device: As in `nuclei.load`, as the other arguments.
        threads: CPU threads; None takes all.
        precision: float32, bfloat16, or auto.
        tta: Average over the eight flips and rotations of each crop.
        neighbours: As of `Classifier`.

    Raises:
        InputError: A file is not a model of this project, they cannot be averaged, or one cannot weigh neighbours.
    """
    chosen, paths = setup_device(device, threads or usable_threads()), list(paths)
    models = tuple(load_model(path) for path in paths)
    for path, model in zip(paths, models, strict=True):
        if neighbours and not model.calibration(tta).neighbourhood:
            raise InputError(
                f"{path}: the crops that it was trained on share no pixels, so what neighbours are worth is unknown: "
                "leave out --neighbours"
            )
    channels = {model.architecture.channels for model in models}
    if len(channels) != 1:
        raise InputError("models of grey and of RGB crops cannot be averaged: give those of one kind")
    if len({model.task for model in models}) != 1:
        raise InputError("models of other classes or other crops cannot be averaged: give those of one kind")
    return Classifier(models, channels.pop(), chosen, precision, tta, models[0].task, neighbours)
