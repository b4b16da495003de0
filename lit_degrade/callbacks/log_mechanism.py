"""How an optimizer digests a stimulus: step lengths, energy by subspace, second moments, rotation."""

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from lit_degrade.curvature.products import Tensors, flatten, unflatten
from lit_degrade.measures.updates import StepLength, amplification, median_rotation, second_moment_along
from lit_degrade.modules.attack import AttackModule


class LogMechanism(pl.Callback):
    """Measure what the published mechanism is about, so that it need not be assumed.

    `update_energy_null` and `update_energy_signal` are shares of the whole displacement; `first_update_energy_*` those of the
    first step, and `amplification` compares them with the first gradient's: A = ((1 - E_V) / E_V) of the update over that of
    the gradient, and `amplification_null` the same with E_U / E_V. `second_moment_ratio` is the mean square of the gradient
    along the signal subspace over that along the null space: what an adaptive optimizer divides by. `rotation_weights` is the
    median over block matrices of the sine of the largest angle between their top-10 singular subspaces before and after. Where
    the null space is the flat subspace, which has no signal subspace beside it, what is about that is left out.
    """

    def on_fit_start(self, trainer: pl.Trainer, pl_module: AttackModule) -> None:  # type: ignore[override]
        """Keep the intact weights that the null space is taken over."""
        self.named = pl_module.null_parameters
        self.intact = {name: p.detach().cpu().clone() for name, p in self.named.items()}
        self.length = StepLength(pl_module.subject.trainable().values())
        self.lengths: list[float] = []
        self.first_gradient: Tensor | None = None
        self.squares = torch.zeros(sum(p.numel() for p in self.named.values()))

    def on_before_optimizer_step(  # type: ignore[override]
        self, trainer: pl.Trainer, pl_module: AttackModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Keep the weights, and add up the gradient's squares."""
        gradient = flatten({name: p.grad for name, p in self.named.items() if p.grad is not None}).cpu()
        gradient /= pl_module.loss_scale
        if self.first_gradient is None:
            self.first_gradient = gradient
        self.squares += gradient.square()
        self.length.keep()

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: pl.Trainer, pl_module: AttackModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure the step."""
        self.lengths.append(self.length.measure())
        pl_module.log_step("update_norm", self.lengths[-1])
        if len(self.lengths) == 1:
            assert self.first_gradient is not None
            gradient = unflatten(self.first_gradient, self.intact)
            update, first = (self._shares(pl_module, v) for v in (self._displacement(), gradient))
            pl_module.record.add(first_update_energy_null=update[0])
            if update[1] is not None and first[1] is not None:
                pl_module.record.add(
                    first_update_energy_signal=update[1],
                    amplification=amplification((1 - update[1], update[1]), (1 - first[1], first[1])),
                    amplification_null=amplification((update[0], update[1]), (first[0], first[1])),
                )

    def on_train_end(self, trainer: pl.Trainer, pl_module: AttackModule) -> None:  # type: ignore[override]
        """Measure the whole way."""
        energy = self._shares(pl_module, self._displacement())
        full = pl_module.spec.adapter == "full"
        pl_module.record.add(
            update_norm_mean=sum(self.lengths) / len(self.lengths),
            path_length=sum(self.lengths),
            update_energy_null=energy[0],
            rotation_weights=median_rotation(self.intact, self.named) if full else None,
        )
        if space := pl_module.null_space:
            mean_square = self.squares / len(self.lengths)
            null, signal = (second_moment_along(basis, mean_square) for basis in (space.directions, space.signal))
            pl_module.record.add(
                update_energy_signal=energy[1],
                second_moment_null=null,
                second_moment_signal=signal,
                second_moment_ratio=signal / null if null > 0 else float("inf"),
            )

    def _displacement(self) -> Tensors:
        return {name: p.detach().cpu() - self.intact[name] for name, p in self.named.items()}

    @staticmethod
    def _shares(module: AttackModule, vector: Tensors) -> tuple[float, float | None]:
        return module.null_energies({name: matrix.to(module.subject.device) for name, matrix in vector.items()})
