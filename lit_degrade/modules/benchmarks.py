"""Benchmarks on a subject, intact and under doses of a perturbation: `test --config configs/benchmarks.yaml`."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from lit_degrade.checks import at_least, some
from lit_degrade.measures.benchmarks import Requests, Result, positions, requests, run_benchmark
from lit_degrade.measures.harness import HarnessTask, load_task, run_task
from lit_degrade.modules.doses import DoseModule
from lit_degrade.perturbations.catalog import PerturbationSettings
from lit_degrade.perturbations.walk import PlannedDose
from lit_degrade.records import tables
from lit_degrade.subjects.catalog import SubjectSpec
from lit_degrade.tasks.benchmarks import HARNESS, choose_benchmarks, read_benchmark
from lit_degrade.text import TextSource

PROBE = ("nats_per_token", "bits_per_byte", "token_accuracy")
"""What the benchmark `text` measures: the probe text."""


class BenchmarkModule(DoseModule):
    """Right answers, last words and any task of lm-evaluation-harness, of the intact subject and at every dose."""

    verbs = ("validate", "test")
    headline = (
        "nats_per_token_pre", "hellaswag_acc", "hellaswag_acc_norm", "lambada_acc", "lambada_perplexity", "doses",
    )  # fmt: skip

    def __init__(
        self,
        subject: SubjectSpec,
        text: TextSource,
        seed: int,
        benchmarks: Sequence[str] = ("hellaswag", "lambada"),
        limit: int = 0,
        include_path: str = "",
        variants: str = "",
        perturbation: PerturbationSettings = PerturbationSettings(),  # noqa: B008 (frozen)
        levels: Sequence[float] = (),
        repetitions: int = 1,
    ) -> None:
        """Describe the benchmarks and the walk.

        Args:
            subject: the patient; every dose is undone.
            text: probe text, measured at every dose too.
            seed: of every random draw.
            benchmarks: `hellaswag` and `lambada` (own items), either as NAME=FILE (JSONL with the published fields), and
                `lm_eval:TASK` (where lm-evaluation-harness is installed).
            limit: the first so many items of each benchmark; 0: all.
            include_path: folder with task files of lm-evaluation-harness of one's own.
            variants: names, indexes or ranges of `list variants`, as in gauss_attn,3-5; `all`; or nothing: `perturbation`.
            perturbation: how to perturb; a variant has its own method and target.
            levels: doses of the method; empty for those of each variant.
            repetitions: of every level, with other draws.
        """
        super().__init__(subject, text, seed, variants, perturbation, levels, repetitions)
        at_least("model.limit", limit, 0)
        some("model.benchmarks", benchmarks)
        self.named = choose_benchmarks(benchmarks)
        self.limit, self.include_path = limit, include_path
        self.asked: list[Requests] = []
        self.tasks: list[HarnessTask] = []
        self.rows: list[dict[str, Any]] = []
        self.item_rows: list[dict[str, Any]] = []

    def prepare(self, device: torch.device) -> None:
        """Read the benchmarks, load the subject, and put every item in its tokens."""
        read = [read_benchmark(named.name, named.file, self.limit) for named in self.named if named.file]
        for named in self.named:
            if not named.file:
                self.tasks.append(load_task(named.name.removeprefix(HARNESS), self.include_path, self.seed))
        super().prepare(device)
        self.asked = [requests(benchmark, self.subject.tokenizer, positions(self.subject)) for benchmark in read]
        for asked in self.asked:
            name = asked.benchmark.name
            self.record.hashes[f"benchmark_{name}"] = asked.benchmark.sha256
            self.record.add(**{f"{name}_items": len(asked.benchmark.items), f"{name}_truncated": asked.truncated})
            if asked.truncated:
                caution = (
                    f"{asked.truncated} of {len(asked.pairs)} contexts of {name} are longer than the subject's "
                    f"{positions(self.subject)} positions and lost tokens on the left"
                )
                self.record.caution(f"{caution}.")

    test_dataloader = val_dataloader = DoseModule.steps

    def test_step(self, batch: int, batch_idx: int) -> None:
        """Measure the intact subject, or one dose."""
        cell = self.cells[batch]
        with self.record.timed("probes"):
            if batch:
                self.dose_rows.append(self.measure_dose(cell))
                self.edit_rows += self.edit_table(cell)
                measured = self.dose_rows[-1]
            else:
                self.measure_intact()
                measured = self.start[0].damage(self.start[0])
        items = self.start[0].tokens
        self._keep(cell, [Result("text", name, measured[name], None, items) for name in PROBE], [])
        with self.record.timed("benchmarks"):
            for asked in self.asked:
                self._keep(cell, *run_benchmark(self.logits, asked))
            for task in self.tasks:
                self._keep(cell, *run_task(self.subject, task, self.limit))

    validation_step = test_step

    def _keep(self, cell: PlannedDose, metrics: Iterable[Result], items: Iterable[dict[str, Any]]) -> None:
        """Rows of a benchmark at a dose; those of the intact subject are columns of the summary too."""
        intact = cell is self.cells[0]
        at = {"variant": cell.variant, "level_index": cell.level_index, "repetition": cell.dose.repetition}
        what = {
            "method": cell.settings.method,
            "target": None if intact else cell.settings.target,
            "level": None if intact else cell.dose.level,
        }
        self.item_rows += [{**at, **row} for row in items]
        for metric in metrics:
            order = {"variant": cell.variant, **what, **at}
            self.rows.append({**order, **metric.row()})
            if intact and metric.benchmark != "text":
                name = f"{'' if metric.source == 'own' else HARNESS}{metric.benchmark}_{metric.name}"
                self.record.add(**{name: metric.value, f"{name}_se": metric.standard_error})

    def on_test_epoch_end(self) -> None:
        """Write the tables."""
        self.record.save_table(tables.BENCHMARKS, self.rows)
        self.record.save_table(tables.BENCHMARK_ITEMS, self.item_rows)
        self.finish()

    on_validation_epoch_end = on_test_epoch_end
