"""How well two rankings of weights agree, beyond what chance would give."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Ranking = NDArray[np.int64]
"""Ids of k weights in order of rank, the most critical first."""


@dataclass(frozen=True)
class Agreement:
    """Agreement of two rankings of the same length k."""

    jaccard: float
    """weights in both / weights in either; 0 to 1, blind to order"""
    jaccard_chance: float
    """what two random sets of this size would have on average"""
    jaccard_corrected: float
    """(jaccard - chance) / (1 - chance): 0 by chance, 1 for equal sets; nan where every weight is ranked"""
    kendall_tau: float
    """τ-b over the weights in either, -1 to 1; nan for one weight. 0 is not chance: disjoint rankings have -2k / (3k - 1)"""
    rbo: float
    """rank-biased overlap, 0 (disjoint) to 1 (identical), the top counting most"""


def agreement(a: Ranking, b: Ranking, weights: int) -> Agreement:
    """Agreement of two rankings by set, by order, and by order with more weight on the top.

    Rankings 1 2 3 and 1 3 4 share two of four weights: jaccard 0.5, and rbo is 20/27. Nothing here depends on what the ids are,
    or on which of the two comes first.

    Args:
        a: (k,) distinct ids in order of rank.
        b: (k,) likewise.
        weights: number of weights from which the k were taken. Ranking all of them leaves no chance to correct for: jaccard and
            its chance are 1, the corrected value is nan.
    Raises: ValueError: for lengths that differ, are 0 or exceed `weights`, and for ids that repeat.
    """
    k = len(a)
    if len(b) != k:
        raise ValueError(f"Rankings of equal length are compared, got {k} and {len(b)} weights.")
    chance = expected_jaccard(weights, k)
    union = np.union1d(a, b)
    ranks_a, ranks_b = _ranks(a, union), _ranks(b, union)
    jaccard = (2 * k - len(union)) / len(union)
    entries = np.maximum(ranks_a, ranks_b)
    overlaps = np.cumsum(np.bincount(entries[entries < k], minlength=k))
    return Agreement(
        jaccard=jaccard,
        jaccard_chance=chance,
        jaccard_corrected=(jaccard - chance) / (1 - chance) if k < weights else math.nan,
        kendall_tau=float(stats.kendalltau(ranks_a, ranks_b).statistic) if len(union) > 1 else math.nan,
        rbo=rank_biased_overlap(overlaps, persistence=1 - 1 / k),
    )


def _ranks(ranking: Ranking, union: Ranking) -> Ranking:
    """Rank from 0 of every id of the sorted union; those that the ranking lacks share the rank behind its last."""
    k = len(ranking)
    if len(np.unique(ranking)) < k:
        raise ValueError("A ranking names every weight once, got an id twice.")
    ranks = np.full(len(union), k, dtype=np.int64)
    ranks[np.searchsorted(union, ranking)] = np.arange(k)
    return ranks


def expected_jaccard(weights: int, k: int) -> float:
    """Mean Jaccard index of two random sets of k out of N weights, exact: E[X / (2k - X)] with X hypergeometric.

    About k / (2N - k): 100 of 1,000 give 0.0529, all of them 1. P(X = x) is built from the ratio of its neighbours,
    (k - x)² / ((x + 1)(N - 2k + x + 1)), and normalised at the end: no factorial of N is needed, which would cost digits
    (SciPy's probabilities are off by 5e-7 for 10,000 of 7e9).

    Args:
        weights: N.
        k: size of both sets, 1 to N.
    Raises: ValueError: for another k.
    """
    if not 1 <= k <= weights:
        raise ValueError(f"A set has 1 to {weights} weights, got {k}.")
    x = np.arange(max(0, 2 * k - weights), k + 1, dtype=float)
    steps = 2 * np.log(k - x[:-1]) - np.log(x[1:]) - np.log(weights - 2 * k + x[1:])
    logs = np.concatenate([[0.0], np.cumsum(steps)])
    p = np.exp(logs - logs.max())
    return float(p @ (x / (2 * k - x)) / p.sum())


def rank_biased_overlap(overlaps: NDArray[np.int64], persistence: float) -> float:
    """Extrapolated rank-biased overlap of two rankings of equal length without ties.

    RBO = (X_k / k) p^k + (1 - p) Σ_d (X_d / d) p^(d-1), d = 1 … k: a reader who goes on to the next rank with probability p
    sees this share in common, if the share at depth k holds for what lies below. 1 2 against 2 1 gives p. With p = 1 - 1/k, as
    in `agreement`, the reader stops at rank k on average; a single weight (p = 0) gives X_1.

    Args:
        overlaps: (k,) X_d, number of weights that the first d of both rankings share.
        persistence: p, 0 <= p < 1.
    Source: Webber, Moffat and Zobel, "A similarity measure for indefinite rankings", ACM TOIS 28 (2010), equation 32 with lists
        of equal length.
    """
    k = len(overlaps)
    depths = np.arange(1, k + 1)
    shares = overlaps / depths
    return float(shares[-1] * persistence**k + (1 - persistence) * (shares @ persistence ** (depths - 1.0)))
