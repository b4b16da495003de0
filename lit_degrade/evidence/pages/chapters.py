"""What the pages of a report are made from, and how its numbers are written."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from lit_degrade.evidence.claims.sections import Section
from lit_degrade.evidence.claims.verdicts import Answer, Verdict
from lit_degrade.evidence.drawing.tables import Row, Table
from lit_degrade.evidence.pages.figures import Drawing
from lit_degrade.evidence.reading.estimates import bracketed
from lit_degrade.evidence.reading.groups import OutlierFilter
from lit_degrade.evidence.reading.runs import Runs
from lit_degrade.evidence.topics.outcomes.summaries import counted

ANSWERS = get_args(Answer)


@dataclass(frozen=True)
class Chapter:
    """A section with what was written for it."""

    section: Section
    folder: Path
    drawings: list[Drawing]
    summary: list[Row]
    tables: list[Table] = field(default_factory=list)
    """those that are about more than the groups"""


@dataclass(frozen=True)
class Report:
    """Everything that the pages are made from."""

    runs: Runs
    chapters: list[Chapter]
    folders: list[Path]
    output: Path
    rule: OutlierFilter | None


def estimate_words(verdict: Verdict) -> str:
    """Estimate with its interval."""
    return bracketed(verdict.estimate, verdict.interval)


def totals_of(made: Report) -> dict[str, int]:
    """Counts over all sections."""
    return counted([group for chapter in made.chapters for group in chapter.section.groups])


def relative(where: str, made: Report) -> str:
    """A path below the folders that were read, without what lies above them."""
    for folder in made.folders:
        if Path(where).resolve().is_relative_to(folder.resolve()):
            return str(Path(folder.name) / Path(where).resolve().relative_to(folder.resolve()))
    return where
