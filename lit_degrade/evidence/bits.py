"""What runs say of flipped bits: names of bits, values that have a place on an axis, shares of ones."""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from lit_degrade.evidence.outcomes import words
from lit_degrade.evidence.record_tables import drawable
from lit_degrade.evidence.statistics import Values

CLASSES = ("sign", "exponent", "mantissa", "code")
"""What a stored bit is part of."""


def say(name: str, known: Mapping[str, str]) -> str:
    """How a name is written; what is not listed is shown as it is, in words."""
    return known.get(name, words(name))


def finite_or_inf(values: pd.Series) -> Values:
    """Numbers as they are drawn: inf where one has no place on an axis."""
    numbers = values.to_numpy(dtype=float)
    return np.where(drawable(numbers), numbers, math.inf)


def pattern_rows(lines: pd.DataFrame) -> pd.DataFrame:
    """How often each bit is set: mean over the matrices of a run, then over runs, and its range over matrices.

    Args:
        lines: of bit_patterns.csv.

    Returns: a row per `format`, `bit_class` and `bit` with the mean of `ones` and of `entropy`, and `least` and `most` ones.
    """
    by = ["format", "bit_class", "bit"]
    runs = lines.groupby(["run_id", *by], sort=False)[["ones", "entropy"]].mean()
    found = runs.groupby(by, sort=False).mean()
    reach = lines.groupby(by, sort=False)["ones"]
    return found.assign(least=reach.min(), most=reach.max()).reset_index()
