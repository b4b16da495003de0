"""One prompt, several subjects, side by side: `predict --config configs/prompt.yaml --prompt "…"`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lit_degrade.errors import UserError
from lit_degrade.generation.generator import Decoding, TextGenerator
from lit_degrade.generation.queries import Query
from lit_degrade.measures.text_quality import measure_text
from lit_degrade.modules.doses import DoseModule
from lit_degrade.perturbations.catalog import PerturbationSettings
from lit_degrade.records import tables
from lit_degrade.seeds import derive
from lit_degrade.subjects.catalog import SubjectSpec
from lit_degrade.subjects.loading import Subject, load_subject
from lit_degrade.text import TextSource


class PromptModule(DoseModule):
    """What the subject, the subject under every dose, and other subjects write after one prompt."""

    verbs = ("predict",)

    def __init__(
        self,
        subject: SubjectSpec,
        text: TextSource,
        seed: int,
        prompt: str,
        beside: Sequence[str] = (),
        variants: str = "",
        perturbation: PerturbationSettings = PerturbationSettings(),  # noqa: B008 (frozen)
        levels: Sequence[float] = (),
        repetitions: int = 1,
        decoding: Decoding = Decoding(),  # noqa: B008 (frozen)
        image: str = "",
    ) -> None:
        """Describe what is asked of whom.

        Args:
            subject: the patient; every dose is undone.
            text: probe text.
            seed: of every random draw.
            prompt: what is continued.
            beside: other subjects, by name, folder or run record: attacked, healed or pruned ones.
            variants: names, indexes or ranges of `list variants`; or nothing: `perturbation`.
            perturbation: how to perturb; a variant has its own method and target.
            levels: doses of the method; empty for those of each variant.
            repetitions: of every level, with other draws.
            decoding: how text is made.
            image: picture shown with the prompt, to image-text subjects.
        """
        super().__init__(subject, text, seed, variants, perturbation, levels, repetitions)
        if not prompt.strip():
            raise UserError('the prompt is empty: --prompt "TEXT".')
        self.query = Query(prompt, derive(seed, "sample", "prompt"), Path(image).expanduser() if image else None)
        self.beside, self.decoding = list(beside), decoding
        self.others: list[Subject] = []
        self.answers: list[dict[str, Any]] = []

    def prepare(self, device: torch.device) -> None:
        """Load every subject, and see that the prompt fits each."""
        super().prepare(device)
        for name in self.beside:
            spec = SubjectSpec(name, self.spec.precision, self.spec.adapter)
            self.others.append(load_subject(spec, self.seed, device, train=False))
        for subject in (self.subject, *self.others):
            TextGenerator(subject, self.decoding).batches([self.query])

    predict_dataloader = DoseModule.steps

    def predict_step(self, batch: int, batch_idx: int) -> None:
        """The intact subject, or one dose."""
        cell = self.cells[batch]
        if batch == 0:
            self.measure_intact()
            self._answer("intact" if len(self.subject.lineage) < 2 else "as given", self.subject)
            return
        self.dose_rows.append(self.measure_dose(cell))
        self.edit_rows += self.edit_table(cell)
        again = f" #{cell.dose.repetition}" if cell.dose.repetition else ""
        self._answer(f"{cell.variant} {cell.dose.level:g}{again}", self.subject)

    def on_predict_epoch_end(self) -> None:
        """The other subjects; then the table of answers, which is printed too."""
        for name, subject in zip(self.beside, self.others, strict=True):
            self._answer(name, subject)
        self.record.save_table(tables.ANSWERS, self.answers)
        self.record.add(prompt=self.query.text, answers=len(self.answers))
        self.finish()

    def told(self) -> dict[str, Any]:
        """Who says what."""
        return {row["subject"]: row["text"] for row in self.answers}

    def _answer(self, label: str, subject: Subject) -> None:
        (made,) = TextGenerator(subject, self.decoding)([self.query])
        self.answers.append({"subject": label, "text": made.text, "tokens": len(made.ids), **measure_text(made.text)})
