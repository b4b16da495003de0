"""Training steps of a subject: the same ones whatever it is trained on."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from lit_degrade.errors import Diverged
from lit_degrade.modules.base import SubjectModule
from lit_degrade.modules.optimizers import ProjectedSteps, build_optimizer
from lit_degrade.stimuli.catalog import OptimizerName

FP16_LOSS_SCALE = 1024.0
"""Keeps small gradients above float16's underflow; a power of two, so that scaling and unscaling are exact."""


class TrainingModule(SubjectModule):
    """A run that changes its subject. What builds on this sets `optimizer` and `lr`, and says what the `loss` of a batch is."""

    optimizer: OptimizerName
    lr: float
    projected: ProjectedSteps | None = None
    """what confines the steps, if anything"""

    def loss(self, batch: Any) -> Tensor:
        """Mean negative log-likelihood of a batch [nats/token]."""
        raise NotImplementedError

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimizer asked for, over everything that may change."""
        return build_optimizer(self.optimizer, self.subject.trainable().values(), self.lr)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Mean negative log-likelihood of the batch [nats/token].

        Raises: Diverged when it is not finite.
        """
        with self.subject.autocast():
            loss = self.loss(batch)
        if not torch.isfinite(loss):
            raise Diverged(self.global_step, "training loss")
        self.log_step("train_nats_per_token", loss.item())
        return loss if self.loss_scale == 1.0 else loss * self.loss_scale

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """One step, forward and backward passes included, confined to a part of weight space where one is asked for."""
        with self.confined():
            super().optimizer_step(*args, **kwargs)

    def confined(self) -> AbstractContextManager[None]:
        """Around a step of an optimizer."""
        return self.projected.step() if self.projected else nullcontext()

    @property
    def loss_scale(self) -> float:
        """What the loss is multiplied with before the backward pass, and the gradient divided by after it."""
        return FP16_LOSS_SCALE if self.subject.autocast_dtype == torch.float16 else 1.0

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Undo the loss scale; gradient clipping comes after this."""
        self.unscale(self.global_step)

    def unscale(self, step: int) -> None:
        """Undo the loss scale, and look at the gradient where no later loss would tell: in float16 and at the last step.

        Raises: Diverged when a gradient is not finite.
        """
        last = step + 1 == self.trainer.max_steps
        if self.loss_scale == 1.0 and not last:
            return
        gradients = [p.grad for p in self.subject.trainable().values() if p.grad is not None]
        if not torch.isfinite(torch.nn.utils.get_total_norm(gradients)):
            raise Diverged(step, "gradient")
        torch._foreach_div_(gradients, self.loss_scale)
