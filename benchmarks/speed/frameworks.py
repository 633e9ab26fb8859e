"""The ResNet18 training epoch by frameworks that a user might take instead, set up as their manuals say.

The same images as a folder a class, the same batch size, the fastest precision that each offers on the device.
They are installed by `uv run --group bench`; what is not there is left out.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Event

import torch
import torchvision
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import Compose, Normalize, RandomHorizontalFlip, RandomVerticalFlip, ToTensor

from benchmarks.measure import Implementation, Workload
from benchmarks.speed.training import BATCH_SIZE
from benchmarks.workspace import Workspace
from nuclei.device import computes_bfloat16, setup_device
from nuclei.models.transforms import MEAN, STD


def lightning(workspace: Workspace) -> Workload:
    """Lightning: ImageFolder, a worker a thread, bf16-mixed where the device computes in it, channels last."""
    import lightning as L  # noqa: N812 (as everybody calls it)

    device = setup_device(workspace.device, workspace.threads)

    class Classifier(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = torchvision.models.resnet18(num_classes=4).to(memory_format=torch.channels_last)

        def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
            images, labels = batch
            return nn.functional.cross_entropy(self.network(images), labels)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=0.001)

    flips = RandomHorizontalFlip(), RandomVerticalFlip()
    images = ImageFolder(
        _folder_a_class(workspace) / "train", Compose([*flips, ToTensor(), Normalize(MEAN[3], STD[3])])
    )
    batches = DataLoader(images, BATCH_SIZE, shuffle=True, num_workers=workspace.threads, drop_last=True)
    network = Classifier()

    def train(batches: DataLoader) -> None:
        L.Trainer(
            max_epochs=1,
            accelerator={"cuda": "gpu"}.get(device.type, device.type),
            devices=1,
            precision="bf16-mixed" if computes_bfloat16(device) else "32-true",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        ).fit(network, batches)

    train(DataLoader(torch.utils.data.Subset(images, range(2 * BATCH_SIZE)), BATCH_SIZE))

    def run() -> int:
        train(batches)
        return len(batches) * BATCH_SIZE

    return Workload(run)


class _EpochDoneError(Exception):
    """Ends Ultralytics' training: its validation and checkpoints are not what is measured."""


def ultralytics(workspace: Workspace) -> Workload:
    """Ultralytics' classification trainer with its ResNet18, crops cached in memory; it has bf16 on CUDA alone."""
    os.environ |= {"YOLO_OFFLINE": "true", "YOLO_CONFIG_DIR": str(workspace.folder), "YOLO_VERBOSE": "false"}
    from ultralytics import YOLO

    device = setup_device(workspace.device, workspace.threads)
    # As Ultralytics' yolo11-cls-resnet18.yaml, but from random weights: those would have to be downloaded.
    layout = workspace.folder / "yolo11-cls-resnet18.yaml"
    layout.write_text(
        "nc: 4\nbackbone: [[-1, 1, TorchVision, [512, resnet18, null, True, 2]]]\nhead: [[-1, 1, Classify, [nc]]]\n"
    )
    data = _folder_a_class(workspace)
    options = {
        "data": str(data),
        "project": str(workspace.folder / "ultralytics"),
        "imgsz": 100,
        "batch": BATCH_SIZE,
        "workers": workspace.threads,
        "device": device.type,
        "amp": "bf16" if device.type == "cuda" else False,
        **{"epochs": 1, "cache": "ram", "optimizer": "AdamW", "val": False, "plots": False, "pretrained": False},
    }
    ready, go = Event(), Event()

    def at_start(_: object) -> None:
        ready.set()
        go.wait()

    def at_end(_: object) -> None:
        raise _EpochDoneError

    model = YOLO(layout, task="classify")
    model.add_callback("on_train_epoch_start", at_start)
    model.add_callback("on_train_epoch_end", at_end)
    training = ThreadPoolExecutor(1).submit(model.train, **options)  # waits at the start of its epoch
    while not ready.wait(1):
        if training.done():
            training.result()  # raises what went wrong

    def run() -> int:
        go.set()
        with suppress(_EpochDoneError):
            training.result()
        return len(workspace.index("train"))

    return Workload(run)


def _folder_a_class(workspace: Workspace) -> Path:
    """Link the training crops as train/<label>/<name>, and one of each class as val."""
    folder = workspace.folder / "classes"
    if not folder.exists():
        for label, rows in workspace.index("train").groupby("Label"):
            for part, chosen in (("train", rows), ("val", rows[:1])):
                (folder / part / str(label)).mkdir(parents=True)
                for name in chosen["Filename"]:
                    (folder / part / str(label) / name).hardlink_to(workspace.png / "train" / name)
    return folder


IMPLEMENTATIONS: dict[str, Implementation] = {"lightning": lightning, "ultralytics": ultralytics}
