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
from ray.tune.search import Searcher
from torch import Tensor

from nuclei.crops import Labelled
from nuclei.device import choose_device
from nuclei.models.networks import Architecture, SmallCNN, build, load_pretrained
from nuclei.params import Train, Tune
from nuclei.training.loop import Recipe, fit
from nuclei.training.state import fingerprint, load_state, save_state

SCORES = ("validation_loss", "validation_accuracy", "validation_balanced_accuracy")  # of a trial's last epoch


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
    arrays = [value.numpy() for value in weights.values()] + [train.crops, train.labels]
    arrays += [validation.crops, validation.labels]
    kept.mkdir(parents=True, exist_ok=True)
    notes = _Notes(kept / "trials.safetensors", fingerprint(arrays, shapes, recipe, settings, device))
    halving = _Halving(trials, settings, notes)
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
        if halving.waiting:
            _run_trials(halving, shared, settings, kept)
    return {name: pd.DataFrame([trial for trial in halving.done if trial["model"] == name]) for name in shapes}


def _run_trials(halving: "_Halving", shared: dict[str, Any], settings: Tune, kept: Path) -> None:
    """Run the trials that `halving` asks for; Ray writes into `kept`."""
    trainable = tune.with_parameters(_run_trial, seed=settings.seed, threads=settings.cpus_per_trial, **shared)
    resources = {"cpu": settings.cpus_per_trial, "gpu": settings.gpus_per_trial}
    with tempfile.TemporaryDirectory(dir=kept.resolve()) as storage:
        results = tune.Tuner(
            tune.with_resources(trainable, resources),
            tune_config=tune.TuneConfig(search_alg=halving, num_samples=-1, reuse_actors=True),
            run_config=tune.RunConfig(
                storage_path=storage,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=2),  # a lost worker is no reason to lose the search
            ),
        ).fit()
    for error in results.errors:
        raise error


class _Halving(Searcher):
    """Says which trial comes next: those of a rung, then of each model's best ones the next rung's, until none is left.

    waiting: the trials of this rung that are still to be started
    done: the trials of the rungs that are over, the last rung's first, the best of a rung first
    """

    def __init__(self, trials: list[dict[str, Any]], settings: Tune, notes: "_Notes"):
        super().__init__()
        self.settings, self.notes = settings, notes
        self.running: dict[str, dict[str, Any]] = {}
        self.done: list[dict[str, Any]] = []
        self._climb(0, trials)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if self.waiting:
            self.running[trial_id] = self.waiting.pop(0)
            return {"trial": self.running[trial_id]}
        return None if self.running else Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        trial = self.running.pop(trial_id)
        if error:
            self.waiting = []  # the search is lost: no more of them
        else:
            self.notes.add(trial, {name: result[name] for name in SCORES})
            self._end_rung()

    def _climb(self, rung: int, trials: list[dict[str, Any]]) -> None:
        """Go on to `rung` with `trials`; some may be done already."""
        self.rung = rung
        self.trials = [trial | {"rung": rung, "epochs": self.settings.epochs[rung]} for trial in trials]
        self.waiting = [trial for trial in self.trials if trial not in self.notes]
        self._end_rung()

    def _end_rung(self) -> None:
        """Choose who goes on, if all trials of this rung are done."""
        if not all(trial in self.notes for trial in self.trials):
            return
        results = [trial | self.notes[trial] for trial in self.trials]
        results.sort(key=lambda result: (result["validation_loss"], result["trial"]))
        self.done = results + self.done
        if self.rung + 1 == len(self.settings.epochs):
            return
        best = []
        for name in dict.fromkeys(trial["model"] for trial in self.trials):
            own = [result for result in results if result["model"] == name]
            best += own[: max(len(own) // self.settings.reduction, 1)]
        self._climb(self.rung + 1, [{key: trial[key] for key in trial if key not in SCORES} for trial in best])


class _Notes:
    """What each trial came to: printed in a line, and kept in a file for a search that goes on where this one ended."""

    def __init__(self, file: Path, key: str):
        self.file, self.key = file, key
        self.scores: dict[str, dict[str, float]] = load_state(file, key) or {}
        if self.scores:
            print(f"trials that an interrupted run had done: {len(self.scores)}", flush=True)

    def __contains__(self, trial: dict[str, Any]) -> bool:
        return json.dumps(trial) in self.scores

    def __getitem__(self, trial: dict[str, Any]) -> dict[str, float]:
        return self.scores[json.dumps(trial)]

    def add(self, trial: dict[str, Any], scores: dict[str, float]) -> None:
        self.scores[json.dumps(trial)] = scores
        save_state(self.file, self.key, self.scores)
        settings = ", ".join(f"{key} {value}" for key, value in trial.items() if key not in ("model", "rung", "trial"))
        print(
            f"{trial['model']} rung {trial['rung']} trial {trial['trial']}: {settings}: "
            f"validation loss {scores['validation_loss']:.4f}, accuracy {scores['validation_accuracy']:.4f}",
            flush=True,
        )


def _run_trial(
    config: dict[str, Any],
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
    trial = config["trial"]
    place = choose_device(device, threads)
    shape = shapes[trial["model"]]
    if isinstance(shape, SmallCNN):
        shape = replace(shape, widths=(trial["width_1"], trial["width_2"]))
    network = build(shape, seed)
    if weights and not isinstance(shape, SmallCNN):
        load_pretrained(network, weights)
    run = Recipe(trial["lr"], trial["batch_size"], trial["epochs"], seed, ema=0.0, train=recipe)
    *_, last = fit(network, train, validation, run, place)
    tune.report({name: last.scores[name] for name in SCORES})
