"""Where in a subject the weights that matter are: maps of layers by components, and how far metrics and depths agree."""

import numpy as np
import pandas as pd
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from lit_degrade.evidence.claims.sections import Section
from lit_degrade.evidence.drawing.axes import canvas, panel_grid
from lit_degrade.evidence.drawing.groups import Page, by_group, group_plates
from lit_degrade.evidence.drawing.heat import colour_bar, grid_of, heat, norm_of
from lit_degrade.evidence.drawing.panels import Plate
from lit_degrade.evidence.reading.sites import components_of, metrics_of, span
from lit_degrade.evidence.reading.words import metric_of, outcome_of
from lit_degrade.evidence.topics.maps.distributions import distribution_plates, score_cells, signed, unit_of
from lit_degrade.evidence.topics.maps.rows import correlations_of, damages_of
from lit_degrade.records.tables import ABLATION, CORRELATIONS, DAMAGE, SCORES

WHOLE = "whole layer"
"""Row of the ablations of whole layers."""
WAYS, MOST = 3, 6
"""Panels of ablations and of correlations in a figure."""
CORRELATION = "Spearman's correlation [ρ]"


def map_plates(section: Section) -> list[Plate]:
    """Maps of scores and ablations, distributions, correlations; none where no run left any."""
    return [
        *_score_plates(section),
        *_ablation_plates(section),
        *distribution_plates(section),
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


def _ablation_plates(section: Section) -> list[Plate]:
    """For each group of runs a panel for each way of ablation."""
    lines = section.table(ABLATION)
    if not len(lines):
        return []
    lines = lines[lines["kind"].isin(["layer", "matrix"])]
    units = {name: damages_of(own) for name, (_, own) in by_group(section, lines).items()}
    lost = {name: int((damages["lost_not_finite"] > 0).sum()) for name, damages in units.items()}
    crossed = ", ".join(f"{name}: {n}" for name, n in lost.items() if n)
    counts = span([int(n) for damages in units.values() for n in damages["lost_n"]])
    more = [way for way in dict.fromkeys(way for damages in units.values() for way in damages["way"])][WAYS:]
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
    for ax, (way, own) in zip(axes.flat, ways, strict=True):
        cells = own.groupby(["component", "depth"])[["lost", "lost_not_finite"]].max()
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
    correlations = correlations_of(lines).rename(index=metric_of, columns=metric_of)
    figure, axes = canvas(1, 1, 1.6 + 0.36 * len(correlations))
    colour_bar(figure, axes, heat(axes[0, 0], correlations, Normalize(-1, 1), numbers="z.2f"), CORRELATION)
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
