"""Tests of an order, against every arrangement, Kendall's tau and tied normal theory."""

import math
from itertools import combinations, permutations, product

import numpy as np
import pytest
from helpers import CONSTANT, DIRECTIONS, EIGEN, A, B, tails
from scipy import stats

from lit_degrade.evidence.numbers import orders
from lit_degrade.evidence.numbers.statistics import Direction


def concordant(groups: list[np.ndarray]) -> float:
    return sum(float(y > x) + 0.5 * float(y == x) for g, h in combinations(groups, 2) for x in g for y in h)


@pytest.mark.parametrize("sizes", [(2, 2), (1, 3), (2, 2, 2), (1, 3, 2), (2, 1, 1, 3)])
def test_jonckheere_counts_every_arrangement(sizes: tuple[int, ...]) -> None:
    cuts = np.cumsum(sizes)[:-1]
    values = np.arange(float(sum(sizes)))
    null = np.array([concordant(np.split(np.array(order), cuts)) for order in permutations(values)])
    for seed in range(3):
        groups = np.split(np.random.default_rng(seed).permutation(values), cuts)
        for direction in DIRECTIONS:
            found = orders.jonckheere(groups, direction)
            assert found.statistic == concordant(groups)
            assert found.p == pytest.approx(tails(null, found.statistic)[direction])
            assert found.smallest_p == pytest.approx(
                min(1.0, (2 if direction == "different" else 1) * (null == null.max()).mean())
            )


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_jonckheere_of_two_groups_is_mann_whitneys_test(direction: Direction) -> None:
    alternative = {"greater": "greater", "less": "less", "different": "two-sided"}[direction]
    for seed, sizes in enumerate([(3, 3), (5, 8), (20, 25)]):
        x, y = np.split(np.random.default_rng(seed).normal(size=sum(sizes)), [sizes[0]])
        expected = stats.mannwhitneyu(y, x, alternative=alternative, method="exact")
        found = orders.jonckheere([x, y], direction)
        assert (found.statistic, found.p) == pytest.approx((expected.statistic, expected.pvalue))


def test_jonckheeres_statistic_is_kendalls() -> None:
    groups = [A, B, EIGEN]
    pairs = len(A) * len(B) + len(A) * len(EIGEN) + len(B) * len(EIGEN)
    order, values = np.repeat([0, 1, 2], [5, 7, 3]), np.concatenate(groups)
    total, distinct = math.comb(15, 2), math.comb(15, 2) - math.comb(5, 2) - math.comb(7, 2) - math.comb(3, 2)
    kendall = stats.kendalltau(order, values).statistic * math.sqrt(total * distinct)
    assert 2 * orders.jonckheere(groups, "less").statistic - pairs == pytest.approx(kendall)


def tied_normal_p(groups: list[np.ndarray]) -> float:
    """P(J >= seen) by the normal distribution, its variance under ties term by term (Hollander and Wolfe, section 6.2)."""
    n = np.array([len(g) for g in groups])
    t = np.unique(np.concatenate(groups), return_counts=True)[1]
    N = n.sum()
    variance = (N * (N - 1) * (2 * N + 5) - (n * (n - 1) * (2 * n + 5)).sum() - (t * (t - 1) * (2 * t + 5)).sum()) / 72
    variance += (n * (n - 1) * (n - 2)).sum() * (t * (t - 1) * (t - 2)).sum() / (36 * N * (N - 1) * (N - 2))
    variance += (n * (n - 1)).sum() * (t * (t - 1)).sum() / (8 * N * (N - 1))
    return stats.norm.sf((concordant(groups) - (N**2 - (n**2).sum()) / 4) / math.sqrt(variance))


def test_jonckheere_with_ties_is_normal_with_the_variance_under_ties() -> None:
    groups = [np.array([1.0, 2, 2, 4]), np.array([2.0, 3, 5]), np.array([3.0, 3, 6, 5, 4])]
    assert orders.jonckheere(groups, "greater").p == pytest.approx(tied_normal_p(groups))
    assert orders.jonckheere([CONSTANT, CONSTANT], "greater").p == 1.0
    apart = [np.zeros(3), np.ones(3)]
    assert orders.jonckheere(apart, "greater").p == pytest.approx(1 / 20), "not below the smallest exact p"


def test_jonckheere_of_many_runs_is_nearly_exact() -> None:
    small, large = (list(np.random.default_rng(1).normal(size=(4, n)) + 0.15 * np.arange(4)[:, None]) for n in (25, 26))
    assert orders.jonckheere(small, "greater").p == pytest.approx(tied_normal_p(small), rel=0.02)
    assert orders.jonckheere(large, "greater").p == pytest.approx(tied_normal_p(large))


def test_counts_of_four_groups_of_ten_are_whole_symmetric_and_complete() -> None:
    counts = orders._concordant_counts((10, 10, 10, 10))
    assert sum(counts) == math.factorial(40) // math.factorial(10) ** 4
    assert counts == counts[::-1]
    assert counts[:3] == [1, 3, 9]


def test_page_counts_every_order_within_blocks() -> None:
    blocks = np.array([[0.1, 0.4, 0.3], [0.2, 0.5, 0.9], [1.0, 0.8, 1.4]])
    ranks = [np.array(order) for order in permutations((1, 2, 3))]
    null = np.array([sum(r @ np.arange(1, 4) for r in choice) for choice in product(ranks, repeat=3)], dtype=float)
    seen = float(stats.rankdata(blocks, axis=1).sum(0) @ np.arange(1, 4))
    for direction in DIRECTIONS:
        found = orders.page(blocks, direction)
        assert found.statistic == seen
        assert found.p == pytest.approx(tails(null, seen)[direction])
        assert found.smallest_p == pytest.approx((2 if direction == "different" else 1) / 216)
