"""Where in a subject the weights that matter are: maps of layers by components, and how far metrics and depths agree."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize, SymLogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from lit_degrade.evidence.figures.axes import Decades, canvas
from lit_degrade.evidence.figures.distributions import (
    Page,
    by_group,
    distribution_plates,
    few_ticks,
    group_plates,
    linear_up_to,
    panel_grid,
    score_cells,
    signed,
    unit_of,
)
from lit_degrade.evidence.figures.panels import Plate
from lit_degrade.evidence.figures.super_weights import cluster_plates, super_weight_plates
from lit_degrade.evidence.outcomes import metric_of, outcome_of, words
from lit_degrade.evidence.record_tables import drawable
from lit_degrade.evidence.sections import Section
from lit_degrade.evidence.sites import OUTSIDE, components_of, correlations_of, damages_of, metrics_of, span
from lit_degrade.evidence.statistics import Values
from lit_degrade.records.tables import ABLATION, CORRELATIONS, DAMAGE, SCORES

GAP = 0.5
"""Between the blocks and what is in none, in cells."""
NUMBERED = 12
"""Most columns that all have their names, and cells that say their numbers."""
WHOLE = "whole layer"
"""Row of the ablations of whole layers."""
WAYS, MOST = 3, 6
"""Panels of ablations and of correlations in a figure."""
CORRELATION = "Spearman's correlation [ρ]"


def map_plates(section: Section) -> list[Plate]:
    """Maps of scores and ablations, distributions, clusters, super weights, correlations; none where no run left any."""
    return [
        *_score_plates(section),
        *_ablation_plates(section),
        *distribution_plates(section),
        *cluster_plates(section),
        *super_weight_plates(section),
        *_correlation_plates(section),
    ]


def _score_plates(section: Section) -> list[Plate]:
    """For each group of runs a panel for each metric."""
    scores = section.table(SCORES)
    if not len(scores) or not metrics_of(scores):
        return []
    caption = (
        "Mean score of the weights of every component (rows) at every depth (columns; at the right what is in no block), mean "
        "over runs. Colours are logarithmic; where scores have a sign, centred on 0 and linear up to the first power of ten. "
        "Blank: there is no such matrix; 0: no score above it; crosses: not finite."
    )
    return group_plates(section, "score_map", caption, scores, _score_page, f"without {SCORES}")


def _score_page(scores: pd.DataFrame) -> Figure:
    metrics, rows = metrics_of(scores), components_of(scores)
    figure, axes = panel_grid(len(metrics), 0.6 + 0.17 * len(rows), 0.3)
    for ax, metric in zip(axes.flat, metrics, strict=False):
        cells = score_cells(scores[scores["metric"] == metric])
        norm = norm_of(cells.to_numpy(dtype=float), below_zero=signed(metric))
        colours = heat(ax, grid_of(cells, rows), norm, grid_of(~np.isfinite(cells), rows))
        colour_bar(figure, ax, colours, f"mean score\n[{unit_of(metric)}]")
        ax.set_title(metric_of(metric))
    figure.supxlabel("depth [block]", fontsize=8)
    return figure


def grid_of(cells: pd.Series, rows: Sequence[str]) -> pd.DataFrame:
    """Cells as rows by depths: all blocks from the first on, then OUTSIDE where any is; nan where there is no cell."""
    depths = cells.index.get_level_values("depth")
    columns = [*range(int(depths.max()) + 1), *([OUTSIDE] if OUTSIDE in depths else [])]
    return cells.astype(float).unstack("depth").reindex(index=list(rows), columns=columns)


def _ablation_plates(section: Section) -> list[Plate]:
    """For each group of runs a panel for each way of ablation."""
    lines = section.table(ABLATION)
    if not len(lines):
        return []
    lines = lines[lines["kind"].isin(["layer", "matrix"])]
    units = {name: damages_of(own) for name, (_, own) in by_group(section, lines).items()}
    lost = {name: int((found["lost_not_finite"] > 0).sum()) for name, found in units.items()}
    crossed = ", ".join(f"{name}: {n}" for name, n in lost.items() if n)
    counts = span([int(n) for found in units.values() for n in found["lost_n"]])
    more = [way for way in dict.fromkeys(way for found in units.values() for way in found["way"])][WAYS:]
    caption = (
        "Nats per token lost on held-out text where one matrix or one whole layer is ablated: mean over draws and runs "
        f"(n = {counts}), of several matrices in a cell the most harmful one. Colours are centred on 0 and linear up to the "
        "first power of ten; below 0 the subject gets better. Blank: not ablated."
        + (f" Crosses: ablations whose loss is not finite in some or all draws ({crossed})." if crossed else "")
        + (f" Not drawn: {', '.join(more)}." if more else "")
    )
    return group_plates(section, "ablation_map", caption, lines, _ablation_page, f"without layers or matrices in {ABLATION}")


def _ablation_page(lines: pd.DataFrame) -> Figure:
    units, whole = damages_of(lines), lines["kind"] == "layer"
    units["component"] = units["component"].mask(units["kind"] == "layer", WHOLE)
    rows = [*components_of(lines[~whole]), *([WHOLE] if whole.any() else [])]
    ways = list(units.groupby("way", sort=False))[:WAYS]
    figure, axes = canvas(len(ways), 1, 0.5 + len(ways) * (0.5 + 0.2 * len(rows)))
    norm = norm_of(units["lost"].to_numpy(dtype=float), below_zero=True)
    for ax, (way, found) in zip(axes.flat, ways, strict=True):
        cells = found.groupby(["component", "depth"])[["lost", "lost_not_finite"]].max()
        colours = heat(ax, grid_of(cells["lost"], rows), norm, grid_of(cells["lost_not_finite"] > 0, rows), ".2g")
        ax.set_title(str(way))
    colour_bar(figure, axes, colours, outcome_of(DAMAGE).axis)
    figure.supxlabel("depth [block]", fontsize=8)
    return figure


def _correlation_plates(section: Section) -> list[Plate]:
    """For each group of runs a matrix of metrics, then a matrix of depths for each metric."""
    lines = section.table(CORRELATIONS)
    lines = lines.dropna(subset=["n", "spearman"]) if len(lines) else lines
    if not len(lines):
        return []
    metrics, depths = (lines[lines["kind"] == kind] for kind in ("metrics", "depths"))
    depths = depths[depths["metric"].isin(metrics_of(depths)[:MOST])]
    return [
        *_correlated(section, "correlations_metrics", metrics, "metrics, over matrices", _metric_page),
        *_correlated(section, "correlations_depths", depths, "depths, over components", _depth_page),
    ]


def _correlated(section: Section, name: str, lines: pd.DataFrame, what: str, page: Page) -> list[Plate]:
    counts = span([int(n) for n in lines["n"]])
    caption = (
        f"Spearman's rank correlations of mean scores between {what} (n = {counts}), mean over runs. Blank: there is none."
    )
    return group_plates(section, name, caption, lines, page, f"without correlations in {CORRELATIONS}")


def _metric_page(lines: pd.DataFrame) -> Figure:
    found = correlations_of(lines).rename(index=metric_of, columns=metric_of)
    figure, axes = canvas(1, 1, 1.6 + 0.36 * len(found))
    colour_bar(figure, axes, heat(axes[0, 0], found, Normalize(-1, 1), numbers="z.2f"), CORRELATION)
    for text in axes[0, 0].get_xticklabels():
        text.set(rotation=30, ha="right", rotation_mode="anchor")
    return figure


def _depth_page(lines: pd.DataFrame) -> Figure:
    metrics = metrics_of(lines)
    figure, axes = panel_grid(len(metrics), 2.2, 0.3)
    for ax, metric in zip(axes.flat, metrics, strict=False):
        colours = heat(ax, correlations_of(lines[lines["metric"] == metric]), Normalize(-1, 1), numbers="z.2f")
        ax.set_title(metric_of(metric))
    colour_bar(figure, axes, colours, CORRELATION)
    figure.supxlabel("depth [block]", fontsize=8)
    figure.supylabel("depth [block]", fontsize=8)
    return figure


def norm_of(values: Values, below_zero: bool) -> Normalize:
    """Scale of colours: logarithmic, or with a sign and centred on 0."""
    good = values[drawable(values) & ((values != 0) if below_zero else (values > 0))]
    most = float(np.abs(good).max()) if len(good) else 1.0
    if below_zero:
        return SymLogNorm(min(10.0 ** linear_up_to(good), most), vmin=-most, vmax=most)
    return LogNorm((float(good.min()) if len(good) else most) / 1.1, most * 1.1)


def heat(
    ax: Axes, values: pd.DataFrame, norm: Normalize, crosses: pd.DataFrame | None = None, numbers: str = ""
) -> ScalarMappable:
    """Cells as colours; returns what a colour bar needs.

    Args:
        ax: to draw in.
        values: (rows, columns); a last column OUTSIDE stands apart; nan is blank.
        norm: of the colours, which have two directions unless it is logarithmic.
        crosses: cells that are 1 are crossed out.
        numbers: how cells say their numbers where there is room; they do not without.
    """
    cells = values.to_numpy(dtype=float)
    x, y = np.arange(cells.shape[1]) + np.array([GAP if name == OUTSIDE else 0 for name in values]), np.arange(len(cells))
    colours = ScalarMappable(norm, "viridis_r" if isinstance(norm, LogNorm) else "RdBu_r")
    rgba = np.asarray(colours.to_rgba(np.ma.masked_invalid(cells)))
    for at in np.split(np.arange(len(x)), np.flatnonzero(x != np.arange(len(x)))):
        if len(at):
            extent = (x[at[0]] - 0.5, x[at[-1]] + 0.5, len(y) - 0.5, -0.5)
            ax.imshow(rgba[:, at], extent=extent, aspect="auto", interpolation="none")
    ax.set_xlim(-0.5, x[-1] + 0.5)
    ax.vlines(x[1:] - 0.5, -0.5, len(y) - 0.5, color="white", lw=0.4)
    ax.hlines(y[1:] - 0.5, -0.5, x[-1] + 0.5, color="white", lw=0.4)
    _numbers(ax, cells, x, rgba, numbers if len(x) <= NUMBERED else "")
    if crosses is not None:
        rows, columns = np.nonzero(crosses.to_numpy() == 1)
        for width, colour in ((2.6, "white"), (1.2, "black")):
            ax.plot(x[columns], rows, ls="", marker="x", ms=5, mew=width, color=colour)
    _ticks(ax, list(values), list(values.index), x)
    return colours


def _numbers(ax: Axes, cells: Values, x: Values, rgba: Values, write: str) -> None:
    """What cells say: their number, or that they are 0 where this has no colour."""
    for (i, j), value in np.ndenumerate(cells):
        coloured = rgba[i, j, 3] > 0
        if math.isfinite(value) and (write or not coloured):
            dark = coloured and float(rgba[i, j, :3].mean()) < 0.5
            text = format(value, write) if coloured else "0"
            ax.text(float(x[j]), i, text, color="white" if dark else "black", ha="center", va="center", fontsize=6.5)


def _ticks(ax: Axes, columns: Sequence[Any], rows: Sequence[Any], x: Values) -> None:
    """Names of rows and columns: of depths only as many as have room."""
    kept = _shown(columns)
    if len(columns) > NUMBERED and OUTSIDE in columns:
        kept = [i for i in kept if columns[i] == OUTSIDE or x[-1] - x[i] > len(x) / 5]
    ax.set_xticks(x[kept], ["outside" if columns[i] == OUTSIDE else words(str(columns[i])) for i in kept])
    ax.set_yticks(_shown(rows), [words(str(rows[i])) for i in _shown(rows)])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def _shown(names: Sequence[Any]) -> list[int]:
    """Places of names that are no depths, of OUTSIDE, and of depths at even steps."""
    stride = math.ceil(len(names) / 8) if len(names) > NUMBERED else 1
    return [i for i, name in enumerate(names) if not str(name).isdigit() or int(name) % stride == 0]


def colour_bar(figure: Figure, axes: Any, colours: ScalarMappable, label: str) -> None:
    """A colour bar beside some axes, with few ticks."""
    bar, norm = figure.colorbar(colours, ax=axes, label=label, aspect=14 * len(np.atleast_1d(axes)), pad=0.02), colours.norm
    low, high = bar.ax.get_ylim()
    if isinstance(norm, SymLogNorm):
        bar.set_ticks(Decades(math.floor(math.log10(norm.linthresh) + 1e-9)).tick_values(low, high))
    elif isinstance(norm, LogNorm):
        bar.locator = few_ticks(low, high)
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    bar.ax.yaxis.set_minor_locator(NullLocator())
