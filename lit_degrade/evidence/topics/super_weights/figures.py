"""Single weights that carry a subject: spikes of activations, and the weights that make them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from lit_degrade.evidence.claims.sections import Section
from lit_degrade.evidence.drawing.axes import STEPS, canvas, few_ticks
from lit_degrade.evidence.drawing.groups import by_group
from lit_degrade.evidence.drawing.looks import GREY, PALETTE, legend, wrapped
from lit_degrade.evidence.drawing.panels import Panels, Plate, plates
from lit_degrade.evidence.reading.estimates import drawable
from lit_degrade.evidence.topics.super_weights.rows import confirmed_words
from lit_degrade.records.tables import SPIKES, SUPER_WEIGHTS

MOST = 3
"""Groups of runs whose spikes are in one figure."""
NAMED = 4
"""Weights of one layer that a figure names."""


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
    for _, own in weights[drawable(weights["output_ratio"])].groupby("depth"):
        lines = [
            f"({row:.0f}, {column:.0f}) {confirmed_words(sure)}"
            for (row, column), sure in own.groupby(["row", "column"], sort=False)["confirmed"]
        ]
        more = [f"and {len(lines) - NAMED} more"] if len(lines) > NAMED else []
        at = float(own["depth"].iloc[0]), float(own["output_ratio"].max())
        side = 1 if at[0] <= middle else -1
        style: Any = {"ha": "left" if side > 0 else "right", "va": "top", "fontsize": 6.5}
        ax.annotate("\n".join([*lines[:NAMED], *more]), at, (6 * side, 3), textcoords="offset points", **style)
