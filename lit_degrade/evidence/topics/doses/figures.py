"""Damage and text measures against the dose of a perturbation: repetitions, means with intervals, what diverged."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.ticker import MaxNLocator

from lit_degrade.evidence.claims.sections import Section
from lit_degrade.evidence.drawing.axes import STEPS, canvas, cross, dots, mean_tick, scale_axis
from lit_degrade.evidence.drawing.levels import level_axis, places_of_levels
from lit_degrade.evidence.drawing.looks import GREY, Look, legend, looks_of, wrapped
from lit_degrade.evidence.drawing.panels import MOST_PAGES, Panels, Plate, plates
from lit_degrade.evidence.numbers.statistics import Values
from lit_degrade.evidence.reading.estimates import drawable, observations
from lit_degrade.evidence.reading.groups import Group, full_label, label
from lit_degrade.evidence.reading.record_tables import of_runs
from lit_degrade.evidence.reading.variants import DoseSeries, by_level, of_variant, variants_of
from lit_degrade.evidence.reading.words import method_of, outcome_of, words
from lit_degrade.evidence.topics.doses.rows import text_measures
from lit_degrade.records.tables import DAMAGE, DOSES

Curve = dict[float, Values]
"""Level -> observations of a measure as they are drawn, weakest level first."""
MOST, COLUMNS = 6, 2
"""Panels in a figure, and beside each other."""
TOP = 1.0
"""Upper end of the crosses, of the height of the axes."""
_READING = (
    "Points: repetitions, identical ones once; ticks and bars: mean with 95 % Student t interval over repetitions and seeds, "
    "cut where it leaves the panel; lines join the means."
)


class _Panel(NamedTuple):
    """What is drawn in a panel."""

    variant: DoseSeries
    measure: str
    title: str
    curves: dict[str, Curve]
    """by group"""


def dose_plates(section: Section) -> list[Plate]:
    """Damage over the dose for each subject, then the text measures of each variant and task; none where no run left doses."""
    if not len(section.table(DOSES)):
        return []
    return [*_overviews(section), *_texts(section)]


def _overviews(section: Section) -> list[Plate]:
    """For each subject a figure with a panel for each variant."""
    by_subject: dict[str, dict[str, Group]] = {}
    for group in _holding(section.groups, section.table(DOSES)):
        by_subject.setdefault(str(group.rows["subject"].iloc[0]), {})[words(_rest(group) or "all runs")] = group
    figures = []
    for subject, groups in by_subject.items():
        doses = of_runs(section.table(DOSES), _runs(groups))
        panels = {
            _title(variant): _Panel(
                variant, DAMAGE, _title(variant), _curves(of_variant(doses, variant), variant, groups, DAMAGE)
            )
            for variant in variants_of(doses)
        }
        name = "doses" if len(by_subject) == 1 else f"doses_{_file(subject)}"
        figures += _plates(section, name, f"{subject}: loss on held-out text against the dose, by variant.", groups, panels)
    return figures


def _texts(section: Section) -> list[Plate]:
    """For each variant, task and set of conditions beside the subject a figure with a panel for each measure."""
    figures = []
    for variant in variants_of(section.table(DOSES)):
        doses = of_variant(section.table(DOSES), variant)
        by_rest: dict[str, dict[str, Group]] = {}
        for group in _holding(section.groups, doses):
            name = str(group.conditions.get("subject") or words(full_label(group)))
            by_rest.setdefault(words(_rest(group)), {})[name] = group
        for rest, groups in by_rest.items():
            figures += _texts_of(section, variant, of_runs(doses, _runs(groups)), groups, rest if len(by_rest) > 1 else "")
    return figures


def _texts_of(
    section: Section, variant: DoseSeries, doses: pd.DataFrame, groups: Mapping[str, Group], rest: str
) -> list[Plate]:
    """For each task a figure of groups that differ in their subject only; `rest` says what else tells them from others."""
    figures = []
    beside = f", {rest}" if rest else ""
    for task, measures in text_measures(doses).items():
        panels = {name: _Panel(variant, name, "", _curves(doses, variant, groups, name)) for name in measures}
        more = ", ".join(outcome_of(name).label for name in measures[MOST * MOST_PAGES :])
        caption = f"Text of {words(task)} against the dose of {_title(variant)}{beside}." + (
            f" Not drawn: {more}." if more else ""
        )
        name = "_".join(["doses", _file(variant.name), _file(task), *([_file(rest.replace(" ", "-"))] if rest else [])])
        figures += _plates(section, name, caption, groups, panels, f"{words(task)}: {_title(variant)}{beside}")
    return figures


def _rest(group: Group) -> str:
    """What a group is beside its subject."""
    rest = {name: value for name, value in group.conditions.items() if name != "subject"}
    return label(rest) if rest else ""


def _plates(
    section: Section, name: str, caption: str, groups: Mapping[str, Group], panels: Mapping[str, _Panel], heading: str = ""
) -> list[Plate]:
    """Figures of some panels; their captions count the runs of these groups alone."""
    rows = section.rows[section.rows["run_id"].isin(_runs(groups))]
    drawn: Panels = {key: {name: groups[name] for name in panel.curves} for key, panel in panels.items()}
    looks = looks_of(groups)
    if all(len(panel.curves) == 1 for panel in panels.values()):
        looks = dict.fromkeys(looks, next(iter(looks.values())))

    def page(shown: Panels) -> Figure:
        return _page([panels[key] for key in shown], looks, heading)

    caption = f"{caption} {_READING}{_counts(list(panels.values()))}"
    runs, lacking = set(section.table(DOSES)["run_id"]), f"without doses in {DOSES}"
    return plates(replace(section, rows=rows), name, caption, drawn, runs, page, most=MOST, lacking=lacking)


def _holding(groups: Sequence[Group], doses: pd.DataFrame) -> list[Group]:
    """Groups that some doses are of."""
    runs = set(doses["run_id"])
    return [group for group in groups if runs & set(group.rows["run_id"])]


def _runs(groups: Mapping[str, Group]) -> list[str]:
    return [run for group in groups.values() for run in group.rows["run_id"]]


def _title(variant: DoseSeries) -> str:
    return f"{words(variant.name)} ({method_of(variant.method).label}, {words(variant.target)})"


def _file(name: str) -> str:
    return re.sub(r"[^\w.-]", "-", name)


def _curves(doses: pd.DataFrame, variant: DoseSeries, groups: Mapping[str, Group], measure: str) -> dict[str, Curve]:
    """By group, where it has any observation."""
    scale, curves = outcome_of(measure).scale, {}
    for name, group in groups.items():
        levels = by_level(of_runs(doses, list(group.rows["run_id"])), variant)
        curve = {level: _drawn(observations(at, measure)) * scale for level, at in levels}
        curves[name] = {level: values for level, values in curve.items() if len(values)}
    return {name: curve for name, curve in curves.items() if curve}


def _drawn(values: Values) -> Values:
    """Values, inf where one has no place on an axis."""
    return np.where(drawable(values), values, math.inf)


def _counts(panels: Sequence[_Panel]) -> str:
    """How many observations a level has, and where some have no finite value."""
    sizes = [len(values) for panel in panels for curve in panel.curves.values() for values in curve.values()]
    n = f"{min(sizes)} to {max(sizes)}" if min(sizes) < max(sizes) else str(min(sizes))
    lost = {words(p.variant.name) if p.title else outcome_of(p.measure).label: _lost(p) for p in panels}
    said = "; ".join(f"{name}: {k}" for name, k in lost.items() if k)
    crosses = f" Crosses at the top, with their share of the level: not finite, or beyond 1e100 ({said})." if said else ""
    return f" n = {n} at each level.{crosses}"


def _lost(panel: _Panel) -> int:
    """Observations without a finite value."""
    return sum(int((~np.isfinite(values)).sum()) for curve in panel.curves.values() for values in curve.values())


def _page(panels: Sequence[_Panel], looks: Mapping[str, Look], heading: str) -> Figure:
    """Panels of damage share its axis; points alone decide how far axes reach."""
    shared = not heading
    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure, axes = canvas(rows, columns, 0.5 + (2.9 if rows == 1 else 2.15 * rows), sharey=shared)
    cells = list(zip(axes.flat, panels, strict=False))
    for i, (ax, panel) in enumerate(cells):
        label = _value_axis(ax, panel.measure, _finite(panels if shared else [panel]))
        ax.set_title(wrapped(panel.title, 96 // columns), weight="normal")
        ax.set_ylabel(label if i % columns == 0 or not shared else "")
        ax.margins(y=0.2 if any(map(_lost, panels if shared else [panel])) else 0.06)
        _points(ax, panel, looks)
    for ax, panel in cells:
        ax.set_ylim(ax.get_ylim())
        _means(ax, panel, looks)
    for ax in axes.flat[len(panels) :]:
        ax.set_visible(False)
    _head(figure, looks, heading)
    return figure


def _head(figure: Figure, looks: Mapping[str, Look], heading: str) -> None:
    """Legend, where there is more than one group, with the heading as its title."""
    if len(set(looks.values())) > 1:
        legend(figure, looks)
    if figure.legends and heading:
        figure.legends[0].set_title(wrapped(heading, 90), prop=FontProperties(size=8, weight="bold"))
    elif heading:
        figure.suptitle(wrapped(heading, 90), fontsize=8, fontweight="bold")


def _finite(panels: Sequence[_Panel]) -> Values:
    """Every value that has a place on an axis."""
    values = np.concatenate([values for panel in panels for curve in panel.curves.values() for values in curve.values()])
    return values[np.isfinite(values)]


def _value_axis(ax: Axes, measure: str, values: Values) -> str:
    """Scale of the y axis; returns its label. Shares stay linear, whatever their sizes."""
    outcome = outcome_of(measure)
    ax.axhline(0, color=GREY, lw=0.7, zorder=0)
    ax.yaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
    linear = outcome.unit == "%" or outcome.unit.startswith("share")
    return _broken(outcome.axis if linear else scale_axis(ax, "y", measure, values))


def _broken(label: str) -> str:
    """A label in short lines, units together."""
    name, bracket, rest = label.partition(" [")
    return label if len(label) <= 34 else "\n".join([*wrapped(name, 32).splitlines(), bracket.strip() + rest])


def _points(ax: Axes, panel: _Panel, looks: Mapping[str, Look]) -> None:
    """Every finite observation, on an axis of levels."""
    places = level_axis(ax, panel.variant, _levels(panel))
    for name, curve in panel.curves.items():
        for level, values in curve.items():
            finite = values[np.isfinite(values)]
            dots(ax, np.full(len(finite), places[level]), finite, looks[name])


def _levels(panel: _Panel) -> set[float]:
    return {level for curve in panel.curves.values() for level in curve}


def _means(ax: Axes, panel: _Panel, looks: Mapping[str, Look]) -> None:
    """Means, intervals, the lines that join the means, and crosses where something is not finite."""
    places = places_of_levels(_levels(panel))
    for i, (name, curve) in enumerate(panel.curves.items()):
        look, finite = looks[name], {level: values[np.isfinite(values)] for level, values in curve.items()}
        means = {places[level]: float(values.mean()) for level, values in finite.items() if len(values)}
        ax.plot(list(means), list(means.values()), color=look.colour, ls=look.line, lw=1.0, alpha=0.8, zorder=2)
        for level, values in finite.items():
            if len(values):
                mean_tick(ax, values, places[level], look, along="y")
            if len(values) < len(curve[level]):
                share = f"{len(curve[level]) - len(values)}/{len(curve[level])}"
                cross(ax, places[level], TOP - 0.11 * i, f"\n{share}", look)
