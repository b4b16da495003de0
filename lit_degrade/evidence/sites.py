"""What runs say of sites, the matrices of a subject: names in order, means over groups of runs, correlations, words."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from lit_degrade.criticality.catalog import METRICS
from lit_degrade.evidence.doses import estimate, observations
from lit_degrade.evidence.outcomes import method_of
from lit_degrade.records.tables import DAMAGE
from lit_degrade.subjects.catalog import COMPONENTS

OUTSIDE = -1
"""Stands for the depth of what is in no block."""


def metrics_of(table: pd.DataFrame) -> list[str]:
    """Metrics of a table in the order of the catalogue, but for random scores."""
    return ordered(set(table["metric"]) - {"random"}, METRICS)


def components_of(table: pd.DataFrame) -> list[str]:
    """Components of a table in the order of the catalogue."""
    return ordered(set(table["component"]), COMPONENTS)


def ordered(found: set[str], known: Mapping[str, object]) -> list[str]:
    """Names in the order of a catalogue, then those that it lacks."""
    return [name for name in known if name in found] + sorted(found - set(known))


def averaged(scores: pd.DataFrame, column: str, by: Sequence[str]) -> pd.Series:
    """Mean of a column over matrices, each counting by its number of weights: two of 1 and 3 weights with 4 and 8 give 7.

    Args:
        scores: lines with `weights`; lines without a value are left out.
        column: to average; inf where any value is.
        by: columns that tell apart what is not averaged.
    """
    known = scores.dropna(subset=[column])
    sums = known.assign(total=known[column] * known["weights"]).groupby(list(by), sort=False)[["total", "weights"]].sum()
    return sums["total"] / sums["weights"]


def damages_of(lines: pd.DataFrame) -> pd.DataFrame:
    """What every unit costs under every method and level, in the order in which they were written.

    Args:
        lines: of ablations.

    Returns: a row per unit: what it is, `way` (of ablation, in words), `weights` (number), `relative_norm` (mean), and of the
        nats per token that are `lost` the mean, `_low`, `_high`, `_n` (draws and runs) and `_not_finite` (those in no mean).
    """
    placed = lines.assign(depth=lines["depth"].fillna(OUTSIDE).astype(int))
    units = placed.groupby(["method", "level", "kind", "unit"], sort=False)
    return pd.DataFrame([_damage(found) for _, found in units])


def _damage(found: pd.DataFrame) -> dict[str, object]:
    first, it = found.iloc[0], estimate(observations(found, DAMAGE))
    method = method_of(first["method"])
    row = {name: first[name] for name in ("unit", "kind", "component", "depth", "parameter", "method", "level", "weights")}
    row |= {"way": f"{method.label}, level {first['level']:g} [{method.unit}]", "relative_norm": found["relative_norm"].mean()}
    row |= {"lost": it.mean, "lost_low": it.interval.low, "lost_high": it.interval.high}
    return row | {"lost_n": it.n, "lost_not_finite": it.diverged}


def correlations_of(lines: pd.DataFrame) -> pd.DataFrame:
    """Mean over runs of Spearman's correlations of one kind and metric: a lower triangle, later names in rows.

    Metrics are in the order of the catalogue, depths by number, and what is in no block comes last.
    """
    names = set(lines["a"]) | set(lines["b"])
    order = {name: i for i, name in enumerate(sorted(ordered(names, METRICS), key=_depth))}
    later = np.where(lines["a"].map(order) > lines["b"].map(order), lines["a"], lines["b"])
    first = np.where(later == lines["a"], lines["b"], lines["a"])
    means = lines.assign(later=later, first=first).groupby(["later", "first"])["spearman"].mean()
    return means.unstack().reindex(index=list(order)[1:], columns=list(order)[:-1])


def _depth(name: str) -> float:
    return float(name) if name.replace(".", "").isdigit() else math.inf


def span(counts: Sequence[int]) -> str:
    """The least and the most of some counts, or what they all are."""
    low, high = min(counts, default=0), max(counts, default=0)
    return f"{low} to {high}" if low < high else str(low)


def confirmed_words(sure: pd.Series) -> str:
    """Whether the runs that found a weight confirm that it matters."""
    if sure.all():
        return "confirmed"
    return f"confirmed in {sure.sum()} of {len(sure)}" if sure.any() else "not confirmed"


def effect_words(draws: pd.DataFrame) -> pd.Series:
    """How clusters were perturbed, of every line."""
    ways = zip(draws["method"], draws["level"], draws["k"], strict=True)
    words_of = [f"{method_of(method).label} (level {level:g}) of {k:,.0f} weights" for method, level, k in ways]
    return pd.Series(words_of, draws.index)
