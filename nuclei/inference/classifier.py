"""Trained models, loaded and ready to say what crops show."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from nuclei.device import setup_device
from nuclei.errors import InputError
from nuclei.machine import usable_threads
from nuclei.models.checkpoint import Model, load_model
from nuclei.models.predict import BATCH_SIZE, predict_probabilities
from nuclei.task import CLASSES, SIDE

AT_ONCE = 8 * BATCH_SIZE  # crops, 30 MB: full batches, as in `submit`, and so the same digits

Key = TypeVar("Key")


@dataclass(frozen=True)
class Classifier:
    """One model, or several whose probabilities are averaged; see `nuclei.load`.

    channels: of the crops, 1 (grey) or 3 (RGB)
    """

    models: tuple[Model, ...]
    channels: int
    device: torch.device
    precision: str
    tta: bool
    classes: tuple[str, ...] = CLASSES

    def predict(self, crops: np.ndarray) -> np.ndarray:
        """Return the calibrated probability of each class, float32 (N, K) in [0, 1]; a row sums to 1.

        crops: uint8 (N, 100, 100, channels), the nucleus in the middle, 0.25 microns a pixel; N may be 0.
        Raises ValueError where they are not, InputError where an answer is not finite.
        """
        if crops.dtype != np.uint8 or crops.shape[1:] != (SIDE, SIDE, self.channels):
            raise ValueError(
                f"expected crops of uint8 (N, {SIDE}, {SIDE}, {self.channels}), got {crops.dtype} {crops.shape}"
            )
        if not len(crops):
            return np.empty((0, len(self.classes)), np.float32)
        parts = [predict_probabilities(model, crops, self.device, self.precision, self.tta) for model in self.models]
        probabilities = np.mean(parts, axis=0).astype(np.float32)
        if not np.isfinite(probabilities).all():
            raise InputError("the model answers with NaN or infinity: copy it again, train it again, or use float32")
        return probabilities

    def predict_all(self, crops: Iterable[tuple[Key, np.ndarray]]) -> Iterator[tuple[list[Key], np.ndarray]]:
        """Yield keys and probabilities, float32 (M, K), of as many crops as are best classified at once.

        crops: any number of (key, uint8 (100, 100, channels)); they are taken from a thread of their own, so that
        the next ones are read or cut while these are classified.
        """
        waiting = iter(crops)

        def take() -> list[tuple[Key, np.ndarray]]:
            return list(islice(waiting, AT_ONCE))

        with ThreadPoolExecutor(1) as pool:
            following = pool.submit(take)
            while batch := following.result():
                following = pool.submit(take)
                keys, some = zip(*batch, strict=True)
                yield list(keys), self.predict(np.stack(some))


def load_classifier(
    paths: Iterable[Path],
    device: str = "auto",
    threads: int | None = None,
    precision: str = "auto",
    tta: bool = True,
) -> Classifier:
    """Load one model, or several that are to be averaged. Raises InputError; the rest as in `nuclei.load`."""
    where = setup_device(device, threads or usable_threads())
    models = tuple(load_model(path) for path in paths)
    channels = {model.architecture.channels for model in models}
    if len(channels) != 1:
        raise InputError("models of grey and of RGB crops cannot be averaged: give those of one kind")
    return Classifier(models, channels.pop(), where, precision, tta)
