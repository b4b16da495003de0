"""Tables of pruning: what it costs, and how much it changes the outputs of matrices."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from lit_degrade.evidence.claims.sections import Section
from lit_degrade.evidence.drawing.tables import Rows, Table, save_rows
from lit_degrade.evidence.reading.estimates import Estimate, estimate, number, observations
from lit_degrade.evidence.reading.groups import Group, columns_of
from lit_degrade.evidence.reading.record_tables import of_runs
from lit_degrade.evidence.reading.sites import averaged, components_of
from lit_degrade.evidence.reading.words import words
from lit_degrade.evidence.topics.pruning.rows import ACHIEVED, ERROR, error_lines, level_of, pruned, subject_of, way_of
from lit_degrade.records.tables import DAMAGE

PRUNED = (ACHIEVED, DAMAGE, "perplexity_post", ERROR, "relative_norm")
"""What the table of pruning says of runs."""


def write_pruning_tables(section: Section, folder: Path) -> list[Table]:
    """Write NAME_pruning.csv and NAME_pruning_components.csv where they have a line; returns tables for the pages."""
    runs = save_rows(section, folder, "pruning", pruning_rows(section))
    components = save_rows(section, folder, "pruning_components", component_rows(section))
    return [*_pruning_tables(section, runs), *_component_tables(section, components)]


def pruning_rows(section: Section) -> Rows:
    """For every group of runs that pruned: how, how much was asked for, and what it did."""
    return [_pruning_row(group) for group in section.groups if len(pruned(group))]


def _pruning_row(group: Group) -> dict[str, Any]:
    """What pruning did: a mean over runs of each measure; a run that is not done has no finite one."""
    rows = pruned(group)
    row: dict[str, Any] = {**columns_of(group), "way": way_of(group), "asked": level_of(group), "runs": len(rows)}
    for name in PRUNED:
        values = observations(rows, name)
        row |= estimate(values).columns(name)
    return row


def _pruning_tables(section: Section, file: str) -> list[Table]:
    """For each subject: a line for each way of pruning and sparsity."""
    note = (
        "A line for each way of pruning and sparsity: mean over seeds with 95 % Student t interval, identical runs counted "
        "once (n). Lost: nats per token on held-out text. Reconstruction error: of the outputs of a matrix on the calibration "
        "text, as the runs summarise it."
    )
    units = ["achieved [share]", "lost [nats/token]", "perplexity", "reconstruction error", "norm of the change [relative]"]
    head = ["method", "asked [share]", "n", *units]
    tables = []
    for subject, groups in _by_subject(section, lambda group: len(pruned(group)) > 0).items():
        lines = [_pruning_row(group) for _, group in groups]
        rows = [
            [it["way"], number(it["asked"]), str(it[f"{DAMAGE}_n"]), *(Estimate.of(it, name).words() for name in PRUNED)]
            for it in lines
        ]
        tables.append(Table(f"Pruning, {words(subject)}", note, head, rows, groups[0][0], file))
    return tables


def _by_subject(section: Section, has: Callable[[Group], bool]) -> dict[str, list[tuple[int, Group]]]:
    """Subject -> its groups that have something, with their numbers in the section."""
    by_subject: dict[str, list[tuple[int, Group]]] = {}
    for i, group in enumerate(section.groups):
        if has(group):
            by_subject.setdefault(subject_of(group), []).append((i, group))
    return by_subject


def component_rows(section: Section) -> Rows:
    """For every group and component: reconstruction error, over matrices by their weights, then over runs."""
    lines = error_lines(section)
    return [row for group in section.groups if len(lines) for row in _component_rows(group, lines)]


def _component_rows(group: Group, lines: pd.DataFrame) -> Rows:
    own = of_runs(lines, list(group.rows["run_id"]))
    if not len(own):
        return []
    by_run = averaged(own, ERROR, ["run_id", "component"]).rename(ERROR).reset_index().assign(random=False)
    what = {**columns_of(group), "way": way_of(group), "asked": level_of(group)}
    return [
        {
            **what,
            "component": name,
            "matrices": own.loc[own["component"] == name, ["parameter", "component"]].drop_duplicates().shape[0],
        }
        | estimate(observations(by_run[by_run["component"] == name], ERROR)).columns(ERROR)
        for name in components_of(own)
    ]


def _component_tables(section: Section, file: str) -> list[Table]:
    """For each subject: ways of pruning and sparsities in rows, components in columns."""
    note = (
        "Norm of the change of a matrix's outputs on the calibration text over the norm of its outputs: mean over the matrices "
        "of a component by their weights, then over runs. Empty: not measured."
    )
    lines, tables = error_lines(section), []
    runs = set(lines["run_id"]) if len(lines) else set()
    for subject, groups in _by_subject(section, lambda group: bool(runs & set(group.rows["run_id"]))).items():
        every = [(way_of(group), level_of(group), _component_rows(group, lines)) for _, group in groups]
        components = components_of(pd.DataFrame([row for _, _, own in every for row in own]))
        rows = []
        for way, level, own in every:
            errors = {row["component"]: Estimate.of(row, ERROR).words(interval=False) for row in own}
            rows.append([way, number(level), *(errors.get(name, "") for name in components)])
        head = ["method", "asked [share]", *map(words, components)]
        tables.append(Table(f"Reconstruction errors, {words(subject)}", note, head, rows, groups[0][0], file))
    return tables
