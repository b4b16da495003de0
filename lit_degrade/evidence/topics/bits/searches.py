"""How many flips a subject stands: accuracy along a search, and flips to a collapse, beside controls."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator

from lit_degrade.evidence.claims.sections import Section
from lit_degrade.evidence.drawing.axes import Decades, canvas, spread
from lit_degrade.evidence.drawing.groups import panel_plates
from lit_degrade.evidence.drawing.looks import GREY, Look, legend, looks_of, wrapped
from lit_degrade.evidence.drawing.panels import Plate
from lit_degrade.evidence.reading.estimates import drawable
from lit_degrade.evidence.reading.record_tables import of_runs
from lit_degrade.evidence.reading.words import ordered, say
from lit_degrade.faults.catalog import ARMS, CONSTRAINTS
from lit_degrade.records.tables import BIT_SEARCH, COLLAPSE, DAMAGE

MOST = 4
"""Panels in a figure, by twos."""


def search_plates(section: Section) -> list[Plate]:
    """A panel for each group of runs and constraint."""
    lines, ends = section.table(BIT_SEARCH), section.table(COLLAPSE)
    if not len(lines):
        return []
    good = drawable(lines["token_accuracy"]) & lines["token_accuracy"].notna()
    caption = (
        "Token accuracy on held-out text against the number of flipped bits, by what chose them. A line for each run, and of a "
        "control for each draw; filled markers: where a subject has collapsed. Dashed: token accuracy at or below which it has."
    )
    lost = int((~drawable(lines[DAMAGE])).sum())
    caption += f" {lost:,} of {len(lines):,} measurements have no finite loss." if lost else ""
    caption += f" Crosses at the top: no accuracy, or none that is finite ({(~good).sum():,})." if not good.all() else ""

    def page(panels: Mapping[str, pd.DataFrame]) -> Figure:
        return _search_page(panels, ends)

    lines = lines.assign(panel=[say(name, CONSTRAINTS) for name in lines["constraint"]])
    return panel_plates(section, "bit_search", caption, lines, page, MOST, f"without {BIT_SEARCH}")


def _search_page(panels: Mapping[str, pd.DataFrame], ends: pd.DataFrame) -> Figure:
    rows, columns = math.ceil(len(panels) / 2), min(2, len(panels))
    figure, axes = canvas(rows, columns, 0.7 + 2.7 * rows, sharex=True, sharey=True)
    looks = looks_of(ordered({name for lines in panels.values() for name in lines["arm"]}, ARMS))
    _flip_axis(axes[0, 0])
    dashed = False
    for ax, (name, lines) in zip(axes.flat, panels.items(), strict=False):
        _searches(ax, lines, looks)
        mine = of_runs(ends, list(lines["run_id"].unique()))
        mine = mine[mine["constraint"].isin(lines["constraint"])] if len(mine) else mine
        for threshold in sorted(set(mine["threshold"])) if len(mine) else ():
            ax.axhline(100 * threshold, color=GREY, lw=1, ls="--", zorder=1)
            dashed = True
        ax.set_title(wrapped(name, 80 // columns))
    axes[0, 0].set_ylim(bottom=0)
    for i, ax in enumerate(axes.flat):
        ax.set_visible(i < len(panels))
        ax.tick_params(labelbottom=i + columns >= len(panels))
    figure.supylabel("token accuracy [%]", fontsize=8)
    figure.supxlabel("flipped bits [number]", fontsize=8)
    line = Line2D([], [], color=GREY, ls="--", lw=1, label="collapsed at or below")
    legend(figure, {say(name, ARMS): look for name, look in looks.items()}, *([line] if dashed else []))
    return figure


def _searches(ax: Axes, lines: pd.DataFrame, looks: Mapping[str, Look]) -> None:
    """A line for each run, arm and draw; the searches are bold and above the others."""
    for (_, arm, _), own in lines.sort_values("flip").groupby(["run_id", "arm", "draw"], sort=False):
        look, search = looks[str(arm)], arm == "search"
        good = drawable(own["token_accuracy"]) & own["token_accuracy"].notna()
        shown, lost = own[good], own[~good]
        style: Any = {"lw": 1.8 if search else 0.8, "alpha": 1 if search else 0.65, "zorder": 4 if search else 2}
        ax.plot(shown["flip"], 100 * shown["token_accuracy"], color=look.colour, ls=look.line, **style)
        first = shown[shown["collapsed"]].iloc[:1]
        mark: Any = {"ls": "", "marker": look.marker, "color": look.colour, "ms": 5, "mec": "white", "mew": 0.5, "zorder": 5}
        ax.plot(first["flip"], 100 * first["token_accuracy"], **mark)
        if len(lost):
            above: Any = {"transform": ax.get_xaxis_transform(), "clip_on": False, "zorder": 5}
            ax.plot(lost["flip"], np.ones(len(lost)), ls="", marker="x", ms=5, mew=1.2, color=look.colour, **above)


def _flip_axis(ax: Axes) -> None:
    """Numbers of flips: logarithmic above 1, with a place for 0."""
    ax.set_xscale("symlog", linthresh=1, linscale=0.4)
    ax.xaxis.set_major_locator(Decades(0))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.xaxis.set_minor_locator(NullLocator())


def collapse_plates(section: Section) -> list[Plate]:
    """A panel for each group of runs and constraint."""
    lines = section.table(COLLAPSE)
    if not len(lines):
        return []
    n, censored = len(lines), int((~lines["collapsed"]).sum())
    caption = (
        "Flipped bits after which a subject has collapsed, by what chose them. Filled markers: runs, and draws of a control; "
        f"ticks: their median, where at least half of them collapsed (n = {n:,})."
    )
    caption += (
        f" Open markers with an arrow, at the most flips that were tried: not collapsed within these ({censored:,} of {n:,})."
        if censored
        else ""
    )
    lines = lines.assign(panel=[say(name, CONSTRAINTS) for name in lines["constraint"]])
    return panel_plates(section, "flips_to_collapse", caption, lines, _collapse_page, MOST, f"without {COLLAPSE}")


def _collapse_page(panels: Mapping[str, pd.DataFrame]) -> Figure:
    arms = ordered({name for lines in panels.values() for name in lines["arm"]}, ARMS)
    rows, columns = math.ceil(len(panels) / 2), min(2, len(panels))
    figure, axes = canvas(rows, columns, 0.5 + rows * (0.5 + 0.4 * len(arms)), sharex=True, sharey=True)
    looks = looks_of(arms)
    top = axes[0, 0]
    _flip_axis(top)
    top.set_yticks(range(len(arms)), [wrapped(say(name, ARMS), 20) for name in arms])
    top.set_ylim(len(arms) - 0.5, -0.5)
    for ax, (name, lines) in zip(axes.flat, panels.items(), strict=False):
        for i, (arm, look) in enumerate(looks.items()):
            _collapses(ax, lines[lines["arm"] == arm], i, look)
        ax.set_title(wrapped(name, 80 // columns))
        ax.tick_params(axis="y", length=0)
        ax.margins(x=0.1)
    for i, ax in enumerate(axes.flat):
        ax.set_visible(i < len(panels))
        ax.tick_params(labelbottom=i + columns >= len(panels))
    figure.supxlabel("flips to collapse [number of bits]", fontsize=8)
    return figure


def _collapses(ax: Axes, lines: pd.DataFrame, at: float, look: Look) -> None:
    """Points of one arm around a row: collapsed ones filled, the others open with an arrow, and the median."""
    flips, ended = lines["flips"].to_numpy(dtype=float), lines["collapsed"].to_numpy(dtype=bool)
    y = at + 0.12 + spread(len(lines), 0.18)
    ax.scatter(flips[ended], y[ended], s=15, marker=look.marker, color=look.colour, lw=0, alpha=0.75, zorder=3)
    ax.scatter(flips[~ended], y[~ended], s=15, marker=look.marker, facecolor="white", edgecolor=look.colour, lw=0.9, zorder=3)
    for x, row in zip(flips[~ended], y[~ended], strict=True):
        arrow = {"arrowstyle": "<-", "color": look.colour, "lw": 0.8, "shrinkA": 0, "shrinkB": 2.5}
        ax.annotate("", (x, row), (12, 0), textcoords="offset points", arrowprops=arrow)
    middle = float(np.median(np.where(ended, flips, math.inf))) if len(lines) else math.inf
    if math.isfinite(middle):
        ax.plot([middle], [at - 0.22], marker="|", ms=9, mew=1.8, color=look.colour, zorder=4)
