"""Hyper-parameter search: Ray Tune runs the trials, successive halving chooses which."""

import hashlib
import json
import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nuclei.cluster import ray_cluster, worker_error, worker_slots

# Before Ray: it sets what Ray reads when it is imported.
# isort: split
import numpy as np
import pandas as pd
from ray import tune
from ray.tune.search import Searcher
from torch import Tensor

from nuclei.crops import FoldedCrops, LabelledCrops
from nuclei.device import setup_device
from nuclei.models.networks import architecture_class, build
from nuclei.params import Params, Tune
from nuclei.progress import Progress
from nuclei.task import NETWORKS
from nuclei.training.loop import TrainConfig, fit, training_steps
from nuclei.training.state import fingerprint, pack, read_state, unpack, write_state

SCORES = ("heldout_loss", "heldout_accuracy", "heldout_balanced_accuracy")  # of a trial's last epoch
OUTER_FOLD, INNER_FOLD = 0, 1  # the first is left alone, the second scores the trials, which train on all others

Trial = dict[str, Any]


@dataclass(frozen=True)
class SearchData:
    """What all trials share.

    Attributes:
        params: All parameters.
        pretrained: The weights that pretrained networks start from; none: random ones.
        train_set: Crops that trials train on.
        inner_set: Crops that they are compared on.
    """

    params: Params
    pretrained: dict[str, Tensor]
    train_set: LabelledCrops
    inner_set: LabelledCrops


def inner_split(crops: FoldedCrops) -> tuple[LabelledCrops, LabelledCrops]:
    """Split the training folds of fold 0: what trials train on, and what they are compared on. Fold 0 stays unseen."""
    inner = crops.folds == INNER_FOLD
    train = ~inner & (crops.folds != OUTER_FOLD)
    return crops.data.take(np.flatnonzero(train)), crops.data.take(np.flatnonzero(inner))


def draw_trials(name: str, params: Params) -> list[Trial]:
    """Draw the trials of the first rung.

    Args:
        name: A key of `nuclei.task.NETWORKS`.
        params: The section `tune` says what is drawn from.

    Returns:
        model, trial, lr (log-uniform), batch_size, and a value for each key of the network's search space.
    """
    settings = params.tune
    rng = np.random.default_rng((settings.seed, *hashlib.blake2b(name.encode(), digest_size=8).digest()))
    low, high = np.log(settings.lr.low), np.log(settings.lr.high)
    # Strata instead of free draws: a handful of trials still covers the range (McKay et al. 1979).
    strata = (rng.permutation(settings.trials) + rng.random(settings.trials)) / settings.trials
    choices = {"batch_size": settings.batch_size} | architecture_class(name).search_space(params)
    return [
        {"model": name, "trial": number, "lr": float(f"{np.exp(low + stratum * (high - low)):.3g}")}
        | {key: int(rng.choice(values)) for key, values in choices.items()}
        for number, stratum in enumerate(strata)
    ]


def rung_steps(name: str, crops: int, params: Params) -> list[int]:
    """Return the optimizer steps of each rung, the same for every batch size: rungs compare settings, not steps.

    Args:
        name: A key of `nuclei.task.NETWORKS`.
        crops: Number of crops that a trial trains on.
        params: The section `tune`, and the network's number of epochs.
    """
    epochs = getattr(params, NETWORKS[name].training).epochs
    return [training_steps(crops, max(params.tune.batch_size), share * epochs) for share in params.tune.rungs]


def search(names: list[str], data: SearchData, resume_dir: Path) -> dict[str, pd.DataFrame]:
    """Search the hyper-parameters of several networks at once.

    Each rung trains its trials afresh, each with a whole learning-rate schedule, and hands the best of each network on
    to the next, longer one (synchronous successive halving, Jamieson & Talwalkar 2016). Trials share nothing, so
    neither their order nor the number that run at once changes the winner.

    Args:
        names: Keys of `nuclei.task.NETWORKS`.
        data: What all trials share.
        resume_dir: Folder for the results of trials; the same search, interrupted, runs only the others.

    Returns:
        By network, one row per trial and rung, the winner first: model, trial, lr, batch_size, the search space, rung,
        steps, crops (seen in training) and `SCORES`.

    Raises:
        InputError: No machine has room for a trial.
    """
    settings = data.params.tune
    steps = {name: rung_steps(name, len(data.train_set), data.params) for name in names}
    trials = [trial for name in names for trial in draw_trials(name, data.params)]
    arrays = [value.numpy() for value in data.pretrained.values()]
    arrays += [data.train_set.crops, data.train_set.labels, data.inner_set.crops, data.inner_set.labels]
    task = data.train_set.task
    architectures = [architecture_class(trial["model"]).from_params(data.params, task, trial) for trial in trials]
    key = fingerprint(arrays, trials, architectures, steps, data.params.train, data.params.device, settings)
    results = TrialResults(resume_dir / "trials.safetensors", key)
    with ray_cluster():
        worker_slots(settings.cpus_per_trial, settings.gpus_per_trial, "tune.cpus_per_trial and gpus_per_trial")
        with Progress(_total_steps(steps, settings), "tune", "step") as progress:
            halving = SuccessiveHalving(trials, steps, settings.reduction, results, progress)
            if halving.pending:
                _run_trials(halving, data, resume_dir)
    return {name: pd.DataFrame([trial for trial in halving.finished if trial["model"] == name]) for name in names}


def _total_steps(steps: Mapping[str, list[int]], settings: Tune) -> int:
    trials = [max(settings.trials // settings.reduction**rung, 1) for rung in range(len(settings.rungs))]
    return sum(n * count for counts in steps.values() for n, count in zip(trials, counts, strict=True))


def _run_trials(halving: "SuccessiveHalving", data: SearchData, resume_dir: Path) -> None:
    """Run the trials that `halving` asks for; Ray writes into `resume_dir`."""
    settings = data.params.tune
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what ends a trial is raised below, in a line
    resume_dir.mkdir(parents=True, exist_ok=True)
    trainable = tune.with_parameters(_run_trial, data=data)
    resources = {"cpu": settings.cpus_per_trial, "gpu": settings.gpus_per_trial}
    with tempfile.TemporaryDirectory(dir=resume_dir.resolve()) as storage:
        results = tune.Tuner(
            tune.with_resources(trainable, resources),
            tune_config=tune.TuneConfig(search_alg=halving, num_samples=-1, reuse_actors=True),
            run_config=tune.RunConfig(
                storage_path=storage,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=2),  # a lost worker is no reason to lose the search
            ),
        ).fit()
    for error in results.errors:  # the text of one that is not the trial's own, a worker that was lost
        raise error if isinstance(error, Exception) else worker_error(str(error), "tune.cpus_per_trial")


def _run_trial(config: dict[str, Any], data: SearchData) -> None:
    """Train one network to the end of its schedule and report the last epoch's scores (on a Ray worker)."""
    trial, params = config["trial"], data.params
    device = setup_device(params.device, params.tune.cpus_per_trial)
    architecture = architecture_class(trial["model"]).from_params(params, data.train_set.task, trial)
    network = build(architecture, params.tune.seed)
    if data.pretrained and NETWORKS[trial["model"]].pretrained:
        architecture.load_pretrained(network, data.pretrained)
    train = TrainConfig(trial["lr"], trial["batch_size"], trial["steps"], params.tune.seed, ema=0.0, train=params.train)
    *_, last = fit(network, data.train_set, data.inner_set, train, device)
    tune.report({name: last.scores[name] for name in SCORES})


class SuccessiveHalving(Searcher):
    """Chooses the next trial: those of a rung, then the best of each network in the next rung, until none is left.

    Attributes:
        pending: The trials of this rung that are still to be started.
        finished: The trials of the rungs that are over, the last rung first, the best of a rung first.
    """

    def __init__(
        self,
        trials: list[Trial],
        steps: Mapping[str, list[int]],
        reduction: int,
        results: "TrialResults",
        progress: Progress,
    ):
        super().__init__()
        self.steps, self.reduction, self.results, self.progress = steps, reduction, results, progress
        self.rungs = len(next(iter(steps.values())))
        self.running: dict[str, Trial] = {}
        self.finished: list[Trial] = []
        self.pending: list[Trial] = []
        self.steps_done = 0
        self._start_rung(0, trials)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the bar out: Ray pickles the searcher, and what a bar writes to may be anything (a notebook's cell)."""
        return {name: value for name, value in vars(self).items() if name != "progress"}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]  # FINISHED is a str
        """Return the next trial, None while others run, FINISHED at the end (see Ray's `Searcher`)."""
        if self.pending:
            self.running[trial_id] = self.pending.pop(0)
            return {"trial": self.running[trial_id]}
        return None if self.running else Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Take the scores of a trial, and start the next rung after the last trial of this one (see `Searcher`)."""
        trial = self.running.pop(trial_id)
        if error or result is None:
            self.pending = []  # the search is lost: start no more
            return
        self.results.add(trial, {name: result[name] for name in SCORES})
        self.steps_done += trial["steps"]
        self.progress.update(self.steps_done)
        self._end_rung()

    def _start_rung(self, rung: int, trials: list[Trial]) -> None:
        """Start `rung` with `trials`, those of them that an interrupted run has not finished."""
        self.rung = rung
        self.trials = [self._in_rung(trial, rung) for trial in trials]
        self.pending = [trial for trial in self.trials if trial not in self.results]
        self.steps_done += sum(trial["steps"] for trial in self.trials if trial in self.results)
        self._end_rung()

    def _in_rung(self, trial: Trial, rung: int) -> Trial:
        steps = self.steps[trial["model"]][rung]
        return trial | {"rung": rung, "steps": steps, "crops": steps * trial["batch_size"]}

    def _end_rung(self) -> None:
        """Choose who goes on, if all trials of this rung are finished."""
        if not all(trial in self.results for trial in self.trials):
            return
        ranked = [trial | self.results[trial] for trial in self.trials]
        ranked.sort(key=lambda result: (result["heldout_loss"], result["trial"]))
        self.finished = ranked + self.finished
        if self.rung + 1 == self.rungs:
            return
        best = []
        for name in dict.fromkeys(trial["model"] for trial in self.trials):
            of_network = [result for result in ranked if result["model"] == name]
            best += of_network[: max(len(of_network) // self.reduction, 1)]
        self._start_rung(self.rung + 1, [{key: trial[key] for key in trial if key not in SCORES} for trial in best])


class TrialResults:
    """The scores of each trial, saved in a file for a search that goes on where this one ended."""

    def __init__(self, path: Path, key: str):
        self.path, self.key = path, key
        self.scores: dict[str, dict[str, float]] = unpack(read_state(path), key) or {}
        if self.scores:
            print(f"trials that an interrupted run had done: {len(self.scores)}", flush=True)

    def __contains__(self, trial: Trial) -> bool:
        return json.dumps(trial) in self.scores

    def __getitem__(self, trial: Trial) -> dict[str, float]:
        return self.scores[json.dumps(trial)]

    def add(self, trial: Trial, scores: dict[str, float]) -> None:
        """Save the scores of a trial, by their names, and print them as a line."""
        self.scores[json.dumps(trial)] = scores
        write_state(self.path, pack(self.key, self.scores))
        settings = ", ".join(f"{key} {value}" for key, value in trial.items() if key not in ("model", "rung", "trial"))
        print(
            f"{trial['model']} rung {trial['rung']} trial {trial['trial']}: {settings}: "
            f"held-out loss {scores['heldout_loss']:.4f}, accuracy {scores['heldout_accuracy']:.4f}",
            flush=True,
        )


def winner(table: pd.DataFrame, params: Params) -> dict[str, Any]:
    """Return what the search chose for one network.

    Args:
        table: Its trials, as `search` returns them.
        params: All parameters.

    Returns:
        lr, batch_size, and a value for each key of the network's search space.
    """
    best = table.iloc[0]
    searched = architecture_class(best["model"]).search_space(params)
    return {"lr": float(best["lr"])} | {key: int(best[key]) for key in ("batch_size", *searched)}
