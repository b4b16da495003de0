"""Matrices whose scores are unlike those of others, and what perturbing clusters of them costs."""

import math
from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lit_degrade.evidence.claims.sections import Section
from lit_degrade.evidence.drawing.axes import canvas, dots, mean_tick, spread, value_axis
from lit_degrade.evidence.drawing.groups import by_group, group_plates
from lit_degrade.evidence.drawing.labels import name_points
from lit_degrade.evidence.drawing.looks import Look, legend, looks_of, wrapped
from lit_degrade.evidence.drawing.panels import Plate
from lit_degrade.evidence.reading.estimates import drawable
from lit_degrade.evidence.reading.words import words
from lit_degrade.evidence.topics.clusters.rows import effect_words
from lit_degrade.records.tables import CLUSTER_EFFECTS, CLUSTERS, DAMAGE

WAYS = 3
"""Ways of perturbing clusters that a figure has room for."""


def cluster_plates(section: Section) -> list[Plate]:
    """For each group of runs, the matrices of its first by what their scores look like, and what perturbing clusters costs."""
    clusters, effects = section.table(CLUSTERS), section.table(CLUSTER_EFFECTS)
    clusters = first_runs(section, clusters) if len(clusters) else clusters
    if not len(clusters):
        return []
    shown = effects[effects["run_id"].isin(clusters["run_id"])] if len(effects) else effects
    draws = shown[shown["algorithm"] == "kmeans"] if len(shown) else shown
    caption = (
        "Matrices by the first two principal components of what their scores look like (component and depth beside the points "
        "where there is room), in clusters by K-means; ringed: noise to DBSCAN. Of each group the first run is shown, since "
        "clusters of runs have nothing in common."
    )
    if len(draws):
        caption += (
            " At the right, nats per token lost where as many weights of each cluster are perturbed: points are draws, ticks "
            "and bars their mean with 95 % Student t interval; crosses: how many draws of a cluster have no finite loss."
        )

    def page(lines: pd.DataFrame) -> Figure:
        return _cluster_page(lines, draws[draws["run_id"].isin(lines["run_id"])] if len(draws) else draws)

    lacking = f"of which another of their group is shown, or without lines in {CLUSTERS}"
    return group_plates(section, "clusters", caption, clusters, page, lacking)


def first_runs(section: Section, table: pd.DataFrame) -> pd.DataFrame:
    """Lines of the first run of each group that has any."""
    firsts = [lines["run_id"].iloc[0] for _, lines in by_group(section, table).values()]
    return table[table["run_id"].isin(firsts)]


def _cluster_page(lines: pd.DataFrame, draws: pd.DataFrame) -> Figure:
    """The map at the left, a panel for each way of perturbing at the right."""
    counts = lines["kmeans"].dropna().astype(int).value_counts().sort_index()
    looks = looks_of(map(str, counts.index))
    ways = list(draws.groupby(effect_words(draws), sort=False))[:WAYS] if len(draws) else []
    figure, axes = canvas(max(1, len(ways)), 2 if ways else 1, 4.3, width_ratios=[2.2, 1] if ways else None)
    for ax, (way, own) in zip(axes[:, -1], ways, strict=False):
        _effects(ax, own, looks)
        ax.set_title(wrapped(str(way), 26), weight="normal")
    place = axes[0, 0].get_gridspec()[:, 0]
    for ax in axes[:, 0]:
        ax.remove()
    left = figure.add_subplot(place)
    handles = [
        Line2D([], [], ls="", marker=look.marker, color=look.colour, ms=4.5, label=f"cluster {name} ({counts[int(name)]})")
        for name, look in looks.items()
    ]
    ring = Line2D([], [], ls="", marker="o", mfc="none", mec="black", mew=0.7, ms=8, label="noise to DBSCAN")
    legend(figure, {}, *handles, *([ring] if (lines["dbscan"] == -1).any() else []))
    shown = lines.dropna(subset=["kmeans", "x", "y"])
    _scatter(left, shown, looks)
    names = [site_words(*site) for site in zip(shown["component"], shown["depth"], strict=True)]
    name_points(figure, left, shown[["x", "y"]].to_numpy(dtype=float), names)
    return figure


def _effects(ax: Axes, draws: pd.DataFrame, looks: Mapping[str, Look]) -> None:
    """What perturbing each cluster costs; draws without a finite loss are counted below its name."""
    names = [f"cluster {name}" for name in looks]
    for i, (name, look) in enumerate(looks.items()):
        every = draws.loc[draws["cluster"] == int(name), DAMAGE].to_numpy(dtype=float)
        values = every[drawable(every)]
        if len(values):
            dots(ax, values, i + 0.22 + spread(len(values), 0.1), look)
            mean_tick(ax, values, i - 0.15, look)
        if len(values) < len(every):
            names[i] += f"\n\N{MULTIPLICATION X} {len(every) - len(values)}/{len(every)}"
    value_axis(ax, draws.loc[drawable(draws[DAMAGE]), DAMAGE].to_numpy(dtype=float), DAMAGE)
    ax.set_xlabel(ax.get_xlabel().replace(" [", "\n["))
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)


def _scatter(ax: Axes, lines: pd.DataFrame, looks: Mapping[str, Look]) -> None:
    """Matrices as points with their names."""
    for name, look in looks.items():
        own = lines[lines["kmeans"] == int(name)]
        ax.scatter(own["x"], own["y"], s=16, marker=look.marker, color=look.colour, lw=0, zorder=3)
    noise = lines[lines["dbscan"] == -1]
    ax.scatter(noise["x"], noise["y"], s=64, marker="o", facecolor="none", edgecolor="black", lw=0.7, zorder=2)
    for which in ("x", "y"):
        ax.set(**{f"{which}label": f"{'first' if which == 'x' else 'second'} component of features [standard deviations]"})
    ax.margins(0.12)


def site_words(component: str, depth: float) -> str:
    """Name of a matrix: its component, and its depth where it has one."""
    return words(component) + ("" if math.isnan(depth) else f" {depth:.0f}")
