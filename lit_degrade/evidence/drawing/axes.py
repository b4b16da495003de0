"""Parts of every figure: its canvas, runs as points, means with their intervals, axes of values."""

import math
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import Locator, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from lit_degrade.evidence.drawing.looks import GREY, Look, wrapped
from lit_degrade.evidence.numbers.statistics import Values, t_interval
from lit_degrade.evidence.reading.estimates import drawable
from lit_degrade.evidence.reading.words import outcome_of

Grid = NDArray[Any]
"""Axes, (rows, columns)."""
WIDTH = 6.3
"""Inches: 16 cm."""
STEPS = (1, 2, 2.5, 5, 10)
"""Between ticks."""
WIDE = 100.0
"""Times the median beyond which an axis becomes logarithmic."""


def canvas(rows: int, columns: int, height: float, **options: Any) -> tuple[Figure, Grid]:
    """A figure of WIDTH with a grid of axes, (rows, columns)."""
    figure = Figure(figsize=(WIDTH, height), layout=ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.05))
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def spread(n: int, reach: float) -> Values:
    """Offsets within ± reach that keep points apart, (n,); the same every time."""
    return np.asarray((np.arange(n) * 0.618034 + 0.5) % 1.0 - 0.5) * 2 * reach


def dots(ax: Axes, x: Values, y: Values, look: Look) -> None:
    """A point for every run."""
    ax.scatter(x, y, s=13, marker=look.marker, facecolor="white", edgecolor=look.colour, lw=0.9, zorder=3)


def mean_tick(ax: Axes, values: Values, at: float, look: Look, along: Literal["x", "y"] = "x") -> None:
    """Mean as a tick, and the interval, along the axis of values."""
    mean, interval = float(values.mean()), t_interval(values)
    x, y, marker = ([mean], [at], "|") if along == "x" else ([at], [mean], "_")
    ax.plot(x, y, marker=marker, ms=9, mew=1.8, color=look.colour, zorder=4)
    if math.isfinite(interval.low):
        reach: Any = {f"{along}err": np.maximum([[mean - interval.low], [interval.high - mean]], 0)}
        ax.errorbar(x, y, color=look.colour, lw=1.2, capsize=2.5 if along == "x" else 3, capthick=1.2, zorder=4, **reach)


def cross(ax: Axes, x: float, top: float, text: str, look: Look) -> None:
    """What has no place on the axis, near the top of it, with what is said of it."""
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
    style: Any = {"ha": "center", "va": "top", "fontsize": 6.5, "weight": "bold", "linespacing": 0.95, "bbox": box}
    mark = f"\N{MULTIPLICATION X}{text}"
    ax.text(x, top, mark, transform=ax.get_xaxis_transform(), color=look.colour, zorder=5, **style)


def value_axis(ax: Axes, values: Values, outcome: str) -> None:
    """Scale, zero line and label of an x axis of values."""
    ax.xaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
    label = scale_axis(ax, "x", outcome, values)
    ax.axvline(0, color=GREY, lw=0.7, zorder=0)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("\n".join(wrapped(line, 38) for line in label.splitlines()))


def scale_axis(ax: Axes, which: Literal["x", "y"], outcome: str, values: Values) -> str:
    """Label of an axis of values; values of very different sizes make it logarithmic beyond the decade of their median size."""
    label, sizes = outcome_of(outcome).axis, np.abs(values[values != 0])
    if not len(sizes) or sizes.max() <= WIDE * np.median(sizes):
        return label
    start = math.floor(math.log10(np.median(sizes)))
    set_scale, axis = (ax.set_xscale, ax.xaxis) if which == "x" else (ax.set_yscale, ax.yaxis)
    set_scale("symlog", linthresh=10.0**start)
    axis.set_major_locator(Decades(start))
    axis.set_minor_locator(NullLocator())
    return f"{label}\n(linear up to {10.0**start:g})"


class Decades(Locator):
    """Few ticks at powers of ten, for an axis that is linear below 10^start."""

    def __init__(self, start: int) -> None:
        """Remember the exponent `start`."""
        self.start = start

    def __call__(self) -> list[float]:
        """Ticks within what is shown."""
        assert self.axis is not None
        return self.tick_values(*self.axis.get_view_interval())

    def tick_values(self, vmin: float, vmax: float) -> list[float]:
        """Ticks from vmin to vmax."""
        low, high = sorted((vmin, vmax))
        below, above = (math.floor(math.log10(max(end, 1e-300))) - self.start + 1 for end in (-low, high))
        stride = max(1, math.ceil((max(below, 0) + max(above, 0)) / 7))
        down, up = ([10.0 ** (self.start - 1 + i) for i in range(stride, end + 1, stride)] for end in (below, above))
        return [*(-tick for tick in reversed(down)), 0.0, *up]


def linear_up_to(values: Values) -> int:
    """Exponent of the power of ten beyond which an axis of these values is logarithmic: the decade of their median size."""
    sizes = np.abs(values[drawable(values) & (values != 0)])
    return math.floor(math.log10(np.median(sizes))) if len(sizes) else 0


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


def cross_right(ax: Axes, y: float, lost: int, n: int, look: Look) -> None:
    """What has no place on the axis, at the right edge; its share where there are others."""
    style: Any = {"ha": "right", "va": "center", "fontsize": 6.5, "weight": "bold", "zorder": 5}
    style["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
    share = f"{lost}/{n}" if n > 1 else ""
    ax.text(0.995, y, f"\N{MULTIPLICATION X}{share}", transform=ax.get_yaxis_transform(), color=look.colour, **style)


FAR = 100.0
"""Times the norm of the weights: what is larger has no place of its own (a flipped exponent makes 10^36)."""


SIZE = "‖change‖ / ‖weights‖"


def head_room(ax: Axes, share: float) -> None:
    """Raise the upper end of a y axis by a share of its length, for crosses."""
    scale = ax.yaxis.get_transform()
    low, high = scale.transform(np.array(ax.get_ylim()))
    ax.set_ylim(top=float(scale.inverted().transform(np.array([high + share * (high - low)]))[0]))
