"""The network that may start from pretrained weights: ResNet18, or any image classifier that timm has."""

from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor, nn

from nuclei.errors import InputError
from nuclei.models.adapted import Adapted, feature_maps, import_timm
from nuclei.models.resnet import ResNet, load_resnet
from nuclei.models.transforms import MEAN
from nuclei.params import RESNET18, Params
from nuclei.task import CLASSES, Task


@dataclass(frozen=True)
class Backbone:
    """A network with a last layer for these classes.

    Attributes:
        channels: 1 or 3.
        backbone: resnet18 (He et al. 2016), or what timm calls it.
        stem: Of ResNet18: "pretrained" (7x7 at stride 2, then max pooling), "no_pool" (without the pooling), or "small"
            (3x3 at stride 1, no pooling: cannot use pretrained weights in its first layer).
        size: Pixels per side that crops are resized to; None: as they are, where the network takes them.
        frozen: Share of the layers, from the first, that keep their pretrained weights, in [0, 1].
        classes: Number of classes.
    """

    channels: int
    backbone: str = RESNET18
    stem: str = "pretrained"
    size: int | None = None
    frozen: float = 0.0
    classes: int = len(CLASSES)

    def __post_init__(self) -> None:
        if self.channels not in MEAN or self.stem not in ("pretrained", "no_pool", "small"):
            raise ValueError("a backbone has 1 or 3 channels and a stem that is pretrained, no_pool or small")
        if not 0 <= self.frozen <= 1 or not (self.size is None or 16 <= self.size <= 1024):
            raise ValueError("a backbone is frozen by 0 to 1 and takes 16 to 1024 pixels")

    @classmethod
    def from_params(cls, params: Params, task: Task, tuned: dict[str, Any]) -> Self:
        """See `Architecture`."""
        shape = params.resnet
        return cls(params.data.channels, shape.backbone, shape.stem, shape.size, shape.frozen, len(task.classes))

    @staticmethod
    def search_space(params: Params) -> dict[str, list[int]]:
        """See `Architecture`."""
        return {}

    def build(self) -> nn.Module:
        """See `Architecture`."""
        if self.backbone != RESNET18:
            return self._build_timm()
        network = ResNet(self.classes, self.channels, self.stem)
        if self.size is None and not self.frozen:
            return network
        return Adapted(network, network.fc, None, self.size, self.frozen)

    def _build_timm(self) -> nn.Module:
        timm = import_timm(self.backbone)
        config = timm.get_pretrained_cfg(self.backbone)
        size = self.size or (config.input_size[-1] if config.fixed_input_size else None)
        fixed = {"img_size": size} if config.fixed_input_size else {}
        network = timm.create_model(self.backbone, num_classes=self.classes, in_chans=self.channels, **fixed)
        classifier = network.get_classifier()
        if not isinstance(classifier, nn.Linear):
            raise InputError(f"resnet.backbone: {self.backbone} has no linear classifier: choose another")
        values = (config.mean, config.std) if self.channels == 3 else ((sum(config.mean) / 3,), (sum(config.std) / 3,))
        return Adapted(network, classifier, values, size, self.frozen)

    def load_pretrained(self, network: nn.Module, weights: dict[str, Tensor]) -> None:
        """See `Architecture`.

        One input channel gets the sum of the three channels' weights: nearly the same answer for the same grey in all
        three. A "small" stem keeps its random first convolution.
        """
        inner = network.network if isinstance(network, Adapted) else network
        if self.backbone == RESNET18:
            load_resnet(inner, weights)
            return
        config: Any = inner.pretrained_cfg
        expected, matched = inner.state_dict(), dict(weights)
        for name in expected:
            if name.startswith(f"{config['classifier']}."):
                matched[name] = expected[name]
            elif name == f"{config['first_conv']}.weight" and self.channels == 1 and name in matched:
                matched[name] = matched[name].sum(dim=1, keepdim=True)
        try:
            inner.load_state_dict({name: matched[name] for name in expected})
        except (KeyError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"pretrained weights: not those of {self.backbone} ({reason})") from None

    def cam_layer(self, network: nn.Module) -> nn.Module:
        """See `Architecture`: the last feature maps of at most 8 pixels per cell; later ones cannot resolve a nucleus.

        Of a network without feature maps, such as a vision transformer, or whose maps have their channels last, such as
        Swin, this is the network itself.
        """
        inner = network.network if isinstance(network, Adapted) else network
        if self.backbone == RESNET18:
            return inner.get_submodule("layer2" if self.stem == "pretrained" else "layer3")
        return feature_maps(inner) or network
