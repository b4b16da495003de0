"""Variants of one subject side by side: what each costs, and how much for the size of its change."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from lit_degrade.evidence.claims.sections import Section
from lit_degrade.evidence.drawing.axes import FAR, SIZE, canvas, cross_right, dots, few_ticks, mean_tick, spread, value_axis
from lit_degrade.evidence.drawing.groups import group_plates
from lit_degrade.evidence.drawing.labels import name_points
from lit_degrade.evidence.drawing.looks import GREY, Look, legend, looks_of, wrapped
from lit_degrade.evidence.drawing.panels import Plate
from lit_degrade.evidence.reading.estimates import drawable, estimate, observations
from lit_degrade.evidence.reading.words import outcome_of, words
from lit_degrade.evidence.topics.variants.rows import ordered_variants
from lit_degrade.records.tables import DAMAGE, VARIANTS

KINDS = ("intact", "pruned", "perturbed", "attacked", "other")
"""Kinds of damage, in the order in which they always look the same."""
MOST = 40
"""Variants that a figure has room for."""
EDGE = 2.5
"""Factor from the end of a scale to the edge where what has no place on it is."""
ROOM = 1.6
"""Factor from the last point to the end of a scale."""


def variant_plates(section: Section) -> list[Plate]:
    """For each group of runs the loss of its variants, then their loss against their change; none where no run left any."""
    lines = section.table(VARIANTS)
    return [*_bar_plates(section, lines), *_change_plates(section, lines)] if len(lines) else []


def _looks(lines: pd.DataFrame) -> dict[str, Look]:
    """A look for every kind that is there."""
    every = looks_of([*KINDS, *(kind for kind in dict.fromkeys(lines["kind"]) if kind not in KINDS)])
    return {kind: every[kind] for kind in dict.fromkeys(ordered_variants(lines).values())}


def _bar_plates(section: Section, lines: pd.DataFrame) -> list[Plate]:
    more = list(ordered_variants(lines))[MOST:]
    lost = int((~drawable(lines[DAMAGE])).sum())
    caption = (
        "Loss on held-out text of variants of a subject, by kind of damage, in the order in which they were made. Points: runs,"
        " identical ones once; bars and ticks: mean with 95 % Student t interval over runs, cut where it leaves the panel."
    )
    caption += f" Crosses at the right edge, with their share of several runs: not finite ({lost})." if lost else ""
    caption += f" Not drawn: {', '.join(more)}." if more else ""
    return group_plates(section, "variants", caption, lines, _bar_page, f"without {VARIANTS}")


def _bar_page(lines: pd.DataFrame) -> Figure:
    kinds, looks = dict(list(ordered_variants(lines).items())[:MOST]), _looks(lines)
    figure, axes = canvas(1, 1, 1.0 + 0.185 * len(kinds))
    ax = axes[0, 0]
    values = lines.loc[drawable(lines[DAMAGE]), DAMAGE].to_numpy(dtype=float)
    value_axis(ax, values, DAMAGE)
    ax.margins(x=0.06 if len(values) == len(lines) else 0.14)
    damages = {name: observations(lines[lines["variant"] == name].assign(random=False), DAMAGE) for name in kinds}
    finite = {name: every[drawable(every)] for name, every in damages.items()}
    for i, (name, mine) in enumerate(finite.items()):
        if len(mine):
            ax.barh(i, mine.mean(), height=0.7, color=looks[kinds[name]].colour, alpha=0.22, lw=0, zorder=1)
            dots(ax, mine, i + spread(len(mine), 0.15), looks[kinds[name]])
    ax.set_xlim(ax.get_xlim())
    for i, (name, mine) in enumerate(finite.items()):
        if len(mine):
            mean_tick(ax, mine, i, looks[kinds[name]])
        if len(mine) < len(damages[name]):
            cross_right(ax, i, len(damages[name]) - len(mine), len(damages[name]), looks[kinds[name]])
    ends = [i for i, (a, b) in enumerate(zip(list(kinds.values())[:-1], list(kinds.values())[1:], strict=True)) if a != b]
    for end in ends:
        ax.axhline(end + 0.5, color=GREY, lw=0.5, ls=":", zorder=0)
    ax.set_yticks(range(len(kinds)), [wrapped(words(name), 40) for name in kinds])
    ax.set_ylim(len(kinds) - 0.4, -0.6)
    _legend(figure, looks)
    return figure


def _legend(figure: Figure, looks: Mapping[str, Look]) -> None:
    style: Any = {"ls": "", "mfc": "white", "ms": 4.5}
    legend(
        figure,
        {},
        *(Line2D([], [], marker=it.marker, color=it.colour, label=words(kind), **style) for kind, it in looks.items()),
    )


def changes_of(lines: pd.DataFrame) -> pd.DataFrame:
    """Variants that change something, in their order.

    Returns: a row per variant: `kind`, mean relative `norm` (inf where that of any run is), of the nats per token that it costs
        the mean `lost`, `low` and `high`, and the number of values that are `not_finite`, which are in no mean.
    """
    rows = []
    for name, kind in ordered_variants(lines).items():
        own = lines[lines["variant"] == name]
        norm, it = own["relative_norm"].mean(), estimate(observations(own.assign(random=False), DAMAGE))
        if norm > 0:
            row = {"variant": name, "kind": kind, "norm": norm, "lost": it.mean, "low": it.interval.low}
            rows.append(row | {"high": it.interval.high, "not_finite": it.diverged})
    return pd.DataFrame(rows)


def _change_plates(section: Section, lines: pd.DataFrame) -> list[Plate]:
    """Loss against the size of the change, of every kind of damage on one pair of axes."""
    known = lines[lines["relative_norm"] > 0]
    if not len(known):
        return []
    caption = (
        "Damage per change: loss on held-out text against the size of the change, relative to the weights, of every variant in "
        "which it is known; both logarithmic. Points: variants, mean over runs; bars: 95 % Student t interval over runs, where "
        "there are several, cut where it leaves the panel. Beyond the dotted lines there is no scale: above (crosses) are "
        "losses that are not finite in some or all runs, below (triangles) variants that cost nothing or less, at the right "
        f"changes over {FAR:g} times the weights, or not finite."
    )
    return group_plates(section, "variants_change", caption, known, _change_page, f"without a relative norm in {VARIANTS}")


def _change_page(lines: pd.DataFrame) -> Figure:
    changes, looks = changes_of(lines), _looks(lines)
    broken, near = changes["not_finite"] > 0, changes["norm"] <= FAR
    shown = drawable(changes["lost"]) & (changes["lost"] > 0) & ~broken
    (least, most), (low, high) = _reach(changes.loc[near, "norm"]), _reach(changes.loc[shown, "lost"])
    x = changes["norm"].where(near, most * EDGE)
    y = changes["lost"].where(shown, low / EDGE).where(~broken, high * EDGE)
    figure, axes = canvas(1, 1, 4.2)
    ax = axes[0, 0]
    right = {} if near.all() else {most * EDGE: f"over\n{FAR:g}"}
    below = {} if (shown | broken).all() else {low / EDGE: "0 or less"}
    above = {high * EDGE: "not finite"} if broken.any() else {}
    ax.set(xscale="log", yscale="log", xlim=(least, most * (EDGE**2 if right else 1)))
    ax.set_ylim(low / (EDGE**2 if below else 1), high * (EDGE**2 if above else 1))
    _ticks(ax.xaxis, least, most, right)
    _ticks(ax.yaxis, low, high, below | above)
    for line, ends in ((ax.axvline, {most: right}), (ax.axhline, {low: below, high: above})):
        for at in (at for at, beyond in ends.items() if beyond):
            line(at, color=GREY, lw=0.7, ls=":", zorder=1)
    edges = np.select([broken, shown], ["x", ""], "v")
    for (_, row), place, edge in zip(changes.iterrows(), zip(x, y, strict=True), edges, strict=True):
        _mark(ax, row, place, looks[row["kind"]], str(edge))
    ax.set_xlabel(f"relative norm of the change [{SIZE}]")
    ax.set_ylabel(outcome_of(DAMAGE).axis)
    _legend(figure, looks)
    name_points(figure, ax, np.column_stack([x, y]), [words(name) for name in changes["variant"]])
    return figure


def _reach(values: pd.Series) -> tuple[float, float]:
    """Ends of a logarithmic axis."""
    return (float(values.min()) / ROOM, float(values.max()) * ROOM) if len(values) else (0.1, 1.0)


def _ticks(axis: Any, low: float, high: float, edges: Mapping[float, str]) -> None:
    """Ticks within the scale, and what is said beyond it."""
    inside = [float(tick) for tick in few_ticks(low, high).tick_values(low, high) if low < tick < high]
    axis.set_major_locator(FixedLocator([*inside, *edges]))
    axis.set_major_formatter(FixedFormatter([*(f"{tick:g}" for tick in inside), *edges.values()]))
    axis.set_minor_locator(NullLocator())


def _mark(ax: Axes, row: pd.Series, place: tuple[float, float], look: Look, edge: str) -> None:
    """One variant: its own marker, or that of the edge where it is."""
    style: Any = {"color": look.colour, "zorder": 3, "ls": ""}
    if edge:
        ax.plot(*place, marker=edge, ms=5, mew=1.6 if edge == "x" else 0.9, mfc="white", **style)
        return
    ax.plot(*place, marker=look.marker, ms=4.5, mew=0.9, mfc="white", **style)
    if math.isfinite(row["low"]):
        ends = [max(row["low"], ax.get_ylim()[0]), row["high"]]
        ax.plot([place[0]] * 2, ends, color=look.colour, lw=1.1, zorder=2)
