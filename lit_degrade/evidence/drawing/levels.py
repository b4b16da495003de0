"""Axes of the levels of a perturbation."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullLocator

from lit_degrade.evidence.drawing.axes import STEPS, WIDE, Decades
from lit_degrade.evidence.reading.variants import DoseSeries
from lit_degrade.evidence.reading.words import method_of


def level_axis(ax: Axes, variant: DoseSeries, found: set[float]) -> dict[float, float]:
    """Scale and label of an axis of levels, on which damage grows to the right; returns where each level is."""
    places, levels = places_of_levels(found), sorted(found)
    note = "; ∞: not quantised]" if math.inf in levels else "]"
    ax.set_xlabel(method_of(variant.method).axis.removesuffix("]") + note)
    ax.update_datalim([(place, 0.0) for place in places.values()], updatey=False)
    sizes = np.abs([level for level in levels if level])
    if variant.counts_levels:
        ax.set_xscale("log", base=2)
        ax.set_xlim(max(places.values()) * 1.3, min(places.values()) / 1.3)
        shown = levels[:: math.ceil(len(levels) / 7)]
        ax.set_xticks([places[level] for level in shown], ["∞" if level == math.inf else f"{level:g}" for level in shown])
        ax.xaxis.set_minor_locator(NullLocator())
    elif len(sizes) and sizes.max() > WIDE * sizes.min():
        start = math.floor(math.log10(sizes.min()))
        ax.set_xscale("symlog", linthresh=10.0**start, linscale=0.5)
        ax.xaxis.set_major_locator(Decades(start))
        ax.xaxis.set_minor_locator(NullLocator())
    else:
        ax.xaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
    return places


def places_of_levels(levels: set[float]) -> dict[float, float]:
    """Level -> where it is on its axis: itself, but beyond all others where it is infinite."""
    finite = [level for level in levels if math.isfinite(level)] or [1.0]
    beyond = max(finite) * max(2.0, (max(finite) / min(finite)) ** 0.2) if math.inf in levels else math.inf
    return {level: min(level, beyond) for level in levels}
