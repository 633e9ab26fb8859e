"""What is classified, by which networks, and what networks and methods are called where people read of them."""

import json
from pathlib import Path
from typing import NamedTuple

# The competition's, and the built-in sample's.
CLASSES = ("normal epithelial", "cancer epithelial", "muscle", "immune leukocyte")
SIDE = 100  # pixels per side of a crop
MPP = 0.25  # microns per pixel: 40x


MOST_CLASSES = 32
LONGEST_CLASS = 60  # characters


class Task(NamedTuple):
    """What networks learn to tell apart, and in what kind of crops.

    Attributes:
        classes: Names, in the order of the labels.
        side: Pixels per side of a crop.
        mpp: Microns per pixel of a crop.
    """

    classes: tuple[str, ...] = CLASSES
    side: int = SIDE
    mpp: float = MPP


COLON = Task()


def is_class_name(text: str) -> bool:
    """Whether a text can be the name of a class; a number would be a label, and semicolons stand between names."""
    fits = 0 < len(text) <= LONGEST_CLASS and text == text.strip() and text.isprintable()
    return fits and ";" not in text and not text.isdecimal()


def read_task(folder: Path) -> Task:
    """Read what the stage `unzip` wrote beside the crops in `folder`."""
    values = json.loads((folder / "task.json").read_text())
    return Task(tuple(values["classes"]), values["side"], values["mpp"])


class NetworkEntry(NamedTuple):
    """A network of the pipeline.

    Attributes:
        title: What it is called in figures, tables and prose.
        architecture: Module and name of its `Architecture` (see `nuclei.models.networks`), imported when needed.
        training: Name of the section of params.yaml that says how it is trained.
        pretrained: Whether it starts from the weights that the stage `weights` brings.
    """

    title: str
    architecture: str
    training: str
    pretrained: bool


# Every network of the pipeline: what is listed here is tuned, trained, evaluated and reported.
NETWORKS = {
    "cnn": NetworkEntry("CNN", "nuclei.models.small_cnn.SmallCNN", "train_cnn", pretrained=False),
    "resnet": NetworkEntry("ResNet18", "nuclei.models.backbone.Backbone", "train_resnet", pretrained=True),
}


def method_title(method: str) -> str:
    """Return the name of a method or a baseline of the explanations as text: occlusion 20 for occlusion_20."""
    names = {"gradient_shap": "GradientSHAP", "layer_cam": "LayerCAM"}
    return names.get(method, method.replace("_", " "))
