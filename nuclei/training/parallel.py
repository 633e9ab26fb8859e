"""Several processes that train one network: each takes a part of every batch, and the result is that of one process."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.distributed._functional_collectives import all_reduce  # the one that gradients flow through
from torch.nn import functional


@dataclass(frozen=True)
class Team:
    """The place of this process, `rank`, among `size`. More than one: torch.distributed has to be initialised."""

    rank: int = 0
    size: int = 1

    def part(self, rows: np.ndarray) -> np.ndarray:
        """Return this process's rows, (N / size, ...), of those of all, (N, ...), in their order."""
        return np.array_split(rows, self.size)[self.rank]

    def gather(self, values: Tensor) -> Tensor:
        """Return the rows of all, (N, ...), given those of each process. Gradients flow into one's own."""
        if self.size == 1:
            return values
        mine, n = _place(values)
        everything = values.new_zeros(n, *values.shape[1:])
        everything[mine] = values.detach()
        distributed.all_reduce(everything)
        return torch.cat([everything[: mine.start], values, everything[mine.stop :]])


ALONE = Team()


def unite(network: nn.Module) -> None:
    """Change `network` in place so that all processes together compute what one would with whole batches.

    Batch norm takes its mean and variance over the parts of all, dropout draws for the whole batch, and gradients are
    added up. The names of the weights stay. The loss has to be that of the whole batch, of `Team.gather`'s logits.
    """
    for module in list(network.modules()):
        for name, layer in module.named_children():
            if isinstance(layer, nn.BatchNorm2d):
                united = _BatchNorm(layer.num_features, layer.eps, layer.momentum)
                united.load_state_dict(layer.state_dict())
                setattr(module, name, united)
            elif isinstance(layer, nn.Dropout):
                setattr(module, name, _Dropout(layer.p))
    for weight in network.parameters():
        weight.register_post_accumulate_grad_hook(lambda weight: distributed.all_reduce(weight.grad))


def _place(values: Tensor) -> tuple[slice, int]:
    """Return where this process's rows stand among those of all, and how many all have."""
    counts = torch.zeros(distributed.get_world_size(), dtype=torch.int64, device=values.device)
    rank = distributed.get_rank()
    counts[rank] = len(values)
    distributed.all_reduce(counts)
    stop = int(counts[: rank + 1].sum())
    return slice(stop - len(values), stop), int(counts.sum())


class _BatchNorm(nn.BatchNorm2d):
    """Batch norm over the parts of all processes; PyTorch's own SyncBatchNorm refuses CPUs."""

    def forward(self, inputs: Tensor) -> Tensor:
        if not self.training:
            return super().forward(inputs)
        values = inputs.float()
        own = values.new_tensor([len(values) * values.shape[2] * values.shape[3]])
        *total, n = _sum(torch.cat([values.sum(dim=(0, 2, 3)), own])).split([self.num_features, 1])
        mean = total[0] / n
        centred = values - mean[:, None, None]
        variance = _sum(centred.square().sum(dim=(0, 2, 3))) / n
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * n / (n - 1), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return torch.addcmul(self.bias[:, None, None], centred, scale[:, None, None]).to(inputs.dtype)


class _Dropout(nn.Dropout):
    """Dropout that draws for the whole batch, in every process alike, and uses its own part."""

    def forward(self, inputs: Tensor) -> Tensor:
        if not self.training:
            return inputs
        mine, n = _place(inputs)
        return inputs * functional.dropout(inputs.new_ones(n, *inputs.shape[1:]), self.p)[mine]


def _sum(values: Tensor) -> Tensor:
    return all_reduce(values, "sum", distributed.group.WORLD)
