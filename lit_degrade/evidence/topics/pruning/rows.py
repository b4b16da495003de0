"""What runs say of pruning: how each group pruned, how much, and what it did to every matrix."""

import math

import numpy as np
import pandas as pd

from lit_degrade.evidence.claims.sections import Section
from lit_degrade.evidence.reading.groups import Group, label
from lit_degrade.evidence.reading.sites import OUTSIDE
from lit_degrade.evidence.reading.words import say, words
from lit_degrade.pruning.catalog import pruners
from lit_degrade.records.tables import DAMAGE, PRUNING

ASKED, ACHIEVED, METHOD = "prune.sparsity", "sparsity_achieved", "prune.method"
"""Condition that says how much is zeroed, fact that says how much was, and condition that says how."""
ERROR = "reconstruction_error"


def way_of(group: Group) -> str:
    """How the runs of a group prune, beside how much: method, and what differs between the groups."""
    named = [group.rows[name].dropna() for name in (METHOD, "method") if name in group.rows]
    method = next((say(str(column.iloc[0]), pruners()) for column in named if len(column)), "pruned")
    rest = {name: value for name, value in group.conditions.items() if name not in ("subject", METHOD, ASKED) and value}
    return ", ".join([method, words(label(rest))] if rest else [method])


def subject_of(group: Group) -> str:
    """Subject of a group."""
    return str(group.rows["subject"].iloc[0])


def pruned(group: Group) -> pd.DataFrame:
    """Runs of a group that the filter leaves and that ended, with a known sparsity; damage that is not finite is inf."""
    rows = group.rows[~group.rows["filtered"] & group.rows["state"].isin(["done", "diverged"])]
    if ACHIEVED not in rows:
        return rows.iloc[:0]
    lost = pd.to_numeric(rows[DAMAGE], errors="coerce") if DAMAGE in rows else pd.Series(math.inf, rows.index)
    asked = pd.to_numeric(rows[ASKED], errors="coerce") if ASKED in rows else math.nan
    known = pd.to_numeric(rows[ACHIEVED], errors="coerce").fillna(asked)
    finite = lost.where(np.isfinite(lost) & (rows["state"] == "done"), math.inf)
    return rows.assign(**{ACHIEVED: known, DAMAGE: finite, "random": False}).dropna(subset=[ACHIEVED])


def level_of(group: Group) -> float:
    """Sparsity that was asked for, by a pattern too; nan where it is not known."""
    known = [pd.to_numeric(group.rows[name], errors="coerce").dropna() for name in ("sparsity", ASKED) if name in group.rows]
    return next((float(column.iloc[0]) for column in known if len(column)), math.nan)


def error_lines(section: Section) -> pd.DataFrame:
    """Matrices whose reconstruction error was measured, with depth OUTSIDE where they are in no block."""
    lines = section.table(PRUNING)
    return lines.dropna(subset=[ERROR]).assign(depth=lambda kept: kept["depth"].fillna(OUTSIDE)) if len(lines) else lines
