"""Groups beside each other along the factor of a design, with the claims that compare them."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lit_degrade.evidence.claims.sections import Section
from lit_degrade.evidence.drawing.axes import canvas, dots, mean_tick, spread, value_axis
from lit_degrade.evidence.drawing.looks import Look, looks_of, wrapped
from lit_degrade.evidence.drawing.panels import Panels, Plate, groups_of, labels_of, panels_of, plates, points, runs_with
from lit_degrade.evidence.reading.groups import Group
from lit_degrade.evidence.reading.words import outcome_of, sentence, words
from lit_degrade.evidence.topics.outcomes.comparisons import MOST_LINES, comparisons, show


def bar_plates(section: Section) -> list[Plate]:
    """The first outcome, and effective rank."""
    outcomes = [name for name in dict.fromkeys([*section.outcomes()[:1], "rank_reduction"]) if runs_with(section, name)]
    shown = runs_with(section, *outcomes)
    panels = panels_of(section, shown)
    looks = looks_of(labels_of(panels))
    caption = (
        f"{sentence(' and '.join(outcome_of(name).label for name in outcomes))} by {words(section.design.factor)}. "
        "Points: runs; bars and ticks: mean with 95 % Student t interval."
    )
    if any(comparisons(section, panels, name) for name in outcomes):
        caption += " Below: claims that compare two of these groups, with p by Holm (in parentheses: p against the claim)."
        caption += " Letters: brackets."

    def page(drawn: Panels) -> Figure:
        return _page(section, drawn, outcomes, looks)

    return plates(section, section.design.figure, caption, panels, shown, page, most=21, weigh=lambda groups: len(groups) + 1)


def _page(section: Section, panels: Panels, outcomes: Sequence[str], looks: Mapping[str, Look]) -> Figure:
    ratios = [len(groups) + 0.2 for groups in panels.values()]
    compared = {outcome: comparisons(section, panels, outcome) for outcome in outcomes}
    lines = min(sum(map(len, compared.values())) + len(outcomes), MOST_LINES + 1)
    height = 0.8 + 0.27 * sum(ratios) + 0.3 * len(panels) + 0.125 * lines
    figure, axes = canvas(len(panels), len(outcomes), height, sharex="col", sharey="row", height_ratios=ratios)
    for row, (name, groups) in zip(axes, panels.items(), strict=True):
        for ax, outcome in zip(row, outcomes, strict=True):
            _bars(ax, groups, outcome, looks)
        row[0].set_title(wrapped(name))
    for column, outcome in zip(axes.T, outcomes, strict=True):
        for ax in column:
            value_axis(ax, points(groups_of(panels), outcome), outcome)
            ax.label_outer()
    text = "\n".join(show(compared, dict(zip(outcomes, axes.T, strict=True))))
    if text:
        figure.supxlabel(text, x=0.01, ha="left", fontsize=6.5, linespacing=1.3)
    return figure


def _bars(ax: Axes, groups: Mapping[str, Group], outcome: str, looks: Mapping[str, Look]) -> None:
    """One panel of one outcome."""
    for i, (label, group) in enumerate(groups.items()):
        values = points([group], outcome)
        if len(values):
            ax.barh(i, values.mean(), height=0.66, color=looks[label].colour, alpha=0.22, lw=0, zorder=1)
            dots(ax, values, i + spread(len(values), 0.2), looks[label])
            mean_tick(ax, values, i, looks[label])
    ax.set_yticks(range(len(groups)), [wrapped(label, 26) for label in groups])
    ax.set_ylim(len(groups) - 0.4, -0.6)
