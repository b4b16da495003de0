"""What every run has: a subject, a text, a seed and a run record."""

import lightning.pytorch as pl
import torch

from lit_degrade.records.run_record import RunRecord
from lit_degrade.stimuli.text import TextSource
from lit_degrade.subjects.catalog import SubjectSpec
from lit_degrade.subjects.loading import Subject, load_subject


class SubjectModule(pl.LightningModule):
    """A run on one subject. `prepare` loads and checks everything a user can get wrong, before anything is written."""

    record: RunRecord
    subject: Subject

    def __init__(self, subject: SubjectSpec, text: TextSource, seed: int) -> None:
        """Keep what the run is about.

        Args:
            subject: which model, from --subject, --precision, --adapter and --gradient_checkpointing.
            text: where text comes from, from --text.
            seed: from --seed_everything; every random draw is derived from it.
        """
        super().__init__()
        self.spec = subject
        self.text = text
        self.seed = seed

    def prepare(self, device: torch.device) -> None:
        """Load the subject and whatever else the run needs.

        Raises: UserError for anything in the config that cannot work.
        """
        self._adopt(load_subject(self.spec, self.seed, device, train=False))
        self.record.hashes["text"] = self.text.sha256

    def _adopt(self, subject: Subject) -> None:
        """Make a subject this module's own, so that Lightning sees its parameters."""
        self.subject = subject
        self.model = subject.model
        self.record.hashes["subject"] = subject.sha256
        self.record.add(
            subject=subject.spec.name,
            precision=subject.spec.precision,
            adapter=subject.spec.adapter,
            seed=self.seed,
            n_parameters=sum(p.numel() for p in subject.model.parameters()),
        )
