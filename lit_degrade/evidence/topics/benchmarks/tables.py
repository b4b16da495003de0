"""Tables of benchmarks: variants and levels in rows, measures in columns."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lit_degrade.evidence.claims.sections import Section
from lit_degrade.evidence.drawing.tables import Rows, Table, save_rows, with_lines
from lit_degrade.evidence.numbers.statistics import Interval
from lit_degrade.evidence.reading.estimates import Estimate, bracketed, number
from lit_degrade.evidence.reading.groups import columns_of, full_label
from lit_degrade.evidence.reading.variants import DoseSeries, of_variant, variants_of
from lit_degrade.evidence.reading.words import benchmark_metric_of, words
from lit_degrade.evidence.topics.benchmarks.rows import Measure, benchmark_name, measures_of, of_measure, result_of
from lit_degrade.records.tables import BENCHMARKS


def write_benchmark_tables(section: Section, folder: Path) -> list[Table]:
    """Write NAME_benchmarks.csv where it has a line; returns tables for the pages."""
    return _benchmark_tables(section, save_rows(section, folder, "benchmarks", benchmark_rows(section)))


def benchmark_rows(section: Section) -> Rows:
    """For every group, variant, level and measure: mean result, mean standard error over the items, and how many items."""
    return [
        {**columns_of(group), **variant._asdict(), "level": level, **measure._asdict(), **_result(lines)}
        for _, group, own in with_lines(section, BENCHMARKS)
        for variant, level, at in _by_dose(own)
        for measure in measures_of(at)
        if len(lines := of_measure(at, measure))
    ]


def _by_dose(lines: pd.DataFrame) -> list[tuple[DoseSeries, float, pd.DataFrame]]:
    """Variants in their order, at each of their levels; nan is a level of its own."""
    return [
        (variant, float(level), at)  # type: ignore[arg-type]
        for variant in variants_of(lines)
        for level, at in of_variant(lines, variant).groupby("level", dropna=False)
    ]


def _result(lines: pd.DataFrame) -> dict[str, Any]:
    it, error = result_of(lines)
    return {**it.columns("value"), "standard_error": error, "items": lines["items"].mean()}


def _benchmark_tables(section: Section, file: str) -> list[Table]:
    """For each group: variants and levels in rows, measures in columns."""
    note = (
        "In parentheses: standard error over the items, mean over runs and repetitions. Where there are several of these (n), "
        "the result is their mean with 95 % Student t interval, identical ones counted once."
    )
    tables = []
    for i, group, own in with_lines(section, BENCHMARKS):
        measures, rows = measures_of(own), []
        for variant, level, at in _by_dose(own):
            results = {measure: result_of(of_measure(at, measure)) for measure in measures_of(at)}
            n = str(max(it.n for it, _ in results.values()))
            cells = [_benchmark_cell(measure, results[measure]) if measure in results else "" for measure in measures]
            rows.append([words(variant.name), number(level), n, *cells])
        head = ["variant", "level", "n", *map(_measure_words, measures)]
        tables.append(Table(f"Benchmarks, {words(full_label(group))}", note, head, rows, i, file))
    return tables


def _measure_words(measure: Measure) -> str:
    metric = benchmark_metric_of(measure.metric)
    return f"{benchmark_name(measure.benchmark)}, {metric.label} [{metric.unit}] ({words(measure.source)})"


def _benchmark_cell(measure: Measure, result: tuple[Estimate, float]) -> str:
    (it, error), scale = result, benchmark_metric_of(measure.metric).scale
    mean = bracketed(scale * it.mean, Interval(scale * it.interval.low, scale * it.interval.high))
    mean += f" ({number(scale * error)})" if mean and not np.isnan(error) else ""
    return ", ".join(filter(None, [mean, f"{it.diverged} not finite" if it.diverged else ""]))
