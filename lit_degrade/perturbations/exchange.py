"""The damage exchange rate: which dose of a method costs a given loss."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from lit_degrade.perturbations.catalog import METHODS

TOLERANCE = 0.02
"""Relative distance from the cost at which a search ends."""
STEPS = 14
"""Most halvings of the range, on a log scale: a factor of 1e7 comes down to 1.001."""


@dataclass(frozen=True)
class Found:
    """What a search came to."""

    reached: bool
    """whether any dose costs as much"""
    level: float
    """the dose, in the unit of the method; nan when the cost is not reached"""
    loss: float
    """what that dose costs; of methods whose loss jumps, the least that was seen at or above the cost"""
    loss_at_maximum: float
    """what the largest dose costs"""


def dose_range(method: str) -> tuple[float, float]:
    """Least and largest dose that is looked at; of quantisation, most and fewest values."""
    known = METHODS[method]
    if known.none == math.inf:
        return 65536.0, known.low
    if method == "bit_flip":
        return 1e-8, 0.5
    return (1e-5, known.high) if known.high < math.inf else (1e-4, 10.0)


def find_dose(method: str, cost: float, loss: Callable[[float], float]) -> Found:
    """Bisection on a log scale between the ends of the method's range.

    Args:
        method: name of METHODS; it decides the range, and that numbers of values are whole.
        cost: loss that is looked for. [any unit]
        loss: of a dose; nan counts as more than any cost. It should rise with the dose, as it does when every dose is the same
            injury (the progressive schedule).
    """
    low, high = dose_range(method)
    whole = METHODS[method].none == math.inf
    at_maximum = at_high = loss(high)
    if at_high < cost:
        return Found(False, math.nan, math.nan, at_maximum)
    for _ in range(STEPS):
        if abs(at_high - cost) <= TOLERANCE * cost:
            break
        middle = math.sqrt(low * high)
        if whole:
            middle = float(round(middle))
        if middle in (low, high):
            break
        value = loss(middle)
        if value < cost:
            low = middle
        else:
            high, at_high = middle, value
    return Found(True, high, at_high, at_maximum)
