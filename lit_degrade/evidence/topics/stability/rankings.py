"""How far rankings of weights agree: what runs say of their own, and the rankings that they left, across seeds."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from lit_degrade.criticality.stability import agreement
from lit_degrade.evidence.reading.groups import Group
from lit_degrade.evidence.reading.record_tables import Tables, bounded, read_counted
from lit_degrade.records.paths import RANKINGS
from lit_degrade.records.tables import EFFECTS, STABILITY

LIKENESS = ("jaccard", "jaccard_chance", "jaccard_corrected", "kendall_tau", "rbo")
"""Measures of agreement."""
ACROSS_RUNS = "runs"
"""Kind of agreement between runs of a group."""
PLACES = (2**22, 2**40)
"""More than a subject has parameters, and than a parameter has weights."""


@dataclass(frozen=True)
class Ranking:
    """The most critical weights of a run by each metric."""

    ids: dict[str, NDArray[np.int64]]
    """metric -> (K,), the highest first"""
    parameters: list[str]
    weights: int
    """that were ranked"""


def read_stability(rows: pd.DataFrame, groups: Sequence[Group]) -> tuple[Tables, list[str]]:
    """How far rankings agree, within runs and between those of a group, and what is wrong with the files."""
    tables, cautions = read_counted(rows, (STABILITY,))
    own = bounded(tables[STABILITY])
    effects, _ = read_counted(rows, (EFFECTS,))
    between, faults = agreement_of_runs(groups, [effects[EFFECTS], own])
    filled = [table for table in (own, between) if len(table)]
    return {STABILITY: pd.concat(filled, ignore_index=True) if filled else own}, [*cautions, *faults]


def agreement_of_runs(groups: Sequence[Group], tables: Sequence[pd.DataFrame]) -> tuple[pd.DataFrame, list[str]]:
    """How far the rankings of runs of a group agree.

    Args:
        groups: of runs that differ in their seed: other calibration text.
        tables: with every k that is of interest.

    Returns: lines as in stability.csv, of the kind ACROSS_RUNS, where a and b are runs; and what is wrong with the files.
    """
    ks = sorted({int(k) for table in tables if len(table) for k in table["k"]})
    lines, cautions = [], []
    for group in groups:
        rankings, faults = _rankings(group)
        cautions += faults
        for a, b in combinations(rankings, 2):
            lines += [{"run_id": a, "a": a, "b": b} | line for line in _agreements(rankings[a], rankings[b], ks)]
    return pd.DataFrame(lines), cautions


def _rankings(group: Group) -> tuple[dict[str, Ranking], list[str]]:
    """By run; those that rank other weights than the first are left out and named."""
    by_run: dict[str, Ranking] = {}
    cautions: list[str] = []
    kept = group.rows[~group.rows["filtered"]]
    for run, folder in zip(kept["run_id"], kept["folder"], strict=True):
        path = Path(folder) / RANKINGS
        if not path.exists():
            continue
        try:
            ranking = read_ranking(path)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            cautions.append(f"{run}: {RANKINGS} cannot be read and is not compared: {error}.")
            continue
        first = next(iter(by_run.values()), ranking)
        if (ranking.parameters, ranking.weights) == (first.parameters, first.weights):
            by_run[run] = ranking
        else:
            cautions.append(f"{run}: {RANKINGS} ranks other weights than that of {next(iter(by_run))} and is not compared.")
    return by_run, cautions


def read_ranking(path: Path) -> Ranking:
    """Rankings that a run left.

    Raises: OSError, SafetensorError, KeyError, TypeError or ValueError for a file that is broken.
    """
    with safe_open(path, framework="numpy") as file:
        facts = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dictionary)
    weights = int(facts["weights"])
    return Ranking({name: _ids(rows, weights) for name, rows in tensors.items()}, json.loads(facts["parameters"]), weights)


def _ids(rows: NDArray[Any], weights: int) -> NDArray[np.int64]:
    """One number for each pair of parameter and place in it, (K,).

    Raises: ValueError for what is no ranking of so many weights.
    """
    if rows.dtype != np.int64 or rows.ndim != 2 or rows.shape[1] != 2 or (rows < 0).any() or (rows >= PLACES).any():
        raise ValueError(f"{rows.dtype} {rows.shape} are no pairs of indices")
    ids = rows[:, 0] * PLACES[1] + rows[:, 1]
    if len(np.unique(ids)) < len(ids) or len(ids) > weights:
        raise ValueError("it names a weight twice, or more weights than were ranked")
    return np.asarray(ids, dtype=np.int64)


def _agreements(a: Ranking, b: Ranking, ks: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Lines for every metric and k that both rank."""
    for metric in (name for name in a.ids if name in b.ids):
        one, other = a.ids[metric], b.ids[metric]
        for k in (k for k in ks if 0 < k <= min(len(one), len(other))):
            it = agreement(one[:k], other[:k], a.weights)
            what = {"kind": ACROSS_RUNS, "metric": metric, "other": metric, "k": k}
            yield what | {name: getattr(it, name) for name in LIKENESS}
