"""Tables of effects: what the highest weights did beyond their controls."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lit_degrade.criticality.catalog import ARMS, CONTROLS, TREATED
from lit_degrade.evidence.claims.sections import Section
from lit_degrade.evidence.drawing.tables import Table, save_rows
from lit_degrade.evidence.numbers.statistics import holm
from lit_degrade.evidence.reading.estimates import bracketed
from lit_degrade.evidence.reading.groups import Group, columns_of, full_label
from lit_degrade.evidence.reading.words import metric_of, words
from lit_degrade.evidence.topics.effects.rows import (
    MATCHED,
    SIZES,
    Excess,
    TopK,
    by_setting,
    cautions,
    cells_of,
    difference,
    excess,
    ranked,
    setting_words,
)
from lit_degrade.records.tables import EFFECTS


def write_effect_tables(section: Section, folder: Path) -> list[Table]:
    """Write NAME_effects.csv of a section where its runs left any; returns tables for the pages."""
    effects = section.table(EFFECTS)
    return effect_tables(effects, section.groups, save_rows(section, folder, "effects", effect_rows(effects, section.groups)))


def effect_rows(effects: pd.DataFrame, groups: Sequence[Group]) -> list[dict[str, Any]]:
    """One row for every group, set of weights and control."""
    rows = []
    for group in groups:
        for setting, cells in by_setting(cells_of(effects, group)).items():
            what = {**columns_of(group), **setting._asdict()}
            rows += [what | row for control in CONTROLS for row in _family(cells, control)]
    return rows


def _family(cells: Sequence[TopK], control: str) -> list[dict[str, Any]]:
    """Rows of one control; p by Holm over its metrics and k."""
    rows = []
    for order in ranked(cells, control):
        for i, (cell, it) in enumerate(order):
            rows.append(_row(cell, control, it) | {"rank": i + 1})
            if i + 1 < len(order):
                rows[-1] |= difference(cell, order[i + 1][0], control).columns("difference_to_next")
    adjusted = holm([row["p"] for row in rows])
    return [row | {"p_holm": p} for row, p in zip(rows, adjusted, strict=True)]


def _row(cell: TopK, control: str, it: Excess) -> dict[str, Any]:
    row: dict[str, Any] = {"metric": cell.metric, "k": cell.k, "control": control, "runs": len(it.runs)}
    row |= it.estimate.columns("excess") | {"interval_over": "draws" if it.over_draws else "runs"}
    row |= {"treated_runs_not_finite": it.treated_diverged, "control_draws_not_finite": it.control_diverged}
    row |= {"treated_nats": _mean(cell.damage(TREATED, it.runs)), "control_nats": _mean(cell.damage(control, it.runs))}
    row |= {"p": it.p, "draws": it.draws, "draws_at_least_as_bad": it.at_least, "rank_p_largest": it.rank_p}
    for name in SIZES:
        row |= {f"treated_{name}": cell.size(TREATED, name), f"control_{name}": cell.size(control, name)}
    return row


def _mean(values: Any) -> float:
    """Mean of what is finite."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else math.nan


def effect_tables(effects: pd.DataFrame, groups: Sequence[Group], file: str) -> list[Table]:
    """For each group of runs and each way of perturbing: excess over two controls, and the metric that finds the most.

    Args:
        effects: lines of effects.csv.
        groups: of runs.
        file: with all numbers.
    """
    tables = []
    for i, group in enumerate(groups):
        for setting, cells in by_setting(cells_of(effects, group)).items():
            where = f"{setting_words(setting)}, {words(full_label(group))}"
            for control in (MATCHED, "bottom_k"):
                if any(excess(cell, control) for cell in cells):
                    tables.append(_excess_table(cells, control, where, i, file))
            if any(len(order) > 1 for order in ranked(cells, MATCHED)):
                tables.append(_best_table(cells, where, i, file))
    return tables


def _excess_table(cells: Sequence[TopK], control: str, where: str, i: int, file: str) -> Table:
    excesses = {(cell.metric, cell.k): it for cell in cells if (it := excess(cell, control))}
    ks, metrics = sorted({k for _, k in excesses}), dict.fromkeys(cell.metric for cell in cells)
    note = (
        "Nats per token that the weights with the highest scores cost beyond the mean of their control "
        f"({ARMS[control].label}), by k: mean and 95 % Student t interval {over_words(list(excesses.values()))}. What is "
        "not finite is counted and in no mean; no interval: all runs found the same, or there is one draw."
    )
    rows = [[metric_of(metric), *(excess_words(excesses.get((metric, k))) for k in ks)] for metric in metrics]
    head = ["metric", *(f"{k:,} [nats/token]" for k in ks)]
    note = " ".join([note, *cautions(cells, control)])
    return Table(f"Excess over {ARMS[control].label}: {where}", note, head, rows, i, file)


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


def _best_table(cells: Sequence[TopK], where: str, i: int, file: str) -> Table:
    """For each k the metric with the highest excess over the matched control, and the second."""
    rows, firsts = [], []
    for order in ranked(cells, MATCHED):
        if len(order) > 1:
            (best, it), (second, _) = order[:2]
            gap = difference(best, second, MATCHED)
            firsts.append(it)
            both = [text for cell, e in order[:2] for text in (metric_of(cell.metric), excess_words(e))]
            rows.append([f"{best.k:,}", *both, gap.words()])
    note = (
        f"Metrics by their excess over the control ({ARMS[MATCHED].label}) at each k, and the difference of the first two, "
        f"paired by run: mean and 95 % interval {over_words(firsts)}. The first is chosen from the same numbers, so that its "
        "lead is likely too large."
    )
    head = ["k", "first", "its excess [nats/token]", "second", "its excess [nats/token]", "difference [nats/token]"]
    return Table(f"Which metric finds the most: {where}", note, head, rows, i, file)
