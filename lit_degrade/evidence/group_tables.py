"""Tables of which every group of runs has its own: one file of all, one table on the pages for each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from lit_degrade.evidence.chapters import Table
from lit_degrade.evidence.groups import full_label
from lit_degrade.evidence.outcomes import words
from lit_degrade.evidence.sections import Section

Rows = list[dict[str, Any]]
OfRuns = Callable[[Sequence[str]], tuple[Rows, Table | None]]
"""Ids of the runs of a group -> lines of a file, and what the pages show of them."""
ANYWHERE = (0, "")
"""Group and file of a table that does not know its own."""


def write_group_tables(section: Section, folder: Path, kinds: Mapping[str, OfRuns]) -> list[Table]:
    """Write NAME_KIND.csv for every kind that has a line, each with its group and conditions.

    Args:
        section: of a report.
        folder: where to.
        kinds: what makes the lines of each kind.

    Returns: tables for the pages.
    """
    found = []
    for kind, of_runs in kinds.items():
        file, rows = f"{section.design.summary}_{kind}.csv", []
        for i, group in enumerate(section.groups):
            lines, table = of_runs(list(group.rows["run_id"]))
            rows += [{"group": full_label(group), **group.conditions} | row for row in lines]
            if table:
                found.append(replace(table, title=f"{table.title}, {words(full_label(group))}", group=i, file=file))
        if rows:
            pd.DataFrame(rows).convert_dtypes().to_csv(folder / file, index=False)
    return found
