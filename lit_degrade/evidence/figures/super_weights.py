"""What stands out: single weights that carry a subject, and matrices whose scores are unlike those of others."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from lit_degrade.evidence.figures.axes import STEPS, canvas, dots, mean_tick, spread, value_axis
from lit_degrade.evidence.figures.distributions import by_group, few_ticks, group_plates
from lit_degrade.evidence.figures.looks import GREY, PALETTE, Look, legend, looks_of, wrapped
from lit_degrade.evidence.figures.panels import Panels, Plate, plates
from lit_degrade.evidence.outcomes import words
from lit_degrade.evidence.record_tables import drawable
from lit_degrade.evidence.sections import Section
from lit_degrade.evidence.sites import confirmed_words, effect_words
from lit_degrade.evidence.statistics import Values
from lit_degrade.records.tables import CLUSTER_EFFECTS, CLUSTERS, DAMAGE, SPIKES, SUPER_WEIGHTS

MOST = 3
"""Groups of runs whose spikes are in one figure."""
WAYS = 3
"""Ways of perturbing clusters that a figure has room for."""
NAMED = 4
"""Weights of one layer that a figure names."""
LETTER, LINE, RADIUS = 3.1, 6.0, 2.5
"""Width and height of letters beside points, and half the width of a point [points]."""
NEAR = 5
"""From a point to the nearest part of its name [points]; farther ones have a line."""
_SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
AWAY = tuple((x * reach, y * reach) for reach in (4, 10, 16, 24) for x, y in _SIDES)
"""Where names may be, the best place first [points]."""


def super_weight_plates(section: Section) -> list[Plate]:
    """A row for each group of runs: spikes of activations by layer, and the weights that make them; none without spikes."""
    spikes, weights = section.table(SPIKES), section.table(SUPER_WEIGHTS)
    every = by_group(section, spikes) if len(spikes) else {}
    if not every:
        return []
    runs = {run for _, lines in every.values() for run in lines["run_id"]}
    weights = weights.dropna(subset=["order"]) if len(weights) else weights
    n = len(runs & set(weights["run_id"])) if len(weights) else 0
    caption = (
        "Largest magnitude of any channel over that of the median channel, of the inputs and the outputs of the last matrix of "
        "each MLP, by depth. Filled: intact; open: after the last removal of a weight. Dashed: threshold, from randomly "
        "initialised models; an output above it is a spike. Named by (row, column): the weight that makes most of a spike, "
        "confirmed where zeroing it costs more than zeroing any of those nearest in size. Points: runs. "
        f"{n} of {len(runs)} runs found such a weight."
    )
    panels: Panels = {name: {name: group} for name, (group, _) in every.items()}

    def page(shown: Panels) -> Figure:
        return _spike_page({name: every[name][1] for name in shown}, weights)

    return plates(section, "super_weights", caption, panels, runs, page, most=MOST, lacking=f"without lines in {SPIKES}")


def _spike_page(groups: Mapping[str, pd.DataFrame], weights: pd.DataFrame) -> Figure:
    """Inputs at the left, outputs with the names of weights at the right."""
    figure, axes = canvas(len(groups), 2, 0.6 + 2.4 * len(groups))
    for row, (name, lines) in zip(axes, groups.items(), strict=True):
        for ax, side in zip(row, ("input", "output"), strict=True):
            columns = {f"{side}_ratio": "ratio", f"{side}_threshold": "threshold"}
            _spikes(ax, lines.reindex(columns=["run_id", "stage", "depth", *columns]).rename(columns=columns))
            ax.set_ylabel(f"largest / median\n{side} channel [ratio]")
            ax.set_xlabel("depth [block]")
        row[0].set_title(wrapped(name, 45) if len(groups) > 1 else "")
        if len(weights):
            own = weights[weights["run_id"].isin(lines["run_id"])]
            _name(row[1], own)
    style: Any = {"color": PALETTE[0], "marker": "o", "ls": "", "ms": 4.5}
    stages = [Line2D([], [], label="intact", **style), Line2D([], [], label="after the last removal", mfc="white", **style)]
    legend(figure, {}, *stages, Line2D([], [], color=GREY, ls="--", lw=1, label="threshold"))
    return figure


def _spikes(ax: Axes, lines: pd.DataFrame) -> None:
    """Ratios of the intact subject and of the last stage of each run, and mean thresholds over layers."""
    last = lines["stage"] == lines.groupby("run_id")["stage"].transform("max")
    good = drawable(lines["ratio"]) & (lines["ratio"] > 0)
    for stage, colour in ((last, "white"), (lines["stage"] == 0, PALETTE[0])):
        shown = lines[good & stage]
        ax.plot(shown["depth"], shown["ratio"], ls="", marker="o", ms=4, mfc=colour, mec=PALETTE[0], mew=0.8, zorder=3)
    thresholds = lines[drawable(lines["threshold"])].groupby("depth", as_index=False)["threshold"].mean()
    ends = (thresholds["depth"].to_numpy(dtype=float)[:, None] + [-0.4, 0.4]).ravel()
    ax.plot(ends, thresholds["threshold"].repeat(2), color=GREY, ls="--", lw=1, zorder=2)
    ax.set_yscale("log")
    ax.margins(x=0.06, y=0.15)
    ax.yaxis.set_major_locator(few_ticks(*ax.get_ylim()))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=STEPS))


def _name(ax: Axes, weights: pd.DataFrame) -> None:
    """Which weights make spikes, beside the spikes."""
    middle = float(np.mean(ax.get_xlim()))
    for _, found in weights[drawable(weights["output_ratio"])].groupby("depth"):
        lines = [
            f"({row:.0f}, {column:.0f}) {confirmed_words(sure)}"
            for (row, column), sure in found.groupby(["row", "column"], sort=False)["confirmed"]
        ]
        more = [f"and {len(lines) - NAMED} more"] if len(lines) > NAMED else []
        at = float(found["depth"].iloc[0]), float(found["output_ratio"].max())
        side = 1 if at[0] <= middle else -1
        style: Any = {"ha": "left" if side > 0 else "right", "va": "top", "fontsize": 6.5}
        ax.annotate("\n".join([*lines[:NAMED], *more]), at, (6 * side, 3), textcoords="offset points", **style)


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
    for ax, (way, found) in zip(axes[:, -1], ways, strict=False):
        _effects(ax, found, looks)
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


def name_points(figure: Figure, ax: Axes, places: Values, names: Sequence[str]) -> None:
    """Names beside their points, where they cover neither points nor other names; far ones with a line."""
    figure.draw_without_rendering()  # the layout decides how much room there is
    scale = 72 / figure.dpi
    points, frame = scale * ax.transData.transform(places), scale * ax.bbox.get_points()
    taken = np.concatenate([points - RADIUS, points + RADIUS], axis=1)
    for point, place, name in zip(points, places, names, strict=True):
        half = np.array([LETTER * len(name), LINE]) / 2
        for away in AWAY:
            middle = np.array(away) + half * np.sign(away)
            box = np.concatenate([point + middle - half, point + middle + half])
            apart = (box[2:] < taken[:, :2]) | (taken[:, 2:] < box[:2])
            if apart.any(axis=1).all() and (box[:2] >= frame[0]).all() and (box[2:] <= frame[1]).all():
                taken = np.vstack([taken, box])
                _label(ax, name, place, middle, np.abs(away).max() > NEAR)
                break


def _label(ax: Axes, name: str, place: Values, middle: Values, line: bool) -> None:
    """A name whose middle is so many points away from its place."""
    arrow = {"arrowstyle": "-", "lw": 0.4, "color": GREY, "shrinkA": 0, "shrinkB": 2} if line else None
    style: Any = {"textcoords": "offset points", "ha": "center", "va": "center", "fontsize": 5.5, "arrowprops": arrow}
    ax.annotate(name, tuple(place), tuple(middle), **style).set_in_layout(False)
