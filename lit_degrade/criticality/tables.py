"""Rows of the tables that a criticality run leaves: scores of sites, agreement of rankings, clusters of sites."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

from torch import Tensor

from lit_degrade.criticality.arms import WeightSet
from lit_degrade.criticality.catalog import TREATED
from lit_degrade.criticality.ranking import Weights
from lit_degrade.criticality.scores import Scores
from lit_degrade.criticality.stability import agreement
from lit_degrade.criticality.structure import cluster, features

Row = dict[str, Any]
Rankings = Mapping[str, Tensor]
"""Metric -> numbers of the weights of highest score, best first."""
Clusters = dict[str, dict[int, list[int]]]
"""Algorithm -> label of a cluster -> numbers of its sites."""


def score_rows(scores: Scores, weights: Weights, arms: Sequence[WeightSet]) -> list[Row]:
    """For every metric and site what its scores are like, and how many of the treated weights of each k it has."""
    treated: dict[str, dict[int, Tensor]] = {}
    for arm in arms:
        if arm.name == TREATED:
            treated.setdefault(arm.metric, {})[arm.k] = arm.ids
    rows = []
    for metric, sets in treated.items():
        counts = {k: {i: len(positions) for i, positions in weights.by_site(ids)} for k, ids in sets.items()}
        for i, site in enumerate(weights.sites):
            rows.append(scores.row(metric, site) | {f"top_{k}": by_site.get(i, 0) for k, by_site in counts.items()})
    return rows


def agreement_rows(
    weights: Weights,
    ks: Sequence[int],
    subject: str,
    rankings: Rankings,
    parts: Sequence[Rankings],
    others: Mapping[str, Rankings],
) -> Iterator[Row]:
    """Rankings of parts of the text, of metrics, and of other subjects, compared two by two at every k.

    Args:
        weights: that were ranked.
        ks: numbers of weights.
        subject: name of the one that is compared with others.
        rankings: of that subject by all of the text.
        parts: by each part of it.
        others: by name, of other subjects.
    """

    def row(kind: str, metric: str, other: str, a: str, b: str, first: Tensor, second: Tensor, k: int) -> Row:
        columns = asdict(agreement(first[:k].numpy(), second[:k].numpy(), len(weights)))
        return {"kind": kind, "metric": metric, "other": other, "a": a, "b": b, "k": k, **columns}

    for k in ks:
        for metric in rankings:
            for i, j in combinations(range(len(parts)), 2):
                yield row("batches", metric, metric, str(i), str(j), parts[i][metric], parts[j][metric], k)
        for a, b in combinations(rankings, 2):
            yield row("metrics", a, b, a, b, rankings[a], rankings[b], k)
        for name, theirs in others.items():
            for metric, ours in rankings.items():
                yield row("subjects", metric, metric, subject, name, ours, theirs[metric], k)


def cluster_rows(weights: Weights, rows: Sequence[Row], seed: int) -> tuple[list[Row], Clusters]:
    """Sites that are alike by their scores.

    Args:
        weights: of the sites.
        rows: see `score_rows`.
        seed: of K-means.

    Returns: a row for every site, and the sites of each cluster; noise is none.
    """
    keys, columns = features(rows)
    number = {(site.parameter, site.component, site.depth): i for i, site in enumerate(weights.sites)}
    sites = [number[site] for site in keys]
    made = cluster(columns, seed)
    labels = {"kmeans": made.kmeans.tolist(), "dbscan": made.dbscan.tolist()}
    table = [
        {
            "parameter": weights.sites[site].parameter,
            "component": weights.sites[site].component,
            "depth": weights.sites[site].depth,
            "weights": weights.size(site),
            "kmeans": labels["kmeans"][i],
            "dbscan": labels["dbscan"][i],
            "silhouette": float(made.silhouette[i]),
            "x": float(made.places[i, 0]),
            "y": float(made.places[i, 1]),
        }
        for i, site in enumerate(sites)
    ]
    clusters = {
        algorithm: {c: [site for site, own in zip(sites, of, strict=True) if own == c] for c in sorted(set(of) - {-1})}
        for algorithm, of in labels.items()
    }
    return table, clusters
