"""Maps of criticality: what is averaged and how, what is crossed out, and figures that can be read."""

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import made
import made_maps
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from helpers import plates_of, section, tables_of, texts
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.text import Annotation, Text
from scipy import stats

from lit_degrade.criticality.catalog import METRICS
from lit_degrade.evidence.claims.sections import Section
from lit_degrade.evidence.drawing import axes as drawing_axes
from lit_degrade.evidence.drawing import heat
from lit_degrade.evidence.drawing.looks import STYLE
from lit_degrade.evidence.drawing.panels import MOST_PAGES, Plate
from lit_degrade.evidence.drawing.tables import Table
from lit_degrade.evidence.reading import sites
from lit_degrade.evidence.reading.words import metric_of
from lit_degrade.evidence.topics import clusters, maps, super_weights
from lit_degrade.evidence.topics.clusters.tables import sites_words
from lit_degrade.evidence.topics.maps import distributions
from lit_degrade.evidence.topics.maps import figures as map_figures
from lit_degrade.evidence.topics.maps.rows import correlations_of, damages_of
from lit_degrade.evidence.topics.maps.tables import correlation_rows, enrichment, profile_rows, sizes_of
from lit_degrade.evidence.topics.super_weights.figures import super_weight_plates
from lit_degrade.records import tables

NAMES = [
    "score_map", "ablation_map", "score_distributions", "correlations_metrics", "correlations_depths", "super_weights",
    "clusters",
]  # fmt: skip


TOPICS = (maps.TOPIC, super_weights.TOPIC, clusters.TOPIC)


def left(results: Path, name: str, rows: made_maps.Rows, **settings: Any) -> None:
    """A run that left one table."""
    made.table(made.record(results, "criticality", **settings), name, rows)


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> Section:
    results = tmp_path_factory.mktemp("two")
    for seed in (43, 44):
        made_maps.run(results, seed=seed)
    return section(results)


@pytest.fixture(scope="module")
def drawn(two_runs: Section) -> dict[str, Plate]:
    return plates_of(two_runs, TOPICS)


@pytest.fixture(scope="module")
def written(two_runs: Section, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Table]]:
    folder = tmp_path_factory.mktemp("tables")
    return folder, {table.title.removesuffix(", tiny-1m"): table for table in tables_of(two_runs, folder, TOPICS)}


def crosses(ax: Axes) -> list[tuple[float, float]]:
    """Where crosses are, (column, row)."""
    (line,) = [line for line in ax.lines if line.get_marker() == "x" and line.get_color() == "black"]
    return [tuple(map(float, place)) for place in line.get_xydata()]  # type: ignore[union-attr, misc]


def numbers(ax: Axes) -> dict[tuple[float, float], str]:
    """(column, row) -> what a cell says."""
    return {text.get_position(): text.get_text() for text in ax.texts}


def score_lines(values: dict[tuple[str, str, str, float, int], float], **more: float) -> pd.DataFrame:
    """Lines of (run, metric, component, depth, weights) with a mean, as they are read."""
    names = ["run_id", "metric", "component", "depth", "weights"]
    rows = [dict(zip(names, key, strict=True)) | {"mean": mean, "zeros": 0.0, **more} for key, mean in values.items()]
    return pd.DataFrame(rows).assign(parameter=[f"p{i}" for i in range(len(rows))])


def test_matrices_count_by_their_weights_and_runs_count_once() -> None:
    nan = float("nan")
    lines = score_lines({
        ("a", "magnitude", "norm", 0, 1): 4, ("a", "magnitude", "norm", 0, 3): 8, ("a", "magnitude", "norm", 0, 5): nan,
        ("b", "magnitude", "norm", 0, 1): 1, ("a", "magnitude", "embed", nan, 9): 2,
    })  # fmt: skip
    by_run = sites.averaged(lines, "mean", ["run_id", "component"])
    assert (by_run["a", "norm"], by_run["b", "norm"]) == (7, 1)
    cells = distributions.score_cells(lines)
    assert cells["norm", 0] == 4
    assert cells["embed", sites.OUTSIDE] == 2
    grid = heat.grid_of(cells, ["embed", "norm"])
    assert list(grid) == [0, sites.OUTSIDE]
    assert np.isnan(grid.loc["embed", 0])


def test_infinite_scores_stay_infinite() -> None:
    lines = score_lines({("a", "magnitude", "head", 0, 1): np.inf, ("b", "magnitude", "head", 0, 1): 1})
    assert not np.isfinite(distributions.score_cells(lines)["head", 0])


def test_quantiles_are_means_over_matrices_and_medians_over_runs() -> None:
    lines = pd.concat([
        score_lines({(run, "act_mag", "mlp_up", 0, 1): 0}, q50=low, q99=1).assign(q50=[low])
        for run, low in (("a", 1), ("b", 2), ("c", 90))
    ] + [score_lines({("c", "act_mag", "mlp_up", 1, 3): 0}, q50=10, q99=1)])  # fmt: skip
    found = distributions.quantiles_of(lines, "act_mag")
    assert list(found) == [50, 99]
    assert found.loc["mlp_up", 50] == 2  # of 1, 2 and (90 + 3 x 10) / 4 = 30
    places = distributions.places_of([0, 1, 5, 50, 95, 99, 99.9, 100])
    assert (np.diff(places) > 0).all()
    assert places[3] == 0
    assert places[2] == pytest.approx(-places[4])


def test_damage_is_over_draws_and_runs_and_names_what_is_not_finite() -> None:
    rows = [
        {"unit": unit, "kind": "matrix", "component": "head", "depth": np.nan, "parameter": "w", "method": "zero", "level": 1.0,
         "draw": draw, "random": random, "weights": 10.0, "relative_norm": 1.0, "log_perplexity_ratio": lost, "run_id": run}
        for unit, random, run, draw, lost in [
            ("drawn", True, "a", 0, 1.0), ("drawn", True, "a", 1, 2.0), ("drawn", True, "b", 0, 6.0),
            ("same", False, "a", 0, 0.5), ("same", False, "b", 0, 0.5),
            ("broken", True, "a", 0, np.inf), ("broken", True, "a", 1, 3.0),
        ]
    ]  # fmt: skip
    found = damages_of(pd.DataFrame(rows)).set_index("unit")
    half = stats.t.ppf(0.975, 2) * np.std([1, 2, 6], ddof=1) / np.sqrt(3)
    assert list(found.loc["drawn", ["lost", "lost_low", "lost_high"]]) == pytest.approx([3, 3 - half, 3 + half])
    assert (found.loc["same", "lost"], found.loc["same", "lost_n"]) == (0.5, 1)
    assert (found.loc["broken", "lost"], found.loc["broken", "lost_not_finite"]) == (3, 1)
    assert set(found["depth"]) == {sites.OUTSIDE}
    assert found.loc["same", "way"] == "zeroing, level 1 [share of weights]"


def test_enrichment_is_the_share_of_the_highest_over_the_share_of_weights() -> None:
    lines = score_lines({("a", "magnitude", "head", np.nan, 100): 0, ("a", "magnitude", "mlp_up", 0, 900): 0})
    lines["top_100"] = [30, 70]
    found = enrichment(lines, 100)["magnitude"]
    assert (found["head"], found["mlp_up"]) == (pytest.approx(3), pytest.approx(0.7 / 0.9))
    both = pd.concat([lines, lines.assign(run_id="b", top_100=[10, 90])])
    assert enrichment(both, 100).loc["head", "magnitude"] == pytest.approx((3 + 1) / 2)


def test_weighted_by_shares_of_weights_enrichment_is_one(two_runs: Section) -> None:
    scores = two_runs.tables[tables.SCORES]
    found = enrichment(scores, 1000)
    one = scores[(scores["metric"] == "magnitude") & (scores["run_id"] == scores["run_id"].iloc[0])]
    shares = one.groupby("component")["weights"].sum() / one["weights"].sum()
    assert list(found.mul(shares, axis=0).sum()) == pytest.approx([1.0] * 6)
    assert (found.loc["mlp_down"] > 2).all()
    assert (found.loc["embed"] < 0.2).all()


def test_sets_of_each_matrix_say_nothing_about_components() -> None:
    lines = score_lines({("a", "magnitude", name, 0, 100): 0 for name in ("attn_q", "attn_k")})
    assert sizes_of(lines.assign(top_10=[10, 10])) == []
    assert sizes_of(lines.assign(top_10=[9, 11], top_100=[30, 170])) == [10, 100]


def test_profiles_hold_means_with_intervals_and_shares_that_add_up() -> None:
    values = {(run, "magnitude", "head", np.nan, 10): mean for run, mean in (("a", 1), ("b", 3))}
    lines = score_lines(values | {(run, "magnitude", "mlp_up", 2, 30): 5 for run in "ab"})
    lines["top_8"] = [2, 4, 6, 4]
    rows = {row["component"]: row for row in profile_rows({tables.SCORES: lines})}
    half = stats.t.ppf(0.975, 1) * np.std([1, 3], ddof=1) / np.sqrt(2)
    assert [rows["head"][name] for name in ("mean", "mean_low", "mean_high")] == pytest.approx([2, 2 - half, 2 + half])
    assert rows["head"]["depth"] is None
    assert (rows["mlp_up"]["depth"], rows["mlp_up"]["weights"]) == (2, 30)
    assert (rows["head"]["top_8"], rows["mlp_up"]["top_8"]) == (pytest.approx(0.375), pytest.approx(0.625))


def test_correlations_are_a_triangle_in_the_order_of_the_catalogue() -> None:
    pairs = [
        ("magnitude", "random", 0.1),
        ("act_mag", "magnitude", 0.8),
        ("random", "act_mag", -0.2),
        ("magnitude", "random", 0.3),
    ]
    lines = pd.DataFrame(pairs, columns=["a", "b", "spearman"])
    found = correlations_of(lines)
    assert (list(found.index), list(found)) == (["magnitude", "act_mag"], ["random", "magnitude"])
    assert found.loc["magnitude", "random"] == pytest.approx(0.2)
    assert (found.loc["act_mag", "magnitude"], found.loc["act_mag", "random"]) == (0.8, -0.2)
    assert np.isnan(found.loc["magnitude", "magnitude"])
    depths = pd.DataFrame([(str(a), str(b), 0.5) for a, b in combinations(range(12), 2)], columns=["a", "b", "spearman"])
    assert list(correlations_of(depths)) == [str(i) for i in range(11)]


def test_every_table_has_its_figures_in_order(drawn: dict[str, Plate]) -> None:
    assert list(drawn) == NAMES
    for name, plate in drawn.items():
        shown = "1 of 2 runs are shown; not shown: 1 of which another" if name == "clusters" else "2 of 2 runs are shown."
        assert shown in plate.caption, name


def test_figures_have_units_and_plain_words(drawn: dict[str, Plate]) -> None:
    for name, plate in drawn.items():
        axes = [ax for ax in plate.figure.axes if ax.get_visible()]
        labels = [label for ax in axes for label in (ax.get_xlabel(), ax.get_ylabel()) if label]
        labels += [text.get_text() for text in plate.figure.texts]
        assert labels, name
        assert all(re.search(r"\[.+\]", label) for label in labels), (name, labels)
        assert not any("_" in text for text in texts(plate.figure)), (name, texts(plate.figure))
        assert plate.figure.get_size_inches()[1] < 9
    assert all(metric.unit for metric in METRICS.values())


def test_the_score_map_has_a_panel_for_each_metric_but_the_random_one(drawn: dict[str, Plate]) -> None:
    panels = [ax for ax in drawn["score_map"].figure.axes if ax.get_title(loc="left")]
    assert [ax.get_title(loc="left") for ax in panels] == [metric_of(name) for name in list(METRICS)[1:]]
    for ax in panels:
        rows = [label.get_text() for label in ax.get_yticklabels()]
        assert rows == ["embed", "attn q", "attn k", "attn v", "attn o", "mlp up", "mlp down", "head"]
        assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "1", "2", "3", "outside"]
        assert not crosses(ax)
        blocks, outside = (np.asarray(image.get_array()) for image in ax.images)
        assert (blocks[1:7, :, 3] == 1).all()
        assert not blocks[[0, 7], :, 3].any()
        assert (outside[:, 0, 3] == [1, *[0] * 6, 1]).all()


def test_signed_scores_have_colours_of_two_directions(tmp_path: Path) -> None:
    rows = [row | {"mean": -abs(row["mean"]) if row["depth"] == 0 else abs(row["mean"])} for row in made_maps.scores(2)]
    left(tmp_path, tables.SCORES, rows)
    panels = {ax.get_title(loc="left"): ax for ax in plates_of(section(tmp_path), TOPICS)["score_map"].figure.axes}
    blocks = np.asarray(panels["Hessian saliency"].images[0].get_array())
    red, blue = blocks[1:-1, :, 0], blocks[1:-1, :, 2]
    assert (blue[:, 0] > red[:, 0]).all()
    assert (blue[:, 1] < red[:, 1]).all()
    assert not np.asarray(panels["magnitude"].images[0].get_array())[:, 0, 3].any()  # what is not positive has no such colour


def test_scores_that_are_not_finite_are_crossed_and_zeros_say_so(tmp_path: Path) -> None:
    rows = made_maps.scores(2)
    for row in rows:
        if (row["metric"], row["component"], row["depth"]) == ("grad_squared", "attn_o", 1):
            row["mean"] = "inf"
        if (row["metric"], row["component"]) == ("grad_squared", "embed"):
            row["mean"] = 0
    left(tmp_path, tables.SCORES, rows)
    panels = {ax.get_title(loc="left"): ax for ax in plates_of(section(tmp_path), TOPICS)["score_map"].figure.axes}
    assert crosses(panels["squared gradient"]) == [(1, 4)]
    assert numbers(panels["squared gradient"]) == {(2 + heat.GAP, 0): "0"}


def test_ablations_are_numbers_colours_and_crosses(drawn: dict[str, Plate], two_runs: Section) -> None:
    ax = drawn["ablation_map"].figure.axes[0]
    rows = [label.get_text() for label in ax.get_yticklabels()]
    assert rows[-1] == "whole layer"
    assert crosses(ax) == [(0, rows.index("mlp down"))]
    cells = numbers(ax)
    lines = two_runs.tables[tables.ABLATION]
    layer = lines.loc[lines["unit"] == "layer 2", "log_perplexity_ratio"].mean()
    assert cells[2, rows.index("whole layer")] == f"{layer:.2g}"
    assert cells[1, rows.index("attn k")] == "-0.004"
    assert len(cells) == 4 * 7 + 2 - 1
    assert "Crosses: ablations whose loss is not finite in some or all draws (tiny-1m: 1)." in drawn["ablation_map"].caption
    assert ax.get_title(loc="left") == "zeroing, level 1 [share of weights]"


def test_deep_subjects_have_few_ticks_and_no_numbers(tmp_path: Path) -> None:
    left(tmp_path, tables.ABLATION, made_maps.ablation(32))
    ax = plates_of(section(tmp_path), TOPICS)["ablation_map"].figure.axes[0]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "5", "10", "15", "20", "25", "outside"]
    assert not numbers(ax)


def test_only_so_many_ways_of_ablation_are_drawn(tmp_path: Path) -> None:
    methods = ["zero", "sign_flip", "bit_flip", "add_gauss"]
    left(tmp_path, tables.ABLATION, [row for method in methods for row in made_maps.ablation(2, method=method, draws=3)])
    plate = plates_of(section(tmp_path), TOPICS)["ablation_map"]
    assert sum(bool(ax.get_title(loc="left")) for ax in plate.figure.axes) == map_figures.WAYS
    assert plate.caption.endswith("Not drawn: additive noise, level 1 [× that of the tensor]. 1 of 1 runs are shown.")
    assert "(n = 3)" in plate.caption


def test_distributions_begin_above_zero_and_keep_signs(drawn: dict[str, Plate], two_runs: Section) -> None:
    panels = {ax.get_title(loc="left"): ax for ax in drawn["score_distributions"].figure.axes}
    assert (panels["magnitude"].get_yscale(), panels["Hessian diagonal"].get_yscale()) == ("log", "symlog")
    curve = np.asarray(panels["squared gradient"].lines[0].get_ydata())
    assert np.isnan(curve[:3]).all()
    assert (curve[3:] > 0).all()
    assert np.asarray(panels["Hessian diagonal"].lines[0].get_ydata())[0] < 0
    scores = two_runs.tables[tables.SCORES]
    own = scores[(scores["metric"] == "magnitude") & (scores["component"] == "head")]
    assert np.asarray(panels["magnitude"].lines[-1].get_ydata())[4] == pytest.approx(own["q50"].median())


def named(ax: Axes) -> dict[str, Annotation]:
    return {item.get_text(): item for item in ax.texts if isinstance(item, Annotation)}


def test_clusters_have_names_that_cover_nothing(tmp_path: Path) -> None:
    folder = made.record(tmp_path, "criticality")
    rows = made_maps.clusters(7)
    rows[-2] |= {"x": 6, "y": 0}  # at the right edge
    made.table(folder, tables.CLUSTERS, rows)
    made.table(folder, tables.CLUSTER_EFFECTS, made_maps.cluster_effects())
    figure = plates_of(section(tmp_path), TOPICS)["clusters"].figure
    (ax,) = [ax for ax in figure.axes if ax.get_ylabel()]
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(item) for item in named(ax).values()]
    assert len(made_maps.sites(7)) == 44
    assert len(boxes) > 38
    assert {"embed", "mlp down 3"} <= set(named(ax))
    assert not any(a.overlaps(b) for a, b in combinations([box.padded(-1) for box in boxes], 2))
    assert all(ax.bbox.padded(2).contains(*corner) for box in boxes for corner in box.corners())


def test_clusters_show_noise_and_what_perturbing_them_costs(drawn: dict[str, Plate]) -> None:
    figure = drawn["clusters"].figure
    effects, scatter = sorted(figure.axes, key=lambda ax: ax.get_ylabel())
    *groups, rings = scatter.collections
    assert [len(item.get_offsets()) for item in groups] == [9, 9, 8]
    assert len(rings.get_offsets()) == 3
    assert len({to_hex(item.get_facecolor()[0]) for item in groups}) == 3  # type: ignore[index]
    dots = [len(item.get_offsets()) for item in effects.collections if item.get_linewidth()[0] == 0.9]
    assert dots == [5, 5, 4]
    assert [text.get_text() for text in effects.get_yticklabels()] == ["cluster 0", "cluster 1", "cluster 2\n✕ 1/5"]
    assert effects.get_title(loc="left").replace("\n", " ") == "zeroing (level 1) of 200 weights"
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["cluster 0 (9)", "cluster 1 (9)", "cluster 2 (8)", "noise to DBSCAN"]


def test_super_weights_are_named_beside_their_spikes(drawn: dict[str, Plate]) -> None:
    plate = drawn["super_weights"]
    inputs, outputs = plate.figure.axes
    assert [text.get_text() for text in outputs.texts] == ["(2533, 7890) confirmed\n(2534, 7890) not confirmed"]
    assert not inputs.texts
    hollow, filled, threshold = outputs.lines
    assert (hollow.get_markerfacecolor(), len(np.asarray(hollow.get_xdata()))) == ("white", 8)
    assert float(np.max(np.asarray(filled.get_ydata()))) == 300
    assert float(np.max(np.asarray(hollow.get_ydata()))) == pytest.approx(300 / 16)
    assert set(np.asarray(threshold.get_ydata())) == {25.0}
    assert "2 of 2 runs found such a weight." in plate.caption


@pytest.mark.parametrize(("low", "high"), [(3.1, 6.4), (2.0, 15.0), (1.5, 60.0), (1.0, 1e5), (1e-12, 1e-3)])
def test_logarithmic_axes_of_any_range_have_a_few_ticks(low: float, high: float) -> None:
    ticks = [tick for tick in drawing_axes.few_ticks(low, high).tick_values(low, high) if low <= tick <= high]
    assert 2 <= len(ticks) <= 6


def test_runs_without_super_weights_show_their_activations(tmp_path: Path) -> None:
    left(tmp_path, tables.SPIKES, made_maps.spikes(found=0))
    plate = plates_of(section(tmp_path), TOPICS)["super_weights"]
    assert "0 of 1 runs found such a weight." in plate.caption
    assert not plate.figure.axes[1].texts


def test_each_group_of_runs_has_its_figure_and_pages_end(tmp_path: Path) -> None:
    for i in range(MOST_PAGES + 1):
        left(tmp_path, tables.SCORES, [row for row in made_maps.scores(1) if row["metric"] == "magnitude"], lr=10.0 ** (i - 8))
    found = {name: plate for name, plate in plates_of(section(tmp_path), TOPICS).items() if name.startswith("score_map")}
    assert list(found) == ["score_map", *(f"score_map_{i}" for i in range(2, MOST_PAGES + 1))]
    assert [plate.figure.get_suptitle() for plate in found.values()] == [f"tiny-1m, lr 1e-0{8 - i}" for i in range(MOST_PAGES)]
    curves = plates_of(section(tmp_path), TOPICS)["score_distributions_2"].figure  # a legend is above it
    assert (curves.get_suptitle(), curves.legends[0].get_title().get_text()) == ("", "tiny-1m, lr 1e-07")
    assert "4 of 5 runs are shown; not shown: 1 in panels that had no room" in found["score_map"].caption


def test_without_tables_there_is_nothing(tmp_path: Path) -> None:
    made.record(tmp_path, "criticality")
    found = section(tmp_path)
    assert not plates_of(found, TOPICS)
    assert not tables_of(found, tmp_path, TOPICS)
    assert not list(tmp_path.glob("*.csv"))


def test_tables_are_written_and_shown(written: tuple[Path, dict[str, Table]], two_runs: Section) -> None:
    folder, shown = written
    assert list(shown) == ["Where the 1,000 highest weights lie", "Ablation", "Super weights", "Clusters of matrices"]
    kinds = ("ablation", "clusters", "correlations", "profile", "super_weights")
    assert sorted(path.name for path in folder.glob("*.csv")) == [f"criticality_summary_{kind}.csv" for kind in kinds]
    for table in shown.values():
        assert (folder / table.file).exists()
        assert all(len(row) == len(table.head) for row in table.rows)
        assert not any("_" in cell for row in table.rows for cell in row[1:])
    profile = pd.read_csv(folder / "criticality_summary_profile.csv")
    assert len(profile) == 26 * 7
    assert list(profile.groupby("metric")["top_1000"].sum()) == pytest.approx([1.0] * 7)
    lines = two_runs.tables[tables.SCORES]
    one = lines[(lines["metric"] == "act_mag") & (lines["component"] == "mlp_up") & (lines["depth"] == 3)]
    row = profile[(profile["metric"] == "act_mag") & (profile["component"] == "mlp_up") & (profile["depth"] == 3)].iloc[0]
    assert row["mean"] == pytest.approx(one["mean"].mean())


def test_the_table_of_components_has_shares_and_enrichment(written: tuple[Path, dict[str, Table]], two_runs: Section) -> None:
    table = written[1]["Where the 1,000 highest weights lie"]
    assert table.head[:3] == ["component", "share of weights", "magnitude"]
    assert [row[:2] for row in table.rows[:2]] == [["embed", "14.7 %"], ["attn q", "5.88 %"]]
    found = enrichment(two_runs.tables[tables.SCORES], 1000)
    assert table.rows[6][2] == f"× {found.loc['mlp_down', 'magnitude']:.3g}"


def test_the_table_of_ablations_begins_with_the_worst(written: tuple[Path, dict[str, Table]]) -> None:
    folder, shown = written
    table = shown["Ablation"]
    assert len(table.rows) == 20
    assert table.note.endswith(" 11 others cost less.")
    assert table.rows[0][-1] == "1 not finite"
    means = [float(row[-1].split(" ")[0]) for row in table.rows[1:]]
    assert means == sorted(means, reverse=True)
    file = pd.read_csv(folder / table.file)
    assert len(file) == 31
    assert file["lost"].min() == -0.004


def test_the_table_of_super_weights_has_every_one(written: tuple[Path, dict[str, Table]]) -> None:
    table = written[1]["Super weights"]
    first, second = table.rows
    assert first[1:4] == ["2533", "7890", "2 of 2 runs"]
    assert (first[-3:], second[-3:]) == (["0.05", "confirmed", "yes"], ["0.6", "not confirmed", "no"])
    assert first[table.head.index("lost [nats/token]")] == "2"


def test_published_weights_that_no_run_found_are_in_the_table_alone(two_runs: Section, tmp_path: Path) -> None:
    weights = two_runs.tables[tables.SUPER_WEIGHTS]
    weights = weights.assign(order=weights["order"].where(weights["row"] == 2533))
    found = replace(two_runs, tables=two_runs.tables | {tables.SUPER_WEIGHTS: weights})
    (table,) = [table for table in tables_of(found, tmp_path, TOPICS) if table.title.startswith("Super")]
    assert [row[3] for row in table.rows] == ["2 of 2 runs", "0 of 2 runs"]
    with mpl.rc_context(STYLE):
        (plate,) = super_weight_plates(found)
    assert [text.get_text() for text in plate.figure.axes[1].texts] == ["(2533, 7890) confirmed"]


def test_the_table_of_clusters_is_of_one_run(written: tuple[Path, dict[str, Table]], two_runs: Section) -> None:
    folder, shown = written
    table = shown["Clusters of matrices"]
    assert [row[:3] for row in table.rows] == [
        ["0", "9", "embed; attn q 0 to 3; attn o 0 to 3"],
        ["1", "9", "attn k 0 to 3; mlp up 0 to 3; head"],
        ["2", "8", "attn v 0 to 3; mlp down 0 to 3"],
    ]
    assert table.rows[2][-1].endswith(", 1 not finite")
    run = two_runs.tables[tables.CLUSTERS]["run_id"].iloc[0]
    effects = two_runs.tables[tables.CLUSTER_EFFECTS]
    own = effects[(effects["run_id"] == run) & (effects["algorithm"] == "kmeans") & (effects["cluster"] == 1)]
    assert table.rows[1][-1].startswith(f"{own['log_perplexity_ratio'].mean():.3g} [")
    assert len(pd.read_csv(folder / table.file)) == 2 * 3


@pytest.mark.parametrize(
    ("depths", "said"),
    [
        ([0, 1, 2], "attn q 0 to 2"),
        ([3, 0, 1], "attn q 0 to 1, 3"),
        ([5], "attn q 5"),
        ([np.nan], "attn q"),
        ([2, 0], "attn q 0, 2"),
    ],
)
def test_matrices_are_told_in_few_words(depths: Sequence[float], said: str) -> None:
    assert sites_words(pd.DataFrame({"component": "attn_q", "depth": depths})) == said


def test_correlations_without_a_value_have_no_mean() -> None:
    lines = pd.DataFrame({"kind": "depths", "metric": "random", "a": "0", "b": "1", "n": 2.0, "spearman": [np.nan, np.nan]})
    (row,) = correlation_rows({tables.CORRELATIONS: lines})
    assert np.isnan(row["spearman"])
    assert row["spearman_n"] == 0
