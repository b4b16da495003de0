"""Size of the tests and coverage of the intervals, simulated: MEASURED_SIZE and MEASURED_COVERAGE are what comes out here.

Null hypotheses are true in every simulation. "normal" is the normal distribution, "heavy tails" Student's t with 3 degrees of
freedom, "skewed" the exponential. Tests are two-sided but for TOST, whose true mean lies on its margin of one standard
deviation, and for Jonckheere's, which looks for a rise over three groups; the analyses of variance have three groups. Hedges' g
has a true value of 1. The slow test fills the tables: 100,000 simulations a cell, 25,000 for BCa and permutations at n = 10.
"""

from collections.abc import Callable, Sequence
from itertools import combinations, product

import numpy as np
import pytest
from scipy import stats

from lit_degrade.evidence.numbers import orders, statistics
from lit_degrade.evidence.numbers.sizes import MEASURED_COVERAGE, MEASURED_SIZE

DRAWS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]] = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "heavy tails": lambda rng, shape: rng.standard_t(3, size=shape) / np.sqrt(3),
    "skewed": lambda rng, shape: rng.exponential(size=shape) - 1,
}
"""All of mean 0 and standard deviation 1."""
SIZES, COVERAGE_SIZES = (3, 4, 5, 6, 10), (3, 5, 10, 20)
FULL, FULL_COSTLY = 100_000, 25_000
FAST, FAST_COSTLY = 4_000, 1_000


def permutation_ps(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Two-sided p of every row by all arrangements."""
    n, total = x.shape[1], x.shape[1] + y.shape[1]
    chosen = np.zeros((total, len(list(combinations(range(total), n)))), dtype=np.float32)
    for column, arm in enumerate(combinations(range(total), n)):
        chosen[list(arm), column] = 1
    return tails(np.concatenate([x, y], 1), chosen)


def sign_flip_ps(x: np.ndarray) -> np.ndarray:
    signs = np.array(list(product((1, -1), repeat=x.shape[1])), dtype=np.float32).T
    return tails(x, signs)


def tails(rows: np.ndarray, arrangements: np.ndarray) -> np.ndarray:
    """Twice the smaller tail of the first arrangement, which is the one seen."""
    ps = []
    for chunk in np.array_split(rows.astype(np.float32), max(1, len(rows) * arrangements.shape[1] // 4_000_000)):
        sums = chunk @ arrangements
        above, below = (sums >= sums[:, :1]).mean(1), (sums <= sums[:, :1]).mean(1)
        ps.append(np.minimum(1.0, 2 * np.minimum(above, below)))
    return np.concatenate(ps)


def ind(x: np.ndarray, y: np.ndarray, equal: bool, alternative: str = "two-sided") -> np.ndarray:
    return stats.ttest_ind(x, y, axis=1, equal_var=equal, alternative=alternative).pvalue


def one(x: np.ndarray, alternative: str = "two-sided") -> np.ndarray:
    return stats.ttest_1samp(x, 0.0, axis=1, alternative=alternative).pvalue


def tost_ps(x: np.ndarray, y: np.ndarray | None) -> np.ndarray:
    """p of every row that a mean, or a difference of two, lies within 1 of nought."""
    if y is None:
        return np.maximum(one(x + 1, "greater"), one(x - 1, "less"))
    return np.maximum(ind(x + 1, y, False, "greater"), ind(x - 1, y, False, "less"))


def jonckheere_ps(groups: Sequence[np.ndarray]) -> np.ndarray:
    counts = np.array(orders._concordant_counts(tuple(g.shape[1] for g in groups)), dtype=float)
    j = sum((b[:, :, None] > a[:, None, :]).sum((1, 2)) for a, b in combinations(groups, 2))
    return (counts[::-1].cumsum()[::-1] / counts.sum())[j]


def anova_ps(groups: Sequence[np.ndarray], equal: bool) -> np.ndarray:
    return stats.f_oneway(*groups, axis=1, equal_var=equal).pvalue


TESTS: dict[str, tuple[int, Callable[..., np.ndarray], Callable[..., statistics.Test]]] = {
    "Welch t": (2, lambda x, y: ind(x, y, False), lambda x, y, _: statistics.welch(x, y, "different")),
    "Student t": (2, lambda x, y: ind(x, y, True), lambda x, y, _: statistics.student(x, y)),
    "paired t": (2, lambda x, y: one(x - y), lambda x, y, _: statistics.paired(x, y, "different")),
    "one-sample t": (1, one, lambda x, _: statistics.one_sample(x, "different")),
    "permutation": (2, permutation_ps, lambda x, y, rng: statistics.permutation(x, y, "different", rng)),
    "sign flip": (1, sign_flip_ps, lambda x, rng: statistics.sign_flip(x, "different", rng)),
    "one-sample TOST": (1, lambda x: tost_ps(x + 1, None), lambda x, _: statistics.equivalence(x + 1, 1.0)),
    "Welch TOST": (2, lambda x, y: tost_ps(x + 1, y), lambda x, y, _: statistics.equivalence(x + 1, 1.0, y)),
    "ANOVA": (3, lambda *g: anova_ps(g, True), lambda x, y, z, _: statistics.anova([x, y, z], True)),
    "Welch ANOVA": (3, lambda *g: anova_ps(g, False), lambda x, y, z, _: statistics.anova([x, y, z], False)),
    "Jonckheere-Terpstra": (3, lambda *g: jonckheere_ps(g), lambda x, y, z, _: orders.jonckheere([x, y, z], "greater")),
}
"""Arms, p of every row of a simulation, and the function under test for one row."""


def covers_t(x: np.ndarray) -> np.ndarray:
    low, high = stats.ttest_1samp(x, 0, axis=1).confidence_interval()
    return (low <= 0) & (high >= 0)


def covers_bca(x: np.ndarray) -> np.ndarray:
    """Over the module's own number of resamples, which the rows of a chunk share."""
    rng, resamples, held = np.random.default_rng(3), statistics.RESAMPLES, []
    for chunk in np.array_split(x, max(1, len(x) * resamples // 2_000_000)):
        low, high = stats.bootstrap((chunk,), np.mean, axis=1, n_resamples=resamples, rng=rng).confidence_interval
        held.append((low <= 0) & (high >= 0))
    return np.concatenate(held)


def covers_g(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Whether 1, the true standardised difference, is one that the noncentral t does not find rare."""
    n = x.shape[1]
    below = stats.nct.cdf(stats.ttest_ind(x + 1, y, axis=1).statistic, 2 * n - 2, np.sqrt(n / 2))
    return (below >= 0.025) & (below <= 0.975)


def covers_welch(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    low, high = stats.ttest_ind(x, y, axis=1, equal_var=False).confidence_interval()
    return (low <= 0) & (high >= 0)


INTERVALS: dict[str, tuple[int, Callable[..., np.ndarray], Callable[..., statistics.Interval], float]] = {
    "t interval": (1, covers_t, statistics.t_interval, 0.0),
    "BCa interval": (1, covers_bca, lambda x: statistics.bca_interval(x, np.random.default_rng(4)), 0.0),
    "Welch interval": (2, covers_welch, statistics.difference_interval, 0.0),
    "Hedges g interval": (2, covers_g, lambda x, y: statistics.hedges_g(x + 1, y)[1], 1.0),
}
"""Arms, whether each row's interval holds the true value, the function under test for one row, and the true value."""


def rejected(name: str, distribution: str, n: int, simulations: int, costly: int) -> tuple[float, int]:
    """Share of p up to 5 %, and the number of simulations behind it."""
    count = costly if (name, n) == ("permutation", 10) else simulations
    return simulate(TESTS[name][0], distribution, n, count, lambda *arms: TESTS[name][1](*arms) <= 0.05 + 1e-9), count


def covered(name: str, distribution: str, n: int, simulations: int, costly: int) -> tuple[float, int]:
    count = costly if name == "BCa interval" else simulations
    return simulate(INTERVALS[name][0], distribution, n, count, INTERVALS[name][1]), count


def simulate(arms: int, distribution: str, n: int, count: int, happens: Callable[..., np.ndarray]) -> float:
    rng = np.random.default_rng([2024, arms, n])
    return float(happens(*(DRAWS[distribution](rng, (count, n)) for _ in range(arms))).mean())


def assert_as_measured(row: dict[int, float], found: dict[int, tuple[float, int]], costly: bool) -> None:
    """Within 4.5 standard errors of the difference, and rounding to four places."""
    assert row.keys() == found.keys(), found
    for n, (share, count) in found.items():
        table_count = FULL_COSTLY if costly else FULL
        error = np.sqrt(row[n] * (1 - row[n]) * (1 / count + 1 / table_count))
        assert abs(share - row[n]) <= 4.5 * error + 1e-4, found


@pytest.mark.parametrize("distribution", DRAWS)
@pytest.mark.parametrize("name", TESTS)
def test_sizes_are_those_of_the_table(name: str, distribution: str) -> None:
    found = {n: rejected(name, distribution, n, FAST, FAST_COSTLY // 4) for n in SIZES}
    assert_as_measured(MEASURED_SIZE[name, distribution], found, name == "permutation")


@pytest.mark.parametrize("distribution", DRAWS)
@pytest.mark.parametrize("name", INTERVALS)
def test_coverages_are_those_of_the_table(name: str, distribution: str) -> None:
    found = {n: covered(name, distribution, n, FAST, FAST_COSTLY // 2) for n in COVERAGE_SIZES}
    assert_as_measured(MEASURED_COVERAGE[name, distribution], found, name == "BCa interval")


@pytest.mark.slow
@pytest.mark.parametrize("distribution", ["skewed"])  # the others take as long and are made in the same way
def test_the_tables_are_what_comes_out(distribution: str) -> None:
    sizes = {test: {n: round(rejected(test, distribution, n, FULL, FULL_COSTLY)[0], 4) for n in SIZES} for test in TESTS}
    print(sizes)  # what to put into the tables where a test here fails
    coverage = {
        interval: {n: round(covered(interval, distribution, n, FULL, FULL_COSTLY)[0], 4) for n in COVERAGE_SIZES}
        for interval in INTERVALS
    }
    print(coverage)
    for measured, table in ((sizes, MEASURED_SIZE), (coverage, MEASURED_COVERAGE)):
        assert {(name, drawn) for name in measured for drawn in DRAWS} == table.keys()
        for name, row in measured.items():
            assert row == pytest.approx(table[name, distribution], abs=2e-4), name


@pytest.mark.parametrize("name", TESTS)
@pytest.mark.parametrize("n", [3, 5])
def test_the_functions_are_what_was_simulated(name: str, n: int) -> None:
    rng = np.random.default_rng(n)
    arms, every, single = TESTS[name]
    rows = [DRAWS["normal"](rng, (10, n)) for _ in range(arms)]
    outcomes = [single(*row, rng) for row in zip(*rows, strict=True)]
    assert [o.p for o in outcomes] == pytest.approx(every(*rows), abs=1e-6)
    assert {o.name for o in outcomes} == {name}


@pytest.mark.parametrize("name", INTERVALS)
def test_the_intervals_are_what_was_simulated(name: str) -> None:
    arms, every, single, true = INTERVALS[name]
    rng = np.random.default_rng(8)
    rows = [DRAWS["skewed"](rng, (60, 5)) for _ in range(arms)]
    intervals = [single(*row) for row in zip(*rows, strict=True)]
    held = [i.low <= true <= i.high for i in intervals]
    disagreements = int(np.sum(held != every(*rows)))
    assert disagreements <= (2 if name == "BCa interval" else 0)  # other resamples move an end by a little
    assert 0 < sum(held) < 60
