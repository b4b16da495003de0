"""Damage over the size of the subject: runs, means, fitted curves, and the slope over sizes."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from lit_degrade.evidence.claims.sections import Section
from lit_degrade.evidence.drawing.axes import Values, canvas, dots, mean_tick, scale_axis, spread
from lit_degrade.evidence.drawing.looks import GREY, LINES, Look, looks_of, wrapped
from lit_degrade.evidence.drawing.panels import Panels, Plate, groups_of, kept, plates, points
from lit_degrade.evidence.numbers.scaling import fit_scaling, size_slope
from lit_degrade.evidence.reading.groups import usable
from lit_degrade.evidence.reading.words import outcome_of, sentence, words


def curve_plates(section: Section) -> list[Plate]:
    """The first outcome and those of claims about slopes, over sizes; none where no claim is about one, or without sizes."""
    slopes = [claim.outcome for claim in section.design.claims if claim.test == "slope"]
    wanted = dict.fromkeys([*section.outcomes()[:1], *slopes]) if slopes else {}
    outcomes = [name for name in wanted if _sized(section.rows, name)["n_parameters"].nunique() > 1]
    names = [section.design.figure, *(f"{section.design.figure}_{outcome}" for outcome in outcomes[1:])]
    return [plate for name, outcome in zip(names, outcomes, strict=False) for plate in _curves(section, name, outcome)]


def _sized(rows: pd.DataFrame, outcome: str) -> pd.DataFrame:
    """Runs with a finite outcome and a known size."""
    if outcome not in rows or "n_parameters" not in rows:
        return pd.DataFrame(columns=["run_id", "n_parameters", outcome])
    return usable(rows[rows["n_parameters"] > 0], outcome)


def _curves(section: Section, name: str, outcome: str) -> list[Plate]:
    by_size = replace(section, design=replace(section.design, factor="subject"))
    panels = {words(panel): {group.label: group for group in groups} for panel, groups in by_size.panels().items()}
    shown = set(_sized(section.rows, outcome)["run_id"])
    caption = (
        f"{sentence(outcome_of(outcome).label)} over the number of parameters. Points: runs, beside the mean of their "
        "size with 95 % Student t interval; curves: fits that converged, the best by AICc solid. The slope is that of the "
        "means of the sizes."
    )
    return plates(section, name, caption, kept(panels, shown), shown, lambda page: _page(page, outcome), most=6)


def _page(panels: Panels, outcome: str) -> Figure:
    columns = min(2, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure, axes = canvas(rows, columns, 3.4 if rows == 1 else 2.6 * rows, sharex=True, sharey=True)
    by_panel = {name: pd.concat([_sized(group.rows, outcome) for group in groups.values()]) for name, groups in panels.items()}
    sizes = np.unique(np.concatenate([runs["n_parameters"] for runs in by_panel.values()]))
    looks, values = looks_of(by_panel), points(groups_of(panels), outcome)
    for i, (ax, (name, runs)) in enumerate(zip(axes.flat, by_panel.items(), strict=False)):
        label = scale_axis(ax, "y", outcome, values)
        slope = _curve(ax, runs, outcome, looks[name])
        ax.set_title("\n".join(filter(None, [wrapped(name, 84 // columns), slope])), weight="normal", size=7.5)
        _size_ticks(ax, sizes)
        if i % columns == 0:
            ax.set_ylabel(label)
        if i + columns >= len(panels):
            ax.set_xlabel("parameters [number]")
            ax.tick_params(labelbottom=True)
    for ax in axes.flat[len(panels) :]:
        ax.set_visible(False)
    return figure


def _curve(ax: Axes, runs: pd.DataFrame, outcome: str, look: Look) -> str:
    """One panel: runs, means, fits; returns the slope in words."""
    unit, scale = outcome_of(outcome).unit, outcome_of(outcome).scale
    sizes, values = runs["n_parameters"].to_numpy(dtype=float), runs[outcome].to_numpy(dtype=float) * scale
    ax.set_xscale("log")
    ax.axhline(0, color=GREY, lw=0.7, zorder=0)
    reach = 0.018 * max(0.5, math.log10(sizes.max() / sizes.min()))
    for size in np.unique(sizes):
        same = values[sizes == size]
        dots(ax, size * 10 ** (spread(len(same), reach) - 2 * reach), same, look)
        mean_tick(ax, same, size, look, along="y")
    _fits(ax, sizes, values, look.colour)
    return _slope_words(sizes, values, unit)


def _fits(ax: Axes, sizes: Values, values: Values, colour: str) -> None:
    """Curves of the fits, the best one solid, and their AICc differences."""
    if len(np.unique(sizes)) < 2:
        return
    fits = [fit for fit in fit_scaling(sizes, values) if fit.converged]
    grid = np.geomspace(sizes.min(), sizes.max(), 60)
    comparable = sum(math.isfinite(fit.aicc) for fit in fits) > 1
    for i, fit in enumerate(fits):
        known = comparable and math.isfinite(fit.aicc)
        label = f"{fit.name}: ΔAICc {fit.aicc - fits[0].aicc:.1f}" if known else fit.name
        style: dict[str, Any] = {"color": colour, "lw": 1.5} if i == 0 and known else {"color": GREY, "lw": 0.8}
        ax.plot(grid, fit.predict(grid), ls=LINES[i], zorder=2, label=label, **style)
    ax.legend(loc="best", fontsize=6.5, handlelength=2.6, labelspacing=0.25)


def _slope_words(sizes: Values, values: Values, unit: str) -> str:
    if len(np.unique(sizes)) < 3:
        return ""
    slope = size_slope(sizes, values)
    low, high = slope.interval.low, slope.interval.high
    return f"slope {slope.slope:.2g} [{low:.2g}, {high:.2g}] {unit} per decade".replace("-", "−")


def _size_ticks(ax: Axes, sizes: Values) -> None:
    """A tick at every size that has room."""
    ax.set_xticks([size for i, size in enumerate(sizes) if i == 0 or size / sizes[i - 1] > 1.25])
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _count(value)))
    ax.xaxis.set_minor_locator(NullLocator())


def _count(value: float) -> str:
    """281152 is 281k."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:g}"
