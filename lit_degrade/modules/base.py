"""What every run has: a subject, a text, a seed and a run record."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

import lightning.pytorch as pl
import torch
from torch import Tensor

from lit_degrade.measures.effective_rank import LayerSpectrum, hidden_spectra
from lit_degrade.modules.progress import Progress
from lit_degrade.records.cache import Cache, Parts
from lit_degrade.records.run_record import RunRecord
from lit_degrade.seeds import generator
from lit_degrade.subjects.catalog import SubjectSpec
from lit_degrade.subjects.loading import Subject, load_subject, misread_rows, weights_sha256
from lit_degrade.text import TextSource, TokenStream

RANK_TOKENS = 1024
"""Tokens whose hidden states make a spectrum: the same number in every run, since effective rank grows with it."""

KL_TOKENS = 2048
"""Probe tokens over which the divergence from the intact subject, and the likelihood on the way, are averaged."""


class SubjectModule(pl.LightningModule):
    """A run on one subject. `prepare` loads and checks everything a user can get wrong, before anything is written."""

    record: RunRecord
    cache: Cache
    subject: Subject
    probe: TokenStream
    kept_sha256: str = ""
    bar: Progress
    """of steps that the module counts itself"""
    show_progress: bool = False
    verbs: tuple[str, ...]
    """Lightning's verbs that this module answers"""
    headline: tuple[str, ...] = ()
    """columns of the summary that are printed at the end (see `told`)"""
    journal_name: str = ""
    """file of the record in which an unfinished run keeps what it has done, if it goes on from there"""

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
        raise NotImplementedError

    def told(self) -> dict[str, Any]:
        """What is printed at the end: names and values."""
        return {key: self.record.summary.get(key) for key in self.headline}

    def load(self, device: torch.device, train: bool) -> None:
        """Load the subject and make it this module's own.

        Raises: UserError for a subject or a text that cannot be had.
        """
        self.text.documents  # noqa: B018 (an unreadable text is found before a large model is loaded)
        self.adopt(load_subject(self.spec, self.seed, device, train))

    def logits(self, tokens: Tensor) -> Tensor:
        """Next-token logits (batch, length, vocabulary) at the subject's precision, in evaluation mode."""
        training = self.model.training
        self.model.eval()
        try:
            with self.subject.autocast():
                return self.model(input_ids=tokens.to(self.subject.device), use_cache=False).logits
        finally:
            self.model.train(training)

    def hidden_spectra(self) -> list[LayerSpectrum]:
        """Spectra of the hidden states behind every block, over the first RANK_TOKENS probe tokens."""
        return hidden_spectra(self.logits, self.subject.anatomy.blocks, self.rank_ids())

    def rank_ids(self) -> Tensor:
        """The first RANK_TOKENS probe tokens (windows, length), of whole windows unless one holds more."""
        return self.probe.ids[: max(1, RANK_TOKENS // self.text.block), :RANK_TOKENS]

    def keep_hash(self) -> None:
        """Remember the weights as they are."""
        self.kept_sha256 = weights_sha256(self.subject.model)

    def check_restored(self) -> None:
        """Record that the weights are what they were at `keep_hash`, bit for bit.

        Raises: RuntimeError if they are not.
        """
        if weights_sha256(self.subject.model) != self.kept_sha256:
            raise RuntimeError("the subject's weights are not what they were before the first dose")
        self.record.hashes["subject_after"] = self.kept_sha256

    def drawn_calibration(self, count: int) -> Tensor:
        """Windows of the calibration split, drawn by the seed, (count, text.block) int64.

        Raises: UserError when the text is too short.
        """
        stream = self.text.tokens("calibration", self.subject.tokenizer)
        blocks = stream.blocks(self.text.block, max(count, stream.count(self.text.block))).ids
        return blocks[torch.randperm(len(blocks), generator=generator(self.seed, "calibration"))[:count]]

    def few(self) -> TokenStream:
        """The first KL_TOKENS probe tokens."""
        few = slice(max(1, KL_TOKENS // self.text.block))
        return TokenStream(self.probe.ids[few], self.probe.byte_counts[few])

    def shared(self, what: str, depends_on: Mapping[str, Any], compute: Callable[[], Parts]) -> Parts:
        """What other runs on the same things need too: from the cache, or computed and kept there."""
        parts, kept = self.cache.remember(what, depends_on, compute)
        if kept:
            self.record.notes.setdefault("from_cache", []).append(what)
        return parts

    def log_now(self, name: str, value: float, step: int) -> None:
        """Give a value to every logger at once; Lightning's `log` would keep it for epoch averages too."""
        for logger in self.loggers:
            logger.log_metrics({name: value}, step)

    def log_step(self, name: str, value: float) -> None:
        """Log a value of this training step: to the record always, to W&B every `trainer.log_every_n_steps` steps.

        A call to W&B costs a tenth of a small subject's step.
        """
        sparse = self.global_step % cast(Any, self.trainer).log_every_n_steps
        for logger in self.loggers[:1] if sparse else self.loggers:
            logger.log_metrics({name: value}, self.global_step)

    def probe_identity(self) -> dict[str, Any]:
        """What two measurements must share to be compared."""
        whole = len(self.probe.ids) == self.text.probe_tokens // self.text.block
        return {
            "text": self.text.sha256,
            "block": self.text.block,
            "probe_tokens": self.text.probe_tokens,
            **({} if whole else {"windows": len(self.probe.ids)}),
            **({} if self.subject.begin is None else {"begin": self.subject.begin}),
        }

    def measured_when_intact(self, measure: str) -> float | None:
        """A measure of the intact subject that this one came from by an attack, if it was taken on the same probe."""
        lineage = self.subject.lineage
        if len(lineage) < 2 or lineage[0].get("probe") != self.probe_identity():
            return None
        return lineage[0].get(measure)

    def progress(self, description: str, total: int) -> Progress:
        """Progress bar of a stage; nothing is shown without a description."""
        return Progress(description, total, self.show_progress and bool(description))

    def adopt(self, subject: Subject) -> None:
        """Make a subject this module's own, so that Lightning sees its parameters, and cut the probe text for it."""
        begin = self.text.beginning(subject.tokenizer)
        self.subject = subject = replace(subject, begin=begin)
        self.model = subject.model
        self.probe = self.text.probe(subject.tokenizer)
        self.record.hashes["subject"] = subject.sha256
        self.record.hashes["text"] = self.text.sha256
        if rows := misread_rows(subject.model):
            lengths = ", ".join(map(str, rows))
            self.record.caution(
                f"bitsandbytes decodes NF4 rows of {lengths} weights wrongly on this device: this is not the subject at nf4."
            )
        self.record.add(
            subject=subject.lineage[0]["name"] if subject.lineage else subject.spec.name,
            attacked_by_run=subject.lineage[-1]["run_id"] if len(subject.lineage) > 1 else None,
            precision=subject.spec.precision,
            adapter=subject.spec.adapter,
            seed=self.seed,
            begin=None if begin is None else subject.tokenizer.convert_ids_to_tokens(begin),
            n_parameters=sum(p.numel() for p in subject.model.parameters()),
        )
