"""Results of benchmarks: of variants beside each other, and against the dose where that varies."""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lit_degrade.evidence.claims.sections import Section
from lit_degrade.evidence.drawing.axes import STEPS, canvas, cross, cross_right, mean_tick
from lit_degrade.evidence.drawing.groups import by_group, group_plates
from lit_degrade.evidence.drawing.levels import level_axis
from lit_degrade.evidence.drawing.looks import GREY, Look, legend, looks_of, wrapped
from lit_degrade.evidence.drawing.panels import Panels, Plate, plates
from lit_degrade.evidence.numbers.statistics import Values
from lit_degrade.evidence.reading.estimates import drawable, observations
from lit_degrade.evidence.reading.groups import Group
from lit_degrade.evidence.reading.sites import span
from lit_degrade.evidence.reading.variants import DoseSeries, of_variant, variants_of
from lit_degrade.evidence.reading.words import benchmark_metric_of, method_of, words
from lit_degrade.evidence.topics.benchmarks.rows import CHANCE, Measure, benchmark_name, measures_of, of_measure, result_of
from lit_degrade.records.tables import BENCHMARKS

COLUMNS, MOST = 2, 6
"""Panels beside each other, and in a figure."""
_READING = (
    "Points: runs and repetitions, identical ones once; wide bars: mean ± its standard error over the items; ticks and thin "
    "bars: mean with 95 % Student t interval over runs and repetitions, where there are several"
)


class Point(NamedTuple):
    """Results of one variant at one level."""

    values: Values
    """as they are drawn, of runs and repetitions; inf where one is not finite"""
    error: float
    """mean standard error over the items; nan where it is not known"""


def has_levels(lines: pd.DataFrame) -> bool:
    """Whether the dose of a variant varies."""
    return bool(lines["level"].nunique() > 1)


def benchmark_plates(section: Section) -> list[Plate]:
    """Variants beside each other, then a figure for each whose dose varies; none where no run left results."""
    lines = section.table(BENCHMARKS)
    lines = lines.dropna(subset=["value"]) if len(lines) else lines
    if not len(lines):
        return []
    own = {variant: of_variant(lines, variant) for variant in variants_of(lines)}
    varied = [variant for variant, mine in own.items() if has_levels(mine)]
    fixed = pd.concat([lines.iloc[:0], *(mine for variant, mine in own.items() if variant not in varied)])
    intact = fixed[fixed["level"].isna()] if varied else fixed.iloc[:0]
    beside = len(fixed) > 0 and not (varied and fixed["variant"].nunique() == 1)
    bars = _bar_plates(section, fixed) if beside else []
    return [*bars, *(plate for variant in varied for plate in _level_plates(section, own[variant], variant, intact))]


def _bar_plates(section: Section, lines: pd.DataFrame) -> list[Plate]:
    """For each group of runs its variants below each other, a panel for each measure."""
    more = [measure.title for measure in measures_of(lines)[MOST:]]
    caption = f"Benchmarks of variants of a subject. {_READING}.{_chance_words(lines)}"
    caption += f" Crosses at the right edge, with their share: not finite ({_lost(lines)})." if _lost(lines) else ""
    caption += f" Not drawn: {', '.join(more)}." if more else ""
    return group_plates(section, "benchmarks", caption, lines, _bar_page, f"without such results in {BENCHMARKS}")


def _chance_words(lines: pd.DataFrame) -> str:
    chances = {it.benchmark: CHANCE[it.benchmark] for it in measures_of(lines) if it.chance is not None}
    said = ", ".join(f"{benchmark_name(name)} {100 * share:g} %" for name, share in chances.items())
    return f" Dashed: chance ({said})." if said else ""


def _lost(lines: pd.DataFrame) -> int:
    return int((~drawable(lines["value"])).sum())


def _point(lines: pd.DataFrame, metric: str) -> Point:
    """Of one variant, level and measure."""
    scale, values = benchmark_metric_of(metric).scale, observations(lines.assign(random=False), "value")
    return Point(np.where(drawable(values), values * scale, math.inf), scale * result_of(lines)[1])


def _bar_page(lines: pd.DataFrame) -> Figure:
    names, measures = list(dict.fromkeys(lines["variant"])), measures_of(lines)[:MOST]
    columns = min(COLUMNS, len(measures))
    rows = math.ceil(len(measures) / columns)
    figure, axes = canvas(rows, columns, 0.3 + rows * (0.75 + 0.19 * len(names)), sharey=True)
    look = looks_of([""])[""]
    for ax, measure in zip(axes.flat, measures, strict=False):
        mine = of_measure(lines, measure)
        for i, name in enumerate(names):
            own = mine[mine["variant"] == name]
            if len(own):
                _bar(ax, _point(own, measure.metric), i, look)
        outcome = benchmark_metric_of(measure.metric)
        ax.set_title(measure.title)
        ax.set_xlabel(outcome.axis)
        ax.set_xlim(left=0)
        ax.xaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
        ax.tick_params(axis="y", length=0)
        if measure.chance is not None:
            ax.axvline(measure.chance, color=GREY, lw=1, ls="--", zorder=1)
    axes[0, 0].set_yticks(range(len(names)), [wrapped(words(name), 24) for name in names])
    axes[0, 0].set_ylim(len(names) - 0.4, -0.6)
    for ax in axes.flat[len(measures) :]:
        ax.set_visible(False)
    return figure


def _bar(ax: Axes, point: Point, at: float, look: Look) -> None:
    """Results of one variant."""
    finite = point.values[np.isfinite(point.values)]
    if len(finite):
        mean = float(finite.mean())
        ax.barh(at, mean, height=0.7, color=look.colour, alpha=0.18, lw=0, zorder=1)
        _error(ax, [mean - point.error, mean + point.error], [at, at], look)
        ax.plot(finite, np.full(len(finite), at), ls="", marker="o", ms=2.6, mfc="white", mec=look.colour, mew=0.8, zorder=3)
        mean_tick(ax, finite, at, look)
    if len(finite) < len(point.values):
        cross_right(ax, at, len(point.values) - len(finite), len(point.values), look)


def _error(ax: Axes, x: Any, y: Any, look: Look) -> None:
    """The standard error over items, wide."""
    if np.isfinite([*x, *y]).all():
        ax.plot(x, y, color=look.colour, lw=4.5, alpha=0.4, solid_capstyle="butt", zorder=2)


def _level_plates(section: Section, lines: pd.DataFrame, variant: DoseSeries, intact: pd.DataFrame) -> list[Plate]:
    """Panels of measures against the dose of one variant, a line for each group, beside that of the intact subject."""
    start = {name: own for name, (_, own) in by_group(section, intact).items()}
    labelled = by_group(section, lines)
    measures = {f"{measure.title}, {measure.metric}": measure for measure in measures_of(lines)}
    curves = {
        key: {name: _curve(of_measure(own, measure)) for name, (_, own) in labelled.items() if len(of_measure(own, measure))}
        for key, measure in measures.items()
    }
    groups: dict[str, Group] = {name: group for name, (group, _) in labelled.items()}
    panels: Panels = {key: {name: groups[name] for name in by_name} for key, by_name in curves.items()}
    sizes = [len(point.values) for by_name in curves.values() for curve in by_name.values() for point in curve.values()]
    heading = f"{words(variant.name)} ({', '.join(filter(None, [method_of(variant.method).label, words(variant.target)]))})"
    caption = (
        f"Benchmarks against the dose of {heading}. {_READING} (n = {span(sizes)} at each level); lines join the means."
        f"{_chance_words(lines)}"
    )
    caption += " Dotted: without damage." if start else ""
    caption += f" Crosses at the top, with their share: not finite ({_lost(lines)})." if _lost(lines) else ""
    looks = looks_of(labelled)

    def page(shown: Panels) -> Figure:
        return _level_page({measures[key]: curves[key] for key in shown}, variant, looks, start)

    name = "benchmarks_" + re.sub(r"[^\w.-]", "-", variant.name)
    runs = set(lines["run_id"])
    return plates(section, name, caption, panels, runs, page, most=MOST, lacking=f"without such results in {BENCHMARKS}")


def _curve(lines: pd.DataFrame) -> dict[float, Point]:
    """Level -> results, of one measure."""
    metric = str(lines["metric"].iloc[0])
    return {float(level): _point(own, metric) for level, own in lines.groupby("level")}  # type: ignore[arg-type]


def _level_page(
    panels: Mapping[Measure, Mapping[str, Mapping[float, Point]]],
    variant: DoseSeries,
    looks: Mapping[str, Look],
    start: Mapping[str, pd.DataFrame],
) -> Figure:
    """Panels by twos, where `start` are the lines of the intact subject of some groups; points decide how far axes reach."""
    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure, axes = canvas(rows, columns, 0.5 + (2.7 if rows == 1 else 2.2 * rows))
    for ax, (measure, curves) in zip(axes.flat, panels.items(), strict=False):
        levels = {level for curve in curves.values() for level in curve}
        places = level_axis(ax, variant, levels)
        lost = any((~np.isfinite(point.values)).any() for curve in curves.values() for point in curve.values())
        for i, (name, curve) in enumerate(curves.items()):
            _line(ax, {places[level]: point for level, point in curve.items()}, looks[name], 1.0 - 0.11 * i)
            _start(ax, start.get(name), measure, looks[name])
        if measure.chance is not None:
            ax.axhline(measure.chance, color=GREY, lw=1, ls="--", zorder=1)
        ax.yaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
        ax.margins(y=0.22 if lost else 0.08)
        ax.set_title(measure.title)
        ax.set_ylabel(benchmark_metric_of(measure.metric).axis)
    for ax in axes.flat[len(panels) :]:
        ax.set_visible(False)
    legend(figure, looks)
    return figure


def _start(ax: Axes, lines: pd.DataFrame | None, measure: Measure, look: Look) -> None:
    """A line at the result of the intact subject, where it is known."""
    own = of_measure(lines, measure) if lines is not None else pd.DataFrame()
    values = _point(own, measure.metric).values if len(own) else np.empty(0)
    if len(values) and np.isfinite(values).all():
        ax.axhline(float(values.mean()), color=look.colour, lw=1, ls=":", zorder=1)


def _line(ax: Axes, curve: Mapping[float, Point], look: Look, top: float) -> None:
    """Results of one group of runs at every level."""
    finite = {x: point.values[np.isfinite(point.values)] for x, point in curve.items()}
    means = {x: float(values.mean()) for x, values in finite.items() if len(values)}
    ax.plot(list(means), list(means.values()), color=look.colour, ls=look.line, lw=1.0, alpha=0.8, zorder=2)
    for x, values in finite.items():
        if len(values):
            _error(ax, [x, x], [means[x] - curve[x].error, means[x] + curve[x].error], look)
            style: Any = {"marker": look.marker, "ms": 2.6, "mfc": "white", "mec": look.colour, "mew": 0.8}
            ax.plot(np.full(len(values), x), values, ls="", zorder=3, **style)
            mean_tick(ax, values, x, look, along="y")
        if len(values) < len(curve[x].values):
            cross(ax, x, top, f"\n{len(curve[x].values) - len(values)}/{len(curve[x].values)}", look)
