"""What a report says about each experiment: its groups, its verdicts, its omnibus tests."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from lit_degrade.evidence import statistics as st
from lit_degrade.evidence.claims import Design
from lit_degrade.evidence.criticality import read_criticality
from lit_degrade.evidence.doses import read_doses
from lit_degrade.evidence.exchange_rates import read_rates
from lit_degrade.evidence.findings import read_findings
from lit_degrade.evidence.groups import Group, OutlierFilter, label, make_groups, mark_outliers, varying
from lit_degrade.evidence.rankings import agreement_of_runs
from lit_degrade.evidence.record_tables import Tables
from lit_degrade.evidence.runs import MEASURED, Runs
from lit_degrade.evidence.verdicts import Verdict, judge
from lit_degrade.records.tables import Schema

FIRST = "comparison"
"""What a reader sees first: one subject in all its variants."""
UNCLAIMED = {
    FIRST: (
        "Variants side by side",
        "What do pruning, noise and attacks make of one subject, and what does each variant answer?",
    ),
    "evaluate": ("Subjects as they are", "How good is a subject?"),
    "benchmarks": ("Benchmarks", "How many items does a subject get right?"),
    "finetune": ("Fine-tuning", "What does clean fine-tuning do to a subject?"),
    "robustness": ("Robustness to noise", "How much noise in its weights does a subject stand?"),
    "degradation": ("Degraded text", "What does a subject write as its weights are degraded?"),
    "exchange_rate": ("Exchange rates of damage", "Which doses of different damage cost the same?"),
    "bit_faults": ("Random faults", "Which bits must random faults not hit?"),
    "bit_sensitivity": ("Single bits", "What does each bit of a weight cost?"),
    "layer_ablation": ("Layer ablation", "What does losing one layer or one matrix cost?"),
    "super_weights": ("Super weights", "Are there single weights that a subject cannot do without?"),
}
"""Experiments without claims -> title and question."""


@dataclass(frozen=True)
class Section:
    """One experiment of a report."""

    design: Design
    rows: pd.DataFrame
    """a row per run asked for, with `filtered`"""
    conditions: list[str]
    """those that differ between its groups"""
    groups: list[Group]
    verdicts: list[Verdict]
    cautions: list[str] = field(default_factory=list)
    """what a reader must know about these records"""
    doses: pd.DataFrame = field(default_factory=pd.DataFrame)
    """a row per dose that the runs gave (see `read_doses`)"""
    rates: pd.DataFrame = field(default_factory=pd.DataFrame)
    """a row per dose that costs as much as was asked for (see `read_rates`)"""
    tables: Tables = field(default_factory=dict)
    """what runs left in their other tables (see `read_criticality` and `read_findings`)"""
    agreement: pd.DataFrame = field(default_factory=pd.DataFrame)
    """how far the rankings of runs agree, as lines of stability.csv"""

    def table(self, schema: Schema) -> pd.DataFrame:
        """What runs left in one of their other tables; empty where none did."""
        return self.tables.get(schema, pd.DataFrame())

    def outcomes(self) -> list[str]:
        """Outcomes of the design that some run has."""
        return [name for name in self.design.outcomes if name in self.rows and self.rows[name].notna().any()]

    def panels(self) -> dict[str, list[Group]]:
        """Groups by what they share beside the design's factor, each with a name."""
        panels: dict[str, list[Group]] = {}
        for group in self.groups:
            rest = {name: value for name, value in group.conditions.items() if name != self.design.factor}
            panels.setdefault(label(rest) if rest else "", []).append(group)
        return panels


def make_sections(runs: Runs, designs: Sequence[Design], rule: OutlierFilter | None = None) -> list[Section]:
    """One section for every experiment that has runs; those that no design is about are shown without claims."""
    found = []
    read = list(dict.fromkeys(runs.table["experiment"]))
    known = [design.experiment for design in designs]
    for experiment in sorted(read, key=lambda name: (name != FIRST, known.index(name) if name in known else len(known))):
        mine = [design for design in designs if design.experiment == experiment]
        design = _merged(mine) if mine else _without_claims(experiment)
        rows = runs.table[runs.table["experiment"] == experiment].dropna(axis=1, how="all").assign(filtered=False)
        design = _about_measured(design, rows)
        names = varying(rows, runs.condition_names)
        if rule:
            outliers = mark_outliers(make_groups(rows, names, design.factor), rule)
            rows["filtered"] = rows["run_id"].isin(outliers)
        groups = make_groups(rows, names, design.factor)
        (doses, broken), (rates, also_broken) = read_doses(rows), read_rates(rows)
        criticality, faults = read_criticality(rows)
        agreement, unlike = agreement_of_runs(groups, criticality)
        findings, flaws = read_findings(rows)
        cautions = [*_cautions(rows), *broken, *also_broken, *faults, *unlike, *flaws]
        verdicts = judge(design.claims, rows, runs.condition_names)
        found.append(Section(design, rows, names, groups, verdicts, cautions, doses, rates, criticality | findings, agreement))
    return found


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


def _merged(designs: Sequence[Design]) -> Design:
    """The first design of an experiment, with the claims of all."""
    outcomes = dict.fromkeys(name for design in designs for name in design.outcomes)
    return replace(designs[0], claims=[claim for design in designs for claim in design.claims], outcomes=list(outcomes))


def _about_measured(design: Design, rows: pd.DataFrame) -> Design:
    """The design with outcomes that are what was measured, wherever a setting has the name."""

    def seen(outcome: str) -> str:
        return MEASURED + outcome if MEASURED + outcome in rows else outcome

    claims = [replace(claim, outcome=seen(claim.outcome)) for claim in design.claims]
    return replace(design, claims=claims, outcomes=[seen(name) for name in design.outcomes])


def _without_claims(experiment: str) -> Design:
    title, question = UNCLAIMED.get(experiment, (experiment, ""))
    outcomes = ["log_perplexity_ratio", "rank_reduction", "recovery", "nats_per_token", "effective_rank"]
    return Design(experiment, title, question, f"{experiment}_summary", experiment, "subject", outcomes, [], "")


def _cautions(rows: pd.DataFrame) -> list[str]:
    """What does not touch one claim but all."""
    sets = rows.loc[rows["state"] == "done", "versions"].nunique() if "versions" in rows else 1
    return [f"These runs were made with {sets} different sets of package versions."] if sets > 1 else []
