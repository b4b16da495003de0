"""Which dose of every method, in every target, costs the same loss: `test --config configs/exchange_rate.yaml`."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lit_degrade.checks import above, at_least
from lit_degrade.errors import unknown
from lit_degrade.measures.perplexity import likelihood
from lit_degrade.modules.base import SubjectModule
from lit_degrade.perturbations.catalog import METHODS, MethodName, PerturbationSettings
from lit_degrade.perturbations.edits import Dose, edits, perturbed, totals
from lit_degrade.perturbations.exchange import dose_range, find_dose
from lit_degrade.records import tables
from lit_degrade.subjects.catalog import SubjectSpec
from lit_degrade.subjects.loading import load_subject
from lit_degrade.text import TextSource


class ExchangeRateModule(SubjectModule):
    """For every method and target the dose that costs `cost` nats per token of held-out text, with other draws each time."""

    verbs = ("test",)
    headline = ("probe_tokens", "nats_per_token_pre", "searches", "reached")

    def __init__(
        self,
        subject: SubjectSpec,
        text: TextSource,
        seed: int,
        methods: str = "all",
        targets: str = "components",
        cost: float = 0.1,
        repetitions: int = 3,
        perturbation: PerturbationSettings = PerturbationSettings(schedule="progressive"),  # noqa: B008 (frozen)
    ) -> None:
        """Describe the searches.

        Args:
            subject: the patient; every dose is undone.
            text: probe text.
            seed: of every random draw.
            methods: names from `list perturbations`, with commas between, or `all`.
            targets: names from `list targets`, with commas between; `components`: every one that the subject has, and blocks.
            cost: loss that is looked for. [nats/token]
            repetitions: searches with other draws; one for methods that draw nothing.
            perturbation: how to perturb; methods and targets are those above.
        """
        super().__init__(subject, text, seed)
        self.methods = list(METHODS) if methods == "all" else [name.strip() for name in methods.split(",")]
        for name in self.methods:
            if name not in METHODS:
                raise unknown("method", name, METHODS)
        above("model.cost", cost, 0)
        at_least("model.repetitions", repetitions, 1)
        self.asked, self.cost, self.repetitions, self.how = targets, cost, repetitions, perturbation
        self.rows: list[dict[str, Any]] = []
        self.searches: list[tuple[PerturbationSettings, int]] = []
        self.before = math.nan

    def prepare(self, device: torch.device) -> None:
        """Load the subject and find every target in it."""
        self.text.documents  # noqa: B018 (an unreadable text is found before a large model is loaded)
        self.adopt(load_subject(self.spec, self.seed, device, train=False))
        known = [*self.subject.anatomy.components, "blocks"]
        targets = known if self.asked == "components" else [name.strip() for name in self.asked.split(",")]
        self.searches = list(self._searches(targets))

    def _searches(self, targets: list[str]) -> Iterator[tuple[PerturbationSettings, int]]:
        for target in targets:
            for method in self.methods:
                settings = replace(self.how, method=cast(MethodName, method), target=target)
                next(edits(self.subject, settings, Dose(dose_range(method)[0], self.seed)))
                for repetition in range(self.repetitions if METHODS[method].random else 1):
                    yield settings, repetition

    def test_dataloader(self) -> DataLoader[Tensor]:
        """Index of every search."""
        return DataLoader(range(len(self.searches)), batch_size=None)  # type: ignore[arg-type]

    def on_test_start(self) -> None:
        """Measure the intact subject."""
        measured = likelihood(self.logits, self.probe)
        self.before = measured.nats_per_token
        self.keep_hash()
        self.record.add(probe_tokens=measured.tokens, cost=self.cost, **measured.facts("pre"))
        self.bar = self.progress("searching", len(self.searches))
        self.bar.__enter__()

    def test_step(self, batch: int, batch_idx: int) -> None:
        """One search."""
        settings, repetition = self.searches[batch]
        found = find_dose(settings.method, self.cost, lambda level: self._loss(settings, repetition, level))
        level = found.level if found.reached else dose_range(settings.method)[1]
        with perturbed(self.subject, settings, Dose(level, self.seed, repetition)) as records:
            total = totals(records)
        self.rows.append(
            {
                "method": settings.method,
                "target": settings.target,
                "repetition": repetition,
                "random": METHODS[settings.method].random,
                "level": found.level if found.reached else None,
                "relative_norm": total["relative_norm"] if found.reached else None,
                "nats_lost": found.loss if found.reached else None,
                "weights": total["weights"],
                "reached": found.reached,
                "nats_at_maximum": found.loss_at_maximum,
                "cost": self.cost,
            }
        )
        self.bar.advance()

    def on_test_epoch_end(self) -> None:
        """Write the table, and make sure that the subject is what it was."""
        self.bar.__exit__()
        self.check_restored()
        self.record.save_table(tables.EXCHANGE_RATES, self.rows)
        self.record.add(searches=len(self.rows), reached=sum(row["reached"] for row in self.rows))

    def _loss(self, settings: PerturbationSettings, repetition: int, level: float) -> float:
        """Nats per token lost under a dose, infinite where the loss is not a number."""
        with perturbed(self.subject, settings, Dose(level, self.seed, repetition), recorded=False):
            lost = likelihood(self.logits, self.probe).nats_per_token - self.before
        return math.inf if math.isnan(lost) else lost
