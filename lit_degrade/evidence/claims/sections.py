"""What is known about each experiment: its groups, its verdicts, what its runs left in tables."""

from dataclasses import dataclass, field

import pandas as pd

from lit_degrade.evidence.claims.claims import Design
from lit_degrade.evidence.claims.verdicts import Verdict
from lit_degrade.evidence.reading.groups import Group, label
from lit_degrade.evidence.reading.record_tables import Tables
from lit_degrade.records.tables import Schema


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
    tables: Tables = field(default_factory=dict)
    """what runs left in the tables of their records"""

    def table(self, schema: Schema) -> pd.DataFrame:
        """What runs left in a table of their records; empty where none did."""
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
