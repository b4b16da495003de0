"""The report as Markdown."""

import re
from collections.abc import Sequence
from typing import Any

from lit_degrade.evidence.claims.verdicts import Verdict
from lit_degrade.evidence.drawing.tables import Row, Table
from lit_degrade.evidence.pages.chapters import Chapter, Report, estimate_words, relative, totals_of
from lit_degrade.evidence.reading.estimates import number
from lit_degrade.evidence.reading.runs import DEFECTS
from lit_degrade.evidence.topics.outcomes.summaries import counted, filtered_runs

_SIGNS = re.compile(r"[\\`*~|]|\](?=[(\[:])|(?<![A-Za-z0-9])_+|_+(?![A-Za-z0-9])")
"""What Markdown would not show: underscores within words and brackets that link to nothing are shown."""


def markdown(made: Report) -> str:
    """The report as Markdown."""
    lines = ["# Report", "", *_overview(made)]
    for chapter in made.chapters:
        lines += _chapter(chapter, made)
    return "\n".join(lines) + "\n"


def _overview(made: Report) -> list[str]:
    totals = totals_of(made)
    lines = [f"Read: {', '.join(map(str, made.folders))}. " + ", ".join(f"{n} {name}" for name, n in totals.items()) + ".", ""]
    lines += [f"- {note}" for note in made.runs.notes]
    if made.rule:
        lines += [f"- Outlier filter: {made.rule}. What it took out is listed with each experiment."]
    if made.runs.defects:
        lines += ["", "## What was found beside good records", "", "| kind | what | where | detail |", "|---|---|---|---|"]
        lines += [
            f"| {d.kind} | {DEFECTS[d.kind]} | {relative(d.where, made)} | {_escaped(d.detail)} |" for d in made.runs.defects
        ]
    return [*lines, ""]


def _chapter(chapter: Chapter, made: Report) -> list[str]:
    section = chapter.section
    lines = [f"## {section.design.title}", "", section.design.question, ""]
    lines += [", ".join(f"{n} {name}" for name, n in counted(section.groups).items()) + ".", ""]
    lines += [f"- {caution}" for caution in section.cautions] + [""]
    if section.verdicts:
        lines += ["| claim | where | verdict | estimate [95 %] | p for / against | n | why |", "|---|---|---|---|---|---|---|"]
        lines += [_verdict_line(verdict) for verdict in section.verdicts] + [""]
    cautions = dict.fromkeys(caution for verdict in section.verdicts for caution in verdict.cautions)
    lines += [f"- {caution}" for caution in cautions] + [""]
    if filtered_runs(section):
        lines += [f"Taken out by the filter: {', '.join(filtered_runs(section))}.", ""]
    lines += [*_table(chapter.summary), ""]
    for table in chapter.tables:
        path = (chapter.folder / table.file).relative_to(made.output)
        lines += [f"### {table.title}", "", f"{table.note} More: [{table.file}]({path}).", "", *table_lines(table), ""]
    for drawing in chapter.drawings:
        path = (chapter.folder / f"{drawing.name}.png").relative_to(made.output)
        lines += [f"![{drawing.name}]({path})", "", drawing.caption, ""]
    return lines


def _verdict_line(verdict: Verdict) -> str:
    claim = verdict.claim
    n = " / ".join(str(len(arm.used)) for arm in verdict.arms)
    return (
        f"| {claim.says} ({claim.asks()}) | {verdict.where} | **{verdict.answer}** | {estimate_words(verdict)} | "
        f"{number(verdict.p_holm)} / {number(verdict.p_against_holm)} | {n} | {_escaped('; '.join(verdict.why()))} |"
    )


def _escaped(text: str) -> str:
    """A text as a cell that says it to the letter: nothing in it ends a cell, is an element of HTML, or a sign of Markdown."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SIGNS.sub(lambda match: "".join("\\" + sign for sign in match[0]), text)


def table_lines(table: Table) -> list[str]:
    """A table of a chapter as Markdown."""
    cells = [table.head, ["---"] * len(table.head), *table.rows]
    return ["| " + " | ".join(_escaped(cell) for cell in line) + " |" for line in cells]


def _table(rows: Sequence[Row]) -> list[str]:
    """Groups with counts and signed means; the CSV has the rest."""
    shown = [name for name in dict.fromkeys(key for row in rows for key in row) if _is_shown(name)]
    lines = ["| " + " | ".join(shown) + " |", "|" + "---|" * len(shown)]
    return lines + ["| " + " | ".join(_cell(row.get(name)) for name in shown) + " |" for row in rows]


def _is_shown(name: str) -> bool:
    published = ("_pct", "num_runs", "_perplexity", "_rank")
    return not name.endswith((*published, "_min", "_max", "_bca_low", "_bca_high", "_n", "_millions"))


def _cell(value: Any) -> str:
    return number(value) if isinstance(value, float) else "" if value is None else str(value)
