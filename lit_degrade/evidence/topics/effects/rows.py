"""Which weights matter: treated sets against their controls."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from lit_degrade.criticality.catalog import MODES, TREATED
from lit_degrade.evidence.numbers.statistics import NOWHERE, ROUNDING, Interval, Values, paired
from lit_degrade.evidence.reading.estimates import Estimate, estimate
from lit_degrade.evidence.reading.groups import Group
from lit_degrade.evidence.reading.record_tables import Tables, of_runs, read_counted
from lit_degrade.evidence.reading.words import method_of, metric_of, say
from lit_degrade.records.tables import DAMAGE, EFFECTS

SIZES = ("weights", "zero_scores", "matched", "norm_of_change", "relative_norm")
"""What effects.csv may say of a perturbed set beside the damage."""
MATCHED = "matched_random_k"
"""The control that a set of weights is compared with first."""
_CELL = ["metric", "mode", "method", "level", "k"]


def read_effects(rows: pd.DataFrame, groups: Sequence[Group] = ()) -> tuple[Tables, list[str]]:
    """What perturbing sets of weights did, and what is wrong with the files (see `read_counted`)."""
    return read_counted(rows, (EFFECTS,))


class Procedure(NamedTuple):
    """How sets of weights were chosen, and what was done to them."""

    mode: str
    method: str
    level: float


@dataclass(frozen=True)
class ArmDamage:
    """What perturbing one arm did in one run."""

    damage: Values
    """nats per token, (draws,), inf where one is not finite; draws of the same weights count once"""
    sizes: dict[str, float]
    """means over draws"""


@dataclass(frozen=True, eq=False)
class TopK:
    """The k highest weights by one metric and their controls, in the runs of a group."""

    setting: Procedure
    metric: str
    k: int
    arms: dict[str, dict[str, ArmDamage]]
    """arm -> run -> what it did"""

    def size(self, arm: str, name: str) -> float:
        """Mean over runs of a column of SIZES; nan where it was not measured."""
        values = [it.sizes[name] for it in self.arms.get(arm, {}).values()]
        return float(np.mean(values)) if values else math.nan

    def runs(self, control: str) -> list[str]:
        """Runs that have both arms."""
        return [run for run in self.arms.get(TREATED, {}) if run in self.arms.get(control, {})]

    def damage(self, arm: str, runs: Sequence[str]) -> Values:
        """Mean damage of an arm in each of some runs, (runs,)."""
        return np.array([self.arms[arm][run].damage.mean() for run in runs])


@dataclass(frozen=True)
class Excess:
    """Damage of the treated set beyond that of a control."""

    runs: list[str]
    values: Values
    """nats per token, (runs,): inf where the treated set alone diverged, -inf where a draw of the control did and the treated
    set did not, nan where all of both did"""
    estimate: Estimate
    """over runs that differ; that of a single run has an interval over draws"""
    over_draws: bool
    p: float
    """of a paired t test over runs, two-sided; nan for fewer than two that differ and are finite"""
    draws: int
    at_least: int
    """draws of the control that do at least as much damage as the treated set of their run"""
    rank_p: float
    """(1 + at_least) / (1 + draws), the largest of any run"""
    treated_diverged: int
    """runs"""
    control_diverged: int
    """draws"""

    @property
    def rank(self) -> tuple[float, float]:
        """By which metrics are ordered: runs that diverged count for more than any finite damage."""
        signs = np.sign(self.values[np.isinf(self.values)])
        return float(signs.sum()), -math.inf if math.isnan(self.estimate.mean) else self.estimate.mean


def cells_of(effects: pd.DataFrame, group: Group) -> list[TopK]:
    """What was perturbed in a group of runs, in the order in which it was written."""
    own = of_runs(effects, list(group.rows["run_id"]))
    if not len(own):
        return []
    arms: dict[tuple[Any, ...], dict[str, dict[str, ArmDamage]]] = {}
    for key, lines in own.groupby([*_CELL, "arm", "run_id"], sort=False):
        *cell, arm, run = key
        arms.setdefault(tuple(cell), {}).setdefault(str(arm), {})[str(run)] = _arm(lines)
    return [
        TopK(Procedure(mode, method, level), metric, int(k), by_arm)
        for (metric, mode, method, level, k), by_arm in arms.items()
    ]


def _arm(lines: pd.DataFrame) -> ArmDamage:
    damage = lines[DAMAGE].to_numpy(dtype=float)
    if not lines["random"].any() or damage[0] != 0:  # other weights may cost exactly nothing, but not exactly the same
        damage = _once(damage)
    means = lines.reindex(columns=list(SIZES)).to_numpy(dtype=float).mean(axis=0)
    return ArmDamage(damage, dict(zip(SIZES, map(float, means), strict=True)))


def _once(values: Values) -> Values:
    """The first of values that are finite and all the same; else all."""
    same = len(values) and np.isfinite(values).all() and np.allclose(values, values[0], rtol=ROUNDING, atol=0)
    return values[:1] if same else values


def by_setting(cells: Sequence[TopK]) -> dict[Procedure, list[TopK]]:
    """Cells by how they were chosen and perturbed."""
    return {name: [c for c in cells if c.setting == name] for name in dict.fromkeys(cell.setting for cell in cells)}


def excess(cell: TopK, control: str) -> Excess | None:
    """Damage beyond that of a control; nothing where no run has both arms.

    The unit is the run: each is one difference, of the treated set and the mean of its control's draws. Runs that all found the
    same damage perturbed the same weights, whatever their seeds, and count once.
    """
    runs = cell.runs(control)
    if not runs:
        return None
    treated, draws = cell.damage(TREATED, runs), [cell.arms[control][run].damage for run in runs]
    values = np.array([_beyond(t, d) for t, d in zip(treated, draws, strict=True)])
    at_least = [int((d >= t).sum()) for t, d in zip(treated, draws, strict=True)]
    both = np.isfinite(values)
    means = np.array([d.mean() for d in draws])
    p = paired(treated[both], means[both], "different").p if len(_once(values[both])) > 1 else math.nan
    it = estimate(_once(values))
    if len(runs) == 1 and both.all():
        it = Estimate(it.n, it.mean, _over_draws([cell.arms[TREATED][runs[0]].damage], draws), it.diverged)
    rank_p = max((1 + n) / (1 + len(d)) for n, d in zip(at_least, draws, strict=True))
    lost = int((~np.isfinite(treated)).sum()), sum(int((~np.isfinite(d)).sum()) for d in draws)
    return Excess(runs, values, it, len(runs) == 1, p, sum(map(len, draws)), sum(at_least), rank_p, *lost)


def _beyond(treated: float, control: Values) -> float:
    """See `Excess.values`."""
    if math.isfinite(treated):
        return float(treated - control.mean())
    return math.inf if np.isfinite(control).any() else math.nan


def difference(a: TopK, b: TopK, control: str) -> Estimate:
    """Excess of one metric minus that of another: paired by run; of a single run, with Welch's interval over draws."""
    runs = [run for run in a.runs(control) if run in b.runs(control)]
    with np.errstate(invalid="ignore"):
        treated = a.damage(TREATED, runs) - b.damage(TREATED, runs)
        it = estimate(_once(treated - a.damage(control, runs) + b.damage(control, runs)))
    if len(runs) != 1 or it.diverged:
        return it
    (ours, others), (theirs, their_others) = ([c.arms[arm][runs[0]].damage for arm in (TREATED, control)] for c in (a, b))
    return Estimate(it.n, it.mean, _over_draws([ours, their_others], [theirs, others]), 0)


def _over_draws(plus: Sequence[Values], minus: Sequence[Values]) -> Interval:
    """Welch's 95 % interval of the sum of some means less that of others, of one run; an arm of one draw adds no spread.

    Nan where no arm has several draws. Degrees of freedom by Welch and Satterthwaite, as in `statistics.difference_interval`.
    """
    arms = [arm for arm in (*plus, *minus) if len(arm) > 1]
    if not arms:
        return NOWHERE
    mean = sum(arm.mean() for arm in plus) - sum(arm.mean() for arm in minus)
    variances, dfs = np.array([arm.var(ddof=1) / len(arm) for arm in arms]), np.array([len(arm) - 1 for arm in arms])
    total = variances.sum()
    if not total:
        return Interval(float(mean), float(mean))
    half = stats.t.ppf(0.975, total**2 / (variances**2 / dfs).sum()) * math.sqrt(total)
    return Interval(float(mean - half), float(mean + half))


def ranked(cells: Sequence[TopK], control: str) -> Iterator[list[tuple[TopK, Excess]]]:
    """For each k, metrics by their excess over a control, the highest first."""
    pairs = [(cell, it) for cell in cells if (it := excess(cell, control))]
    for k in sorted({cell.k for cell, _ in pairs}):
        yield sorted((pair for pair in pairs if pair[0].k == k), key=lambda pair: pair[1].rank, reverse=True)


ALIKE, LARGER = 0.9, 1.5
"""A control is questioned where less of it has the magnitudes of the treated set, or where this times its change is less."""


def setting_words(setting: Procedure) -> str:
    """How sets were chosen and perturbed: zeroing (level 1), k of all weights."""
    method, mode = method_of(setting.method), say(setting.mode, MODES)
    return f"{method.label} (level {setting.level:g}), k {mode}"


def cautions(cells: Sequence[TopK], control: str) -> list[str]:
    """What makes a control unlike the treated sets, in sentences."""
    own = [cell for cell in cells if cell.runs(control)]
    shares = {cell: 100 * cell.size(control, "matched") for cell in own} if control == MATCHED else {}
    ratios = {cell: _ratio(cell, control) for cell in own}
    unlike = _listed({cell: share for cell, share in shares.items() if share < 100 * ALIKE}, " %")
    larger = _listed({cell: ratio for cell, ratio in ratios.items() if ratio > LARGER}, " times")
    sentences = []
    if unlike:
        sentences.append(f"The control could not match the magnitudes everywhere; share of its weights that do: {unlike}.")
    if larger:
        sentences.append(
            f"Where the norm of the treated set's change is more than {LARGER:g} times that of the control's, it may explain "
            f"the excess: {larger}."
        )
    return sentences


def _ratio(cell: TopK, control: str) -> float:
    """Norm of the change of the treated set over that of the control; nan where either is not known."""
    treated, other = (cell.size(arm, "norm_of_change") for arm in (TREATED, control))
    return treated / other if other > 0 else math.nan


def _listed(values: Mapping[TopK, float], unit: str) -> str:
    """By metric: the range of a value, and at which k."""
    said = []
    for metric in dict.fromkeys(cell.metric for cell in values):
        own = {cell.k: f"{value:.3g}" for cell, value in values.items() if cell.metric == metric}
        low, high = (own[k] for k in (min(own, key=lambda k: float(own[k])), max(own, key=lambda k: float(own[k]))))
        span = low if low == high else f"{low} to {high}"
        said.append(f"{metric_of(metric)} {span}{unit} (k = {', '.join(f'{k:,}' for k in sorted(own))})")
    return "; ".join(said)
