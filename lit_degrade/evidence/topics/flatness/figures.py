"""What changes and training steps inside parts of weight space cost, against how large they are."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from lit_degrade.curvature.catalog import PARTS
from lit_degrade.evidence.claims.sections import Section
from lit_degrade.evidence.drawing.axes import SIZE as SIZE_WORDS
from lit_degrade.evidence.drawing.axes import Decades, Grid, canvas, cross, few_ticks, head_room
from lit_degrade.evidence.drawing.groups import panel_plates
from lit_degrade.evidence.drawing.looks import GREY, Look, legend, looks_of, wrapped
from lit_degrade.evidence.drawing.panels import Panels, Plate, groups_of, plates
from lit_degrade.evidence.numbers.statistics import Values
from lit_degrade.evidence.reading.estimates import estimate, finite_or_inf
from lit_degrade.evidence.reading.groups import label
from lit_degrade.evidence.reading.sites import span
from lit_degrade.evidence.reading.words import ordered, words
from lit_degrade.evidence.topics.flatness.rows import PATH, SIZE, by_run, paths_of, projection_of
from lit_degrade.records.tables import DAMAGE, FLATNESS

Curves = dict[str, dict[float, Values]]
"""Part -> size of the change -> losses as they are drawn."""
MOST = 6
"""Panels in a figure."""
REACH = 2
"""Powers of ten below that of the largest mean that an axis of losses shows; closer to 0 it is linear."""
BESIDE = 0.018
"""Between parts of one size, of the length of the axis."""
LOST = "lost on held-out text [nats/token]"


def flatness_plates(section: Section) -> list[Plate]:
    """What steps inside each part cost, then what random changes do; none where no run has either."""
    return [*_path_plates(section), *_change_plates(section)]


def _about(parts: Iterable[str]) -> str:
    """What parts are."""
    return "Parts of weight space: " + "; ".join(f"{name}: {PARTS.get(name, 'not known')}" for name in parts) + "."


def _scale_words(start: int) -> str:
    return f"The axis of losses is logarithmic to both sides, but linear within ±{10.0**start:g} of 0."


def _linear_up_to(means: Iterable[float]) -> int:
    """Exponent of the power of ten below which an axis of losses is linear: that of the least mean, within REACH."""
    decades = [math.floor(math.log10(abs(mean))) for mean in means if mean]
    return max(min(decades), max(decades) - REACH) if decades else 0


def _loss_axis(axes: Grid, start: int) -> None:
    """Axes of losses that panels share: the same scale, few ticks, a line at 0."""
    for ax in axes.flat:
        ax.set_yscale("symlog", linthresh=10.0**start)
        ax.yaxis.set_major_locator(Decades(start))
        ax.yaxis.set_minor_locator(NullLocator())
        ax.axhline(0, color=GREY, lw=0.7, zorder=0)


def _looks(parts: Iterable[str]) -> dict[str, Look]:
    """The same for a part in every figure."""
    return looks_of(dict.fromkeys([*PARTS, *parts]))


def _beside(parts: Sequence[str], sizes: Iterable[float]) -> dict[str, float]:
    """Factor by which each part stands beside its size."""
    return {part: 10 ** (BESIDE * _length(sizes) * (i - (len(parts) - 1) / 2)) for i, part in enumerate(parts)}


def _length(sizes: Iterable[float]) -> float:
    """Length of an axis of sizes, in powers of ten."""
    return max(math.log10(max(sizes) / min(sizes)), 0.3)


def _reach(ax: Axes, sizes: Sequence[float], losses: Sequence[Values], start: int) -> None:
    """Ends of the axes: all sizes, means and zero; ends of intervals, where they are not far beyond these."""
    its = [it for it in map(estimate, losses) if math.isfinite(it.mean)]
    means, linear = [it.mean for it in its], 10.0**start
    low, high = min([-linear, *means]), max([linear, *means])
    ends = np.array([end for it in its for end in (it.interval.low, it.interval.high) if math.isfinite(end)])
    cut = np.clip([0.0, linear, *means, *ends], 2 * low, 3 * high)
    beyond, scale = 10 ** (0.1 * _length(sizes)), ax.yaxis.get_transform()
    bottom, top = scale.transform(np.array([cut.min(), cut.max()]))
    gap = 0.05 * (top - bottom)
    bottom, top = scale.inverted().transform(np.array([bottom - gap, top + gap]))
    ax.set_xlim(min(sizes) / beyond, max(sizes) * beyond)
    ax.set_ylim(float(bottom), float(top))


def _size_axis(ax: Axes, low: float, high: float) -> None:
    """A logarithmic axis of sizes with plain numbers."""
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=9) if 3 * low < high < 100 * low else few_ticks(low, high))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_locator(NullLocator())


def _grid(titles: Sequence[str]) -> tuple[Figure, Grid]:
    """Up to three panels beside each other, more by twos, with their titles; the same axes for all, logarithmic along x."""
    columns = len(titles) if len(titles) <= 3 else 2
    rows = math.ceil(len(titles) / columns)
    figure, axes = canvas(rows, columns, 0.8 + (3.0 if rows == 1 else 2.3 * rows), sharex=True, sharey=True)
    for i, ax in enumerate(axes.flat):
        ax.set_xscale("log")
        ax.set_visible(i < len(titles))
        ax.tick_params(labelbottom=i + columns >= len(titles))
    for ax, title in zip(axes.flat, titles, strict=False):
        ax.set_title(wrapped(title, 84 // columns))
    return figure, axes


def _mean(ax: Axes, x: float, values: Values, look: Look, thin: bool = False) -> None:
    """Mean and interval of finite values, which may leave the panel."""
    it = estimate(values)
    ax.plot([x], [it.mean], marker=look.marker, ms=4.8, mew=1.2, mfc="white", color=look.colour, ls="", zorder=5)
    if math.isfinite(it.interval.low):
        style: Any = {"lw": 0.7, "capsize": 0} if thin else {"lw": 1.2, "capsize": 2.5, "capthick": 1.2}
        reach: Any = [[it.mean - it.interval.low], [it.interval.high - it.mean]]
        ax.errorbar([x], [it.mean], yerr=np.maximum(reach, 0), color=look.colour, zorder=4, **style)


def _change_plates(section: Section) -> list[Plate]:
    """What random changes cost: a panel for each group of runs."""
    lines = section.table(FLATNESS)
    if not len(lines):
        return []
    groups = [lines[lines["run_id"].isin(group.rows["run_id"])] for group in section.groups]
    curves = [curves_of(own) for own in groups if len(own)]
    drawn = [values for found in curves for by_size in found.values() for values in by_size.values()]
    lost, alone = sum(int((~np.isfinite(v)).sum()) for v in drawn), [own["run_id"].nunique() == 1 for own in groups if len(own)]
    counted = "draws of the run" if all(alone) else "runs, of which each counts with the mean over its draws"
    n = span([len(values) for values in drawn])
    caption = (
        "What random changes of the block matrices cost on held-out text, against the norm of the change over that of the "
        f"weights, by the part of weight space they are drawn from. {_about(_parts(curves))} Markers: mean over {counted}; "
        f"bars: 95 % Student t interval over the same (n = {n}), cut where it leaves the panel; lines join the means. Parts "
        "stand beside each other at one size."
    )
    start = _linear_up_to(_means_of(curves))
    if any(alone):
        caption += f" Thin bars: over the draws of a single run{', where a panel has no more' if not all(alone) else ''}."
    caption += f" {_scale_words(start)}"
    caption += f" Crosses at the top, with their share: not finite, or beyond 1e100 ({lost})." if lost else ""
    page = partial(_change_page, start=start)
    return panel_plates(section, "flatness", caption, lines.assign(panel=""), page, MOST, f"without {FLATNESS}")


def curves_of(lines: pd.DataFrame) -> Curves:
    """What is drawn of one panel: a value for each run, or for each draw where there is a single run; inf if not finite."""
    alone, curves = lines["run_id"].nunique() == 1, Curves()
    known = lines.dropna(subset=[DAMAGE])
    found = known.assign(**{DAMAGE: finite_or_inf(known[DAMAGE])}) if alone else by_run(lines, ["part", SIZE], DAMAGE)
    for part in ordered(set(found["part"]), PARTS):
        own = found[found["part"] == part]
        curves[part] = {size: own.loc[own[SIZE] == size, DAMAGE].to_numpy(dtype=float) for size in sorted(set(own[SIZE]))}
    return curves


def _lost(curves: Curves) -> list[float]:
    """Size of every mean that leaves out something that is not finite."""
    return [size for by_size in curves.values() for size, values in by_size.items() if not np.isfinite(values).all()]


def _parts(curves: Iterable[Mapping[str, Any]]) -> list[str]:
    return ordered({part for found in curves for part in found}, PARTS)


def _means_of(curves: Iterable[Curves]) -> list[float]:
    """Every mean that is drawn."""
    finite = [v[np.isfinite(v)] for found in curves for by_size in found.values() for v in by_size.values()]
    return [float(values.mean()) for values in finite if len(values)]


def _change_page(panels: Mapping[str, pd.DataFrame], start: int) -> Figure:
    """Panels with the same axes; means alone decide how far they reach."""
    curves = {name: curves_of(lines) for name, lines in panels.items()}
    alone = {name: lines["run_id"].nunique() == 1 for name, lines in panels.items()}
    figure, axes = _grid(list(curves))
    _loss_axis(axes, start)
    sizes = sorted({size for found in curves.values() for by_size in found.values() for size in by_size})
    parts = _parts(curves.values())
    looks, beside = _looks(parts), _beside(parts, sizes)
    top = axes.flat[0]
    drawn = [values for found in curves.values() for by_size in found.values() for values in by_size.values()]
    _reach(top, sizes, drawn, start)
    crosses = Counter((name, size) for name, found in curves.items() for size in _lost(found))
    if crosses:
        head_room(top, 0.06 + 0.09 * max(crosses.values()))
    for ax, (name, found) in zip(axes.flat, curves.items(), strict=False):
        _changes(ax, found, looks, beside, alone[name])
    top.set_xticks(sizes, [f"{size:g}" for size in sizes]) if len(sizes) < 7 else _size_axis(top, sizes[0], sizes[-1])
    top.xaxis.set_minor_locator(NullLocator())
    figure.supxlabel(f"relative norm of the change [{SIZE_WORDS}, log scale]", fontsize=8)
    figure.supylabel(LOST, fontsize=8)
    legend(figure, {words(part): looks[part] for part in parts})
    return figure


def _changes(ax: Axes, curves: Curves, looks: Mapping[str, Look], beside: Mapping[str, float], alone: bool) -> None:
    """One panel: means with intervals, the lines that join them, and crosses where something is not finite."""
    crosses: dict[float, int] = {}
    for part, by_size in curves.items():
        look, finite = looks[part], {size: values[np.isfinite(values)] for size, values in by_size.items()}
        means = {size * beside[part]: float(values.mean()) for size, values in finite.items() if len(values)}
        ax.plot(list(means), list(means.values()), color=look.colour, ls=look.line, lw=1.1, alpha=0.85, zorder=2)
        for size, values in finite.items():
            if len(values):
                _mean(ax, size * beside[part], values, look, alone)
            if missing := len(by_size[size]) - len(values):
                cross(ax, size * beside[part], 1.0 - 0.07 * crosses.get(size, 0), f"{missing}/{len(by_size[size])}", look)
                crosses[size] = crosses.get(size, 0) + 1


def _path_plates(section: Section) -> list[Plate]:
    """What steps that were confined to a part cost: a panel for what groups share beside that part and the learning rate."""
    panels, runs = Panels(), set[str]()
    for group in section.groups:
        own = paths_of(group)
        if len(own):
            rest = {name: value for name, value in group.conditions.items() if name not in ("projection", "lr")}
            panels.setdefault(words(label(rest)) if rest else "", {})[group.label] = group
            runs |= set(own["run_id"])
    if not panels:
        return []
    groups = groups_of(panels)
    start = _linear_up_to(float(paths_of(group)[DAMAGE].mean()) for group in groups)
    parts = ordered({projection_of(group) for group in groups}, PARTS)
    counts = span([len(paths_of(group)) for group in groups])
    caption = (
        "What training costs on held-out text when every step is confined to a part of weight space, against the length of the "
        f"path of the weights, the sum of the lengths of all steps. {_about(parts)} Small points: runs; markers: mean "
        f"over runs that differ in nothing but their seed; bars: 95 % Student t interval of the cost (n = {counts}), cut where "
        f"it leaves the panel; lines join means that differ in the learning rate. {_scale_words(start)}"
    )
    name = "flat_attack" if section.design.figure != "flat_attack" else "flat_attack_paths"  # no two figures have one name
    lacking = "without steps inside a part of weight space"
    page = partial(_path_page, start=start)
    return plates(section, name, caption, panels, runs, page, most=MOST, lacking=lacking)


def _path_page(panels: Panels, start: int) -> Figure:
    """Panels with the same axes; runs alone decide how far they reach."""
    found: dict[str, dict[str, list[pd.DataFrame]]] = {}
    for name, groups in panels.items():
        for group in groups.values():
            found.setdefault(name, {}).setdefault(projection_of(group), []).append(paths_of(group))
    figure, axes = _grid(list(found))
    each = [own for by_part in found.values() for lines in by_part.values() for own in lines]
    _loss_axis(axes, start)
    parts = _parts(found.values())
    lengths = [float(length) for own in each for length in own[PATH]]
    looks = _looks(parts)
    for ax, by_part in zip(axes.flat, found.values(), strict=False):
        for part in ordered(set(by_part), PARTS):
            for own in by_part[part]:
                style: Any = {"marker": looks[part].marker, "lw": 0, "alpha": 0.4, "zorder": 3}
                ax.scatter(own[PATH], own[DAMAGE], s=9, color=looks[part].colour, **style)
    top = axes.flat[0]
    _reach(top, lengths, [own[DAMAGE].to_numpy(dtype=float) for own in each], start)
    _size_axis(top, min(lengths), max(lengths))
    for ax, by_part in zip(axes.flat, found.values(), strict=False):
        for part in ordered(set(by_part), PARTS):
            _path(ax, by_part[part], looks[part])
    figure.supxlabel("length of the path of the weights [L2 norm, log scale]", fontsize=8)
    figure.supylabel(LOST, fontsize=8)
    legend(figure, {words(part): looks[part] for part in parts})
    return figure


def _path(ax: Axes, each: Sequence[pd.DataFrame], look: Look) -> None:
    """One part in one panel: means with intervals, and the line that joins them."""
    own = sorted(each, key=lambda lines: float(lines[PATH].mean()))
    at, means = [float(lines[PATH].mean()) for lines in own], [float(lines[DAMAGE].mean()) for lines in own]
    ax.plot(at, means, color=look.colour, ls=look.line, lw=1.3, zorder=2)
    for x, lines in zip(at, own, strict=True):
        _mean(ax, x, lines[DAMAGE].to_numpy(dtype=float), look)
