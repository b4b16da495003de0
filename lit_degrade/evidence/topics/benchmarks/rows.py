"""What runs say of benchmarks: which measures there are, what they are called, and their results."""

import math
from typing import NamedTuple

import pandas as pd

from lit_degrade.evidence.reading.estimates import Estimate, estimate, observations
from lit_degrade.evidence.reading.words import benchmark_metric_of, words

CHANCE = {"hellaswag": 0.25}
"""Benchmark -> share of correct answers of who chooses by chance."""
_NAMES = {"hellaswag": "HellaSwag", "wikitext": "WikiText", "lambada": "LAMBADA", "text": "held-out text"}
_SOURCES = {"own": "own", "lm_eval": "lm-eval"}


class Measure(NamedTuple):
    """What a benchmark says, by whose code."""

    benchmark: str
    metric: str
    source: str

    @property
    def title(self) -> str:
        """Name of the benchmark, and whose code it was."""
        return f"{benchmark_name(self.benchmark)} ({_SOURCES.get(self.source, words(self.source))})"

    @property
    def chance(self) -> float | None:
        """Value of who chooses by chance, as it is drawn."""
        share = CHANCE.get(self.benchmark) if self.metric.startswith("acc") else None
        return None if share is None else share * benchmark_metric_of(self.metric).scale


def benchmark_name(name: str) -> str:
    """How a benchmark is written."""
    return _NAMES.get(name.lower(), words(name))


def measures_of(lines: pd.DataFrame) -> list[Measure]:
    """What was measured, in the order in which it was written."""
    names = ["benchmark", "metric", "source"]
    return [Measure(*row) for row in lines[names].drop_duplicates().itertuples(index=False)]


def of_measure(lines: pd.DataFrame, measure: Measure) -> pd.DataFrame:
    """Lines of one measure."""
    same = (lines["benchmark"] == measure.benchmark) & (lines["metric"] == measure.metric)
    return lines[same & (lines["source"] == measure.source)]


def result_of(lines: pd.DataFrame) -> tuple[Estimate, float]:
    """Mean over runs and repetitions, identical ones once, and mean standard error over items; of one variant and measure."""
    errors = lines["standard_error"].replace(math.inf, math.nan)
    return estimate(observations(lines.assign(random=False), "value")), float(errors.mean())
