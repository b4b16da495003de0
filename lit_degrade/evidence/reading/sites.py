"""What runs say of sites, the matrices of a subject: names in order, means over groups of runs, correlations, words."""

from collections.abc import Sequence

import pandas as pd

from lit_degrade.criticality.catalog import METRICS
from lit_degrade.evidence.reading.words import ordered
from lit_degrade.subjects.catalog import COMPONENTS


def metrics_of(table: pd.DataFrame) -> list[str]:
    """Metrics of a table in the order of the catalogue, but for random scores."""
    return ordered(set(table["metric"]) - {"random"}, METRICS)


def components_of(table: pd.DataFrame) -> list[str]:
    """Components of a table in the order of the catalogue."""
    return ordered(set(table["component"]), COMPONENTS)


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


def span(counts: Sequence[int]) -> str:
    """The least and the most of some counts, or what they all are."""
    low, high = min(counts, default=0), max(counts, default=0)
    return f"{low} to {high}" if low < high else str(low)


OUTSIDE = -1
"""Stands for the depth of what is in no block."""
