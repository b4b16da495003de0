"""What ablations cost, and how far metrics and depths agree."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from lit_degrade.criticality.catalog import METRICS
from lit_degrade.evidence.reading.estimates import estimate, observations
from lit_degrade.evidence.reading.groups import Group
from lit_degrade.evidence.reading.record_tables import Tables, bounded, read_counted
from lit_degrade.evidence.reading.sites import OUTSIDE
from lit_degrade.evidence.reading.words import method_of, ordered
from lit_degrade.records.tables import ABLATION, CORRELATIONS, DAMAGE, SCORES


def damages_of(lines: pd.DataFrame) -> pd.DataFrame:
    """What every unit costs under every method and level, in the order in which they were written.

    Args:
        lines: of ablations.

    Returns: a row per unit: what it is, `way` (of ablation, in words), `weights` (number), `relative_norm` (mean), and of the
        nats per token that are `lost` the mean, `_low`, `_high`, `_n` (draws and runs) and `_not_finite` (those in no mean).
    """
    placed = lines.assign(depth=lines["depth"].fillna(OUTSIDE).astype(int))
    units = placed.groupby(["method", "level", "kind", "unit"], sort=False)
    return pd.DataFrame([_damage(own) for _, own in units])


def _damage(lines: pd.DataFrame) -> dict[str, object]:
    first, it = lines.iloc[0], estimate(observations(lines, DAMAGE))
    method = method_of(first["method"])
    row = {name: first[name] for name in ("unit", "kind", "component", "depth", "parameter", "method", "level", "weights")}
    row |= {"way": f"{method.label}, level {first['level']:g} [{method.unit}]", "relative_norm": lines["relative_norm"].mean()}
    row |= {"lost": it.mean, "lost_low": it.interval.low, "lost_high": it.interval.high}
    return row | {"lost_n": it.n, "lost_not_finite": it.diverged}


def correlations_of(lines: pd.DataFrame) -> pd.DataFrame:
    """Mean over runs of Spearman's correlations of one kind and metric: a lower triangle, later names in rows.

    Metrics are in the order of the catalogue, depths by number, and what is in no block comes last.
    """
    names = set(lines["a"]) | set(lines["b"])
    order = {name: i for i, name in enumerate(sorted(ordered(names, METRICS), key=_depth))}
    later = np.where(lines["a"].map(order) > lines["b"].map(order), lines["a"], lines["b"])
    first = np.where(later == lines["a"], lines["b"], lines["a"])
    means = lines.assign(later=later, first=first).groupby(["later", "first"])["spearman"].mean()
    return means.unstack().reindex(index=list(order)[1:], columns=list(order)[:-1])


def _depth(name: str) -> float:
    return float(name) if name.replace(".", "").isdigit() else math.inf


def read_maps(rows: pd.DataFrame, groups: Sequence[Group] = ()) -> tuple[Tables, list[str]]:
    """Scores, ablations and correlations, and what is wrong with the files (see `read_counted`)."""
    tables, cautions = read_counted(rows, (SCORES, ABLATION, CORRELATIONS))
    return tables | {CORRELATIONS: bounded(tables[CORRELATIONS])}, cautions
