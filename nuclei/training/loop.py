"""One training loop for every network."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from nuclei.crops import Labelled
from nuclei.device import autocast
from nuclei.errors import InputError
from nuclei.models.predict import predict_logits
from nuclei.models.transforms import draw_augmentation, normalise
from nuclei.params import Train
from nuclei.training.parallel import ALONE, Team
from nuclei.training.state import fingerprint, load_state, save_state


@dataclass(frozen=True)
class Recipe:
    """How one network is trained: peak learning rate, crops a batch, epochs, seed, EMA decay a step, the rest."""

    lr: float
    batch_size: int
    epochs: int
    seed: int
    ema: float
    train: Train


@dataclass(frozen=True)
class Epoch:
    """What an epoch came to: its number from 1, a row of the learning curves, the weights after it (on the CPU).

    Of the epochs before an interruption only the best one, or without validation the last one, still has its weights.
    """

    number: int
    scores: dict[str, float]
    weights: dict[str, Tensor]


def fit(
    network: nn.Module,
    train: Labelled,
    validation: Labelled | None,
    recipe: Recipe,
    device: torch.device,
    label: str = "",
    team: Team = ALONE,
    kept: Path | None = None,
) -> Iterator[Epoch]:
    """Train `network` in place and yield every epoch; stop whenever the caller stops asking.

    AdamW; the learning rate rises linearly, then falls as a cosine to zero. Validation is done in evaluation mode,
    without augmentation, on the averaged weights where there is an average; None skips it.
    Everything random comes from (seed, epoch), so neither batches nor devices change what is drawn.
    label: what the progress bar and a line an epoch are headed with; empty: no output
    team: the processes that train together; each calls `fit` alike, on a network that `unite` has changed
    kept: a file for the state after each epoch; the same training, interrupted, goes on from there and ends the same
    """
    key = _fingerprint(network, train, validation, recipe, device) if kept else ""
    network.to(device)
    labels = torch.from_numpy(train.labels)
    steps_an_epoch = max(len(train) // recipe.batch_size, 1)
    steps = steps_an_epoch * recipe.epochs
    optimizer = torch.optim.AdamW(
        network.parameters(), recipe.lr, weight_decay=recipe.train.weight_decay, fused=device.type != "mps"
    )
    warmup = round(recipe.train.warmup * steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, warmup, steps))
    average = (
        AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema), use_buffers=True) if recipe.ema else None
    )
    share = np.bincount(train.labels) / len(train)
    class_weights = torch.from_numpy(1 / (len(share) * share.clip(min=1e-9))).float()
    loss_of = nn.CrossEntropyLoss(
        class_weights.to(device) if recipe.train.balance == "loss" else None,
        label_smoothing=recipe.train.label_smoothing,
    )

    parts = {"network": network, "optimizer": optimizer, "schedule": schedule}
    if average:
        parts["average"] = average
    past = _restore(kept, key, parts) if kept else []
    if past and label:
        tqdm.write(f"{label}: goes on after epoch {len(past)}/{recipe.epochs} of an interrupted run")
    yield from past

    done = len(past) * steps_an_epoch
    bar = tqdm(total=steps, initial=done, desc=label, unit="batch", leave=False, disable=None if label else True)
    for epoch in range(len(past) + 1, recipe.epochs + 1):
        rng = np.random.default_rng((recipe.seed, epoch))
        augment = draw_augmentation(len(train), recipe.train.dihedral, recipe.train.stain, rng)
        if recipe.train.balance == "sampling":
            chances = (1 / share)[train.labels]
            order = rng.choice(len(train), len(train), p=chances / chances.sum())
        else:
            order = rng.permutation(len(train))
        torch.manual_seed(int(rng.integers(2**63)))  # dropout
        network.train()
        total = 0.0
        for batch in np.array_split(order[: steps_an_epoch * recipe.batch_size], steps_an_epoch):
            own = team.part(batch)
            crops = augment(torch.from_numpy(train.crops[own]).to(device), torch.from_numpy(own))
            with autocast(device, recipe.train.precision):
                logits = network(normalise(crops))
            loss = loss_of(team.gather(logits.float()), labels[batch].to(device))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            lr = optimizer.param_groups[0]["lr"]
            schedule.step()
            if average:
                average.update_parameters(network)
            total += loss.item()
            bar.update()
        current = average.module if average else network
        scores = {"epoch": epoch, "lr": lr, "train_loss": total / steps_an_epoch}
        if validation:
            logits = predict_logits(current, team.part(validation.crops), device, recipe.train.precision)
            scores |= _validate(team.gather(torch.from_numpy(logits).to(device)).cpu().numpy(), validation)
        if label:
            tqdm.write(f"{label}: {describe(scores, recipe.epochs)}")
        weights = {name: value.detach().cpu().clone() for name, value in current.state_dict().items()}
        last = Epoch(epoch, scores, weights)
        if kept:
            past = _keep(kept, key, parts, [*past, last])
        yield last


def _fingerprint(
    network: nn.Module, train: Labelled, validation: Labelled | None, recipe: Recipe, device: torch.device
) -> str:
    """Hash all that a training comes from; the network's repr says what its weights don't, such as dropout."""
    arrays = [value.detach().cpu().numpy() for value in network.state_dict().values()]
    for data in filter(None, (train, validation)):
        arrays += [data.crops, data.labels]
    return fingerprint(arrays, network, recipe, device)


def _restore(kept: Path, key: str, parts: dict[str, Any]) -> list[Epoch]:
    """Put `parts` back to where they were after the last epoch that was kept; return the epochs till then."""
    state = load_state(kept, key)
    if state is None:
        return []
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return [Epoch(**epoch) for epoch in state["epochs"]]


def _keep(kept: Path, key: str, parts: dict[str, Any], epochs: list[Epoch]) -> list[Epoch]:
    """Save where `parts` are; return `epochs` as they were saved: one alone has weights, or the file would be huge."""
    best = min(epochs, key=lambda epoch: epoch.scores.get("validation_loss", -epoch.number))
    epochs = [epoch if epoch is best else replace(epoch, weights={}) for epoch in epochs]
    state = {name: part.state_dict() for name, part in parts.items()}
    save_state(kept, key, state | {"epochs": [vars(epoch) for epoch in epochs]})
    return epochs


def describe(scores: dict[str, float], epochs: int) -> str:
    """Put an epoch's scores into a line."""
    numbers = [f"{name.replace('_', ' ')} {scores[name]:.4f}" for name in scores if name.endswith(("loss", "racy"))]
    return ", ".join([f"epoch {scores['epoch']}/{epochs}", *numbers])


def _rate(step: int, warmup: int, steps: int) -> float:
    """Share of the peak learning rate at `step`: a line up, a cosine down (Loshchilov & Hutter 2017)."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + np.cos(np.pi * (step - warmup) / max(steps - warmup, 1)))


def _validate(logits: np.ndarray, validation: Labelled) -> dict[str, float]:
    """Score logits (N, K) without label smoothing or class weights; infinitely bad where training diverged."""
    if not np.isfinite(logits).all():
        return {"validation_loss": np.inf, "validation_accuracy": 0.0, "validation_balanced_accuracy": 0.0}
    probabilities = torch.from_numpy(logits).double().softmax(dim=1).numpy()
    predicted = logits.argmax(axis=1)
    return {
        "validation_loss": log_loss(validation.labels, probabilities, labels=range(logits.shape[1])),
        "validation_accuracy": accuracy_score(validation.labels, predicted),
        "validation_balanced_accuracy": balanced_accuracy_score(validation.labels, predicted),
    }


def keep_best(epochs: Iterable[Epoch], patience: int) -> tuple[list[dict[str, float]], Epoch]:
    """Return the learning curves and the epoch of the lowest validation loss; stop `patience` epochs after it.

    Raises InputError where training diverged from the start.
    """
    curves, best = [], None
    for epoch in epochs:
        curves.append(epoch.scores)
        if best is None or epoch.scores["validation_loss"] < best.scores["validation_loss"]:
            best = epoch
        if epoch.number - best.number >= patience:
            break
    if best is None or not np.isfinite(best.scores["validation_loss"]):
        raise InputError("training diverged before the end of the first epoch: lower lr (-S lr=0.001)")
    return curves, best
