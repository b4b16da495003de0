"""The runs on either side of a claim, and what keeps them from deciding it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from lit_degrade.evidence.claims.claims import ORDERED, Claim
from lit_degrade.evidence.numbers.statistics import Values, flat
from lit_degrade.evidence.reading.groups import label, usable, varying

CONFOUNDERS = ("optimizer_used",)
"""Facts of the records that must not differ between two arms, beside the conditions that do not differ by themselves."""
SAME_PROBE = {
    "probe_text": "probe text",
    "probe_tokens": "number of probe tokens",
    "rank_tokens": "number of rank tokens",
}


@dataclass(frozen=True)
class Arm:
    """Runs on one side of a claim."""

    name: str
    rows: pd.DataFrame
    """all that were asked for"""
    outcome: str

    @cached_property
    def used(self) -> pd.DataFrame:
        """Those that are done, not filtered, and have a finite outcome."""
        return usable(self.rows, self.outcome)

    @property
    def values(self) -> Values:
        """The outcome of the runs that are used, (n,)."""
        return self.used[self.outcome].to_numpy(dtype=float)


def objections(claim: Claim, arms: Sequence[Arm], conditions: Sequence[str]) -> list[str]:
    """What keeps these runs from deciding the claim, whatever their numbers are."""
    obstacles = []
    lost = [state for arm in arms for state in _lost(arm)]
    if lost:
        asked = sum(len(arm.rows) - int(arm.rows["filtered"].sum()) for arm in arms)
        obstacles.append(f"{len(lost)} of {asked} runs have no finite outcome ({', '.join(dict.fromkeys(lost))})")
    used = pd.concat([arm.used for arm in arms])
    for column, words in SAME_PROBE.items():
        if column in used and used[column].dropna().nunique() > 1 and (column != "rank_tokens" or "rank" in claim.outcome):
            obstacles.append(f"the {words} is not the same for all runs")
    for arm in arms:
        if alike := _alike({arm.name: arm.used}, arm.outcome) or _alike(_levels(claim, arm), arm.outcome):
            obstacles.append(f"{', '.join(alike)} have the same outcome to the last digit: they are not independent")
    settings = ["seed", *(name for name in conditions if name in used and name != "seed")]
    again = sum(int(arm.used.astype({name: str for name in settings}).duplicated(settings).sum()) for arm in arms)
    if "seed" in used and again:
        obstacles.append(f"{again} runs repeat the seed and all settings of another: they are not independent")
    if claim.test not in ORDERED and len(arms) == 2:
        obstacles += _confounded(claim, arms, used, conditions)
    return obstacles


def _levels(claim: Claim, arm: Arm) -> dict[str, pd.DataFrame]:
    """Runs at each level of an order: what an arm is to other claims. A slope is fitted to one mean per level as it is."""
    if claim.over is None or claim.test == "slope":
        return {}
    return {label({claim.over: level}): used for level, used in arm.used.groupby(claim.over)}


def _alike(runs: Mapping[str, pd.DataFrame], outcome: str) -> list[str]:
    """Which of these have several runs with one outcome, but for rounding; whole ones aside: counts may well be equal."""
    values = {name: used[outcome].to_numpy(dtype=float) for name, used in runs.items()}
    return [
        f"all {len(x)} runs of {name}"
        for name, x in values.items()
        if len(x) > 1 and flat(float(np.abs(x).max()), x) and not float(x[0]).is_integer()
    ]


def _lost(arm: Arm) -> list[str]:
    rest = arm.rows[~arm.rows["filtered"] & ~arm.rows["run_id"].isin(arm.used["run_id"])]
    return ["not finite" if state == "done" else state for state in rest["state"]]


def _confounded(claim: Claim, arms: Sequence[Arm], used: pd.DataFrame, conditions: Sequence[str]) -> list[str]:
    """Settings that differ between the arms though the claim is not about them."""
    covered = claim.mentioned | ({"optimizer_used"} if "optimizer" in claim.mentioned else set())
    names = [*varying(used, conditions), *(name for name in CONFOUNDERS if name in used)]
    differences = []
    for name in dict.fromkeys(name for name in names if name not in covered):
        sides = [" or ".join(sorted({str(value) for value in arm.used[name].dropna()})) for arm in arms]
        if sides[0] != sides[1]:
            differences.append(f"the arms also differ in {name}: {sides[0]} against {sides[1]}")
    return differences
