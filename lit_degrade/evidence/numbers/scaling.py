"""Damage against the size of the subject: which curve describes the runs, and the slope that subjects, not runs, support."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats

from lit_degrade.evidence.numbers.statistics import ROUNDING, Interval, Values

STEEPEST, FURTHEST = 30.0, 600.0
"""A curve that changes by e^30 between two sizes next to each other is a spike without a rate; by e^600, beyond computing."""


@dataclass(frozen=True)
class Fit:
    """A curve of damage over the number of parameters N, by least squares."""

    name: str
    """constant, linear, power or exponential"""
    parameters: tuple[float, ...]
    """a; a, b of a + b log10 N; a, b of a (N / N_max)^b; a, b of a exp(b N / N_max). a is in the unit of damage"""
    rss: float
    """residual sum of squares"""
    aicc: float
    """Akaike's criterion, corrected; nan where the runs are too few to tell, inf where the search did not converge"""
    converged: bool
    n_max: float = field(repr=False)
    """the largest size, to which rates are relative"""

    def predict(self, n_parameters: ArrayLike) -> Values:
        """Damage on the curve at some sizes, in the unit of the runs."""
        n = np.asarray(n_parameters, dtype=np.float64)
        a, b = (*self.parameters, 0.0)[:2]
        if self.name in RATES:
            return np.asarray(a * np.exp(b * RATES[self.name](n, self.n_max)))
        return a + b * np.log10(n)


RATES: dict[str, Callable[[Values, float], Values]] = {
    "power": lambda n, n_max: np.log(n / n_max),
    "exponential": lambda n, n_max: n / n_max,
}
"""u of the curves a exp(b u)."""


def fit_scaling(n_parameters: ArrayLike, damage: ArrayLike) -> list[Fit]:
    """Four curves through run-level data with one and the same Gaussian error, the smallest AICc first.

    AICc = n ln(rss / n) + 2 k + 2 k (k + 1) / (n - k - 1), where k counts the coefficients and the variance: 2 for the constant
    and 3 for the rest. With n - k - 1 <= 0, as for the means of four sizes, it has no value, is nan and comes last. It takes
    runs for independent, so that many runs of few sizes can tell curves apart but say little about the next size: see
    `size_slope`. Exact fits count as if they left 1e-12 of the largest damage per run: of two of them the simpler comes first.

    Args:
        n_parameters: size of the subject of each run (n,), positive, at least two different ones. [parameters]
        damage: outcome of each run (n,), signed.

    Raises: ValueError: for arrays that do not match, sizes that are not positive, or fewer than two different ones.
    Source: Hurvich and Tsai, "Regression and time series model selection in small samples", Biometrika 76 (1989).
    """
    n, y = _pairs(n_parameters, damage, sizes=2)
    fits = [_linear("constant", n, y, 0), _linear("linear", n, y, 1), *(_rate(name, n, y) for name in RATES)]
    return sorted(fits, key=lambda fit: (math.isnan(fit.aicc), fit.aicc))


def _linear(name: str, n: Values, y: Values, degree: int) -> Fit:
    """Polynomial in log10 N."""
    design = np.vander(np.log10(n), degree + 1, increasing=True)
    coefficients = np.linalg.lstsq(design, y, rcond=None)[0]
    return _fit(name, coefficients, y - design @ coefficients, y, n)


def _rate(name: str, n: Values, y: Values) -> Fit:
    """a exp(b u) by variable projection: the best a for a given b is a ratio, so that only b is searched for.

    Every b that makes a difference is on the grid of starts, and the best of them is refined between its neighbours. It has not
    converged where the best is an end of the grid.
    Source: Golub and Pereyra, "The differentiation of pseudo-inverses and nonlinear least squares problems", 1973.
    """
    u = RATES[name](n, n.max())
    steepest = min(STEEPEST / np.diff(np.unique(u)).min(), FURTHEST / np.ptp(u))
    rates = np.geomspace(1e-4, 1.0, 100) * steepest
    grid = np.concatenate([-rates[::-1], [0.0], rates])

    def shape(b: float) -> Values:
        return np.exp(b * u - (b * u).max())

    def rss(b: float) -> float:
        return float(np.sum((y - shape(b) * (y @ shape(b)) / (shape(b) @ shape(b))) ** 2))

    best = int(np.argmin([rss(b) for b in grid]))
    inside = 0 < best < len(grid) - 1
    b = float(grid[best])
    if inside:
        minimum = optimize.minimize_scalar(
            rss, bounds=(grid[best - 1], grid[best + 1]), method="bounded", options={"xatol": 1e-12}
        )
        b = float(minimum.x)
    height = float((y @ shape(b)) / (shape(b) @ shape(b)))
    return _fit(name, (height * math.exp(-(b * u).max()), b), y - height * shape(b), y, n, inside)


def _fit(
    name: str, coefficients: Sequence[float] | Values, residuals: Values, y: Values, n: Values, converged: bool = True
) -> Fit:
    """The fit with its AICc."""
    rss, runs, k = float(residuals @ residuals), len(y), len(coefficients) + 1
    aicc = math.nan
    if not converged:
        aicc = math.inf
    elif runs - k - 1 > 0:
        least = runs * (1e-12 * float(np.abs(y).max())) ** 2 + np.finfo(float).tiny
        aicc = runs * math.log(max(rss, least) / runs) + 2 * k + 2 * k * (k + 1) / (runs - k - 1)
    return Fit(name, tuple(float(c) for c in coefficients), rss, aicc, converged, float(n.max()))


@dataclass(frozen=True)
class Slope:
    """Change of damage per factor of ten in size."""

    slope: float
    """unit of damage per decade; negative where larger subjects are hurt less"""
    interval: Interval
    error: float
    """standard error of the slope; 0 where the sizes lie on a line without residual, which says nothing of their scatter"""
    df: int
    p: float
    """two-sided, of no slope"""
    sizes: int
    """number of different sizes"""


def size_slope(n_parameters: ArrayLike, damage: ArrayLike, level: float = 0.95) -> Slope:
    """Slope over sizes: ordinary least squares of the mean damage of each size on log10 N, with k - 2 degrees of freedom.

    Runs of one subject share what is peculiar to it; they are no independent draws of subjects, and more of them do not make
    more sizes. With equally many runs of each size this is the mixed model with a random intercept per subject, fitted by REML
    with a variance of subjects above nought, and with the degrees of freedom that its t should have.

    Raises: ValueError: as `fit_scaling`, or for fewer than three different sizes.
    Source: Murtaugh, "Simplicity and complexity in ecological data analysis", Ecology 88 (2007).
    """
    n, y = _pairs(n_parameters, damage, sizes=3)
    sizes = np.unique(n)
    return _slope(sizes, np.array([y[n == size].mean() for size in sizes]), level)


def _slope(n: Values, y: Values, level: float) -> Slope:
    """Least squares of y on log10 N; points on a line, level or not, have an interval without width and p = 1."""
    df, sizes, least = len(y) - 2, len(np.unique(n)), ROUNDING * np.abs(y).max()
    if np.ptp(y) <= least:
        return Slope(0.0, Interval(0.0, 0.0), 0.0, df, 1.0, sizes)
    line = stats.linregress(np.log10(n), y)
    slope = float(line.slope)
    if np.abs(y - line.intercept - slope * np.log10(n)).max() <= least:
        return Slope(slope, Interval(slope, slope), 0.0, df, 1.0, sizes)
    half = float(stats.t.ppf((1 + level) / 2, df) * line.stderr)
    return Slope(slope, Interval(slope - half, slope + half), float(line.stderr), df, float(line.pvalue), sizes)


def _pairs(n_parameters: ArrayLike, damage: ArrayLike, sizes: int) -> tuple[Values, Values]:
    """Checked float64 arrays (n,)."""
    n, y = np.asarray(n_parameters, dtype=np.float64), np.asarray(damage, dtype=np.float64)
    if n.ndim != 1 or n.shape != y.shape:
        raise ValueError(f"Expected one size for each run, got shapes {n.shape} and {y.shape}.")
    if not (np.isfinite(n).all() and np.isfinite(y).all() and (n > 0).all()):
        raise ValueError("Expected finite damage and positive numbers of parameters.")
    if len(np.unique(n)) < sizes:
        raise ValueError(f"Expected at least {sizes} different sizes, got {len(np.unique(n))}.")
    return n, y
