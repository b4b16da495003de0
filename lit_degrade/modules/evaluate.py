"""Measurement of a subject, intact or under doses of a perturbation: `test --config configs/evaluate.yaml`."""

from collections.abc import Sequence

import torch

from lit_degrade.measures.benchmarks import encode, positions, prefix_token, rolling
from lit_degrade.modules.doses import DoseModule
from lit_degrade.perturbations.catalog import PerturbationSettings
from lit_degrade.records import paths
from lit_degrade.subjects.catalog import SubjectSpec
from lit_degrade.text import TextSource, embedded_tokenizer


class EvaluateModule(DoseModule):
    """Perplexity, bits per byte, token accuracy and the spectra of every layer of a subject; then what each dose does."""

    verbs = ("validate", "test")
    headline = (
        "probe_tokens", "nats_per_token_pre", "perplexity_pre", "bits_per_byte_pre", "token_accuracy_pre", "doses",
    )  # fmt: skip

    def __init__(
        self,
        subject: SubjectSpec,
        text: TextSource,
        seed: int,
        rolling: bool = False,
        variants: str = "",
        perturbation: PerturbationSettings = PerturbationSettings(),  # noqa: B008 (frozen)
        levels: Sequence[float] = (),
        repetitions: int = 1,
    ) -> None:
        """Describe the walk.

        Args:
            subject: the patient; every dose is undone.
            text: probe text.
            seed: of every random draw.
            rolling: whether to score the intact subject on whole documents too, every token after a BOS or EOS token, as
                lm-evaluation-harness does for word and byte perplexity.
            variants: names, indexes or ranges of `list variants`, as in gauss_attn,3-5; `all`; or nothing: `perturbation`.
            perturbation: how to perturb; a variant has its own method and target.
            levels: doses of the method; empty for those of each variant.
            repetitions: of every level, with other draws.
        """
        super().__init__(subject, text, seed, variants, perturbation, levels, repetitions)
        self.rolling = rolling

    def prepare(self, device: torch.device) -> None:
        """Load the subject; see that there is a token to begin documents with, where they are asked for."""
        super().prepare(device)
        if self.rolling:
            prefix_token(self.subject.tokenizer)

    test_dataloader = val_dataloader = DoseModule.steps

    def test_step(self, batch: int, batch_idx: int) -> None:
        """Measure everything."""
        cell = self.cells[batch]
        with self.record.timed("probes"):
            if batch:
                self.dose_rows.append(self.measure_dose(cell))
                self.edit_rows += self.edit_table(cell)
                return
            self.measure_intact()
            if self.rolling:
                self._measure_documents()
            spectra = self.hidden_spectra()
        facts = {f"{name}_layer{s.depth}": value for s in spectra for name, value in s.measures().items()}
        self.record.add(rank_tokens=spectra[0].n_tokens, **facts)
        self.record.save_tensors(paths.SPECTRA, {f"layer{s.depth:02d}": s.sigma for s in spectra})

    def _measure_documents(self) -> None:
        """Whole documents of the probe, the first so many that hold its tokens: the same for every subject."""
        documents: list[str] = []
        tokens = 0
        for document in self.text.split("probe"):
            if tokens >= self.text.probe_tokens:
                break
            documents.append(document)
            tokens += len(encode(embedded_tokenizer(), document))
        measured = rolling(self.logits, documents, self.subject.tokenizer, positions(self.subject))
        self.record.add(documents_rolling=len(documents), tokens_rolling=measured.tokens, **measured.facts("pre"))

    validation_step = test_step

    def on_test_epoch_end(self) -> None:
        """Write the tables."""
        self.finish()

    on_validation_epoch_end = on_test_epoch_end
