"""What small changes of the input cost: of embeddings, against their size, and of tokens, against their number."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from lit_degrade.adversarial.catalog import ATTACKS, NORMS, SIZE_UNITS, Attack
from lit_degrade.evidence.claims.sections import Section
from lit_degrade.evidence.drawing.axes import STEPS, canvas, cross, dots, head_room, mean_tick, scale_axis
from lit_degrade.evidence.drawing.groups import panel_plates
from lit_degrade.evidence.drawing.looks import GREY, Look, legend, looks_of, wrapped
from lit_degrade.evidence.drawing.panels import Plate
from lit_degrade.evidence.numbers.statistics import Values
from lit_degrade.evidence.reading.estimates import finite_or_inf
from lit_degrade.evidence.reading.sites import span
from lit_degrade.evidence.reading.words import ordered, say
from lit_degrade.evidence.topics.adversarial.rows import TOKENS
from lit_degrade.records.tables import ADVERSARIAL, ADVERSARIAL_TOKENS, DAMAGE, Schema

Curves = dict[str, dict[float, Values]]
"""Attack -> size of the change -> losses as they are drawn."""
MOST = 6
"""Panels in a figure."""
TICKS = 7
"""Most sizes that an axis names."""
SPREAD = 0.18
"""Between attacks, of the least distance of two sizes."""


def adversarial_plates(section: Section) -> list[Plate]:
    """What changes of embeddings and of tokens cost; none where no run left any."""
    return [*_embedding_plates(section), *_token_plates(section)]


def _embedding_plates(section: Section) -> list[Plate]:
    """A panel for each group of runs and norm."""
    lines = section.table(ADVERSARIAL)
    if not len(lines):
        return []
    panels = [f"{say(norm, NORMS)} [{say(unit, SIZE_UNITS)}]" for norm, unit in zip(lines["norm"], lines["unit"], strict=True)]
    about = (
        "Loss on held-out text against the size ε of the change of every embedding of the input, by what chose its direction."
    )
    page = _page_of("epsilon", ATTACKS, "size of the change, ε [unit above the panel, log scale]")
    return _plates(section, ADVERSARIAL, about, lines.assign(panel=panels), "epsilon", page)


def _token_plates(section: Section) -> list[Plate]:
    """A panel for each group of runs."""
    lines = section.table(ADVERSARIAL_TOKENS)
    if not len(lines):
        return []
    about = "Loss on held-out text against the number of tokens of every sequence that are changed, by what chose the change."
    page = _page_of("changed", TOKENS, "changed tokens of a sequence [number, log scale]")
    return _plates(section, ADVERSARIAL_TOKENS, about, lines.assign(panel=""), "changed", page)


def _plates(
    section: Section,
    schema: Schema,
    about: str,
    lines: pd.DataFrame,
    size: str,
    page: Callable[[Mapping[str, pd.DataFrame]], Figure],
) -> list[Plate]:
    """Figures of one table with a caption that says what points, intervals and crosses are."""
    groups = [lines[lines["run_id"].isin(group.rows["run_id"])] for group in section.groups]
    curves = [curves_of(own, size) for group in groups for _, own in group.groupby("panel")]
    drawn = [values for by_attack in curves for by_size in by_attack.values() for values in by_size.values()]
    lost = sum(int((~np.isfinite(values)).sum()) for values in drawn)
    caption = (
        f"{about} Points: runs, mean over their draws; draws where a panel has a single run. Ticks and bars: mean with 95 % "
        f"Student t interval over points (n = {span([len(values) for values in drawn])}), cut where it leaves the panel; lines "
        "join the means."
    )
    caption += f" Crosses at the top, with their share: not finite, or beyond 1e100 ({lost})." if lost else ""
    return panel_plates(section, schema.file.removesuffix(".csv"), caption, lines, page, MOST, f"without {schema}")


def curves_of(lines: pd.DataFrame, size: str) -> Curves:
    """What is drawn of one panel: a value for each run, or for each draw where there is a single run; inf if not finite."""
    alone, curves = lines["run_id"].nunique() == 1, Curves()
    placed = lines.assign(lost=finite_or_inf(lines[DAMAGE]))
    for attack, own in placed.groupby("attack", sort=False):
        for at in sorted(set(own[size])):
            same = own[own[size] == at]
            values = same["lost"] if alone else same.groupby("run_id", sort=False)["lost"].mean()
            curves.setdefault(str(attack), {})[float(at)] = values.to_numpy(dtype=float)
    return curves


def places_of(sizes: Sequence[float]) -> dict[float, float]:
    """Where sizes stand: their logarithm; 0 as far to the left of the others as these are from each other."""
    places = {size: math.log10(size) for size in sorted(sizes) if size > 0}
    steps = [b - a for a, b in pairwise(places.values())] or [1.0]
    least = min(places.values(), default=0.0)
    return ({0.0: least - median(steps)} if 0 in sizes else {}) | places


def _page_of(size: str, known: Mapping[str, Attack], label: str) -> Callable[[Mapping[str, pd.DataFrame]], Figure]:
    """What draws panels of attacks against a size of the change."""

    def page(panels: Mapping[str, pd.DataFrame]) -> Figure:
        curves = {name: curves_of(lines, size) for name, lines in panels.items()}
        return _page(curves, known, label)

    return page


def _page(panels: Mapping[str, Curves], known: Mapping[str, Attack], label: str) -> Figure:
    """Panels share the axis of losses; points alone decide how far it reaches."""
    rows, columns = math.ceil(len(panels) / 2), min(2, len(panels))
    figure, axes = canvas(rows, columns, 0.8 + (2.6 if rows == 1 else 2.1 * rows), sharey=True)
    drawn = [by_size for curves in panels.values() for by_size in curves.values()]
    values = np.concatenate([values for by_size in drawn for values in by_size.values()])
    looks = looks_of(ordered({attack for curves in panels.values() for attack in curves}, known))
    top = axes.flat[0]
    top.yaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
    said = scale_axis(top, "y", DAMAGE, values[np.isfinite(values)])
    top.margins(x=0.06, y=0.06)
    shown = list(zip(axes.flat, panels.items(), strict=False))
    places = [_size_axis(ax, curves) for ax, (_, curves) in shown]
    for (ax, (name, curves)), place in zip(shown, places, strict=True):
        ax.set_title(wrapped(name, 80 // columns))
        _points(ax, curves, looks, place)
    top.set_ylim(top.get_ylim())
    if not np.isfinite(values).all():
        head_room(top, 0.2)
    for (ax, (_, curves)), place in zip(shown, places, strict=True):
        _means(ax, curves, looks, place)
    for ax in axes.flat[len(panels) :]:
        ax.set_visible(False)
    figure.supylabel(said.replace("\n", " "), fontsize=8)
    figure.supxlabel(label, fontsize=8)
    legend(figure, {say(name, known): look for name, look in looks.items()})
    return figure


def _size_axis(ax: Axes, curves: Curves) -> dict[float, float]:
    """An axis of sizes of the change; returns where each is."""
    places = places_of(list({size for by_size in curves.values() for size in by_size}))
    sizes = list(places)
    shown = sizes[:: math.ceil(len(sizes) / TICKS)]
    ax.set_xticks([places[size] for size in shown], [f"{size:.3g}" for size in shown])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.axhline(0, color=GREY, lw=0.7, zorder=0)
    if 0 in places and len(places) > 1:  # a logarithmic axis has no place for 0
        ax.axvline((places[0.0] + places[sizes[1]]) / 2, color=GREY, lw=0.7, ls=":", zorder=0)
    return places


def _beside(looks: Mapping[str, Look], places: Mapping[float, float]) -> dict[str, float]:
    """Offset of every attack from the place of a size."""
    gap = min((b - a for a, b in pairwise(places.values())), default=1.0)
    return {attack: SPREAD * gap * (i - (len(looks) - 1) / 2) for i, attack in enumerate(looks)}


def _points(ax: Axes, curves: Curves, looks: Mapping[str, Look], places: Mapping[float, float]) -> None:
    """Every finite loss."""
    beside = _beside(looks, places)
    for attack, by_size in curves.items():
        for size, values in by_size.items():
            finite = values[np.isfinite(values)]
            dots(ax, np.full(len(finite), places[size] + beside[attack]), finite, looks[attack])
            ax.update_datalim([(places[size] + beside[attack], 0.0)], updatey=False)


def _means(ax: Axes, curves: Curves, looks: Mapping[str, Look], places: Mapping[float, float]) -> None:
    """Means, intervals, the lines that join the means, and crosses where something is not finite."""
    beside, crosses = _beside(looks, places), dict.fromkeys(places, 0)
    for attack, look in looks.items():
        finite = {size: values[np.isfinite(values)] for size, values in curves.get(attack, {}).items()}
        at = {size: places[size] + beside[attack] for size in finite}
        means: dict[float, Any] = {at[size]: float(values.mean()) for size, values in finite.items() if len(values)}
        ax.plot(list(means), list(means.values()), color=look.colour, ls=look.line, lw=1.0, alpha=0.8, zorder=2)
        for size, values in finite.items():
            if len(values):
                mean_tick(ax, values, at[size], look, along="y")
            if lost := len(curves[attack][size]) - len(values):
                cross(ax, at[size], 1.0 - 0.1 * crosses[size], f"{lost}/{len(curves[attack][size])}", look)
                crosses[size] += 1
