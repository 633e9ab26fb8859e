"""What raises the score on tissue that the network has not seen.

`python -m benchmarks.studies.generalisation --raw FOLDER [CHANGE ...]`, five minutes for each change on two cores.

A network is trained and measured on every fold of a split by overlap, or by tile or patient where the folder names
those, first as params.yaml says, then with one change at a time. The predictions of all folds are scored together, so
the many tiles of a set all count.
"""

import argparse
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.transforms import v2
from tqdm import tqdm

from benchmarks import baseline
from benchmarks.markdown import markdown_table
from benchmarks.speed.training import config
from benchmarks.studies.accuracy import fold_crops
from benchmarks.studies.changes import BASE, FILTERS, OF_CNN, OF_PRETRAINED, Change, mixed_labels
from benchmarks.studies.rows import describe
from benchmarks.workspace import Workspace, params
from nuclei.crops import FoldedCrops, LabelledCrops
from nuclei.data.unpack import unpack
from nuclei.device import autocast, setup_device
from nuclei.models.backbone import Backbone
from nuclei.models.networks import build
from nuclei.models.predict import predict_logits
from nuclei.models.pretrained import obtain_weights
from nuclei.models.small_cnn import SmallCNN
from nuclei.models.temperature import softmax
from nuclei.models.transforms import draw_augmentation, normalise
from nuclei.task import CLASSES
from nuclei.training.loop import fit


class Setting(NamedTuple):
    """A network, the hyper-parameters that the search finds, about, and what can be changed."""

    shape: SmallCNN | Backbone
    lr: float
    epochs: int
    changes: dict[str, Change]


SETTINGS = {
    "cnn": Setting(SmallCNN(3, FILTERS, (256, 64), params().cnn.dropout), baseline.LR, 8, OF_CNN),
    "lite0": Setting(Backbone(3, "tf_efficientnet_lite0", size=params().resnet.size), 0.004, 3, OF_PRETRAINED),
}
BATCH_SIZE = 32
PRETRAINING_BATCH = 128
CONTRAST = 0.1  # temperature of the contrastive loss
TITLES = ("accuracy", "balanced accuracy")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.generalisation", description=__doc__)
    parser.add_argument("--raw", type=Path, required=True, help="a folder with the four files")
    parser.add_argument("--network", choices=SETTINGS, default="cnn", help="lite0: EfficientNet-Lite0 from ImageNet")
    parser.add_argument("--epochs", type=int, help="default: 8 for the CNN, 3 for EfficientNet-Lite0")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=0, help="of the first weights, and of the order of the crops")
    names = "; ".join(f"{name}: {', '.join(setting.changes)}" for name, setting in SETTINGS.items())
    parser.add_argument("changes", nargs="*", metavar="CHANGE", help=f"default: all. Of {names}")
    options = parser.parse_args()
    setting = SETTINGS[options.network]
    setting = setting._replace(epochs=options.epochs or setting.epochs)
    if unknown := set(options.changes) - setting.changes.keys():
        parser.error(f"no change {min(unknown)!r}: choose from {', '.join(setting.changes)}")
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder), options.device, options.threads)
        unpack(options.raw, workspace.crops, channels=3)
        crops = fold_crops(workspace)
        n_groups = len(np.unique(crops.groups))
        print(f"{len(crops.data):,} crops, {n_groups} groups, {setting.epochs} epochs on all but each fold\n")
        rows, before = [], None
        for name in dict.fromkeys([BASE, *(options.changes or setting.changes)]):
            probabilities = hold_out_each(name, setting, crops, workspace, options.seed)
            *cells, _ = describe(probabilities, before, crops.data.labels, crops.groups, CLASSES)
            rows.append([name, *cells])
            print(", ".join(rows[-1]), file=sys.stderr)  # what is known so far
            before = probabilities if before is None else before
    print(markdown_table(["", *(f"{title}{what}" for what in ("", ", difference") for title in TITLES)], rows))


def hold_out_each(name: str, setting: Setting, crops: FoldedCrops, workspace: Workspace, seed: int) -> np.ndarray:
    """Return probabilities (N, K) of each crop by the network that its fold was held out of."""
    change, device = setting.changes[name], setup_device(workspace.device, workspace.threads)
    train = params().train.model_copy(update=dict(change.train))
    crops = replace(crops, data=LabelledCrops(change.prepare(crops.data.crops), crops.data.labels))
    shape, weights = replace(setting.shape, **change.shape), {}
    if isinstance(shape, Backbone) and change.pretrained:
        folder = Path("data/pretrained")
        weights = obtain_weights("imagenet", folder, shape.backbone, may_go_without=False).tensors
    logits = np.empty((len(crops.data), len(CLASSES)), np.float32)
    for fold in tqdm(crops.held_out, desc=name, unit="fold", leave=False):
        train_set, heldout_set = crops.split(fold)
        train_set = change.extend(train_set, crops.groups[crops.folds != fold])
        weights_seed = 1000 * seed + fold
        torch.manual_seed(weights_seed)  # of layers that a change adds
        network = change.adapt(build(shape, weights_seed)).to(device)
        if weights:
            shape.load_pretrained(network, weights)
        if change.simclr:
            pretrain(network, train_set.crops, max(setting.epochs // 2, 1), device, train.precision)
        train_config = config(len(train_set), change.length * setting.epochs, BATCH_SIZE, seed)
        train_config = replace(train_config, lr=setting.lr, train=train, **change.config)
        with mixed_labels(network):
            list(fit(network, train_set, None, train_config, device))
        logits[crops.folds == fold] = predict_logits(
            network, heldout_set.crops, device, train.precision, params().predict.tta
        )
    return softmax(logits)


def pretrain(network: nn.Sequential, crops: np.ndarray, epochs: int, device: torch.device, precision: str) -> None:
    """Train all before the first fully connected layer: two views of a crop are to look alike, unlike other crops.

    Source: Chen et al. 2020, "A simple framework for contrastive learning of visual representations".
    """
    first = next(index for index, layer in enumerate(network) if isinstance(layer, nn.Linear))
    body = network[:first]
    head = nn.Sequential(nn.Linear(network[first].in_features, 256), nn.ReLU(), nn.Linear(256, 64)).to(device)
    optimizer = torch.optim.AdamW([*body.parameters(), *head.parameters()], baseline.LR, weight_decay=1e-4)
    zoom = v2.RandomResizedCrop(crops.shape[1], scale=(0.4, 1), ratio=(1, 1), antialias=False)
    body.train()
    for epoch in range(epochs):
        rng = np.random.default_rng((0, epoch))
        torch.manual_seed(epoch)
        views = [draw_augmentation(len(crops), dihedral=True, stain=0.4, rng=rng) for _ in range(2)]
        for rows in np.array_split(rng.permutation(len(crops)), max(len(crops) // PRETRAINING_BATCH, 1)):
            batch, of = torch.from_numpy(crops[rows]).to(device), torch.from_numpy(rows)
            with autocast(device, precision):
                points = [head(body(zoom(normalise(view(batch, of).float())))) for view in views]
            loss = contrast(torch.cat(points).float())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()


def contrast(points: Tensor) -> Tensor:
    """NT-Xent: rows (2 N, D), where N and i + N are views of one crop, find each other among all others."""
    points = nn.functional.normalize(points)
    likeness = (points @ points.T / CONTRAST).fill_diagonal_(-torch.inf)
    partner = torch.arange(len(points), device=points.device).roll(len(points) // 2)
    return nn.functional.cross_entropy(likeness, partner)


if __name__ == "__main__":
    main()
