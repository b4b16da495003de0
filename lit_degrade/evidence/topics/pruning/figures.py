"""What pruning costs against how much of a subject it zeroes, by method, and which matrices it changes most."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from lit_degrade.evidence.claims.sections import Section
from lit_degrade.evidence.drawing.axes import STEPS, Decades, canvas, cross, dots, mean_tick, panel_grid
from lit_degrade.evidence.drawing.heat import colour_bar, grid_of, heat, norm_of
from lit_degrade.evidence.drawing.looks import GREY, Look, legend, looks_of, wrapped
from lit_degrade.evidence.drawing.panels import Panels, Plate, plates
from lit_degrade.evidence.numbers.statistics import Values
from lit_degrade.evidence.reading.estimates import drawable, observations
from lit_degrade.evidence.reading.groups import Group
from lit_degrade.evidence.reading.record_tables import of_runs
from lit_degrade.evidence.reading.sites import averaged, components_of, span
from lit_degrade.evidence.reading.words import outcome_of, words
from lit_degrade.evidence.topics.pruning.rows import ACHIEVED, ERROR, error_lines, level_of, pruned, subject_of, way_of
from lit_degrade.records.tables import DAMAGE, PRUNING

Curve = list[tuple[float, Values]]
"""Sparsity and what it cost, the least first."""
MOST, COLUMNS = 4, 2
"""Panels of curves in a figure, and beside each other."""
MAPS = 6
"""Methods whose maps a figure has room for."""
NUMBERED = 7
"""Most depths at which cells of a map say their numbers."""
USUAL = 0.5
"""Sparsity that maps are of where several are there as often."""
LINEAR = -1
"""Power of ten up to which an axis of losses is linear, where they go far beyond it."""
ASIDE = 0.4
"""Of the distance between two sparsities, what the methods at one take up beside each other."""


def pruning_plates(section: Section) -> list[Plate]:
    """Loss against sparsity, and maps of reconstruction errors; none where no run pruned anything."""
    return [*_curve_plates(section), *_map_plates(section)]


def _curve_plates(section: Section) -> list[Plate]:
    """A panel for each subject, a line for each way of pruning."""
    curves: dict[str, dict[str, Curve]] = {}
    panels: Panels = {}
    for group in section.groups:
        rows = pruned(group)
        if len(rows):
            subject, values = subject_of(group), observations(rows, DAMAGE)
            curve = curves.setdefault(subject, {}).setdefault(way_of(group), [])
            curve.append((float(rows[ACHIEVED].mean()), np.where(drawable(values), values, math.inf)))
            panels.setdefault(subject, {})[group.label] = group
    if not panels:
        return []
    ways = list(dict.fromkeys(way for by_way in curves.values() for way in by_way))
    every = [values for by_way in curves.values() for curve in by_way.values() for _, values in curve]
    lost = sum(int((~np.isfinite(values)).sum()) for values in every)
    caption = (
        "Loss on held-out text against the share of weights that pruning zeroes, as achieved, by method; methods with the same "
        "sparsity stand side by side. Points: runs, identical ones once; ticks and bars: mean with 95 % Student t interval "
        f"over seeds (n = {span([len(values) for values in every])}), cut where it leaves the panel; lines join the means."
    )
    caption += f" Crosses at the top, with their share: diverged, or not finite ({lost})." if lost else ""
    looks = looks_of(ways)

    def page(shown: Panels) -> Figure:
        return _curve_page({name: curves[name] for name in shown}, looks)

    runs = {run for groups in panels.values() for group in groups.values() for run in pruned(group)["run_id"]}
    return plates(section, "pruning", caption, panels, runs, page, most=MOST, lacking=f"without {words(ACHIEVED)}")


def _curve_page(panels: Mapping[str, Mapping[str, Curve]], looks: Mapping[str, Look]) -> Figure:
    """Panels share their axes; points alone decide how far these reach."""
    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure, axes = canvas(rows, columns, 0.9 + (2.7 if rows == 1 else 2.1 * rows), sharex=True, sharey=True)
    drawn = [point for curves in panels.values() for curve in curves.values() for point in curve]
    values, levels = np.concatenate([values for _, values in drawn]), sorted({round(level, 3) for level, _ in drawn})
    step = ASIDE * min(np.diff(levels), default=0.1) / len(looks)
    places = {way: step * (i - (len(looks) - 1) / 2) for i, way in enumerate(looks)}
    top = axes.flat[0]
    label = _value_axis(top, values[np.isfinite(values)])
    top.margins(y=0.06 if np.isfinite(values).all() else 0.2)
    top.set_xlim(min(levels) - 0.05, max(levels) + 0.05)
    cells = list(zip(axes.flat, panels.items(), strict=False))
    for ax, (name, curves) in cells:
        ax.set_title(wrapped(name))
        ax.axhline(0, color=GREY, lw=0.7, zorder=0)
        for way, curve in curves.items():
            for level, own in curve:
                finite = own[np.isfinite(own)]
                dots(ax, np.full(len(finite), level + places[way]), finite, looks[way])
    for ax, (_, curves) in cells:
        ax.set_ylim(ax.get_ylim())
        _means(ax, curves, looks, places)
    for i, ax in enumerate(axes.flat):
        ax.set_visible(i < len(panels))
        ax.tick_params(labelbottom=i + columns >= len(panels))
    figure.supylabel(label, fontsize=8)
    figure.supxlabel("weights that are zero [share of those pruned]", fontsize=8)
    legend(figure, looks)
    return figure


def _value_axis(ax: Axes, values: Values) -> str:
    """Scale of the y axis, logarithmic where much is lost; returns its label."""
    if not (np.abs(values) > 10.0 ** (LINEAR + 1)).any():
        ax.yaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
        return outcome_of(DAMAGE).axis
    ax.set_yscale("symlog", linthresh=10.0**LINEAR)
    ax.yaxis.set_major_locator(Decades(LINEAR))
    ax.yaxis.set_minor_locator(NullLocator())
    return f"{outcome_of(DAMAGE).axis} (linear up to {10.0**LINEAR:g})"


def _means(ax: Axes, curves: Mapping[str, Curve], looks: Mapping[str, Look], places: Mapping[str, float]) -> None:
    """Means, intervals, the lines that join the means, and crosses where something is not finite."""
    order = list(looks)
    for way, curve in curves.items():
        look, by_level = looks[way], sorted(curve, key=lambda point: point[0])
        means = [(level + places[way], values[np.isfinite(values)]) for level, values in by_level]
        shown = [(x, float(finite.mean())) for x, finite in means if len(finite)]
        ax.plot(*np.array(shown).reshape(-1, 2).T, color=look.colour, ls=look.line, lw=1.0, alpha=0.8, zorder=2)
        for (x, finite), (_, values) in zip(means, by_level, strict=True):
            if len(finite):
                mean_tick(ax, finite, x, look, along="y")
            if len(finite) < len(values):
                cross(ax, x, 1.0 - 0.07 * order.index(way), f"{len(values) - len(finite)}/{len(values)}", look)


def _map_plates(section: Section) -> list[Plate]:
    """For each subject a map for each way of pruning, at the sparsity that most groups have."""
    lines = error_lines(section)
    holding = [group for group in section.groups if len(of_runs(lines, list(group.rows["run_id"])))] if len(lines) else []
    if not holding:
        return []
    level, mine = _commonest(holding)
    panels: Panels = {}
    for group in mine:
        panels.setdefault(subject_of(group), {})[way_of(group)] = group
    more = list(dict.fromkeys(way for groups in panels.values() for way in list(groups)[MAPS:]))
    panels = {name: dict(list(groups.items())[:MAPS]) for name, groups in panels.items()}
    at = f" at a sparsity of {level:g}" if math.isfinite(level) else ""
    caption = (
        f"Reconstruction error of every component (rows) at every depth (columns; at the right what is in no block){at}, by "
        "method: norm of the change of a matrix's outputs on the calibration text over the norm of its outputs, mean over "
        "matrices by their weights, then over runs. Blank: not measured; crosses: not finite."
    )
    caption += f" Not drawn: {', '.join(more)}." if more else ""

    def page(shown: Panels) -> Figure:
        ((name, groups),) = shown.items()
        return _map_page({way: of_runs(lines, list(group.rows["run_id"])) for way, group in groups.items()}, name)

    lacking = f"of another sparsity, or without {words(ERROR)}s in {PRUNING}"
    runs = {run for groups in panels.values() for group in groups.values() for run in group.rows["run_id"]}
    return plates(section, "pruning_map", caption, panels, runs & set(lines["run_id"]), page, most=1, lacking=lacking)


def _commonest(groups: Sequence[Group]) -> tuple[float, list[Group]]:
    """The sparsity that most groups have, the nearest to USUAL of several, and these groups."""
    levels = [round(level_of(group), 3) for group in groups]
    counts = Counter(level for level in levels if math.isfinite(level))
    if not counts:
        return math.nan, list(groups)
    best = min(counts, key=lambda level: (-counts[level], abs(level - USUAL)))
    return best, [group for group, level in zip(groups, levels, strict=True) if level == best]


def _map_page(ways: Mapping[str, pd.DataFrame], subject: str) -> Figure:
    """Maps of one subject, with the same colours."""
    by: list[str] = ["run_id", "component", "depth"]
    cells: dict[str, Any] = {way: averaged(own, ERROR, by).groupby(["component", "depth"]).mean() for way, own in ways.items()}
    everything = pd.concat(list(cells.values()))
    rows = components_of(pd.concat(list(ways.values())))
    figure, axes = panel_grid(len(cells), 0.55 + 0.19 * len(rows), 0.6)
    norm = norm_of(everything.to_numpy(dtype=float), below_zero=False)
    for ax, (way, errors) in zip(axes.flat, cells.items(), strict=False):
        grid = grid_of(errors, rows)
        numbers = ".2g" if grid.shape[1] <= NUMBERED else ""
        colours = heat(ax, grid, norm, grid_of(~np.isfinite(errors), rows), numbers)
        ax.set_title(wrapped(way, 45))
    colour_bar(figure, axes, colours, "reconstruction error [share of the norm of outputs]")
    figure.suptitle(wrapped(subject, 90), fontsize=8, fontweight="bold")
    figure.supxlabel("depth [block]", fontsize=8)
    return figure
