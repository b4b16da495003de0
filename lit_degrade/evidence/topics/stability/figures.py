"""How far rankings of weights agree: between metrics, between batches of calibration text, and along a chain of subjects."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from lit_degrade.criticality.catalog import METRICS
from lit_degrade.evidence.claims.sections import Section
from lit_degrade.evidence.drawing.axes import canvas, mean_tick
from lit_degrade.evidence.drawing.groups import by_group
from lit_degrade.evidence.drawing.looks import GREY, Look, legend, looks_of, wrapped
from lit_degrade.evidence.drawing.panels import Panels, Plate, plates
from lit_degrade.evidence.numbers.statistics import Values
from lit_degrade.evidence.reading.groups import Group
from lit_degrade.evidence.reading.words import metric_of, ordered, words
from lit_degrade.records.tables import STABILITY

SHOWN_K = 1000
"""The largest k up to here is drawn."""
MATRICES, CHAINS = 2, 3
"""Matrices beside each other, and groups of chains below each other, in a figure."""
MEASURES = {"jaccard_corrected": "Jaccard index above chance\n[0 to 1]", "rbo": "rank-biased overlap\n[0 to 1]"}
"""What is drawn along a chain, with its axis."""
BESIDE = 0.06
"""Between metrics, of the distance of two subjects."""
_LACKING = f"without such lines in {STABILITY}"


def stability_plates(section: Section) -> list[Plate]:
    """Matrices of metrics, then chains of subjects; none where no run compared rankings."""
    table = section.table(STABILITY)
    if not len(table):
        return []
    return [*_matrices(section, table), *_chains(section, table)]


def _matrices(section: Section, table: pd.DataFrame) -> list[Plate]:
    """A panel for each group of runs."""
    table = table[table["kind"].isin(["metrics", "batches"])]
    labelled, k = _at_one_k(section, table)
    matrices = {name: _matrix(lines) for name, (_, lines) in labelled.items()}
    caption = (
        f"Agreement of the {k:,} highest weights by two metrics: Jaccard index above chance (0: as by chance, 1: the same "
        "weights), mean over runs. On the diagonal, framed: of one metric, from disjoint batches of calibration text. "
        "–: not measured."
    )

    def page(shown: Panels) -> Figure:
        return _matrix_page({name: matrices[name] for name in shown}, k)

    panels: Panels = {name: {"": group} for name, (group, _) in labelled.items()}
    return plates(section, "stability", caption, panels, _runs(labelled), page, most=MATRICES, lacking=_LACKING)


def _runs(labelled: Mapping[str, tuple[Group, pd.DataFrame]]) -> set[str]:
    return {run for _, lines in labelled.values() for run in lines["run_id"]}


def _at_one_k(section: Section, table: pd.DataFrame) -> tuple[dict[str, tuple[Group, pd.DataFrame]], int]:
    """By name of a group its lines at the k that is drawn; and that k."""
    if not len(table):
        return {}, 0
    ks = sorted(table["k"].unique())
    k = max((k for k in ks if k <= SHOWN_K), default=ks[0])
    return by_group(section, table[table["k"] == k]), int(k)


def _matrix(lines: pd.DataFrame) -> pd.DataFrame:
    """Mean agreement, metrics by metrics; nan where it was not measured."""
    names = ordered({*lines["metric"], *lines["other"]}, METRICS)
    matrix = pd.DataFrame(np.nan, index=names, columns=names)
    for _, own in lines.groupby(["metric", "other"]):
        one, other = own[["metric", "other"]].iloc[0]
        matrix.loc[one, other] = matrix.loc[other, one] = own["jaccard_corrected"].mean()
    return matrix


def _matrix_page(matrices: Mapping[str, pd.DataFrame], k: int) -> Figure:
    """Matrices beside each other, of the same metrics in the same order."""
    names = ordered({name for matrix in matrices.values() for name in matrix.index}, METRICS)
    figure, axes = canvas(1, len(matrices), 0.9 + (0.47 if len(matrices) == 1 else 0.29) * len(names), sharey=True)
    for ax, (title, matrix) in zip(axes.flat, matrices.items(), strict=True):
        image = _draw(ax, matrix.reindex(index=names, columns=names).to_numpy(dtype=float), 8 if len(matrices) == 1 else 6)
        ax.set_xticks(range(len(names)), [metric_of(name) for name in names], rotation=40, ha="right", rotation_mode="anchor")
        ax.set_yticks(range(len(names)), [metric_of(name) for name in names])
        ax.set_title(wrapped(title, 80 // len(matrices)))
    bar = figure.colorbar(image, ax=list(axes.flat), shrink=0.8, pad=0.02)
    bar.set_label(f"Jaccard above chance,\nk = {k:,} [0 to 1]")
    return figure


def _draw(ax: Axes, values: Values, size: float) -> AxesImage:
    """Cells with their numbers, the diagonal framed."""
    image = ax.imshow(values, cmap="Blues", vmin=0, vmax=1, aspect="equal")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    for (i, j), value in np.ndenumerate(values):
        text = "–" if math.isnan(value) else f"{value:.2f}".replace("-0.00", "0.00")
        ax.text(j, i, text, ha="center", va="center", fontsize=size, color="white" if value > 0.65 else "black")
        if i == j:
            ax.add_patch(Rectangle((j - 0.47, i - 0.47), 0.94, 0.94, fill=False, edgecolor="black", lw=1.1))
    return image


def _chains(section: Section, table: pd.DataFrame) -> list[Plate]:
    """Two panels for each group of runs: overlap without and with order."""
    table = table[table["kind"] == "subjects"]
    labelled, k = _at_one_k(section, table)
    chains = {name: _pairs(lines) for name, (_, lines) in labelled.items()}
    looks = looks_of(ordered(set(table["metric"]), METRICS))
    several = max((len(own) for lines in chains.values() for _, own in lines.groupby(["a", "b", "metric"])), default=0) > 1
    joined = "means of runs; ticks and bars: mean with 95 % Student t interval" if several else "values of one run (n = 1)"
    caption = (
        f"Agreement of the {k:,} highest weights of two subjects by the same metric: Jaccard index above chance (0: as by "
        "chance, 1: the same weights), and rank-biased overlap, which weighs the highest most. Lines join "
        f"{joined}."
    )

    def page(shown: Panels) -> Figure:
        return _chain_page({name: chains[name] for name in shown}, looks)

    panels: Panels = {name: {"": group} for name, (group, _) in labelled.items()}
    return plates(section, "stability_subjects", caption, panels, _runs(labelled), page, most=CHAINS, lacking=_LACKING)


def _pairs(lines: pd.DataFrame) -> pd.DataFrame:
    """Lines of pairs with the first subject, where it was compared with all others; else all."""
    subjects = list(dict.fromkeys([*lines["a"], *lines["b"]]))
    with_first = lines[lines["a"] == subjects[0]]
    return with_first if set(with_first["b"]) == set(subjects[1:]) else lines


def _chain_page(chains: Mapping[str, pd.DataFrame], looks: Mapping[str, Look]) -> Figure:
    """Groups below each other, measures beside each other."""
    figure, axes = canvas(len(chains), len(MEASURES), 0.9 + 2.3 * len(chains), sharey=True)
    for row, (name, lines) in zip(axes, chains.items(), strict=True):
        pairs = list(dict.fromkeys(zip(lines["a"], lines["b"], strict=True)))
        alone = len({a for a, _ in pairs}) == 1
        labels = [words(b if alone else f"{a} → {b}") for a, b in pairs]
        title = f"{name}: with {words(pairs[0][0])}" if alone else name
        for ax, (measure, label) in zip(row, MEASURES.items(), strict=True):
            for i, (metric, look) in enumerate(looks.items()):
                values = [_values(lines, pair, metric, measure) for pair in pairs]
                _line(ax, values, look, shift=BESIDE * (i - (len(looks) - 1) / 2))
            ax.axhline(0, color=GREY, lw=0.7, zorder=0)
            ax.set_ylim(-0.06, 1.06)
            ax.set_xlim(-0.4, len(pairs) - 0.6)
            ax.set_xticks(range(len(pairs)), labels, rotation=40, ha="right", rotation_mode="anchor")
            ax.set_ylabel(label)
        row[0].set_title(wrapped(title, 45))
    legend(figure, {metric_of(name): look for name, look in looks.items()})
    return figure


def _values(lines: pd.DataFrame, pair: tuple[str, str], metric: str, measure: str) -> Values:
    """Finite values of runs."""
    own = lines[(lines["a"] == pair[0]) & (lines["b"] == pair[1]) & (lines["metric"] == metric)]
    return own[measure].dropna().to_numpy(dtype=float)


def _line(ax: Axes, values: Sequence[Values], look: Look, shift: float) -> None:
    """Means along a chain, with intervals where there are several runs."""
    means = {i + shift: float(own.mean()) for i, own in enumerate(values) if len(own)}
    style: Any = {"color": look.colour, "ls": look.line, "marker": look.marker, "mfc": "white", "ms": 4, "lw": 1.2}
    ax.plot(list(means), list(means.values()), **style, zorder=3)
    for i, own in enumerate(values):
        if len(own) > 1:
            mean_tick(ax, own, i + shift, look, along="y")
