"""Tables of groups: in the column names of the original work, by its conventions, and beside them our own, by ours."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lit_degrade.evidence.claims.sections import Section
from lit_degrade.evidence.claims.verdicts import Verdict
from lit_degrade.evidence.drawing.tables import Row
from lit_degrade.evidence.numbers import statistics as st
from lit_degrade.evidence.numbers.scaling import fit_scaling, size_slope
from lit_degrade.evidence.reading.groups import COUNTS, Group, OutlierFilter

PUBLISHED_NAMES = {"subject": "model_name", "stimulus": "treatment", "optimizer": "optimizer", "precision": "precision"}
"""What the original summaries call the factor of each priority."""
_PERPLEXITIES = {"baseline_perplexity": "perplexity_pre", "post_attack_perplexity": "perplexity_post"}
_RANKS = {"mean_baseline_rank": "effective_rank_pre", "mean_post_attack_rank": "effective_rank_post"}


def summary_rows(section: Section) -> list[Row]:
    """One row per group: published columns first, then counts, then ours for every outcome of the design."""
    return [
        _key(section, group) | published_columns(group) | group.counts() | own_columns(group, section.outcomes())
        for group in section.groups
    ]


def published_columns(group: Group) -> Row:
    """The original summary of a group: absolute rank changes in percent of two decimals, ranks of four.

    Sample standard deviations; perplexity increases in percent. Runs without the measures give no columns.
    """
    ranks = np.abs(np.round(100 * group.values("rank_reduction"), 2))
    if not len(ranks):
        return {"num_runs": 0}
    row: Row = {"num_runs": len(ranks)}
    row |= _named("{}_rank_reduction_pct", ranks)
    row |= {name: float(np.mean(np.round(group.values(column), 4))) for name, column in _RANKS.items()}
    for name, column in _PERPLEXITIES.items():
        row |= _named("{}_" + name, group.values(column))
    return row | _named("{}_perplexity_increase_pct", 100 * group.values("perplexity_increase"))


def _named(pattern: str, values: np.ndarray[Any, Any]) -> Row:
    """Mean, sample standard deviation, smallest and largest value."""
    if not len(values):
        return {}
    deviation = float(values.std(ddof=1)) if len(values) > 1 else math.nan
    spread = {"mean": float(values.mean()), "std_dev": deviation, "min": float(values.min()), "max": float(values.max())}
    return {pattern.format(name): value for name, value in spread.items()}


def own_columns(group: Group, outcomes: Sequence[str]) -> Row:
    """Signed mean of every outcome with deviation, extremes, Student's interval and the BCa bootstrap interval (95 %)."""
    row: Row = {}
    for outcome in outcomes:
        values = group.values(outcome)
        row[f"{outcome}_n"] = len(values)
        if len(values):
            t, bca = st.t_interval(values), st.bca_interval(values, np.random.default_rng(st.SEED))
            bounds = {"low": t.low, "high": t.high, "bca_low": bca.low, "bca_high": bca.high}
            row |= _named(outcome + "_{}", values) | {f"{outcome}_{bound}": value for bound, value in bounds.items()}
    return row


def _key(section: Section, group: Group) -> Row:
    """What a group is: the factor by its published name, then the other conditions."""
    factor = section.design.factor
    rest = {name: value for name, value in group.conditions.items() if name != factor}
    value = group.conditions.get(factor, group.rows[factor].iloc[0] if factor in group.rows else None)
    row: Row = {PUBLISHED_NAMES.get(factor, factor): value}
    if factor == "subject":
        row[PUBLISHED_NAMES[factor]] = str(value).removeprefix("pythia-")
        size = float(group.rows["n_parameters"].min()) if "n_parameters" in group.rows else math.nan
        row |= {"model_size": size, "model_size_millions": size / 1e6}
    return row | rest


def panel_tests(section: Section) -> dict[str, Row]:
    """For each panel of groups: analysis of variance and pairs, by the original conventions and by ours."""
    by_panel: dict[str, Row] = {}
    for name, groups in section.panels().items():
        if len(groups) > 1:
            ours = {outcome: omnibus(groups, outcome, published=False) for outcome in section.outcomes()}
            by_panel[name] = {"published": omnibus(groups, "rank_reduction", published=True), "controlled": ours}
    return by_panel


def scaling_fits(section: Section) -> dict[str, Row]:
    """For each panel over subjects: the fits of the first outcome against size, best first, and the slope per decade."""
    by_panel: dict[str, Row] = {}
    if section.design.factor != "subject" or "n_parameters" not in section.rows or not section.outcomes():
        return by_panel
    outcome = section.outcomes()[0]
    for name, groups in section.panels().items():
        values = [group.values(outcome) for group in groups]
        sizes = [np.full(len(v), group.rows["n_parameters"].min()) for group, v in zip(groups, values, strict=True)]
        x, y = np.concatenate(sizes), np.concatenate(values)
        if len(np.unique(x)) >= 3:
            slope = size_slope(x, y)
            fits = [{"model": fit.name, "aicc": fit.aicc, "parameters": list(fit.parameters)} for fit in fit_scaling(x, y)]
            by_panel[name] = {"outcome": outcome, "slope": slope.slope, "low": slope.interval.low, "high": slope.interval.high}
            by_panel[name] |= {"df": slope.df, "fits": fits}
    return by_panel


def verdict_row(verdict: Verdict) -> Row:
    """A verdict as plain data."""
    claim = verdict.claim
    return {
        "claim": claim.name,
        "says": claim.says,
        "asks": claim.asks(),
        "where": verdict.where,
        "verdict": verdict.answer,
        "reasons": verdict.reasons,
        "cautions": verdict.cautions,
        "test": claim.test,
        "outcome": claim.outcome,
        "margin": claim.margin,
        "estimate": verdict.estimate,
        "low": verdict.interval.low,
        "high": verdict.interval.high,
        "hedges_g": verdict.g,
        "g_low": verdict.g_interval.low,
        "g_high": verdict.g_interval.high,
        "p": verdict.p,
        "p_holm": verdict.p_holm,
        "p_against": verdict.p_against,
        "p_against_holm": verdict.p_against_holm,
        "p_exact": verdict.p_exact,
        "family": claim.family,
        "runs_needed_per_group": verdict.runs_needed,
        "runs_needed_to_see": verdict.effect,
        "arms": [{"name": arm.name, "asked": len(arm.rows), "used": list(arm.used["run_id"])} for arm in verdict.arms],
    }


def write_summary(section: Section, folder: Path, rule: OutlierFilter | None) -> list[Row]:
    """Write NAME.csv and NAME.json of a section; returns the rows."""
    rows = summary_rows(section)
    pd.DataFrame(rows).to_csv(folder / f"{section.design.summary}.csv", index=False)
    panels = panel_tests(section)
    content = {
        "summary": rows,
        "statistical_tests": {**(next(iter(panels.values()))["published"] if len(panels) == 1 else {}), "panels": panels},
        "scaling": scaling_fits(section),
        "claims": [verdict_row(verdict) for verdict in section.verdicts],
        "counts": counted(section.groups),
        "filter": {**asdict(rule), "removed": filtered_runs(section)} if rule else None,
        "metadata": {
            "mean_rank_reduction_pct": "mean of absolute changes, as published; rank_reduction_mean is signed",
            "statistical_tests": "anova and pairwise: signed percentages, equal variances, uncorrected, as published; "
            "controlled: Welch's analysis of variance, Games and Howell's test",
        },
    }
    text = json.dumps(_plain(content), indent=2)
    (folder / f"{section.design.summary}.json").write_text(text + "\n", encoding="utf-8")
    return rows


def counted(groups: Sequence[Group]) -> dict[str, int]:
    """Sums of the groups' counts."""
    each = [group.counts() for group in groups]
    return {name: sum(counts[name] for counts in each) for name in COUNTS}


def filtered_runs(section: Section) -> list[str]:
    """Ids of the runs that a filter took out."""
    return list(section.rows.loc[section.rows["filtered"], "run_id"])


def _plain(value: Any) -> Any:
    """Strict JSON: what is not a finite number is null or a word."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def omnibus(groups: Sequence[Group], outcome: str, published: bool) -> dict[str, Any]:
    """Analysis of variance over groups and every pair of them.

    Args:
        groups: two or more.
        outcome: column.
        published: equal variances assumed, pairs by Student's test without correction, on percentages of two decimals; else
            Welch's analysis and Games and Howell's test.
    """
    values = {group.label: group.values(outcome) for group in groups}
    values = {name: v for name, v in values.items() if len(v) > 1}
    if len(values) < 2:
        return {}
    if published:
        values = {name: np.round(100 * v, 2) for name, v in values.items()}
        pairs = {(a, b): st.student(values[a], values[b]).p for a, b in combinations(values, 2)}
    else:
        pairs = st.pairwise(values, equal_variances=False)
    whole = st.anova(list(values.values()), equal_variances=published)
    return {
        "anova": {"f_statistic": whole.statistic, "p_value": whole.p, "significant": bool(whole.p < 0.05), "error": None},
        "pairwise": {f"{a} vs {b}": {"p_value": p} for (a, b), p in pairs.items()},
    }
