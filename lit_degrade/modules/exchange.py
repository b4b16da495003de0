"""Which dose of every method, in every target, costs the same loss: `test --config configs/exchange_rate.yaml`."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from lit_degrade.checks import above, at_least
from lit_degrade.errors import unknown
from lit_degrade.measures.perplexity import likelihood
from lit_degrade.modules.measuring import MeasuringModule
from lit_degrade.perturbations.catalog import METHODS, OWN, PerturbationSettings
from lit_degrade.perturbations.edits import Dose, edits, perturbed, totals
from lit_degrade.perturbations.exchange import dose_range, find_dose
from lit_degrade.records import tables
from lit_degrade.subjects.catalog import SubjectSpec
from lit_degrade.text import TextSource


class ExchangeRateModule(MeasuringModule):
    """For every method and target the dose that costs `cost` nats per token of held-out text, with other draws each time."""

    doing = "searching"
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
        self.methods = list(OWN) if methods == "all" else [name.strip() for name in methods.split(",")]
        for name in self.methods:
            if name not in METHODS:
                raise unknown("method", name, METHODS)
        above("model.cost", cost, 0)
        at_least("model.repetitions", repetitions, 1)
        self.asked, self.cost, self.repetitions, self.how = targets, cost, repetitions, perturbation
        self.rows: list[dict[str, Any]] = []

    def plan(self, device: torch.device) -> list[tuple[PerturbationSettings, int]]:
        """A search for every method and target, and again with other draws."""
        known = [*self.subject.anatomy.components, "blocks"]
        targets = known if self.asked == "components" else [name.strip() for name in self.asked.split(",")]
        return list(self._searches(targets))

    def _searches(self, targets: list[str]) -> Iterator[tuple[PerturbationSettings, int]]:
        for target in targets:
            for method in self.methods:
                settings = replace(self.how, method=method, target=target)
                next(edits(self.subject, settings, Dose(dose_range(method)[0], self.seed)))
                for repetition in range(self.repetitions if METHODS[method].random else 1):
                    yield settings, repetition

    def facts(self) -> dict[str, Any]:
        """The loss that is looked for."""
        return {"cost": self.cost}

    def measure(self, piece: tuple[PerturbationSettings, int]) -> None:
        """One search."""
        settings, repetition = piece
        dose = find_dose(settings.method, self.cost, lambda level: self._loss(settings, repetition, level))
        level = dose.level if dose.reached else dose_range(settings.method)[1]
        with perturbed(self.subject, settings, Dose(level, self.seed, repetition)) as records:
            total = totals(records)
        self.rows.append(
            {
                "method": settings.method,
                "target": settings.target,
                "repetition": repetition,
                "random": METHODS[settings.method].random,
                "level": dose.level if dose.reached else None,
                "relative_norm": total["relative_norm"] if dose.reached else None,
                "nats_lost": dose.loss if dose.reached else None,
                "weights": total["weights"],
                "reached": dose.reached,
                "nats_at_maximum": dose.loss_at_maximum,
                "cost": self.cost,
            }
        )

    def write(self) -> None:
        """The table, and how many searches reached the loss."""
        self.record.save_table(tables.EXCHANGE_RATES, self.rows)
        self.record.add(searches=len(self.rows), reached=sum(row["reached"] for row in self.rows))

    def _loss(self, settings: PerturbationSettings, repetition: int, level: float) -> float:
        """Nats per token lost under a dose, infinite where the loss is not a number."""
        with perturbed(self.subject, settings, Dose(level, self.seed, repetition), recorded=False):
            lost = likelihood(self.logits, self.probe).nats_per_token - self.before.nats_per_token
        return math.inf if math.isnan(lost) else lost
