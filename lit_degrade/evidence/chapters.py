"""What the pages of a report are made from, and how its numbers are written."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from lit_degrade.evidence.figures import Drawing
from lit_degrade.evidence.groups import OutlierFilter
from lit_degrade.evidence.runs import Runs
from lit_degrade.evidence.sections import Section
from lit_degrade.evidence.summaries import Row, counted
from lit_degrade.evidence.verdicts import Answer, Verdict

ANSWERS = get_args(Answer)


@dataclass(frozen=True)
class Chapter:
    """A section with what was written for it."""

    section: Section
    folder: Path
    drawings: list[Drawing]
    summary: list[Row]


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
    if math.isnan(verdict.estimate):
        return ""
    if math.isnan(verdict.interval.low):
        return number(verdict.estimate)
    return f"{number(verdict.estimate)} [{number(verdict.interval.low)}, {number(verdict.interval.high)}]"


def totals_of(made: Report) -> dict[str, int]:
    """Counts over all sections."""
    return counted([group for chapter in made.chapters for group in chapter.section.groups])


def relative(where: str, made: Report) -> str:
    """A path below the folders that were read, without what lies above them."""
    for folder in made.folders:
        if Path(where).resolve().is_relative_to(folder.resolve()):
            return str(Path(folder.name) / Path(where).resolve().relative_to(folder.resolve()))
    return where
