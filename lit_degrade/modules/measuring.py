"""The walk of every run that damages its subject, measures what each injury costs, and undoes it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lit_degrade.measures.perplexity import Likelihood, likelihood
from lit_degrade.modules.base import SubjectModule


class MeasuringModule(SubjectModule):
    """Load, measure the intact subject, work through a plan with its progress shown, write, and compare the weights at the end.

    Children say what is done (`plan`), what one piece of it does (`measure`) and what is left of it (`write`); whatever they do
    to the weights they undo.
    """

    verbs = ("test",)
    doing: str = ""
    """what the progress bar says; none without"""
    work: Sequence[Any]
    """what `plan` gave"""
    before: Likelihood
    """of the intact subject"""

    def plan(self, device: torch.device) -> Sequence[Any]:
        """What is to be done, piece by piece, on a subject that is loaded.

        Raises: UserError for anything in the config that cannot work.
        """
        raise NotImplementedError

    def measure_intact(self) -> Likelihood:
        """What every injury is compared with."""
        return likelihood(self.logits, self.probe)

    def facts(self) -> dict[str, Any]:
        """Columns of the summary that are known before the first injury."""
        return {}

    def measure(self, piece: Any) -> None:
        """Do and undo one piece of the work."""
        raise NotImplementedError

    def write(self) -> None:
        """Leave tables and columns of the summary."""
        raise NotImplementedError

    def prepare(self, device: torch.device) -> None:
        """Load the subject and plan the work."""
        self.load(device, train=False)
        self.work = self.plan(device)

    def test_dataloader(self) -> DataLoader[Tensor]:
        """Index of every piece of the work."""
        return DataLoader(range(len(self.work)), batch_size=None)  # type: ignore[arg-type]

    def on_test_start(self) -> None:
        """Measure the intact subject, and remember its weights."""
        self.keep_hash()
        self.before = self.measure_intact()
        self.record.add(**self.facts(), probe_tokens=self.before.tokens, **self.before.facts("pre"))
        self.bar = self.progress(self.doing, len(self.work))
        self.bar.__enter__()

    def test_step(self, batch: int, batch_idx: int) -> None:
        """One piece of the work."""
        self.measure(self.work[batch])
        self.bar.advance()

    def on_test_epoch_end(self) -> None:
        """Write, and make sure that the subject is what it was."""
        self.bar.__exit__()
        self.write()
        self.check_restored()
