"""What runs say of flipped bits: names of bits, values that have a place on an axis, shares of ones."""

import pandas as pd

CLASSES = ("sign", "exponent", "mantissa", "code")
"""What a stored bit is part of."""


def pattern_rows(lines: pd.DataFrame) -> pd.DataFrame:
    """How often each bit is set: mean over the matrices of a run, then over runs, and its range over matrices.

    Args:
        lines: of bit_patterns.csv.

    Returns: a row per `format`, `bit_class` and `bit` with the mean of `ones` and of `entropy`, and `least` and `most` ones.
    """
    by = ["format", "bit_class", "bit"]
    runs = lines.groupby(["run_id", *by], sort=False)[["ones", "entropy"]].mean()
    means = runs.groupby(by, sort=False).mean()
    reach = lines.groupby(by, sort=False)["ones"]
    return means.assign(least=reach.min(), most=reach.max()).reset_index()
