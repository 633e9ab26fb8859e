"""Hyper-parameter search: Ray Tune runs the trials, successive halving says which."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from nuclei.cluster import places, ray_cluster

# Before Ray: it sets what Ray reads when it is imported.
# isort: split
import numpy as np
import pandas as pd
from ray import tune
from torch import Tensor

from nuclei.crops import Labelled
from nuclei.device import choose_device
from nuclei.fit import Recipe, fit
from nuclei.models import Architecture, SmallCNN, build, load_pretrained
from nuclei.params import Train, Tune
from nuclei.resume import fingerprint, load_state, save_state


def draw_trials(model: str, settings: Tune, tune_widths: bool) -> list[dict[str, Any]]:
    """Draw the first rung: model, trial (from 0), lr (log-uniform), batch_size and, if asked, width_1 and width_2."""
    rng = np.random.default_rng((settings.seed, len(model)))
    low, high = np.log(settings.lr.low), np.log(settings.lr.high)
    # Strata instead of free draws: a handful of trials still covers the range (McKay et al. 1979).
    strata = (rng.permutation(settings.trials) + rng.random(settings.trials)) / settings.trials
    trials = []
    for number, stratum in enumerate(strata):
        lr = float(f"{np.exp(low + stratum * (high - low)):.3g}")
        trial = {"model": model, "trial": number, "lr": lr, "batch_size": int(rng.choice(settings.batch_size))}
        if tune_widths:
            trial |= {"width_1": int(rng.choice(settings.widths)), "width_2": int(rng.choice(settings.widths))}
        trials.append(trial)
    return trials


def search(
    shapes: Mapping[str, Architecture],
    weights: Mapping[str, Tensor],
    train: Labelled,
    validation: Labelled,
    recipe: Train,
    settings: Tune,
    device: str,
    kept: Path,
) -> dict[str, pd.DataFrame]:
    """Search for each of the models in `shapes` at once; return the table of all its trials, the winner's row first.

    weights: what a ResNet18 starts from; empty: random weights. device: as in `choose_device`;
    kept: a folder for what trials came to; the same search, interrupted, runs only the others.
    Each rung trains its trials afresh, each with a whole learning-rate schedule, and hands the best of each model on
    to the next, longer one (synchronous successive halving, Jamieson & Talwalkar 2016). Trials share nothing, so
    neither their order nor the number that run at once changes the winner.
    """
    trials = [
        trial for name, shape in shapes.items() for trial in draw_trials(name, settings, isinstance(shape, SmallCNN))
    ]
    done: list[dict[str, Any]] = []
    arrays = [value.numpy() for value in weights.values()] + [train.crops, train.labels]
    arrays += [validation.crops, validation.labels]
    kept.mkdir(parents=True, exist_ok=True)
    notes = _Notes(kept, fingerprint(arrays, shapes, recipe, settings, device))
    shared = {
        "shapes": shapes,
        "weights": weights,
        "train": train,
        "validation": validation,
        "recipe": recipe,
        "device": device,
    }
    with ray_cluster():
        places(settings.cpus_per_trial, settings.gpus_per_trial, "tune.cpus_per_trial and gpus_per_trial")
        for rung, epochs in enumerate(settings.epochs):
            configs = [trial | {"rung": rung, "epochs": epochs} for trial in trials]
            waiting = [config for config in configs if json.dumps(config) not in notes.scores]
            if waiting:
                _run_trials(waiting, shared, settings, notes, kept)
            results = [config | notes.scores[json.dumps(config)] for config in configs]
            results.sort(key=lambda result: (result["validation_loss"], result["trial"]))
            done = results + done
            trials = []
            for name in shapes:
                own = [result for result in results if result["model"] == name]
                best = own[: max(len(own) // settings.reduction, 1)]
                trials += [
                    {key: value for key, value in trial.items() if not key.startswith("validation")} for trial in best
                ]
    return {name: pd.DataFrame([trial for trial in done if trial["model"] == name]) for name in shapes}


def _run_trials(
    configs: list[dict[str, Any]], shared: dict[str, Any], settings: Tune, notes: "_Notes", kept: Path
) -> None:
    """Run one trial a config; `notes` learns what each of them came to; Ray writes into `kept`."""
    trainable = tune.with_parameters(_run_trial, seed=settings.seed, threads=settings.cpus_per_trial, **shared)
    resources = {"cpu": settings.cpus_per_trial, "gpu": settings.gpus_per_trial}
    with tempfile.TemporaryDirectory(dir=kept.resolve()) as storage:
        results = tune.Tuner(
            tune.with_resources(trainable, resources),
            param_space={"config": tune.grid_search(configs)},
            tune_config=tune.TuneConfig(reuse_actors=True),
            run_config=tune.RunConfig(
                storage_path=storage,
                verbose=0,
                callbacks=[notes],
                failure_config=tune.FailureConfig(max_failures=2),  # a lost worker is no reason to lose the search
            ),
        ).fit()
    for error in results.errors:
        raise error


class _Notes(tune.Callback):
    """What each trial came to, by its settings as JSON: printed in a line, and kept in a file of `folder`."""

    def __init__(self, folder: Path, key: str):
        self.file, self.key = folder / "trials.safetensors", key
        self.scores: dict[str, dict[str, float]] = load_state(self.file, key) or {}
        if self.scores:
            print(f"trials that an interrupted run had done: {len(self.scores)}", flush=True)

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        config, scores = trial.config["config"], trial.last_result["scores"]
        self.scores[json.dumps(config)] = scores
        save_state(self.file, self.key, self.scores)
        settings = ", ".join(f"{key} {value}" for key, value in config.items() if key not in ("model", "rung", "trial"))
        print(
            f"{config['model']} rung {config['rung']} trial {config['trial']}: {settings}: "
            f"validation loss {scores['validation_loss']:.4f}, accuracy {scores['validation_accuracy']:.4f}",
            flush=True,
        )


def _run_trial(
    settings: dict[str, Any],
    shapes: Mapping[str, Architecture],
    weights: Mapping[str, Tensor],
    train: Labelled,
    validation: Labelled,
    recipe: Train,
    device: str,
    seed: int,
    threads: int,
) -> None:
    """Train one network to the end of its schedule and report the last epoch's scores (runs on a Ray worker)."""
    config = settings["config"]
    place = choose_device(device, threads)
    shape = shapes[config["model"]]
    if isinstance(shape, SmallCNN):
        shape = replace(shape, widths=(config["width_1"], config["width_2"]))
    network = build(shape, seed)
    if weights and not isinstance(shape, SmallCNN):
        load_pretrained(network, weights)
    run = Recipe(config["lr"], config["batch_size"], config["epochs"], seed, ema=0.0, train=recipe)
    *_, last = fit(network, train, validation, run, place)
    tune.report({"scores": {name: value for name, value in last.scores.items() if name.startswith("validation")}})
