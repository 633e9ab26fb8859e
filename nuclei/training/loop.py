"""One training loop for every network."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from nuclei.crops import LabelledCrops
from nuclei.device import autocast
from nuclei.models.networks import shift_logits
from nuclei.models.predict import predict_logits
from nuclei.models.transforms import draw_augmentation, normalise
from nuclei.params import Train
from nuclei.training.optimizer import EagerAdamW
from nuclei.training.state import fingerprint, pack, unpack


@dataclass(frozen=True)
class TrainConfig:
    """How one network is trained.

    Attributes:
        lr: Peak learning rate.
        batch_size: Crops per step.
        steps: Optimizer steps, the whole schedule.
        seed: Of everything that is drawn at random.
        ema: Decay per step of the moving average of the weights, in [0, 1); 0: no average.
        train: What all networks share.
    """

    lr: float
    batch_size: int
    steps: int
    seed: int
    ema: float
    train: Train


class Epoch(NamedTuple):
    """What an epoch came to.

    Attributes:
        scores: A row of the learning curves: epoch (from 1), lr, train_loss and, with held-out crops, heldout_loss,
            heldout_accuracy, heldout_balanced_accuracy.
        state: What `fit` can go on from; empty where it was not asked for.
        resumed: Whether it is an epoch of the interrupted run that this one goes on from.
    """

    scores: dict[str, float]
    state: bytes
    resumed: bool = False


def training_steps(crops: int, batch_size: int, epochs: float) -> int:
    """Return how many optimizer steps a training takes, 1 or more; crops that fill no batch are dropped.

    Args:
        crops: Number of crops.
        batch_size: Crops per step.
        epochs: Passes over the crops, above 0; may be a fraction.
    """
    return max(round(epochs * max(crops // batch_size, 1)), 1)


def fit(
    network: nn.Module,
    train_set: LabelledCrops,
    heldout_set: LabelledCrops | None,
    config: TrainConfig,
    device: torch.device,
    resume_from: bytes | None = None,
) -> Iterator[Epoch]:
    """Train `network` in place to the end of its schedule and yield every epoch.

    AdamW; the learning rate rises linearly, then falls as a cosine to zero. Everything random comes from (seed, epoch),
    so neither batches nor devices change what is drawn. Once all epochs are taken, `network` holds the averaged weights
    where there is an average, and its logits are those of the class frequencies in `train_set`, whatever
    `train.balance` did.

    Args:
        network: On any device.
        train_set: What it learns from.
        heldout_set: Scored after every epoch, in evaluation mode and without augmentation; nothing is chosen on it.
        config: How.
        device: What computes.
        resume_from: The state of an earlier epoch, or what is no such state, which is passed over; None: no states are
            yielded.

    Yields:
        Every epoch, those before `resume_from` too.
    """
    network.to(device)
    labels = torch.from_numpy(train_set.labels)
    steps_per_epoch = max(len(train_set) // config.batch_size, 1)
    optimizer = EagerAdamW(
        network.parameters(), config.lr, weight_decay=config.train.weight_decay, fused=device.type != "mps"
    )
    warmup = round(config.train.warmup * config.steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_factor(step, warmup, config.steps))
    average = (
        AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(config.ema), use_buffers=True) if config.ema else None
    )
    share = np.bincount(train_set.labels, minlength=len(train_set.task.classes)) / len(train_set)
    weights = 1 / share.clip(min=1e-9) if config.train.balance == "loss" else np.ones(len(share))
    class_weights = torch.from_numpy(weights).float().to(device)
    # A balanced network learns that all classes are equally frequent, and is corrected (Saerens et al. 2002, eq. 4).
    offsets = np.log(len(share) * share.clip(min=1e-9)) if config.train.balance != "none" else np.zeros(len(share))
    stateful: dict[str, Any] = {"network": network, "optimizer": optimizer, "schedule": schedule}
    stateful |= {"average": average} if average else {}
    key = "" if resume_from is None else _fingerprint(network, train_set, heldout_set, config, device)
    state = unpack(resume_from, key) if resume_from else None
    if resume_from and state:
        for name, item in stateful.items():
            item.load_state_dict(state[name])
        for scores in state["epochs"]:
            yield Epoch(scores, resume_from if scores is state["epochs"][-1] else b"", resumed=True)
    curves: list[dict[str, float]] = state["epochs"] if state else []
    precision = training_precision(network, device, config.train.precision)

    epochs = -(-config.steps // steps_per_epoch)
    for epoch in range(len(curves) + 1, epochs + 1):
        rng = np.random.default_rng((config.seed, epoch))
        order = _draw_order(train_set.labels, share, config.train.balance, rng)
        augment = draw_augmentation(len(order), config.train.dihedral, config.train.stain, rng)
        torch.manual_seed(int(rng.integers(2**63)))  # dropout
        network.train()
        batches = np.array_split(np.arange(steps_per_epoch * config.batch_size)[: len(order)], steps_per_epoch)
        batches = batches[: config.steps - (epoch - 1) * steps_per_epoch]
        total = 0.0
        for positions in batches:
            rows = order[positions]
            crops = augment(torch.from_numpy(train_set.crops[rows]).to(device), torch.from_numpy(positions))
            with autocast(device, precision):
                logits = network(normalise(crops))
            loss = _mean_loss(logits.float(), labels[rows].to(device), class_weights, config.train.label_smoothing)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            lr = optimizer.param_groups[0]["lr"]
            schedule.step()
            if average:
                average.update_parameters(network)
            total += loss.item()
        current = average.module if average else network
        scores = {"epoch": epoch, "lr": lr, "train_loss": total / len(batches)}
        if heldout_set:
            logits = predict_logits(current, heldout_set.crops, device, config.train.precision)
            scores |= score_heldout(logits + offsets, heldout_set.labels)
        curves = [*curves, scores]
        if resume_from is not None:
            packed = pack(key, {name: item.state_dict() for name, item in stateful.items()} | {"epochs": curves})
        yield Epoch(scores, packed if resume_from is not None else b"")
    if average:
        network.load_state_dict(average.module.state_dict())
    if config.train.balance != "none":
        shift_logits(network, torch.from_numpy(offsets))


def training_precision(network: nn.Module, device: torch.device, precision: str) -> str:
    """Choose the number format that a network trains in.

    Args:
        network: The one to train.
        device: What computes.
        precision: As in `nuclei.device.autocast`.

    Returns:
        `precision`; but for auto float32, where a CPU computes gradients of depthwise convolutions: in bfloat16 they
        take four times as long.
    """
    depthwise = any(isinstance(layer, nn.Conv2d) and layer.groups > 1 for layer in network.modules())
    return "float32" if precision == "auto" and device.type == "cpu" and depthwise else precision


def lr_factor(step: int, warmup: int, steps: int) -> float:
    """Return the share of the peak learning rate, in [0, 1]: a line up, a cosine down (Loshchilov & Hutter 2017).

    Args:
        step: From 0.
        warmup: Steps in which it rises.
        steps: In all.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + np.cos(np.pi * (step - warmup) / max(steps - warmup, 1)))


def score_heldout(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Score held-out crops without label smoothing or class weights.

    Args:
        logits: float (N, K); where any is not finite, training diverged, and the loss is infinite.
        labels: int64 (N,).

    Returns:
        heldout_loss in nats; heldout_accuracy, heldout_balanced_accuracy in [0, 1].
    """
    if not np.isfinite(logits).all():
        return {"heldout_loss": np.inf, "heldout_accuracy": 0.0, "heldout_balanced_accuracy": 0.0}
    correct, crops = logits.argmax(axis=1) == labels, np.bincount(labels)
    recalls = (np.bincount(labels, correct) / crops.clip(min=1))[crops > 0]
    return {
        "heldout_loss": float(cross_entropy(torch.from_numpy(logits).double(), torch.from_numpy(labels))),
        "heldout_accuracy": float(correct.mean()),
        "heldout_balanced_accuracy": float(recalls.mean()),
    }


def _mean_loss(logits: Tensor, labels: Tensor, class_weights: Tensor, label_smoothing: float) -> Tensor:
    """Return the mean cross-entropy of a batch; PyTorch would weigh the smoothing by class too, to the rare one's good.

    Args:
        logits: float32 (N, K).
        labels: int64 (N,).
        class_weights: float32 (K,), of each crop's label.
        label_smoothing: Share of each label that all classes have in common.
    """
    weights = class_weights[labels]
    losses = cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)
    return (weights * losses).sum() / weights.sum()


def _draw_order(labels: np.ndarray, share: np.ndarray, balance: str, rng: np.random.Generator) -> np.ndarray:
    """Draw the rows of an epoch, int (N,); sampling: each class equally often, rare ones repeatedly."""
    if balance == "sampling":
        weights = (1 / share.clip(min=1e-9))[labels]
        return rng.choice(len(labels), len(labels), p=weights / weights.sum())
    return rng.permutation(len(labels))


def _fingerprint(
    network: nn.Module,
    train_set: LabelledCrops,
    heldout_set: LabelledCrops | None,
    config: TrainConfig,
    device: torch.device,
) -> str:
    """Hash all that a training comes from; the network's repr says what its weights don't, such as dropout."""
    arrays: list[Any] = [value.detach().cpu().numpy() for value in network.state_dict().values()]
    for data in filter(None, (train_set, heldout_set)):
        arrays += [data.crops, data.labels]
    return fingerprint(arrays, network, config, device)


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    """Return a copy of all weights and buffers, on the CPU."""
    return {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
