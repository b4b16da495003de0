"""The optimizers of a design, with nothing but the learning rate differing from their usual defaults."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from lit_degrade.curvature.catalog import Part
from lit_degrade.curvature.flat_subspace import FlatSubspace
from lit_degrade.curvature.products import length
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


class ProjectedSteps:
    """Steps of any optimizer, confined to a part of weight space: w <- w + (‖Δ‖ / ‖PΔ‖) PΔ for its own step Δ.

    The optimizer sees the whole gradient, at the weights that the projected steps have led to, and its state (moments, step
    count) is that of the whole gradient; only what it does to the weights is projected. So every step is as long as the
    optimizer's own from the same state, and it is the direction that differs between parts.
    """

    def __init__(self, weights: Mapping[str, nn.Parameter], subspace: FlatSubspace, part: Part) -> None:
        """Confine the steps of these matrices, which must be all that moves; a step without anything inside is none."""
        self.weights, self.subspace, self.part = weights, subspace, part
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self.flat_shares: list[float] = []
        """share of the energy of each of the optimizer's own steps that lay in the flat subspace"""
        self.lengths: list[float] = []
        """of the steps"""

    def facts(self) -> dict[str, float]:
        """Columns of the summary."""
        n = len(self.lengths)
        return {"own_step_flat_share": sum(self.flat_shares) / n, "path_length": sum(self.lengths)} if n else {}

    @contextmanager
    def step(self) -> Iterator[None]:
        """Around a step of the optimizer."""
        kept = {name: p.detach().clone() for name, p in self.weights.items()}
        yield
        with torch.no_grad():
            for name, p in self.weights.items():
                p.sub_(kept[name])
            move = {name: p.data for name, p in self.weights.items()}
            own = length(move)
            self.flat_shares.append(self.subspace.project_(move, self.part).flat)
            inside = length(move)
            scale = own / inside if inside > 0 else 0.0
            self.lengths.append(scale * inside)
            for name, p in self.weights.items():
                p.mul_(scale).add_(kept[name])


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
