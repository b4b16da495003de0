"""The report as one HTML page that opens from disk: no network, no script, every number linked to the runs behind it."""

import base64
import os
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lit_degrade import __version__
from lit_degrade.evidence.claims.claims import TESTS, Claim
from lit_degrade.evidence.claims.verdicts import Verdict
from lit_degrade.evidence.pages.chapters import ANSWERS, Chapter, Report, estimate_words, relative, totals_of
from lit_degrade.evidence.reading.estimates import number
from lit_degrade.evidence.reading.groups import Group
from lit_degrade.evidence.reading.runs import DEFECTS
from lit_degrade.evidence.topics.outcomes.summaries import counted, filtered_runs

TEMPLATE = "page.html"


def render(made: Report) -> str:
    """The whole page."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    return environment.get_template(TEMPLATE).render(
        version=__version__,
        folders=[str(folder) for folder in made.folders],
        totals=totals_of(made),
        answers=ANSWERS,
        notes=made.runs.notes,
        rule=made.rule,
        defects=[(defect.kind, relative(defect.where, made), defect.detail) for defect in made.runs.defects],
        meanings=DEFECTS,
        tests=TESTS,
        chapters=[_chapter(chapter, made) for chapter in made.chapters],
    )


def _chapter(chapter: Chapter, made: Report) -> dict[str, Any]:
    section = chapter.section
    groups = {
        run_id: f"{section.design.experiment}-{i}" for i, group in enumerate(section.groups) for run_id in group.rows["run_id"]
    }
    return {
        "name": section.design.experiment,
        "title": section.design.title,
        "question": section.design.question,
        "counts": counted(section.groups),
        "cautions": section.cautions,
        "filtered": filtered_runs(section),
        "tally": {answer: sum(verdict.answer == answer for verdict in section.verdicts) for answer in ANSWERS},
        "claims": [_claim(claim, [v for v in section.verdicts if v.claim is claim], groups) for claim in section.design.claims],
        "figures": [
            (drawing.name, drawing.caption, base64.b64encode(drawing.svg.encode()).decode()) for drawing in chapter.drawings
        ],
        "tables": [(table, f"{section.design.experiment}-{table.group}") for table in chapter.tables],
        "outcomes": section.outcomes(),
        "groups": [
            _group(f"{section.design.experiment}-{i}", group, row, section.outcomes(), made)
            for i, (group, row) in enumerate(zip(section.groups, chapter.summary, strict=True))
        ],
        "summary": f"{section.design.experiment}/{section.design.summary}",
    }


def _claim(claim: Claim, verdicts: list[Verdict], groups: dict[str, str]) -> dict[str, Any]:
    return {
        "claim": claim,
        "asks": claim.asks(),
        "verdicts": [_verdict(verdict, groups) for verdict in verdicts],
        "cautions": list(dict.fromkeys(caution for verdict in verdicts for caution in verdict.cautions)),
    }


def _verdict(verdict: Verdict, groups: dict[str, str]) -> dict[str, Any]:
    arms = [
        {
            "name": arm.name,
            "n": len(arm.used),
            "asked": len(arm.rows),
            "mean": float(arm.values.mean()) if len(arm.used) else None,
            "groups": list(dict.fromkeys(groups[run_id] for run_id in arm.used["run_id"])),
            "runs": list(arm.used["run_id"]),
        }
        for arm in verdict.arms
    ]
    return {
        "it": verdict,
        "where": verdict.where,
        "estimate": estimate_words(verdict),
        "arms": arms,
        "why": verdict.why(),
    }


def _group(anchor: str, group: Group, row: dict[str, Any], outcomes: list[str], made: Report) -> dict[str, Any]:
    return {
        "anchor": anchor,
        "label": group.label,
        "counts": group.counts(),
        "row": row,
        "runs": [_run(run, outcomes, made) for _, run in _by_seed(group.rows).iterrows()],
    }


def _by_seed(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.sort_values("seed", key=lambda seeds: pd.to_numeric(seeds, errors="coerce"), kind="stable")


def _run(run: "pd.Series[Any]", outcomes: list[str], made: Report) -> dict[str, Any]:
    """One run of a group: where its record lies, how it ended, what it gave."""
    online = run.get("wandb_run")
    return {
        "id": run["run_id"],
        "link": Path(os.path.relpath(run["folder"], made.output)).as_posix(),
        "wandb": online if isinstance(online, str) else None,
        "seed": run.get("seed"),
        "state": "filtered" if run["filtered"] else run["state"],
        "detail": run["detail"],
        "values": [run.get(outcome) for outcome in outcomes],
    }
