"""Closes the run record however the run ends."""

import signal

import lightning.pytorch as pl

from lit_degrade.errors import Diverged
from lit_degrade.exits import undisturbed
from lit_degrade.records.conditions import ExitState
from lit_degrade.records.run_record import RunRecord
from lit_degrade.records.tracking import WandbTracker


class WriteRecord(pl.Callback):
    """Write the run record whole: when the run is done, has diverged, has failed or was interrupted. W&B ends after it."""

    def __init__(self, record: RunRecord) -> None:
        """Close `record`, which is already open."""
        self.record = record
        self.closed = False

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """The run is done."""
        self._close(trainer, "done")

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """The run ended early: say how, at which step, and why."""
        if isinstance(exception, Diverged):
            self.record.add(diverged_at_step=exception.step)
            self._close(trainer, "diverged", str(exception))
        elif isinstance(exception, Exception):
            self._close(trainer, "failed", f"{type(exception).__name__}: {exception}")
        else:
            if isinstance(exception, KeyboardInterrupt):  # Lightning ignores Ctrl-C from there on; W&B is not waited for then
                signal.signal(signal.SIGINT, signal.default_int_handler)
            self._close(trainer, "interrupted", type(exception).__name__)

    def _close(self, trainer: pl.Trainer, state: ExitState, detail: str = "") -> None:
        if self.closed:
            return
        self.closed = True
        try:
            with undisturbed():
                self.record.close(state, detail)
        except Exception:
            self._finish(trainer, 1)
            raise
        self._finish(trainer, 0 if state == "done" else 1)

    def _finish(self, trainer: pl.Trainer, exit_code: int) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, WandbTracker):
                logger.finish(exit_code)
