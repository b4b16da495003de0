"""Tables about groups of runs: a file that has all numbers, and what the pages show of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from lit_degrade.evidence.claims.sections import Section
from lit_degrade.evidence.reading.groups import Group, columns_of, full_label
from lit_degrade.evidence.reading.record_tables import Tables, of_runs
from lit_degrade.evidence.reading.words import words
from lit_degrade.records.tables import Schema

Row = dict[str, Any]
Rows = list[Row]
ANYWHERE = (0, "")
"""Group and file of a table that does not know its own."""


@dataclass(frozen=True)
class Table:
    """A table of a chapter, about one group of runs."""

    title: str
    note: str
    """what is in a cell"""
    head: list[str]
    rows: list[list[str]]
    group: int
    """number of the group in its section"""
    file: str
    """name of the file that has these numbers and more"""


@dataclass(frozen=True)
class Kind:
    """A file about groups of runs, and the tables of the pages that it has more than."""

    source: Schema
    """table of the records without which there is nothing to tell"""
    rows: Callable[[Tables], Rows]
    """lines of a group of runs, from what these runs left"""
    table: Callable[[Rows, Tables], Table | None] | None = None
    """what the pages show of these lines, without the number and the label of the group"""


def save_rows(section: Section, folder: Path, kind: str, rows: Rows, end: str = "\n") -> str:
    """Write NAME_KIND.csv where there is any row; returns its name.

    Args:
        section: of a report, whose summary has the NAME.
        folder: where to.
        kind: what the rows are about.
        rows: of the file.
        end: of a line; cells with letters of it are quoted.
    """
    file = f"{section.design.summary}_{kind}.csv"
    if rows:
        pd.DataFrame(rows).convert_dtypes().to_csv(folder / file, index=False, lineterminator=end)
    return file


def group_tables(section: Section, folder: Path, kinds: Mapping[str, Kind]) -> list[Table]:
    """Write NAME_KIND.csv for every kind that has a line, with group and conditions; returns tables for the pages."""
    groups = [list(group.rows["run_id"]) for group in section.groups]
    left = [{schema: of_runs(table, runs) for schema, table in section.tables.items()} for runs in groups]
    tables = []
    for name, kind in kinds.items():
        shown, rows = [], []
        for i, (group, own) in enumerate(zip(section.groups, left, strict=True)):
            lines = kind.rows(own) if len(own.get(kind.source, ())) else []
            rows += [columns_of(group) | line for line in lines]
            table = kind.table(lines, own) if kind.table and lines else None
            shown += [replace(table, title=f"{table.title}, {words(full_label(group))}", group=i)] if table else []
        file = save_rows(section, folder, name, rows)
        tables += [replace(table, file=file) for table in shown]
    return tables


def with_lines(section: Section, schema: Schema) -> list[tuple[int, Group, pd.DataFrame]]:
    """Groups that left a table, with their numbers in the section and their lines."""
    table = section.table(schema)
    numbered = [(i, group, of_runs(table, list(group.rows["run_id"]))) for i, group in enumerate(section.groups)]
    return [(i, group, own) for i, group, own in numbered if len(own)]
