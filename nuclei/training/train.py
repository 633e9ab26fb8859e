"""One network per held-out fold, trained on all other folds, and one on all crops: side by side, on any machines."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from torch import Tensor

from nuclei.cluster import has_room_for_one, ray_cluster, run_in_turn, stream_tasks
from nuclei.crops import FoldedCrops
from nuclei.device import Compute, compare_systems, setup_device
from nuclei.errors import InputError
from nuclei.files import atomic_directory
from nuclei.models.calibration import fit_calibration
from nuclei.models.checkpoint import Model, save_model
from nuclei.models.networks import Architecture, architecture_class, build
from nuclei.models.novelty import MOST_CROPS, Reference, fit_reference, novelty, with_threshold
from nuclei.models.predict import predict_logits, predict_outputs
from nuclei.npz import write_npz
from nuclei.params import Params
from nuclei.progress import Progress
from nuclei.task import NETWORKS, Task
from nuclei.training.loop import Epoch, TrainConfig, fit, training_steps, weights_of
from nuclei.training.state import read_state, write_state

ALL_CROPS = "all"  # in the place of a fold: the network that is trained on every crop


@dataclass(frozen=True)
class NetworkConfig:
    """What a network looks like, the weights it starts from, and how it is trained.

    Attributes:
        name: Its key in `nuclei.task.NETWORKS`.
        architecture: Its shape.
        pretrained: The weights it starts from; none: random ones.
        epochs: Passes over the crops that it trains on.
        config: How it is trained; `steps` is set for the crops at hand.
    """

    name: str
    architecture: Architecture
    pretrained: dict[str, Tensor]
    epochs: int
    config: TrainConfig


class OutOfFold(NamedTuple):
    """What networks say of crops whose fold they never saw.

    Attributes:
        rows: int64 (N,), rising: the crops of the folds that were held out.
        averaged: Logits, float32 (N, K), averaged over the eight flips and rotations of each crop.
        single: Logits, float32 (N, K), of each crop as it is.
        novelty: float32 (N,), 1 for a crop as unlike as the median one that the network did train on.
    """

    rows: np.ndarray
    averaged: np.ndarray
    single: np.ndarray
    novelty: np.ndarray


class Trained(NamedTuple):
    """All networks of one kind.

    Attributes:
        models: By fold, and under `ALL_CROPS` the one that was trained on every crop. A fold's model is calibrated on
            the other folds, the last one on all; so is its threshold for novelty.
        out_of_fold: Their logits and novelties.
        curves: Learning curves, one row per network and epoch: fold, epoch, lr, train_loss, heldout_*.
    """

    models: dict[int | str, Model]
    out_of_fold: OutOfFold
    curves: pd.DataFrame


class _Result(NamedTuple):
    """What a worker sends last: weights, the training crops, and the fields of `OutOfFold` of the held-out crops."""

    weights: dict[str, Tensor]
    reference: Reference
    heldout: dict[str, np.ndarray]


def network_config(
    name: str, params: Params, task: Task, tuned: dict[str, Any], pretrained: dict[str, Tensor]
) -> NetworkConfig:
    """Gather what `params` and the search say of the network `name`.

    Args:
        name: A key of `nuclei.task.NETWORKS`.
        params: All parameters.
        task: What it learns.
        tuned: lr, batch_size and a value for each key of the architecture's search space.
        pretrained: The weights that the pretrained network starts from; others ignore them.
    """
    section = getattr(params, NETWORKS[name].training)
    config = TrainConfig(
        lr=params.lr or tuned["lr"],
        batch_size=params.batch_size or tuned["batch_size"],
        steps=1,
        seed=section.seed,
        ema=section.ema,
        train=params.train,
    )
    architecture = architecture_class(name).from_params(params, task, tuned)
    weights = pretrained if NETWORKS[name].pretrained else {}
    return NetworkConfig(name, architecture, weights, params.epochs or section.epochs, config)


def train_folds(
    network: NetworkConfig,
    crops: FoldedCrops,
    compute: Compute,
    resume_dir: Path,
    on_epoch: Callable[[pd.DataFrame], None] = lambda curves: None,
) -> Trained:
    """Train one network per held-out fold on all other folds, and one on all crops.

    They run side by side where there is room, on the cluster that RAY_ADDRESS names or else on this machine; where this
    machine has room for one, in this process. A worker that is lost is replaced, and an interrupted run goes on from
    its last epochs with the same result.

    Args:
        network: What to train.
        crops: All labelled crops and their folds.
        compute: What each network is trained with.
        resume_dir: Folder for what an interrupted run left behind.
        on_epoch: Called with the learning curves so far, after every epoch of any network.

    Raises:
        InputError: Training diverged, or no machine has room for a network.
    """
    keys: list[int | str] = [*crops.held_out, ALL_CROPS]
    steps = {key: _config_of(network, crops, key).config.steps for key in keys}
    curves: dict[int | str, list[dict[str, float]]] = {key: [] for key in keys}
    results: dict[int | str, _Result] = {}
    states = {key: resume_dir / f"{key}.safetensors" for key in keys}
    in_turn = has_room_for_one(compute)
    with nullcontext() if in_turn else ray_cluster(), Progress(sum(steps.values()), network.name, "step") as progress:
        tasks = {key: lambda path=states[key]: (read_state(path),) for key in keys}
        run = run_in_turn if in_turn else stream_tasks
        for key, item in run(_train_one, (network, crops), tasks, compute):
            if isinstance(item, _Result):
                results[key] = item
                continue
            if not np.isfinite(item.scores["train_loss"]):
                raise InputError(f"{network.name}: training diverged: lower lr (-S lr={network.config.lr / 3:.2g})")
            if len(curves[key]) >= item.scores["epoch"]:  # a worker that took over from a lost one repeats its past
                continue
            curves[key].append(item.scores)
            if item.resumed and item.state:  # the last one
                epoch = item.scores["epoch"]
                print(f"{network.name}, {_title(key)}: goes on after epoch {epoch} of an interrupted run", flush=True)
            elif item.state:
                write_state(states[key], item.state)
            done = {key: len(rows) * steps[key] / network.epochs for key, rows in curves.items()}
            progress.update(round(sum(done.values())), _describe(key, item.scores))
            on_epoch(_table(curves))
    rows = np.flatnonzero(np.isin(crops.folds, crops.held_out))
    out_of_fold = OutOfFold(rows, *(_in_order(results, crops.folds, kind) for kind in OutOfFold._fields[1:]))
    models = {key: _model(network, results[key], out_of_fold, crops, key) for key in keys}
    return Trained(models, out_of_fold, _table(curves))


def save_trained(folder: Path, trained: Trained) -> None:
    """Write the models and logits: fold_<number>.safetensors, final.safetensors, out_of_fold.npz.

    Args:
        folder: Of one network; what an earlier run wrote there is replaced.
        trained: What `train_folds` returned.
    """
    with atomic_directory(folder, replace=True) as temporary:
        for key, model in trained.models.items():
            save_model(temporary / ("final.safetensors" if key == ALL_CROPS else f"fold_{key}.safetensors"), model)
        write_npz(temporary / "out_of_fold.npz", trained.out_of_fold._asdict())


def print_note_on_processor(path: Path, environment: dict[str, Any]) -> None:
    """Say so where the earlier networks come from another kind of processor, whose rounding differs.

    Args:
        path: environment.json of the earlier networks, if there are any.
        environment: What `nuclei.device.describe_environment` says of the new ones.
    """
    if path.exists():
        note = compare_systems(json.loads(path.read_text()), environment)
        if note:
            print(f"NOTE: {note}")


def _train_one(
    network: NetworkConfig, crops: FoldedCrops, key: int | str, state: bytes, compute: Compute
) -> Iterator[Epoch | _Result]:
    """Train one network (mostly on a Ray worker); yield every epoch, then what it came to."""
    device = setup_device(compute.device, compute.threads)
    train_set, heldout_set = crops.split(None if key == ALL_CROPS else int(key))
    task = _config_of(network, crops, key)
    module = build(network.architecture, task.config.seed)
    if network.pretrained:
        network.architecture.load_pretrained(module, network.pretrained)
    yield from fit(module, train_set, heldout_set, task.config, device, resume_from=state)
    precision = task.config.train.precision
    chosen = np.linspace(0, len(train_set) - 1, min(len(train_set), MOST_CROPS)).round().astype(int)
    seen = predict_outputs(module, network.architecture, train_set.crops[chosen], device, precision)
    reference, heldout = fit_reference(seen.features), {}
    if heldout_set:
        unseen = predict_outputs(module, network.architecture, heldout_set.crops, device, precision)
        averaged = predict_logits(module, heldout_set.crops, device, precision, tta=True)
        scores = novelty(reference, unseen.features)
        heldout = {"averaged": averaged, "single": unseen.logits, "novelty": scores}
    yield _Result(weights_of(module), reference, heldout)


def _config_of(network: NetworkConfig, crops: FoldedCrops, key: int | str) -> NetworkConfig:
    """Set the steps for the crops of one network, and draw its seed: folds differ by more than their crops."""
    n = len(crops.data) if key == ALL_CROPS else int((crops.folds != key).sum())
    steps = training_steps(n, network.config.batch_size, network.epochs)
    number = crops.folds.max() + 1 if key == ALL_CROPS else int(key)
    seed = int(np.random.default_rng((network.config.seed, number)).integers(2**31))
    return replace(network, config=replace(network.config, steps=steps, seed=seed))


def _in_order(results: Mapping[int | str, _Result], folds: np.ndarray, kind: str) -> np.ndarray:
    """Put what the networks say of all held-out crops into the order of the crops."""
    keys = [key for key in results if key != ALL_CROPS]
    of_fold = np.concatenate([np.flatnonzero(folds == key) for key in keys])
    values = np.concatenate([results[key].heldout[kind] for key in keys])
    return values[np.argsort(of_fold)]


def _model(
    network: NetworkConfig, result: _Result, out_of_fold: OutOfFold, crops: FoldedCrops, key: int | str
) -> Model:
    module = build(network.architecture, seed=0)
    module.load_state_dict(result.weights)
    others = crops.folds[out_of_fold.rows] != key
    rows = out_of_fold.rows[others]
    averaged, single = (
        fit_calibration(logits[others], crops.data.labels[rows], crops.groups[rows], crops.places.take(rows))
        for logits in (out_of_fold.averaged, out_of_fold.single)
    )
    reference = with_threshold(result.reference, out_of_fold.novelty[others])
    return Model(network.name, module.eval(), network.architecture, averaged, single, reference, crops.data.task)


def _table(curves: Mapping[int | str, list[dict[str, float]]]) -> pd.DataFrame:
    return pd.DataFrame([{"fold": key} | row for key, rows in curves.items() for row in rows])


def _describe(key: int | str, scores: Mapping[str, float]) -> str:
    """Put an epoch's scores into a line."""
    printed = {name: scores[name] for name in ("train_loss", "heldout_loss", "heldout_accuracy") if name in scores}
    numbers = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in printed.items())
    return f"{_title(key)}, epoch {scores['epoch']:.0f}: {numbers}"


def _title(key: int | str) -> str:
    return "all crops" if key == ALL_CROPS else f"fold {key}"
