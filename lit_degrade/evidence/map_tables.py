"""Tables of where the weights that matter are: components, layers, single weights, clusters, correlations."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lit_degrade.evidence.chapters import Table, bracketed, number
from lit_degrade.evidence.doses import Estimate, estimate
from lit_degrade.evidence.group_tables import ANYWHERE, Rows, write_group_tables
from lit_degrade.evidence.outcomes import metric_of, words
from lit_degrade.evidence.record_tables import Tables, of_runs
from lit_degrade.evidence.sections import Section
from lit_degrade.evidence.sites import (
    OUTSIDE,
    averaged,
    components_of,
    confirmed_words,
    damages_of,
    effect_words,
    metrics_of,
    span,
)
from lit_degrade.evidence.statistics import Interval
from lit_degrade.records.tables import (
    ABLATION,
    CLUSTER_EFFECTS,
    CLUSTERS,
    CORRELATIONS,
    DAMAGE,
    SCORES,
    SPIKES,
    SUPER_WEIGHTS,
    Schema,
)

MOST = 20
"""Units of ablation that the pages show."""
_OF_WEIGHTS = {
    "value": "value", "z": "z", "output_ratio": "output [ratio]", "input_ratio": "input [ratio]",
    "nats_lost": "lost [nats/token]", "nats_lost_control_mean": "controls, mean [nats/token]",
    "nats_lost_control_max": "controls, worst [nats/token]",
}  # fmt: skip
"""Columns of super_weights.csv that the pages show the means of, and how they are headed."""


def write_map_tables(section: Section, folder: Path) -> list[Table]:
    """Write NAME_profile.csv, NAME_ablation.csv, NAME_super_weights.csv, NAME_clusters.csv and NAME_correlations.csv.

    Args:
        section: of a report; a file that would have no line is not written.
        folder: where to.

    Returns: tables for the pages.
    """

    def of_group(
        source: Schema, make: Callable[[Tables], Rows], show: Callable[[Tables], Table | None] | None, runs: Sequence[str]
    ) -> tuple[Rows, Table | None]:
        own = {schema: of_runs(section.table(schema), runs) for schema in (source, CLUSTER_EFFECTS, SPIKES)}
        return (make(own), show(own) if show else None) if len(own[source]) else ([], None)

    return write_group_tables(section, folder, {kind: partial(of_group, *how) for kind, how in _KINDS.items()})


def profile_rows(own: Tables) -> Rows:
    """For every metric, component and depth: mean score, share of zeros, and shares of the sets of highest scores."""
    by, placed = ["metric", "component", "depth"], own[SCORES].assign(depth=own[SCORES]["depth"].fillna(OUTSIDE))
    values = {name: averaged(placed, name, ["run_id", *by]) for name in ("mean", "zeros")}
    values |= {f"top_{k}": _share(placed, f"top_{k}", ["run_id", *by]) for k in sizes_of(placed)}
    weights = placed.groupby(["run_id", *by], sort=False)["weights"].sum()
    found: Rows = []
    for key, runs in pd.DataFrame({"weights": weights, **values}).groupby(by, sort=False):
        row: dict[str, Any] = dict(zip(by, key, strict=True))
        row |= {"depth": _depth(row["depth"]), "runs": len(runs), "weights": runs["weights"].mean()}
        for name in values:
            row |= estimate_columns(name, estimate(runs[name].dropna().to_numpy(dtype=float)))
        found.append(row)
    return found


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


def _profile_table(own: Tables) -> Table | None:
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
    rows = [
        [words(str(name)), f"{100 * weights[name]:.3g} %", *("" if np.isnan(x) else f"× {number(x)}" for x in ratio)]
        for name, ratio in zip(ratios.index, ratios.to_numpy(dtype=float), strict=True)
    ]
    head = ["component", "share of weights", *(metric_of(str(name)) for name in ratios)]
    return Table(f"Where the {k:,} highest weights lie", note, head, rows, *ANYWHERE)


def ablation_rows(own: Tables) -> Rows:
    """For every unit and way of ablation: what it costs."""
    units = [{str(name): value for name, value in row.items()} for row in damages_of(own[ABLATION]).to_dict("records")]
    return [row | {"depth": _depth(row["depth"])} for row in units]


def _ablation_table(own: Tables) -> Table:
    units = sorted(ablation_rows(own), key=_harm, reverse=True)
    note = (
        "Nats per token lost on held-out text where a unit is ablated, the most harmful first (those without a finite loss "
        "before all others): mean with 95 % Student t interval over draws and runs, of which identical ones count once."
    )
    if len(units) > MOST:
        note += f" {len(units) - MOST} others cost less."
    rows = [
        [words(it["unit"]), it["kind"], it["way"], _count(it["weights"]), str(it["lost_n"]), _lost(it)] for it in units[:MOST]
    ]
    return Table("Ablation", note, ["unit", "kind", "method", "weights", "n", "lost [nats/token]"], rows, *ANYWHERE)


def _harm(unit: Mapping[str, Any]) -> tuple[float, float]:
    """By which units are ordered: the share of losses that are not finite, then the mean of the others."""
    return unit["lost_not_finite"] / unit["lost_n"], -math.inf if math.isnan(unit["lost"]) else unit["lost"]


def _count(value: float) -> str:
    return "" if math.isnan(value) else f"{value:,.0f}"


def _lost(row: Mapping[str, Any]) -> str:
    """What a unit or cluster costs, and how much of it is not finite."""
    mean, lost = bracketed(row["lost"], Interval(row["lost_low"], row["lost_high"])), row["lost_not_finite"]
    return ", ".join(filter(None, [mean, f"{lost} not finite" if lost else ""]))


def super_weight_rows(own: Tables) -> Rows:
    """Every line that the runs left."""
    return [{str(name): value for name, value in row.items()} for row in own[SUPER_WEIGHTS].to_dict("records")]


def _super_weight_table(own: Tables) -> Table:
    lines, known = own[SUPER_WEIGHTS], {"True": "yes", "False": "no"}
    lines = lines.reindex(columns=[*dict.fromkeys([*lines, *_OF_WEIGHTS])])
    note = (
        "Single weights that make an activation spike, in order of discovery, then those that were published (Yu et al. 2024) "
        "and not found: means over runs. z: in its matrix. Ratios: of the largest over the median channel. Lost: where the "
        "weight is zeroed, and where those nearest in size are (mean, and the worst). p: by rank among these, one-sided, the "
        "largest of any run."
    )
    rows, runs = [], len({run for table in (lines, own[SPIKES]) if len(table) for run in table["run_id"]})
    for (parameter, row, column), found in lines.groupby(["parameter", "row", "column"], sort=False):
        seen = f"{found['order'].notna().sum()} of {runs} runs"
        cells = [str(parameter), f"{row:.0f}", f"{column:.0f}", seen, *(number(found[name].mean()) for name in _OF_WEIGHTS)]
        published = known.get(str(found["published"].iloc[0]), "")
        rows.append([*cells, number(found["p"].max()), confirmed_words(found["confirmed"]), published])
    head = ["parameter", "row", "column", "found by", *_OF_WEIGHTS.values(), "p", "confirmed", "published"]
    return Table("Super weights", note, head, rows, *ANYWHERE)


def cluster_rows(own: Tables) -> Rows:
    """For every run, cluster by K-means and way of perturbing: which matrices are in it, and what perturbing it costs."""
    by, effects, found = ["run_id", "cluster"], own[CLUSTER_EFFECTS], []
    lines = own[CLUSTERS].dropna(subset=["kmeans"]).rename(columns={"kmeans": "cluster"})
    draws = effects[effects["algorithm"] == "kmeans"] if len(effects) else pd.DataFrame(columns=[*by, "method", "level", "k"])
    for key, sites in lines.astype({"cluster": int}).groupby(by):
        row: dict[str, Any] = dict(zip(by, key, strict=True))
        mine = draws[(draws["run_id"] == row["run_id"]) & (draws["cluster"] == row["cluster"])]
        row |= {"matrices": len(sites), "sites": sites_words(sites), "silhouette": sites["silhouette"].mean()}
        row |= {"noise_of_dbscan": int((sites["dbscan"] == -1).sum())}
        found += [row | _effect(same) for _, same in mine.groupby(["method", "level", "k"], sort=False)] or [row]
    return found


def _effect(draws: pd.DataFrame) -> dict[str, Any]:
    """What one way of perturbing a cluster costs."""
    what = {name: draws[name].iloc[0] for name in ("method", "level", "k")} | {"way": effect_words(draws).iloc[0]}
    return what | estimate_columns("lost", estimate(draws[DAMAGE].to_numpy(dtype=float)))


def sites_words(lines: pd.DataFrame) -> str:
    """Matrices in few words: attn q 0 to 3, 7; embed."""
    depths = {name: lines.loc[lines["component"] == name, "depth"].dropna().astype(int) for name in components_of(lines)}
    return "; ".join(f"{words(name)} {_ranges(sorted(set(found)))}".strip() for name, found in depths.items())


def _ranges(depths: Sequence[int]) -> str:
    """Numbers in order, those that follow each other together."""
    starts = [depth for depth in depths if depth - 1 not in depths]
    ends = [depth for depth in depths if depth + 1 not in depths]
    return ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in zip(starts, ends, strict=True))


def _cluster_table(own: Tables) -> Table | None:
    rows = [row for row in cluster_rows(own) if row["run_id"] == own[CLUSTERS]["run_id"].iloc[0]]
    ways = list(dict.fromkeys(row["way"] for row in rows if "way" in row))
    lost = {(row["cluster"], row["way"]): _lost(row) for row in rows if "way" in row}
    note = (
        "Matrices whose scores are alike, by K-means, in the first run of the group. Silhouette: mean over matrices, −1 to 1 "
        "(up to 0.25: no structure; up to 0.5: weak). Lost: nats per token where as many weights of each cluster are "
        "perturbed, mean with 95 % Student t interval over draws."
    )
    cells = [
        [str(n), str(it["matrices"]), it["sites"], number(it["silhouette"]), str(it["noise_of_dbscan"])]
        + [lost.get((n, way), "") for way in ways]
        for n, it in {row["cluster"]: row for row in rows}.items()
    ]
    head = ["cluster", "matrices", "which", "silhouette", "noise to DBSCAN", *(f"lost by {way} [nats/token]" for way in ways)]
    return Table("Clusters of matrices", note, head, cells, *ANYWHERE) if rows else None


def correlation_rows(own: Tables) -> Rows:
    """For every pair of metrics, and of depths: Spearman's correlation over runs."""
    return [
        dict(zip(("kind", "metric", "a", "b"), key, strict=True))
        | {"things": span([int(n) for n in lines["n"].dropna()])}
        | estimate_columns("spearman", estimate(lines["spearman"].dropna().to_numpy(dtype=float)))
        for key, lines in own[CORRELATIONS].groupby(["kind", "metric", "a", "b"], sort=False)
    ]


def estimate_columns(name: str, it: Estimate) -> dict[str, Any]:
    """Columns of an estimate: its mean, interval, how many values it is of, and how many of them it leaves out."""
    row = {name: it.mean, f"{name}_low": it.interval.low, f"{name}_high": it.interval.high}
    return row | {f"{name}_n": it.n, f"{name}_not_finite": it.diverged}


def _depth(depth: float) -> int | None:
    return None if depth == OUTSIDE else int(depth)


_KINDS: dict[str, tuple[Schema, Callable[[Tables], Rows], Callable[[Tables], Table | None] | None]] = {
    "profile": (SCORES, profile_rows, _profile_table),
    "ablation": (ABLATION, ablation_rows, _ablation_table),
    "super_weights": (SUPER_WEIGHTS, super_weight_rows, _super_weight_table),
    "clusters": (CLUSTERS, cluster_rows, _cluster_table),
    "correlations": (CORRELATIONS, correlation_rows, None),
}
"""Kind -> file that it is from, rows of its CSV, and its table of the pages."""
