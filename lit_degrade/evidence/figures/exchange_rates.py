"""How large a change of the weights costs the same damage: one axis for all methods and targets."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from lit_degrade.evidence.exchange_rates import Rate, rates_of
from lit_degrade.evidence.figures.axes import canvas
from lit_degrade.evidence.figures.looks import GREY, MARKERS, Look, legend, looks_of, wrapped
from lit_degrade.evidence.figures.outcomes import METHODS, method_of, words
from lit_degrade.evidence.figures.panels import Panels, Plate, plates
from lit_degrade.evidence.groups import Group, full_label
from lit_degrade.evidence.sections import Section
from lit_degrade.records.paths import EXCHANGE_RATES

MOST = 4
"""Panels beside each other."""
EDGE = 1.4
"""Times the largest norm, where open markers are."""
GAP = 1.35
"""Between them and the line that sets them apart, a factor."""
SIZE = "‖change‖ / ‖weights‖"


def rate_plates(section: Section) -> list[Plate]:
    """A panel for each group of runs, subjects by size; a figure for each cost; none where no run left exchange rates."""
    found = {words(full_label(group)): (group, rates_of(section.rates, group)) for group in section.groups}
    costs = sorted({rate.cost for _, rates in found.values() for rate in rates})
    return [plate for cost in costs for plate in _plates(section, found, cost, len(costs) == 1)]


def _plates(section: Section, found: Mapping[str, tuple[Group, list[Rate]]], cost: float, alone: bool) -> list[Plate]:
    rates = {name: [rate for rate in every if rate.cost == cost] for name, (_, every) in found.items()}
    panels: Panels = {name: {name: found[name][0]} for name, every in rates.items() if every}
    drawn = [rate for every in rates.values() for rate in every]
    ns = [rate.norm.n for rate in drawn if rate.norm.n]
    missed = sum(not rate.norm.n for rate in drawn)
    caption = (
        f"Size of the change of the weights, relative to their own, that costs {cost:g} nats per token on held-out text, by "
        "target and method (from top to bottom as in the legend). Filled markers: geometric mean over repetitions; bars: 95 % "
        "Student t interval on the log scale, cut where it leaves the panel"
        f"{f' (n = {_span(ns)})' if ns else ''}. Open markers at the right edge: repetitions whose largest dose costs less "
        f"({missed} of {len(drawn)} pairs of method and target in all of theirs)."
    )
    targets = list(dict.fromkeys(rate.target for rate in drawn))
    looks = {name: look for name, look in _looks(drawn).items() if any(rate.method == name for rate in drawn)}

    def page(shown: Panels) -> Figure:
        return _page({name: rates[name] for name in shown}, targets, looks, cost)

    name, runs = "exchange_rates" if alone else f"exchange_rates_{cost:g}", set(section.rates["run_id"])
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
    low, high = _reach([rate for every in rates.values() for rate in every])
    for ax, (name, every) in zip(axes.flat, rates.items(), strict=True):
        _panel(ax, every, targets, looks, EDGE * high)
        ax.set_title(wrapped(name, 90 // len(rates)))
    axes[0, 0].set_xlim(low, 1.5 * EDGE * high)
    axes[0, 0].set_xticks(*_ticks(low, high, any(rate.missed for every in rates.values() for rate in every)))
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


def _reach(rates: Sequence[Rate]) -> tuple[float, float]:
    """Smallest and largest norm that has a place: the means decide, since an interval of two repetitions may be very long."""
    means = [rate.norm.mean for rate in rates if rate.norm.n] or [1.0]
    return min(*means, max(means) / 3) / 1.4, max(means) * 1.4


def _ticks(low: float, high: float, missed: bool) -> tuple[list[float], list[str]]:
    """Where ticks are, and what they say: powers of ten, more where there are few, and the place of what was not reached."""
    steps = (1, 2, 5) if high < 30 * low else (1,)
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    places = [step * 10.0**i for i in powers for step in steps if low < step * 10.0**i < high]
    labels = [f"{place:g}" for place in places]
    return ([*places, EDGE * high], [*labels, "\nnot\nreached"]) if missed else (places, labels)


def _panel(ax: Axes, rates: Sequence[Rate], targets: Sequence[str], looks: Mapping[str, Look], edge: float) -> None:
    """One group of runs: methods below each other in the band of their target."""
    ax.set_xscale("log")
    ax.xaxis.set_minor_locator(NullLocator())
    ax.tick_params(axis="y", length=0)
    for i in range(0, len(targets), 2):
        ax.axhspan(i - 0.5, i + 0.5, color=GREY, alpha=0.1, lw=0, zorder=0)
    ax.axvline(edge / GAP, color=GREY, lw=0.7, ls=":", zorder=1)
    order = list(looks)
    for rate in rates:
        y = targets.index(rate.target) + 0.84 * ((order.index(rate.method) + 0.5) / len(order) - 0.5)
        _mark(ax, rate, y, looks[rate.method], edge)


def _mark(ax: Axes, rate: Rate, y: float, look: Look, edge: float) -> None:
    """Mean and interval, and at the edge what was not reached."""
    it = rate.norm
    if it.n:
        ax.plot([it.mean], [y], marker=look.marker, ms=3.4, color=look.colour, mew=0.6, zorder=3)
        if np.isfinite(it.interval.low):
            ends = [it.interval.low, min(it.interval.high, edge / GAP)]
            ax.plot(ends, [y, y], color=look.colour, lw=1.1, zorder=2)
    if rate.missed:
        ax.plot([edge], [y], marker=look.marker, ms=3.4, color=look.colour, mfc="white", mew=0.8, zorder=3)
