"""Runs of one design in groups that differ in their conditions, outliers taken out only when asked and never silently."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from lit_degrade.curvature.catalog import PROJECTIONS
from lit_degrade.records.conditions import Fact
from lit_degrade.stimuli.catalog import OPTIMIZERS, PROTOCOLS, STIMULI
from lit_degrade.subjects.catalog import ADAPTERS, PRECISIONS

NOT_GROUPS = ("experiment", "seed", "null_space.microbatch", "null_space.offload", "flat.microbatch")
"""Settings that do not make another group: where a record lies, what it was drawn with, and how memory was saved."""
COUNTS = ("asked", "done", "diverged", "failed", "missing", "filtered")
CATALOGUES = {
    "stimulus": STIMULI, "optimizer": OPTIMIZERS, "protocol": PROTOCOLS, "precision": PRECISIONS, "adapter": ADAPTERS,
    "projection": PROJECTIONS,
}  # fmt: skip
"""Settings whose values have an order of their own."""
FilterMethod = Literal["iqr", "zscore"]
FILTER_METRICS = ("rank_reduction", "perplexity_increase", "perplexity_post")
"""What outliers can be looked for in."""


@dataclass(frozen=True)
class OutlierFilter:
    """Which runs of a group are outliers; the rule is applied to every group by itself."""

    method: FilterMethod
    metric: str = "rank_reduction"
    iqr_multiplier: float = 1.5
    zscore_threshold: float = 3.0

    def outliers(self, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """True where a value is beyond the quartiles by `iqr_multiplier` times their distance, or its |z| is too large.

        Args:
            values: (n,); non-finite values are never outliers, since divergence is an outcome.
        """
        finite = np.isfinite(values)
        kept, beyond = values[finite], np.zeros(len(values), dtype=bool)
        if len(kept) < 2:
            return beyond
        if self.method == "iqr":
            low, high = np.percentile(kept, [25, 75])
            reach = self.iqr_multiplier * (high - low)
            beyond[finite] = (kept < low - reach) | (kept > high + reach)
        elif kept.std(ddof=1) > 0:
            beyond[finite] = np.abs(kept - kept.mean()) / kept.std(ddof=1) > self.zscore_threshold
        return beyond


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but their seed."""

    label: str
    conditions: dict[str, Fact]
    """those that differ between the groups of the design"""
    rows: pd.DataFrame

    def counts(self) -> dict[str, int]:
        """How many runs were asked for, and what became of them; without a readable or a finished record they are `missing`."""
        ended = {name: int((self.rows["state"] == name).sum()) for name in ("done", "diverged", "failed")}
        rest = {"missing": len(self.rows) - sum(ended.values()), "filtered": int(self.rows["filtered"].sum())}
        return {"asked": len(self.rows), **ended, **rest}

    def values(self, outcome: str) -> np.ndarray[Any, Any]:
        """Finite values of an outcome, one per run that is done and not filtered."""
        values = usable(self.rows, outcome)[outcome] if outcome in self.rows else pd.Series(dtype=float)
        return values.to_numpy(dtype=float)


def usable(rows: pd.DataFrame, outcome: str) -> pd.DataFrame:
    """Rows that are done, not filtered, and have a finite value of an outcome."""
    return rows[(rows["state"] == "done") & ~rows["filtered"] & np.isfinite(pd.to_numeric(rows[outcome], errors="coerce"))]


def varying(rows: pd.DataFrame, conditions: Sequence[str]) -> list[str]:
    """Conditions that differ between these runs, seeds aside."""
    return [name for name in conditions if name in rows and name not in NOT_GROUPS and _key(rows[name]).nunique() > 1]


def make_groups(rows: pd.DataFrame, names: Sequence[str], factor: str) -> list[Group]:
    """Groups in the order of the suite's catalogues, by size and by number; the factor changes fastest."""
    ordered = [name for name in names if name != factor] + ([factor] if factor in names else [])
    if not names:
        return [Group("all runs", {}, rows)]
    groups = []
    for _, own in rows.groupby([_key(rows[name]) for name in ordered], sort=False):
        conditions = {name: _fact(own[name].iloc[0]) for name in ordered}
        groups.append(Group(label(conditions), conditions, own))
    return sorted(groups, key=lambda group: [_rank(name, value, group.rows) for name, value in group.conditions.items()])


def _rank(name: str, value: Fact, rows: pd.DataFrame) -> tuple[float, str]:
    """Where a value of a condition comes among the others."""
    if name == "subject" and "n_parameters" in rows:
        return (float(rows["n_parameters"].min()), str(value))
    known = CATALOGUES.get(name.removeprefix("attack."), ())
    if value in known:
        return (float(list(known).index(str(value))), "")
    return (float(value), "") if isinstance(value, int | float) else (math.inf, str(value))


def label(conditions: Mapping[str, Any]) -> str:
    """Conditions in few words: names for numbers only, alternatives with "or"."""
    return ", ".join(_said(name, value) for name, value in conditions.items() if value not in (None, "")) or "all runs"


def columns_of(group: Group) -> dict[str, Fact]:
    """What a row of a table says of the group that it is about."""
    return {"group": full_label(group), **group.conditions}


def full_label(group: Group) -> str:
    """Label of a group with its subject, which the label leaves out where all groups have the same."""
    subject = group.rows["subject"].iloc[0] if "subject" in group.rows else None
    return label({"subject": subject, **group.conditions})


def _said(name: str, value: Any) -> str:
    if isinstance(value, list):
        return " or ".join(_said(name, item) for item in value)
    if isinstance(value, bool):
        return name if value else f"not {name}"
    return value if isinstance(value, str) else f"{name} {value:g}"


def _key(column: pd.Series) -> pd.Series:
    """Something to group by in which missing settings are a value of their own."""
    return column.map(lambda value: "" if _fact(value) is None else str(value))


def _fact(value: Any) -> Fact:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return value.item() if isinstance(value, np.generic) else value


def select(rows: pd.DataFrame, wanted: Mapping[str, Any]) -> pd.DataFrame:
    """Rows whose conditions are as wanted; a list wants any of its values."""
    chosen = pd.Series(True, index=rows.index)
    for name, value in wanted.items():
        allowed = value if isinstance(value, list) else [value]
        chosen &= rows[name].isin(allowed) if name in rows else False
    return rows[chosen]


def mark_outliers(groups: Sequence[Group], rule: OutlierFilter) -> list[str]:
    """Run ids of the outliers of every group."""
    run_ids: list[str] = []
    for group in groups:
        done = group.rows[group.rows["state"] == "done"]
        if rule.metric in done:
            run_ids += list(done["run_id"][rule.outliers(done[rule.metric].to_numpy(dtype=float))])
    return run_ids
