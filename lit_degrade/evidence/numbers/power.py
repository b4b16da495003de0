"""How many runs a t test needs to see an effect."""

import math

import numpy as np

MOST_RUNS = 10**9
"""A plan for more runs than these is no plan."""


def power_at(effect: float, sd: float, n: int, alpha: float = 0.05, two_sided: bool = True, arms: int = 2) -> float:
    """Power of the t test of two arms (or one) of n runs each to see a difference of `effect` with standard deviation sd > 0.

    effect / sd = 2 with n = 3 gives 0.46. Source: Cohen, "Statistical Power Analysis" (1988), chapter 2.
    """
    from statsmodels.stats.power import TTestIndPower, TTestPower

    d = min(abs(effect) / sd, 20.0)
    tail = alpha / 2 if two_sided else alpha
    test = TTestIndPower() if arms == 2 else TTestPower()
    near, far = (test.power(side * d, n, tail, alternative="larger") for side in (1, -1))
    # SciPy's noncentral t gives nan for some values that differ from 1 or from 0 by less than 1e-15.
    return float(np.nan_to_num(near, nan=1.0) + (np.nan_to_num(far, nan=0.0) if two_sided else 0.0))


def runs_for_power(
    effect: float, sd: float, power: float = 0.8, alpha: float = 0.05, two_sided: bool = True, arms: int = 2
) -> int | None:
    """Fewest runs in each arm, at least 2, with which the t test of two arms (or one) reaches a power.

    None where nothing can be planned: no effect, an sd that is nought or nan, or more than MOST_RUNS. effect / sd = 1 gives 17,
    and 10 for one arm.
    """
    if not (math.isfinite(effect) and sd > 0 and effect != 0):
        return None
    enough = 2
    while power_at(effect, sd, enough, alpha, two_sided, arms) < power:
        enough *= 2
        if enough > MOST_RUNS:
            return None
    few = enough // 2
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (few, middle) if power_at(effect, sd, middle, alpha, two_sided, arms) >= power else (middle, enough)
    return max(enough, 2)
