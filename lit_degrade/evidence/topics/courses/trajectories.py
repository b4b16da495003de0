"""Effective rank and loss against the step, of every run and in the mean."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lit_degrade.evidence.claims.sections import Section
from lit_degrade.evidence.drawing.axes import canvas
from lit_degrade.evidence.drawing.looks import GREY, Look, legend, looks_of, wrapped
from lit_degrade.evidence.drawing.panels import FLAT, Panels, Plate, groups_of, labels_of, named, panels_of, plates, read_all
from lit_degrade.evidence.reading.groups import Group
from lit_degrade.records.tables import COURSE

Track = dict[str, "pd.Series[float]"]
"""Some of TRACKS -> its values by step."""
TRACKS = {"rank": "change of effective\nrank [%]", "nats": "probe loss\n[nats/token]"}
_RANK = "effective_rank_layer"


def trajectory_plates(section: Section) -> list[Plate]:
    """Rank and loss; none where no run left a table of its steps."""
    tracks = read_all(section, _track)
    panels = panels_of(section, set(tracks), FLAT)
    looks = looks_of(labels_of(panels))
    caption = (
        "Effective rank of the last layer relative to step 0, and loss on the probe, against the optimizer step. "
        "Thin lines: runs; bold lines: means of the runs that have a value at a step."
    )
    diverged = [run for run in section.rows["run_id"][section.rows["state"] == "diverged"] if run in tracks]
    caption += f" Crosses: the last value of runs that diverged ({named(diverged)})." if diverged else ""

    def page(shown: Panels) -> Figure:
        return _page(shown, tracks, looks)

    lacking = f"without a readable {COURSE}"
    return plates(section, "trajectories", caption, panels, set(tracks), page, most=5, lacking=lacking)


def _track(folder: Path) -> Track | None:
    """What was measured on the way; nothing where the file is missing, unreadable, or has no two steps."""
    try:
        table = pd.read_csv(folder / COURSE).apply(pd.to_numeric, errors="coerce").set_index("step")
    except (OSError, ValueError, KeyError):
        return None
    layers = {int(name.removeprefix(_RANK)): name for name in table if re.fullmatch(_RANK + r"\d+", str(name))}
    columns = {"rank": layers.get(max(layers, default=0)), "nats": "probe_nats_per_token"}
    track = {kind: _finite(table[name]) for kind, name in columns.items() if name in table}
    track = {kind: values for kind, values in track.items() if len(values) > 1}
    if "rank" in track:
        track["rank"] = 100 * (track["rank"] / track["rank"].iloc[0] - 1)
    return track or None


def _finite(values: "pd.Series[float]") -> "pd.Series[float]":
    values = values[np.isfinite(values)].sort_index()
    return values[~values.index.duplicated(keep="last")]


def _page(panels: Panels, tracks: Mapping[str, Track], looks: Mapping[str, Look]) -> Figure:
    recorded = {kind for group in groups_of(panels) for run in group.rows["run_id"] for kind in tracks.get(run, {})}
    kinds = [kind for kind in TRACKS if kind in recorded]
    subjects = {frozenset(group.conditions.get("subject") for group in groups.values()) for groups in panels.values()}
    height = 3.3 if len(panels) == 1 else 0.7 + 1.45 * len(panels)
    figure, axes = canvas(len(panels), len(kinds), height, sharex=True, sharey="col" if len(subjects) == 1 else "none")
    for row, (name, groups) in zip(axes, panels.items(), strict=True):
        row[0].set_title(wrapped(name))
        for ax, kind in zip(row, kinds, strict=True):
            for label, group in groups.items():
                _lines(ax, group, tracks, kind, looks[label])
            ax.set_ylabel(TRACKS[kind])
            if kind == "rank":
                ax.axhline(0, color=GREY, lw=0.7, zorder=0)
    for ax in axes[-1]:
        ax.set_xlabel("optimizer step [steps]")
    legend(figure, {label: looks[label] for label in labels_of(panels)})
    return figure


def _lines(ax: Axes, group: Group, tracks: Mapping[str, Track], kind: str, look: Look) -> None:
    """Thin lines for runs, a bold one for their mean."""
    runs = []
    for run, state in zip(group.rows["run_id"], group.rows["state"], strict=True):
        if kind in tracks.get(run, {}):
            values = tracks[run][kind]
            runs.append(values)
            ax.plot(values.index, values, color=look.colour, lw=0.6, alpha=0.4, zorder=2)
            if state == "diverged":
                ax.plot(values.index[-1:], values.iloc[-1:], marker="x", ms=5, color=look.colour, zorder=4)
    if runs:
        mean = pd.concat(runs, axis=1).mean(axis=1).sort_index()
        style: dict[str, Any] = {"marker": look.marker, "ms": 4, "mfc": "white", "markevery": max(1, len(mean) // 6)}
        ax.plot(mean.index, mean, color=look.colour, ls=look.line, lw=1.6, zorder=3, **style)
