"""What is classified, by which networks, and what networks and methods are called where people read of them."""

from typing import NamedTuple

HEADING = "Types of nuclei in colon tissue"  # of reports

TISSUE = "H&E-stained colon tissue"  # of the crops

CLASSES = ("normal epithelial", "cancer epithelial", "muscle", "immune leukocyte")

SIDE = 100  # pixels per side of a crop

MPP = 0.25  # microns per pixel of every crop that a network learns from: 40x


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
