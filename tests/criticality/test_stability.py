"""Agreement of rankings: against definitions spelled out, every subset, hand-computed values, and what must not matter."""

import math
from fractions import Fraction
from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lit_degrade.criticality.stability import Agreement, agreement, expected_jaccard, rank_biased_overlap


def ids(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Two rankings of the same length with some weights in common."""
    k = draw(st.integers(1, 25))
    pool = st.permutations(range(draw(st.integers(k, 3 * k))))
    return ids(*draw(pool)[:k]), ids(*draw(pool)[:k])


# ---- chance -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("weights", "k"), [(1, 1), (2, 1), (5, 2), (6, 3), (7, 5), (8, 7), (6, 6)])
def test_chance_is_the_mean_over_every_pair_of_subsets(weights: int, k: int) -> None:
    subsets = [set(s) for s in combinations(range(weights), k)]
    mean = np.mean([len(a & b) / len(a | b) for a in subsets for b in subsets])
    assert expected_jaccard(weights, k) == pytest.approx(mean, rel=1e-12)


def exact_chance(weights: int, k: int) -> float:
    least = max(0, 2 * k - weights)
    total = sum(Fraction(comb(k, x) * comb(weights - k, k - x) * x, 2 * k - x) for x in range(least, k + 1))
    return float(total / comb(weights, k))


@pytest.mark.parametrize(("weights", "k"), [(1000, 100), (1000, 900), (3000, 1500), (10**6, 300), (7 * 10**9, 100)])
def test_chance_equals_exact_fractions(weights: int, k: int) -> None:
    assert expected_jaccard(weights, k) == pytest.approx(exact_chance(weights, k), rel=1e-12)


def test_chance_of_100_in_1000_agrees_with_simulation() -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(4000):
        shared = np.intersect1d(rng.choice(1000, 100, replace=False), rng.choice(1000, 100, replace=False)).size
        found.append(shared / (200 - shared))
    error = np.std(found) / math.sqrt(len(found))
    assert error < 4e-4
    assert expected_jaccard(1000, 100) == pytest.approx(np.mean(found), abs=3 * error)
    assert expected_jaccard(1000, 100) == pytest.approx(0.0529, abs=5e-5)


def test_chance_is_accurate_for_a_large_subject() -> None:
    weights, k = 7 * 10**9, 10_000
    mean = k * k / weights  # X is Poisson to within k / N: E[X / 2k + X² / 4k²] is what counts
    assert expected_jaccard(weights, k) == pytest.approx(mean / (2 * k) + (mean + mean**2) / (4 * k * k), rel=3e-6, abs=0)
    assert expected_jaccard(weights, k) == pytest.approx(7.1432194e-7, rel=3e-8)


@pytest.mark.parametrize(("weights", "k"), [(10, 0), (10, 11), (10, -1)])
def test_chance_needs_a_set_that_exists(weights: int, k: int) -> None:
    with pytest.raises(ValueError, match=f"1 to 10 weights, got {k}"):
        expected_jaccard(weights, k)


def test_random_rankings_have_a_corrected_jaccard_of_nought() -> None:
    rng = np.random.default_rng(1)
    found = [agreement(rng.permutation(200)[:50], rng.permutation(200)[:50], 200).jaccard_corrected for _ in range(2000)]
    assert abs(np.mean(found)) < 3 * np.std(found) / math.sqrt(len(found)) < 0.01


# ---- overlap ----------------------------------------------------------------------------------------------------------


def slow_rbo(a: np.ndarray, b: np.ndarray, p: float, reach: int = 4000) -> float:
    """(1 - p) Σ p^(d-1) A_d to where p^d vanishes, with the share at depth k for everything below."""
    k, total = len(a), 0.0
    for d in range(1, reach):
        seen = min(d, k)
        total += (1 - p) * p ** (d - 1) * len(set(a[:seen].tolist()) & set(b[:seen].tolist())) / seen
    return total


@given(pairs())
def test_rbo_equals_its_definition(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = pair
    assert agreement(a, b, 100).rbo == pytest.approx(slow_rbo(a, b, 1 - 1 / len(a), 30 * len(a) + 2), abs=1e-11)


def test_rbo_of_values_by_hand() -> None:
    assert agreement(ids(1, 2), ids(2, 1), 9).rbo == pytest.approx(0.5)  # A = 0, 1; p = 1/2: 1/4 + 1/2 · 1/2
    assert agreement(ids(1, 2, 3), ids(1, 3, 4), 9).rbo == pytest.approx(20 / 27)  # A = 1, 1/2, 2/3; p = 2/3
    assert agreement(ids(7, 8, 9), ids(9, 5, 7), 9).rbo == pytest.approx(8 / 27)  # A = 0, 0, 2/3
    overlaps = np.array([0, 1, 2, 4, 5])  # 1 2 3 4 5 against 2 3 4 1 5, an example of two published implementations
    assert rank_biased_overlap(overlaps, 0.9) == pytest.approx(0.828, abs=5e-4)


def test_rbo_weighs_the_top_most() -> None:
    a = np.arange(100)
    high, low = np.r_[1, 0, 2:100], np.r_[:98, 99, 98]
    assert agreement(a, high, 1000).rbo < agreement(a, low, 1000).rbo < 1
    assert agreement(a, high, 1000).kendall_tau == agreement(a, low, 1000).kendall_tau


# ---- order ------------------------------------------------------------------------------------------------------------


def test_kendall_of_explicit_ranks() -> None:
    found = agreement(ids(1, 2, 3), ids(1, 3, 4), 9)  # over 1 2 3 4
    assert found.kendall_tau == pytest.approx(stats.kendalltau([1, 2, 3, 4], [1, 4, 2, 3]).statistic)
    found = agreement(ids(5, 6, 7), ids(6, 8, 9), 9)  # over 5 6 7 8 9; 8 and 9 are tied in the first, 5 and 7 in the second
    assert found.kendall_tau == pytest.approx(stats.kendalltau([1, 2, 3, 4, 4], [4, 1, 4, 2, 3]).statistic)


@given(pairs())
def test_kendall_counts_pairs(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = pair
    place = [{w: r for r, w in enumerate(ranking.tolist())} for ranking in pair]
    union = sorted(set(a.tolist()) | set(b.tolist()))
    signs = [[np.sign(p.get(w, len(a)) - p.get(v, len(a))) for v, w in combinations(union, 2)] for p in place]
    untied = [sum(s != 0 for s in row) for row in signs]
    found = agreement(a, b, 100).kendall_tau
    if len(union) == 1:
        assert math.isnan(found)
    else:
        assert found == pytest.approx(sum(x * y for x, y in zip(*signs, strict=True)) / math.sqrt(untied[0] * untied[1]))


# ---- all together -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [2, 3, 50])
def test_identical_reversed_and_disjoint_rankings(k: int) -> None:
    a = np.arange(k)
    same, turned, apart = (agreement(a, b, 10 * k) for b in (a, a[::-1], a + k))
    assert [same.jaccard, same.jaccard_corrected, same.kendall_tau, same.rbo] == pytest.approx([1, 1, 1, 1])
    assert [turned.jaccard, turned.jaccard_corrected, turned.kendall_tau] == pytest.approx([1, 1, -1])
    assert 0 < turned.rbo < 1
    chance = expected_jaccard(10 * k, k)
    assert [apart.jaccard, apart.rbo, apart.jaccard_chance] == [0, 0, chance]
    assert [apart.jaccard_corrected, apart.kendall_tau] == pytest.approx([-chance / (1 - chance), -2 * k / (3 * k - 1)])


@pytest.mark.filterwarnings("error")
def test_a_single_weight() -> None:
    same, apart = agreement(ids(4), ids(4), 10), agreement(ids(4), ids(5), 10)
    assert (same.jaccard, same.rbo, apart.jaccard, apart.rbo, apart.kendall_tau) == (1, 1, 0, 0, -1)
    assert math.isnan(same.kendall_tau)


@pytest.mark.parametrize("k", [1, 2, 10])
def test_every_weight_ranked_leaves_no_chance(k: int) -> None:
    found = agreement(np.arange(k), np.arange(k)[::-1], k)
    assert (found.jaccard, found.jaccard_chance) == (1, 1)
    assert math.isnan(found.jaccard_corrected)


def values(found: Agreement) -> list[float]:
    return list(vars(found).values())


@given(pairs(), st.randoms(use_true_random=False))
def test_neither_names_nor_sides_matter(pair: tuple[np.ndarray, np.ndarray], random: object) -> None:
    a, b = pair
    names = np.random.default_rng(random.randrange(2**32)).permutation(100) * 10**9  # type: ignore[attr-defined]
    expected = pytest.approx(values(agreement(a, b, 100)), abs=1e-12, nan_ok=True)
    assert values(agreement(names[a], names[b], 100)) == expected
    assert values(agreement(b, a, 100)) == expected


def test_long_rankings_need_no_pairwise_work() -> None:
    rng = np.random.default_rng(2)
    k = 100_000  # a quadratic algorithm would take minutes
    a, b = (rng.choice(2 * k, k, replace=False) * 30_000 for _ in range(2))
    found = agreement(a, b, 7 * 10**9)
    assert found.jaccard == pytest.approx(1 / 3, abs=0.01)  # half of each is in the other
    assert found.rbo == pytest.approx(0.5 * (1 - 2 / math.e) + 0.5 / math.e, abs=0.01)  # share d / 2k at depth d
    assert found.jaccard_corrected == pytest.approx(found.jaccard, abs=1e-5)


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="got 2 and 3 weights"):
        agreement(ids(1, 2), ids(1, 2, 3), 9)
    with pytest.raises(ValueError, match="an id twice"):
        agreement(ids(1, 2), ids(3, 3), 9)
    with pytest.raises(ValueError, match="1 to 2 weights, got 3"):
        agreement(ids(1, 2, 3), ids(1, 2, 3), 2)
    with pytest.raises(ValueError, match="1 to 9 weights, got 0"):
        agreement(ids(), ids(), 9)
