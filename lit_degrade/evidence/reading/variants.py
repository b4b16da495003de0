"""Ways of doing damage whose dose is varied, and their levels."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import pandas as pd

from lit_degrade.evidence.reading.estimates import number
from lit_degrade.evidence.reading.words import method_of


class DoseSeries(NamedTuple):
    """One way of doing damage, whose dose is varied."""

    name: str
    method: str
    target: str

    @property
    def counts_levels(self) -> bool:
        """Whether the level is a number of quantisation levels: fewer do more damage, inf is none."""
        return counts_levels(self.method)


def counts_levels(method: str) -> bool:
    """Whether the level of a method is a number of quantisation levels."""
    return method_of(method).none == math.inf


def variants_of(doses: pd.DataFrame) -> list[DoseSeries]:
    """Variants in the order in which they were written."""
    return [DoseSeries(*row) for row in doses[["variant", "method", "target"]].drop_duplicates().itertuples(index=False)]


def of_variant(doses: pd.DataFrame, variant: DoseSeries) -> pd.DataFrame:
    """Doses of one variant."""
    name, method, target = variant
    return doses[(doses["variant"] == name) & (doses["method"] == method) & (doses["target"] == target)]


def by_level(doses: pd.DataFrame, variant: DoseSeries) -> Iterator[tuple[float, pd.DataFrame]]:
    """Levels of a variant with their doses, the weakest level first."""
    own = of_variant(doses, variant)
    for level in sorted(own["level"].unique(), reverse=variant.counts_levels):
        yield float(level), own[own["level"] == level]


def level_words(level: float) -> str:
    """A level in the unit of its method: 1024, not 1.02e+03."""
    return "∞" if level == math.inf else f"{level:.0f}" if 1000 <= level < 1e6 else number(level)
