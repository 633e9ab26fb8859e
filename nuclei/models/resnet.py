"""ResNet18 (He et al. 2016).

The layers, their names and their first weights are torchvision's; importing torchvision takes as long as torch itself.
"""

from torch import Tensor, nn

from nuclei.errors import InputError


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut; the first may halve the height and the width."""

    def __init__(self, channels: int, filters: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, filters, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(filters)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(filters, filters, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(filters)
        self.downsample = None
        if stride > 1:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, filters, 1, stride, bias=False), nn.BatchNorm2d(filters)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Compute float32 (N, filters, H / stride, W / stride) from float32 (N, channels, H, W)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))) + shortcut)


class ResNet(nn.Sequential):
    """ResNet18's layers: float32 (N, channels, H, W) to logits (N, classes); see `Backbone` for the stem."""

    def __init__(self, classes: int, channels: int = 3, stem: str = "pretrained"):
        super().__init__()
        kernel, stride, padding = (3, 1, 1) if stem == "small" else (7, 2, 3)
        self.conv1 = nn.Conv2d(channels, 64, kernel, stride, padding, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool: nn.Module = nn.MaxPool2d(3, stride=2, padding=1) if stem == "pretrained" else nn.Identity()
        self.layer1 = nn.Sequential(BasicBlock(64, 64, 1), BasicBlock(64, 64, 1))
        self.layer2 = nn.Sequential(BasicBlock(64, 128, 2), BasicBlock(128, 128, 1))
        self.layer3 = nn.Sequential(BasicBlock(128, 256, 2), BasicBlock(256, 256, 1))
        self.layer4 = nn.Sequential(BasicBlock(256, 512, 2), BasicBlock(512, 512, 1))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(512, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and not module.weight.is_meta:  # on meta it takes seconds of imports
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def load_resnet(network: nn.Module, weights: dict[str, Tensor]) -> None:
    """Fill a ResNet with pretrained weights, apart from its last layer.

    One input channel gets the sum of the three channels' weights; a "small" stem keeps its random first convolution.

    Args:
        network: What is filled.
        weights: By name, as torchvision names them.

    Raises:
        InputError: They do not fit.
    """
    expected = network.state_dict()
    matched = {name: value for name, value in weights.items() if not name.startswith("fc.")}
    if expected["conv1.weight"].shape[-1] != 7:
        matched["conv1.weight"] = expected["conv1.weight"]
    elif expected["conv1.weight"].shape[1] == 1 and "conv1.weight" in matched:
        matched["conv1.weight"] = matched["conv1.weight"].sum(dim=1, keepdim=True)
    for name, value in expected.items():
        if name.startswith("fc.") or name.endswith("num_batches_tracked"):  # torchvision's file holds no counts
            continue
        if name not in matched:
            raise InputError(f"pretrained weights: {name} is missing")
        if matched[name].shape != value.shape:
            raise InputError(f"pretrained weights: {name} is {tuple(matched[name].shape)}, not {tuple(value.shape)}")
    network.load_state_dict(matched, strict=False)
