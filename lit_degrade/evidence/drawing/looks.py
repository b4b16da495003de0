"""How groups are told apart: colours, markers and lines that survive greyscale print, and the legend that explains them."""

import math
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C8C8C")
"""Okabe and Ito's colours, with grey for the yellow, too light for lines; https://jfly.uni-koeln.de/color/ (2008)."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (3, 1)), (0, (1, 2)))
GREY = "#6E6E6E"
STYLE: Any = {
    "font.family": "DejaVu Sans", "font.size": 8, "axes.labelsize": 8, "axes.titlesize": 8, "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5, "legend.fontsize": 7.5, "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.7,
    "axes.titlelocation": "left", "axes.titleweight": "bold", "xtick.major.width": 0.7, "ytick.major.width": 0.7,
    "legend.frameon": False, "svg.fonttype": "path", "lines.solid_capstyle": "round", "axes.unicode_minus": True,
}  # fmt: skip


@dataclass(frozen=True)
class Look:
    """How the runs of a group are drawn; up to 64 groups differ in colour or marker."""

    colour: str
    marker: str
    line: Any


def looks_of(labels: Iterable[str]) -> dict[str, Look]:
    """A look for every label."""
    n = len(PALETTE)
    return {label: Look(PALETTE[i % n], MARKERS[(i + i // n) % n], LINES[(i + i // n) % n]) for i, label in enumerate(labels)}


def legend(figure: Figure, looks: Mapping[str, Look], *others: Line2D) -> None:
    """Above the axes, in as many columns as have room; the others first."""
    handles = [*others, *(_handle(label, look) for label, look in looks.items())]
    if len(handles) > 1:
        longest = max(len(line) for handle in handles for line in str(handle.get_label()).splitlines())
        rows = math.ceil(len(handles) / max(1, min(6, 110 // (longest + 8))))
        columns = math.ceil(len(handles) / rows)
        figure.legend(handles=handles, loc="outside upper center", ncols=columns, handlelength=3.2, columnspacing=1.4)


def _handle(label: str, look: Look) -> Line2D:
    style: dict[str, Any] = {"color": look.colour, "ls": look.line, "lw": 1.4, "marker": look.marker, "mfc": "white", "ms": 4.5}
    return Line2D([], [], label=wrapped(label, 36), **style)


def wrapped(text: str, width: int = 60) -> str:
    """A text in lines of so many letters."""
    return "\n".join(textwrap.wrap(text, width))
