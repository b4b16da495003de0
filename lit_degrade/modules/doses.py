"""Runs that walk through doses of a perturbation on one loaded subject, and what is measured at each."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lit_degrade.measures.divergence import kl_divergence, log_probabilities
from lit_degrade.measures.effective_rank import LayerSpectrum, hidden_spectra, rank_reduction
from lit_degrade.measures.perplexity import Likelihood, likelihood
from lit_degrade.modules.base import SubjectModule
from lit_degrade.perturbations.catalog import PerturbationSettings
from lit_degrade.perturbations.edits import EditRecord, edits, rows, totals
from lit_degrade.perturbations.targets import is_tied
from lit_degrade.perturbations.walk import PlannedDose, intact, walk
from lit_degrade.records import tables
from lit_degrade.subjects.catalog import SubjectSpec
from lit_degrade.text import TextSource


class DoseModule(SubjectModule):
    """One step measures the intact subject, and one every dose; the `Perturb` callback applies and undoes them."""

    cells: list[PlannedDose]
    """the intact subject first, then every dose"""
    edits: list[EditRecord]
    """what the dose at work does, site by site"""

    def __init__(
        self,
        subject: SubjectSpec,
        text: TextSource,
        seed: int,
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
            variants: names, indexes or ranges of `list variants`, as in gauss_attn,3-5; `all`; or nothing: `perturbation`.
            perturbation: how to perturb; a variant has its own method and target.
            levels: doses of the method; empty for those of each variant.
            repetitions: of every level, with other draws.
        """
        super().__init__(subject, text, seed)
        self.cells = [intact(seed), *walk(perturbation, variants, levels, repetitions, seed)]
        self.edits = []
        self.dose_rows: list[dict[str, Any]] = []
        self.edit_rows: list[dict[str, Any]] = []
        self.start: tuple[Likelihood, Tensor, LayerSpectrum]

    def prepare(self, device: torch.device) -> None:
        """Load the subject and the probe text, and plan the first edit of every variant."""
        self.load(device, train=False)
        first = {cell.settings: cell for cell in reversed(self.cells[1:])}
        for settings, cell in first.items():
            next(edits(self.subject, settings, cell.dose))

    def steps(self) -> DataLoader[Tensor]:
        """Index of every cell."""
        return DataLoader(range(len(self.cells)), batch_size=None)  # type: ignore[arg-type]

    def measure_intact(self) -> None:
        """Measure the subject before any dose: what every dose is compared with."""
        measured = likelihood(self.logits, self.probe)
        self.start = (measured, log_probabilities(self.logits, self.few().ids), self._last_spectrum())
        self.keep_hash()
        self.record.add(probe_tokens=measured.tokens, tied_embedding=is_tied(self.subject), **measured.facts("pre"))

    def measure_dose(self, cell: PlannedDose) -> dict[str, Any]:
        """A row of doses.csv for the dose at work."""
        before, predictions, spectrum = self.start
        measured = likelihood(self.logits, self.probe)
        return {
            "variant": cell.variant,
            "method": cell.settings.method,
            "target": cell.settings.target,
            "level": cell.dose.level,
            "level_index": cell.level_index,
            "repetition": cell.dose.repetition,
            "random": cell.random,
            **totals(self.edits),
            **measured.damage(before),
            "kl_from_intact": kl_divergence(predictions, log_probabilities(self.logits, self.few().ids)),
            "rank_reduction": rank_reduction(spectrum, self._last_spectrum()),
        }

    def edit_table(self, cell: PlannedDose) -> list[dict[str, Any]]:
        """Rows of edits.csv for the dose at work."""
        return rows(self.edits, variant=cell.variant, level_index=cell.level_index, repetition=cell.dose.repetition)

    def finish(self) -> None:
        """Write the tables, and make sure that the subject is what it was before the first dose."""
        self.check_restored()
        self.record.add(doses=len(self.dose_rows))
        if self.dose_rows:
            self.record.save_table(tables.DOSES, self.dose_rows)
            self.record.save_table(tables.EDITS, self.edit_rows)

    def _last_spectrum(self) -> LayerSpectrum:
        """Spectrum of the hidden states behind the last block."""
        return hidden_spectra(self.logits, self.subject.anatomy.blocks[-1:], self.rank_ids())[0]
