"""From runs to verdicts: each claim in every combination of the conditions that it does not mention, corrected by family."""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import stats

from lit_degrade.evidence.claims.arms import Arm, objections
from lit_degrade.evidence.claims.claims import ORDERED, Claim
from lit_degrade.evidence.numbers import statistics as st
from lit_degrade.evidence.numbers.orders import jonckheere, page
from lit_degrade.evidence.numbers.power import runs_for_power
from lit_degrade.evidence.numbers.scaling import size_slope
from lit_degrade.evidence.numbers.sizes import size_warnings
from lit_degrade.evidence.reading.groups import label, make_groups, select, varying
from lit_degrade.evidence.reading.words import outcome_of
from lit_degrade.records.conditions import Fact

Answer = Literal["supported", "contradicted", "inconclusive", "not tested"]
ALPHA = 0.05
"""Family-wise; p-values of directed claims are doubled, so that they agree with 95 % intervals."""
MEASURED_AS = {
    "welch": "Welch t", "permutation": "permutation", "paired": "paired t", "sign_flip": "sign flip",
    "one_sample": "one-sample t", "jonckheere": "Jonckheere-Terpstra",
}  # fmt: skip
"""Tests of claims -> their names in `sizes`."""
_OTHER: dict[str, Literal["greater", "less"]] = {"greater": "less", "less": "greater"}


@dataclass(frozen=True)
class Verdict:
    """What the runs say about a claim, and all that is needed to disagree."""

    claim: Claim
    stratum: dict[str, Fact]
    """conditions that the claim does not mention and that these runs share"""
    arms: tuple[Arm, ...]
    estimate: float = math.nan
    """mean, difference of means, slope per decade, or Kendall's tau of an order"""
    interval: st.Interval = st.NOWHERE
    """95 %"""
    g: float = math.nan
    g_interval: st.Interval = st.NOWHERE
    p: float = math.nan
    """of runs that speak for the claim at least this much, if there is no effect"""
    p_against: float = math.nan
    """of runs that speak against it at least this much, if the effect is the margin"""
    p_exact: float = math.nan
    """exact permutation test of the difference, to compare with"""
    p_holm: float = math.nan
    p_against_holm: float = math.nan
    answer: Answer = "not tested"
    reasons: list[str] = field(default_factory=list)
    """what keeps these runs from deciding the claim, whatever their numbers are"""
    cautions: list[str] = field(default_factory=list)
    """what is known about the test and the interval at this number of runs"""
    runs_needed: int | None = None
    """per group, for 80 % power to see `effect`; for an equivalence, to pass both one-sided tests (90 % each) when there is no
    difference"""
    effect: float = math.nan
    """what `runs_needed` is about: the margin, or where there is none the difference of these runs. [unit of the outcome]"""

    def why(self) -> list[str]:
        """What a reader should know beside the answer."""
        notes = list(self.reasons)
        if self.answer == "inconclusive" and not self.reasons:
            power = f"; {self.power()}" if self.runs_needed else ""
            notes.append(f"these runs are too few, or too scattered, to decide{power}")
        if self.answer == "contradicted" and self.p_holm <= ALPHA:
            notes.append("there is an effect in this direction, but it is smaller than the margin")
        return notes

    def power(self) -> str:
        """How many runs would have power, and to see what; nothing where none can be planned."""
        if self.runs_needed is None:
            return ""
        known, claim = outcome_of(self.claim.outcome), self.claim
        size = f"{self.effect * known.scale:.3g} [{known.unit}]"
        what = f"a difference of {size} in {claim.outcome}, " + ("the margin" if claim.margin else "that of these runs")
        if claim.test == "equivalence":
            what = f"that {claim.outcome} is within the margin of {size}, if there is no difference at all"
        return f"{self.runs_needed} runs a group would have 80 % power to see {what}"

    @property
    def where(self) -> str:
        """The stratum in words."""
        return label(self.stratum) if self.stratum else ""


def judge(claims: Sequence[Claim], rows: pd.DataFrame, conditions: Sequence[str]) -> list[Verdict]:
    """Test every claim wherever there are runs for it.

    Args:
        claims: of one design.
        rows: of its experiment, with `filtered`.
        conditions: names of the columns that are settings.
    """
    verdicts = [verdict for claim in claims for verdict in _in_every_stratum(claim, rows, conditions)]
    for family in dict.fromkeys(claim.family for claim in claims):
        members = [i for i, verdict in enumerate(verdicts) if verdict.claim.family == family]
        forth, back = (st.holm([getattr(verdicts[i], name) for i in members]) for name in ("p", "p_against"))
        for i, p, p_against in zip(members, forth, back, strict=True):
            verdicts[i] = replace(verdicts[i], p_holm=float(p), p_against_holm=float(p_against))
    return [_decide(verdict) for verdict in verdicts]


def _in_every_stratum(claim: Claim, rows: pd.DataFrame, conditions: Sequence[str]) -> list[Verdict]:
    if claim.outcome not in rows:
        return [Verdict(claim, {}, (), reasons=[f"no run has the outcome '{claim.outcome}'"])]
    if claim.over and claim.over not in rows:
        return [Verdict(claim, {}, (), reasons=[f"no run has '{claim.over}'"])]
    levels = {claim.over: claim.order} if claim.over and claim.order else {}
    sides = [claim.treatment | levels] + ([claim.control] if claim.control is not None else [])
    mine = pd.concat([select(rows, side) for side in sides]).drop_duplicates("run_id")
    if select(rows, claim.treatment).empty:
        return [Verdict(claim, {}, (), reasons=[f"no run with {label(claim.treatment)}"])]
    free = [
        name
        for name in varying(mine, conditions)
        if name not in claim.mentioned and not _follows(mine, name, claim.mentioned & set(conditions))
    ]
    names = [label(claim.treatment), label(claim.control or {})][: len(sides)]
    verdicts = []
    for group in make_groups(mine, free, ""):
        arms = tuple(Arm(name, select(group.rows, side), claim.outcome) for name, side in zip(names, sides, strict=True))
        if all(len(arm.rows) for arm in arms):
            rng = np.random.default_rng([st.SEED, zlib.crc32(f"{claim.name} {group.label}".encode())])
            verdicts.append(_test(Verdict(claim, group.conditions, arms), conditions, rng))
    if not verdicts:
        return [Verdict(claim, {}, (), reasons=[f"no runs with {label(claim.control or {})} beside the treatment's"])]
    return verdicts


def _follows(rows: pd.DataFrame, name: str, mentioned: set[str]) -> bool:
    """Whether a condition has one value for each combination of those that a claim mentions: it cannot be held fixed."""
    known = sorted(mentioned & set(rows.columns))
    return bool(known) and bool((rows[[*known, name]].astype(str).groupby(known)[name].nunique() <= 1).all())


def _test(verdict: Verdict, conditions: Sequence[str], rng: np.random.Generator) -> Verdict:
    """Add estimate, interval and p-values, unless there is too little to test."""
    verdict.reasons.extend(objections(verdict.claim, verdict.arms, conditions))
    few = [arm for arm in verdict.arms if len(arm.used) < 2]
    if few:
        verdict.reasons.append(f"{len(few[0].used)} usable runs of {few[0].name}: a test needs two")
        return verdict
    test = verdict.claim.test
    if test == "slope":
        return _slope(verdict)
    if test in ORDERED:
        return _order(verdict)
    if test == "equivalence":
        return _equivalence(verdict)
    return _difference(verdict, rng)


def _difference(verdict: Verdict, rng: np.random.Generator) -> Verdict:
    """One mean against a value, or two means against each other."""
    claim, values = verdict.claim, [arm.values for arm in verdict.arms]
    if claim.test in ("paired", "sign_flip"):
        one, other = _pairs(verdict.arms)
        alone = sum(len(arm.used) for arm in verdict.arms) - 2 * len(one)
        if alone:
            verdict.reasons.append(f"{alone} runs have no partner with the same seed")
        if len(one) < 2:
            verdict.reasons.append(f"{len(one)} seeds that both arms have: a paired test needs two")
            return verdict
        values = [st.differences(one, other)]
    a, b = values[0], values[1] if len(values) > 1 else None
    sign = 1.0 if claim.direction == "greater" else -1.0

    def p_of(direction: Literal["greater", "less"], shift: float) -> float:
        if b is not None:
            return (
                st.welch(a, b, direction, shift) if claim.test == "welch" else st.permutation(a, b, direction, rng, shift)
            ).p
        if claim.test == "paired":
            return st.paired(one, other, direction, shift).p
        if claim.test == "sign_flip":
            return st.sign_flip(a - shift, direction, rng).p
        return st.one_sample(a, direction, claim.value + shift).p

    if b is None:
        estimate, interval, g = float(a.mean()), st.t_interval(a), (math.nan, st.NOWHERE)
        sd, exact = float(a.std(ddof=1)), st.sign_flip(a - claim.value, claim.direction, rng).p
    else:
        estimate, interval, g = float(a.mean() - b.mean()), st.difference_interval(a, b), st.hedges_g(a, b)
        sd, exact = math.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2), st.permutation(a, b, claim.direction, rng).p
    effect = claim.margin or abs(estimate - claim.value)
    return replace(
        verdict,
        estimate=estimate,
        interval=interval,
        g=g[0],
        g_interval=g[1],
        p=_doubled(p_of(claim.direction, 0.0)),
        p_against=_doubled(p_of(_OTHER[claim.direction], sign * claim.margin)),
        p_exact=_doubled(exact),
        runs_needed=runs_for_power(effect, sd, arms=len(values)),
        effect=effect,
    )


def _equivalence(verdict: Verdict) -> Verdict:
    """Within a margin, or outside it."""
    claim, a = verdict.claim, verdict.arms[0].values - verdict.claim.value
    b = verdict.arms[1].values if len(verdict.arms) > 1 else None
    if b is None:
        estimate, interval = float(a.mean()) + claim.value, st.t_interval(verdict.arms[0].values)
        outside = [st.one_sample(a, "greater", claim.margin).p, st.one_sample(a, "less", -claim.margin).p]
        sd = float(a.std(ddof=1))
    else:
        estimate, interval = float(a.mean() - b.mean()), st.difference_interval(a, b)
        outside = [st.welch(a, b, "greater", claim.margin).p, st.welch(a, b, "less", -claim.margin).p]
        sd = math.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2)
    return replace(
        verdict,
        estimate=estimate,
        interval=interval,
        p=st.equivalence(a, claim.margin, b).p,
        p_against=_doubled(min(outside)),
        runs_needed=runs_for_power(claim.margin, sd, power=0.9, two_sided=False, arms=len(verdict.arms)),
        effect=claim.margin,
    )


def _slope(verdict: Verdict) -> Verdict:
    """Change per decade of a number, one point per level."""
    claim, used = verdict.claim, verdict.arms[0].used
    sizes = pd.to_numeric(used[claim.over], errors="coerce").to_numpy(dtype=float)
    if not (sizes > 0).all():
        verdict.reasons.append(f"{claim.over} is not a number above 0 for every run: there are no decades of it")
        return verdict
    if len(np.unique(sizes)) < 3:
        verdict.reasons.append(f"{len(np.unique(sizes))} levels of {claim.over}: a slope with an interval needs three")
        return verdict
    slope = size_slope(sizes, verdict.arms[0].values)
    if slope.error == 0:
        verdict.reasons.append(f"the levels of {claim.over} lie on a line without residual: how much they scatter is unknown")
        return replace(verdict, estimate=slope.slope, interval=slope.interval, p=1.0, p_against=1.0)
    sign = 1.0 if claim.direction == "greater" else -1.0

    def beyond(bound: float) -> float:
        """P(a slope at least this far above `bound`, if `bound` is the slope)."""
        distance = sign * slope.slope - bound
        return float(stats.t.sf(distance / slope.error, slope.df))

    return replace(
        verdict,
        estimate=slope.slope,
        interval=slope.interval,
        p=_doubled(beyond(0.0)),
        p_against=_doubled(1.0 - beyond(claim.margin)),
    )


def _order(verdict: Verdict) -> Verdict:
    """Values in the order of some levels."""
    claim, arm = verdict.claim, verdict.arms[0]
    order = claim.order or sorted(arm.used[claim.over].unique(), key=lambda level: (isinstance(level, str), level))
    groups = [arm.used[arm.used[claim.over] == level] for level in order]
    empty = [str(level) for level, group in zip(order, groups, strict=True) if group.empty]
    if empty:
        verdict.reasons.append(f"no usable run with {claim.over} {', '.join(empty)}")
    groups = [group for group in groups if len(group)]
    if len(groups) < 3:
        verdict.reasons.append(f"{len(groups)} levels of {claim.over}: an order needs three")
        return verdict
    ranks = np.concatenate([np.full(len(group), i) for i, group in enumerate(groups)])
    values = np.concatenate([group[arm.outcome].to_numpy(dtype=float) for group in groups])
    if len(set(st.rounded(values))) == 1:
        verdict.reasons.append("all runs have the same outcome: there is no order in them")
    if claim.test == "page":
        seeds = set.intersection(*(set(group["seed"]) for group in groups))
        if len(seeds) < 2:
            verdict.reasons.append(f"{len(seeds)} seeds that every level has: Page's test needs two")
            return verdict
        if any(len(group) != len(seeds) for group in groups):
            verdict.reasons.append("not every seed has every level: the others are left out")
        blocks = np.array([[_of_seed(group, seed, arm.outcome) for group in groups] for seed in sorted(seeds)])
        forth, back = (page(blocks, way).p for way in (claim.direction, _OTHER[claim.direction]))
    else:
        columns = [group[arm.outcome].to_numpy(dtype=float) for group in groups]
        forth, back = (jonckheere(columns, way).p for way in (claim.direction, _OTHER[claim.direction]))
    tau = float(stats.kendalltau(ranks, values).statistic)
    return replace(verdict, estimate=tau, p=_doubled(forth), p_against=_doubled(back))


def _of_seed(group: pd.DataFrame, seed: Any, outcome: str) -> float:
    return float(group.loc[group["seed"] == seed, outcome].mean())


def _pairs(arms: Sequence[Arm]) -> tuple[st.Values, st.Values]:
    """Outcomes of either arm for the seeds that both have, (n,) each."""
    a, b = (arm.used.groupby("seed")[arm.outcome].mean() for arm in arms)
    shared = a.index.intersection(b.index)
    return a[shared].to_numpy(dtype=float), b[shared].to_numpy(dtype=float)


def _decide(verdict: Verdict) -> Verdict:
    """Supported: in the claimed direction by the margin, unlikely by chance. Contradicted: unlikely to reach the margin."""
    claim = verdict.claim
    if math.isnan(verdict.p):
        return verdict
    sign = -1.0 if claim.direction == "less" else 1.0
    far_enough = (
        claim.test == "equivalence"
        or claim.test in ("jonckheere", "page")
        or (sign * (verdict.estimate - claim.value) >= claim.margin)
    )
    answer: Answer = "inconclusive"
    if verdict.p_holm <= ALPHA and far_enough:
        answer = "supported"
    elif verdict.p_against_holm <= ALPHA:
        answer = "contradicted"
    reasons = list(verdict.reasons)
    if reasons and answer != "inconclusive":
        reasons[-1] += f"; otherwise this would read '{answer}'"
        answer = "inconclusive"
    return replace(verdict, answer=answer, reasons=reasons, cautions=_cautions(verdict))


def _cautions(verdict: Verdict) -> list[str]:
    """What simulations found against the test, and against the interval of the effect size."""
    n, name = min(len(arm.used) for arm in verdict.arms), MEASURED_AS.get(verdict.claim.test, "")
    if verdict.claim.test == "equivalence":
        name = "one-sample TOST" if len(verdict.arms) == 1 else "Welch TOST"
    cautions = [size_warnings(name, n), size_warnings("Hedges g interval", n) if verdict.g == verdict.g else None]
    return [caution for caution in cautions if caution]


def _doubled(p: float) -> float:
    return min(1.0, 2.0 * p)
