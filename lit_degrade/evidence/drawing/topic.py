"""What a report shows of one subject matter: the part that the suite's own topics and a user's have in common."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from lit_degrade.evidence.claims.sections import Section
from lit_degrade.evidence.drawing.panels import Plate
from lit_degrade.evidence.drawing.tables import Table
from lit_degrade.evidence.reading.groups import Group
from lit_degrade.evidence.reading.record_tables import Tables, read_all
from lit_degrade.records.tables import Schema

Read = Callable[[pd.DataFrame, Sequence[Group]], tuple[Tables, list[str]]]
"""A row per run, and groups of them -> lines that the runs left, and what is wrong with their files, in sentences."""


@dataclass(frozen=True)
class Topic:
    """One subject matter of a report: which tables of the records it reads, and what it makes of them."""

    name: str
    read: Read | tuple[Schema, ...] = ()
    """tables that are read as they are, or what reads them"""
    tables: Callable[[Section, Path], list[Table]] | None = None
    """writes the files of a section into a folder, and returns what the pages show of them"""
    plates: Callable[[Section], list[Plate]] | None = None
    """draws the figures of a section; none without runs to show"""

    def read_from(self, rows: pd.DataFrame, groups: Sequence[Group]) -> tuple[Tables, list[str]]:
        """Lines that the runs left, and what is wrong with their files."""
        return self.read(rows, groups) if callable(self.read) else read_all(rows, self.read)
