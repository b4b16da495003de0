"""The optimizers of a design, with nothing but the learning rate differing from their usual defaults."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from lit_degrade.stimuli.catalog import OptimizerName


class MatchedSGD(torch.optim.Optimizer):
    """SGD whose step t has a given length: w <- w - norms[t] g / ‖g‖, over all parameters together.

    It moves along the gradient, as SGD does, and as far as the optimizer that `norms` were measured on; so it does not depend
    on the scale of the loss.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        """`norms` is filled in before the first step."""
        super().__init__(parameters, {})
        self.norms: list[float] = []
        self.steps = 0

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of the length that is due."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        moved = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        gradients = [p.grad for p in moved]
        length = torch.nn.utils.get_total_norm(gradients)
        if length > 0:
            with torch.no_grad():
                torch._foreach_add_(moved, torch._foreach_mul(gradients, -self.norms[self.steps] / length))
        self.steps += 1
        return loss


def build_optimizer(name: OptimizerName, parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    """Optimizer by name, without weight decay, so that arms differ in their update rule only."""
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr=lr, weight_decay=0.0)
    if name == "sgd":
        return torch.optim.SGD(parameters, lr=lr)
    if name == "sgd_matched":
        return MatchedSGD(parameters)
    if name == "adafactor":
        from transformers import Adafactor

        return Adafactor(parameters, lr=lr, scale_parameter=False, relative_step=False)
    from bitsandbytes.optim import AdamW8bit

    return AdamW8bit(parameters, lr=lr, weight_decay=0.0)
