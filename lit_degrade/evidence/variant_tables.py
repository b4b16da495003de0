"""Tables of pruning, of benchmarks, and of variants side by side with what they write after the same prompt."""

import re
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lit_degrade.evidence.benchmarks import Measure, benchmark_name, measures_of, of_measure, result_of
from lit_degrade.evidence.chapters import Table, bracketed, number
from lit_degrade.evidence.doses import Estimate, Variant, estimate, observations, of_variant, variants_of
from lit_degrade.evidence.groups import Group, full_label
from lit_degrade.evidence.map_tables import estimate_columns
from lit_degrade.evidence.outcomes import benchmark_metric_of, words
from lit_degrade.evidence.pruning import ACHIEVED, ERROR, error_lines, level_of, pruned, subject_of, way_of
from lit_degrade.evidence.record_tables import of_runs
from lit_degrade.evidence.sections import Section
from lit_degrade.evidence.sites import averaged, components_of
from lit_degrade.evidence.statistics import Interval
from lit_degrade.evidence.variants import ordered_variants
from lit_degrade.records.tables import BENCHMARKS, DAMAGE, VARIANTS, Schema

ANSWER = 200
"""Characters of an answer that the pages show."""
PRUNED = (ACHIEVED, DAMAGE, "perplexity_post", ERROR, "relative_norm")
"""What the table of pruning says of runs."""
MEASURES = ("perplexity", DAMAGE, "bits_per_byte", "token_accuracy", "sparsity", "relative_norm")
"""What the table of variants says of them."""
Rows = list[dict[str, Any]]
_NEWLINE = re.compile("\r\n|[\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029]")
_RETURN = "\N{RETURN SYMBOL}"
_LINE = "\r\n"
"""Ends a line of a file; letters of it are quoted in answers, which a lone "\\n" would not do for "\\r"."""
_SEEDS = "mean over seeds with 95 % Student t interval, identical runs counted once"


def write_variant_tables(section: Section, folder: Path) -> list[Table]:
    """Write NAME_pruning.csv, NAME_pruning_components.csv, NAME_benchmarks.csv, NAME_variants.csv and NAME_answers.csv.

    Args:
        section: of a report; a file that would have no line is not written.
        folder: where to.

    Returns: tables for the pages.
    """
    found = []
    for kind, (make, show) in _KINDS.items():
        file, rows = f"{section.design.summary}_{kind}.csv", make(section)
        if rows:
            pd.DataFrame(rows).convert_dtypes().to_csv(folder / file, index=False, lineterminator=_LINE)
            found += show(section, file)
    return found


def _what(group: Group) -> dict[str, Any]:
    return {"group": full_label(group), **group.conditions}


def pruning_rows(section: Section) -> Rows:
    """For every group of runs that pruned: how, how much was asked for, and what it did."""
    return [_pruning_row(group) for group in section.groups if len(pruned(group))]


def _pruning_row(group: Group) -> dict[str, Any]:
    """What pruning did: a mean over runs of each measure; a run that is not done has no finite one."""
    rows = pruned(group)
    row: dict[str, Any] = {**_what(group), "way": way_of(group), "asked": level_of(group), "runs": len(rows)}
    for name in PRUNED:
        values = observations(rows, name)
        row |= estimate_columns(name, estimate(values))
    return row


def _pruning_tables(section: Section, file: str) -> list[Table]:
    """For each subject: a line for each way of pruning and sparsity."""
    note = (
        f"A line for each way of pruning and sparsity: {_SEEDS} (n). Lost: nats per token on held-out text. Reconstruction "
        "error: of the outputs of a matrix on the calibration text, as the runs summarise it."
    )
    units = ["achieved [share]", "lost [nats/token]", "perplexity", "reconstruction error", "norm of the change [relative]"]
    head = ["method", "asked [share]", "n", *units]
    found = []
    for subject, groups in _by_subject(section, lambda group: len(pruned(group)) > 0).items():
        lines = [_pruning_row(group) for _, group in groups]
        rows = [[it["way"], number(it["asked"]), str(it[f"{DAMAGE}_n"]), *(_cell(it, name) for name in PRUNED)] for it in lines]
        found.append(Table(f"Pruning, {words(subject)}", note, head, rows, groups[0][0], file))
    return found


def _by_subject(section: Section, has: Callable[[Group], bool]) -> dict[str, list[tuple[int, Group]]]:
    """Subject -> its groups that have something, with their numbers in the section."""
    found: dict[str, list[tuple[int, Group]]] = {}
    for i, group in enumerate(section.groups):
        if has(group):
            found.setdefault(subject_of(group), []).append((i, group))
    return found


def _cell(row: Mapping[str, Any], name: str) -> str:
    """A mean with its interval, and how many values are in no mean."""
    mean, lost = bracketed(row[name], Interval(row[f"{name}_low"], row[f"{name}_high"])), row[f"{name}_not_finite"]
    return ", ".join(filter(None, [mean, f"{lost} not finite" if lost else ""]))


def component_rows(section: Section) -> Rows:
    """For every group and component: reconstruction error, over matrices by their weights, then over runs."""
    lines = error_lines(section)
    return [row for group in section.groups if len(lines) for row in _component_rows(group, lines)]


def _component_rows(group: Group, lines: pd.DataFrame) -> Rows:
    own = of_runs(lines, list(group.rows["run_id"]))
    if not len(own):
        return []
    by_run = averaged(own, ERROR, ["run_id", "component"]).rename(ERROR).reset_index().assign(random=False)
    what = {**_what(group), "way": way_of(group), "asked": level_of(group)}
    return [
        {
            **what,
            "component": name,
            "matrices": own.loc[own["component"] == name, ["parameter", "component"]].drop_duplicates().shape[0],
        }
        | estimate_columns(ERROR, estimate(observations(by_run[by_run["component"] == name], ERROR)))
        for name in components_of(own)
    ]


def _component_tables(section: Section, file: str) -> list[Table]:
    """For each subject: ways of pruning and sparsities in rows, components in columns."""
    note = (
        "Norm of the change of a matrix's outputs on the calibration text over the norm of its outputs: mean over the matrices "
        "of a component by their weights, then over runs. Empty: not measured."
    )
    lines, found = error_lines(section), []
    runs = set(lines["run_id"]) if len(lines) else set()
    for subject, groups in _by_subject(section, lambda group: bool(runs & set(group.rows["run_id"]))).items():
        every = [(way_of(group), level_of(group), _component_rows(group, lines)) for _, group in groups]
        components = components_of(pd.DataFrame([row for _, _, own in every for row in own]))
        rows = []
        for way, level, own in every:
            errors = {row["component"]: _without_interval(row, ERROR) for row in own}
            rows.append([way, number(level), *(errors.get(name, "") for name in components)])
        head = ["method", "asked [share]", *map(words, components)]
        found.append(Table(f"Reconstruction errors, {words(subject)}", note, head, rows, groups[0][0], file))
    return found


def _without_interval(row: Mapping[str, Any], name: str) -> str:
    lost = row[f"{name}_not_finite"]
    return ", ".join(filter(None, [number(row[name]), f"{lost} not finite" if lost else ""]))


def benchmark_rows(section: Section) -> Rows:
    """For every group, variant, level and measure: mean result, mean standard error over the items, and how many items."""
    return [
        {**_what(group), **variant._asdict(), "level": level, **measure._asdict(), **_result(lines)}
        for _, group, own in _with_lines(section, BENCHMARKS)
        for variant, level, at in _by_dose(own)
        for measure in measures_of(at)
        if len(lines := of_measure(at, measure))
    ]


def _with_lines(section: Section, schema: Schema) -> list[tuple[int, Group, pd.DataFrame]]:
    """Groups that left a table, with their numbers in the section and their lines."""
    table = section.table(schema)
    found = [(i, group, of_runs(table, list(group.rows["run_id"]))) for i, group in enumerate(section.groups)]
    return [(i, group, own) for i, group, own in found if len(own)]


def _by_dose(lines: pd.DataFrame) -> list[tuple[Variant, float, pd.DataFrame]]:
    """Variants in their order, at each of their levels; nan is a level of its own."""
    return [
        (variant, float(level), at)  # type: ignore[arg-type]
        for variant in variants_of(lines)
        for level, at in of_variant(lines, variant).groupby("level", dropna=False)
    ]


def _result(lines: pd.DataFrame) -> dict[str, Any]:
    it, error = result_of(lines)
    return {**estimate_columns("value", it), "standard_error": error, "items": lines["items"].mean()}


def _benchmark_tables(section: Section, file: str) -> list[Table]:
    """For each group: variants and levels in rows, measures in columns."""
    note = (
        "In parentheses: standard error over the items, mean over runs and repetitions. Where there are several of these (n), "
        "the result is their mean with 95 % Student t interval, identical ones counted once."
    )
    found = []
    for i, group, own in _with_lines(section, BENCHMARKS):
        measures, rows = measures_of(own), []
        for variant, level, at in _by_dose(own):
            results = {measure: result_of(of_measure(at, measure)) for measure in measures_of(at)}
            n = str(max(it.n for it, _ in results.values()))
            cells = [_benchmark_cell(measure, results[measure]) if measure in results else "" for measure in measures]
            rows.append([words(variant.name), number(level), n, *cells])
        head = ["variant", "level", "n", *map(_measure_words, measures)]
        found.append(Table(f"Benchmarks, {words(full_label(group))}", note, head, rows, i, file))
    return found


def _measure_words(measure: Measure) -> str:
    metric = benchmark_metric_of(measure.metric)
    return f"{benchmark_name(measure.benchmark)}, {metric.label} [{metric.unit}] ({words(measure.source)})"


def _benchmark_cell(measure: Measure, result: tuple[Estimate, float]) -> str:
    (it, error), scale = result, benchmark_metric_of(measure.metric).scale
    mean = bracketed(scale * it.mean, Interval(scale * it.interval.low, scale * it.interval.high))
    mean += f" ({number(scale * error)})" if mean and not np.isnan(error) else ""
    return ", ".join(filter(None, [mean, f"{it.diverged} not finite" if it.diverged else ""]))


def variant_rows(section: Section) -> Rows:
    """For every group and variant: what it is and what it does, means over runs."""
    return [{**_what(group), **row} for _, group, own in _with_lines(section, VARIANTS) for row in _variants(own)]


def _variants(lines: pd.DataFrame) -> Rows:
    found = []
    for name, kind in ordered_variants(lines).items():
        own = lines[lines["variant"] == name].assign(random=False)
        row: dict[str, Any] = {"variant": name, "kind": kind, "runs": len(own)}
        for measure in MEASURES:
            row |= estimate_columns(measure, estimate(observations(own, measure)))
        found.append(row)
    return found


def _variant_tables(section: Section, file: str) -> list[Table]:
    """For each group: what its variants are and do."""
    note = f"Variants of one subject on the same held-out text: {_SEEDS} (n). Lost: nats per token. Empty: does not apply."
    head = ["variant", "kind", "n", "perplexity", "lost [nats/token]", "bits per byte", "token accuracy [share]"]
    head += ["sparsity [share]", "norm of the change [relative]"]
    return [
        Table(
            f"Variants side by side, {words(full_label(group))}",
            note,
            head,
            [
                [it["variant"], words(it["kind"]), str(it[f"{DAMAGE}_n"]), *(_cell(it, m) for m in MEASURES)]
                for it in _variants(own)
            ],
            i,
            file,
        )
        for i, group, own in _with_lines(section, VARIANTS)
    ]


def answer_rows(section: Section) -> Rows:
    """Every answer of every run, to the letter."""
    return [
        {**_what(group), "run_id": line["run_id"], "variant": line["variant"], "kind": line["kind"], "answer": line["answer"]}
        for _, group, own in _with_lines(section, VARIANTS)
        for line in own.to_dict("records")
        if line["answer"] != ""
    ]


def _answer_tables(section: Section, file: str) -> list[Table]:
    """For each group: what the variants of its first run write."""
    found = []
    for i, group, own in _with_lines(section, VARIANTS):
        first = own[own["run_id"] == own["run_id"].iloc[0]]
        answers = dict(zip(first["variant"], first["answer"], strict=True))
        if not any(answers.values()):
            continue
        which = f" in the first of {own['run_id'].nunique()} runs" if own["run_id"].nunique() > 1 else ""
        note = (
            f"What the variants of one subject write after the same prompt{which}. {_RETURN}: a new line; cut at {ANSWER} "
            "characters, the file has all."
        )
        asked = list(group.rows["prompt"].dropna()) if "prompt" in group.rows else []
        rows = [["(the prompt)", shown(str(prompt))] for prompt in asked[:1]]
        rows += [[name, shown(answers[name])] for name in ordered_variants(first)]
        found.append(Table(f"Answers to one prompt, {words(full_label(group))}", note, ["variant", "answer"], rows, i, file))
    return found


def shown(answer: str) -> str:
    """An answer in a line of a page: new lines as a sign, other control characters replaced, cut where it is long."""
    line = _NEWLINE.sub(f" {_RETURN} ", answer).replace("\t", " ")
    line = "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(letter) == "Cc" else letter for letter in line).strip()
    return line if len(line) <= ANSWER else line[: ANSWER - 1].rstrip() + "…"


_KINDS: dict[str, tuple[Callable[[Section], Rows], Callable[[Section, str], list[Table]]]] = {
    "pruning": (pruning_rows, _pruning_tables),
    "pruning_components": (component_rows, _component_tables),
    "benchmarks": (benchmark_rows, _benchmark_tables),
    "variants": (variant_rows, _variant_tables),
    "answers": (answer_rows, _answer_tables),
}
"""Kind -> rows of its CSV, and its tables of the pages."""
