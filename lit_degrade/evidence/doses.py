"""What doses of a perturbation did: reading the doses of runs, and means over repetitions for every level."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lit_degrade.evidence.groups import Group, full_label
from lit_degrade.evidence.record_tables import drawable, of_runs, read_tables
from lit_degrade.evidence.statistics import NOWHERE, ROUNDING, Interval, Values, t_interval
from lit_degrade.records.tables import DAMAGE, DOSES

_NOT_MEASURES = ("variant", "method", "target", "level", "level_index", "repetition", "random", "run_id")
_ORDER = (
    "accuracy", "accuracy_", "parse_failure_rate", "distinct_2", "seq_rep_4", "loop_share", "nats_intact", "self_bleu",
    "empty_rate", "cap_rate", "compression_ratio", "mattr", "distinct_1",
)  # fmt: skip
"""Text measures, the most telling first; what ends in _ stands for all that begin so."""


class Variant(NamedTuple):
    """One way of doing damage, whose dose is varied."""

    name: str
    method: str
    target: str

    @property
    def counts_levels(self) -> bool:
        """Whether the level is a number of quantisation levels: fewer do more damage, inf is none."""
        return counts_levels(self.method)


@dataclass(frozen=True)
class Estimate:
    """A mean over observations, of those that are finite."""

    n: int
    """observations that were measured"""
    mean: float
    interval: Interval
    """Student's 95 %"""
    diverged: int
    """observations without a finite value, which the mean leaves out"""


def counts_levels(method: str) -> bool:
    """Whether the level of a method is a number of quantisation levels."""
    return method.startswith("uni_quant")


def read_doses(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Doses of all runs that the filter leaves, and what is wrong with their files (see `read_tables`)."""
    doses, cautions = read_tables(rows, DOSES)
    if not len(doses):
        return doses, cautions
    counted = doses["method"].map(counts_levels)
    level = doses["level"]
    good = np.where(counted, (level > 0) & (drawable(level) | (level == math.inf)), drawable(level))
    if not good.all():
        cautions.append(f"{DOSES}: left out {(~good).sum()} doses whose level cannot be drawn, such as an infinite σ.")
    return doses.assign(**{DAMAGE: doses[DAMAGE].fillna(math.inf)})[good].reset_index(drop=True), cautions


def variants_of(doses: pd.DataFrame) -> list[Variant]:
    """Variants in the order in which they were written."""
    return [Variant(*row) for row in doses[["variant", "method", "target"]].drop_duplicates().itertuples(index=False)]


def of_variant(doses: pd.DataFrame, variant: Variant) -> pd.DataFrame:
    """Doses of one variant."""
    name, method, target = variant
    return doses[(doses["variant"] == name) & (doses["method"] == method) & (doses["target"] == target)]


def by_level(doses: pd.DataFrame, variant: Variant) -> Iterator[tuple[float, pd.DataFrame]]:
    """Levels of a variant with their doses, the weakest level first."""
    own = of_variant(doses, variant)
    for level in sorted(own["level"].unique(), reverse=variant.counts_levels):
        yield float(level), own[own["level"] == level]


def measures_of(doses: pd.DataFrame) -> list[str]:
    """Columns that were measured, text measures aside."""
    names = [name for name in map(str, doses) if name not in _NOT_MEASURES and "." not in name]
    return [name for name in names if doses[name].notna().any()]


def text_measures(doses: pd.DataFrame) -> dict[str, list[str]]:
    """Task -> its columns that were measured, the most telling first."""
    found: dict[str, list[str]] = {}
    for name in sorted((name for name in map(str, doses) if "." in name and doses[name].notna().any()), key=_telling):
        found.setdefault(name.split(".")[0], []).append(name)
    return found


def _telling(column: str) -> tuple[str, int, str]:
    task, _, measure = column.partition(".")
    known = [i for i, name in enumerate(_ORDER) if measure == name or (name.endswith("_") and measure.startswith(name))]
    return task, known[0] if known else len(_ORDER), measure


def observations(doses: pd.DataFrame, measure: str) -> Values:
    """Values of a measure at one level that count each for one, (n,), inf where one is not finite.

    Every repetition with random weights is one. Repetitions with the same weights are one for each run, and one in all where
    the runs agree too, unless they differ, as text that was sampled does.
    """
    if measure not in doses:
        return np.empty(0)
    drawn, fixed = (doses[doses["random"] == random].dropna(subset=[measure]) for random in (True, False))
    runs = [_once(values.to_numpy(dtype=float)) for _, values in fixed.groupby("run_id", sort=False)[measure]]
    return np.concatenate([drawn[measure].to_numpy(dtype=float), _once(np.concatenate([*runs, np.empty(0)]))])


def _once(values: Values) -> Values:
    """The first of values that are all the same."""
    return values[:1] if len(values) and np.allclose(values, values[0], rtol=ROUNDING, atol=0) else values


def estimate(values: Values) -> Estimate:
    """Mean and interval of those values that are finite."""
    finite = values[np.isfinite(values)]
    mean, interval = (float(finite.mean()), t_interval(finite)) if len(finite) else (math.nan, NOWHERE)
    return Estimate(len(values), mean, interval, len(values) - len(finite))


def dose_rows(doses: pd.DataFrame, groups: Sequence[Group]) -> list[dict[str, Any]]:
    """One row for every group, variant and level: how often it was given, and each measure with its interval."""
    return [
        {"group": full_label(group), **group.conditions, **_what(variant), "level": level} | _row(found)
        for group in groups
        if len(own := of_runs(doses, list(group.rows["run_id"])))
        for variant in variants_of(own)
        for level, found in by_level(own, variant)
    ]


def _what(variant: Variant) -> dict[str, Any]:
    return {"variant": variant.name, "method": variant.method, "target": variant.target}


def _row(doses: pd.DataFrame) -> dict[str, Any]:
    """Columns of one level."""
    row: dict[str, Any] = {"runs": doses["run_id"].nunique(), "doses": len(doses)}
    for measure in [*measures_of(doses), *(name for names in text_measures(doses).values() for name in names)]:
        it = estimate(observations(doses, measure))
        values = {"n": it.n, "mean": it.mean, "low": it.interval.low, "high": it.interval.high, "not_finite": it.diverged}
        row |= {f"{measure}_{name}": value for name, value in values.items()}
    return row
