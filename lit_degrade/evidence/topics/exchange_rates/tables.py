"""Tables of exchange rates: which dose of each method costs the same."""

import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from lit_degrade.evidence.claims.sections import Section
from lit_degrade.evidence.drawing.tables import Table, save_rows
from lit_degrade.evidence.reading.estimates import bracketed, number
from lit_degrade.evidence.reading.groups import Group, full_label
from lit_degrade.evidence.reading.variants import level_words
from lit_degrade.evidence.reading.words import method_of, rank_in, words
from lit_degrade.evidence.topics.exchange_rates.rows import Rate, rate_rows, rates_of
from lit_degrade.perturbations.catalog import METHODS
from lit_degrade.records.tables import EXCHANGE_RATES


def write_rate_tables(section: Section, folder: Path) -> list[Table]:
    """Write NAME_exchange_rates.csv of a section where its runs left any; returns tables for the pages."""
    rates = section.table(EXCHANGE_RATES)
    return rate_tables(rates, section.groups, save_rows(section, folder, "exchange_rates", rate_rows(rates, section.groups)))


def rate_tables(rates: pd.DataFrame, groups: Sequence[Group], file: str) -> list[Table]:
    """For each group of runs and each cost: targets by methods, in a cell the dose that costs so much.

    Args:
        rates: see `read_rates`.
        groups: of runs.
        file: with all numbers.
    """
    tables = []
    for i, group in enumerate(groups):
        every = rates_of(rates, group)
        for cost in dict.fromkeys(rate.cost for rate in every):
            tables.append(_rate_table([rate for rate in every if rate.cost == cost], cost, group, i, file))
    return tables


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
    return sorted(dict.fromkeys(rate.method for rate in rates), key=lambda name: rank_in(name, METHODS))


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
