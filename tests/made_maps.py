"""Tables of criticality runs, made without running anything: subjects of any depth whose middle layers matter most."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import made
import numpy as np
from scipy import stats

from lit_degrade.criticality.catalog import METRICS
from lit_degrade.records import tables

Rows = list[dict[str, Any]]
BLOCK = {"attn_q": 1, "attn_k": 1, "attn_v": 1, "attn_o": 1, "mlp_up": 4, "mlp_down": 4}
"""Component -> its share of a block's weights."""
QUANTILES = (0, 1, 5, 25, 50, 75, 95, 99, 99.9, 100)


class Site(NamedTuple):
    """One matrix, or the Q, K or V part of a fused one."""

    parameter: str
    component: str
    depth: int | str
    weights: int


def sites(layers: int = 4) -> list[Site]:
    """Matrices of a NeoX subject; Q, K and V are parts of one."""
    names = {"attn_o": "attention.dense", "mlp_up": "mlp.dense_h_to_4h", "mlp_down": "mlp.dense_4h_to_h"}
    blocks = [
        Site(f"layers.{i}.{names.get(component, 'attention.query_key_value')}.weight", component, i, 400 * share)
        for i in range(layers)
        for component, share in BLOCK.items()
    ]
    return [Site("embed_in.weight", "embed", "", 4000), *blocks, Site("embed_out.weight", "head", "", 4000)]


def scores(layers: int = 4, seed: int = 43, ks: Sequence[int] = (100, 1000)) -> Rows:
    """Scores of every metric: log-normal, larger in the middle of a subject and in mlp_down; signed ones have both signs."""
    rng, found = np.random.default_rng(seed), []
    for i, (metric, kind) in enumerate(METRICS.items()):
        values = {
            site: rng.lognormal(-5 * i + (site.component == "mlp_down"), 1.5, 500) * _middle(site, layers)
            for site in sites(layers)
        }
        if metric == "random":
            values = {site: rng.uniform(size=500) for site in values}
        if kind.signed:
            values = {site: drawn * np.where(rng.uniform(size=500) < 0.3, -1, 1) for site, drawn in values.items()}
        if metric == "grad_squared":
            values = {site: np.where(rng.uniform(size=500) < 0.2, 0, drawn) for site, drawn in values.items()}
        highest = {k: _highest(values, k) for k in ks}
        for site, drawn in values.items():
            row: dict[str, Any] = {"metric": metric, **site._asdict(), "mean": drawn.mean(), "sd": drawn.std()}
            row |= {"zeros": (drawn == 0).mean(), "standard_error": ""}
            row |= {f"q{q:g}": np.percentile(drawn, q) for q in QUANTILES}
            found.append(row | {f"top_{k}": highest[k][site] for k in ks})
    return found


def _middle(site: Site, layers: int) -> float:
    return 1 + 9 * float(np.exp(-(((site.depth / layers) - 0.4) ** 2) * 20)) if isinstance(site.depth, int) else 0.5


def _highest(values: dict[Site, Any], k: int) -> dict[Site, int]:
    """How many of the k highest are at each site, of which each value stands for as many weights."""
    everything = np.concatenate([np.repeat(drawn, site.weights // 400) for site, drawn in values.items()])
    least = np.sort(everything)[-min(k, len(everything))]
    return {site: int((np.repeat(drawn, site.weights // 400) >= least).sum()) for site, drawn in values.items()}


def ablation(layers: int = 4, seed: int = 43, method: str = "zero", draws: int = 1) -> Rows:
    """Layers, matrices and a named set; the first mlp_down breaks the subject, one matrix makes it better."""
    rng, found = np.random.default_rng(seed), []
    units: list[tuple[str, str, str, int | str, str, int]] = [
        (site.parameter + f" {site.component}", "matrix", site.component, site.depth, site.parameter, site.weights)
        for site in sites(layers)
    ]
    units += [(f"layer {i}", "layer", "", i, "", 4800) for i in range(layers)]
    units += [("all attention", "named", "", "", "", 1600 * layers)]
    for unit, kind, component, depth, parameter, weights in units:
        for draw in range(draws):
            lost: float | str = rng.lognormal(-4 + 3 * (kind == "layer"), 1.5)
            if component == "mlp_down" and depth == 0:
                lost = "inf"
            elif component == "attn_k" and depth == 1:
                lost = -0.004
            row = {"unit": unit, "kind": kind, "component": component, "depth": depth, "parameter": parameter, "method": method}
            row |= {"level": 1.0, "draw": draw, "random": draws > 1, "weights": weights, "relative_norm": 1.0}
            row |= {"nats_per_token": "", "log_perplexity_ratio": lost, "perplexity": "", "token_accuracy": 0.3}
            found.append(row)
    return found


def clusters(layers: int = 4, seed: int = 43, k: int = 3) -> Rows:
    """Components that are alike in groups of their own."""
    rng, found = np.random.default_rng(seed), []
    for i, site in enumerate(sites(layers)):
        label = list([*BLOCK, "embed", "head"]).index(site.component) % k
        x, y = rng.normal(0, 0.5, 2) + 2.5 * np.array([np.cos(2.1 * label), np.sin(2.1 * label)])
        row = {**site._asdict(), "kmeans": label, "dbscan": -1 if i % 11 == 0 else label, "silhouette": 0.2 + 0.1 * label}
        found.append(row | {"x": x, "y": y})
    return found


def cluster_effects(k: int = 3, seed: int = 43, draws: int = 5, methods: Sequence[str] = ("zero",)) -> Rows:
    """What perturbing 200 weights of each cluster costs: the later, the more; a draw of the last is not finite."""
    rng = np.random.default_rng(seed)
    return [
        {"algorithm": algorithm, "cluster": label, "sites": 8, "method": method, "level": 1.0, "k": 200, "draw": draw,
         "weights": 200, "norm_of_change": 1.0, "perplexity": "", "token_accuracy": 0.3,
         "log_perplexity_ratio": "inf" if (label, draw) == (k - 1, 0) else rng.lognormal(label - 4, 0.3)}
        for algorithm in ("kmeans", "dbscan") for method in methods for label in range(k) for draw in range(draws)
    ]  # fmt: skip


def spikes(layers: int = 4, seed: int = 43, at: int = 1, found: int = 2) -> Rows:
    """Activations that are large at one layer until `found` weights are removed."""
    rng, rows = np.random.default_rng(seed), []
    for stage in (*range(found + 1), -1):
        for depth in range(layers):
            large = 300 / 4 ** max(stage, 0)
            ratios = [large, large] if depth == at else [float(value) for value in rng.lognormal(1, 0.2, 2)]
            row: dict[str, Any] = {"stage": stage, "depth": depth, "parameter": f"layers.{depth}.mlp.dense_4h_to_h.weight"}
            for side, ratio in zip(("input", "output"), ratios, strict=True):
                row |= {f"{side}_max": ratio * 2, f"{side}_channel": 7, f"{side}_ratio": ratio, f"{side}_threshold": 25.0}
            rows.append(row | {"weights": 1600, "z_outliers": 20})
    return rows


def super_weights(at: int = 1, found: int = 2, seed: int = 43) -> Rows:
    """Weights that make the spikes; only the first is confirmed."""
    rows = []
    for i in range(found):
        row: dict[str, Any] = {"order": i + 1, "parameter": f"layers.{at}.mlp.dense_4h_to_h.weight", "depth": at}
        row |= {"row": 2533 + i, "column": 7890, "value": -2.5, "z": 80.0 / (i + 1), "output_ratio": 300 / 4**i}
        row |= {"output_threshold": 25.0, "input_ratio": 280.0, "input_threshold": 25.0, "share": 0.97}
        row |= {"nats_lost": 2.0 if i == 0 else 0.001, "nats_lost_control_mean": 0.002, "nats_lost_control_max": 0.01}
        rows.append(row | {"controls": 19, "p": 0.05 if i == 0 else 0.6, "confirmed": i == 0, "published": i == 0})
    return rows


def correlations(rows: Rows) -> Rows:
    """Spearman's correlations of mean scores: between metrics over sites, between depths over components."""
    means = {(row["metric"], row["parameter"], row["component"], row["depth"]): row["mean"] for row in rows}
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    places = list(dict.fromkeys(key[1:] for key in means))
    values = {metric: [means[(metric, *place)] for place in places] for metric in metrics}
    found = [
        {"kind": "metrics", "metric": "", "a": a, "b": b, "n": len(places), "spearman": _spearman(values[a], values[b])}
        for i, a in enumerate(metrics) for b in metrics[i + 1 :]
    ]  # fmt: skip
    depths = sorted({row["depth"] for row in rows if row["depth"] != ""})
    for metric in metrics:
        at = {depth: [row["mean"] for row in rows if (row["metric"], row["depth"]) == (metric, depth)] for depth in depths}
        found += [
            {"kind": "depths", "metric": metric, "a": a, "b": b, "n": len(BLOCK), "spearman": _spearman(at[a], at[b])}
            for i, a in enumerate(depths) for b in depths[i + 1 :]
        ]  # fmt: skip
    return found


def _spearman(x: Sequence[float], y: Sequence[float]) -> float:
    return float(stats.spearmanr(x, y).statistic)


def run(results: Path, layers: int = 4, seed: int = 43, **settings: Any) -> Path:
    """A finished run with every table."""
    folder = made.record(results, "criticality", seed=seed, **settings)
    rows = scores(layers, seed)
    left = {
        tables.SCORES: rows, tables.CORRELATIONS: correlations(rows), tables.ABLATION: ablation(layers, seed),
        tables.CLUSTERS: clusters(layers, seed), tables.CLUSTER_EFFECTS: cluster_effects(seed=seed),
        tables.SPIKES: spikes(layers, seed), tables.SUPER_WEIGHTS: super_weights(seed=seed),
    }  # fmt: skip
    for schema, found in left.items():
        made.table(folder, schema, found)
    return folder
