"""AdamW that does not import PyTorch's compiler."""

from inspect import unwrap

import torch
from torch.optim import AdamW


class EagerAdamW(AdamW):
    """`torch.optim.AdamW`, to the bit.

    PyTorch wraps these methods to keep them from being compiled, and imports its compiler for that: one to two seconds
    in every process that trains.
    """

    step = torch.no_grad()(unwrap(AdamW.step))
    add_param_group = unwrap(AdamW.add_param_group)
    zero_grad = unwrap(AdamW.zero_grad)
    state_dict = unwrap(AdamW.state_dict)
    load_state_dict = unwrap(AdamW.load_state_dict)
