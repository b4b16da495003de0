"""Maps of depths by components: cells as colours, crosses, numbers, colour bars."""

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

from lit_degrade.evidence.drawing.axes import Decades, few_ticks, linear_up_to
from lit_degrade.evidence.numbers.statistics import Values
from lit_degrade.evidence.reading.estimates import drawable
from lit_degrade.evidence.reading.sites import OUTSIDE
from lit_degrade.evidence.reading.words import words

GAP = 0.5
"""Between the blocks and what is in none, in cells."""


NUMBERED = 12
"""Most columns that all have their names, and cells that say their numbers."""


def grid_of(cells: pd.Series, rows: Sequence[str]) -> pd.DataFrame:
    """Cells as rows by depths: all blocks from the first on, then OUTSIDE where any is; nan where there is no cell."""
    depths = cells.index.get_level_values("depth")
    columns = [*range(int(depths.max()) + 1), *([OUTSIDE] if OUTSIDE in depths else [])]
    return cells.astype(float).unstack("depth").reindex(index=list(rows), columns=columns)


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
