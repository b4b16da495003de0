"""Tables of doses: what each level did, and which dose of each method costs the same."""

import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from lit_degrade.evidence.chapters import Table, bracketed, number
from lit_degrade.evidence.doses import (
    Estimate,
    Variant,
    by_level,
    dose_rows,
    estimate,
    observations,
    text_measures,
    variants_of,
)
from lit_degrade.evidence.exchange_rates import Rate, rate_rows, rates_of
from lit_degrade.evidence.groups import Group, full_label
from lit_degrade.evidence.outcomes import METHODS, method_of, outcome_of, words
from lit_degrade.evidence.record_tables import of_runs
from lit_degrade.evidence.sections import Section
from lit_degrade.records.tables import DAMAGE

MAIN = ("accuracy", "parse_failure_rate", "distinct_2", "seq_rep_4", "loop_share", "nats_intact")
"""Text measures that the pages show; the file has all."""


def write_dose_tables(section: Section, folder: Path) -> list[Table]:
    """Write NAME_doses.csv and NAME_exchange_rates.csv of a section where its runs left any; returns tables for the pages."""
    doses, rates = (f"{section.design.summary}_{kind}.csv" for kind in ("doses", "exchange_rates"))
    for name, rows in ((doses, dose_rows(section.doses, section.groups)), (rates, rate_rows(section.rates, section.groups))):
        if rows:
            pd.DataFrame(rows).to_csv(folder / name, index=False)
    return [*dose_tables(section.doses, section.groups, doses), *rate_tables(section.rates, section.groups, rates)]


def dose_tables(doses: pd.DataFrame, groups: Sequence[Group], file: str) -> list[Table]:
    """For each group of runs: what every level of every variant did.

    Args:
        doses: see `read_doses`.
        groups: of runs.
        file: with all measures.
    """
    note = (
        "Mean over repetitions with 95 % Student t interval; n: repetitions, of which identical ones count once. Doses "
        "without a finite loss are counted and are in no mean."
    )
    found = []
    for i, group in enumerate(groups):
        own = of_runs(doses, list(group.rows["run_id"]))
        if len(own):
            columns = [name for names in text_measures(own).values() for name in names if name.partition(".")[2] in MAIN]
            head = ["variant", "method", "target", "level", "n", "log perplexity ratio [nats/token]"]
            head += [f"{words(name.split('.')[0])}: {outcome_of(name).axis}" for name in columns]
            rows = [_level(v, level, at, columns) for v in variants_of(own) for level, at in by_level(own, v)]
            found.append(Table(f"Doses, {words(full_label(group))}", note, head, rows, i, file))
    return found


def _level(variant: Variant, level: float, doses: pd.DataFrame, columns: Sequence[str]) -> list[str]:
    damage = estimate(observations(doses, DAMAGE))
    method = method_of(variant.method)
    what = [words(variant.name), f"{method.label} [{method.unit}]", words(variant.target), level_words(level), str(damage.n)]
    return [*what, _mean_words(damage), *(_mean_of(doses, name) for name in columns)]


def level_words(level: float) -> str:
    """A level in the unit of its method: 1024, not 1.02e+03."""
    return "∞" if level == math.inf else f"{level:.0f}" if 1000 <= level < 1e6 else number(level)


def _mean_words(it: Estimate) -> str:
    lost = f"{it.diverged} not finite" if it.diverged else ""
    return ", ".join(filter(None, [bracketed(it.mean, it.interval), lost]))


def _mean_of(doses: pd.DataFrame, name: str) -> str:
    """Mean of a text measure in the unit of its column."""
    it, scale = estimate(observations(doses, name)), outcome_of(name).scale
    return ", ".join(filter(None, [number(it.mean * scale), f"{it.diverged} not finite" if it.diverged else ""]))


def rate_tables(rates: pd.DataFrame, groups: Sequence[Group], file: str) -> list[Table]:
    """For each group of runs and each cost: targets by methods, in a cell the dose that costs so much.

    Args:
        rates: see `read_rates`.
        groups: of runs.
        file: with all numbers.
    """
    found = []
    for i, group in enumerate(groups):
        every = rates_of(rates, group)
        for cost in dict.fromkeys(rate.cost for rate in every):
            found.append(_rate_table([rate for rate in every if rate.cost == cost], cost, group, i, file))
    return found


def _rate_table(rates: Sequence[Rate], cost: float, group: Group, i: int, file: str) -> Table:
    methods, cells = methods_of(rates), {(rate.target, rate.method): rate for rate in rates}
    targets = dict.fromkeys(rate.target for rate in rates)
    note = (
        f"Dose of each method that costs {cost:g} nats per token, in its own unit: geometric mean over repetitions with 95 % "
        "Student t interval on a log scale; in parentheses what it costs in fact, where that differs by more than a fifth. "
        "Where no dose costs as much: what the largest one costs, in nats per token."
    )
    rows = [[words(target), *(rate_words(cells.get((target, name))) for name in methods)] for target in targets]
    head = ["target", *(f"{method_of(name).label} [{method_of(name).unit}]" for name in methods)]
    return Table(f"Doses that cost {cost:g} nats per token, {words(full_label(group))}", note, head, rows, i, file)


def methods_of(rates: Sequence[Rate]) -> list[str]:
    """Methods of some rates, in the order of the suite."""
    order, found = list(METHODS), dict.fromkeys(rate.method for rate in rates)
    return sorted(found, key=lambda name: order.index(name) if name in order else len(order))


def rate_words(rate: Rate | None) -> str:
    """The dose of a method at a target in one cell."""
    if rate is None:
        return ""
    dose = bracketed(rate.dose.mean, rate.dose.interval, level_words)
    if not rate.exact:
        dose += f" (costs {number(rate.nats_lost) if math.isfinite(rate.nats_lost) else 'more than any number'})"
    if not rate.missed:
        return dose
    if not rate.dose.n:
        return f"not reached: {number(rate.nats_at_maximum) if math.isfinite(rate.nats_at_maximum) else 'not finite'}"
    return f"{dose}, {rate.missed} of {rate.dose.n + rate.missed} not reached"
