"""Tables of where the weights that matter are: components, layers, correlations."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lit_degrade.evidence.drawing.tables import ANYWHERE, Kind, Rows, Table
from lit_degrade.evidence.reading.estimates import Estimate, estimate, number
from lit_degrade.evidence.reading.record_tables import Tables
from lit_degrade.evidence.reading.sites import OUTSIDE, averaged, components_of, metrics_of, span
from lit_degrade.evidence.reading.words import metric_of, words
from lit_degrade.evidence.topics.maps.rows import damages_of
from lit_degrade.records.tables import (
    ABLATION,
    CORRELATIONS,
    SCORES,
)

MOST = 20
"""Units of ablation that the pages show."""


def profile_rows(own: Tables) -> Rows:
    """For every metric, component and depth: mean score, share of zeros, and shares of the sets of highest scores."""
    by, placed = ["metric", "component", "depth"], own[SCORES].assign(depth=own[SCORES]["depth"].fillna(OUTSIDE))
    values = {name: averaged(placed, name, ["run_id", *by]) for name in ("mean", "zeros")}
    values |= {f"top_{k}": _share(placed, f"top_{k}", ["run_id", *by]) for k in sizes_of(placed)}
    weights = placed.groupby(["run_id", *by], sort=False)["weights"].sum()
    rows: Rows = []
    for key, runs in pd.DataFrame({"weights": weights, **values}).groupby(by, sort=False):
        row: dict[str, Any] = dict(zip(by, key, strict=True))
        row |= {"depth": _depth(row["depth"]), "runs": len(runs), "weights": runs["weights"].mean()}
        for name in values:
            row |= estimate(runs[name].dropna().to_numpy(dtype=float)).columns(name)
        rows.append(row)
    return rows


def sizes_of(scores: pd.DataFrame) -> list[int]:
    """Every k whose highest scores were counted; sets of each matrix, of which all have as many, say nothing."""
    names = [name for name in map(str, scores) if re.fullmatch(r"top_\d+", name)]
    return sorted(int(name[4:]) for name in names if scores.groupby(["run_id", "metric"])[name].nunique().max() > 1)


def _share(scores: pd.DataFrame, column: str, by: Sequence[str]) -> pd.Series:
    """Of the whole of a column, for every metric and run."""
    sums = scores.groupby(list(by), sort=False)[column].sum()
    return sums / sums.groupby(["metric", "run_id"]).transform("sum").replace(0, np.nan)


def enrichment(scores: pd.DataFrame, k: int) -> pd.DataFrame:
    """Share of the k highest weights that lies in a component, over its share of all weights: mean over runs.

    30 of 100 highest weights in a component that has a tenth of the weights give 3.

    Returns: components in rows, metrics in columns, both in the order of the catalogue.
    """
    by = ["metric", "run_id", "component"]
    ratio = _share(scores, f"top_{k}", by) / _share(scores, "weights", by)
    means = ratio.groupby(["component", "metric"]).mean().unstack("metric")
    return means.reindex(index=components_of(scores), columns=metrics_of(scores))


def _profile_table(rows: Rows, own: Tables) -> Table | None:
    scores = own[SCORES]
    if not sizes_of(scores) or not metrics_of(scores):
        return None
    k = sizes_of(scores)[-1]
    ratios = enrichment(scores, k)
    weights = _share(scores, "weights", ["metric", "run_id", "component"]).groupby("component").mean()
    note = (
        f"Share of the {k:,} weights with the highest scores that lies in a component, over its share of all weights: × 1 is "
        f"what chance gives. Mean over runs (n = {scores['run_id'].nunique()})."
    )
    cells = [
        [words(str(name)), f"{100 * weights[name]:.3g} %", *("" if np.isnan(x) else f"× {number(x)}" for x in ratio)]
        for name, ratio in zip(ratios.index, ratios.to_numpy(dtype=float), strict=True)
    ]
    head = ["component", "share of weights", *(metric_of(str(name)) for name in ratios)]
    return Table(f"Where the {k:,} highest weights lie", note, head, cells, *ANYWHERE)


def ablation_rows(own: Tables) -> Rows:
    """For every unit and way of ablation: what it costs."""
    units = [{str(name): value for name, value in row.items()} for row in damages_of(own[ABLATION]).to_dict("records")]
    return [row | {"depth": _depth(row["depth"])} for row in units]


def _ablation_table(rows: Rows, own: Tables) -> Table:
    units = sorted(rows, key=_harm, reverse=True)
    note = (
        "Nats per token lost on held-out text where a unit is ablated, the most harmful first (those without a finite loss "
        "before all others): mean with 95 % Student t interval over draws and runs, of which identical ones count once."
    )
    if len(units) > MOST:
        note += f" {len(units) - MOST} others cost less."
    what = [[words(it["unit"]), it["kind"], it["way"], _count(it["weights"]), str(it["lost_n"])] for it in units[:MOST]]
    cells = [[*cell, Estimate.of(it, "lost").words()] for cell, it in zip(what, units, strict=False)]
    return Table("Ablation", note, ["unit", "kind", "method", "weights", "n", "lost [nats/token]"], cells, *ANYWHERE)


def _harm(unit: Mapping[str, Any]) -> tuple[float, float]:
    """By which units are ordered: the share of losses that are not finite, then the mean of the others."""
    return unit["lost_not_finite"] / unit["lost_n"], -math.inf if math.isnan(unit["lost"]) else unit["lost"]


def _count(value: float) -> str:
    return "" if math.isnan(value) else f"{value:,.0f}"


def correlation_rows(own: Tables) -> Rows:
    """For every pair of metrics, and of depths: Spearman's correlation over runs."""
    return [
        dict(zip(("kind", "metric", "a", "b"), key, strict=True))
        | {"things": span([int(n) for n in lines["n"].dropna()])}
        | estimate(lines["spearman"].dropna().to_numpy(dtype=float)).columns("spearman")
        for key, lines in own[CORRELATIONS].groupby(["kind", "metric", "a", "b"], sort=False)
    ]


def _depth(depth: float) -> int | None:
    return None if depth == OUTSIDE else int(depth)


KINDS = {
    "profile": Kind(SCORES, profile_rows, _profile_table),
    "ablation": Kind(ABLATION, ablation_rows, _ablation_table),
    "correlations": Kind(CORRELATIONS, correlation_rows),
}
"""Files of a report about where weights matter."""
