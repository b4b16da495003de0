"""What the pages of a report are made from, and how its numbers are written."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from lit_degrade.evidence.figures import Drawing
from lit_degrade.evidence.groups import OutlierFilter
from lit_degrade.evidence.runs import Runs
from lit_degrade.evidence.sections import Section
from lit_degrade.evidence.statistics import Interval
from lit_degrade.evidence.summaries import Row, counted
from lit_degrade.evidence.verdicts import Answer, Verdict

ANSWERS = get_args(Answer)


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


def number(value: float | None) -> str:
    """Three significant digits; nothing for what is not there."""
    return "" if value is None or math.isnan(value) else f"{value:.3g}"


def estimate_words(verdict: Verdict) -> str:
    """Estimate with its interval."""
    return bracketed(verdict.estimate, verdict.interval)


def bracketed(estimate: float, interval: Interval, write: Callable[[float], str] = number) -> str:
    """A number with its interval, where there is one."""
    if math.isnan(estimate):
        return ""
    if math.isnan(interval.low):
        return write(estimate)
    return f"{write(estimate)} [{write(interval.low)}, {write(interval.high)}]"


def totals_of(made: Report) -> dict[str, int]:
    """Counts over all sections."""
    return counted([group for chapter in made.chapters for group in chapter.section.groups])


def relative(where: str, made: Report) -> str:
    """A path below the folders that were read, without what lies above them."""
    for folder in made.folders:
        if Path(where).resolve().is_relative_to(folder.resolve()):
            return str(Path(folder.name) / Path(where).resolve().relative_to(folder.resolve()))
    return where
