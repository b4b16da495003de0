"""Means over what counts as one observation: what they are of, how they are written, and which columns they have."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from lit_degrade.evidence.numbers.statistics import NOWHERE, ROUNDING, Interval, Values, t_interval


def number(value: float | None) -> str:
    """Three significant digits; nothing for what is not there."""
    return "" if value is None or math.isnan(value) else f"{value:.3g}"


def bracketed(estimate: float, interval: Interval, write: Callable[[float], str] = number) -> str:
    """A number with its interval, where there is one."""
    if math.isnan(estimate):
        return ""
    if math.isnan(interval.low):
        return write(estimate)
    return f"{write(estimate)} [{write(interval.low)}, {write(interval.high)}]"


LARGEST = 1e100
"""What is larger, or smaller than its inverse, has no place on an axis."""


def drawable(values: ArrayLike) -> NDArray[np.bool_]:
    """Whether numbers have a place on an axis: neither larger than LARGEST, nor closer to 0 than its inverse."""
    sizes = np.abs(np.asarray(values, dtype=float))
    return (sizes == 0) | ((sizes > 1 / LARGEST) & (sizes < LARGEST))


@dataclass(frozen=True)
class Estimate:
    """A mean over observations, of those that are finite."""

    n: int
    """observations that were measured"""
    mean: float
    interval: Interval
    """Student's 95 %"""
    diverged: int
    """observations without a finite value, which the mean leaves out"""

    def columns(self, name: str) -> dict[str, Any]:
        """As NAME, NAME_low, NAME_high, NAME_n and NAME_not_finite of a row."""
        row = {name: self.mean, f"{name}_low": self.interval.low, f"{name}_high": self.interval.high}
        return row | {f"{name}_n": self.n, f"{name}_not_finite": self.diverged}

    @classmethod
    def of(cls, row: Mapping[str, Any], name: str) -> Self:
        """From the `columns` of a row; of nothing where it has none."""
        interval = Interval(row.get(f"{name}_low", math.nan), row.get(f"{name}_high", math.nan))
        return cls(row.get(f"{name}_n", 0), row.get(name, math.nan), interval, row.get(f"{name}_not_finite", 0))

    def words(self, scale: float = 1.0, interval: bool = True) -> str:
        """Mean with its interval, if it has one, and how many observations are not finite; nothing where it is of none.

        Args:
            scale: what all numbers are multiplied by.
            interval: whether it is written.
        """
        ends = Interval(scale * self.interval.low, scale * self.interval.high) if interval else NOWHERE
        lost = f"{self.diverged} not finite" if self.diverged else ""
        return ", ".join(filter(None, [bracketed(scale * self.mean, ends), lost]))


def observations(doses: pd.DataFrame, measure: str) -> Values:
    """Values of a measure at one level that count each for one, (n,), inf where one is not finite.

    Every repetition with random weights is one. Repetitions with the same weights are one for each run, and one in all where
    the runs agree too, unless they differ, as text that was sampled does.
    """
    if measure not in doses:
        return np.empty(0)
    drawn, fixed = (doses[doses["random"] == random].dropna(subset=[measure]) for random in (True, False))
    runs = [_once(values.to_numpy(dtype=float)) for _, values in fixed.groupby("run_id", sort=False)[measure]]
    return np.concatenate([drawn[measure].to_numpy(dtype=float), _once(np.concatenate([*runs, np.empty(0)]))])


def _once(values: Values) -> Values:
    """The first of values that are all the same."""
    return values[:1] if len(values) and np.allclose(values, values[0], rtol=ROUNDING, atol=0) else values


def estimate(values: Values) -> Estimate:
    """Mean and interval of those values that are finite."""
    finite = values[np.isfinite(values)]
    mean, interval = (float(finite.mean()), t_interval(finite)) if len(finite) else (math.nan, NOWHERE)
    return Estimate(len(values), mean, interval, len(values) - len(finite))


def finite_or_inf(values: pd.Series) -> Values:
    """Numbers as they are drawn: inf where one has no place on an axis."""
    numbers = values.to_numpy(dtype=float)
    return np.where(drawable(numbers), numbers, math.inf)
