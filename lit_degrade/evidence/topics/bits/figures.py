"""What flipping stored bits does: each bit of a weight, how often bits are set, and how few flips break a subject."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lit_degrade.criticality.catalog import METRICS
from lit_degrade.evidence.claims.sections import Section
from lit_degrade.evidence.drawing.axes import STEPS, canvas, cross, head_room, scale_axis
from lit_degrade.evidence.drawing.groups import panel_plates
from lit_degrade.evidence.drawing.looks import GREY, PALETTE, Look, legend, looks_of, wrapped
from lit_degrade.evidence.drawing.panels import Plate
from lit_degrade.evidence.reading.estimates import drawable, finite_or_inf
from lit_degrade.evidence.reading.words import metric_of, ordered, words
from lit_degrade.evidence.topics.bits.rows import CLASSES, pattern_rows
from lit_degrade.evidence.topics.bits.searches import collapse_plates, search_plates
from lit_degrade.records.tables import BIT_PATTERNS, BIT_SENSITIVITY, DAMAGE

SHARES = {"low": 0.05, "median": 0.5, "high": 0.95}
"""Quantiles of the flips of a bit."""
ROWS = 3
"""Panels in a figure, below each other."""
FLOOR = 1e-6
"""Loss below which an axis is linear [nats/token]: what is smaller is mostly rounding."""
_BLACK = Look("black", "x", "-")


def bit_plates(section: Section) -> list[Plate]:
    """What each bit costs, how often it is set, searches for bits that break a subject, flips to collapse."""
    return [*_sensitivity_plates(section), *_pattern_plates(section), *search_plates(section), *collapse_plates(section)]


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
