"""A small CNN that is trained from scratch."""

from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor, nn

from nuclei.models.transforms import MEAN
from nuclei.params import Params
from nuclei.task import CLASSES, SIDE, Task

SHRINKING = 32  # pixels per cell of the last feature map: a stride and four poolings, each of which halves


@dataclass(frozen=True)
class SmallCNN:
    """Four convolutions with batch norm and max pooling, two fully connected layers, a linear classifier.

    Attributes:
        channels: 1 or 3.
        filters: Of the four convolutions.
        widths: Of the two fully connected layers.
        dropout: Share of the last hidden layer's values that are dropped in training, in [0, 1).
        classes: Number of classes.
        side: Pixels per side of a crop, at least 32.
    """

    channels: int
    filters: tuple[int, int, int, int]
    widths: tuple[int, int]
    dropout: float
    classes: int = len(CLASSES)
    side: int = SIDE

    def __post_init__(self) -> None:
        sizes = (self.channels in MEAN, len(self.filters) == 4, len(self.widths) == 2)
        if not (all(sizes) and 0 <= self.dropout < 1 and SHRINKING <= self.side <= 1024):
            raise ValueError(
                "a SmallCNN has 1 or 3 channels, 4 filters, 2 widths, dropout below 1, a side of 32 to 1024"
            )

    @classmethod
    def from_params(cls, params: Params, task: Task, tuned: dict[str, Any]) -> Self:
        """See `Architecture`."""
        first, second, third, fourth = params.cnn.filters
        widths = (tuned["width_1"], tuned["width_2"])
        filters = (first, second, third, fourth)
        return cls(params.data.channels, filters, widths, params.cnn.dropout, len(task.classes), task.side)

    @staticmethod
    def search_space(params: Params) -> dict[str, list[int]]:
        """See `Architecture`."""
        return {"width_1": params.tune.widths, "width_2": params.tune.widths}

    def build(self) -> nn.Module:
        """See `Architecture`."""
        layers: list[nn.Module] = []
        inputs = self.channels
        for i, outputs in enumerate(self.filters):
            # A stride in the first layer costs no accuracy here and makes all that follows four times cheaper.
            kernel, stride = (5, 2) if i == 0 else (3, 1)
            convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
            layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]
            inputs = outputs
        first, second = self.widths
        return nn.Sequential(
            *layers,
            nn.Flatten(),  # no global pooling: the middle, where the nucleus is, stays apart from its surroundings
            nn.Linear((self.side // SHRINKING) ** 2 * inputs, first),
            nn.ReLU(),
            nn.Linear(first, second),
            nn.ReLU(),
            nn.Dropout(self.dropout),
            nn.Linear(second, self.classes),
        )

    def load_pretrained(self, network: nn.Module, weights: dict[str, Tensor]) -> None:
        """See `Architecture`; there are no pretrained weights of this network."""
        raise NotImplementedError("a SmallCNN is trained from scratch")

    def cam_layer(self, network: nn.Module) -> nn.Module:
        """See `Architecture`: what the third convolution leaves, before it is pooled, at 8 pixels per cell."""
        return list(network.children())[10]
