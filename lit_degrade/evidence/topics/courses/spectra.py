"""Spectra of the last layer's hidden states before and after, and their ratio."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator
from safetensors import SafetensorError, safe_open

from lit_degrade.evidence.claims.sections import Section
from lit_degrade.evidence.drawing.axes import STEPS, Grid, Values, canvas
from lit_degrade.evidence.drawing.looks import GREY, Look, legend, looks_of, wrapped
from lit_degrade.evidence.drawing.panels import FLAT, Panels, Plate, labels_of, panels_of, plates, read_all
from lit_degrade.evidence.reading.published import read_metrics
from lit_degrade.records.paths import SPECTRA

Decay = tuple[Values, Values]
"""Singular values over their sum before and after, largest first, both (n,)."""
ROUNDING = 1e-5
"""Of the largest singular value: what is smaller is rounding, where the subject runs in fp16."""


def spectra_plates(section: Section) -> list[Plate]:
    """Spectral decay before and after; none where no run left spectra."""
    decays = read_all(section, _decay)
    panels = panels_of(section, set(decays), FLAT)
    looks = looks_of(labels_of(panels))
    caption = (
        "Singular values of the last layer's hidden states, as shares of their sum, before (grey, dashed) and after: means of "
        "runs. Beneath: after / before by run, mean and range of the runs. Values below 1e-5 of the largest are left out."
    )

    def page(shown: Panels) -> Figure:
        return _page(shown, decays, looks)

    return plates(section, "spectra", caption, panels, set(decays), page, most=6, lacking="without readable spectra")


def _decay(folder: Path) -> Decay | None:
    """Spectra of the last layer at the first and the last step; nothing where they cannot be read."""
    try:
        spectra = _recorded(folder) if (folder / SPECTRA).is_file() else _published(folder)
        before, after = (np.asarray(values, dtype=np.float64)[: min(map(len, spectra))] for values in spectra)
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, SafetensorError):
        return None
    good = len(before) > 1 and all(np.isfinite(values).all() and values.sum() > 0 for values in (before, after))
    return (before, after) if good else None


def _recorded(folder: Path) -> Decay:
    with safe_open(folder / SPECTRA, framework="numpy") as file:
        keys = [key.split("/") for key in file.keys()]  # noqa: SIM118 (it is no dictionary)
        steps, layers = (sorted({key[i] for key in keys}, key=lambda name: (len(name), name)) for i in (0, 1))
        before, after = (np.sort(file.get_tensor(f"{step}/{layers[-1]}"))[::-1] for step in (steps[0], steps[-1]))
    return before / before.sum(), after / after.sum()


def _published(folder: Path) -> Decay:
    values = read_metrics(folder)
    return values["baseline_singular_values"], values["post_attack_singular_values"]


def _page(panels: Panels, decays: Mapping[str, Decay], looks: Mapping[str, Look]) -> Figure:
    """Spectra above ratios, in bands of up to three panels."""
    columns = min(3, len(panels)) if len(panels) != 4 else 2
    bands = math.ceil(len(panels) / columns)
    height = 0.6 + (4.0 if len(panels) == 1 else 2.9 * bands)
    figure, axes = canvas(2 * bands, columns, height, sharex="col", sharey="row", height_ratios=[3, 2] * bands)
    cells = axes.reshape(bands, 2, columns).swapaxes(1, 2).reshape(-1, 2)
    for (upper, lower), (name, groups) in zip(cells, panels.items(), strict=False):
        upper.set_title(wrapped(name, 110 // columns - 6), fontsize=7.5)
        for label, group in groups.items():
            _lines(upper, lower, [decays[run] for run in group.rows["run_id"] if run in decays], looks[label])
    for ax in cells[len(panels) :].flat:
        ax.set_visible(False)
    _finish(axes)
    before = Line2D([], [], color=GREY, ls="--", lw=1.2, label="before")
    legend(figure, {label: looks[label] for label in labels_of(panels)}, before)
    return figure


def _lines(upper: Axes, lower: Axes, pairs: Sequence[Decay], look: Look) -> None:
    """Mean spectra, and the mean and range of the runs' ratios."""
    n = min(len(before) for before, _ in pairs)
    before, after = (np.stack([pair[i][:n] for pair in pairs]) for i in (0, 1))
    n = max(2, int((before.mean(axis=0) > ROUNDING * before.mean(axis=0).max()).sum()))
    before, after, index = before[:, :n], after[:, :n], np.arange(1, n + 1)
    upper.plot(index, before.mean(axis=0), color=GREY, ls="--", lw=1.2, zorder=3)
    every = [int(i) for i in np.unique(np.geomspace(1, n, 7).astype(int) - 1)]
    style: dict[str, Any] = {"color": look.colour, "ls": look.line, "lw": 1.2, "zorder": 2}
    style |= {"marker": look.marker, "ms": 3.5, "mfc": "white", "markevery": every}
    upper.plot(index, after.mean(axis=0), **style)
    ratio = after / np.where(before > 0, before, np.nan)
    lower.fill_between(index, ratio.min(axis=0), ratio.max(axis=0), color=look.colour, alpha=0.15, lw=0, zorder=0)
    lower.plot(index, ratio.mean(axis=0), **style)


def _finish(axes: Grid) -> None:
    """Scales, labels and ticks."""
    for upper, lower in zip(axes[::2].flat, axes[1::2].flat, strict=True):
        upper.set_xscale("log")
        upper.set_yscale("log")
        upper.tick_params(labelbottom=False)
        upper.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        upper.xaxis.set_minor_locator(NullLocator())
        lower.axhline(1, color=GREY, ls="--", lw=1.0, zorder=1)
        lower.yaxis.set_major_locator(MaxNLocator(4, steps=STEPS))
    for upper, lower in zip(axes[::2, 0], axes[1::2, 0], strict=True):
        upper.set_ylabel("σ / Σσ [share]")
        lower.set_ylabel("after / before\n[ratio]")
    for ax in axes[-1]:
        ax.set_xlabel("singular value [index]")
