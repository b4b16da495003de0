"""The optimizers of a design, with nothing but the learning rate differing from their usual defaults."""

from collections.abc import Iterable

import torch
from torch import nn

from lit_degrade.stimuli.catalog import OptimizerName


def build_optimizer(name: OptimizerName, parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    """Optimizer by name, without weight decay, so that arms differ in their update rule only."""
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr=lr, weight_decay=0.0)
    if name == "sgd":
        return torch.optim.SGD(parameters, lr=lr)
    if name == "adafactor":
        from transformers import Adafactor

        return Adafactor(parameters, lr=lr, scale_parameter=False, relative_step=False)
    from bitsandbytes.optim import AdamW8bit

    return AdamW8bit(parameters, lr=lr, weight_decay=0.0)
