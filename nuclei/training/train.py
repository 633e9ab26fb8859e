"""One training from start to calibrated model, as `train` and `train_folds` share it."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from nuclei.cluster import map_crops
from nuclei.crops import Labelled
from nuclei.device import Place
from nuclei.models.checkpoint import Model
from nuclei.models.networks import Architecture, ResNet18, SmallCNN, build, load_pretrained
from nuclei.models.predict import fit_temperature, predict_logits
from nuclei.params import ModelName, Params
from nuclei.training.distributed import fit_anywhere
from nuclei.training.loop import Epoch, Recipe, keep_best


@dataclass(frozen=True)
class Plan:
    """What a network looks like, the weights it starts from (none: random ones), and how it is trained."""

    architecture: Architecture
    weights: dict[str, Tensor]
    recipe: Recipe
    patience: int
    final_epochs: int


def plan(name: ModelName, params: Params, tuned: dict[str, Any], pretrained: dict[str, Tensor]) -> Plan:
    """Gather what `params` say of the network `name`.

    tuned: what the search found: lr, batch_size, and for the CNN widths; pretrained: for the ResNet18
    """
    channels = params.data.channels
    if name == "cnn":
        own, weights = params.train_cnn, {}
        shape = SmallCNN(channels, tuple(params.cnn.filters), tuple(tuned["widths"]), params.cnn.dropout)
    else:
        own, weights = params.train_resnet, pretrained
        shape = ResNet18(channels, params.resnet.stem)
    recipe = Recipe(
        lr=params.lr or tuned["lr"],
        batch_size=params.batch_size or tuned["batch_size"],
        epochs=params.epochs or own.epochs,
        seed=own.seed,
        ema=own.ema,
        train=params.train,
    )
    return Plan(shape, weights, recipe, own.patience, own.final_epochs)


def train(
    plan: Plan,
    fitting: Labelled,
    validation: Labelled,
    place: Place,
    label: str = "",
    kept: Path | None = None,
) -> tuple[Model, pd.DataFrame, Epoch]:
    """Train on `fitting` and keep the epoch that `validation` likes best; return model, learning curves, that epoch.

    The model's temperature fits the validation crops, predicted as most users will: averaged over flips and turns.
    place, label, kept: as in `fit_anywhere`. Raises InputError where training diverged.
    """
    network = build(plan.architecture, plan.recipe.seed)
    if plan.weights:
        load_pretrained(network, plan.weights)
    epochs = fit_anywhere(network, fitting, validation, plan.recipe, place, label, kept)
    curves, best = keep_best(epochs, plan.patience)
    network.load_state_dict(best.weights)
    predict = partial(predict_logits, network, precision=plan.recipe.train.precision, tta=True)
    logits = map_crops(predict, [validation.crops], place)
    model = Model(network, plan.architecture, fit_temperature(logits, validation.labels))
    return model, pd.DataFrame(curves), best
