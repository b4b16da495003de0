"""How the scores of weights are distributed in every component; and what all figures of criticality share."""

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from numpy.typing import ArrayLike

from lit_degrade.criticality.catalog import METRICS
from lit_degrade.evidence.claims.sections import Section
from lit_degrade.evidence.drawing.axes import Decades, few_ticks, linear_up_to, panel_grid
from lit_degrade.evidence.drawing.groups import group_plates
from lit_degrade.evidence.drawing.looks import GREY, Look, legend, looks_of
from lit_degrade.evidence.drawing.panels import Plate
from lit_degrade.evidence.numbers.statistics import Values
from lit_degrade.evidence.reading.estimates import drawable
from lit_degrade.evidence.reading.sites import OUTSIDE, averaged, components_of, metrics_of
from lit_degrade.evidence.reading.words import metric_of, words
from lit_degrade.records.tables import SCORES
from lit_degrade.subjects.catalog import COMPONENTS

ENDS = (0.002, 0.9998)
"""Where the least and the largest score stand on the axis of quantiles, which has no place for 0 and 1."""


def unit_of(metric: str) -> str:
    """Unit of the scores by a metric."""
    return METRICS[metric].unit if metric in METRICS else "as recorded"


def signed(metric: str) -> bool:
    """Whether scores by a metric may be negative."""
    return metric in METRICS and METRICS[metric].signed


def score_cells(scores: pd.DataFrame) -> pd.Series:
    """Mean scores of one metric by component and depth: over matrices by their weights, then over runs."""
    placed = scores.assign(depth=scores["depth"].fillna(OUTSIDE))
    return averaged(placed, "mean", ["run_id", "component", "depth"]).groupby(["component", "depth"]).mean()


def distribution_plates(section: Section) -> list[Plate]:
    """For each group of runs the quantiles of every metric by component; none where no run left scores."""
    scores = section.table(SCORES)
    if not len(scores) or not metrics_of(scores) or not _shares(scores):
        return []
    caption = (
        "Quantiles of the scores of single weights, by component: of its matrices the mean, in which each counts by its number "
        "of weights; of runs the median. At the ends of an axis are the least and the largest score. Scores that cannot be "
        "negative are on a logarithmic axis, where curves begin above 0; others on one that is linear near 0."
    )
    return group_plates(section, "score_distributions", caption, scores, _page, f"without {SCORES}")


def _shares(scores: pd.DataFrame) -> dict[float, str]:
    """Quantile [%] -> its column."""
    return {float(name[1:]): name for name in sorted(map(str, scores)) if re.fullmatch(r"q\d+(\.\d+)?", name)}


def quantiles_of(scores: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Median over runs of the mean quantiles of components: components in rows, quantiles [%] in columns."""
    own, names = scores[scores["metric"] == metric], _shares(scores)
    runs = {share: averaged(own, names[share], ["run_id", "component"]) for share in sorted(names)}
    return pd.DataFrame(runs).groupby("component").median().reindex(components_of(own))


def places_of(quantiles: ArrayLike) -> Values:
    """Where quantiles [%] stand on a logit scale, (n,): 50 at 0, 95 as far to the right as 5 to the left."""
    share = np.clip(np.asarray(quantiles, dtype=float) / 100, *ENDS)
    return np.asarray(np.log(share / (1 - share)))


def _page(scores: pd.DataFrame) -> Figure:
    """A panel for each metric."""
    metrics, components = metrics_of(scores), components_of(scores)
    figure, axes = panel_grid(len(metrics), 2.15, 0.7)
    looks = looks_of([*COMPONENTS, *(name for name in components if name not in COMPONENTS)])
    for ax, metric in zip(axes.flat, metrics, strict=False):
        curves = quantiles_of(scores, metric)
        _curves(ax, curves, [looks[name] for name in curves.index], signed(metric))
        ax.set_title(metric_of(metric))
        ax.set_ylabel(f"score [{unit_of(metric)}]")
    legend(figure, {words(name): looks[name] for name in components})
    figure.supxlabel("quantile of the scores of weights [%, logit scale]", fontsize=8)
    return figure


def _curves(ax: Axes, quantiles: pd.DataFrame, looks: Sequence[Look], below_zero: bool) -> None:
    """A curve for each component, and axes to read it; what has no place on them is not drawn."""
    values = quantiles.to_numpy(dtype=float)
    values = np.where(drawable(values) & (below_zero | (values > 0)), values, np.nan)
    places = places_of(quantiles.columns.to_numpy(dtype=float))
    for curve, look in zip(values, looks, strict=True):
        ax.plot(places, curve, color=look.colour, ls=look.line, lw=1.1, marker=look.marker, ms=3, mfc="white", mew=0.8)
    ax.set_xticks(places, [f"{share:g}" for share in quantiles], fontsize=6.5)
    if below_zero:
        start = linear_up_to(values)
        ax.set_yscale("symlog", linthresh=10.0**start)
        ax.yaxis.set_major_locator(Decades(start))
        ax.axhline(0, color=GREY, lw=0.7, zorder=0)
    elif np.isfinite(values).any():
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(few_ticks(*ax.get_ylim()))
    ax.yaxis.set_minor_locator(NullLocator())
