"""How the scores of whole matrices are structured: correlations between metrics and depths, clusters of sites."""

import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.spatial.distance import pdist, squareform

from lit_degrade.errors import UserError

Row = Mapping[str, Any]
"""A row of scores.csv, its cells as words or as numbers; an empty one or None was not measured."""
Site = tuple[str, str, int | None]
"""Parameter, component, depth."""
Values = NDArray[np.float64]
Labels = NDArray[np.int64]

LEAST_SHARED = 3
"""The ranks of two things always agree fully or not at all."""
LEAST_SITES = 4
MOST_CLUSTERS = 8
MIN_SAMPLES = 3
"""Of DBSCAN, the site itself included; two or fewer would be single linkage."""
ROUNDING = 1e-9
"""Features and distances between sites below this are rounding."""
SAYS_NOTHING = "random"
"""The metric that no feature is made of."""


@dataclass(frozen=True)
class Clusters:
    """Groups of n sites, found by two algorithms, labels counted from 0 in order of first appearance."""

    kmeans: Labels
    """(n,) label by K-means"""
    dbscan: Labels
    """(n,) label by DBSCAN, -1 for noise"""
    silhouette: Values
    """(n,) of the K-means labels, -1 to 1; nan where all sites are alike"""
    mean_silhouettes: dict[int, float]
    """number of clusters tried -> mean silhouette; empty where all sites are alike"""
    places: Values
    """(n, 2) first two principal components; the largest loading of each is positive"""


def correlations(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Spearman correlations of mean scores, by value: between metrics over sites, and between depths over components.

    A pair of metrics (kind `metrics`, column metric empty) is compared over the sites that both scored; a pair of depths (kind
    `depths`), for each metric, over the components of both, where several matrices of one component count by their plain mean.
    A mean that is nan or was not measured is left out, an infinite one ranks beyond all others.

    Returns: rows of correlations.csv: kind, metric, a, b, n, spearman. spearman is None over fewer than three things, and nan
        where one side is constant.
    """
    means: dict[str, dict[Site, float]] = defaultdict(dict)
    for row in rows:
        mean = _number(row["mean"])
        if not math.isnan(mean):
            means[row["metric"]][_site(row)] = mean
    pairs = [_correlation("metrics", "", a, b, means[a], means[b]) for a, b in combinations(means, 2)]
    for metric, sites in means.items():
        blocks = _by_depth(sites)
        pairs += [_correlation("depths", metric, a, b, blocks[a], blocks[b]) for a, b in combinations(blocks, 2)]
    return pairs


def _by_depth(means: Mapping[Site, float]) -> dict[int, dict[str, float]]:
    """Depth, in order -> component -> mean score."""
    by_depth: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for (_, component, depth), mean in means.items():
        if depth is not None:
            by_depth[depth][component].append(mean)
    return {depth: {name: sum(parts) / len(parts) for name, parts in by_depth[depth].items()} for depth in sorted(by_depth)}


def _correlation(
    kind: str, metric: str, a: str | int, b: str | int, x: Mapping[Any, float], y: Mapping[Any, float]
) -> dict[str, Any]:
    """One row of correlations.csv, over the keys that x and y share."""
    shared: list[Hashable] = [key for key in x if key in y]
    spearman = _spearman([x[key] for key in shared], [y[key] for key in shared]) if len(shared) >= LEAST_SHARED else None
    return {"kind": kind, "metric": metric, "a": a, "b": b, "n": len(shared), "spearman": spearman}


def _spearman(x: Sequence[float], y: Sequence[float]) -> float:
    if min(len(set(x)), len(set(y))) == 1:  # SciPy would warn
        return math.nan
    return float(stats.spearmanr(x, y).statistic)


def features(rows: Sequence[Row]) -> tuple[list[Site], Values]:
    """What the scores of a site look like: three numbers of every metric but `random`, standardised over the sites.

    With the root mean square r = √(mean² + sd²) of a site's scores they are
        size, log10 r: how critical; another scale of the metric only shifts it;
        balance, mean / r, -1 to 1: even scores have 1 (or -1), a few large ones or mixed signs bring it towards 0;
        body, (q75 - q25) / r, 0 to 2√2: how much of the scale is due to ordinary weights rather than outliers.
    sd / mean and a ratio of quantiles would say the same of positive scores, but know no bound where a signed metric has a mean
    or median near 0. The share of exact zeros is none of them: a single zero, standardised, would make a site an outlier, and
    many empty the body. A site whose scores are all 0 has balance and body 0, and the least size among the others. Columns in
    which all sites are alike are dropped.

    Returns: sites by depth (those outside the blocks first), parameter and component, whatever the order of the rows; and
        float64 (sites, columns), each column with mean 0 and standard deviation 1.
    Raises: ValueError: for a site without finite statistics of some metric, naming both.
    """
    table = {(row["metric"], _site(row)): row for row in rows if row["metric"] != SAYS_NOTHING}
    metrics = sorted({metric for metric, _ in table})
    sites = sorted({site for _, site in table}, key=lambda site: (-1 if site[2] is None else site[2], *site[:2]))
    if not sites:
        return sites, np.empty((0, 0))
    values = np.hstack([_described(metric, [table.get((metric, site)) for site in sites], sites) for metric in metrics])
    values = values[:, np.ptp(values, axis=0) > ROUNDING]
    return sites, (values - values.mean(axis=0)) / values.std(axis=0)


def _described(metric: str, rows: Sequence[Row | None], sites: Sequence[Site]) -> Values:
    """Size, balance and body of every site's scores by one metric: (n, 3)."""
    described = []
    for row, site in zip(rows, sites, strict=True):
        mean, sd, q25, q75 = (_number(row[name] if row else None) for name in ("mean", "sd", "q25", "q75"))
        rms = math.hypot(mean, sd)
        if not all(map(math.isfinite, (rms, q25, q75))):
            raise ValueError(f"The {metric} scores of {site[0]} ({site[1]}) have no finite mean, sd, q25 and q75.")
        described.append((math.log10(rms), mean / rms, (q75 - q25) / rms) if rms else (math.inf, 0.0, 0.0))
    values = np.array(described)
    size = values[:, 0]
    size[np.isinf(size)] = size.min() if np.isfinite(size.min()) else 0.0
    return values


def cluster(features: Values, seed: int) -> Clusters:
    """Groups of sites with similar features, by K-means and by DBSCAN.

    K-means (best of 10 starts) has the number of clusters, 2 to min(8, n - 1), with the highest mean silhouette. It always
    splits: a mean silhouette up to 0.25 is no structure (38 sites of pure noise have 0.08), up to 0.5 a weak one. DBSCAN takes
    three sites within the radius of `neighbour_radius` for a dense place, and may find one group only. Sites that are all alike
    are one cluster.

    Args:
        features: (n, columns), standardised.
        seed: of K-means, 0 to 2^32 - 1.
    Raises: UserError: for fewer than 4 sites.
    Sources: Rousseeuw, "Silhouettes", J. Comput. Appl. Math. 20 (1987); Kaufman and Rousseeuw, "Finding Groups in Data" (1990),
        for what a silhouette is worth; Ester et al., "A density-based algorithm for discovering clusters", KDD 1996.
    """
    from sklearn.cluster import DBSCAN, KMeans
    from sklearn.metrics import silhouette_samples

    n = len(features)
    if n < LEAST_SITES:
        raise UserError(f"Clusters of sites need at least {LEAST_SITES} matrices, got {n}: choose a target with more of them.")
    distances = squareform(pdist(features))
    dense = DBSCAN(eps=neighbour_radius(distances), min_samples=MIN_SAMPLES, metric="precomputed").fit_predict(distances)
    distinct = int(((distances <= ROUNDING).argmax(axis=1) == np.arange(n)).sum())
    labels, silhouettes = {1: np.zeros(n, dtype=np.int64)}, {1: np.full(n, np.nan)}
    for count in range(2, min(MOST_CLUSTERS, n - 1, distinct) + 1):
        labels[count] = KMeans(count, n_init=10, random_state=seed).fit_predict(features)
        silhouettes[count] = silhouette_samples(distances, labels[count], metric="precomputed")
    means = {count: float(values.mean()) for count, values in silhouettes.items() if count > 1}
    best = max(means, key=means.__getitem__, default=1)
    return Clusters(_in_order(labels[best]), _in_order(dense), silhouettes[best], means, _places(features))


def neighbour_radius(distances: Values) -> float:
    """Radius within which DBSCAN looks: the outer fence q75 + 3 (q75 - q25) of the distances to the second neighbour.

    It follows the data: a site is noise only if its neighbours are farther away than is usual here, by the rule by which a box
    plot marks what is far out. Up to a quarter of the sites may lie anywhere without moving it far. Groups much looser than the
    others fall apart, and groups about as far from one another as their own members become one. Of three simulated Gaussian
    groups (6 or 30 sites each, 18 columns) it finds all exactly in 97 to 100 % of cases at 20 standard deviations from one
    another, 27 to 33 % at 12, never at 8, where K-means still finds them in 93 to 97 %.

    Args:
        distances: (n, n) between sites, n >= 3.
    Sources: Ester et al., KDD 1996, section 4.2, for the sorted k-distances; Tukey, "Exploratory Data Analysis" (1977), for the
        fence in place of their threshold by eye.
    """
    to_second = np.sort(distances, axis=1)[:, MIN_SAMPLES - 1]  # the first column is the site itself
    low, high = np.quantile(to_second, [0.25, 0.75])
    return max(float(high + 3 * (high - low)), ROUNDING)


def _in_order(labels: Labels) -> Labels:
    """Labels renumbered from 0 in order of first appearance; noise stays -1."""
    numbers = {label: i for i, label in enumerate(dict.fromkeys(label for label in labels.tolist() if label >= 0))}
    return np.array([numbers.get(label, -1) for label in labels.tolist()], dtype=np.int64)


def _places(features: Values) -> Values:
    """First two principal components (n, 2) of n >= 2 sites; the loading of the largest size is positive in each."""
    centred = features - features.mean(axis=0)
    padded = np.pad(centred, ((0, 0), (0, max(0, 2 - centred.shape[1]))))
    u, s, vt = np.linalg.svd(padded, full_matrices=False)
    largest = np.abs(vt[:2]).argmax(axis=1)
    return np.asarray(u[:, :2] * s[:2] * np.sign(vt[[0, 1], largest]))


def _site(row: Row) -> Site:
    depth = _number(row["depth"])
    return row["parameter"], row["component"], None if math.isnan(depth) else int(depth)


def _number(cell: Any) -> float:
    """A cell as a number, nan where it is empty."""
    return math.nan if cell is None or cell == "" else float(cell)
