"""Figures of tables that runs left: one for each group of runs, or a panel for each group and kind of line."""

from collections.abc import Callable, Mapping

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

from lit_degrade.evidence.claims.sections import Section
from lit_degrade.evidence.drawing.looks import wrapped
from lit_degrade.evidence.drawing.panels import Panels, Plate, plates
from lit_degrade.evidence.reading.groups import Group, full_label
from lit_degrade.evidence.reading.record_tables import of_runs
from lit_degrade.evidence.reading.words import words

Page = Callable[[pd.DataFrame], Figure]
"""Makes a figure from the lines of one group of runs."""


def by_group(section: Section, table: pd.DataFrame) -> dict[str, tuple[Group, pd.DataFrame]]:
    """Label of a group -> the group and its lines of a table, where it has any."""
    labelled = {words(full_label(group)): (group, of_runs(table, list(group.rows["run_id"]))) for group in section.groups}
    return {name: (group, lines) for name, (group, lines) in labelled.items() if len(lines)}


def group_plates(section: Section, name: str, caption: str, table: pd.DataFrame, draw: Page, lacking: str) -> list[Plate]:
    """A figure for each group of runs that left a table; its label stands above where there are several groups.

    Args:
        section: with the groups.
        name: of the first figure.
        caption: what is shown.
        table: lines to draw.
        draw: makes the figures.
        lacking: what is said of runs that have no line to draw.
    """
    labelled = by_group(section, table)
    panels: Panels = {label: {label: group} for label, (group, _) in labelled.items()}

    def page(shown: Panels) -> Figure:
        (label,) = shown
        figure = draw(labelled[label][1])
        if len(labelled) > 1 and figure.legends:
            figure.legends[0].set_title(wrapped(label, 90), prop=FontProperties(size=8, weight="bold"))
        elif len(labelled) > 1:
            figure.suptitle(wrapped(label, 90), fontsize=8, fontweight="bold")
        return figure

    runs = {run for _, lines in labelled.values() for run in lines["run_id"]}
    return plates(section, name, caption, panels, runs, page, most=1, lacking=lacking)


def panel_plates(
    section: Section,
    name: str,
    caption: str,
    lines: pd.DataFrame,
    page: Callable[[Mapping[str, pd.DataFrame]], Figure],
    most: int,
    lacking: str,
) -> list[Plate]:
    """Figures with a panel for each group of runs and each value of `panel`; groups are named where there are several.

    Args:
        section: with the groups.
        name: of the first figure.
        caption: what is shown.
        lines: with `run_id` and `panel`, the name of the panel that a line belongs to.
        page: draws panels.
        most: panels in a figure.
        lacking: what is said of runs that have no line.
    """
    groups = by_group(section, lines)
    by_panel, panels = {}, Panels()
    for label, (group, own) in groups.items():
        for panel, mine in own.groupby("panel", sort=False):
            parts = [*(label.split(", ") if len(groups) > 1 else []), str(panel)]
            key = ", ".join(dict.fromkeys(part for part in parts if part))
            by_panel[key], panels[key] = mine, {key: group}

    def draw(shown: Panels) -> Figure:
        return page({key: by_panel[key] for key in shown})

    return plates(section, name, caption, panels, set(lines["run_id"]), draw, most=most, lacking=lacking)
