"""How the scores of weights are distributed in every component; and what all figures of criticality share."""

import math
import re
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.ticker import Locator, LogLocator, MaxNLocator, NullLocator
from numpy.typing import ArrayLike

from lit_degrade.criticality.catalog import METRICS
from lit_degrade.evidence.figures.axes import STEPS, Decades, Grid, canvas
from lit_degrade.evidence.figures.looks import GREY, Look, legend, looks_of, wrapped
from lit_degrade.evidence.figures.panels import Panels, Plate, plates
from lit_degrade.evidence.groups import Group, full_label
from lit_degrade.evidence.outcomes import metric_of, words
from lit_degrade.evidence.record_tables import drawable, of_runs
from lit_degrade.evidence.sections import Section
from lit_degrade.evidence.sites import OUTSIDE, averaged, components_of, metrics_of
from lit_degrade.evidence.statistics import Values
from lit_degrade.records.tables import SCORES
from lit_degrade.subjects.catalog import COMPONENTS

Page = Callable[[pd.DataFrame], Figure]
"""Makes a figure from the lines of one group of runs."""
ENDS = (0.002, 0.9998)
"""Where the least and the largest score stand on the axis of quantiles, which has no place for 0 and 1."""


UNITS = {
    "random": "uniform, 0 to 1", "magnitude": "unit of weights", "act_mag": "|weight| × norm of inputs",
    "grad_x_weight": "nats/token", "grad_squared": "(nats/token)² / weight²", "hutchinson_diag": "nats/token / weight²",
    "hessian_saliency": "nats/token",
}  # fmt: skip
"""Of the scores by each metric."""


def unit_of(metric: str) -> str:
    """Unit of the scores by a metric."""
    return UNITS.get(metric, "as recorded")


def signed(metric: str) -> bool:
    """Whether scores by a metric may be negative."""
    return metric in METRICS and METRICS[metric].signed


def by_group(section: Section, table: pd.DataFrame) -> dict[str, tuple[Group, pd.DataFrame]]:
    """Label of a group -> the group and its lines of a table, where it has any."""
    found = {words(full_label(group)): (group, of_runs(table, list(group.rows["run_id"]))) for group in section.groups}
    return {name: (group, lines) for name, (group, lines) in found.items() if len(lines)}


def group_plates(section: Section, name: str, caption: str, table: pd.DataFrame, draw: Page, lacking: str) -> list[Plate]:
    """A figure for each group of runs that left a table; its label stands above where there are several groups.

    Args:
        section: with the groups.
        name: of the first figure.
        caption: what is shown.
        table: lines to draw.
        draw: makes the figures.
        lacking: what is said of runs that have no line to draw.
    """
    found = by_group(section, table)
    panels: Panels = {label: {label: group} for label, (group, _) in found.items()}

    def page(shown: Panels) -> Figure:
        (label,) = shown
        figure = draw(found[label][1])
        if len(found) > 1 and figure.legends:
            figure.legends[0].set_title(wrapped(label, 90), prop=FontProperties(size=8, weight="bold"))
        elif len(found) > 1:
            figure.suptitle(wrapped(label, 90), fontsize=8, fontweight="bold")
        return figure

    runs = {run for _, lines in found.values() for run in lines["run_id"]}
    return plates(section, name, caption, panels, runs, page, most=1, lacking=lacking)


def linear_up_to(values: Values) -> int:
    """Exponent of the power of ten beyond which an axis of these values is logarithmic: the decade of their median size."""
    sizes = np.abs(values[drawable(values) & (values != 0)])
    return math.floor(math.log10(np.median(sizes))) if len(sizes) else 0


def score_cells(scores: pd.DataFrame) -> pd.Series:
    """Mean scores of one metric by component and depth: over matrices by their weights, then over runs."""
    placed = scores.assign(depth=scores["depth"].fillna(OUTSIDE))
    return averaged(placed, "mean", ["run_id", "component", "depth"]).groupby(["component", "depth"]).mean()


def few_ticks(low: float, high: float) -> Locator:
    """Ticks of a logarithmic axis: powers of ten, between them where there are few, even steps where there would be none."""
    return (
        MaxNLocator(4, steps=STEPS) if high < 10 * low else LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,), numticks=6)
    )


def panel_grid(n: int, height: float, extra: float) -> tuple[Figure, Grid]:
    """Axes for n panels by twos, each row of a height and all with some extra [inches]; a single panel is higher."""
    rows, columns = math.ceil(n / 2), min(2, n)
    figure, axes = canvas(rows, columns, extra + rows * (height if columns > 1 else 1.4 * height))
    for ax in axes.flat[n:]:
        ax.set_visible(False)
    return figure, axes


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
