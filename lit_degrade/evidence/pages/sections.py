"""From runs to the sections of a report."""

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from lit_degrade.evidence.claims.claims import Design
from lit_degrade.evidence.claims.sections import Section
from lit_degrade.evidence.claims.verdicts import judge
from lit_degrade.evidence.drawing.topic import Topic
from lit_degrade.evidence.pages.topics import TOPICS
from lit_degrade.evidence.reading.groups import OutlierFilter, make_groups, mark_outliers, varying
from lit_degrade.evidence.reading.record_tables import Tables
from lit_degrade.evidence.reading.runs import MEASURED, Runs

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


def make_sections(
    runs: Runs, designs: Sequence[Design], rule: OutlierFilter | None = None, topics: Sequence[Topic] = TOPICS
) -> list[Section]:
    """One section for every experiment that has runs; those that no design is about are shown without claims."""
    sections = []
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
        tables, cautions = Tables(), _cautions(rows)
        for topic in topics:
            own, faults = topic.read_from(rows, groups)
            tables |= own
            cautions += faults
        verdicts = judge(design.claims, rows, runs.condition_names)
        sections.append(Section(design, rows, names, groups, verdicts, cautions, tables))
    return sections


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
