"""Tables of clusters of matrices."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from lit_degrade.evidence.drawing.tables import ANYWHERE, Kind, Rows, Table
from lit_degrade.evidence.reading.estimates import Estimate, estimate, number
from lit_degrade.evidence.reading.record_tables import Tables
from lit_degrade.evidence.reading.sites import components_of
from lit_degrade.evidence.reading.words import words
from lit_degrade.evidence.topics.clusters.rows import effect_words
from lit_degrade.records.tables import (
    CLUSTER_EFFECTS,
    CLUSTERS,
    DAMAGE,
)


def cluster_rows(own: Tables) -> Rows:
    """For every run, cluster by K-means and way of perturbing: which matrices are in it, and what perturbing it costs."""
    by, effects, rows = ["run_id", "cluster"], own[CLUSTER_EFFECTS], []
    lines = own[CLUSTERS].dropna(subset=["kmeans"]).rename(columns={"kmeans": "cluster"})
    draws = effects[effects["algorithm"] == "kmeans"] if len(effects) else pd.DataFrame(columns=[*by, "method", "level", "k"])
    for key, sites in lines.astype({"cluster": int}).groupby(by):
        row: dict[str, Any] = dict(zip(by, key, strict=True))
        mine = draws[(draws["run_id"] == row["run_id"]) & (draws["cluster"] == row["cluster"])]
        row |= {"matrices": len(sites), "sites": sites_words(sites), "silhouette": sites["silhouette"].mean()}
        row |= {"noise_of_dbscan": int((sites["dbscan"] == -1).sum())}
        rows += [row | _effect(same) for _, same in mine.groupby(["method", "level", "k"], sort=False)] or [row]
    return rows


def _effect(draws: pd.DataFrame) -> dict[str, Any]:
    """What one way of perturbing a cluster costs."""
    what = {name: draws[name].iloc[0] for name in ("method", "level", "k")} | {"way": effect_words(draws).iloc[0]}
    return what | estimate(draws[DAMAGE].to_numpy(dtype=float)).columns("lost")


def sites_words(lines: pd.DataFrame) -> str:
    """Matrices in few words: attn q 0 to 3, 7; embed."""
    depths = {name: lines.loc[lines["component"] == name, "depth"].dropna().astype(int) for name in components_of(lines)}
    return "; ".join(f"{words(name)} {_ranges(sorted(set(own)))}".strip() for name, own in depths.items())


def _ranges(depths: Sequence[int]) -> str:
    """Numbers in order, those that follow each other together."""
    starts = [depth for depth in depths if depth - 1 not in depths]
    ends = [depth for depth in depths if depth + 1 not in depths]
    return ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in zip(starts, ends, strict=True))


def _cluster_table(rows: Rows, own: Tables) -> Table | None:
    rows = [row for row in rows if row["run_id"] == own[CLUSTERS]["run_id"].iloc[0]]
    ways = list(dict.fromkeys(row["way"] for row in rows if "way" in row))
    lost = {(row["cluster"], row["way"]): Estimate.of(row, "lost").words() for row in rows if "way" in row}
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


KINDS = {"clusters": Kind(CLUSTERS, cluster_rows, _cluster_table)}
"""Files of a report about clusters."""
