"""Which groups share a panel and a figure, and what a caption says of the runs that are not shown."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from matplotlib.figure import Figure

from lit_degrade.evidence.claims.sections import Section
from lit_degrade.evidence.drawing.axes import Values
from lit_degrade.evidence.reading.groups import Group, label, usable
from lit_degrade.evidence.reading.words import outcome_of, words

Panels = dict[str, dict[str, Group]]
"""Name of a panel -> label of a group -> the group, all in the order in which they are drawn."""
FLAT = 6
"""Groups that share one panel of lines, whatever their conditions."""
MOST_PAGES = 4
"""Figures that one kind of figure may run over."""
MOST_NAMES = 8
"""Runs that a caption names for each reason why they are not shown."""
Read = TypeVar("Read")


@dataclass(frozen=True)
class Plate:
    """A figure before it is saved."""

    name: str
    caption: str
    figure: Figure


def panels_of(section: Section, runs: set[str], flat: int = 0) -> Panels:
    """Groups that hold any of some runs, by what they share beside the factor of the design.

    One panel for up to `flat` groups, or where each would have a panel.
    """
    panels, factor = section.panels(), section.design.factor
    if len(section.groups) <= flat or all(len(groups) == 1 for groups in panels.values()):
        return kept({"": {words(group.label): group for group in section.groups}}, runs)
    return kept({words(name): {_level(group, factor): group for group in groups} for name, groups in panels.items()}, runs)


def _level(group: Group, factor: str) -> str:
    value = group.conditions[factor]
    return words(f"no {factor}" if value is None else label({factor: value}))


def kept(panels: Panels, runs: set[str]) -> Panels:
    """Panels and groups that hold any of some runs."""
    holding = {name: {k: g for k, g in groups.items() if runs & set(g.rows["run_id"])} for name, groups in panels.items()}
    return {name: groups for name, groups in holding.items() if groups}


def groups_of(panels: Panels) -> list[Group]:
    """All groups."""
    return [group for groups in panels.values() for group in groups.values()]


def labels_of(panels: Panels) -> list[str]:
    """Labels of all groups, each once."""
    return list(dict.fromkeys(name for groups in panels.values() for name in groups))


def points(groups: Iterable[Group], outcome: str) -> Values:
    """Values of the runs of some groups as they are drawn, (n,)."""
    return np.concatenate([group.values(outcome) for group in groups]) * outcome_of(outcome).scale


def runs_with(section: Section, *outcomes: str) -> set[str]:
    """Runs with a finite value of any of some outcomes."""
    return {run for name in outcomes if name in section.rows for run in usable(section.rows, name)["run_id"]}


def read_all(section: Section, read: Callable[[Path], Read | None]) -> dict[str, Read]:
    """What can be read of the runs that the filter leaves, from their folders."""
    rows = section.rows[~section.rows["filtered"]]
    values = {run: read(Path(folder)) for run, folder in zip(rows["run_id"], rows["folder"], strict=True)}
    return {run: value for run, value in values.items() if value is not None}


def plates(
    section: Section,
    name: str,
    caption: str,
    panels: Panels,
    runs: set[str],
    page: Callable[[Panels], Figure],
    most: int,
    weigh: Callable[[Mapping[str, Group]], int] = lambda groups: 1,
    lacking: str = "without a finite value",
) -> list[Plate]:
    """Figures of one kind: NAME, NAME_2, ...; none without panels.

    Args:
        section: all of its runs are accounted for in the caption.
        name: of the first figure.
        caption: what is shown.
        panels: with runs to show.
        runs: that have what it takes to be drawn.
        page: draws panels.
        most: what the panels of a figure may weigh together.
        weigh: weight of a panel.
        lacking: what is said of runs that are done and have not what it takes.
    """
    pages = _pages(panels, most, weigh)
    caption += _census(section, pages, runs, lacking)
    n = len(pages)
    return [
        Plate(f"{name}_{i}" if i > 1 else name, f"({i} of {n}) {caption}" if n > 1 else caption, page(shown))
        for i, shown in enumerate(pages, 1)
    ]


def _pages(panels: Panels, most: int, weigh: Callable[[Mapping[str, Group]], int]) -> list[Panels]:
    """Panels by figure: those that weigh up to `most` together, on up to MOST_PAGES figures."""
    pages: list[Panels] = []
    room = 0
    for name, groups in panels.items():
        if not pages or room < weigh(groups):
            pages.append({})
            room = most
        pages[-1][name] = groups
        room -= weigh(groups)
    return pages[:MOST_PAGES]


def _census(section: Section, pages: Sequence[Panels], runs: set[str], lacking: str) -> str:
    """How many runs are shown of how many, and what became of the others."""
    drawn = runs & {run for page in pages for group in groups_of(page) for run in group.rows["run_id"]}
    lost: dict[str, list[str]] = defaultdict(list)
    for run, state, filtered in section.rows[["run_id", "state", "filtered"]].itertuples(index=False):
        if run not in runs:
            lost["taken out by the filter" if filtered else lacking if state == "done" else state].append(run)
        elif run not in drawn:
            lost["in panels that had no room"].append(run)
    reasons = [f"{len(ids)} {reason} ({named(ids)})" for reason, ids in lost.items()]
    return f" {len(drawn)} of {len(section.rows)} runs are shown" + (f"; not shown: {', '.join(reasons)}." if reasons else ".")


def named(ids: Sequence[str]) -> str:
    """The first of some runs, and how many more there are."""
    return ", ".join(ids[:MOST_NAMES]) + (f" and {len(ids) - MOST_NAMES} more" if len(ids) > MOST_NAMES else "")
