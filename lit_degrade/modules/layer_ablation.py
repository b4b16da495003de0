"""What losing one layer or one matrix costs: `test --config configs/layer_ablation.yaml`."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from lit_degrade.checks import at_least, some
from lit_degrade.errors import unknown
from lit_degrade.measures.perplexity import likelihood
from lit_degrade.modules.measuring import MeasuringModule
from lit_degrade.perturbations.catalog import METHODS, TARGETS, PerturbationSettings, check_dose
from lit_degrade.perturbations.edits import Dose, Only, edits, perturbed, totals
from lit_degrade.perturbations.targets import whole
from lit_degrade.records import tables
from lit_degrade.subjects.anatomy import Site
from lit_degrade.subjects.catalog import SubjectSpec
from lit_degrade.text import TextSource


@dataclass(frozen=True)
class Unit:
    """What is perturbed by itself."""

    name: str
    kind: str
    """layer, matrix, or named: by the user"""
    settings: PerturbationSettings
    component: str | None = None
    depth: int | None = None
    parameter: str | None = None
    only: Only | None = None
    """parameters instead of the target of the settings"""


class LayerAblationModule(MeasuringModule):
    """Zero (or otherwise perturb) one layer after the other, and one matrix after the other, and measure what it costs."""

    doing = "ablating"
    headline = ("probe_tokens", "nats_per_token_pre", "perplexity_pre", "units", "worst_unit", "worst_nats_lost")

    def __init__(
        self,
        subject: SubjectSpec,
        text: TextSource,
        seed: int,
        units: Sequence[str] = ("layers", "matrices"),
        perturbation: PerturbationSettings = PerturbationSettings("zero"),  # noqa: B008 (frozen)
        level: float = 1.0,
        draws: int = 5,
    ) -> None:
        """Describe what is perturbed.

        Args:
            subject: the patient; every perturbation is undone.
            text: probe text.
            seed: of every random draw.
            units: `layers` (every weight of a block, norms and biases too, so that nothing is added to what passes by),
                `matrices` (every matrix; Q, K and V of a fused one each for itself), names of targets, names of parameters.
            perturbation: how to perturb; units say what.
            level: its dose, in the unit of the method.
            draws: repetitions of a perturbation that is random.
        """
        super().__init__(subject, text, seed)
        check_dose(perturbation.method, level, "model.level")
        at_least("model.draws", draws, 1)
        some("model.units", units)
        self.asked, self.how, self.level = list(units), perturbation, level
        self.draws = 1 if METHODS[perturbation.method].certain(level) else draws
        self.rows: list[dict[str, Any]] = []

    def plan(self, device: torch.device) -> list[tuple[Unit, int]]:
        """Every unit and draw."""
        units = [unit for name in self.asked for unit in self._units(name)]
        for unit in units:
            next(edits(self.subject, unit.settings, Dose(self.level, self.seed), unit.only))
        return [(unit, draw) for unit in units for draw in range(self.draws)]

    def _units(self, name: str) -> Iterator[Unit]:
        anatomy = self.subject.anatomy
        parameters = {site.parameter for site in anatomy.sites}
        if name == "layers":
            for depth in range(len(anatomy.blocks)):
                how = replace(self.how, target="all", layers=str(depth))
                yield Unit(f"layer {depth}", "layer", how, depth=depth)
        elif name == "matrices":
            matrices = [site for site in anatomy.sites if site.kind == "weight" and site.component != "norm"]
            yield from map(self._matrix, matrices)
        elif name in TARGETS:
            yield Unit(name, "named", replace(self.how, target=name))
        elif name in parameters:
            site = whole(self.subject, name)
            yield Unit(name, "named", self.how, site.component, site.depth, name, {name: None})
        else:
            raise unknown("unit", name, ["layers", "matrices", *TARGETS, *sorted(parameters)])

    def _matrix(self, site: Site) -> Unit:
        """One matrix, or the part of a fused one."""
        what = (site.component, site.depth, site.parameter)
        if site.part is None:
            name = f"{site.component} {site.depth}" if site.depth is not None else site.parameter
            return Unit(name, "matrix", self.how, *what, {site.parameter: None})
        how = replace(self.how, target=site.component, layers=str(site.depth))
        return Unit(f"{site.component} {site.depth}", "matrix", how, *what)

    def measure(self, piece: tuple[Unit, int]) -> None:
        """One unit."""
        unit, draw = piece
        with perturbed(self.subject, unit.settings, Dose(self.level, self.seed, draw), only=unit.only) as records:
            total = totals(records)
            measured = likelihood(self.logits, self.probe)
        self.rows.append(
            {
                "unit": unit.name,
                "kind": unit.kind,
                "component": unit.component,
                "depth": unit.depth,
                "parameter": unit.parameter,
                "method": self.how.method,
                "level": self.level,
                "draw": draw,
                "random": self.draws > 1,
                "weights": total["weights"],
                "relative_norm": total["relative_norm"],
                **measured.damage(self.before),
            }
        )

    def write(self) -> None:
        """The table, and its worst line."""
        self.record.save_table(tables.ABLATION, self.rows)
        worst = max(self.rows, key=lambda row: (math.isnan(row["log_perplexity_ratio"]), row["log_perplexity_ratio"]))
        self.record.add(units=len({row["unit"] for row in self.rows}), worst_unit=worst["unit"])
        self.record.add(worst_nats_lost=worst["log_perplexity_ratio"])
