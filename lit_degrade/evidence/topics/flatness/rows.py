"""What parts of weight space cost: changes and curvature with means over runs, and runs whose steps stay inside a part."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from lit_degrade.curvature.catalog import PARTS
from lit_degrade.evidence.reading.estimates import drawable, estimate, finite_or_inf
from lit_degrade.evidence.reading.groups import Group, usable
from lit_degrade.evidence.reading.record_tables import Tables, read_all
from lit_degrade.evidence.reading.words import rank_in
from lit_degrade.records.tables import CERTIFICATES, DAMAGE, FLATNESS

SIZE, PATH = "relative_norm", "path_length"
"""Of a random change, and of the steps of a run."""
WHOLE = "whole"
"""Part that the others are compared with."""
CURVATURE = {"hv_norm_over_lambda_max": "hv_norm_over_whole", "rayleigh_over_lambda_max": "rayleigh_over_whole"}
"""Measure of a certificate -> its column with the ratio to the whole space."""


def read_flatness(rows: pd.DataFrame, groups: Sequence[Group] = ()) -> tuple[Tables, list[str]]:
    """Changes and certificates of all runs that the filter leaves, and what is wrong with their files (see `read_tables`)."""
    tables, cautions = read_all(rows, (FLATNESS, CERTIFICATES))
    changes = tables[FLATNESS]
    if len(changes):
        good = (changes[SIZE] > 0) & drawable(changes[SIZE])
        if not good.all():
            cautions.append(f"{FLATNESS}: left out {(~good).sum()} lines whose size cannot be drawn, such as 0.")
            tables[FLATNESS] = changes[good].reset_index(drop=True)
    return tables, cautions


def by_run(lines: pd.DataFrame, by: Sequence[str], measure: str) -> pd.DataFrame:
    """One number for each run: the mean of a measure over its draws, inf where one of them is not finite.

    Args:
        lines: of a table; those without the measure are left out.
        by: columns that tell apart what the draws are of.
        measure: column.

    Returns: columns `by`, `run_id` and the measure.
    """
    own = lines.dropna(subset=[measure])
    placed = own.assign(**{measure: finite_or_inf(own[measure])})
    return placed.groupby([*by, "run_id"], sort=False, as_index=False)[[measure]].mean()


def flatness_rows(lines: pd.DataFrame) -> list[dict[str, Any]]:
    """For each part and size of a change: what it costs over runs, and its ratio to what the whole space costs.

    Args:
        lines: of flatness.csv, of one group of runs.
    """
    sizes = sorted(set(lines[SIZE]))
    return [
        {"part": part, SIZE: size, **_counts(at), **_over_runs(at, lines[lines[SIZE] == size], DAMAGE, "over_whole")}
        for part in _parts(lines)
        for size in sizes
        if len(at := lines[(lines["part"] == part) & (lines[SIZE] == size)])
    ]


def certificate_rows(lines: pd.DataFrame) -> list[dict[str, Any]]:
    """For each part and text: curvature in units of the largest eigenvalue over runs, and its ratio to that of the whole space.

    Args:
        lines: of certificates.csv, of one group of runs; those without a largest eigenvalue are left out.
    """
    known = lines.dropna(subset=list(CURVATURE)) if set(CURVATURE) <= set(lines) else lines.iloc[:0]
    return [_certificate(part, text, known) for part in _parts(known) for text in _texts_of(known, part)]


def _certificate(part: str, text: str, lines: pd.DataFrame) -> dict[str, Any]:
    """One part on one text."""
    same = lines[lines["text"] == text]
    at = same[same["part"] == part]
    row: dict[str, Any] = {"part": part, "text": text} | _counts(at)
    for measure, ratio in CURVATURE.items():
        row |= _over_runs(at, same, measure, ratio)
    return row


def _parts(lines: pd.DataFrame) -> list[str]:
    """Parts of some lines, in the order of the suite."""
    return sorted(dict.fromkeys(lines["part"]), key=lambda name: rank_in(name, PARTS))


def _texts_of(lines: pd.DataFrame, part: str) -> list[str]:
    """Texts that a part was certified on, in the order in which they were written."""
    has = set(lines.loc[lines["part"] == part, "text"])
    return [text for text in dict.fromkeys(lines["text"]) if text in has]


def _counts(lines: pd.DataFrame) -> dict[str, Any]:
    return {"runs": lines["run_id"].nunique(), "draws": len(lines)}


def _over_runs(own: pd.DataFrame, same: pd.DataFrame, measure: str, ratio: str) -> dict[str, Any]:
    """Mean over runs and its interval, and how large it is beside that of the whole space.

    Args:
        own: lines of one part.
        same: lines of all parts under the same conditions.
        measure: column.
        ratio: name of the column with the ratio to the whole space.
    """
    it, whole = (
        estimate(by_run(lines, [], measure)[measure].to_numpy(dtype=float)) for lines in (own, same[same["part"] == WHOLE])
    )
    return it.columns(measure) | {ratio: it.mean / whole.mean if whole.mean else math.nan}


def projection_of(group: Group) -> str:
    """Part that the steps of a group of runs are confined to; empty where they are not."""
    name = group.rows["projection"].iloc[0] if "projection" in group.rows else None
    return name if isinstance(name, str) and name != "none" else ""


def paths_of(group: Group) -> pd.DataFrame:
    """Runs of a group with the length of their path and what it cost, both finite: `run_id`, PATH and DAMAGE."""
    if not projection_of(group) or not {PATH, DAMAGE} <= set(group.rows):
        return pd.DataFrame({"run_id": pd.Series(dtype=str), PATH: np.empty(0), DAMAGE: np.empty(0)})
    runs = usable(usable(group.rows, DAMAGE), PATH)
    return runs.loc[runs[PATH] > 0, ["run_id", PATH, DAMAGE]].astype({PATH: float, DAMAGE: float})
