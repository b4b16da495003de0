"""Claims that compare two drawn groups: a line of words for each, and brackets where there are few."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from string import ascii_lowercase
from typing import NamedTuple

from matplotlib.axes import Axes

from lit_degrade.evidence.claims.arms import Arm
from lit_degrade.evidence.claims.sections import Section
from lit_degrade.evidence.claims.verdicts import Verdict
from lit_degrade.evidence.drawing.panels import Panels
from lit_degrade.evidence.reading.words import outcome_of, sentence, words

MOST_BRACKETS = 3
"""In one panel."""
MOST_LINES = 16
"""Of comparisons under a figure."""
Place = tuple[int, int]
"""Number of the panel, and of the group in it."""


class Comparison(NamedTuple):
    """A verdict, and the two groups that it compares."""

    verdict: Verdict
    upper: Place
    lower: Place

    @property
    def panel(self) -> int | None:
        """The panel that both are in."""
        return self.upper[0] if self.upper[0] == self.lower[0] else None


def comparisons(section: Section, panels: Panels, outcome: str) -> list[Comparison]:
    """Verdicts that compare two drawn groups, from top to bottom, short brackets first."""
    drawn = [((i, j), group) for i, groups in enumerate(panels.values()) for j, group in enumerate(groups.values())]
    places = {run: place for place, group in drawn for run in group.rows["run_id"]}
    compared = []
    for verdict in section.verdicts:
        if verdict.claim.outcome == outcome and len(verdict.arms) == 2:
            ends = sorted(place for arm in verdict.arms if (place := _place(arm, places)))
            compared += [Comparison(verdict, *ends)] if len(ends) == 2 else []
    return sorted(compared, key=lambda it: (it.upper[0], it.lower[0], it.lower[1] - it.upper[1]))


def _place(arm: Arm, places: Mapping[str, Place]) -> Place | None:
    """Of the group that holds all runs of an arm."""
    own = {places.get(run) for run in arm.rows["run_id"]}
    return own.pop() if len(own) == 1 else None


def show(found: Mapping[str, Sequence[Comparison]], columns: Mapping[str, Sequence[Axes]]) -> list[str]:
    """Brackets with letters within panels that have up to three comparisons; returns a line for each comparison.

    Args:
        found: comparisons of each outcome.
        columns: axes of each outcome, from top to bottom.
    """
    lines, letters = [], iter(ascii_lowercase)
    for outcome, compared in found.items():
        inside, drawn = Counter(it.panel for it in compared), Counter[int]()
        lines += [f"{sentence(outcome_of(outcome).label)}:"] if compared else []
        for it in compared:
            letter = "  "
            if it.panel is not None and inside[it.panel] <= MOST_BRACKETS and len(lines) < MOST_LINES:
                letter = next(letters)
                _bracket(columns[outcome][it.panel], it.upper[1], it.lower[1], drawn[it.panel], letter)
                drawn[it.panel] += 1
            lines.append(f"{letter}  {_words(it.verdict)}")
    more = len(lines) - MOST_LINES
    return lines if more <= 1 else [*lines[:MOST_LINES], f"    and {more} more comparisons, in the table of verdicts"]


def _bracket(ax: Axes, low: int, high: int, depth: int, letter: str) -> None:
    """Right of a panel, beside those already there."""
    x, at = 1.02 + 0.055 * depth, ax.get_yaxis_transform()
    ax.plot([x - 0.012, x, x, x - 0.012], [low, low, high, high], transform=at, color="black", lw=0.8, clip_on=False)
    ax.text(x + 0.012, (low + high) / 2, letter, transform=at, fontsize=7, va="center", ha="left")


def _words(verdict: Verdict) -> str:
    """Claim, p and answer in a line."""
    sign = "=" if verdict.claim.test == "equivalence" else {"greater": ">", "less": "<"}[verdict.claim.direction]
    arms = f" {sign} ".join(words(arm.name) for arm in verdict.arms)
    where = f" ({words(verdict.where)})" if verdict.where else ""
    against = f" ({_p_words(verdict.p_against_holm)})" if verdict.answer == "contradicted" else ""
    return f"{arms}{where}: {_p_words(verdict.p_holm)}, {verdict.answer}{against}"


def _p_words(p: float) -> str:
    return "no p" if math.isnan(p) else "p < 0.001" if p < 0.001 else f"p = {p:.2g}"
