"""Tests, intervals, effect sizes and power over independent runs: one value of each array is one run.

Arrays are 1-d, finite and in the unit of the outcome, and a difference is always mean(a) - mean(b), signed. No p-value here is
nan: where runs show no spread, or one arm has a single run, the functions say what they give instead.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

Direction = Literal["greater", "less", "different"]
"""The alternative hypothesis."""
Values = NDArray[np.float64]
SCIPY = {"greater": "greater", "less": "less", "different": "two-sided"}
RESAMPLES = 9_999
SEED = 0
"""Of every generator of a report: the same records give the same report."""
EXACT_ARRANGEMENTS = 200_000
"""Up to here every arrangement is looked at, so that ten runs against ten (184,756) are exact."""
ROUNDING = 1e-12
"""Relative to the largest value, a smaller spread or difference is taken for rounding."""


@dataclass(frozen=True)
class Interval:
    """Interval of confidence; both ends are nan where none can be had."""

    low: float
    high: float


@dataclass(frozen=True)
class Test:
    """Outcome of one test of a hypothesis."""

    __test__ = False  # not a class of tests, whatever pytest thinks of its name

    name: str
    """key of MEASURED_SIZE"""
    statistic: float
    """t, F, difference of means, ...; nan where there is none"""
    p: float
    """never nan"""
    smallest_p: float = 0.0
    """the least p that this test can give at these numbers of runs; 0 where there is no bound"""
    df: float | None = None
    """degrees of freedom of t, or of the denominator of F"""


NOWHERE = Interval(math.nan, math.nan)


def t_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Student's interval of the mean; a point for runs without spread, nan for fewer than two runs."""
    x = _runs(values)
    if len(x) < 2:
        return NOWHERE
    if flat(_scale(x), x):
        return Interval(float(x[0]), float(x[0]))
    return _interval(stats.ttest_1samp(x, 0.0).confidence_interval(level))


def bca_interval(values: ArrayLike, rng: np.random.Generator, level: float = 0.95) -> Interval:
    """Bias-corrected and accelerated bootstrap interval of the mean, from 9,999 resamples.

    A point for runs without spread, nan for fewer than two runs. Up to twenty runs it is too short: see MEASURED_COVERAGE.
    Source: Efron, "Better bootstrap confidence intervals", JASA 82 (1987).
    """
    x = _runs(values)
    if len(x) < 2:
        return NOWHERE
    if flat(_scale(x), x):
        return Interval(float(x[0]), float(x[0]))
    result = stats.bootstrap((x,), np.mean, n_resamples=RESAMPLES, confidence_level=level, method="BCa", rng=rng)
    return _interval(result.confidence_interval)


def difference_interval(a: ArrayLike, b: ArrayLike, level: float = 0.95) -> Interval:
    """Welch's interval of mean(a) - mean(b); a point where neither arm has spread, nan for fewer than two runs in an arm."""
    x, y = _runs(a), _runs(b)
    if min(len(x), len(y)) < 2:
        return NOWHERE
    if flat(_scale(x, y), x, y):
        return Interval(float(x[0] - y[0]), float(x[0] - y[0]))
    return _interval(_t_test(x, y, equal_var=False).confidence_interval(level))


def hedges_g(a: ArrayLike, b: ArrayLike, level: float = 0.95) -> tuple[float, Interval]:
    """Standardised difference g = d J with d = (mean(a) - mean(b)) / pooled sd, and an interval of its true value δ.

    J = 1 - 3 / (4 df - 1), the usual approximation to Γ(df/2) / (√(df/2) Γ((df-1)/2)) with df = n_a + n_b - 2; at df = 4 it is
    0.800, exact 0.798. The interval holds those δ under which a t as far out as the one seen is not rare: t follows the
    noncentral t distribution with noncentrality δ √(n_a n_b / (n_a + n_b)). J is no part of it, so that its coverage is exact
    for normal arms of equal variance.

    Returns: g and interval in pooled standard deviations; all nan where an arm has fewer than two runs or neither has spread.
    Source: Hedges, "Distribution theory for Glass's estimator", J. Educ. Stat. 6 (1981); Steiger and Fouladi, 1997.
    """
    x, y = _runs(a), _runs(b)
    if min(len(x), len(y)) < 2 or flat(_scale(x, y), x, y):
        return math.nan, NOWHERE
    df = len(x) + len(y) - 2
    t = float(_t_test(x, y, equal_var=True).statistic)
    root = math.sqrt(len(x) * len(y) / (len(x) + len(y)))
    low, high = (_noncentrality(t, df, (1 + side * level) / 2) / root for side in (1, -1))
    return t / root * (1 - 3 / (4 * df - 1)), Interval(low, high)


def _noncentrality(t: float, df: int, share: float) -> float:
    """The noncentrality under which `share` of the noncentral t distribution lies at or below t."""

    def excess(noncentrality: float) -> float:
        below = float(stats.nct.cdf(t, df, noncentrality))
        return (
            float(noncentrality < t) if math.isnan(below) else below
        ) - share  # SciPy gives nan for some values near 0 and 1

    reach = 10 + 4 * abs(t)
    return float(optimize.brentq(excess, -reach, reach, xtol=1e-10))


def welch(a: ArrayLike, b: ArrayLike, direction: Direction, shift: float = 0.0) -> Test:
    """Welch's t test of mean(a) - mean(b) > shift ("greater"), < shift ("less") or != shift ("different").

    One arm may be constant. Where both are, their spread is unknown rather than nought, and p is what an exact permutation test
    would give: 1 where the difference is the shift or lies the other way, else one arrangement of all (two where two-sided). An
    arm of one run gives p = 1.
    Source: Welch, "The generalization of Student's problem", Biometrika 34 (1947).
    """
    return _two_samples("Welch t", a, b, direction, shift, equal_variances=False)


def student(a: ArrayLike, b: ArrayLike) -> Test:
    """Two-sided t test with a pooled variance, as published comparisons often have it; without spread as in `welch`."""
    return _two_samples("Student t", a, b, "different", 0.0, equal_variances=True)


def _two_samples(name: str, a: ArrayLike, b: ArrayLike, direction: Direction, shift: float, equal_variances: bool) -> Test:
    """One of the two t tests of two independent samples."""
    x, y = _runs(a), _runs(b)
    if min(len(x), len(y)) < 2:
        return Test(name, math.nan, 1.0)
    scale = _scale(x, y, np.array([shift]))
    if flat(scale, x, y):
        return _without_spread(name, x.mean() - y.mean() - shift, scale, direction, math.comb(len(x) + len(y), len(x)))
    result = _t_test(x - shift, y, equal_var=equal_variances, alternative=SCIPY[direction])
    return Test(name, float(result.statistic), float(result.pvalue), df=float(result.df))


def _t_test(x: Values, y: Values, **options: Any) -> Any:
    """SciPy's t test, which warns of a loss of precision where one arm is constant; there nothing is lost."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return stats.ttest_ind(x, y, **options)


def paired(a: ArrayLike, b: ArrayLike, direction: Direction, shift: float = 0.0) -> Test:
    """Paired t test: `one_sample` of a - b, where a[i] and b[i] are one pair.

    Raises: ValueError: for arms of different lengths.
    """
    x, y = _runs(a), _runs(b)
    if len(x) != len(y):
        raise ValueError(f"Pairs need arms of equal length, got {len(x)} and {len(y)} runs.")
    return _one_sample("paired t", x - y, direction, shift, _scale(x, y, np.array([shift])))


def one_sample(values: ArrayLike, direction: Direction, shift: float = 0.0) -> Test:
    """Student's t test of the mean against `shift`.

    Runs without spread give what an exact sign-flip test would give: p = 1 where they equal the shift or lie on the other side
    of it, else 1 / 2^n (twice that where two-sided). A single run gives p = 1.
    Source: Student, "The probable error of a mean", Biometrika 6 (1908).
    """
    x = _runs(values)
    return _one_sample("one-sample t", x, direction, shift, _scale(x, np.array([shift])))


def _one_sample(name: str, x: Values, direction: Direction, shift: float, scale: float) -> Test:
    """t test of a mean; `scale` is the size of the numbers from which x was computed."""
    if len(x) < 2:
        return Test(name, math.nan, 1.0)
    if flat(scale, x):
        return _without_spread(name, x.mean() - shift, scale, direction, 2 ** len(x))
    result = stats.ttest_1samp(x, shift, alternative=SCIPY[direction])
    return Test(name, float(result.statistic), float(result.pvalue), df=float(result.df))


def permutation(a: ArrayLike, b: ArrayLike, direction: Direction, rng: np.random.Generator, shift: float = 0.0) -> Test:
    """Permutation test of mean(a) - mean(b) - shift, which is also its statistic.

    Exact up to EXACT_ARRANGEMENTS ways of dealing the runs to the arms, else over 9,999 random ones and the one seen. Three
    runs against three have 20 ways: the smallest p is 0.05, or 0.1 where two-sided (twice the smaller tail). An arm of one run
    gives p = 1.
    Source: Fisher, "The Design of Experiments" (1935); Phipson and Smyth 2010 for the random ones.
    """
    x, y = _runs(a) - shift, _runs(b)
    centre, scale = float(np.concatenate([x, y]).mean()), _scale(x, y, np.array([shift]))
    ways = math.comb(len(x) + len(y), len(x))
    return _rearranged("permutation", (x - centre, y - centre), scale, "independent", direction, ways, rng)


def differences(a: ArrayLike, b: ArrayLike) -> Values:
    """a[i] - b[i] of every pair, (n,); those that are rounding alone are 0."""
    x, y = _runs(a), _runs(b)
    return np.where(np.abs(x - y) <= ROUNDING * _scale(x, y), 0.0, x - y)


def sign_flip(differences: ArrayLike, direction: Direction, rng: np.random.Generator) -> Test:
    """Exact test of pairs: under the null hypothesis each difference might as well have had the other sign.

    Exact up to 17 pairs, else over 9,999 random flips; the statistic is the mean difference. Five pairs have 32 ways: the
    smallest p is 0.03125, or 0.0625 where two-sided. The differences must be symmetric about nought, as those of pairs are.
    Source: Fisher, "The Design of Experiments" (1935), section 21.
    """
    x = _runs(differences)
    return _rearranged("sign flip", (x,), _scale(x), "samples", direction, 2 ** len(x), rng)


def _rearranged(
    name: str, samples: tuple[Values, ...], scale: float, kind: str, direction: Direction, ways: int, rng: np.random.Generator
) -> Test:
    """Permutation test of one mean or of the difference of two, rounded so that equal arrangements count as equal.

    `scale` is the size of the numbers from which the samples were computed.
    """
    if min(map(len, samples)) < 2:
        return Test(name, math.nan, 1.0, 1.0)
    scale = scale or 1.0

    def statistic(*parts: Values, axis: int) -> Values:
        means = [part.mean(axis=axis) / scale for part in parts]
        return np.round(means[0] - sum(means[1:]), 12)

    exact = ways <= EXACT_ARRANGEMENTS
    count = np.inf if exact else RESAMPLES
    result = stats.permutation_test(
        samples, statistic, permutation_type=kind, vectorized=True, n_resamples=count, alternative=SCIPY[direction], rng=rng
    )
    smallest = least_p(ways if exact else RESAMPLES + 1, direction)
    return Test(name, float(result.statistic) * scale, float(result.pvalue), smallest)


def equivalence(a: ArrayLike, margin: float, b: ArrayLike | None = None) -> Test:
    """Two one-sided t tests that a mean, or mean(a) - mean(b) by Welch, lies between -margin and margin; p is the larger one.

    Runs without spread are judged as in `one_sample` and `welch`. Where the margin is below about three standard errors it
    seldom rejects, so that its size may be far below 5 %.

    Raises: ValueError: for a margin that is not positive.
    Source: Schuirmann, "A comparison of the two one-sided tests procedure", J. Pharmacokinet. Biopharm. 15 (1987).
    """
    if not margin > 0:
        raise ValueError(f"A margin of equivalence is positive, got {margin}.")
    if b is None:
        tests, name = [one_sample(a, "greater", -margin), one_sample(a, "less", margin)], "one-sample TOST"
    else:
        tests, name = [welch(a, b, "greater", -margin), welch(a, b, "less", margin)], "Welch TOST"
    return replace(max(tests, key=lambda test: test.p), name=name)


def anova(groups: Sequence[ArrayLike], equal_variances: bool) -> Test:
    """One-way analysis of variance of at least two groups, Welch's where the variances may differ.

    Welch's divides by each group's variance: a group without spread is given the smallest variance of the others. Where no
    group has spread, p is that of the best pair (see `welch`) times the number of pairs. A group of one run gives p = 1.

    Raises: ValueError: for fewer than two groups.
    Source: Welch, "On the comparison of several mean values", Biometrika 38 (1951).
    """
    from statsmodels.stats.oneway import anova_generic

    name = "ANOVA" if equal_variances else "Welch ANOVA"
    arrays = checked_groups(groups)
    if min(map(len, arrays)) < 2:
        return Test(name, math.nan, 1.0)
    scale = _scale(*arrays)
    if flat(scale, *arrays):
        ps = [student(x, y).p for x, y in combinations(arrays, 2)]
        return Test(name, math.nan, min(1.0, len(ps) * min(ps)))
    means, sizes = np.array([x.mean() for x in arrays]), np.array([len(x) for x in arrays])
    variances = np.array([x.var(ddof=1) for x in arrays])
    constant = np.array([flat(scale, x) for x in arrays])
    if not equal_variances:
        variances[constant] = variances[~constant].min()
    result = anova_generic(means, variances, sizes, use_var="equal" if equal_variances else "unequal")
    return Test(name, float(result.statistic), float(result.pvalue), df=float(result.df_denom))


def pairwise(groups: Mapping[str, ArrayLike], equal_variances: bool) -> dict[tuple[str, str], float]:
    """Family-wise p of every pair: Tukey-Kramer, or Games-Howell where the variances may differ.

    A pair without spread has p as in `welch` times the number of pairs; a pair with a group of one run has p = 1.
    Sources: Tukey 1949; Kramer 1956; Games and Howell, J. Educ. Stat. 1 (1976).
    """
    arrays = {name: _runs(values) for name, values in groups.items()}
    pairs = list(combinations(arrays, 2))
    tested = [name for name, x in arrays.items() if len(x) > 1]
    table = _studentised_range([arrays[name] for name in tested], equal_variances)
    ps = {}
    for one, other in pairs:
        p = table[tested.index(one), tested.index(other)] if {one, other} <= set(tested) else 1.0
        if math.isnan(p):
            p = min(1.0, len(pairs) * student(arrays[one], arrays[other]).p)
        ps[one, other] = float(p)
    return ps


def _studentised_range(arrays: list[Values], equal_variances: bool) -> Values:
    """Matrix of p over groups, nan where the variance of a difference would be nought."""
    if len(arrays) < 2:
        return np.ones((1, 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        table = stats.tukey_hsd(*arrays, equal_var=equal_variances).pvalue
    scale = _scale(*arrays)
    constant = np.array([flat(scale, x) for x in arrays])
    table[np.all(constant) if equal_variances else np.logical_and.outer(constant, constant)] = np.nan
    return cast(Values, table)


def holm(ps: ArrayLike) -> Values:
    """p-values (m,) adjusted for their family by Holm's step-down method; a nan stays one and does not count.

    0.01, 0.04, 0.03 give 0.03, 0.06, 0.06. Source: Holm, Scand. J. Stat. 6 (1979). (statsmodels' multipletests collects the
    garbage of the whole process at every call, which takes longer than all the rest of a report.)
    """
    adjusted = np.array(ps, dtype=np.float64)
    known = np.flatnonzero(~np.isnan(adjusted))
    order = known[np.argsort(adjusted[known], kind="stable")]
    steps = adjusted[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def _runs(values: ArrayLike) -> Values:
    """Checked float64 array (n,) of at least one run."""
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or not len(x) or not np.isfinite(x).all():
        bad = int(np.sum(~np.isfinite(x)))
        raise ValueError(f"Expected a 1-d array of finite values, one per run; got shape {x.shape}, {bad} not finite.")
    return x


def checked_groups(groups: Sequence[ArrayLike]) -> list[Values]:
    """Checked arrays of at least two groups."""
    if len(groups) < 2:
        raise ValueError(f"Expected at least two groups, got {len(groups)}.")
    return [_runs(values) for values in groups]


def _scale(*arrays: Values) -> float:
    """Largest absolute value, to which rounding is relative."""
    return max(float(np.abs(x).max()) for x in arrays)


def rounded(values: Values) -> Values:
    """Values relative to the largest, of any shape, so that those which differ by rounding alone are ties."""
    return np.round(values / (_scale(values) or 1.0), 12)


def flat(scale: float, *arrays: Values) -> bool:
    """Whether no array has spread, but for rounding."""
    return all(float(np.ptp(x)) <= ROUNDING * scale for x in arrays)


def least_p(ways: int, direction: Direction) -> float:
    """The smallest p of an exact test over so many arrangements."""
    return min(1.0, (2 if direction == "different" else 1) / ways)


def _without_spread(name: str, difference: float, scale: float, direction: Direction, ways: int) -> Test:
    """What runs without spread can say: at most that theirs is one arrangement of all."""
    if abs(difference) <= ROUNDING * scale:
        return Test(name, 0.0, 1.0, least_p(ways, direction))
    agrees = direction == "different" or (difference > 0) == (direction == "greater")
    least = least_p(ways, direction)
    return Test(name, math.copysign(math.inf, difference), least if agrees else 1.0, least)


def _interval(interval: Any) -> Interval:
    """SciPy's interval as plain floats."""
    return Interval(float(interval.low), float(interval.high))
