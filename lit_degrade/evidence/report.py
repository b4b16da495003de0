"""The `report` verb: run records in, tables, figures, verdicts and pages out."""

import argparse
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, get_args

from rich.console import Console
from rich.table import Table

from lit_degrade.errors import UserError, unknown
from lit_degrade.evidence.claims import Design, load_designs, shipped_designs
from lit_degrade.evidence.figures import Drawing, draw
from lit_degrade.evidence.groups import FILTER_METRICS, FilterMethod, OutlierFilter
from lit_degrade.evidence.published import read_published
from lit_degrade.evidence.runs import DEFECTS, REPORT, Runs, read_runs
from lit_degrade.evidence.sections import Section, make_sections
from lit_degrade.evidence.summaries import Row, counted, filtered_runs, write_summary
from lit_degrade.evidence.verdicts import Answer, Verdict
from lit_degrade.records.mode import wandb_mode

LAYOUTS = ("records", "published")
ANSWERS = get_args(Answer)
HTML = "report.html"


@dataclass(frozen=True)
class Chapter:
    """A section with what was written for it."""

    section: Section
    folder: Path
    drawings: list[Drawing]
    summary: list[Row] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
    """Everything that the pages are made from."""

    runs: Runs
    chapters: list[Chapter]
    folders: list[Path]
    output: Path
    rule: OutlierFilter | None


def report(args: Sequence[str]) -> int:
    """Make a report; returns the exit code.

    Raises: UserError for folders, claims or options that cannot work; nothing is written then.
    """
    options = _parser().parse_args(args)
    folders = [Path(folder).expanduser() for folder in options.folders]
    if options.wandb:  # says in one line what it lacks, before anything is written
        from lit_degrade.evidence import dashboards

        online = wandb_mode() == "online"
    designs = _designs(options.claims)
    rule = _rule(options)
    started = time.monotonic()
    runs = read_published(folders) if options.layout == "published" else read_runs(folders)
    _check_claims(designs, runs)
    output = Path(options.output).expanduser() if options.output else folders[0] / "report"
    made = _write(runs, designs, folders, output, rule)
    if options.html:
        from lit_degrade.evidence.page import render

        (output / HTML).write_text(render(made), encoding="utf-8")
    _print(made)
    print(f"{output / (HTML if options.html else REPORT)}  ({time.monotonic() - started:.1f} s)")
    if options.wandb:
        pictures = {c.section.design.experiment: [c.folder / f"{d.name}.png" for d in c.drawings] for c in made.chapters}
        for place in dashboards.save_dashboards([c.section for c in made.chapters], pictures, output, online):
            print(place)
    return 0


def _designs(files: Sequence[str]) -> list[Design]:
    return shipped_designs() + [design for file in files for design in load_designs(Path(file).expanduser())]


def _check_claims(designs: Sequence[Design], runs: Runs) -> None:
    """Raise: UserError for claims of the user about what no run has."""
    read = list(dict.fromkeys(runs.table["experiment"]))
    for design in designs:
        if design.shipped:
            continue
        if design.experiment not in read:
            raise UserError(
                f"{design.source}: claims about {design.experiment}, but no run of it was read. Read: {', '.join(read)}."
            )
        rows = runs.table[runs.table["experiment"] == design.experiment]
        rows = rows.dropna(axis=1, how="all")
        measured = [name for name in rows.select_dtypes("number") if name not in runs.condition_names]
        for claim in design.claims:
            for name in claim.mentioned - {*rows, *claim.despite}:
                raise unknown(f"condition of claim {claim.name}", name, runs.condition_names)
            if claim.outcome not in measured:
                raise unknown(f"outcome of claim {claim.name}", claim.outcome, map(str, measured))


def _rule(options: argparse.Namespace) -> OutlierFilter | None:
    if options.filter_iqr_multiplier <= 0 or options.filter_zscore_threshold <= 0:
        raise UserError(
            "--filter-iqr-multiplier and --filter-zscore-threshold must be above 0, not "
            f"{options.filter_iqr_multiplier:g} and {options.filter_zscore_threshold:g}."
        )
    if options.filter_method is None:
        return None
    return OutlierFilter(
        options.filter_method, options.filter_metric, options.filter_iqr_multiplier, options.filter_zscore_threshold
    )


def _write(runs: Runs, designs: Sequence[Design], folders: list[Path], output: Path, rule: OutlierFilter | None) -> Report:
    """Tables, figures and the Markdown page."""
    sections = make_sections(runs, designs, rule)
    chapters = []
    try:
        for section in sections:
            folder = output / section.design.experiment
            folder.mkdir(parents=True, exist_ok=True)
            rows = write_summary(section, folder, rule)
            chapters.append(Chapter(section, folder, draw(section, folder), rows))
        made = Report(runs, chapters, folders, output, rule)
        (output / REPORT).write_text(markdown(made), encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"Report '{output}' cannot be written: {error.strerror or error}. Choose another with --output."
        ) from error
    return made


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
    return text.replace("|", "\\|")


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


def _print(made: Report) -> None:
    table = Table("experiment", *ANSWERS, "runs", "not counted", box=None, pad_edge=False)
    for chapter in made.chapters:
        answers = Counter(verdict.answer for verdict in chapter.section.verdicts)
        counts = counted(chapter.section.groups)
        lost = counts["asked"] - counts["done"] + counts["filtered"]
        name = chapter.section.design.experiment
        table.add_row(name, *(str(answers[answer]) for answer in ANSWERS), str(counts["asked"]), str(lost))
    Console().print(table)
    for kind, n in Counter(defect.kind for defect in made.runs.defects).items():
        print(f"{n} {kind}: {DEFECTS[kind]}; named in the report")


class _Parser(argparse.ArgumentParser):
    """Mistakes are one line."""

    def error(self, message: str) -> NoReturn:
        """Raise: UserError."""
        raise UserError(f"report: {message}. See: python -m lit_degrade report --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m lit_degrade report",
        description="Turn run records into statistics, verdicts, figures and pages.",
        allow_abbrev=False,
    )
    parser.add_argument("folders", metavar="DIR", nargs="+", help="results folders, experiments below them, or single records")
    parser.add_argument("--output", metavar="DIR", help="where the report goes (default: report/ below the first DIR)")
    parser.add_argument("--html", action="store_true", help="also write one self-contained report.html")
    parser.add_argument("--wandb", action="store_true", help="also make a W&B Report per experiment; offline, its spec")
    parser.add_argument("--layout", choices=LAYOUTS, default="records", help="of DIR: ours, or the published raw_data/ folders")
    parser.add_argument("--claims", metavar="FILE", action="append", default=[], help="claims of your own, repeatable")
    parser.add_argument(
        "--filter-method", choices=get_args(FilterMethod), help="take outliers out of every group (default: none)"
    )
    parser.add_argument("--filter-metric", choices=FILTER_METRICS, default="rank_reduction", help="what outliers are seen in")
    parser.add_argument(
        "--filter-iqr-multiplier", type=float, default=1.5, metavar="X", help="reach beyond the quartiles (1.5)"
    )
    parser.add_argument("--filter-zscore-threshold", type=float, default=3.0, metavar="Z", help="largest |z| that is kept (3)")
    return parser
