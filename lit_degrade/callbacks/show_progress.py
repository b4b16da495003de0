"""A progress bar of training steps."""

from collections.abc import Mapping
from typing import Any, cast

import lightning.pytorch as pl
import torch

from lit_degrade.modules.base import SubjectModule
from lit_degrade.modules.progress import Progress


class ShowProgress(pl.Callback):
    """One bar for all steps, whatever Lightning calls an epoch."""

    def __init__(self) -> None:
        """No bar until training starts."""
        self.bar: Progress | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: SubjectModule) -> None:  # type: ignore[override]
        """Show the bar."""
        self.bar = pl_module.progress("training", trainer.max_steps)
        self.bar.__enter__()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: torch.Tensor | Mapping[str, Any] | None,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """One step is done."""
        if self.bar is not None:
            self.bar.advance()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remove the bar."""
        if self.bar is not None:
            self.bar.__exit__()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Remove the bar, and the module's own."""
        self.on_train_end(trainer, pl_module)
        if hasattr(pl_module, "bar"):
            cast(SubjectModule, pl_module).bar.__exit__()
