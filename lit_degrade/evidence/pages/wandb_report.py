"""What a W&B Report says of one experiment: its question, its verdicts, its runs, its figures."""

import csv
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lit_degrade.errors import UserError
from lit_degrade.evidence.claims.claims import TESTS
from lit_degrade.evidence.claims.sections import Section
from lit_degrade.evidence.claims.verdicts import Verdict
from lit_degrade.evidence.pages.chapters import estimate_words
from lit_degrade.evidence.reading.estimates import number
from lit_degrade.evidence.reading.words import sentence, words
from lit_degrade.evidence.topics.outcomes.summaries import counted, filtered_runs
from lit_degrade.records import tables
from lit_degrade.records.conditions import config_key

try:
    import wandb_workspaces.reports.v2 as wr
except ImportError as error:
    raise UserError(
        f"W&B Reports need a package that is not here ({error.name}): pip install 'lit_degrade[reports]'."
    ) from error

STEP = "trainer/global_step"
WIDTH, HEIGHT = 12, 8
"""Of a panel: two of them fill the 24 columns of a grid."""
NOT_TRACKED = ("effective_rank_pre", "effective_rank_post")
"""Columns of a report that are no summary keys of the W&B runs, which have them with the layer's number only."""
SCATTERS = {
    "null_energy": "log_perplexity_ratio",
    "rank_reduction": "log_perplexity_ratio",
    "n_parameters": "log_perplexity_ratio",
}


def build_report(section: Section, pictures: Sequence[Path], entity: str, project: str) -> wr.Report:
    """The report of one experiment: its question, its verdicts, its runs, its figures.

    Args:
        section: of one experiment.
        pictures: PNG files of its figures.
        entity: owner of the project; empty when there is no server to ask, run sets then stand for the report's own project.
        project: of the runs and of the report.
    """
    design = section.design
    blocks = [wr.TableOfContents(), *_question(section), *_verdicts(section)]
    if _tracked(section):
        blocks += _panels(section, entity, project)
    if pictures:
        blocks += _figures(section, pictures, entity, project)
    title = (design.title or design.experiment)[:128]  # longer ones are refused
    return wr.Report(project=project, entity=entity, title=title, description=design.question, width="fluid", blocks=blocks)


def _question(section: Section) -> list[Any]:
    counts = ", ".join(f"{n} {state}" for state, n in counted(section.groups).items())
    lines = [f"Runs of `{section.design.experiment}`: {counts}.", *section.cautions]
    question = [wr.H1("Question"), wr.P(section.design.question)] if section.design.question else [wr.H1("Runs")]
    return [*question, wr.MarkdownBlock("\n\n".join(lines))]


def _verdicts(section: Section) -> list[Any]:
    """Each claim in words, with a block for every place where it was tested."""
    blocks: list[Any] = [
        wr.H1("Verdicts"),
        wr.P("From the run records; the panels below are drawn by W&B from its own copies."),
    ]
    for claim in section.design.claims:
        blocks += [wr.H2(claim.says), wr.MarkdownBlock(f"Asked: {claim.asks()}. Test: {TESTS[claim.test]}.")]
        blocks += [wr.MarkdownBlock(verdict_words(verdict)) for verdict in section.verdicts if verdict.claim.name == claim.name]
    return blocks if section.design.claims else []


def verdict_words(verdict: Verdict) -> str:
    """A verdict as Markdown, with what is needed to disagree."""
    lines = [f"**{verdict.answer}**" + (f", {verdict.where}" if verdict.where else ""), ""]
    if not math.isnan(verdict.estimate):
        lines += [f"- estimate [95 %]: {estimate_words(verdict)}"]
    if not math.isnan(verdict.p_holm):
        lines += [f"- corrected p: {number(verdict.p_holm)} for the claim, {number(verdict.p_against_holm)} against it"]
    if verdict.arms:
        lines += ["- runs used: " + ", ".join(f"{arm.name} {len(arm.used)} of {len(arm.rows)}" for arm in verdict.arms)]
    return "\n".join([*lines, *(f"- {why}" for why in [*verdict.why(), *verdict.cautions])])


def _panels(section: Section, entity: str, project: str) -> list[Any]:
    """Grids over the runs of the experiment: grouped for their course and their outcomes, one by one for scatter plots."""
    grids: list[Any] = []
    for title, panels, grouped in (
        ("Course", _lines(section), True),
        ("Outcomes", _bars(section), True),
        ("Runs one by one", _scatters(section), False),
    ):
        if panels:
            grids += [wr.H1(title), wr.PanelGrid(runsets=[_runs(section, entity, project, grouped)], panels=_placed(panels))]
    notes = ["Panels show the runs that the server has. Those that ran offline appear after `wandb sync`."]
    if filtered_runs(section):
        notes += [
            f"Taken out of the verdicts by the outlier filter, but not of the panels: {', '.join(filtered_runs(section))}."
        ]
    return [wr.MarkdownBlock("\n\n".join(notes)), *grids]


def _runs(section: Section, entity: str, project: str, grouped: bool) -> wr.Runset:
    """The runs of the experiment, in groups that differ in their conditions."""
    keys = _grouping(section)
    columns = [f"config:{first}.value{dot}{rest}" for first, dot, rest in (key.partition(".") for key in keys)]
    return wr.Runset(
        entity=entity,
        project=project,
        name="groups" if grouped else "runs",
        filters=f"Config('experiment') == {_literal(section.design.experiment)}",
        groupby=[f"config.{key}" for key in keys] if grouped else [],
        order=[wr.OrderBy(wr.Metric("CreatedTimestamp"), ascending=True)],
        pinned_columns=["run:displayName", *columns, *(f"summary:{outcome}" for outcome in _outcomes(section))],
    )


def _grouping(section: Section) -> list[str]:
    """Config keys of what differs between the groups, the design's factor last."""
    factor = section.design.factor
    names = sorted(section.conditions, key=lambda name: name == factor)
    return list(dict.fromkeys(config_key(name) for name in names))


def _literal(text: str) -> str:
    """Text for a filter, which would read =, < and > as operators even between quotes."""
    return "'" + "".join(c if c.isalnum() or c in "_-." else f"\\U{ord(c):08x}" for c in text) + "'"


def _outcomes(section: Section) -> list[str]:
    return [name for name in section.outcomes() if name not in NOT_TRACKED]


def _lines(section: Section) -> list[Any]:
    """What was measured while the runs went on."""
    logged = _logged(section)
    layers = [name for name in logged if re.fullmatch(r"effective_rank_layer\d+", name)]
    judged = {f"effective_rank_layer{layer:.0f}" for layer in section.rows.get("rank_layer", pd.Series()).dropna()}
    shown = {
        "probe_nats_per_token": "nats per token",
        **{name: "directions" for name in layers if name in (judged or {layers[-1]})},
        "train_nats_per_token": "nats per token",
    }
    return [
        wr.LinePlot(
            title=_title(name),
            x=STEP,
            y=[name],
            title_x="optimizer steps",
            title_y=unit,
            groupby_aggfunc="mean",
            groupby_rangefunc="stddev",
            max_runs_to_show=len(section.rows),
        )
        for name, unit in shown.items()
        if name in logged
    ]


def _bars(section: Section) -> list[Any]:
    """Means of the design's outcomes, with standard deviations.

    Where more than the factor differs, the bars follow the groups of the run set: bars by the factor alone would mix attack and
    placebo, or subjects, into one mean.
    """
    keys = _grouping(section)
    alone = wr.Config(keys[0]) if keys == [config_key(section.design.factor)] else None
    return [
        wr.BarPlot(
            title=_title(outcome),
            metrics=[outcome],
            orientation="h",
            title_x=outcome,
            groupby=alone,
            groupby_aggfunc="mean",
            groupby_rangefunc="stddev",
            max_runs_to_show=len(section.rows),
            max_bars_to_show=max(1, len(section.groups)),
        )
        for outcome in _outcomes(section)
    ]


def _scatters(section: Section) -> list[Any]:
    """Outcomes against what may explain them, one point per run."""
    return [
        wr.ScatterPlot(
            title=f"{_title(y)} against {_title(x).lower()}",
            x=wr.SummaryMetric(x),
            y=wr.SummaryMetric(y),
            log_x=x == "n_parameters",
            regression=False,
        )
        for x, y in SCATTERS.items()
        if x in section.rows and y in section.rows and section.rows[x].nunique() > 1
    ]


def _placed(panels: Sequence[Any]) -> list[Any]:
    """Two panels in a row."""
    for i, panel in enumerate(panels):
        panel.layout = wr.Layout(x=WIDTH * (i % 2), y=HEIGHT * (i // 2), w=WIDTH, h=HEIGHT)
    return list(panels)


def _title(name: str) -> str:
    return sentence(words(re.sub(r"layer(\d+)", r"behind block \1", name)))


def _figures(section: Section, pictures: Sequence[Path], entity: str, project: str) -> list[Any]:
    """The report's own figures. A report can link to a picture but not hold one: a run of its own holds them."""
    run = figures_run(section.design.experiment)
    runs = wr.Runset(entity=entity, project=project, name="figures", filters=f"Metric('ID') == {_literal(run)}")
    panels: list[Any] = [
        wr.MediaBrowser(
            title=path.stem, media_keys=[media_key(path)], num_columns=1, layout=wr.Layout(x=0, y=16 * i, w=2 * WIDTH, h=16)
        )
        for i, path in enumerate(pictures)
    ]
    return [wr.H1("Figures"), wr.PanelGrid(runsets=[runs], panels=panels, hide_run_sets=True)]


def figures_run(experiment: str) -> str:
    """Id of the W&B run that holds the figures of an experiment's report."""
    return "report-" + re.sub(r"[^\w.-]", "-", experiment)


def media_key(path: Path) -> str:
    """Name of a figure in the run that holds it."""
    return f"figures/{path.stem}"


def _tracked(section: Section) -> bool:
    """Whether these are records of ours, which have W&B twins."""
    return any(_metrics(folder).is_file() for folder in section.rows["folder"])


def _logged(section: Section) -> list[str]:
    """Names of everything that some run logged."""
    names: dict[str, None] = {}
    for path in map(_metrics, section.rows["folder"]):
        if path.is_file():
            with path.open(encoding="utf-8", newline="") as file:
                names |= dict.fromkeys(next(csv.reader(file), []))
    return list(names)


def _metrics(folder: str) -> Path:
    return Path(folder) / tables.COURSE
