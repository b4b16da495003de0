"""What doses of a perturbation did: reading the doses of runs, and means over repetitions for every level."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from lit_degrade.evidence.reading.estimates import drawable, estimate, observations
from lit_degrade.evidence.reading.groups import Group, columns_of
from lit_degrade.evidence.reading.record_tables import Tables, of_runs, read_tables
from lit_degrade.evidence.reading.variants import DoseSeries, by_level, counts_levels, variants_of
from lit_degrade.records.tables import DOSES

_NOT_MEASURES = ("variant", "method", "target", "level", "level_index", "repetition", "random", "run_id")
_ORDER = (
    "accuracy", "accuracy_", "parse_failure_rate", "distinct_2", "seq_rep_4", "loop_share", "nats_intact", "self_bleu",
    "empty_rate", "cap_rate", "compression_ratio", "mattr", "distinct_1",
)  # fmt: skip
"""Text measures, the most telling first; what ends in _ stands for all that begin so."""


def read_doses(rows: pd.DataFrame, groups: Sequence[Group] = ()) -> tuple[Tables, list[str]]:
    """Doses of all runs that the filter leaves, and what is wrong with their files (see `read_tables`)."""
    doses, cautions = read_tables(rows, DOSES)
    if not len(doses):
        return {DOSES: doses}, cautions
    counted = doses["method"].map(counts_levels)
    level = doses["level"]
    good = np.where(counted, (level > 0) & (drawable(level) | (level == math.inf)), drawable(level))
    if not good.all():
        cautions.append(f"{DOSES}: left out {(~good).sum()} doses whose level cannot be drawn, such as an infinite σ.")
    return {DOSES: doses[good].reset_index(drop=True)}, cautions


def measures_of(doses: pd.DataFrame) -> list[str]:
    """Columns that were measured, text measures aside."""
    names = [name for name in map(str, doses) if name not in _NOT_MEASURES and "." not in name]
    return [name for name in names if doses[name].notna().any()]


def text_measures(doses: pd.DataFrame) -> dict[str, list[str]]:
    """Task -> its columns that were measured, the most telling first."""
    by_task: dict[str, list[str]] = {}
    for name in sorted((name for name in map(str, doses) if "." in name and doses[name].notna().any()), key=_telling):
        by_task.setdefault(name.split(".")[0], []).append(name)
    return by_task


def _telling(column: str) -> tuple[str, int, str]:
    task, _, measure = column.partition(".")
    known = [i for i, name in enumerate(_ORDER) if measure == name or (name.endswith("_") and measure.startswith(name))]
    return task, known[0] if known else len(_ORDER), measure


def dose_rows(doses: pd.DataFrame, groups: Sequence[Group]) -> list[dict[str, Any]]:
    """One row for every group, variant and level: how often it was given, and each measure with its interval."""
    return [
        {**columns_of(group), **_what(variant), "level": level} | _row(at)
        for group in groups
        if len(own := of_runs(doses, list(group.rows["run_id"])))
        for variant in variants_of(own)
        for level, at in by_level(own, variant)
    ]


def _what(variant: DoseSeries) -> dict[str, Any]:
    return {"variant": variant.name, "method": variant.method, "target": variant.target}


def _row(doses: pd.DataFrame) -> dict[str, Any]:
    """Columns of one level."""
    row: dict[str, Any] = {"runs": doses["run_id"].nunique(), "doses": len(doses)}
    for measure in [*measures_of(doses), *(name for names in text_measures(doses).values() for name in names)]:
        row |= estimate(observations(doses, measure)).columns(measure)
    return row
