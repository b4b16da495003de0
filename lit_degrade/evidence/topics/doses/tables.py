"""Tables of doses: what each level did."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from lit_degrade.evidence.claims.sections import Section
from lit_degrade.evidence.drawing.tables import Table, save_rows
from lit_degrade.evidence.reading.estimates import estimate, observations
from lit_degrade.evidence.reading.groups import Group, full_label
from lit_degrade.evidence.reading.record_tables import of_runs
from lit_degrade.evidence.reading.variants import DoseSeries, by_level, level_words, variants_of
from lit_degrade.evidence.reading.words import method_of, outcome_of, words
from lit_degrade.evidence.topics.doses.rows import dose_rows, text_measures
from lit_degrade.records.tables import DAMAGE, DOSES

MAIN = ("accuracy", "parse_failure_rate", "distinct_2", "seq_rep_4", "loop_share", "nats_intact")
"""Text measures that the pages show; the file has all."""


def write_dose_tables(section: Section, folder: Path) -> list[Table]:
    """Write NAME_doses.csv of a section where its runs left any; returns tables for the pages."""
    doses = section.table(DOSES)
    return dose_tables(doses, section.groups, save_rows(section, folder, "doses", dose_rows(doses, section.groups)))


def dose_tables(doses: pd.DataFrame, groups: Sequence[Group], file: str) -> list[Table]:
    """For each group of runs: what every level of every variant did.

    Args:
        doses: see `read_doses`.
        groups: of runs.
        file: with all measures.
    """
    note = (
        "Mean over repetitions with 95 % Student t interval; n: repetitions, of which identical ones count once. Doses "
        "without a finite loss are counted and are in no mean."
    )
    tables = []
    for i, group in enumerate(groups):
        own = of_runs(doses, list(group.rows["run_id"]))
        if len(own):
            columns = [name for names in text_measures(own).values() for name in names if name.partition(".")[2] in MAIN]
            head = ["variant", "method", "target", "level", "n", "log perplexity ratio [nats/token]"]
            head += [f"{words(name.split('.')[0])}: {outcome_of(name).axis}" for name in columns]
            rows = [_level(v, level, at, columns) for v in variants_of(own) for level, at in by_level(own, v)]
            tables.append(Table(f"Doses, {words(full_label(group))}", note, head, rows, i, file))
    return tables


def _level(variant: DoseSeries, level: float, doses: pd.DataFrame, columns: Sequence[str]) -> list[str]:
    damage = estimate(observations(doses, DAMAGE))
    method = method_of(variant.method)
    what = [words(variant.name), f"{method.label} [{method.unit}]", words(variant.target), level_words(level), str(damage.n)]
    return [*what, damage.words(), *(_mean_of(doses, name) for name in columns)]


def _mean_of(doses: pd.DataFrame, name: str) -> str:
    """Mean of a text measure in the unit of its column."""
    return estimate(observations(doses, name)).words(outcome_of(name).scale, interval=False)
