"""What flipping stored bits does: each bit of a weight, how often bits are set, and how few flips break a subject."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from lit_degrade.criticality.catalog import METRICS
from lit_degrade.evidence.claims.sections import Section
from lit_degrade.evidence.drawing.axes import STEPS, Decades, canvas, cross, head_room, scale_axis, spread
from lit_degrade.evidence.drawing.groups import panel_plates
from lit_degrade.evidence.drawing.looks import GREY, PALETTE, Look, legend, looks_of, wrapped
from lit_degrade.evidence.drawing.panels import Plate
from lit_degrade.evidence.reading.estimates import drawable, finite_or_inf
from lit_degrade.evidence.reading.record_tables import of_runs
from lit_degrade.evidence.reading.words import metric_of, ordered, say, words
from lit_degrade.evidence.topics.bits.rows import CLASSES, pattern_rows
from lit_degrade.faults.catalog import ARMS, CONSTRAINTS
from lit_degrade.records.tables import BIT_PATTERNS, BIT_SEARCH, BIT_SENSITIVITY, COLLAPSE, DAMAGE

SHARES = {"low": 0.05, "median": 0.5, "high": 0.95}
"""Quantiles of the flips of a bit."""
ROWS, MOST = 3, 4
"""Panels in a figure: below each other, and by twos."""
FLOOR = 1e-6
"""Loss below which an axis is linear [nats/token]: what is smaller is mostly rounding."""
_BLACK = Look("black", "x", "-")


def bit_plates(section: Section) -> list[Plate]:
    """What each bit costs, how often it is set, searches for bits that break a subject, flips to collapse."""
    return [*_sensitivity_plates(section), *_pattern_plates(section), *_search_plates(section), *_collapse_plates(section)]


def bit_quantiles(lines: pd.DataFrame) -> pd.DataFrame:
    """What flips of each bit cost, by the choice of their weights.

    Args:
        lines: of bit_sensitivity.csv, one format.

    Returns: a row per `choice`, `bit_class` and `bit` with `flips`, `not_finite` (number), `worst` (the largest finite loss,
        nan without any) and quantiles `low`, `median`, `high` [nats/token], where what is not finite counts as the largest.
    """
    rows = []
    for key, own in lines.groupby(["choice", "bit_class", "bit"], sort=False):
        ranked = np.sort(finite_or_inf(own[DAMAGE]))
        finite = ranked[np.isfinite(ranked)]
        row: dict[str, Any] = dict(zip(("choice", "bit_class", "bit"), key, strict=True))
        row |= {"flips": len(ranked), "not_finite": len(ranked) - len(finite), "worst": finite[-1] if len(finite) else math.nan}
        rows.append(row | {name: ranked[math.ceil(share * len(ranked)) - 1] for name, share in SHARES.items()})
    return pd.DataFrame(rows)


def _sensitivity_plates(section: Section) -> list[Plate]:
    """A panel for each group of runs and format."""
    lines = section.table(BIT_SENSITIVITY)
    if not len(lines):
        return []
    lost = lines[~drawable(lines[DAMAGE])].groupby("bit_class").size()
    said = "; ".join(f"{name}: {lost[name]:,}" for name in ordered(set(lost.index), dict.fromkeys(CLASSES)))
    caption = (
        "Loss on held-out text where one stored bit of one weight is flipped, by bit from the highest to the lowest and by "
        "what chose the weights. Markers: median of the weights of all runs; lines: 5 to 95 % of them, where a flip without a "
        f"finite loss counts as the largest; dots: the worst finite loss. n = {len(lines):,} flips."
    )
    caption += (
        f" Crosses at the top, with the percentage of a bit's flips: not finite, or beyond 1e100 ({said})." if said else ""
    )
    lines = lines.assign(panel=lines["format"].map(words))
    lacking = f"without {BIT_SENSITIVITY}"
    return panel_plates(section, "bit_sensitivity", caption, lines, _sensitivity_page, ROWS, lacking)


def _sensitivity_page(panels: Mapping[str, pd.DataFrame]) -> Figure:
    figure, axes = canvas(len(panels), 1, 0.6 + 2.15 * len(panels))
    choices = {name for lines in panels.values() for name in lines["choice"]}
    looks = looks_of(ordered(choices, METRICS))
    for ax, (name, lines) in zip(axes.flat, panels.items(), strict=True):
        _sensitivity(ax, bit_quantiles(lines), looks)
        _bit_axis(ax, lines, name)
    axes[-1, 0].set_xlabel("bit [number, highest first]")
    legend(figure, {metric_of(name): look for name, look in looks.items()})
    return figure


def _sensitivity(ax: Axes, bits: pd.DataFrame, looks: Mapping[str, Look]) -> None:
    """Medians, what most flips cost, and the worst; the finite ones decide how far the axis reaches."""
    values = bits[[*SHARES, "worst"]].to_numpy(dtype=float)
    finite = values[np.isfinite(values)]
    lost = bits.groupby("bit")[["not_finite", "flips"]].sum()
    lost = lost[lost["not_finite"] > 0]
    ax.axhline(0, color=GREY, lw=0.7, zorder=0)
    ax.yaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
    ax.set_ylabel(scale_axis(ax, "y", DAMAGE, np.maximum(np.abs(finite), FLOOR)).replace(" [", "\n["))
    ax.margins(y=0.08)
    ax.update_datalim([(0, value) for value in finite], updatex=False)
    ax.autoscale_view(scalex=False)
    if len(lost):
        head_room(ax, 0.2)
    bottom, top = ax.get_ylim()
    for i, (choice, look) in enumerate(looks.items()):
        own = bits[bits["choice"] == choice]
        x = own["bit"] - (i - (len(looks) - 1) / 2) * 0.7 / len(looks)
        ax.vlines(x, own["low"].clip(upper=top), own["high"].clip(upper=top), color=look.colour, lw=1.1, zorder=2)
        ax.plot(x, own["worst"], ls="", marker=".", ms=2.5, color=look.colour, zorder=2)
        good = np.isfinite(own["median"])
        marker: Any = {"marker": look.marker, "ms": 3.2, "mfc": "white", "mec": look.colour, "mew": 0.8}
        ax.plot(x[good], own["median"][good], ls="", zorder=3, **marker)
    ax.set_ylim(bottom, top)
    for bit, (n, flips) in zip(lost.index, lost.to_numpy(), strict=True):
        cross(ax, float(bit), 1.0, f"\n{_percent(n / flips)}", _BLACK)


def _percent(share: float) -> str:
    """Of the flips of a bit, in at most three letters."""
    if share < 0.01:
        return "<1"
    return f"{min(100 * share, 99):.0f}" if share < 1 else "100"


def _bit_axis(ax: Axes, lines: pd.DataFrame, title: str) -> None:
    """Bits from the highest to the lowest, and what they are part of."""
    classes = lines[["bit", "bit_class"]].drop_duplicates().sort_values("bit", ascending=False)
    bits = classes["bit"].to_numpy(dtype=float)
    ax.set_xlim(bits[0] + 0.6, bits[-1] - 0.6)
    ax.set_xticks(bits, [f"{bit:.0f}" for bit in bits], fontsize=6.5)
    changed = classes["bit_class"].to_numpy()[1:] != classes["bit_class"].to_numpy()[:-1]
    for bit in bits[1:][changed]:
        ax.axvline(bit + 0.5, color=GREY, lw=0.7, ls=":", zorder=0)
    for name, own in classes.groupby("bit_class", sort=False):
        place: Any = {"transform": ax.get_xaxis_transform(), "ha": "center", "va": "bottom", "fontsize": 7}
        ax.text(float(own["bit"].mean()), 1.01, words(str(name)), color=GREY, **place)
    ax.set_title(wrapped(title, 90), pad=14)


def _pattern_plates(section: Section) -> list[Plate]:
    """A panel for each group of runs and format."""
    lines = section.table(BIT_PATTERNS)
    if not len(lines):
        return []
    caption = (
        "Share of the weights of a matrix that have a bit set, by bit from the highest to the lowest. Markers: mean over "
        f"matrices, each counting once, and runs; lines: least and most of any matrix ({lines['parameter'].nunique()} "
        "parameters). At 50 %, dashed: a bit that is set as often as not."
    )
    lines = lines.assign(panel=lines["format"].map(words))
    return panel_plates(section, "bit_patterns", caption, lines, _pattern_page, ROWS, f"without {BIT_PATTERNS}")


def _pattern_page(panels: Mapping[str, pd.DataFrame]) -> Figure:
    figure, axes = canvas(len(panels), 1, 0.4 + 1.6 * len(panels))
    for ax, (name, lines) in zip(axes.flat, panels.items(), strict=True):
        bits = pattern_rows(lines)
        ax.axhline(50, color=GREY, lw=0.7, ls="--", zorder=0)
        ax.vlines(bits["bit"], 100 * bits["least"], 100 * bits["most"], color=PALETTE[0], lw=1.4, zorder=2)
        marker: Any = {"marker": "o", "ms": 3.6, "mfc": "white", "mec": PALETTE[0], "mew": 0.9}
        ax.plot(bits["bit"], 100 * bits["ones"], ls="", zorder=3, **marker)
        ax.set_ylim(-4, 104)
        ax.set_yticks([0, 25, 50, 75, 100])
        ax.set_ylabel("bit is set\n[% of weights]")
        _bit_axis(ax, lines, name)
    axes[-1, 0].set_xlabel("bit [number, highest first]")
    return figure


def _search_plates(section: Section) -> list[Plate]:
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


def _collapse_plates(section: Section) -> list[Plate]:
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
