"""What perturbing the highest weights by each metric costs, beside its controls, against how many they are."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.ticker import MaxNLocator, NullLocator

from lit_degrade.criticality.catalog import ARMS, CONTROLS, TREATED
from lit_degrade.evidence.claims.sections import Section
from lit_degrade.evidence.drawing.axes import STEPS, canvas, cross, dots, mean_tick, scale_axis
from lit_degrade.evidence.drawing.looks import GREY, Look, legend, looks_of, wrapped
from lit_degrade.evidence.drawing.panels import Panels, Plate, plates
from lit_degrade.evidence.numbers.statistics import Values
from lit_degrade.evidence.reading.estimates import drawable
from lit_degrade.evidence.reading.groups import Group, full_label
from lit_degrade.evidence.reading.words import metric_of, words
from lit_degrade.evidence.topics.effects.rows import (
    MATCHED,
    Procedure,
    TopK,
    by_setting,
    cautions,
    cells_of,
    setting_words,
)
from lit_degrade.records.tables import DAMAGE, EFFECTS

Curves = dict[str, dict[int, Values]]
"""Arm -> k -> observations as they are drawn."""
COLUMNS, MOST = 3, 9
"""Panels beside each other, and in a figure."""
MOST_SETTINGS = 2
"""Figures of a group of runs; the tables have the others."""
SPREAD = 0.16
"""Between arms, of the distance of two k."""


def effect_plates(section: Section) -> list[Plate]:
    """For each group of runs and way of perturbing a figure with a panel for each metric; none where no run left effects."""
    return [plate for group in section.groups for plate in _of_group(section, group)]


def _of_group(section: Section, group: Group) -> list[Plate]:
    settings = by_setting(cells_of(section.table(EFFECTS), group))
    rows = section.rows[section.rows["run_id"].isin(group.rows["run_id"])]
    figures = []
    for setting, cells in list(settings.items())[:MOST_SETTINGS]:
        parts = ["effects", setting.method, setting.mode]
        parts += [f"{setting.level:g}"] if sum(it[:2] == setting[:2] for it in settings) > 1 else []
        parts += [group.label] if len(section.groups) > 1 else []
        name = re.sub(r"[^\w.-]", "-", "_".join(parts))
        more = [setting_words(it) for it in list(settings)[MOST_SETTINGS:]]
        figures += _plates(replace(section, rows=rows), group, name, setting, cells, more)
    return figures


def _plates(
    section: Section, group: Group, name: str, setting: Procedure, cells: Sequence[TopK], more: Sequence[str]
) -> list[Plate]:
    """A figure of one way of perturbing, which goes on where there are very many metrics."""
    runs = {run for cell in cells for arm in cell.arms.values() for run in arm}
    curves = {metric: _curves([cell for cell in cells if cell.metric == metric]) for metric in (cell.metric for cell in cells)}
    heading = f"{words(full_label(group))}: {setting_words(setting)}"
    each = "runs, of controls the mean of their draws" if len(runs) > 1 else "draws of a control, and the treated set"
    bars = "runs" if len(runs) > 1 else "draws, since there is one run"
    sizes = [len(values) for curve in curves.values() for by_k in curve.values() for values in by_k.values()]
    n = f"{min(sizes)} to {max(sizes)}" if min(sizes) < max(sizes) else str(sizes[0])
    lost = {metric_of(metric): _lost(curve) for metric, curve in curves.items()}
    said = "; ".join(f"{metric}: {count}" for metric, count in lost.items() if count)
    caption = (
        f"{heading}. Loss on held-out text against the number of weights that were perturbed, by the metric that chose them. "
        f"Points: {each}; ticks and bars: mean with 95 % Student t interval over {bars} (n = {n}), cut where it leaves the "
        "panel; lines join the means."
    )
    caption += f" Crosses at the top, with their share: not finite, or beyond 1e100 ({said})." if said else ""
    caption += "".join(f" {sentence}" for sentence in cautions(cells, MATCHED))
    caption += f" Not drawn: {'; '.join(more)}." if more else ""
    panels: Panels = {metric: {"": group} for metric in curves}

    def page(shown: Panels) -> Figure:
        return _page({metric: curves[metric] for metric in shown}, heading, setting)

    return plates(section, name, caption, panels, runs, page, most=MOST, lacking=f"without {EFFECTS}")


def _curves(cells: Sequence[TopK]) -> Curves:
    """What is drawn of one metric: a value for each run, or for each draw where there is a single run."""
    curves: Curves = {}
    for arm in (TREATED, *CONTROLS):
        for cell in sorted(cells, key=lambda cell: cell.k):
            runs = cell.arms.get(arm, {})
            if runs:
                draws = [it.damage for it in runs.values()]
                values = draws[0] if len(draws) == 1 else np.array([it.mean() for it in draws])
                curves.setdefault(arm, {})[cell.k] = np.where(drawable(values), values, math.inf)
    return curves


def _lost(curves: Curves) -> int:
    """Observations without a finite value."""
    return sum(int((~np.isfinite(values)).sum()) for by_k in curves.values() for values in by_k.values())


def _page(panels: Mapping[str, Curves], heading: str, setting: Procedure) -> Figure:
    """Panels share their axes; points alone decide how far these reach."""
    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure, axes = canvas(rows, columns, 1.0 + (2.4 if rows == 1 else 1.7 * rows), sharex=True, sharey=True)
    drawn = [by_k for curves in panels.values() for by_k in curves.values()]
    values = np.concatenate([values for by_k in drawn for values in by_k.values()])
    ks = sorted({k for by_k in drawn for k in by_k})
    looks = {arm: look for arm, look in looks_of(ARMS).items() if any(arm in curves for curves in panels.values())}
    top = axes.flat[0]
    top.set_xscale("log")
    top.set_xticks(ks, [_count(k) for k in ks])
    top.xaxis.set_minor_locator(NullLocator())
    top.yaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
    label = scale_axis(top, "y", DAMAGE, values[np.isfinite(values)])
    top.margins(x=0.08, y=0.22 if any(map(_lost, panels.values())) else 0.06)
    shown = list(zip(axes.flat, panels.items(), strict=False))
    for ax, (metric, curves) in shown:
        ax.set_title(metric_of(metric))
        ax.axhline(0, color=GREY, lw=0.7, zorder=0)
        _points(ax, curves, looks, ks)
    for ax, (_, curves) in shown:
        ax.set_ylim(ax.get_ylim())
        _means(ax, curves, looks, ks)
    for i, ax in enumerate(axes.flat):
        ax.set_visible(i < len(panels))
        ax.tick_params(labelbottom=i + columns >= len(panels))
    figure.supylabel(label.replace("\n", " "), fontsize=8)
    figure.supxlabel(f"perturbed weights{' of each matrix' if setting.mode == 'per_layer' else ''}, k [number]", fontsize=8)
    legend(figure, {ARMS[arm].label: look for arm, look in looks.items()})
    if figure.legends:
        figure.legends[0].set_title(wrapped(heading, 90), prop=FontProperties(size=8, weight="bold"))
    return figure


def _count(k: int) -> str:
    """1, 10, 1k, 1M."""
    for size, unit in ((10**6, "M"), (10**3, "k")):
        if k >= size and k % (size // 10) == 0:
            return f"{k / size:g}{unit}"
    return str(k)


def _place(k: int, i: int, n: int, ks: Sequence[int]) -> float:
    """Where the i-th of n arms stands, beside the others."""
    gap = min((b / a for a, b in pairwise(ks)), default=10.0)
    return float(k * gap ** (SPREAD * (i - (n - 1) / 2)))


def _points(ax: Axes, curves: Curves, looks: Mapping[str, Look], ks: Sequence[int]) -> None:
    """Every finite observation."""
    for i, (arm, look) in enumerate(looks.items()):
        for k, values in curves.get(arm, {}).items():
            finite = values[np.isfinite(values)]
            dots(ax, np.full(len(finite), _place(k, i, len(looks), ks)), finite, look)


def _means(ax: Axes, curves: Curves, looks: Mapping[str, Look], ks: Sequence[int]) -> None:
    """Means, intervals, the lines that join the means, and crosses where something is not finite."""
    for i, (arm, look) in enumerate(looks.items()):
        by_k = curves.get(arm, {})
        places = {k: _place(k, i, len(looks), ks) for k in by_k}
        finite = {k: values[np.isfinite(values)] for k, values in by_k.items()}
        means = {places[k]: float(values.mean()) for k, values in finite.items() if len(values)}
        ax.plot(list(means), list(means.values()), color=look.colour, ls=look.line, lw=1.0, alpha=0.8, zorder=2)
        for k, values in finite.items():
            if len(values):
                mean_tick(ax, values, places[k], look, along="y")
            if len(values) < len(by_k[k]):
                cross(ax, places[k], 1.0 - 0.12 * i, f"{len(by_k[k]) - len(values)}/{len(by_k[k])}", look)
