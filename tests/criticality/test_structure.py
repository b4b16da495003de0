"""Structure of scores over sites: correlations by hand, planted groups, and what must not matter."""

import csv
import io
import itertools
import math
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray

from lit_degrade.criticality.structure import Clusters, cluster, correlations, features, neighbour_radius
from lit_degrade.errors import UserError

QUANTILES = (0, 1, 5, 25, 50, 75, 95, 99, 99.9, 100)
COMPONENTS = ("attn_q", "attn_k", "attn_v", "attn_o", "mlp_up", "mlp_down")


@pytest.fixture(autouse=True)
def no_warnings() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def row(metric: str, component: str, depth: int | None, scores: ArrayLike) -> dict[str, Any]:
    x = np.asarray(scores, dtype=float)
    parameter = f"layers.{depth}.{component}.weight" if depth is not None else f"{component}.weight"
    quantiles = {f"q{q:g}": np.percentile(x, q) for q in QUANTILES}
    facts = {"weights": x.size, "mean": x.mean(), "sd": x.std(), "zeros": (x == 0).mean()}
    return {"metric": metric, "parameter": parameter, "component": component, "depth": depth, **facts, **quantiles}


def mean_row(metric: str, component: str, depth: int | None, mean: object) -> dict[str, Any]:
    return {**row(metric, component, depth, [0.0]), "mean": mean}


def planted(seed: int, blocks: int = 5) -> list[dict[str, Any]]:
    """Three kinds of matrices, two components each, by a positive and a signed metric, up to a tenth apart in scale."""
    rng = np.random.default_rng(seed)
    even, heavy = np.abs(rng.standard_normal(2000)), rng.lognormal(0, 1.5, 2000) * 0.01
    sparse, normal = rng.random(2000) * (rng.random(2000) < 0.2), rng.standard_normal(2000)
    positive, signed = (even, heavy, sparse), (normal + 0.5, normal - 0.5, normal + 4)
    rows = []
    for depth, (i, component) in itertools.product(range(blocks), enumerate(COMPONENTS)):
        rows += [
            row("act_mag", component, depth, positive[i % 3] * rng.uniform(0.9, 1.1)),
            row("hutchinson_diag", component, depth, signed[i % 3] * rng.uniform(0.9, 1.1)),
            row("random", component, depth, rng.random(2000)),
        ]
    return rows


def kinds(sites: list[tuple[str, str, int | None]]) -> list[int]:
    return [COMPONENTS.index(component) % 3 for _, component, _ in sites]


def same_groups(labels: ArrayLike, others: ArrayLike) -> bool:
    """Whether two labellings are the same partition."""
    pairs = set(zip(np.asarray(labels).tolist(), np.asarray(others).tolist(), strict=True))
    return len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


def same(a: Clusters, b: Clusters) -> bool:
    arrays = [("kmeans", 0.0), ("dbscan", 0.0), ("silhouette", 1e-9), ("places", 1e-9)]
    return all(np.allclose(getattr(a, name), getattr(b, name), rtol=0, atol=gap, equal_nan=True) for name, gap in arrays)


# ---- correlations -----------------------------------------------------------------------------------------------------


def only(rows: list[dict[str, Any]], **facts: object) -> list[dict[str, Any]]:
    return [r for r in rows if all(r[name] == value for name, value in facts.items())]


def slow_spearman(x: list[float], y: list[float]) -> float:
    """Pearson's correlation of ranks, ties sharing the mean of theirs."""
    ranks = [[sum(v < w for v in side) + (1 + sum(v == w for v in side)) / 2 for w in side] for side in (x, y)]
    return float(np.corrcoef(ranks)[0, 1])


def test_correlations_by_hand() -> None:
    means = {"magnitude": [1, 2, 3, 4], "hessian_saliency": [-5, 0.1, 0.2, 7], "grad_squared": [4, 3, 2, 1]}
    rows = [mean_row(m, c, 0, v) for m, values in means.items() for c, v in zip(COMPONENTS, values, strict=False)]
    found = correlations(rows)
    assert [(r["kind"], r["metric"], r["a"], r["b"], r["n"]) for r in found] == [
        ("metrics", "", "magnitude", "hessian_saliency", 4),
        ("metrics", "", "magnitude", "grad_squared", 4),
        ("metrics", "", "hessian_saliency", "grad_squared", 4),
    ]
    assert [r["spearman"] for r in found] == pytest.approx([1, -1, -1])  # by value: |-5| would be third


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=3, max_size=6))
def test_correlations_equal_their_definition(means: list[tuple[int, int]]) -> None:
    x, y = ([float(pair[i]) for pair in means] for i in (0, 1))
    expected = math.nan if min(len(set(x)), len(set(y))) == 1 else slow_spearman(x, y)
    by_depth = [mean_row("magnitude", c, d, v) for d, side in ((10, y), (2, x)) for c, v in zip(COMPONENTS, side, strict=False)]
    by_metric = [mean_row(m, c, 0, v) for m, side in (("a", x), ("b", y)) for c, v in zip(COMPONENTS, side, strict=False)]
    (depths,) = correlations(by_depth)
    assert (depths["kind"], depths["metric"], depths["a"], depths["b"], depths["n"]) == ("depths", "magnitude", 2, 10, len(x))
    for found in (depths, correlations(by_metric)[0]):
        assert found["spearman"] == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_depths_are_compared_over_the_components_they_share() -> None:
    rows = [mean_row("magnitude", c, 0, i) for i, c in enumerate(COMPONENTS)]
    rows += [mean_row("magnitude", c, 1, -i) for i, c in enumerate(COMPONENTS[:3])]
    rows += [mean_row("magnitude", c, 2, i) for i, c in enumerate((*COMPONENTS[:2], "mlp_gate"))]
    rows += [mean_row("magnitude", "embed", None, 9.0)]
    found = {(r["a"], r["b"]): (r["n"], r["spearman"]) for r in correlations(rows)}
    assert found == {(0, 1): (3, pytest.approx(-1)), (0, 2): (2, None), (1, 2): (2, None)}


def test_several_matrices_of_one_component_count_by_their_mean() -> None:
    rows = [mean_row("magnitude", c, d, v) for d in (0, 1) for c, v in (("attn_q", 1), ("attn_k", 2), ("norm", 0))]
    rows += [{**mean_row("magnitude", "norm", 1, 3.0), "parameter": "layers.1.second_norm.weight"}]
    (found,) = correlations(rows)
    assert (found["n"], found["spearman"]) == (3, pytest.approx(0.5))  # 1 2 0 against 1 2 1.5


def test_what_was_not_measured_is_left_out_and_what_is_infinite_ranks_last() -> None:
    means: dict[str, list[object]] = {"a": [1, 2, 3, 4, "", math.nan], "b": [1, 2, math.inf, 3, 0, 0]}
    rows = [mean_row(m, c, 0, v) for m, values in means.items() for c, v in zip(COMPONENTS, values, strict=True)]
    (found,) = correlations(rows)
    assert (found["n"], found["spearman"]) == (4, pytest.approx(0.8))


def test_a_constant_side_has_no_correlation_and_no_warning() -> None:
    rows = [mean_row(m, c, 0, v) for m in "ab" for v, c in enumerate(COMPONENTS)]
    rows += [mean_row("c", c, 0, 0.1) for c in COMPONENTS]
    a_b, a_c, b_c = correlations(rows)
    assert (a_b["spearman"], a_b["n"]) == (pytest.approx(1), 6)
    assert math.isnan(a_c["spearman"])
    assert math.isnan(b_c["spearman"])


# ---- features ---------------------------------------------------------------------------------------------------------


def test_features_by_hand() -> None:
    rows = [row("magnitude", "attn_q", 0, [1, 1, 1, 1]), row("magnitude", "attn_k", 0, [-100, 100, -100, 100])]
    sites, values = features(rows)
    assert [site[1] for site in sites] == ["attn_k", "attn_q"]
    assert values == pytest.approx(np.array([[1, -1, 1], [-1, 1, -1]]))  # size 2, 0; balance 0, 1; body 2, 0


def test_the_sign_of_scores_counts_in_the_balance_only() -> None:
    rows = [row("hessian_saliency", c, 0, np.array([1.0, 2.0, 4.0]) * sign) for c, sign in (("attn_k", 1), ("attn_q", -1))]
    assert features(rows)[1] == pytest.approx(np.array([[1], [-1]]))


def test_features_are_standardised_and_leave_random_out() -> None:
    rows = planted(0)
    sites, values = features(rows)
    assert (len(sites), values.shape) == (30, (30, 6))
    assert np.allclose(values.mean(axis=0), 0)
    assert np.allclose(values.std(axis=0), 1)
    without = features([r for r in rows if r["metric"] != "random"])
    assert without[0] == sites
    assert np.array_equal(without[1], values)


def test_features_of_a_table_are_those_of_its_file() -> None:
    rows = [*planted(1, blocks=2), *(row(m, "embed", None, [0, 1, 2]) for m in ("act_mag", "hutchinson_diag", "random"))]
    file = io.StringIO()
    writer = csv.DictWriter(file, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    file.seek(0)
    read = list(csv.DictReader(file))
    assert features(read)[0] == features(rows)[0]
    assert np.allclose(features(read)[1], features(rows)[1], rtol=0, atol=1e-12)
    assert features(read)[0][0] == ("embed.weight", "embed", None)
    assert [r["spearman"] for r in correlations(read)] == pytest.approx([r["spearman"] for r in correlations(rows)])


def test_the_order_of_rows_does_not_matter() -> None:
    rows = planted(2)
    sites, values = features(rows)
    shuffled = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    assert features(shuffled)[0] == sites
    assert np.array_equal(features(shuffled)[1], values)
    assert sites == sorted(sites, key=lambda site: (site[2], site[0], site[1]))


@pytest.mark.parametrize("factor", [1e-12, 3.0, 1e9])
def test_the_scale_of_a_metric_does_not_matter(factor: float) -> None:
    rows = planted(3)
    scaled = [
        {name: v * factor if name in ("mean", "sd") or name[1:2].isdigit() else v for name, v in r.items()}
        if r["metric"] == "act_mag"
        else r
        for r in rows
    ]
    assert scaled[0]["q99.9"] == rows[0]["q99.9"] * factor
    assert np.allclose(features(scaled)[1], features(rows)[1], rtol=0, atol=1e-9)
    assert same(cluster(features(scaled)[1], 0), cluster(features(rows)[1], 0))


def test_columns_that_do_not_differ_are_dropped() -> None:
    rows = [row("magnitude", c, 0, np.array([1.0, 2.0, 3.0]) * 10**i) for i, c in enumerate(COMPONENTS)]
    assert features(rows)[1].shape == (6, 1)  # size only, though balance and body differ by rounding


def test_a_site_that_scores_nothing_is_the_least_and_not_infinite() -> None:
    rows = [row("grad_squared", c, 0, np.arange(5.0) ** (i + 1) * 1e-9) for i, c in enumerate(COMPONENTS[:4])]
    sites, values = features([*rows, row("grad_squared", "embed", None, np.zeros(5))])
    assert sites[0][1] == "embed"
    assert np.isfinite(values).all()
    assert (values[0] == values.min(axis=0)).all()
    assert features([row("grad_squared", c, 0, np.zeros(5)) for c in COMPONENTS])[1].shape == (6, 0)


@pytest.mark.parametrize("cell", ["", None, math.nan, math.inf, "nan"])
@pytest.mark.parametrize("name", ["mean", "sd", "q25", "q75"])
def test_a_site_without_finite_statistics_is_named(name: str, cell: object) -> None:
    rows = planted(4, blocks=1)
    rows[4] = {**rows[4], name: cell}
    with pytest.raises(ValueError, match=r"hutchinson_diag scores of layers\.0\.attn_k\.weight \(attn_k\)"):
        features(rows)


def test_a_site_that_a_metric_lacks_is_named() -> None:
    rows = planted(4, blocks=1)
    with pytest.raises(ValueError, match=r"act_mag scores of layers\.0\.attn_q\.weight"):
        features(rows[1:])


def test_no_rows_have_no_features() -> None:
    for rows in ([], [row("random", "embed", None, [0.5])]):
        sites, values = features(rows)
        assert (sites, values.shape) == ([], (0, 0))


# ---- clusters ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_three_planted_groups_are_found_by_both(seed: int) -> None:
    sites, values = features(planted(seed))
    found = cluster(values, seed)
    assert same_groups(found.kmeans, kinds(sites))
    assert same_groups(found.dbscan, kinds(sites))
    assert found.kmeans[0] == found.dbscan[0] == 0
    assert (found.silhouette > 0.5).all()
    assert set(found.mean_silhouettes) == set(range(2, 9))
    assert max(found.mean_silhouettes, key=found.mean_silhouettes.__getitem__) == 3
    assert found.mean_silhouettes[3] == pytest.approx(found.silhouette.mean())


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_sites_changes_no_group(seed: int) -> None:
    values = features(planted(seed))[1]
    order = np.random.default_rng(seed).permutation(len(values))
    plain, turned = cluster(values, seed), cluster(values[order], seed)
    assert same_groups(plain.kmeans[order], turned.kmeans)
    assert same_groups(plain.dbscan[order], turned.dbscan)
    assert np.allclose(plain.silhouette[order], turned.silhouette)
    assert np.allclose(plain.places[order], turned.places)
    assert turned.kmeans[0] == turned.dbscan[0] == 0


def test_the_same_seed_gives_the_same_groups() -> None:
    values = np.random.default_rng(5).standard_normal((40, 6))  # nothing to find: K-means depends on where it starts
    assert same(cluster(values, 7), cluster(values, 7))
    assert len({tuple(cluster(values, seed).kmeans.tolist()) for seed in range(4)}) > 1


def slow_silhouette(values: NDArray[np.float64], labels: NDArray[np.int64]) -> list[float]:
    found = []
    for i, x in enumerate(values):
        mean = {
            k: np.mean([np.linalg.norm(x - values[j]) for j in range(len(values)) if j != i and labels[j] == k] or [0])
            for k in set(labels.tolist())
        }
        own = mean.pop(labels[i])
        other = min(mean.values())
        found.append((other - own) / max(own, other) if (labels == labels[i]).sum() > 1 else 0.0)
    return found


def test_silhouettes_equal_their_definition() -> None:
    values = np.random.default_rng(6).standard_normal((15, 3))
    found = cluster(values, 0)
    assert found.silhouette == pytest.approx(slow_silhouette(values, found.kmeans))


def test_a_site_of_its_own_is_noise_and_its_own_cluster() -> None:
    sites, values = features(planted(0))
    lonely = np.vstack([values, np.full((1, values.shape[1]), 30.0)])
    found = cluster(lonely, 0)
    assert found.dbscan[-1] == -1
    assert same_groups(found.dbscan[:-1], kinds(sites))
    assert (found.kmeans == found.kmeans[-1]).sum() == 1


def test_the_radius_is_the_outer_fence() -> None:
    points = np.array([0.0, 1.0, 2.0, 4.0, 8.0])[:, None]
    distances = np.abs(points - points.T)  # to the second neighbour: 2, 1, 2, 3, 6
    assert neighbour_radius(distances) == pytest.approx(3 + 3 * 1)
    assert neighbour_radius(10 * distances) == pytest.approx(60)
    assert neighbour_radius(np.zeros((5, 5))) > 0


def test_groups_are_numbered_by_their_first_site_even_where_it_lies_on_the_border() -> None:
    group = np.array([0.0, 0.1, 0.3, 0.6])  # to the second neighbour: 0.3, 0.2, 0.3, 0.5; the radius is 1.1
    values = np.r_[11.65, group, 10 + group][:, None]
    assert cluster(values, 0).dbscan.tolist() == [0] + [1] * 4 + [0] * 4


def test_places_are_principal_components() -> None:
    rng = np.random.default_rng(8)
    values = rng.standard_normal((30, 4)) * [5, 2, 0.5, 0.1] + 7
    places = cluster(values, 0).places
    centred = values - values.mean(axis=0)
    assert np.corrcoef(places[:, 0], centred[:, 0])[0, 1] > 0.99  # sign included
    assert np.corrcoef(places[:, 1], centred[:, 1])[0, 1] > 0.99
    variances = np.sort(np.linalg.eigvalsh(np.cov(values.T)))[::-1]
    assert np.cov(places.T) == pytest.approx(np.diag(variances[:2]), abs=1e-10)
    assert np.allclose(cluster(-values, 0).places, -places)


@pytest.mark.parametrize("n", [0, 1, 3])
def test_too_few_sites_are_refused(n: int) -> None:
    with pytest.raises(UserError, match=f"at least 4 matrices, got {n}"):
        cluster(np.zeros((n, 2)), 0)


@pytest.mark.parametrize("columns", [0, 1, 5])
def test_sites_that_are_all_alike_are_one_cluster(columns: int) -> None:
    found = cluster(np.zeros((6, columns)), 0)
    assert (found.kmeans == 0).all()
    assert (found.dbscan == 0).all()
    assert np.isnan(found.silhouette).all()
    assert found.mean_silhouettes == {}
    assert np.array_equal(found.places, np.zeros((6, 2)))


def test_copies_of_few_sites_are_not_split_further() -> None:
    values = np.repeat([[0.0], [1.0], [3.0]], 4, axis=0)
    found = cluster(values, 0)
    assert set(found.mean_silhouettes) == {2, 3}
    assert found.kmeans.tolist() == found.dbscan.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert np.allclose(found.silhouette, 1)


def test_four_sites_are_enough() -> None:
    found = cluster(np.array([[0.0], [0.1], [5.0], [5.1]]), 0)
    assert set(found.mean_silhouettes) == {2, 3}
    assert found.kmeans.tolist() == [0, 0, 1, 1]
