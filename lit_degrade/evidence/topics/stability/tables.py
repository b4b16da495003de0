"""Tables of how far rankings of weights agree."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lit_degrade.evidence.claims.sections import Section
from lit_degrade.evidence.drawing.tables import Table, save_rows
from lit_degrade.evidence.reading.estimates import number
from lit_degrade.evidence.reading.groups import Group, columns_of, full_label
from lit_degrade.evidence.reading.record_tables import of_runs
from lit_degrade.evidence.reading.words import metric_of, words
from lit_degrade.evidence.topics.stability.rankings import ACROSS_RUNS, LIKENESS
from lit_degrade.records.tables import STABILITY

_PAIRS = "batches", ACROSS_RUNS
"""Kinds of agreement of a metric with itself that the pages show."""


def write_stability_tables(section: Section, folder: Path) -> list[Table]:
    """Write NAME_stability.csv of a section where there are rankings to compare; returns tables for the pages."""
    likeness = section.table(STABILITY)
    file = save_rows(section, folder, "stability", stability_rows(likeness, section.groups))
    return stability_tables(likeness, section.groups, file)


def stability_rows(likeness: pd.DataFrame, groups: Sequence[Group]) -> list[dict[str, Any]]:
    """One row for every group, kind of agreement, pair of metrics (of subjects, where these are compared) and k."""
    rows = []
    for group in groups:
        own = of_runs(likeness, list(group.rows["run_id"]))
        for key, pairs in _by_pair(own):
            what = {**columns_of(group), **key, "pairs": len(pairs)}
            rows.append(what | _likeness(pairs))
    return rows


def _by_pair(own: pd.DataFrame) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Lines that are averaged: those of batches and of runs, whatever their numbers."""
    if not len(own):
        return
    named = own["kind"] == "subjects"
    labelled = own.assign(a=own["a"].where(named, ""), b=own["b"].where(named, ""))
    columns = ["kind", "metric", "other", "a", "b", "k"]
    for key, pairs in labelled.groupby(columns, sort=False):
        yield dict(zip(columns, key, strict=True)) | {"k": int(pairs["k"].iloc[0])}, pairs


def _likeness(pairs: pd.DataFrame) -> dict[str, float]:
    """Mean and range of each measure."""
    return {f"{name}_{kind}": float(getattr(pairs[name], kind)()) for name in LIKENESS for kind in ("mean", "min", "max")}


def stability_tables(likeness: pd.DataFrame, groups: Sequence[Group], file: str) -> list[Table]:
    """For each group of runs: how far rankings by the same metric agree from other text.

    Args:
        likeness: lines of stability.csv, and those between runs (see `read_stability`).
        groups: of runs.
        file: with ranges, and with agreement between metrics and between subjects.
    """
    note = (
        "Mean agreement of the k highest weights: Jaccard index above chance (0: as by chance, 1: the same weights), Kendall's "
        "τ over the weights of either (1: the same order, about −0.67: no weight in common), rank-biased overlap (0 to 1). "
        "Batches: disjoint calibration text in one run; runs: other seeds. Pairs share batches and runs, so that they are not "
        "independent."
    )
    measures = {"jaccard_corrected": "Jaccard [above chance]", "kendall_tau": "Kendall [τ]", "rbo": "overlap [rbo]"}
    head = ["metric", "k", *(f"{kind}: {name}" for kind in _PAIRS for name in (*measures.values(), "pairs"))]
    tables = []
    for i, group in enumerate(groups):
        pairs = {
            (key["kind"], key["metric"], key["k"]): lines
            for key, lines in _by_pair(of_runs(likeness, list(group.rows["run_id"])))
            if key["kind"] in _PAIRS
        }
        metrics = dict.fromkeys(metric for _, metric, _ in pairs)
        rows = [
            [metric_of(metric), f"{k:,}", *(cell for kind in _PAIRS for cell in _cells(pairs.get((kind, metric, k)), measures))]
            for metric in metrics
            for k in sorted({k for _, name, k in pairs if name == metric})
        ]
        if rows:
            tables.append(Table(f"Stability of rankings, {words(full_label(group))}", note, head, rows, i, file))
    return tables


def _cells(pairs: pd.DataFrame | None, measures: dict[str, str]) -> list[str]:
    """Means of some measures and the number of pairs."""
    if pairs is None:
        return [""] * (len(measures) + 1)
    return [*(number(float(pairs[name].mean())) for name in measures), str(len(pairs))]
