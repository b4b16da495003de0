"""Tables of criticality: what the highest weights did beyond their controls, and how far rankings agree."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lit_degrade.evidence.chapters import Table, bracketed, number
from lit_degrade.evidence.criticality import (
    CONTROLS,
    LIKENESS,
    MATCHED,
    SIZES,
    TREATED,
    Cell,
    Excess,
    by_setting,
    cautions,
    cells_of,
    difference,
    excess,
    ranked,
    read_criticality,
    setting_words,
)
from lit_degrade.evidence.doses import Estimate
from lit_degrade.evidence.groups import Group, full_label
from lit_degrade.evidence.markdown import pasted
from lit_degrade.evidence.outcomes import ARMS, metric_of, words
from lit_degrade.evidence.rankings import ACROSS_RUNS
from lit_degrade.evidence.record_tables import of_runs
from lit_degrade.evidence.sections import Section
from lit_degrade.evidence.statistics import holm
from lit_degrade.records.tables import EFFECTS, STABILITY

_PAIRS = "batches", ACROSS_RUNS
"""Kinds of agreement of a metric with itself that the pages show."""


def write_criticality_tables(section: Section, folder: Path) -> list[Table]:
    """Write NAME_effects.csv and NAME_stability.csv of a section where its runs left any; returns tables for the pages."""
    effects, stability = (f"{section.design.summary}_{kind}.csv" for kind in ("effects", "stability"))
    found, likeness = section.table(EFFECTS), likeness_of(section)
    for name, rows in (
        (effects, effect_rows(found, section.groups)),
        (stability, stability_rows(likeness, section.groups)),
    ):
        if rows:
            pd.DataFrame(rows).to_csv(folder / name, index=False)
    return [*effect_tables(found, section.groups, effects), *stability_tables(likeness, section.groups, stability)]


def likeness_of(section: Section) -> pd.DataFrame:
    """Agreement of rankings within runs and between them."""
    found = [table for table in (section.table(STABILITY), section.agreement) if len(table)]
    return pd.concat(found or [pd.DataFrame()], ignore_index=True)


def effects_markdown(folders: Sequence[Path]) -> str:
    """Tables of treated sets against their controls, for each group of runs (see `pasted`)."""
    return pasted(folders, lambda rows, groups: effect_tables(read_criticality(rows)[0][EFFECTS], groups, ""))


def effect_rows(effects: pd.DataFrame, groups: Sequence[Group]) -> list[dict[str, Any]]:
    """One row for every group, set of weights and control."""
    found = []
    for group in groups:
        for setting, cells in by_setting(cells_of(effects, group)).items():
            what = {"group": full_label(group), **group.conditions, **setting._asdict()}
            found += [what | row for control in CONTROLS for row in _family(cells, control)]
    return found


def _family(cells: Sequence[Cell], control: str) -> list[dict[str, Any]]:
    """Rows of one control; p by Holm over its metrics and k."""
    rows = []
    for order in ranked(cells, control):
        for i, (cell, it) in enumerate(order):
            rows.append(_row(cell, control, it) | {"rank": i + 1})
            if i + 1 < len(order):
                rows[-1] |= _named("difference_to_next", difference(cell, order[i + 1][0], control))
    adjusted = holm([row["p"] for row in rows])
    return [row | {"p_holm": p} for row, p in zip(rows, adjusted, strict=True)]


def _row(cell: Cell, control: str, it: Excess) -> dict[str, Any]:
    row: dict[str, Any] = {"metric": cell.metric, "k": cell.k, "control": control, "runs": len(it.runs)}
    row |= {"runs_that_differ": it.estimate.n}
    row |= _named("excess", it.estimate) | {"interval_over": "draws" if it.over_draws else "runs"}
    row |= {"treated_runs_not_finite": it.treated_diverged, "control_draws_not_finite": it.control_diverged}
    row |= {"treated_nats": _mean(cell.damage(TREATED, it.runs)), "control_nats": _mean(cell.damage(control, it.runs))}
    row |= {"p": it.p, "draws": it.draws, "draws_at_least_as_bad": it.at_least, "rank_p_largest": it.rank_p}
    for name in SIZES:
        row |= {f"treated_{name}": cell.size(TREATED, name), f"control_{name}": cell.size(control, name)}
    return row


def _named(name: str, it: Estimate) -> dict[str, Any]:
    return {name: it.mean, f"{name}_low": it.interval.low, f"{name}_high": it.interval.high, f"{name}_not_finite": it.diverged}


def _mean(values: Any) -> float:
    """Mean of what is finite."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else math.nan


def effect_tables(effects: pd.DataFrame, groups: Sequence[Group], file: str) -> list[Table]:
    """For each group of runs and each way of perturbing: excess over two controls, and the metric that finds the most.

    Args:
        effects: see `read_criticality`.
        groups: of runs.
        file: with all numbers.
    """
    found = []
    for i, group in enumerate(groups):
        for setting, cells in by_setting(cells_of(effects, group)).items():
            where = f"{setting_words(setting)}, {words(full_label(group))}"
            for control in (MATCHED, "bottom_k"):
                if any(excess(cell, control) for cell in cells):
                    found.append(_excess_table(cells, control, where, i, file))
            if any(len(order) > 1 for order in ranked(cells, MATCHED)):
                found.append(_best_table(cells, where, i, file))
    return found


def _excess_table(cells: Sequence[Cell], control: str, where: str, i: int, file: str) -> Table:
    found = {(cell.metric, cell.k): it for cell in cells if (it := excess(cell, control))}
    ks, metrics = sorted({k for _, k in found}), dict.fromkeys(cell.metric for cell in cells)
    note = (
        "Nats per token that the weights with the highest scores cost beyond the mean of their control "
        f"({ARMS[control]}), by k: mean and 95 % Student t interval {over_words(list(found.values()))}. What is "
        "not finite is counted and in no mean; no interval: all runs found the same, or there is one draw."
    )
    rows = [[metric_of(metric), *(excess_words(found.get((metric, k))) for k in ks)] for metric in metrics]
    head = ["metric", *(f"{k:,} [nats/token]" for k in ks)]
    note = " ".join([note, *cautions(cells, control)])
    return Table(f"Excess over {ARMS[control]}: {where}", note, head, rows, i, file)


def over_words(found: Sequence[Excess]) -> str:
    """What an interval is over."""
    runs, draws = ({it.over_draws for it in found} == {over} for over in (False, True))
    alone = "over draws, of a single run (how far runs differ is not known)"
    if draws:
        return alone
    ns = sorted({len(it.runs) for it in found if not it.over_draws})
    over = f"over runs (n = {ns[0]}{f' to {ns[-1]}' if len(ns) > 1 else ''})"
    return over if runs else f"{over}; where there is one run, {alone}"


def excess_words(it: Excess | None) -> str:
    """An excess in one cell: mean, interval, and what diverged."""
    if it is None:
        return ""
    lost = [f"{it.treated_diverged} of {len(it.runs)} runs not finite"] if it.treated_diverged else []
    lost += [f"{it.control_diverged} of {it.draws} draws of the control not finite"] if it.control_diverged else []
    return ", ".join(filter(None, [bracketed(it.estimate.mean, it.estimate.interval), *lost]))


def _best_table(cells: Sequence[Cell], where: str, i: int, file: str) -> Table:
    """For each k the metric with the highest excess over the matched control, and the second."""
    rows, firsts = [], []
    for order in ranked(cells, MATCHED):
        if len(order) > 1:
            (best, it), (second, _) = order[:2]
            gap = difference(best, second, MATCHED)
            firsts.append(it)
            lost = f"{gap.diverged} of {gap.n} not finite" if gap.diverged else ""
            ahead = ", ".join(filter(None, [bracketed(gap.mean, gap.interval), lost]))
            both = [text for cell, e in order[:2] for text in (metric_of(cell.metric), excess_words(e))]
            rows.append([f"{best.k:,}", *both, ahead])
    note = (
        f"Metrics by their excess over the control ({ARMS[MATCHED]}) at each k, and the difference of the first two, paired by "
        f"run: mean and 95 % interval {over_words(firsts)}. The first is chosen from the same numbers, so that its lead is "
        "likely too large."
    )
    head = ["k", "first", "its excess [nats/token]", "second", "its excess [nats/token]", "difference [nats/token]"]
    return Table(f"Which metric finds the most: {where}", note, head, rows, i, file)


def stability_rows(likeness: pd.DataFrame, groups: Sequence[Group]) -> list[dict[str, Any]]:
    """One row for every group, kind of agreement, pair of metrics (of subjects, where these are compared) and k."""
    found = []
    for group in groups:
        own = of_runs(likeness, list(group.rows["run_id"]))
        for key, pairs in _by_pair(own):
            what = {"group": full_label(group), **group.conditions, **key, "pairs": len(pairs)}
            found.append(what | _likeness(pairs))
    return found


def _by_pair(own: pd.DataFrame) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Lines that are averaged: those of batches and of runs, whatever their numbers."""
    if not len(own):
        return
    named = own["kind"] == "subjects"
    labelled = own.assign(a=own["a"].where(named, ""), b=own["b"].where(named, ""))
    columns = ["kind", "metric", "other", "a", "b", "k"]
    for key, found in labelled.groupby(columns, sort=False):
        yield dict(zip(columns, key, strict=True)) | {"k": int(found["k"].iloc[0])}, found


def _likeness(pairs: pd.DataFrame) -> dict[str, float]:
    """Mean and range of each measure."""
    return {f"{name}_{kind}": float(getattr(pairs[name], kind)()) for name in LIKENESS for kind in ("mean", "min", "max")}


def stability_tables(likeness: pd.DataFrame, groups: Sequence[Group], file: str) -> list[Table]:
    """For each group of runs: how far rankings by the same metric agree from other text.

    Args:
        likeness: see `likeness_of`.
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
    found = []
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
            found.append(Table(f"Stability of rankings, {words(full_label(group))}", note, head, rows, i, file))
    return found


def _cells(pairs: pd.DataFrame | None, measures: dict[str, str]) -> list[str]:
    """Means of some measures and the number of pairs."""
    if pairs is None:
        return [""] * (len(measures) + 1)
    return [*(number(float(pairs[name].mean())) for name in measures), str(len(pairs))]
