"""Measurement of a subject as it is: `test --config configs/evaluate.yaml`."""

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lit_degrade.measures.perplexity import likelihood
from lit_degrade.modules.base import SubjectModule
from lit_degrade.records import paths
from lit_degrade.subjects.loading import load_subject


class EvaluateModule(SubjectModule):
    """Perplexity, bits per byte, token accuracy and the spectra of every layer of an unchanged subject."""

    verbs = ("validate", "test")
    headline = ("probe_tokens", "nats_per_token_pre", "perplexity_pre", "bits_per_byte_pre", "token_accuracy_pre")

    def prepare(self, device: torch.device) -> None:
        """Load the subject and the probe text."""
        self.text.documents  # noqa: B018 (an unreadable text is found before a large model is loaded)
        self.adopt(load_subject(self.spec, self.seed, device, train=False))

    def test_dataloader(self) -> DataLoader[Tensor]:
        """One step: the probes cut their own batches."""
        return DataLoader([0], batch_size=None)  # type: ignore[arg-type]

    val_dataloader = test_dataloader

    def test_step(self, batch: int, batch_idx: int) -> None:
        """Measure everything."""
        with self.record.timed("probes"):
            measured = likelihood(self.logits, self.probe)
            spectra = self.hidden_spectra()
        facts = {f"{name}_layer{s.depth}": value for s in spectra for name, value in s.measures().items()}
        self.record.add(probe_tokens=measured.tokens, rank_tokens=spectra[0].n_tokens, **measured.facts("pre"), **facts)
        self.record.save_tensors(paths.SPECTRA, {f"layer{s.depth:02d}": s.sigma for s in spectra})

    validation_step = test_step
