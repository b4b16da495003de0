"""Power, against published numbers, statsmodels and simulation."""

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats import power as sm_power

from lit_degrade.evidence.numbers.power import power_at, runs_for_power


@pytest.mark.parametrize(
    ("n", "d", "power"),
    [(3, 1, 0.16), (3, 2, 0.46), (3, 3, 0.78), (5, 1, 0.29), (5, 2, 0.79), (5, 3, 0.985), (10, 1, 0.56), (10, 2, 0.99)],
)
def test_power_of_few_runs(n: int, d: float, power: float) -> None:
    assert power_at(d * 0.2, 0.2, n) == pytest.approx(power, abs=0.005)
    assert power_at(-d, 1.0, n) == pytest.approx(power_at(d, 1.0, n))


@pytest.mark.parametrize("two_sided", [True, False])
def test_power_is_that_of_statsmodels_and_of_simulation(two_sided: bool) -> None:
    alternative = "two-sided" if two_sided else "larger"
    assert power_at(1.2, 1.0, 6, 0.01, two_sided) == pytest.approx(
        sm_power.tt_ind_solve_power(1.2, 6, 0.01, alternative=alternative)
    )
    x, y = np.random.default_rng(0).normal(size=(2, 20_000, 6))
    p = stats.ttest_ind(x + 1.2, y, axis=1, alternative="two-sided" if two_sided else "greater").pvalue
    assert power_at(1.2, 1.0, 6, two_sided=two_sided) == pytest.approx((p <= 0.05).mean(), abs=0.01)


def test_power_rises_with_effect_and_runs_and_is_a_share() -> None:
    for n in (2, 10, 30, 1000):
        powers = [power_at(d, 1.0, n) for d in (0.0, 0.1, 0.5, 0.75, 1.5, 2.5, 17.5, 1e6)]
        assert powers[0] == pytest.approx(0.05)
        assert all(a <= b + 1e-9 for a, b in pairwise(powers))
        assert powers[-1] == pytest.approx(1.0)


@pytest.mark.parametrize(("effect", "runs"), [(1.0, 17), (-0.5, 64), (3.0, 4), (50.0, 2), (0.01, 156_979)])
def test_runs_for_power_are_the_fewest(effect: float, runs: int) -> None:
    assert runs_for_power(effect, 1.0) == runs
    assert power_at(effect, 1.0, runs) >= 0.8
    assert runs == 2 or power_at(effect, 1.0, runs - 1) < 0.8


def test_runs_for_power_agree_with_statsmodels() -> None:
    expected = sm_power.tt_ind_solve_power(0.9, power=0.9, alpha=0.01, alternative="larger")
    one_arm = sm_power.TTestPower().solve_power(0.9, alpha=0.01, power=0.9, alternative="larger")
    assert runs_for_power(1.8, 2.0, power=0.9, alpha=0.01, two_sided=False, arms=1) == math.ceil(one_arm)
    assert runs_for_power(1.8, 2.0, power=0.9, alpha=0.01, two_sided=False) == math.ceil(expected)


@pytest.mark.parametrize(("effect", "sd"), [(0.0, 1.0), (1.0, math.nan), (1.0, 0.0), (math.nan, 1.0), (1e-9, 1.0)])
def test_no_runs_are_planned_for_nothing(effect: float, sd: float) -> None:
    assert runs_for_power(effect, sd) is None
