"""Figures of a section: every run as a point or a line, means with 95 % intervals, legible in greyscale print."""

import io
import json
import math
import re
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from string import ascii_lowercase
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, Locator, MaxNLocator, NullLocator
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from lit_degrade.evidence import scaling
from lit_degrade.evidence import statistics as st
from lit_degrade.evidence.groups import Group, usable
from lit_degrade.evidence.groups import label as label_of
from lit_degrade.evidence.published import METRICS as PUBLISHED
from lit_degrade.evidence.sections import Section
from lit_degrade.evidence.verdicts import Verdict
from lit_degrade.records import paths
from lit_degrade.records.conditions import Fact
from lit_degrade.stimuli.catalog import OPTIMIZERS, PROTOCOLS, STIMULI

Values = NDArray[np.float64]
Grid = NDArray[Any]
"""Axes, (rows, columns)."""
Panels = dict[str, dict[str, Group]]
"""Name of a panel -> label of a group -> the group, all in the order in which they are drawn."""


class Outcome(NamedTuple):
    """How an outcome is written on an axis."""

    label: str
    unit: str
    scale: float = 1.0
    """what the recorded value is multiplied by"""
    note: str = ""
    """what its sign means, if that is not plain"""

    @property
    def axis(self) -> str:
        """Label with unit."""
        return f"{self.label} [{self.unit}]" + (f"\n({self.note})" if self.note else "")


_NATS, _PERCENT = "nats/token", "%"
OUTCOMES = {
    "log_perplexity_ratio": Outcome("log perplexity ratio", _NATS),
    "reported_log_perplexity_ratio": Outcome("log perplexity ratio, as reported", _NATS),
    "nats_per_token": Outcome("probe loss", _NATS),
    "kl_from_intact": Outcome("KL divergence from the intact subject", _NATS),
    "kl_from_attacked": Outcome("KL divergence from the attacked subject", _NATS),
    "perplexity_increase": Outcome("increase of perplexity", _PERCENT, 100),
    "rank_reduction": Outcome("effective rank reduction", _PERCENT, 100, "negative: rank rose"),
    "reported_rank_reduction": Outcome("effective rank reduction, as reported", _PERCENT, 100, "negative: rank rose"),
    "rank_change_absolute": Outcome("absolute change of effective rank", _PERCENT, 100),
    "reported_rank_change_absolute": Outcome("absolute change of effective rank, as reported", _PERCENT, 100),
    "effective_rank": Outcome("effective rank", "directions"),
    "recovery": Outcome("recovery of nats per token", _PERCENT, 100),
    "recovery_rank": Outcome("recovery of effective rank", _PERCENT, 100),
    "null_energy": Outcome("gradient energy in the null space", "share"),
    "amplification": Outcome("amplification of flat directions", "ratio"),
    "update_norm_mean": Outcome("mean length of an update", "L2 norm of weights"),
    "path_length": Outcome("length of the path of weights", "L2 norm of weights"),
    "displacement": Outcome("displacement of weights", "L2 norm of weights"),
    "drift": Outcome("drift of weights", "relative L2 norm"),
}
LADDER = ("reported_rank_change_absolute", "reported_log_perplexity_ratio")
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C8C8C")
"""Okabe and Ito's colours, with grey for the yellow, too light for lines; https://jfly.uni-koeln.de/color/ (2008)."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (3, 1)), (0, (1, 2)))
GREY = "#6E6E6E"
WIDTH = 6.3
"""Inches: 16 cm."""
ORDER = {
    name: i for i, name in enumerate((*STIMULI, *OPTIMIZERS, *PROTOCOLS, "fp32", "bf16", "fp16", "int8", "nf4", "full", "lora"))
}
"""Known levels in the order in which they are drawn."""
MOST_PAGES = 4
"""Figures that one kind of figure may run over."""
MOST_NAMES = 8
"""Runs that a caption names for each reason why they are not shown."""
MOST_BRACKETS = 3
"""In one panel."""
MOST_LINES = 16
"""Of comparisons under a figure."""
ROUNDING = 1e-5
"""Of the largest singular value: what is smaller is rounding, where the subject runs in fp16."""
FLAT = 6
"""Groups that share one panel of lines, whatever their conditions."""
STEPS = (1, 2, 2.5, 5, 10)
"""Between ticks."""
WIDE = 100.0
"""Times the median beyond which an axis becomes logarithmic."""
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


@dataclass(frozen=True)
class Plate:
    """A figure before it is saved."""

    name: str
    caption: str
    figure: Figure


@dataclass(frozen=True)
class Drawing:
    """A figure of a report."""

    name: str
    """file stem"""
    caption: str
    """what is shown, what points and intervals are, how many runs"""
    svg: str
    """an <svg> element to put into a page: text as paths, the same bytes for the same records, ids of its own"""


def draw(section: Section, folder: Path) -> list[Drawing]:
    """Draw what the records of a section can show, and write NAME.png (300 dpi) and NAME.svg of each figure.

    Args:
        section: of a report.
        folder: is made; other sections must have other folders.

    Returns: the figures, the main one first; none without runs to show.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return [_save(plate, section.design.experiment, folder) for plate in compose(section)]


def compose(section: Section) -> list[Plate]:
    """The figures of a section: the main figure, trajectories, spectra."""
    with mpl.rc_context(STYLE):
        ordered = replace(section, groups=_in_order(section))
        return [*_main(ordered), *_trajectories(ordered), *_spectra(ordered)]


def _save(plate: Plate, experiment: str, folder: Path) -> Drawing:
    """Write both files. The layout is settled once, for the SVG file."""
    unique = re.sub(r"[^\w-]", "-", f"{experiment}-{plate.name}")
    with mpl.rc_context(STYLE | {"svg.hashsalt": unique}):
        FigureCanvasAgg(plate.figure)
        text = io.StringIO()
        plate.figure.savefig(text, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
        plate.figure.set_layout_engine("none")
        plate.figure.savefig(folder / f"{plate.name}.png", dpi=300)
    svg = _inlined(text.getvalue(), unique)
    (folder / f"{plate.name}.svg").write_text(svg, encoding="utf-8")
    return Drawing(plate.name, plate.caption, svg)


def _inlined(svg: str, unique: str) -> str:
    """The <svg> element alone, with ids that no other figure of a page has."""
    svg = svg[svg.index("<svg") :]
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{unique}-", svg)


# Order, names, looks


def _in_order(section: Section) -> list[Group]:
    """Groups by their conditions, the factor last."""
    names = [name for name in section.conditions if name != section.design.factor] + [section.design.factor]
    sizes = section.rows.groupby("subject")["n_parameters"].min().to_dict() if "n_parameters" in section.rows else {}
    return sorted(section.groups, key=lambda group: [_rank(group.conditions.get(name), sizes) for name in names])


def _rank(value: Fact, sizes: Mapping[Any, float]) -> tuple[float, str]:
    """Numbers by themselves, subjects by size, known names as they are listed, and the rest by the alphabet."""
    if value is None:
        return -math.inf, ""
    if not isinstance(value, str):
        return float(value), ""
    size = sizes.get(value, math.nan)
    return (float(ORDER.get(value, len(ORDER))) if math.isnan(size) else size), value


def _panels(section: Section, flat: int = 0) -> Panels:
    """Groups by what they share beside the factor; one panel for up to `flat` groups, or where each would have a panel."""
    found = section.panels()
    if len(section.groups) <= flat or all(len(groups) == 1 for groups in found.values()):
        return {"": {words(group.label): group for group in section.groups}}
    return {words(name): {_level(group, section.design.factor): group for group in groups} for name, groups in found.items()}


def _level(group: Group, factor: str) -> str:
    value = group.conditions.get(factor)
    return words(group.label) if value is None else words(str(value)) if isinstance(value, (str, bool)) else f"{value:g}"


def words(name: str) -> str:
    """A name as a reader would write it."""
    return re.sub(r"(?<=[a-z])\.(?=[a-z])", " ", name.replace("_", " "))


def outcome_of(name: str) -> Outcome:
    """How an outcome is written; what is not listed is shown as it was recorded."""
    return OUTCOMES.get(name, Outcome(words(name), "as recorded"))


def _looks(panels: Panels) -> dict[str, Look]:
    """A look for every label."""
    labels = dict.fromkeys(label for groups in panels.values() for label in groups)
    n = len(PALETTE)
    return {label: Look(PALETTE[i % n], MARKERS[(i + i // n) % n], LINES[(i + i // n) % n]) for i, label in enumerate(labels)}


def _pages(panels: Panels, most: int, weigh: Callable[[Mapping[str, Group]], int] = lambda groups: 1) -> list[Panels]:
    """Panels by figure: those that weigh up to `most` together, on up to MOST_PAGES figures."""
    pages: list[Panels] = []
    room = 0
    for name, groups in panels.items():
        if not pages or room < weigh(groups):
            pages.append({})
            room = most
        pages[-1][name] = groups
        room -= weigh(groups)
    return pages[:MOST_PAGES]


def _plates(name: str, caption: str, pages: Sequence[Panels], page: Callable[[Panels], Figure]) -> list[Plate]:
    """Figures of one kind: NAME, NAME_2, ..."""
    if len(pages) == 1:
        return [Plate(name, caption, page(pages[0]))]
    names = [name if i == 0 else f"{name}_{i + 1}" for i in range(len(pages))]
    captions = [f"({i + 1} of {len(pages)}) {caption}" for i in range(len(pages))]
    return [Plate(stem, text, page(found)) for stem, text, found in zip(names, captions, pages, strict=True)]


def _kept(panels: Panels, runs: set[str]) -> Panels:
    """Panels and groups that hold any of some runs."""
    kept = {name: {k: g for k, g in groups.items() if runs & set(g.rows["run_id"])} for name, groups in panels.items()}
    return {name: groups for name, groups in kept.items() if groups}


# Who is shown


def _points(group: Group, outcome: str) -> Values:
    """Values of the runs as they are drawn, (n,)."""
    return np.asarray(group.values(outcome), dtype=np.float64) * outcome_of(outcome).scale


def _census(section: Section, pages: Sequence[Panels], able: set[str], lacking: str = "without a finite value") -> str:
    """How many runs are shown of how many, and what became of the others.

    Args:
        section: all of its runs count.
        pages: what is drawn.
        able: runs that have what it takes to be drawn.
        lacking: what is said of the others, if they are done.
    """
    drawn = {run for page in pages for groups in page.values() for group in groups.values() for run in group.rows["run_id"]}
    reasons: dict[str, list[str]] = {}
    for run, state, filtered in section.rows[["run_id", "state", "filtered"]].itertuples(index=False):
        reason = "taken out by the filter" if filtered else lacking if state == "done" else str(state)
        if run not in drawn or run not in able:
            reasons.setdefault("in panels that had no room" if run in able else reason, []).append(str(run))
    lost = [f"{len(runs)} {reason} ({_named(runs)})" for reason, runs in reasons.items()]
    text = f" {len(drawn & able)} of {len(section.rows)} runs are shown"
    return text + (f"; not shown: {', '.join(lost)}." if lost else ".")


def _named(ids: Sequence[str]) -> str:
    return ", ".join(ids[:MOST_NAMES]) + (f" and {len(ids) - MOST_NAMES} more" if len(ids) > MOST_NAMES else "")


def _shown(groups: Iterable[Group], outcome: str) -> set[str]:
    """Runs with a finite value of an outcome."""
    return {run_id for group in groups if outcome in group.rows for run_id in usable(group.rows, outcome)["run_id"]}


# Parts of every figure


def _canvas(rows: int, columns: int, height: float, **options: Any) -> tuple[Figure, Grid]:
    """A figure of WIDTH with a grid of axes, (rows, columns)."""
    figure = Figure(figsize=(WIDTH, height), layout=ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.05))
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def _spread(n: int, reach: float) -> Values:
    """Offsets within ± reach that keep points apart, (n,); the same every time."""
    return np.asarray((np.arange(n) * 0.618034 + 0.5) % 1.0 - 0.5) * 2 * reach


def _interval(values: Values) -> tuple[float, float, float]:
    """Mean, and how far the 95 % interval reaches to both sides; nan for a single run."""
    mean, interval = float(values.mean()), st.t_interval(values)
    return mean, float(np.maximum(mean - interval.low, 0)), float(np.maximum(interval.high - mean, 0))


def _dots(ax: Axes, x: Values, y: Values, look: Look) -> None:
    """A point for every run."""
    ax.scatter(x, y, s=13, marker=look.marker, facecolor="white", edgecolor=look.colour, lw=0.9, zorder=3)


def _mark(ax: Axes, values: Values, y: float, look: Look, reach: float) -> None:
    """Runs as points, mean as a tick, and the interval, along the x axis."""
    _dots(ax, values, y + _spread(len(values), reach), look)
    mean, low, high = _interval(values)
    ax.plot([mean], [y], marker="|", ms=9, mew=1.8, color=look.colour, zorder=4)
    if math.isfinite(low):
        ax.errorbar([mean], [y], xerr=[[low], [high]], color=look.colour, lw=1.2, capsize=2.5, capthick=1.2, zorder=4)


class _Decades(Locator):
    """Few ticks at powers of ten, for an axis that is linear below 10^start."""

    def __init__(self, start: int) -> None:
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


def _axis_words(ax: Axes, which: Literal["x", "y"], outcome: str, values: Values) -> str:
    """Label of an axis of values; values of very different sizes make it logarithmic beyond the decade of their median size."""
    label, sizes = outcome_of(outcome).axis, np.abs(values[values != 0])
    if not len(sizes) or sizes.max() <= WIDE * np.median(sizes):
        return label
    start = math.floor(math.log10(np.median(sizes)))
    set_scale, axis = (ax.set_xscale, ax.xaxis) if which == "x" else (ax.set_yscale, ax.yaxis)
    set_scale("symlog", linthresh=10.0**start)
    axis.set_major_locator(_Decades(start))
    axis.set_minor_locator(NullLocator())
    return f"{label}\n(linear up to {10.0**start:g})"


def _title(text: str, width: int = 60) -> str:
    return "\n".join(textwrap.wrap(text, width))


def _legend(figure: Figure, handles: Sequence[Line2D]) -> None:
    """Above the axes, in as many columns as have room."""
    if len(handles) > 1:
        longest = max(len(line) for handle in handles for line in str(handle.get_label()).splitlines())
        rows = math.ceil(len(handles) / max(1, min(6, 110 // (longest + 8))))
        columns = math.ceil(len(handles) / rows)
        figure.legend(handles=handles, loc="outside upper center", ncols=columns, handlelength=3.2, columnspacing=1.4)


# The main figure


def _main(section: Section) -> list[Plate]:
    """Which main figure depends on what the design is about."""
    slopes = [claim.outcome for claim in section.design.claims if claim.test == "slope"]
    if slopes and section.outcomes():
        outcomes = [name for name in dict.fromkeys([section.outcomes()[0], *slopes]) if _sizes(section, name) > 1]
        if outcomes:
            return [plate for i, name in enumerate(outcomes) for plate in _curves(section, name, first=i == 0)]
    if section.design.factor == "protocol" and "protocol" in section.conditions:
        return _ladder(section)
    return _bars(section)


def _sizes(section: Section, outcome: str) -> int:
    """Different sizes of subjects that have an outcome."""
    if outcome not in section.rows or "n_parameters" not in section.rows:
        return 0
    return int(usable(section.rows, outcome)["n_parameters"].nunique())


# ... damage over size


def _curves(section: Section, outcome: str, first: bool) -> list[Plate]:
    """Damage over the size of the subject."""
    by_size = replace(section, design=replace(section.design, factor="subject"))
    shown = _shown(section.groups, outcome) & set(section.rows["run_id"][section.rows["n_parameters"] > 0])
    panels = {words(name): {group.label: group for group in groups} for name, groups in by_size.panels().items()}
    caption = (
        f"{_sentence(outcome_of(outcome).label)} over the number of parameters. Points: runs, beside the mean of their "
        "size with 95 % Student t interval; curves: fits that converged, the best by AICc solid. The slope is that of the "
        "means of the sizes."
    )
    name = section.design.figure if first else f"{section.design.figure}_{outcome}"
    pages = _pages(_kept(panels, shown), most=6)
    caption += _census(section, pages, shown)
    return _plates(name, caption, pages, lambda page: _curve_page(page, outcome))


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _curve_page(panels: Panels, outcome: str) -> Figure:
    columns = min(2, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure, axes = _canvas(rows, columns, 3.4 if rows == 1 else 2.6 * rows, sharex=True, sharey=True)
    points = np.concatenate([_points(group, outcome) for groups in panels.values() for group in groups.values()])
    sizes = np.concatenate([usable(g.rows, outcome)["n_parameters"] for groups in panels.values() for g in groups.values()])
    for i, (ax, (name, groups)) in enumerate(zip(axes.flat, panels.items(), strict=False)):
        label = _axis_words(ax, "y", outcome, points)
        _curve(ax, list(groups.values()), outcome, Look(PALETTE[i], MARKERS[i], "-"))
        ax.set_title("\n".join(filter(None, [_title(name, 84 // columns), ax.get_title("left")])), weight="normal", size=7.5)
        _size_ticks(ax, np.unique(sizes))
        if i % columns == 0:
            ax.set_ylabel(label)
        if i + columns >= len(panels):
            ax.set_xlabel("parameters [number]")
            ax.tick_params(labelbottom=True)
    for ax in axes.flat[len(panels) :]:
        ax.set_visible(False)
    return figure


def _curve(ax: Axes, groups: Sequence[Group], outcome: str, look: Look) -> None:
    """One panel: runs, means, fits, and the slope as its title."""
    rows = pd.concat([usable(group.rows, outcome) for group in groups])
    sizes, values = rows["n_parameters"].to_numpy(dtype=float), rows[outcome].to_numpy(dtype=float) * outcome_of(outcome).scale
    ax.set_xscale("log")
    ax.axhline(0, color=GREY, lw=0.7, zorder=0)
    reach = 0.018 * max(0.5, math.log10(sizes.max() / sizes.min()))
    for size in np.unique(sizes):
        found = values[sizes == size]
        _dots(ax, size * 10 ** (_spread(len(found), reach) - 2 * reach), found, look)
        mean, low, high = _interval(found)
        ax.plot([size], [mean], marker="_", ms=9, mew=1.8, color=look.colour, zorder=4)
        if math.isfinite(low):
            ax.errorbar([size], [mean], yerr=[[low], [high]], color=look.colour, lw=1.2, capsize=3, capthick=1.2, zorder=4)
    _fits(ax, sizes, values, look.colour)
    ax.set_title(_slope_words(sizes, values, outcome_of(outcome).unit))


def _size_ticks(ax: Axes, sizes: Values) -> None:
    """A tick at every size that has room."""
    ax.set_xticks([size for i, size in enumerate(sizes) if i == 0 or size / sizes[i - 1] > 1.25])
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _count(value)))
    ax.xaxis.set_minor_locator(NullLocator())


def _count(value: float) -> str:
    """281152 is 281k."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:g}"


def _fits(ax: Axes, sizes: Values, values: Values, colour: str) -> None:
    """Curves of the fits, the best one solid, and their AICc differences."""
    if len(np.unique(sizes)) < 2:
        return
    fits = [fit for fit in scaling.fit_scaling(sizes, values) if fit.converged]
    grid = np.geomspace(sizes.min(), sizes.max(), 60)
    comparable = sum(math.isfinite(fit.aicc) for fit in fits) > 1
    for i, fit in enumerate(fits):
        known = comparable and math.isfinite(fit.aicc)
        label = f"{fit.name}: ΔAICc {fit.aicc - fits[0].aicc:.1f}" if known else fit.name
        style: dict[str, Any] = {"color": colour, "lw": 1.5} if i == 0 and known else {"color": GREY, "lw": 0.8}
        ax.plot(grid, fit.predict(grid), ls=LINES[i], zorder=2, label=label, **style)
    ax.legend(loc="best", fontsize=6.5, handlelength=2.6, labelspacing=0.25)


def _slope_words(sizes: Values, values: Values, unit: str) -> str:
    if len(np.unique(sizes)) < 3:
        return ""
    slope = scaling.size_slope(sizes, values)
    low, high = slope.interval.low, slope.interval.high
    return f"slope {slope.slope:.2g} [{low:.2g}, {high:.2g}] {unit} per decade".replace("-", "−")


# ... from the published protocol to the controlled one


def _ladder(section: Section) -> list[Plate]:
    """Reported effects after each correction of the protocol."""
    outcomes = [name for name in (*LADDER, *section.outcomes()) if _shown(section.groups, name)][:2]
    shown = set.union(*(_shown(section.groups, name) for name in outcomes), set())
    panels: Panels = {}
    for group in section.groups:
        rest = {key: value for key, value in group.conditions.items() if key not in ("protocol", "stimulus")}
        panels.setdefault(words(label_of(rest)) if rest else "", {})[group.label] = group
    caption = (
        "What each protocol reports, from the published one (top) to the controlled one; every step keeps those above it. "
        "Points: runs; ticks and bars: mean with 95 % Student t interval; lines join the means."
    )
    pages = _pages(_kept(panels, shown), most=1)
    caption += _census(section, pages, shown)

    def page(found: Panels) -> Figure:
        ((name, groups),) = found.items()
        return _ladder_page(name, list(groups.values()), outcomes)

    return _plates(section.design.figure, caption, pages, page)


def _ladder_page(name: str, groups: Sequence[Group], outcomes: Sequence[str]) -> Figure:
    steps = [step for step in PROTOCOLS if any(group.conditions["protocol"] == step for group in groups)]
    series: dict[str, dict[str, Group]] = {}
    for group in groups:
        series.setdefault(words(str(group.conditions.get("stimulus") or "runs")), {})[str(group.conditions["protocol"])] = group
    looks = _looks({"": dict.fromkeys(series, groups[0])})
    figure, axes = _canvas(1, len(outcomes), 1.1 + 0.46 * len(steps), sharey=True)
    for ax, outcome in zip(axes.flat, outcomes, strict=True):
        for i, (label, found) in enumerate(series.items()):
            offset = (i - (len(series) - 1) / 2) * min(0.26, 0.8 / len(series))
            _rungs(ax, [found.get(step) for step in steps], outcome, looks[label], offset)
        _finish(ax, np.concatenate([_points(group, outcome) for group in groups]), outcome)
        ax.set_yticks(range(len(steps)), [words(step) for step in steps])
    axes[0, 0].set_ylim(len(steps) - 0.5, -0.5)
    axes[0, 0].set_ylabel("protocol [each with one more correction]")
    if name:
        figure.suptitle(_title(name, 90), fontsize=8, fontweight="bold")
    _legend(figure, [_handle(label, look) for label, look in looks.items()])
    return figure


def _rungs(ax: Axes, groups: Sequence[Group | None], outcome: str, look: Look, offset: float) -> None:
    """One stimulus: runs, means, intervals at every step, and a line that joins the means."""
    means = []
    for i, group in enumerate(groups):
        values = _points(group, outcome) if group else np.array([])
        if len(values):
            _mark(ax, values, i + offset, look, 0.05)
            means.append((float(values.mean()), i + offset))
    if means:
        ax.plot(*zip(*means, strict=True), color=look.colour, ls=look.line, lw=1.0, alpha=0.8, zorder=2)


def _handle(label: str, look: Look) -> Line2D:
    return Line2D(
        [], [], color=look.colour, ls=look.line, marker=look.marker, mfc="white", ms=4.5, lw=1.4, label=_title(label, 36)
    )


def _finish(ax: Axes, points: Values, outcome: str) -> None:
    """Scale, zero line and label of an axis of values."""
    ax.xaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
    label = _axis_words(ax, "x", outcome, points)
    ax.axvline(0, color=GREY, lw=0.7, zorder=0)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("\n".join(_title(line, 38) for line in label.splitlines()))


# ... groups beside each other


def _bars(section: Section) -> list[Plate]:
    """Groups along the factor: first outcome, and rank."""
    outcomes = [name for name in dict.fromkeys([*section.outcomes()[:1], "rank_reduction"]) if _shown(section.groups, name)]
    shown = set.union(*(_shown(section.groups, name) for name in outcomes), set())
    panels = _kept(_panels(section), shown)
    looks = _looks(panels)
    caption = (
        f"{_sentence(' and '.join(outcome_of(name).label for name in outcomes))} by {words(section.design.factor)}. "
        "Points: runs; bars and ticks: mean with 95 % Student t interval."
    )
    if any(_compared(section, panels, name) for name in outcomes):
        caption += " Below: claims that compare two of these groups, with p by Holm (in parentheses: p against the claim)."
        caption += " Letters: brackets."
    pages = _pages(panels, most=21, weigh=lambda groups: len(groups) + 1)
    caption += _census(section, pages, shown)
    return _plates(section.design.figure, caption, pages, lambda page: _bars_page(section, page, outcomes, looks))


def _bars_page(section: Section, panels: Panels, outcomes: Sequence[str], looks: Mapping[str, Look]) -> Figure:
    ratios = [len(groups) + 0.2 for groups in panels.values()]
    compared = sum(len(_compared(section, panels, outcome)) for outcome in outcomes)
    height = 0.8 + 0.27 * sum(ratios) + 0.3 * len(panels) + 0.125 * min(compared + len(outcomes), MOST_LINES + 1)
    figure, axes = _canvas(len(panels), len(outcomes), height, sharex="col", sharey="row", height_ratios=ratios)
    for row, (name, groups) in zip(axes, panels.items(), strict=True):
        for ax, outcome in zip(row, outcomes, strict=True):
            _bar_panel(ax, groups, outcome, looks)
        row[0].set_title(_title(name))
    for column, outcome in zip(axes.T, outcomes, strict=True):
        points = np.concatenate([_points(group, outcome) for groups in panels.values() for group in groups.values()])
        for ax in column:
            _finish(ax, points, outcome)
            ax.label_outer()
    lines = _comparisons(section, panels, dict(zip(outcomes, axes.T, strict=True)))
    if lines:
        figure.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=6.5, linespacing=1.3)
    return figure


def _bar_panel(ax: Axes, groups: Mapping[str, Group], outcome: str, looks: Mapping[str, Look]) -> None:
    for i, (label, group) in enumerate(groups.items()):
        values = _points(group, outcome)
        if len(values):
            ax.barh(i, values.mean(), height=0.66, color=looks[label].colour, alpha=0.22, lw=0, zorder=1)
            _mark(ax, values, i, looks[label], 0.2)
    ax.set_yticks(range(len(groups)), [_title(label, 26) for label in groups])
    ax.set_ylim(len(groups) - 0.4, -0.6)


Place = tuple[int, int]
"""Number of the panel, and of the group in it."""
Compared = tuple[Verdict, Place, Place]
"""A verdict, and the two groups that it compares, the upper one first."""


def _compared(section: Section, panels: Panels, outcome: str) -> list[Compared]:
    """Verdicts that compare two drawn groups, from top to bottom, short brackets first."""
    found: list[Compared] = []
    for verdict in section.verdicts:
        if verdict.claim.outcome == outcome and len(verdict.arms) == 2:
            places = sorted(place for arm in verdict.arms for place in _where(set(arm.rows["run_id"]), panels))
            if len(places) == 2:
                found.append((verdict, places[0], places[1]))
    return sorted(found, key=lambda item: (item[1][0], item[2][0], item[2][1] - item[1][1]))


def _where(runs: set[str], panels: Panels) -> Iterator[Place]:
    """The group that holds some runs."""
    for i, groups in enumerate(panels.values()):
        for j, group in enumerate(groups.values()):
            if runs <= set(group.rows["run_id"]):
                yield i, j


def _comparisons(section: Section, panels: Panels, columns: Mapping[str, Sequence[Axes]]) -> list[str]:
    """A line for each comparison; those within a panel that has up to three of them also have a bracket with a letter."""
    lines, letters = [], iter(ascii_lowercase)
    for outcome, axes in columns.items():
        found = _compared(section, panels, outcome)
        inside = Counter(one[0] for _, one, other in found if one[0] == other[0])
        drawn: Counter[int] = Counter()
        lines += [f"{_sentence(outcome_of(outcome).label)}:"] if found else []
        for verdict, one, other in found:
            letter = "  "
            if one[0] == other[0] and inside[one[0]] <= MOST_BRACKETS and len(lines) < MOST_LINES:
                letter = next(letters)
                _bracket(axes[one[0]], one[1], other[1], drawn[one[0]], letter)
                drawn[one[0]] += 1
            lines.append(f"{letter}  {_verdict_words(verdict)}")
    more = len(lines) - MOST_LINES
    return lines if more <= 1 else [*lines[:MOST_LINES], f"    and {more} more comparisons, in the table of verdicts"]


def _bracket(ax: Axes, low: int, high: int, depth: int, letter: str) -> None:
    """Right of a panel, beside those already there."""
    x, at = 1.02 + 0.055 * depth, ax.get_yaxis_transform()
    ax.plot([x - 0.012, x, x, x - 0.012], [low, low, high, high], transform=at, color="black", lw=0.8, clip_on=False)
    ax.text(x + 0.012, (low + high) / 2, letter, transform=at, fontsize=7, va="center", ha="left")


def _verdict_words(verdict: Verdict) -> str:
    """Claim, p and answer in a line."""
    sign = "=" if verdict.claim.test == "equivalence" else {"greater": ">", "less": "<"}[verdict.claim.direction]
    arms = f" {sign} ".join(words(arm.name) for arm in verdict.arms)
    where = f" ({words(verdict.where)})" if verdict.where else ""
    against = f" ({_p_words(verdict.p_against_holm)})" if verdict.answer == "contradicted" else ""
    return f"{arms}{where}: {_p_words(verdict.p_holm)}, {verdict.answer}{against}"


def _p_words(p: float) -> str:
    return "no p" if math.isnan(p) else "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


# Trajectories

Track = dict[str, "pd.Series[float]"]
"""What was measured -> its values by step."""


def _trajectories(section: Section) -> list[Plate]:
    """Rank and loss against the step."""
    tracks = {row["run_id"]: track for _, row in section.rows.iterrows() if (track := _track(row))}
    panels = _kept(_panels(section, flat=FLAT), set(tracks))
    looks = _looks(panels)
    diverged = list(section.rows["run_id"][(section.rows["state"] == "diverged") & section.rows["run_id"].isin(tracks)])
    caption = (
        "Effective rank of the last layer relative to step 0, and loss on the probe, against the optimizer step. "
        "Thin lines: runs; bold lines: means of the runs that have a value at a step."
    )
    caption += f" Crosses: the last value of runs that diverged ({_named(diverged)})." if diverged else ""
    pages = _pages(panels, most=5)
    caption += _census(section, pages, set(tracks), f"without a readable {paths.METRICS}")
    return _plates("trajectories", caption, pages, lambda page: _track_page(page, tracks, looks))


def _track(row: "pd.Series[Any]") -> Track | None:
    """What was measured on the way; nothing where the file is missing, unreadable, or has no two steps."""
    if row["filtered"]:
        return None
    try:
        table = pd.read_csv(Path(row["folder"]) / paths.METRICS).apply(pd.to_numeric, errors="coerce").set_index("step")
    except (OSError, ValueError, KeyError):
        return None
    layers = {name: int(name.removeprefix(_RANK)) for name in table if re.fullmatch(_RANK + r"\d+", str(name))}
    columns = {"rank": max(layers, key=lambda name: layers[name], default=None), "nats": "probe_nats_per_token"}
    track = {kind: _finite(table[name]) for kind, name in columns.items() if name in table}
    track = {kind: values for kind, values in track.items() if len(values) > 1}
    if "rank" in track:
        track["rank"] = 100 * (track["rank"] / track["rank"].iloc[0] - 1)
    return track or None


_RANK = "effective_rank_layer"
TRACKS = {"rank": "change of effective\nrank [%]", "nats": "probe loss\n[nats/token]"}


def _finite(values: "pd.Series[float]") -> "pd.Series[float]":
    values = values[np.isfinite(values)].sort_index()
    return values[~values.index.duplicated(keep="last")]


def _track_page(panels: Panels, tracks: Mapping[str, Track], looks: Mapping[str, Look]) -> Figure:
    height = 3.3 if len(panels) == 1 else 0.7 + 1.45 * len(panels)
    runs = [
        tracks[run] for groups in panels.values() for group in groups.values() for run in group.rows["run_id"] if run in tracks
    ]
    kinds = [kind for kind in TRACKS if any(kind in track for track in runs)]
    share = "col" if len({_subjects(groups.values()) for groups in panels.values()}) == 1 else "none"
    figure, axes = _canvas(len(panels), len(kinds), height, sharex=True, sharey=share)
    for row, (name, groups) in zip(axes, panels.items(), strict=True):
        for ax, kind in zip(row, kinds, strict=True):
            for label, group in groups.items():
                _track_group(ax, group, tracks, kind, looks[label])
            ax.set_ylabel(TRACKS[kind])
        row[0].set_title(_title(name))
    for ax, kind in zip(axes.T, kinds, strict=True):
        ax[-1].set_xlabel("optimizer step [steps]")
        if kind == "rank":
            for one in ax:
                one.axhline(0, color=GREY, lw=0.7, zorder=0)
    shown = dict.fromkeys(label for groups in panels.values() for label in groups)
    _legend(figure, [_handle(label, looks[label]) for label in shown])
    return figure


def _subjects(groups: Iterable[Group]) -> frozenset[str]:
    return frozenset(subject for group in groups if "subject" in group.rows for subject in group.rows["subject"])


def _track_group(ax: Axes, group: Group, tracks: Mapping[str, Track], kind: str, look: Look) -> None:
    """Thin lines for runs, a bold one for their mean."""
    states = zip(group.rows["run_id"], group.rows["state"], strict=True)
    found = {run: state for run, state in states if kind in tracks.get(run, {})}
    for run, state in found.items():
        values = tracks[run][kind]
        ax.plot(values.index, values, color=look.colour, lw=0.6, alpha=0.4, zorder=2)
        if state == "diverged":
            ax.plot(values.index[-1:], values.iloc[-1:], marker="x", ms=5, color=look.colour, zorder=4)
    if found:
        mean = pd.concat([tracks[run][kind] for run in found], axis=1).mean(axis=1).sort_index()
        every = max(1, len(mean) // 6)
        style: dict[str, Any] = {"marker": look.marker, "ms": 4, "mfc": "white", "markevery": every}
        ax.plot(mean.index, mean, color=look.colour, ls=look.line, lw=1.6, zorder=3, **style)


# Spectra

Decay = tuple[Values, Values]
"""Singular values over their sum before and after, largest first, both (n,)."""


def _spectra(section: Section) -> list[Plate]:
    """Spectral decay before and after."""
    decays = {row["run_id"]: decay for _, row in section.rows.iterrows() if (decay := _decay(row))}
    panels = _kept(_panels(section, flat=FLAT), set(decays))
    looks = _looks(panels)
    caption = (
        "Singular values of the last layer's hidden states, as shares of their sum, before (grey, dashed) and after: means of "
        "runs. Beneath: after / before by run, mean and range of the runs. Values below 1e-5 of the largest are left out."
    )
    pages = _pages(panels, most=6)
    caption += _census(section, pages, set(decays), "without readable spectra")
    return _plates("spectra", caption, pages, lambda page: _decay_page(page, decays, looks))


def _decay(row: "pd.Series[Any]") -> Decay | None:
    """Spectra of the last layer at the first and the last step; nothing where they cannot be read."""
    folder = Path(row["folder"])
    if row["filtered"]:
        return None
    try:
        found = _recorded(folder) if (folder / paths.SPECTRA).is_file() else _published(folder)
        before, after = (np.asarray(values, dtype=np.float64)[: min(map(len, found))] for values in found)
    except (OSError, ValueError, KeyError, IndexError, TypeError, SafetensorError):
        return None
    good = len(before) > 1 and all(np.isfinite(values).all() and values.sum() > 0 for values in (before, after))
    return (before, after) if good else None


def _recorded(folder: Path) -> Decay:
    with safe_open(folder / paths.SPECTRA, framework="numpy") as file:
        keys = [key.split("/") for key in file.keys()]  # noqa: SIM118 (it is no dictionary)
        steps, layers = (sorted({key[i] for key in keys}, key=lambda name: (len(name), name)) for i in (0, 1))
        before, after = (np.sort(file.get_tensor(f"{step}/{layers[-1]}"))[::-1] for step in (steps[0], steps[-1]))
    return before / before.sum(), after / after.sum()


def _published(folder: Path) -> Decay:
    lines = [json.loads(line) for line in (folder / PUBLISHED).read_text(encoding="utf-8").splitlines() if line.strip()]
    values = {key: value for line in lines for key, value in line.items()}
    return values["baseline_singular_values"], values["post_attack_singular_values"]


def _decay_page(panels: Panels, decays: Mapping[str, Decay], looks: Mapping[str, Look]) -> Figure:
    columns = min(3, len(panels)) if len(panels) != 4 else 2
    bands = math.ceil(len(panels) / columns)
    height = 0.6 + (4.0 if len(panels) == 1 else 2.9 * bands)
    figure, axes = _canvas(2 * bands, columns, height, sharex="col", sharey="row", height_ratios=[3, 2] * bands)
    for i, (name, groups) in enumerate(panels.items()):
        band, column = divmod(i, columns)
        upper, lower = axes[2 * band : 2 * band + 2, column]
        for label, group in groups.items():
            pairs = [decays[run] for run in group.rows["run_id"] if run in decays]
            _decay_group(upper, lower, pairs, looks[label])
        upper.set_title(_title(name, 110 // columns - 6), fontsize=7.5)
    for i in range(len(panels), bands * columns):
        for ax in axes[2 * (i // columns) : 2 * (i // columns) + 2, i % columns]:
            ax.set_visible(False)
    _decay_axes(axes)
    shown = dict.fromkeys(label for groups in panels.values() for label in groups)
    handles = [_handle(label, looks[label]) for label in shown]
    _legend(figure, [Line2D([], [], color=GREY, ls="--", lw=1.2, label="before"), *handles])
    return figure


def _decay_axes(axes: Grid) -> None:
    """Scales, labels and ticks."""
    for upper in axes[::2].flat:
        upper.set_xscale("log")
        upper.set_yscale("log")
        upper.tick_params(labelbottom=False)
        upper.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        upper.xaxis.set_minor_locator(NullLocator())
    for lower in axes[1::2].flat:
        lower.axhline(1, color=GREY, ls="--", lw=1.0, zorder=1)
        lower.yaxis.set_major_locator(MaxNLocator(4, steps=STEPS))
    for ax in axes[-1]:
        ax.set_xlabel("singular value [index]")
    for upper, lower in zip(axes[::2, 0], axes[1::2, 0], strict=True):
        upper.set_ylabel("σ / Σσ [share]")
        lower.set_ylabel("after / before\n[ratio]")


def _decay_group(upper: Axes, lower: Axes, pairs: Sequence[Decay], look: Look) -> None:
    """Mean spectra, and the mean and range of the runs' ratios."""
    n = min(len(before) for before, _ in pairs)
    before, after = (np.stack([pair[i][:n] for pair in pairs]) for i in (0, 1))
    n = max(2, int((before.mean(axis=0) > ROUNDING * before.mean(axis=0).max()).sum()))
    before, after, index = before[:, :n], after[:, :n], np.arange(1, n + 1)
    upper.plot(index, before.mean(axis=0), color=GREY, ls="--", lw=1.2, zorder=3)
    every = [int(i) for i in np.unique(np.geomspace(1, n, 7).astype(int) - 1)]
    style: dict[str, Any] = {"marker": look.marker, "ms": 3.5, "mfc": "white", "markevery": every}
    upper.plot(index, after.mean(axis=0), color=look.colour, ls=look.line, lw=1.2, zorder=2, **style)
    ratio = after / np.where(before > 0, before, np.nan)
    lower.fill_between(index, ratio.min(axis=0), ratio.max(axis=0), color=look.colour, alpha=0.15, lw=0, zorder=0)
    lower.plot(index, ratio.mean(axis=0), color=look.colour, ls=look.line, lw=1.2, zorder=2, **style)
