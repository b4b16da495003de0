"""Curves of damage over size, and the slope over subjects."""

import math
import warnings

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from lit_degrade.evidence.numbers.scaling import Fit, Slope, _slope, fit_scaling, size_slope

SIZES = np.array([70e6, 160e6, 410e6, 1e9, 2.8e9])
N = np.repeat(SIZES, 8)
CURVES = {
    "constant": lambda n: np.full_like(n, 3.0),
    "linear": lambda n: 12.0 - 1.2 * np.log10(n),
    "power": lambda n: 0.5 * (n / 2.8e9) ** -0.6,
    "exponential": lambda n: 4.0 * np.exp(-2.0 * n / 2.8e9),
}
TRUE = {
    "constant": (3.0,), "linear": (12.0, -1.2), "power": (0.5, -0.6), "exponential": (4.0, -2.0),
}  # fmt: skip


def by_name(fits: list[Fit]) -> dict[str, Fit]:
    return {fit.name: fit for fit in fits}


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("name", CURVES)
def test_an_exact_curve_is_found_again(name: str, sign: float) -> None:
    fits = fit_scaling(N, sign * CURVES[name](N))
    assert fits[0].name == name
    assert fits[0].parameters == pytest.approx(
        (sign * TRUE[name][0], *(sign * b if name == "linear" else b for b in TRUE[name][1:]))
    )
    elsewhere = np.array([1e7, 6e8, 1.2e10])
    assert fits[0].predict(elsewhere) == pytest.approx(sign * CURVES[name](elsewhere))


def noisy(name: str, sd: float, seed: int) -> np.ndarray:
    return CURVES[name](N) + np.random.default_rng(seed).normal(scale=sd, size=N.shape)


@pytest.mark.parametrize("name", CURVES)
def test_every_curve_is_least_squares(name: str) -> None:
    y = noisy(name, 0.3, 1)
    fits = by_name(fit_scaling(N, y))
    x, scaled = np.log10(N), N / N.max()
    assert fits["constant"].parameters == pytest.approx((y.mean(),))
    assert fits["linear"].parameters == pytest.approx(sm.OLS(y, sm.add_constant(x)).fit().params)
    for curve, function in (("power", lambda s, a, b: a * s**b), ("exponential", lambda s, a, b: a * np.exp(b * s))):
        fit = fits[curve]
        again = optimize.curve_fit(function, scaled, y, p0=fit.parameters, xtol=1e-14, ftol=1e-14)[0]
        assert fit.parameters == pytest.approx(again, rel=1e-4, abs=1e-4)
        starts = [(a, b) for a in (0.1, 1.0, 5.0, -1.0) for b in (-3.0, -0.5, 0.1, 1.0)]
        others = [optimize.least_squares(lambda p: function(scaled, *p) - y, start).cost * 2 for start in starts]  # noqa: B023
        assert fit.rss <= min(others) * (1 + 1e-9)
    for fit in fits.values():
        assert fit.converged
        assert fit.rss == pytest.approx(float(np.sum((y - fit.predict(N)) ** 2)))


def test_aicc_by_hand() -> None:
    n, y = np.array([1e6, 1e6, 1e7, 1e7, 1e8, 1e8]), np.array([1.0, 2.0, 3.0, 5.0, 4.0, 6.0])
    fits = by_name(fit_scaling(n, y))
    assert fits["constant"].rss == pytest.approx(17.5)
    assert fits["constant"].aicc == pytest.approx(6 * math.log(17.5 / 6) + 4 + 12 / 3)
    assert fits["linear"].parameters == pytest.approx((-8.75, 1.75))
    assert fits["linear"].rss == pytest.approx(5.25)
    assert fits["linear"].aicc == pytest.approx(6 * math.log(5.25 / 6) + 6 + 24 / 2)


def test_four_means_cannot_tell_curves_apart() -> None:
    fits = fit_scaling(SIZES[:4], [3.3, 7.35, 3.94, 2.56])
    assert fits[0].name == "constant"
    assert math.isfinite(fits[0].aicc)
    assert all(math.isnan(fit.aicc) for fit in fits[1:])


@pytest.mark.parametrize("name", ["linear", "power", "exponential"])
def test_aicc_picks_the_curve_that_made_the_data(name: str) -> None:
    picked = [fit_scaling(N, noisy(name, 0.15, seed))[0].name for seed in range(60)]
    assert np.mean([p == name for p in picked]) >= 0.9


def test_aicc_mostly_picks_the_constant_where_there_is_no_trend() -> None:
    """Any curve of one more coefficient wins where chance improves it by 2 units of likelihood: about one time in six."""
    picked = [fit_scaling(N, noisy("constant", 0.3, seed))[0].name for seed in range(100)]
    assert 0.7 <= np.mean([p == "constant" for p in picked]) <= 0.95


def test_exact_data_prefer_the_simplest_curve() -> None:
    for y in (np.zeros_like(N), np.full_like(N, -0.7)):
        fits = fit_scaling(N, y)
        assert fits[0].name == "constant"
        assert not any(math.isnan(fit.aicc) for fit in fits)


def test_a_spike_at_one_size_has_no_rate_and_says_so() -> None:
    fits = fit_scaling(N, 5.0 * np.isin(N, SIZES[0]) + np.random.default_rng(0).normal(scale=1e-3, size=N.shape))
    for fit in fits:
        if fit.name in ("power", "exponential"):
            assert not fit.converged
            assert fit.aicc == math.inf
    assert [fit.converged for fit in fits] == [True, True, False, False]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "sizes", [[1e6, 1.001e6, 1e10], [14e6, 31e6, 70e6, 160e6, 410e6, 1e9, 1.4e9, 2.8e9, 6.9e9, 12e9], [1e8, 9.9e9, 1e10]]
)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_sizes_close_together_or_far_apart_are_fitted_as_well(sizes: list[float], sign: float) -> None:
    n = np.repeat(sizes, 5)
    for slope in (-2.0, -0.3, 0.0, 0.3, 2.0):
        y = sign * (1 + slope * np.log10(n / n.max())) + np.random.default_rng(1).normal(scale=0.2, size=n.shape)
        fits = by_name(fit_scaling(n, y))
        for name, u in (("power", np.log(n / n.max())), ("exponential", n / n.max())):
            assert np.isfinite(fits[name].predict(n)).all()
            starts = [
                (y.max() if a else y.min(), b)
                for a in (0, 1)
                for b in (-100, -30, -10, -3, -1, -0.3, 0, 0.3, 1, 3, 10, 30, 100)
            ]
            with np.errstate(all="ignore"):
                costs = [float(np.sum((y - a * np.exp(b * (u - u.max()))) ** 2)) for a, b in starts]
                best = optimize.least_squares(lambda p: p[0] * np.exp(p[1] * u) - y, starts[int(np.nanargmin(costs))])  # noqa: B023
            assert fits[name].rss <= 2 * best.cost * (1 + 1e-8)


@pytest.mark.filterwarnings("error")
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1e-3, 1.0, 50.0]))
def test_changing_every_sign_or_the_unit_changes_only_that(seed: int, unit: float) -> None:
    rng = np.random.default_rng(seed)
    y = rng.normal(size=N.shape) + rng.normal() * np.log10(N / 1e9)
    fits = fit_scaling(N, y)
    for factor in (-1.0, unit):
        other = by_name(fit_scaling(N, factor * y))
        for fit in fits:
            assert other[fit.name].parameters[0] == pytest.approx(factor * fit.parameters[0], rel=1e-3, abs=1e-4 * abs(factor))
            assert other[fit.name].rss == pytest.approx(factor**2 * fit.rss)
            assert other[fit.name].predict(SIZES) == pytest.approx(
                factor * fit.predict(SIZES), rel=1e-3, abs=1e-4 * abs(factor)
            )
        assert size_slope(N, factor * y).slope == pytest.approx(factor * size_slope(N, y).slope)
        assert size_slope(N, factor * y).p == pytest.approx(size_slope(N, y).p)


# Slopes


def test_slope_over_sizes_is_least_squares_of_their_means() -> None:
    y = noisy("linear", 0.5, 2)
    means = y.reshape(5, 8).mean(1)
    ols = sm.OLS(means, sm.add_constant(np.log10(SIZES))).fit()
    found = size_slope(N[::-1], y[::-1], level=0.9)
    assert (found.slope, found.p) == pytest.approx((ols.params[1], ols.pvalues[1]))
    assert (found.interval.low, found.interval.high) == pytest.approx(ols.conf_int(0.1)[1])
    assert (found.df, found.sizes) == (3, 5)


def run_level_slope(n: np.ndarray, damage: np.ndarray) -> Slope:
    """What takes every run for a subject of its own: the mistake that `size_slope` does not make."""
    return _slope(n, damage, 0.95)


def test_slope_over_runs_is_least_squares_of_all_of_them() -> None:
    y = noisy("linear", 0.5, 2)
    ols = sm.OLS(y, sm.add_constant(np.log10(N))).fit()
    found = run_level_slope(N, y)
    assert (found.slope, found.p) == pytest.approx((ols.params[1], ols.pvalues[1]))
    assert (found.interval.low, found.interval.high) == pytest.approx(ols.conf_int()[1])
    assert (found.df, found.sizes) == (38, 5)


@pytest.mark.parametrize("seed", range(4))
def test_slope_over_sizes_is_that_of_the_mixed_model(seed: int) -> None:
    rng = np.random.default_rng(seed)
    y = noisy("linear", 0.3, seed) + np.repeat(rng.normal(size=5), 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mixed = sm.MixedLM(y, sm.add_constant(np.log10(N) - 8.5), groups=np.repeat(np.arange(5), 8)).fit(reml=True)
    assert mixed.converged
    assert mixed.cov_re[0, 0] > 0.01
    found = size_slope(N, y)
    assert found.slope == pytest.approx(mixed.fe_params[1], rel=1e-5)
    half = (found.interval.high - found.interval.low) / 2
    assert half / 3.182446 == pytest.approx(mixed.bse_fe[1], rel=1e-3), (
        "the standard error, by the t quantile of 3 degrees of freedom"
    )


def rejections(slope: object, simulations: int = 1000) -> float:
    """Share of p up to 5 % where damage differs between subjects but does not depend on size."""
    rng = np.random.default_rng(5)
    ps = [slope(N, rng.normal(scale=0.3, size=40) + np.repeat(rng.normal(size=5), 8)).p for _ in range(simulations)]
    return float(np.mean(np.array(ps) <= 0.05))


def test_runs_are_not_subjects() -> None:
    assert 0.03 <= rejections(size_slope) <= 0.07
    assert rejections(run_level_slope, 200) > 0.4


@pytest.mark.filterwarnings("error")
def test_damage_that_is_the_same_everywhere_has_no_slope() -> None:
    for slope in (size_slope, run_level_slope):
        found: Slope = slope(N, np.full_like(N, 0.3))
        assert (found.slope, found.interval.low, found.interval.high, found.p) == (0.0, 0.0, 0.0, 1.0)


def test_an_exact_line_is_not_certain() -> None:
    """Three points without residual, one run each: the slope is theirs, and nothing is known of its error."""
    found = size_slope([1e6, 1e7, 1e8], [0.1, 0.4, 0.7])
    assert (found.slope, found.interval.low, found.interval.high) == pytest.approx((0.3, 0.3, 0.3))
    assert (found.error, found.p) == (0.0, 1.0)
    assert size_slope([1e6, 1e7, 1e8], [0.1, 0.4, 0.7 + 1e-6]).p < 1e-4


@pytest.mark.parametrize(
    ("n", "damage", "message"),
    [
        ([1e6, 1e7], [1.0], "one size for each run"),
        ([1e6, -1.0], [1.0, 2.0], "positive"),
        ([1e6, 1e7], [1.0, math.nan], "finite"),
        ([1e6, 1e6], [1.0, 2.0], "different sizes, got 1"),
    ],
)
def test_what_cannot_be_fitted_is_refused(n: list[float], damage: list[float], message: str) -> None:
    for call in (fit_scaling, size_slope):
        with pytest.raises(ValueError, match=message):
            call(n, damage)


def test_two_sizes_have_curves_but_no_slope() -> None:
    fits = fit_scaling([1e6, 1e6, 1e6, 1e7, 1e7, 1e7], [1.0, 1.2, 1.1, 2.0, 2.2, 2.1])
    assert [fit.rss for fit in fits] == pytest.approx([0.04, 0.04, 0.04, 1.54])
    with pytest.raises(ValueError, match="at least 3 different sizes, got 2"):
        size_slope([1e6, 1e6, 1e7], [1.0, 2.0, 3.0])
