"""The baseline: the notebook that the competition started from, written anew from its description.

Every crop is a file that is decoded again in every epoch, by eight worker processes, into batches of 8 in float32.
Validation runs in training mode, the test set is one batch, and occlusion hides one window at a time.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torchvision
from captum.attr import Occlusion
from skimage import io
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import Compose, Normalize, ToTensor

from nuclei.models.transforms import MEAN, STD

BATCH_SIZE = 8
WORKERS = 8
LR = 0.001


class CropFiles(Dataset):
    """A PNG a crop. index: Filename and, if known, Label."""

    def __init__(self, folder: Path, index: pd.DataFrame):
        self.folder, self.names = folder, index["Filename"].tolist()
        self.labels = index["Label"].tolist() if "Label" in index else [0] * len(index)
        self.transform = Compose([ToTensor(), Normalize(MEAN[3], STD[3])])

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return self.transform(io.imread(self.folder / self.names[row])), self.labels[row]


def cnn() -> nn.Module:
    """Four convolutions, two poolings, 20.6 M parameters, nearly all of them in one layer."""
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(64, 128, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(128 * 25 * 25, 256), nn.ReLU(), nn.Dropout(0.5)),
        *(nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 4)),
    )


def resnet18() -> nn.Module:
    """torchvision's, its first convolution replaced by a new 3x3 one without a stride."""
    network = torchvision.models.resnet18(num_classes=4)
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    return network


NETWORKS = {"cnn": cnn, "resnet": resnet18}


def loader(folder: Path, index: pd.DataFrame, shuffle: bool = False) -> DataLoader:
    return DataLoader(CropFiles(folder, index), BATCH_SIZE, shuffle=shuffle, num_workers=WORKERS)


def adam(network: nn.Module, lr: float = LR) -> torch.optim.Optimizer:
    return torch.optim.Adam(network.parameters(), lr)


def train_epoch(network: nn.Module, optimizer: torch.optim.Optimizer, batches: DataLoader, device: str) -> float:
    """Return the mean loss of the batches."""
    network.train()
    total = 0.0
    for images, labels in batches:
        images, labels = images.to(device), labels.to(device)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()
        total += loss.item()
    return total / len(batches)


@torch.no_grad()
def validate(network: nn.Module, batches: DataLoader, device: str) -> float:
    """Return the accuracy, in training mode as the notebook did: batch norm follows the batches, dropout is on."""
    network.train()
    right = 0
    for images, labels in batches:
        predicted = network(images.to(device)).argmax(dim=1)
        right += (predicted == labels.to(device)).sum().item()
    return right / len(batches.dataset)


@torch.no_grad()
def predict(network: nn.Module, folder: Path, index: pd.DataFrame, device: str) -> np.ndarray:
    """Return the class of each crop, all of them one batch."""
    network.eval()
    images = torch.stack([image for image, _ in CropFiles(folder, index)])
    return network(images.to(device)).argmax(dim=1).cpu().numpy()


def occlusion(
    network: nn.Module, images: Tensor, hidden: Tensor, targets: np.ndarray, window: int, stride: int
) -> np.ndarray:
    """Return maps (N, H, W) by Captum as it comes: one window at a time, in float32.

    images, hidden: (N, 3, H, W), the crops and what stands in the windows
    """
    network.eval()
    maps = [
        Occlusion(network).attribute(
            image,
            sliding_window_shapes=(3, window, window),
            strides=(1, stride, stride),
            baselines=colour,
            target=int(target),
        )
        for image, colour, target in zip(images.split(1), hidden.split(1), targets, strict=True)
    ]
    return torch.cat(maps).mean(dim=1).detach().cpu().numpy()
