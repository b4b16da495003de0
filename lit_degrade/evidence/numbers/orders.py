"""Tests of an order: whether values rise or fall with the levels that runs were made at."""

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from lit_degrade.evidence.numbers.statistics import SCIPY, Direction, Test, checked_groups, least_p, rounded

EXACT_RANKED_RUNS = 100
"""Up to here the null distribution of Jonckheere's statistic is counted."""


def jonckheere(groups: Sequence[ArrayLike], direction: Direction) -> Test:
    """Jonckheere-Terpstra test for groups in their order; "greater" is the alternative that values rise with it.

    The statistic J counts the pairs of runs of two groups in which the later group has the larger value, ties a half. Its null
    distribution is exact without ties and up to 100 runs; else normal, with the variance corrected for ties and no correction
    for continuity, but never below the smallest exact p. Groups 1, 2 | 3, 4 give J = 4 and p = 1/6.

    Raises: ValueError: for fewer than two groups, or an empty one.
    Sources: Terpstra 1952; Jonckheere, "A distribution-free k-sample test against ordered alternatives", Biometrika 41 (1954).
    """
    arrays = checked_groups(groups)
    values, sizes = rounded(np.concatenate(arrays)), tuple(len(x) for x in arrays)
    counts = _concordant_counts(sizes) if len(values) <= EXACT_RANKED_RUNS else None
    ranked = np.split(values, np.cumsum(sizes)[:-1])
    statistic = sum(float(np.heaviside(np.subtract.outer(y, x), 0.5).sum()) for x, y in combinations(ranked, 2))
    smallest = least_p(math.factorial(len(values)) // math.prod(map(math.factorial, sizes)), direction)
    if counts and len(np.unique(values)) == len(values):
        return Test("Jonckheere-Terpstra", statistic, _tail(counts, int(statistic), direction), smallest)
    order = np.repeat(np.arange(len(sizes)), sizes)
    # Kendall's S is 2 J less the pairs of two groups, and its variance under ties is the one needed here.
    p = float(stats.kendalltau(order, values, method="asymptotic", alternative=SCIPY[direction]).pvalue)
    return Test("Jonckheere-Terpstra", statistic, 1.0 if math.isnan(p) else max(p, smallest), smallest)


@lru_cache(maxsize=64)
def _concordant_counts(sizes: tuple[int, ...]) -> list[int]:
    """Number of arrangements of N distinct values with J = 0, 1, ..., by group sizes.

    The coefficients of [N]! / ([n_1]! [n_2]! ...) with [n]! = Π (1 - q^i), multiplied and divided one factor at a time in
    integers; sizes (2, 2) give 1, 1, 2, 1, 1.
    Source: Harding, "An efficient, minimal-storage procedure for Mann-Whitney U", Appl. Stat. 33 (1984), for two groups.
    """
    counts = [1] + [0] * sum(m * n for m, n in combinations(sizes, 2))
    before = 0
    for size in sizes:
        for i in range(1, size + 1):
            for j in range(len(counts) - 1, before + i - 1, -1):
                counts[j] -= counts[j - before - i]
            for j in range(i, len(counts)):
                counts[j] += counts[j - i]
        before += size
    return counts


def _tail(counts: list[int], at: int, direction: Direction) -> float:
    """Share of arrangements at least as far out as J = at, or twice the smaller share."""
    total = sum(counts)
    upper, lower = sum(counts[at:]) / total, sum(counts[: at + 1]) / total
    return {"greater": upper, "less": lower, "different": min(1.0, 2 * min(upper, lower))}[direction]


def page(blocks: ArrayLike, direction: Direction) -> Test:
    """Page's test for treatments in their order within blocks; "greater" is the alternative that values rise with it.

    Args:
        blocks: (blocks, treatments), at least two by three, a row being what was measured on one block.
        direction: the alternative; "different" doubles the smaller p.

    Source: Page, "Ordered hypotheses for multiple treatments", JASA 58 (1963).
    """
    table = rounded(np.asarray(blocks, dtype=np.float64))
    rise, fall = (stats.page_trend_test(x) for x in (table, table[:, ::-1]))
    p = {"greater": rise.pvalue, "less": fall.pvalue, "different": min(1.0, 2 * min(rise.pvalue, fall.pvalue))}[direction]
    return Test("Page", float(rise.statistic), float(p), least_p(math.factorial(table.shape[1]) ** len(table), direction))
