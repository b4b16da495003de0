"""Which dose of each perturbation costs the same: reading the doses that runs found, and their means on a log scale."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lit_degrade.evidence.numbers.statistics import Interval, Values
from lit_degrade.evidence.reading.estimates import Estimate, drawable, estimate, observations
from lit_degrade.evidence.reading.groups import Group, columns_of
from lit_degrade.evidence.reading.record_tables import Tables, of_runs, read_tables
from lit_degrade.records.tables import EXCHANGE_RATES


@dataclass(frozen=True)
class Rate:
    """What one method needs at one target of one group of runs to do the damage that was asked for."""

    method: str
    target: str
    cost: float
    """nats per token that were asked for"""
    dose: Estimate
    """in the unit of the method: geometric mean over repetitions that reached the cost, interval on a log scale"""
    norm: Estimate
    """of the change relative to that of the weights, likewise; a change to infinite weights has no finite one"""
    nats_lost: float
    """mean of what was measured at these doses; inf where it is not finite"""
    weights: float
    """number in the target"""
    missed: int
    """repetitions (identical ones once) whose largest dose does not cost as much"""
    nats_at_maximum: float
    """mean loss of those at the largest dose; inf where it is not finite"""

    @property
    def exact(self) -> bool:
        """Whether the doses that were found cost what was asked for, within a fifth: those of some methods go in steps."""
        return not self.dose.n or abs(self.nats_lost - self.cost) <= 0.2 * self.cost


def read_rates(rows: pd.DataFrame, groups: Sequence[Group] = ()) -> tuple[Tables, list[str]]:
    """Exchange rates of all runs that the filter leaves, and what is wrong with their files (see `read_tables`)."""
    rates, cautions = read_tables(rows, EXCHANGE_RATES)
    if not len(rates):
        return {EXCHANGE_RATES: rates}, cautions
    good = ~rates["reached"] | ((rates["level"] > 0) & drawable(rates["level"]) & (rates["relative_norm"] > 0))
    if not good.all():
        cautions.append(
            f"{EXCHANGE_RATES}: left out {(~good).sum()} lines that say they reach the cost, without a dose or norm."
        )
    return {EXCHANGE_RATES: rates[good].reset_index(drop=True)}, cautions


def rates_of(rates: pd.DataFrame, group: Group) -> list[Rate]:
    """Every target and method of a group of runs, in the order in which they were written."""
    own = of_runs(rates, list(group.rows["run_id"]))
    if not len(own):
        return []
    return [_rate(lines) for _, lines in own.groupby(["cost", "target", "method"], sort=False)]


def _rate(lines: pd.DataFrame) -> Rate:
    """Repetitions of one method at one target."""
    reached, missed = lines[lines["reached"]], lines[~lines["reached"]]
    dose, norm = (_geometric(reached, name) for name in ("level", "relative_norm"))
    lost = observations(reached, "nats_lost")
    maximum = observations(missed.fillna({"nats_at_maximum": math.inf}), "nats_at_maximum")
    first, weights = lines.iloc[0], float(lines["weights"].max())
    what = first["method"], first["target"], float(first["cost"])
    return Rate(*what, dose, norm, _mean(lost), weights, len(maximum), _mean(maximum))


def _mean(values: Values) -> float:
    """Mean of what was measured; inf where any of it is not finite."""
    return float(values.mean()) if len(values) else math.nan


def _geometric(reached: pd.DataFrame, name: str) -> Estimate:
    """Mean and interval of the logarithms, as numbers again."""
    it = estimate(observations(reached.assign(log=np.log(reached[name])), "log"))
    with np.errstate(over="ignore"):  # intervals of two repetitions may reach beyond all numbers
        mean, low, high = (float(np.exp(value)) for value in (it.mean, it.interval.low, it.interval.high))
    return Estimate(it.n, mean, Interval(low, high), it.diverged)


def rate_rows(rates: pd.DataFrame, groups: Sequence[Group]) -> list[dict[str, Any]]:
    """One row for every group, target and method."""
    return [columns_of(group) | _row(rate) for group in groups for rate in rates_of(rates, group)]


def _row(rate: Rate) -> dict[str, Any]:
    row: dict[str, Any] = {"target": rate.target, "method": rate.method, "cost": rate.cost, "weights": rate.weights}
    row |= rate.dose.columns("dose") | {"n_not_reached": rate.missed} | rate.norm.columns("relative_norm")
    return row | {"nats_lost": rate.nats_lost, "nats_at_maximum": rate.nats_at_maximum}
