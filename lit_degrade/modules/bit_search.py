"""How few bits must flip for a subject to collapse, searched for or drawn? `test --config configs/bit_search.yaml`."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lit_degrade.checks import at_least, some
from lit_degrade.criticality.ranking import Weights
from lit_degrade.errors import UserError, unknown
from lit_degrade.faults.arms import CONTROLS, collapse_of, control_flips, first_collapse
from lit_degrade.faults.catalog import CONSTRAINTS, SEARCH
from lit_degrade.faults.flips import bit_class, flipped
from lit_degrade.faults.scores import Candidate
from lit_degrade.faults.search import Limits, bit_search, limits_of
from lit_degrade.measures.perplexity import Likelihood, likelihood
from lit_degrade.modules.measuring import MeasuringModule
from lit_degrade.perturbations.catalog import PerturbationSettings
from lit_degrade.perturbations.storage import stored
from lit_degrade.perturbations.targets import sites_of
from lit_degrade.records import tables
from lit_degrade.subjects.catalog import SubjectSpec
from lit_degrade.text import TextSource

_OF_A_FLIP = ("parameter", "component", "depth", "index", "bit", "bit_class", "value", "value_flipped", "predicted")


@dataclass(frozen=True)
class FlipSequence:
    """A sequence of flips to be measured."""

    constraint: str
    arm: str
    draw: int

    @property
    def labels(self) -> dict[str, Any]:
        """Columns that name it."""
        return {"constraint": self.constraint, "arm": self.arm, "draw": self.draw}


class BitSearchModule(MeasuringModule):
    """Flip the worst bits one after the other until the subject has collapsed, and count the flips that controls need."""

    doing = "flipping"
    headline = ("probe_tokens", "token_accuracy_pre", "threshold")

    def __init__(
        self,
        subject: SubjectSpec,
        text: TextSource,
        seed: int,
        target: str = "blocks",
        layers: str = "all",
        constraints: Sequence[str] = tuple(CONSTRAINTS),
        controls: Sequence[str] = CONTROLS,
        candidates: int = 32,
        search_blocks: int = 4,
        budget: int = 500,
        control_budget: int = 65536,
        draws: int = 5,
    ) -> None:
        """Describe the search.

        Args:
            subject: the patient; every flip is undone.
            text: calibration text, on which is searched, and probe text, on which is measured.
            seed: of calibration blocks and controls.
            target: which weights (`list targets`).
            layers: depths of the target, counted from 0: numbers and ranges, as in 0-3,7.
            constraints: what a flipped weight may be: in_range (finite, no larger than the largest of its tensor), free.
            controls: random (any weight, any bit), random_exponent (any exponent bit), top_magnitude (the largest weights).
            candidates: flips of highest first-order score whose loss is measured at every step.
            search_blocks: blocks of calibration text for gradients and losses.
            budget: most flips of a search.
            control_budget: most flips of a control.
            draws: of every control.
        """
        super().__init__(subject, text, seed)
        self.target = PerturbationSettings("bit_flip", target, layers)
        for kind, names, known in (("constraint", constraints, CONSTRAINTS), ("control", controls, CONTROLS)):
            for name in names:
                if name not in known:
                    raise unknown(kind, name, known)
        some("model.constraints", constraints)
        at_least("model.candidates", candidates, 1)
        at_least("model.search_blocks", search_blocks, 1)
        at_least("model.budget", budget, 1)
        at_least("model.control_budget", control_budget, 1)
        at_least("model.draws", draws, 1)
        self.constraints, self.controls, self.draws = list(dict.fromkeys(constraints)), list(dict.fromkeys(controls)), draws
        self.candidates, self.search_blocks = candidates, search_blocks
        self.budget, self.control_budget = budget, control_budget
        self.limits: dict[str, Limits] = {}
        self.rows: list[dict[str, Any]] = []
        self.collapses: list[dict[str, Any]] = []

    def plan(self, device: torch.device) -> list[FlipSequence]:
        """Every search, and every draw of a control.

        Raises: UserError for a subject that has collapsed to begin with.
        """
        self.weights = Weights(self.subject, sites_of(self.subject, self.target))
        self.ids = self.drawn_calibration(self.search_blocks)
        self.collapse, self.before = collapse_of(self.probe.ids), likelihood(self.logits, self.probe)
        if self.before.token_accuracy <= self.collapse.threshold:
            raise UserError(
                f"'{self.spec.name}' has token accuracy {self.before.token_accuracy:.4f} when intact: expected more than "
                f"{self.collapse.threshold:.4f}, two standard errors above the best constant answer."
            )
        return [
            FlipSequence(constraint, arm, draw)
            for constraint in self.constraints
            for arm in (SEARCH, *self.controls)
            for draw in range(1 if arm == SEARCH else self.draws)
        ]

    def measure_intact(self) -> Likelihood:
        """It has been measured while the work was planned."""
        return self.before

    def facts(self) -> dict[str, Any]:
        """How much is searched, by how much text, and when a subject has collapsed."""
        self.limits = {name: limits_of(self.subject, self.weights.parameters, name) for name in self.constraints}
        collapse = {"chance": self.collapse.chance, "threshold": self.collapse.threshold}
        return {"weights": len(self.weights), "search_tokens": self.ids.numel(), **collapse}

    def measure(self, piece: FlipSequence) -> None:
        """One search, or one draw of a control."""
        self._add_row(piece, 0, None, self.before)
        flips, budget = self._search(piece) if piece.arm == SEARCH else self._control(piece)
        facts = {"budget": budget, "threshold": self.collapse.threshold}
        self.collapses.append(
            {**piece.labels, "flips": budget if flips is None else flips, "collapsed": flips is not None, **facts}
        )

    def _search(self, cell: FlipSequence) -> tuple[int | None, int]:
        """Flips that a search takes to a collapse, and its budget."""
        collapsed: list[bool] = []

        def done(worst: Candidate) -> bool:
            collapsed.append(self._add_row(cell, len(collapsed) + 1, worst, likelihood(self.logits, self.probe)))
            return collapsed[-1]

        limits = self.limits[cell.constraint]
        bit_search(self.subject, self.ids, self.weights, self.candidates, self.budget, limits, done)
        return (len(collapsed) if any(collapsed) else None), self.budget

    def _control(self, cell: FlipSequence) -> tuple[int | None, int]:
        """Flips of a control to a collapse, and its budget: smaller where the target has fewer weights that may flip."""
        limits = self.limits[cell.constraint]
        flips = control_flips(self.subject, self.weights, cell.arm, self.control_budget, limits, self.seed, cell.draw)

        def collapsed(n: int) -> bool:
            with flipped(self.subject, [candidate.flip for candidate in flips[:n]]):
                return self._add_row(cell, n, flips[n - 1], likelihood(self.logits, self.probe))

        return first_collapse(collapsed, len(flips)), len(flips)

    def _add_row(self, cell: FlipSequence, n: int, last: Candidate | None, measured: Likelihood) -> bool:
        """Keep what n flips cost, the last of which is given; returns whether the subject has collapsed."""
        collapsed = measured.token_accuracy <= self.collapse.threshold
        self.rows.append(
            {**cell.labels, "flip": n, **self._facts(last), **measured.damage(self.before), "collapsed": collapsed}
        )
        return collapsed

    def _facts(self, last: Candidate | None) -> dict[str, Any]:
        """Columns of a flip, all empty where there is none; those of controls are not predicted."""
        if last is None:
            return dict.fromkeys(_OF_A_FLIP)
        flip, site = last.flip, last.site
        kind = bit_class(stored(self.subject.model, flip.parameter).format, flip.bit)
        predicted = None if math.isnan(last.predicted) else last.predicted
        where = (flip.parameter, site.component, site.depth, flip.index, flip.bit, kind)
        return dict(zip(_OF_A_FLIP, (*where, last.value, last.value_flipped, predicted), strict=True))

    def write(self) -> None:
        """The tables, and how many flips each arm took."""
        self.record.save_table(tables.BIT_SEARCH, sorted(self.rows, key=self._place))
        self.record.save_table(tables.COLLAPSE, self.collapses)
        for constraint in self.constraints:
            self.record.add(**summarised([row for row in self.collapses if row["constraint"] == constraint], constraint))

    def _place(self, row: Mapping[str, Any]) -> tuple[int, int]:
        """Order of the rows: as sequences are measured, each by number of flips."""
        return self.work.index(FlipSequence(row["constraint"], row["arm"], row["draw"])), row["flip"]


def summarised(rows: Sequence[dict[str, Any]], constraint: str) -> dict[str, Any]:
    """Columns of the summary: flips of the search; of each control the median, how many draws collapsed, and the factor.

    A draw that did not collapse counts as infinitely many flips. Where the median is such a draw, `at_least` is True: the
    flips are then the median with those draws at their budget, and they and the factor are lower bounds. There is no factor
    where the search found no collapse within its budget.
    """
    by_arm: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_arm.setdefault(row["arm"], []).append(row)
    (search,) = by_arm.pop(SEARCH)
    facts: dict[str, Any] = {f"{what}_{constraint}_search": search[what] for what in ("flips", "collapsed")}
    for arm, draws in by_arm.items():
        median = statistics.median(row["flips"] if row["collapsed"] else math.inf for row in draws)
        at_least = math.isinf(median)
        flips = statistics.median(row["flips"] for row in draws) if at_least else median
        facts |= {
            f"flips_{constraint}_{arm}": flips,
            f"collapsed_{constraint}_{arm}": sum(row["collapsed"] for row in draws),
            f"factor_{constraint}_{arm}": flips / search["flips"] if search["collapsed"] else None,
            f"log10_factor_{constraint}_{arm}": math.log10(flips / search["flips"]) if search["collapsed"] else None,
            f"at_least_{constraint}_{arm}": at_least,
        }
    return facts
