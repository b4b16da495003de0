"""Weights are perturbed while a dose is at work, and exactly as they were before and after it."""

from contextlib import ExitStack
from typing import Any

import lightning.pytorch as pl

from lit_degrade.modules.doses import DoseModule
from lit_degrade.perturbations.edits import perturbed


class Perturb(pl.Callback):
    """Apply the dose that a step of a `DoseModule` is about, and undo it when the step ends, however it ends."""

    def __init__(self) -> None:
        """Nothing is applied yet."""
        self.applied = ExitStack()

    def _apply(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, *rest: Any) -> None:
        if isinstance(pl_module, DoseModule):
            cell = pl_module.cells[int(batch)]
            pl_module.edits = self.applied.enter_context(perturbed(pl_module.subject, cell.settings, cell.dose))

    def _undo(self, *hook: Any) -> None:
        self.applied.close()

    on_predict_batch_start = on_test_batch_start = on_validation_batch_start = _apply  # type: ignore[assignment]
    on_predict_batch_end = on_test_batch_end = on_validation_batch_end = _undo  # type: ignore[assignment]
    on_exception = _undo  # type: ignore[assignment]
