"""Every test, interval and effect size against another implementation, a count of all cases, or numbers worked out by hand."""

import math
from collections.abc import Callable
from itertools import combinations, product

import numpy as np
import pytest
from helpers import CONSTANT, DIRECTIONS, EIGEN, HIGHER, A, B, tails
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import integrate, stats
from statsmodels.stats import weightstats
from statsmodels.stats.multicomp import pairwise_tukeyhsd
from statsmodels.stats.multitest import multipletests

from lit_degrade.evidence.numbers import orders
from lit_degrade.evidence.numbers import sizes as measured
from lit_degrade.evidence.numbers import statistics as s

GAUSSIAN = np.array([2.329539, 3.043630, 3.840873])
RANDOM_TEXT = np.full(3, -1.497986)
"""Signed reduction of effective rank in the three arms of the published placebo experiment. [%]"""
STATSMODELS = {"greater": "larger", "less": "smaller", "different": "two-sided"}
RUNS = hnp.arrays(np.float64, st.integers(3, 6), elements=st.integers(-1000, 1000).map(lambda i: i / 8))


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def ends(interval: s.Interval) -> tuple[float, float]:
    return interval.low, interval.high


# Intervals and effect sizes


@pytest.mark.parametrize("level", [0.9, 0.95])
def test_intervals_of_means_are_those_of_statsmodels(level: float) -> None:
    assert ends(s.t_interval(A, level)) == pytest.approx(weightstats.DescrStatsW(A).tconfint_mean(1 - level))
    means = weightstats.CompareMeans(weightstats.DescrStatsW(A), weightstats.DescrStatsW(B))
    assert ends(s.difference_interval(A, B, level)) == pytest.approx(means.tconfint_diff(1 - level, usevar="unequal"))


def test_bca_interval_is_that_of_its_formula() -> None:
    x = np.random.default_rng(3).exponential(size=15)
    means = np.sort(np.random.default_rng(4).choice(x, (400_000, 15)).mean(1))
    without = np.array([np.delete(x, i).mean() for i in range(15)])
    z0 = stats.norm.ppf((means < x.mean()).mean())
    deviations = without.mean() - without
    acceleration = (deviations**3).sum() / (6 * (deviations**2).sum() ** 1.5)
    z = z0 + stats.norm.ppf([0.025, 0.975])
    expected = np.quantile(means, stats.norm.cdf(z0 + z / (1 - acceleration * z)))
    found = ends(s.bca_interval(x, rng()))
    assert found == pytest.approx(expected, abs=0.06 * x.std())
    assert found == ends(s.bca_interval(x, rng())), "the same generator gives the same interval"
    assert expected[1] - x.mean() > 1.2 * (x.mean() - expected[0]), "the sample was to be skewed"


@pytest.mark.parametrize(
    "interval", [s.t_interval, lambda x: s.bca_interval(x, rng()), lambda x: s.difference_interval(x, x + 1)]
)
def test_intervals_without_spread_are_points_and_of_one_run_nowhere(interval: Callable[[np.ndarray], s.Interval]) -> None:
    low, high = ends(interval(CONSTANT))
    assert low == high == pytest.approx(0.3 if low > 0 else -1.0)
    assert np.isnan(ends(interval(np.array([1.0])))).all()


def test_hedges_g_by_hand() -> None:
    pooled = math.sqrt((4 * A.var(ddof=1) + 6 * B.var(ddof=1)) / 10)
    g, _ = s.hedges_g(A, B)
    assert g == pytest.approx((A.mean() - B.mean()) / pooled * (1 - 3 / 39))
    assert s.hedges_g([1.0, 2, 3], [3.0, 4, 5])[0] == pytest.approx(-1.6)


def test_hedges_g_is_that_of_pingouin() -> None:
    pingouin = pytest.importorskip("pingouin", reason="an independent implementation: pip install pingouin")
    assert s.hedges_g(A, B)[0] == pytest.approx(pingouin.compute_effsize(A, B, eftype="hedges"))


def noncentral_t_below(t: float, df: int, noncentrality: float) -> float:
    """P(T <= t) from the definition: a normal over the root of an independent chi-squared by its degrees of freedom."""
    return integrate.quad(
        lambda v: stats.norm.cdf(t * math.sqrt(v / df) - noncentrality) * stats.chi2.pdf(v, df),
        0,
        np.inf,
        epsabs=1e-11,
        limit=200,
    )[0]


@pytest.mark.parametrize(("a", "b"), [(A, B), (B, A), (EIGEN, GAUSSIAN), (A + 10, B), (GAUSSIAN, RANDOM_TEXT)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_ends_of_the_interval_of_g_leave_half_the_rest_outside(a: np.ndarray, b: np.ndarray, level: float) -> None:
    n_a, n_b = len(a), len(b)
    g, interval = s.hedges_g(a, b, level)
    low, high = ends(interval)
    t, root = weightstats.ttest_ind(a, b)[0], math.sqrt(n_a * n_b / (n_a + n_b))
    assert low < g < high
    assert noncentral_t_below(t, n_a + n_b - 2, low * root) == pytest.approx((1 + level) / 2, abs=1e-6)
    assert noncentral_t_below(t, n_a + n_b - 2, high * root) == pytest.approx((1 - level) / 2, abs=1e-6)


@pytest.mark.parametrize("n", [2, 3, 10, 100])
@pytest.mark.parametrize("shift", [0.0, 0.1, 3.0, 40.0, -1000.0])
def test_the_interval_of_g_holds_it_however_large(n: int, shift: float) -> None:
    x, y = np.random.default_rng(n).normal(size=(2, n))
    g, interval = s.hedges_g(x + shift, y)
    assert interval.low < g < interval.high


def test_there_is_no_g_without_spread_or_with_one_run() -> None:
    for a, b in ((CONSTANT, HIGHER), (CONSTANT, CONSTANT), (A, B[:1])):
        g, interval = s.hedges_g(a, b)
        assert np.isnan([g, *ends(interval)]).all()


# Tests of means


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("shift", [0.0, 0.4, -2.0])
def test_t_tests_are_those_of_statsmodels(direction: s.Direction, shift: float) -> None:
    alternative = STATSMODELS[direction]
    expected = weightstats.ttest_ind(A, B, alternative, "unequal", value=shift)
    found = s.welch(A, B, direction, shift)
    assert (found.statistic, found.p, found.df) == pytest.approx(expected)
    alone = s.one_sample(A, direction, shift)
    assert (alone.statistic, alone.p, alone.df) == pytest.approx(weightstats.DescrStatsW(A).ttest_mean(shift, alternative))
    pairs = s.paired(A, B[:5], direction, shift)
    assert (pairs.statistic, pairs.p) == pytest.approx(weightstats.DescrStatsW(A - B[:5]).ttest_mean(shift, alternative)[:2])
    assert (found.name, alone.name, pairs.name) == ("Welch t", "one-sample t", "paired t")


def test_students_test_is_that_of_statsmodels() -> None:
    found = s.student(A, B)
    assert (found.statistic, found.p, found.df) == pytest.approx(weightstats.ttest_ind(A, B))


def test_published_arms_give_the_numbers_of_their_re_analysis() -> None:
    assert s.welch(EIGEN, GAUSSIAN, "different").p == pytest.approx(0.28, abs=0.005)
    assert s.permutation(EIGEN, GAUSSIAN, "different", rng()).p == pytest.approx(0.30)
    assert s.equivalence(GAUSSIAN, 1.0).p == pytest.approx(0.98, abs=0.005)
    published = s.anova([EIGEN, GAUSSIAN, RANDOM_TEXT], equal_variances=True)
    assert (published.statistic, published.p) == pytest.approx((1.623769, 0.273134), rel=1e-4)


@pytest.mark.filterwarnings("error")
def test_one_constant_arm_is_no_obstacle() -> None:
    t = (EIGEN.mean() + 1.497986) / math.sqrt(EIGEN.var(ddof=1) / 3)
    found = s.welch(EIGEN, RANDOM_TEXT, "different")
    assert (found.statistic, found.df) == pytest.approx((t, 2.0))
    assert found.p == pytest.approx(2 * stats.t.sf(abs(t), 2))
    assert ends(s.difference_interval(EIGEN, RANDOM_TEXT)) == pytest.approx(
        EIGEN.mean() + 1.497986 + np.array([-1, 1]) * stats.t.isf(0.025, 2) * math.sqrt(EIGEN.var(ddof=1) / 3)
    )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("shift", [0.0, 0.2, -0.3, 0.5])
def test_runs_without_spread_say_what_a_permutation_test_would(direction: s.Direction, shift: float) -> None:
    found = s.welch(HIGHER, CONSTANT, direction, shift)
    assert found.p == pytest.approx(s.permutation(HIGHER, CONSTANT, direction, rng(), shift).p)
    assert found.smallest_p == pytest.approx((2 if direction == "different" else 1) / math.comb(9, 4))
    assert found.statistic == pytest.approx(np.sign(round(0.2 - shift, 9)) * math.inf if shift != 0.2 else 0.0)
    alone = s.one_sample(HIGHER, direction, shift)
    assert alone.p == pytest.approx(s.sign_flip(HIGHER - shift, direction, rng()).p)
    assert s.paired(HIGHER, CONSTANT[:4], direction, shift).p == pytest.approx(
        s.sign_flip(np.round(HIGHER - CONSTANT[:4] - shift, 12), direction, rng()).p
    )


def test_one_run_proves_nothing() -> None:
    one = np.array([2.0])
    tests = [s.welch(A, one, "greater"), s.student(one, A), s.paired(one, one, "less"), s.one_sample(one, "different")]
    tests += [s.equivalence(one, 5.0), s.equivalence(one, 5.0, one), s.anova([A, one], False)]
    assert [test.p for test in tests] == [1.0] * 7
    assert s.permutation(one, A, "different", rng()).p == s.sign_flip(one, "greater", rng()).p == 1.0


@pytest.mark.parametrize("values", [[1.0, math.nan], [math.inf, 1.0], [], [[1.0, 2.0]]])
def test_what_is_not_a_list_of_finite_runs_is_refused(values: list) -> None:
    for call in (
        s.t_interval,
        lambda x: s.welch(A, x, "less"),
        lambda x: s.anova([A, x], True),
        lambda x: orders.jonckheere([x, A], "less"),
    ):
        with pytest.raises(ValueError, match="one per run"):
            call(values)


def test_arms_that_are_not_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="equal length"):
        s.paired(A, B, "less")


# Permutations


def arrangements(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Differences of means over every way of choosing the runs of the first arm, rounded so that ties are ties."""
    pooled, n = np.concatenate([a, b]), len(a)
    chosen = [list(c) for c in combinations(range(len(pooled)), n)]
    return np.round([pooled[c].mean() - np.delete(pooled, c).mean() for c in chosen], 9)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(
    ("a", "b", "shift"),
    [(A, B, 0.0), (A, B, 1.0), (B, A, 0.3), (np.array([1.0, 2, 2, 3]), np.array([2.0, 2, 1]), 0.0), (EIGEN, RANDOM_TEXT, 0.0)],
)
def test_permutation_counts_every_arrangement(a: np.ndarray, b: np.ndarray, shift: float, direction: s.Direction) -> None:
    found = s.permutation(a, b, direction, rng(), shift)
    assert found.p == pytest.approx(tails(arrangements(a - shift, b), (a - shift).mean() - b.mean())[direction])
    assert found.statistic == pytest.approx(a.mean() - b.mean() - shift)
    assert found.p >= found.smallest_p


def test_three_against_three_cannot_reach_five_per_cent_two_sided() -> None:
    low, high = np.arange(3.0), np.arange(3.0) + 100
    for direction, smallest in (("different", 0.1), ("greater", 0.05)):
        found = s.permutation(high, low, direction, rng())
        assert (found.p, found.smallest_p) == pytest.approx((smallest, smallest))


def test_permutations_are_drawn_where_they_are_too_many_to_count() -> None:
    x, y = np.random.default_rng(2).normal(size=(2, 12))
    found = s.permutation(x + 0.6, y, "greater", rng())
    assert found.p == pytest.approx(s.welch(x + 0.6, y, "greater").p, abs=0.01)
    assert found == s.permutation(x + 0.6, y, "greater", rng())
    assert (
        s.permutation(x + 9, y, "different", rng()).p
        == s.permutation(x, y, "different", rng()).smallest_p
        == pytest.approx(2e-4)
    )


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("differences", [A, B, np.array([1.0, -1, 2, 0, 0.5]), np.zeros(4), np.full(6, 0.1)])
def test_sign_flip_counts_every_choice_of_signs(differences: np.ndarray, direction: s.Direction) -> None:
    null = np.round([(np.array(signs) * differences).mean() for signs in product((1, -1), repeat=len(differences))], 9)
    found = s.sign_flip(differences, direction, rng())
    assert found.p == pytest.approx(tails(null, differences.mean())[direction])
    assert found.smallest_p == pytest.approx((2 if direction == "different" else 1) / 2 ** len(differences))
    assert found.statistic == pytest.approx(differences.mean())


# Equivalence, several groups, families


@pytest.mark.parametrize("margin", [0.2, 1.0, 3.0])
def test_equivalence_is_that_of_statsmodels(margin: float) -> None:
    two = weightstats.ttost_ind(A, B, -margin, margin, usevar="unequal")[0]
    assert s.equivalence(A, margin, B).p == pytest.approx(two)
    assert s.equivalence(B, margin).p == pytest.approx(weightstats.DescrStatsW(B).ttost_mean(-margin, margin)[0])
    assert (s.equivalence(A, margin, B).name, s.equivalence(A, margin).name) == ("Welch TOST", "one-sample TOST")


def test_equivalence_is_that_of_pingouin() -> None:
    pingouin = pytest.importorskip("pingouin", reason="an independent implementation: pip install pingouin")
    assert s.equivalence(A, 0.5, B).p == pytest.approx(
        pingouin.tost(A, B, bound=0.5, correction=True).iloc[0]["pval"], rel=1e-6
    )


def test_equivalence_without_spread_and_with_a_bad_margin() -> None:
    assert s.equivalence(CONSTANT, 0.4).p == pytest.approx(1 / 32)
    assert s.equivalence(CONSTANT, 0.3).p == 1.0
    assert s.equivalence(HIGHER, 0.25, CONSTANT).p == pytest.approx(1 / math.comb(9, 4))
    with pytest.raises(ValueError, match="positive"):
        s.equivalence(A, 0.0)


@pytest.mark.parametrize("equal", [True, False])
def test_anova_is_that_of_scipy(equal: bool) -> None:
    expected = stats.f_oneway(A, B, EIGEN, equal_var=equal)
    found = s.anova([A, B, EIGEN], equal)
    assert (found.statistic, found.p) == pytest.approx((expected.statistic, expected.pvalue))
    assert s.anova([A, B], equal).p == pytest.approx((s.student(A, B) if equal else s.welch(A, B, "different")).p)


def test_anova_where_groups_have_no_spread() -> None:
    imitation = A.mean() + (EIGEN - EIGEN.mean()) * np.sqrt(B.var(ddof=1) / EIGEN.var(ddof=1))  # B's variance, the smallest
    expected = stats.f_oneway(A, B, imitation, equal_var=False)
    found = s.anova([A, B, np.full(3, A.mean())], equal_variances=False)
    assert (found.statistic, found.p) == pytest.approx((expected.statistic, expected.pvalue))
    for equal in (True, False):
        assert s.anova([CONSTANT, CONSTANT, CONSTANT], equal).p == 1.0
        assert s.anova([CONSTANT, CONSTANT, HIGHER], equal).p == pytest.approx(3 * 2 / math.comb(9, 4))
    with pytest.raises(ValueError, match="two groups"):
        s.anova([A], True)


def games_howell(x: np.ndarray, y: np.ndarray, groups: int) -> float:
    v, w = x.var(ddof=1) / len(x), y.var(ddof=1) / len(y)
    df = (v + w) ** 2 / (v**2 / (len(x) - 1) + w**2 / (len(y) - 1))
    return stats.studentized_range.sf(abs(x.mean() - y.mean()) / math.sqrt((v + w) / 2), groups, df)


def test_pairs_of_groups_are_those_of_tukey_and_of_games_and_howell() -> None:
    groups = {"a": A, "b": B, "eigen": EIGEN}
    found = s.pairwise(groups, equal_variances=False)
    assert list(found) == [("a", "b"), ("a", "eigen"), ("b", "eigen")]
    for (one, other), p in found.items():
        assert p == pytest.approx(games_howell(groups[one], groups[other], 3), rel=1e-6)
    tukey = pairwise_tukeyhsd(np.concatenate([A, B, EIGEN]), np.repeat(["a", "b", "eigen"], [5, 7, 3]))
    assert list(s.pairwise(groups, equal_variances=True).values()) == pytest.approx(tukey.pvalues, abs=1e-4)


def test_pairs_of_groups_are_those_of_pingouin() -> None:
    pingouin = pytest.importorskip("pingouin", reason="an independent implementation: pip install pingouin")
    frame = {"y": np.concatenate([A, B, EIGEN]), "g": np.repeat(["a", "b", "eigen"], [5, 7, 3])}
    expected = pingouin.pairwise_gameshowell(pytest.importorskip("pandas").DataFrame(frame), dv="y", between="g")["pval"]
    assert list(s.pairwise({"a": A, "b": B, "eigen": EIGEN}, False).values()) == pytest.approx(expected.to_list(), abs=1e-4)


@pytest.mark.filterwarnings("error")
def test_pairs_without_spread_or_with_one_run() -> None:
    groups = {"flat": CONSTANT, "high": HIGHER, "a": A, "one": A[:1]}
    found = s.pairwise(groups, equal_variances=False)
    assert found["flat", "high"] == pytest.approx(6 * 2 / math.comb(9, 4))
    assert found["flat", "a"] == pytest.approx(games_howell(CONSTANT, A, 3), rel=1e-6)
    assert found["a", "one"] == found["flat", "one"] == 1.0
    assert s.pairwise({"flat": CONSTANT, "same": CONSTANT}, True) == {("flat", "same"): 1.0}
    assert s.pairwise({"one": A[:1], "other": A[:1]}, True) == {("one", "other"): 1.0}
    pooled = s.pairwise({"flat": CONSTANT, "high": HIGHER, "a": A}, equal_variances=True)
    assert pooled["flat", "high"] == pytest.approx(stats.tukey_hsd(CONSTANT, HIGHER, A).pvalue[0, 1])


def test_holm_on_a_fixed_vector() -> None:
    assert s.holm([0.01, 0.04, 0.03, math.nan, 0.5]) == pytest.approx([0.04, 0.09, 0.09, math.nan, 0.5], nan_ok=True)
    ps = np.random.default_rng(0).uniform(0, 0.2, 20)
    assert s.holm(ps) == pytest.approx(multipletests(ps, method="holm")[1])
    assert s.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert np.isnan(s.holm([math.nan])).all()
    assert len(s.holm([])) == 0


# What simulations found


def test_warnings_quote_what_was_measured() -> None:
    assert measured.size_warnings("Student t", 3) is None
    assert measured.size_warnings("no such test", 3) is None
    assert measured.size_warnings("permutation", 10) is None
    message = measured.size_warnings("permutation", 3)
    assert message is not None
    assert "two-sided" in message
    assert "0.0 % (normal, n = 3)" in message
    assert measured.size_warnings("BCa interval", 7) == measured.size_warnings("BCa interval", 5)
    assert measured.size_warnings("BCa interval", 2) == measured.size_warnings("BCa interval", 3)


@pytest.mark.parametrize(
    ("table", "limits"),
    [(measured.MEASURED_SIZE, measured.SIZE_LIMITS), (measured.MEASURED_COVERAGE, measured.COVERAGE_LIMITS)],
    ids=["size", "coverage"],
)
def test_every_exception_is_warned_of(table: dict[tuple[str, str], dict[int, float]], limits: tuple[float, float]) -> None:
    for (name, distribution), row in table.items():
        for n, share in row.items():
            quoted = f"({distribution}, n = {n})" in (measured.size_warnings(name, n) or "")
            assert quoted == (not limits[0] <= share <= limits[1])


# Laws


@settings(max_examples=50)
@given(RUNS, RUNS)
def test_changing_every_sign_changes_the_sign_of_what_is_found(a: np.ndarray, b: np.ndarray) -> None:
    assume(np.ptp(a) > 0 or np.ptp(b) > 0)
    for name in ("greater", "less"):
        opposite: s.Direction = "less" if name == "greater" else "greater"
        for test in (s.welch, lambda x, y, d: s.permutation(x, y, d, rng()), lambda x, y, d: orders.jonckheere([y, x], d)):
            assert test(a, b, name).p == pytest.approx(test(-a, -b, opposite).p, abs=1e-9)
    assert s.welch(-a, -b, "different").statistic == pytest.approx(-s.welch(a, b, "different").statistic)
    assert s.hedges_g(-a, -b)[0] == pytest.approx(-s.hedges_g(a, b)[0])
    low, high = ends(s.difference_interval(a, b))
    assert ends(s.difference_interval(-a, -b)) == pytest.approx((-high, -low))
    low, high = ends(s.t_interval(a))
    assert ends(s.t_interval(-a)) == pytest.approx((-high, -low))
    assert s.equivalence(-a, 2.0, -b).p == pytest.approx(s.equivalence(a, 2.0, b).p, abs=1e-9)


@settings(max_examples=50)
@given(RUNS, RUNS, st.sampled_from([0.25, 2.0, 64.0]), st.sampled_from([-16.0, 0.5, 100.0]))
def test_units_and_origin_do_not_matter(a: np.ndarray, b: np.ndarray, unit: float, origin: float) -> None:
    assume(np.ptp(a) > 0 or np.ptp(b) > 0)
    x, y = unit * a + origin, unit * b + origin
    assert s.welch(x, y, "greater", unit).p == pytest.approx(s.welch(a, b, "greater", 1.0).p, abs=1e-6)
    assert s.permutation(x, y, "less", rng(), unit).p == pytest.approx(s.permutation(a, b, "less", rng(), 1.0).p)
    assert orders.jonckheere([x, y], "greater").p == pytest.approx(orders.jonckheere([a, b], "greater").p)
    assert s.equivalence(x, unit, y).p == pytest.approx(s.equivalence(a, 1.0, b).p, abs=1e-6)
    assert s.hedges_g(x, y)[0] == pytest.approx(s.hedges_g(a, b)[0], rel=1e-6, abs=1e-9)
    assert s.anova([x, y], True).p == pytest.approx(s.anova([a, b], True).p, abs=1e-6)


@given(RUNS, RUNS, st.floats(-50, 50))
def test_an_interval_holds_what_its_test_does_not_reject(a: np.ndarray, b: np.ndarray, shift: float) -> None:
    assume(np.ptp(a) > 0 or np.ptp(b) > 0)
    low, high = ends(s.difference_interval(a, b))
    assume(min(abs(shift - low), abs(shift - high)) > 1e-6)
    assert (low < shift < high) == (s.welch(a, b, "different", shift).p > 0.05)


@settings(max_examples=5)  # the studentised range is slow
@given(RUNS, RUNS, RUNS)
def test_no_p_is_nan(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
    tests = [test for direction in DIRECTIONS for test in (s.welch(a, b, direction), s.one_sample(a, direction, b[0]))]
    tests += [s.student(a, b), s.equivalence(a, 1.0, b), s.equivalence(a, 1.0), s.permutation(a, b, "different", rng())]
    tests += [s.anova([a, b, c], equal) for equal in (True, False)]
    tests += [orders.jonckheere([a, b, c], "greater"), s.paired(a[:3], b[:3], "less"), s.sign_flip(a, "different", rng())]
    ps = [test.p for test in tests]
    for equal in (True, False):
        ps += s.pairwise({"a": a, "b": b, "c": c}, equal).values()
    assert all(0.0 <= p <= 1.0 for p in ps)
