"""Text under every dose: `predict --config configs/degradation.yaml --variants gauss_attn --tasks dreams_it`."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from lit_degrade.errors import UserError
from lit_degrade.generation.generator import Continuation, Decoding, TextGenerator
from lit_degrade.generation.queries import Query, open_picture, refuse_images
from lit_degrade.measures.text_likelihood import continuation_nats
from lit_degrade.modules import outputs
from lit_degrade.modules.doses import DoseModule
from lit_degrade.modules.outputs import Generation
from lit_degrade.perturbations.catalog import PerturbationSettings
from lit_degrade.perturbations.walk import PlannedDose
from lit_degrade.records import paths, tables
from lit_degrade.records.journal import Journal
from lit_degrade.records.run_record import plain
from lit_degrade.seeds import derive
from lit_degrade.subjects.catalog import SubjectSpec
from lit_degrade.tasks.catalog import PICTURE, Prompt, Task, load_task
from lit_degrade.text import TextSource


class GenerateModule(DoseModule):
    """Prompts of some tasks continued at every dose, measured, and written in the published schema.

    Every batch of text is on disk before the next begins, so that a run that was killed goes on where it was, and ends with the
    same text. A prompt's random draws depend on the seed, the task, the prompt and the repetition: levels share them.
    """

    verbs = ("predict",)
    headline = ("generations", "doses", "tokens_per_second", "nats_per_token_pre")
    journal_name = paths.JOURNAL

    def __init__(
        self,
        subject: SubjectSpec,
        text: TextSource,
        seed: int,
        tasks: str = "dreams_it",
        variants: str = "",
        perturbation: PerturbationSettings = PerturbationSettings(),  # noqa: B008 (frozen)
        levels: Sequence[float] = (),
        repetitions: int = 3,
        decoding: Decoding = Decoding(),  # noqa: B008 (frozen)
        image: str = "",
    ) -> None:
        """Describe the walk and the prompts.

        Args:
            subject: the patient; every dose is undone.
            text: probe text, measured at every dose too.
            seed: of every random draw.
            tasks: names from `list tasks`, with commas between.
            variants: names, indexes or ranges of `list variants`, as in gauss_attn,3-5; `all`; or nothing: `perturbation`.
            perturbation: how to perturb; a variant has its own method and target.
            levels: doses of the method; empty for those of each variant.
            repetitions: of every level, with other draws.
            decoding: how text is made.
            image: picture for image tasks; empty for the one that comes with the package.
        """
        super().__init__(subject, text, seed, variants, perturbation, levels, repetitions)
        if len(self.cells) == 1:
            raise UserError(
                "nothing to generate under: name --variants (`list variants`), or --model.perturbation.method and levels."
            )
        self.tasks: list[Task] = [load_task(name.strip()) for name in tasks.split(",")]
        self.decoding = decoding
        self.image = Path(image).expanduser() if image else PICTURE
        self.generator: TextGenerator
        self.journal: Journal

    def prepare(self, device: torch.device) -> None:
        """Load the subject, check the tasks against it, and read what an earlier start has done."""
        if any(task.image for task in self.tasks):
            open_picture(self.image)
        super().prepare(device)
        self.generator = TextGenerator(self.subject, self.decoding)
        for task in self.tasks:
            if task.image:
                refuse_images(self.subject)
            self.generator.batches(self._queries(task, task.prompts, self.cells[0]))
        self.journal = Journal(self.record.partial / paths.JOURNAL)

    predict_dataloader = DoseModule.steps

    def on_predict_start(self) -> None:
        """Show how far the text is."""
        self.bar = self.progress("generating", (len(self.cells) - 1) * sum(len(task.prompts) for task in self.tasks))
        self.bar.__enter__()

    def predict_step(self, batch: int, batch_idx: int) -> None:
        """Measure the intact subject, or make and measure what is missing at one dose."""
        if batch == 0:
            with self.record.timed("probes"):
                self.measure_intact()
            return
        cell = self.cells[batch]
        for task in self.tasks:
            done = len(self._made(cell, task))
            self.bar.advance(done)
            for entry in self._generate(cell, task, done):
                self.journal.append(entry)
                self.bar.advance(len(entry["made"]))
        if not any(entry["cell"] == cell.key and "measured" in entry for entry in self.journal.entries):
            with self.record.timed("probes"):
                measured = {"measured": self.measure_dose(cell), "edits": self.edit_table(cell)}
            self.journal.append({"cell": cell.key, **measured})

    def on_predict_epoch_end(self) -> None:
        """Measure the text, write every table, and leave no journal behind."""
        self.bar.__exit__()
        for entry in self.journal.entries:
            if "measured" in entry:
                self.dose_rows.append(entry["measured"])
                self.edit_rows += entry["edits"]
        self._write(self._generations())
        self.finish()
        self.journal.path.unlink()

    def _queries(self, task: Task, prompts: Sequence[Prompt], cell: PlannedDose) -> list[Query]:
        image = self.image if task.image else None
        repetition = str(cell.dose.repetition)
        return [Query(p.text, derive(self.seed, "sample", task.name, str(p.id), repetition), image) for p in prompts]

    def _generate(self, cell: PlannedDose, task: Task, done: int) -> Iterator[dict[str, Any]]:
        """Journal entries of a task's prompts from number `done` on, a batch each."""
        with self.record.timed("generation"):
            for _, made in self.generator.batches(self._queries(task, task.prompts[done:], cell)):
                yield {
                    "cell": cell.key,
                    "task": task.name,
                    "made": [asdict(continuation) for continuation in made],
                    "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
                    "vram_usage_percent": outputs.vram_percent(self.subject.device),
                }

    def _made(self, cell: PlannedDose, task: Task) -> list[tuple[Continuation, dict[str, Any]]]:
        """What the journal has of a task at a dose, in the order of the prompts."""
        entries = [entry for entry in self.journal.entries if entry["cell"] == cell.key and entry.get("task") == task.name]
        return [(Continuation(**made), entry) for entry in entries for made in entry["made"]]

    def _generations(self) -> list[Generation]:
        """Everything that was made, with its likelihood under the intact subject."""
        generated = [
            (cell, task, prompt, made, entry)
            for cell in self.cells[1:]
            for task in self.tasks
            for prompt, (made, entry) in zip(task.prompts, self._made(cell, task), strict=True)
        ]
        asked = [(self._text_ids(task, made), made.ids) for _, task, _, made, _ in generated]
        with self.record.timed("likelihood"):
            nats = continuation_nats(self.logits, asked, self.generator.pad)
        return [
            Generation(
                cell, task.name, prompt, self.image if task.image else None, made, entry["timestamp"],
                entry["vram_usage_percent"], value,
            )
            for (cell, task, prompt, made, entry), value in zip(generated, nats, strict=True)
        ]  # fmt: skip

    def _text_ids(self, task: Task, made: Continuation) -> list[int]:
        """The prompt without its picture: likelihoods are those of text given text."""
        picture = getattr(self.subject.model.config, "image_token_index", None) if task.image else None
        return [token for token in made.prompt_ids if token != picture]

    def _write(self, generations: Sequence[Generation]) -> None:
        """Output files, a row per generation, and the means of every dose."""
        files: dict[str, list[dict[str, Any]]] = {}
        for generation in generations:
            row = outputs.published_row(generation, self.subject, self.decoding)
            files.setdefault(outputs.file_name(generation, self.subject), []).append(row)
        for name, objects in files.items():
            self.record.save_text(name, json.dumps(plain(objects), indent=1, ensure_ascii=False) + "\n")
        measured = [outputs.measured_row(g, bleu) for g, bleu in zip(generations, outputs.self_bleus(generations), strict=True)]
        self.record.save_table(tables.GENERATIONS, measured)
        by_dose: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        for row in measured:
            by_dose.setdefault((row["variant"], row["level_index"], row["repetition"], row["task"]), []).append(row)
        for dose in self.dose_rows:
            for task in self.tasks:
                key = (dose["variant"], dose["level_index"], dose["repetition"], task.name)
                dose.update(outputs.task_means(by_dose[key], task.name))
        seconds = sum(g.continuation.duration_s for g in generations)
        tokens = sum(len(g.continuation.ids) for g in generations)
        self.record.add(generations=len(generations), generated_tokens=tokens, tokens_per_second=tokens / max(seconds, 1e-9))
