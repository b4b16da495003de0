"""The `report` verb: run records in, tables, figures, verdicts and pages out."""

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

from rich.console import Console
from rich.table import Table

from lit_degrade.checks import above
from lit_degrade.errors import UserError, unknown
from lit_degrade.evidence.claims.claims import Design, load_designs, shipped_designs
from lit_degrade.evidence.claims.sections import Section
from lit_degrade.evidence.drawing.topic import Topic
from lit_degrade.evidence.pages.chapters import ANSWERS, Chapter, Report
from lit_degrade.evidence.pages.figures import draw
from lit_degrade.evidence.pages.markdown import markdown
from lit_degrade.evidence.pages.sections import make_sections
from lit_degrade.evidence.pages.topics import all_topics
from lit_degrade.evidence.reading.groups import FILTER_METRICS, FilterMethod, OutlierFilter
from lit_degrade.evidence.reading.published import read_published
from lit_degrade.evidence.reading.runs import DEFECTS, MEASURED, REPORT, Runs, read_runs
from lit_degrade.evidence.topics.outcomes.summaries import counted, write_summary
from lit_degrade.inputs import VerbParser
from lit_degrade.records.mode import wandb_mode

LAYOUTS = ("records", "published")
HTML = "report.html"
UNFINISHED = "This report is being written, or was cut off while it was: the same command makes it again.\n"
"""What report.md says until all of it is there; a folder with that file is not taken for records."""


def report(args: Sequence[str]) -> int:
    """Make a report; returns the exit code.

    Raises: UserError for folders, claims or options that cannot work; nothing is written then.
    """
    options = _parser().parse_args(args)
    folders = [Path(folder).expanduser() for folder in options.folders]
    if options.wandb:  # says in one line what it lacks, before anything is written
        from lit_degrade.evidence.pages import dashboards

        online = wandb_mode() == "online"
    asked = [design for file in options.claims for design in load_designs(Path(file).expanduser())]
    designs, topics = [*shipped_designs(), *asked], all_topics()
    rule = _rule(options)
    started = time.monotonic()
    runs = read_published(folders) if options.layout == "published" else read_runs(folders)
    _check_claims(asked, runs)
    output = Path(options.output).expanduser() if options.output else folders[0] / "report"
    made = _write(make_sections(runs, designs, rule, topics), topics, Report(runs, [], folders, output, rule), options.html)
    _print(made)
    print(f"{output / (HTML if options.html else REPORT)}  ({time.monotonic() - started:.1f} s)")
    if options.wandb:
        pictures = {c.section.design.experiment: [c.folder / f"{d.name}.png" for d in c.drawings] for c in made.chapters}
        for place in dashboards.save_dashboards([c.section for c in made.chapters], pictures, output, online):
            print(place)
    return 0


def _check_claims(designs: Sequence[Design], runs: Runs) -> None:
    """Raise: UserError for claims of the user about what no run has."""
    read = list(dict.fromkeys(runs.table["experiment"]))
    for design in designs:
        if design.experiment not in read:
            raise UserError(
                f"{design.source}: claims about {design.experiment}, but no run of it was read. Read: {', '.join(read)}."
            )
        rows = runs.table[runs.table["experiment"] == design.experiment]
        rows = rows.dropna(axis=1, how="all")
        numbers = [name for name in map(str, rows.select_dtypes("number")) if name not in runs.condition_names]
        measured = [name.removeprefix(MEASURED) for name in numbers]
        for claim in design.claims:
            for name in claim.mentioned - {*rows, *claim.despite}:
                raise unknown(f"condition of claim {claim.name}", name, runs.condition_names)
            if claim.outcome not in measured:
                raise unknown(f"outcome of claim {claim.name}", claim.outcome, measured)


def _rule(options: argparse.Namespace) -> OutlierFilter | None:
    above("--filter-iqr-multiplier", options.filter_iqr_multiplier, 0)
    above("--filter-zscore-threshold", options.filter_zscore_threshold, 0)
    if options.filter_method is None:
        return None
    return OutlierFilter(
        options.filter_method, options.filter_metric, options.filter_iqr_multiplier, options.filter_zscore_threshold
    )


def _write(sections: Sequence[Section], topics: Sequence[Topic], made: Report, html: bool) -> Report:
    """Tables, figures and pages; returns the report with its chapters."""
    try:
        made.output.mkdir(parents=True, exist_ok=True)
        (made.output / REPORT).write_text(UNFINISHED, encoding="utf-8")
        made = replace(made, chapters=[_chapter(section, topics, made) for section in sections])
        if html:
            from lit_degrade.evidence.pages.page import render

            (made.output / HTML).write_text(render(made), encoding="utf-8")
        (made.output / REPORT).write_text(markdown(made), encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"Report '{made.output}' cannot be written: {error.strerror or error}. Choose another with --output."
        ) from error
    return made


def _chapter(section: Section, topics: Sequence[Topic], made: Report) -> Chapter:
    """Files of one experiment."""
    folder = made.output / section.design.experiment
    folder.mkdir(parents=True, exist_ok=True)
    summary = write_summary(section, folder, made.rule)
    tables = [table for topic in topics if topic.tables for table in topic.tables(section, folder)]
    return Chapter(section, folder, draw(section, folder, topics), summary, tables)


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


def _parser() -> argparse.ArgumentParser:
    parser = VerbParser("report", "Turn run records into statistics, verdicts, figures and pages.")
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
