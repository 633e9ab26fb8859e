"""From crops to network inputs: normalisation, and augmentation of whole batches."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# Of values in [0, 1]. The pretrained network expects these; any fixed ones serve a network trained from scratch.
MEAN = {3: (0.485, 0.456, 0.406), 1: (0.449,)}
STD = {3: (0.229, 0.224, 0.225), 1: (0.226,)}

# Optical density in R, G, B of haematoxylin, eosin and DAB (Ruifrok & Johnston 2001), as in scikit-image.
RGB_FROM_HED = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))


def normalise(crops: Tensor) -> Tensor:
    """Turn crops into what networks take.

    Args:
        crops: uint8 or float32 (N, H, W, C), 0..255.

    Returns:
        float32 (N, C, H, W), of about zero mean and unit variance, channels last in memory.
    """
    n, height, width, channels = crops.shape
    mean, std = (torch.tensor(values[channels], device=crops.device).repeat(width) for values in (MEAN, STD))
    lines = crops.reshape(n, height, width * channels).float()  # long rows: arithmetic on three channels is slow
    return torch.addcmul(-mean / std, lines, 1 / (255 * std)).view(crops.shape).permute(0, 3, 1, 2)


def flip_rotate(crops: Tensor, d4: Tensor) -> Tensor:
    """Apply to each crop one of the eight flips and rotations.

    Args:
        crops: (N, H, H, C).
        d4: int (N,), 0..7: bit 4 swaps rows and columns, then bit 1 flips the rows and bit 2 the columns; 0 leaves
            the crop as it is.

    Returns:
        (N, H, H, C), channels first in memory, where all this is quick.
    """
    planes = crops.permute(0, 3, 1, 2).contiguous()
    turned = torch.empty_like(planes)
    for crop, result, code in zip(planes, turned, d4.tolist(), strict=True):
        upright = crop.transpose(1, 2) if code & 4 else crop
        result.copy_(upright.flip([axis for axis, bit in ((1, 1), (2, 2)) if code & bit]))
    return turned.permute(0, 2, 3, 1)


def stain_jitter(crops: Tensor, factors: Tensor, shifts: Tensor) -> Tensor:
    """Change how strongly each crop is stained.

    Args:
        crops: uint8 (N, H, W, C).
        factors: float32 (N, 3), what the optical densities of haematoxylin, eosin and the residual are multiplied by;
            ones change nothing. Grey crops use the first of the three.
        shifts: float32 (N, 3), what is added to them; zeros change nothing.

    Returns:
        float32 (N, H, W, C), 0..255, not rounded.

    Source: Tellez et al. 2018, "Whole-slide mitosis detection in H&E breast histology", stain augmentation.
    """
    n, height, width, channels = crops.shape
    if channels == 3:
        from_hed = torch.tensor(RGB_FROM_HED, dtype=torch.float32, device=crops.device)
        mixing = torch.linalg.inv(from_hed) @ (factors.unsqueeze(-1) * from_hed)
        offset = shifts @ from_hed
    else:
        mixing, offset = factors[:, :1].unsqueeze(-1), shifts[:, :1]
    # All in powers of two, 256 * 2^-density = 2^(8 - density): a shorter way, and 2^x is the fastest power.
    log_of_level = torch.arange(1, 257, device=crops.device).log2()
    planes = crops.permute(0, 3, 1, 2).reshape(n, channels, -1)  # one small matrix by one long one, not the other way
    logs = log_of_level.index_select(0, planes.flatten().int()).view(planes.shape)
    rest = 8 - 8 * mixing.sum(dim=1) - offset / math.log(2)
    logs = torch.baddbmm(rest.unsqueeze(2), mixing.transpose(1, 2), logs)
    return logs.clamp_(0, 8).exp2_().sub_(1).view(n, channels, height, width).permute(0, 2, 3, 1)


@dataclass(frozen=True)
class Augmentation:
    """What happens to each of N crops in one epoch.

    Attributes:
        d4: int64 (N,), 0..7, see `flip_rotate`.
        factors: float32 (N, 3), see `stain_jitter`.
        shifts: float32 (N, 3), see `stain_jitter`.
    """

    d4: Tensor
    factors: Tensor
    shifts: Tensor

    def __call__(self, crops: Tensor, rows: Tensor) -> Tensor:
        """Change a batch.

        Args:
            crops: uint8 (B, H, H, C).
            rows: int64 (B,), which of the N crops these are.

        Returns:
            uint8 or, with jitter, float32 (B, H, H, C), 0..255.
        """
        crops = flip_rotate(crops, self.d4[rows])
        if self.factors.eq(1).all() and self.shifts.eq(0).all():
            return crops
        return stain_jitter(crops, self.factors[rows].to(crops.device), self.shifts[rows].to(crops.device))


def draw_augmentation(n: int, dihedral: bool, stain: float, rng: np.random.Generator) -> Augmentation:
    """Draw one epoch's changes of all crops at once: they don't depend on batches, workers or devices.

    Args:
        n: Number of crops.
        dihedral: Whether crops are flipped and rotated.
        stain: Strength in [0, 1]: factors in 1 +- stain, shifts in +- stain / 2 (optical density).
        rng: What is drawn from.
    """
    return Augmentation(
        d4=torch.from_numpy(rng.integers(0, 8, n)) if dihedral else torch.zeros(n, dtype=torch.int64),
        factors=torch.from_numpy(rng.uniform(1 - stain, 1 + stain, (n, 3)).astype(np.float32)),
        shifts=torch.from_numpy(rng.uniform(-stain / 2, stain / 2, (n, 3)).astype(np.float32)),
    )
