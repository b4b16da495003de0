"""Reported effects after each correction of the protocol, from the published one to the controlled one."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lit_degrade.evidence.claims.sections import Section
from lit_degrade.evidence.drawing.axes import canvas, dots, mean_tick, spread, value_axis
from lit_degrade.evidence.drawing.looks import Look, legend, looks_of, wrapped
from lit_degrade.evidence.drawing.panels import Panels, Plate, kept, plates, points, runs_with
from lit_degrade.evidence.reading.groups import Group, label
from lit_degrade.evidence.reading.words import words
from lit_degrade.stimuli.catalog import PROTOCOLS

LADDER = ("reported_rank_change_absolute", "reported_log_perplexity_ratio")
"""Outcomes that are shown where there are any."""


def ladder_plates(section: Section) -> list[Plate]:
    """A figure for each combination of the other conditions; none where the design is not about protocols."""
    if section.design.factor != "protocol" or "protocol" not in section.conditions:
        return []
    outcomes = [name for name in (*LADDER, *section.outcomes()) if runs_with(section, name)][:2]
    panels: Panels = {}
    for group in section.groups:
        rest = {name: value for name, value in group.conditions.items() if name not in ("protocol", "stimulus")}
        panels.setdefault(words(label(rest)) if rest else "", {})[group.label] = group
    caption = (
        "What each protocol reports, from the published one (top) to the controlled one; every step keeps those above it. "
        "Points: runs; ticks and bars: mean with 95 % Student t interval; lines join the means."
    )
    shown, figure = runs_with(section, *outcomes), section.design.figure
    return plates(section, figure, caption, kept(panels, shown), shown, lambda page: _page(page, outcomes), most=1)


def _page(panels: Panels, outcomes: Sequence[str]) -> Figure:
    """The one panel of a figure: protocols from top to bottom, stimuli beside each other."""
    ((name, groups),) = panels.items()
    steps = [step for step in PROTOCOLS if any(group.conditions["protocol"] == step for group in groups.values())]
    stimuli: dict[str, dict[int, Group]] = {}
    for group in groups.values():
        rungs = stimuli.setdefault(words(str(group.conditions.get("stimulus") or "runs")), {})
        rungs[steps.index(str(group.conditions["protocol"]))] = group
    looks = looks_of(stimuli)
    figure, axes = canvas(1, len(outcomes), 1.1 + 0.46 * len(steps), sharey=True)
    for ax, outcome in zip(axes.flat, outcomes, strict=True):
        for i, (stimulus, rungs) in enumerate(stimuli.items()):
            _rungs(ax, rungs, outcome, looks[stimulus], (i - (len(stimuli) - 1) / 2) * min(0.26, 0.8 / len(stimuli)))
        value_axis(ax, points(groups.values(), outcome), outcome)
    axes[0, 0].set_yticks(range(len(steps)), [words(step) for step in steps])
    axes[0, 0].set_ylim(len(steps) - 0.5, -0.5)
    axes[0, 0].set_ylabel("protocol [each with one more correction]")
    figure.suptitle(wrapped(name, 90), fontsize=8, fontweight="bold")
    legend(figure, looks)
    return figure


def _rungs(ax: Axes, groups: Mapping[int, Group], outcome: str, look: Look, offset: float) -> None:
    """One stimulus: runs, means, intervals at every step, and a line that joins the means."""
    rungs = {i + offset: points([group], outcome) for i, group in sorted(groups.items())}
    rungs = {y: values for y, values in rungs.items() if len(values)}
    for y, values in rungs.items():
        dots(ax, values, y + spread(len(values), 0.05), look)
        mean_tick(ax, values, y, look)
    means = [values.mean() for values in rungs.values()]
    ax.plot(means, list(rungs), color=look.colour, ls=look.line, lw=1.0, alpha=0.8, zorder=2)
