"""How large a change of the weights costs the same damage: one axis for all methods and targets."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from lit_degrade.evidence.claims.sections import Section
from lit_degrade.evidence.drawing.axes import FAR, SIZE, canvas
from lit_degrade.evidence.drawing.looks import GREY, MARKERS, Look, legend, looks_of, wrapped
from lit_degrade.evidence.drawing.panels import Panels, Plate, plates
from lit_degrade.evidence.reading.groups import Group, full_label
from lit_degrade.evidence.reading.words import method_of, words
from lit_degrade.evidence.topics.exchange_rates.rows import Rate, rates_of
from lit_degrade.perturbations.catalog import METHODS
from lit_degrade.records.tables import EXCHANGE_RATES

MOST = 4
"""Panels beside each other."""
GAP = 1.6
"""Factor between the places at the right edge."""


class _Edge(NamedTuple):
    """Right edge of the panels, where markers are that have no norm to stand at."""

    start: float
    has_far: bool
    has_missed: bool

    @property
    def far(self) -> float:
        """Place of changes that are too large."""
        return self.start * GAP**0.5

    @property
    def missed(self) -> float:
        """Place of what was not reached."""
        return self.far * GAP if self.has_far else self.far

    @property
    def ticks(self) -> dict[float, str]:
        """What is said there."""
        far = {self.far: f"\nover\n{FAR:g}"} if self.has_far else {}
        lower = "\n\n\n" if self.has_far else "\n"
        return far | ({self.missed: f"{lower}not\nreached"} if self.has_missed else {})


def rate_plates(section: Section) -> list[Plate]:
    """A panel for each group of runs, subjects by size; a figure for each cost; none where no run left exchange rates."""
    labelled = {words(full_label(group)): (group, rates_of(section.table(EXCHANGE_RATES), group)) for group in section.groups}
    costs = sorted({rate.cost for _, rates in labelled.values() for rate in rates})
    return [plate for cost in costs for plate in _plates(section, labelled, cost, len(costs) == 1)]


def _plates(section: Section, labelled: Mapping[str, tuple[Group, list[Rate]]], cost: float, alone: bool) -> list[Plate]:
    rates = {name: [rate for rate in every if rate.cost == cost] for name, (_, every) in labelled.items()}
    panels: Panels = {name: {name: labelled[name][0]} for name, every in rates.items() if every}
    drawn = [rate for every in rates.values() for rate in every]
    ns = [rate.dose.n for rate in drawn if rate.dose.n]
    missed, inexact = sum(not rate.dose.n for rate in drawn), sum(not rate.exact for rate in drawn)
    caption = (
        f"Size of the change of the weights, relative to their own, that costs {cost:g} nats per token on held-out text, by "
        "target and method (from top to bottom as in the legend). Filled markers: geometric mean over repetitions; bars: 95 % "
        "Student t interval on the log scale, cut where it leaves the panel"
        f"{f' (n = {_span(ns)})' if ns else ''}."
    )
    if any(rate.missed for rate in drawn):
        caption += (
            " Open markers at the right edge: repetitions whose largest dose costs less "
            f"({missed} of {len(drawn)} pairs of method and target in all of theirs)."
        )
    if any(map(_far, drawn)):
        caption += f" Filled markers at the right edge: over {FAR:g} times the weights, or weights that are not finite."
    if inexact:
        caption += f" {inexact} pairs cost something else by more than a fifth, since their doses go in steps: see the table."
    targets = list(dict.fromkeys(rate.target for rate in drawn))
    looks = {name: look for name, look in _looks(drawn).items() if any(rate.method == name for rate in drawn)}

    def page(shown: Panels) -> Figure:
        return _page({name: rates[name] for name in shown}, targets, looks, cost)

    name, runs = "exchange_rates" if alone else f"exchange_rates_{cost:g}", set(section.table(EXCHANGE_RATES)["run_id"])
    return plates(section, name, caption, panels, runs, page, most=MOST, lacking=f"without doses in {EXCHANGE_RATES}")


def _span(ns: Sequence[int]) -> str:
    return f"{min(ns)} to {max(ns)}" if min(ns) < max(ns) else str(min(ns))


def _looks(rates: Sequence[Rate]) -> dict[str, Look]:
    """The same for a method in every figure; in greyscale the first twelve differ too."""
    looks, markers = looks_of(dict.fromkeys([*METHODS, *(rate.method for rate in rates)])), (*MARKERS, "<", ">", "h", "p")
    return {name: replace(look, marker=markers[i % len(markers)]) for i, (name, look) in enumerate(looks.items())}


def _page(rates: Mapping[str, Sequence[Rate]], targets: Sequence[str], looks: Mapping[str, Look], cost: float) -> Figure:
    """Panels beside each other; bands of targets wide enough for all methods below each other."""
    figure, axes = canvas(1, len(rates), 1.4 + len(targets) * max(0.22, 0.055 * len(looks)), sharex=True, sharey=True)
    everything = [rate for every in rates.values() for rate in every]
    low, high = _reach(everything)
    edge = _Edge(high, any(map(_far, everything)), any(rate.missed for rate in everything))
    for ax, (name, every) in zip(axes.flat, rates.items(), strict=True):
        _panel(ax, every, targets, looks, edge)
        ax.set_title(wrapped(name, 90 // len(rates)))
    places = _ticks(low, high) | edge.ticks
    axes[0, 0].set_xlim(low, max(high, *places) * GAP)
    axes[0, 0].set_xticks(list(places), list(places.values()))
    axes[0, 0].set_yticks(range(len(targets)), [wrapped(words(target), 20) for target in targets])
    axes[0, 0].set_ylim(len(targets) - 0.5, -0.5)
    figure.supxlabel(f"relative norm of the change that costs {cost:g} nats per token [{SIZE}]", fontsize=8)
    style: Any = {"ls": "", "ms": 4.5, "mew": 0.8}
    handles = [
        Line2D([], [], marker=look.marker, color=look.colour, label=method_of(name).label, **style)
        for name, look in looks.items()
    ]
    legend(figure, {}, *handles)
    return figure


def _far(rate: Rate) -> bool:
    """Whether a change is too large to be drawn where it belongs."""
    return rate.norm.diverged > 0 or (rate.norm.n > 0 and rate.norm.mean > FAR)


def _reach(rates: Sequence[Rate]) -> tuple[float, float]:
    """Smallest and largest norm that has a place: the means decide, since an interval of two repetitions may be very long."""
    means = [rate.norm.mean for rate in rates if rate.norm.n and not _far(rate)] or [1.0]
    return min(*means, max(means) / 3) / 1.4, max(means) * 1.4


def _ticks(low: float, high: float) -> dict[float, str]:
    """Where ticks are, and what they say: powers of ten, more where there are few."""
    steps = (1, 2, 5) if high < 30 * low else (1,)
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    return {step * 10.0**i: f"{step * 10.0**i:g}" for i in powers for step in steps if low < step * 10.0**i < high}


def _panel(ax: Axes, rates: Sequence[Rate], targets: Sequence[str], looks: Mapping[str, Look], edge: _Edge) -> None:
    """One group of runs: methods below each other in the band of their target."""
    ax.set_xscale("log")
    ax.xaxis.set_minor_locator(NullLocator())
    ax.tick_params(axis="y", length=0)
    for i in range(0, len(targets), 2):
        ax.axhspan(i - 0.5, i + 0.5, color=GREY, alpha=0.1, lw=0, zorder=0)
    for place in edge.ticks:
        ax.axvline(place / GAP**0.5, color=GREY, lw=0.7, ls=":", zorder=1)
    order = list(looks)
    for rate in rates:
        y = targets.index(rate.target) + 0.84 * ((order.index(rate.method) + 0.5) / len(order) - 0.5)
        _mark(ax, rate, y, looks[rate.method], edge)


def _mark(ax: Axes, rate: Rate, y: float, look: Look, edge: _Edge) -> None:
    """Mean and interval, and at the edge what is too large and what was not reached."""
    it = rate.norm
    style: Any = {"marker": look.marker, "ms": 3.4, "color": look.colour, "mew": 0.7, "zorder": 3}
    if _far(rate):
        ax.plot([edge.far], [y], **style)
    elif it.n:
        ax.plot([it.mean], [y], **style)
        if np.isfinite(it.interval.low):
            ends = [it.interval.low, min(it.interval.high, edge.start)]
            ax.plot(ends, [y, y], color=look.colour, lw=1.1, zorder=2)
    if rate.missed:
        ax.plot([edge.missed], [y], **style | {"mfc": "white"})
