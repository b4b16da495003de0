"""Treated sets against their controls, and agreement of rankings: runs count once, divergence is seen, doubts are said."""

import math
import re
from itertools import product
from pathlib import Path
from typing import Any

import made
import made_maps
import numpy as np
import pandas as pd
import pytest
from helpers import Page, plates, section, texts
from hypothesis import given, settings
from hypothesis import strategies as some
from scipy import stats

from lit_degrade.cli import main
from lit_degrade.criticality import catalog
from lit_degrade.criticality.stability import agreement
from lit_degrade.evidence.claims.sections import Section
from lit_degrade.evidence.numbers.statistics import difference_interval, holm, t_interval
from lit_degrade.evidence.pages.topics import TOPICS
from lit_degrade.evidence.reading.record_tables import Tables
from lit_degrade.evidence.topics.effects.rows import (
    MATCHED,
    TopK,
    cells_of,
    difference,
    excess,
    ranked,
)
from lit_degrade.evidence.topics.effects.tables import effect_rows, effect_tables
from lit_degrade.evidence.topics.maps.figures import map_plates
from lit_degrade.evidence.topics.stability.tables import stability_rows, stability_tables
from lit_degrade.records.paths import RANKINGS
from lit_degrade.records.tables import (
    ABLATION,
    CLUSTER_EFFECTS,
    CLUSTERS,
    CORRELATIONS,
    EFFECTS,
    SCORES,
    SPIKES,
    STABILITY,
    SUPER_WEIGHTS,
)

CRITICALITY = (EFFECTS, STABILITY, SCORES, ABLATION, CORRELATIONS, SUPER_WEIGHTS, SPIKES, CLUSTERS, CLUSTER_EFFECTS)

Damages = dict[tuple[str, str], list[Any]]
"""Metric and arm -> damage of its draws at k = 10."""
TWO: Damages = {
    ("act_mag", "top_k"): [1.0], ("act_mag", MATCHED): [0.1, 0.2, 0.6], ("act_mag", "bottom_k"): [0.0],
    ("magnitude", "top_k"): [0.5], ("magnitude", MATCHED): [0.4, 0.3, 0.8], ("magnitude", "bottom_k"): [0.1],
}  # fmt: skip


def effects(damages: Damages, k: int = 10, **facts: Any) -> list[dict[str, Any]]:
    """Rows of effects.csv with this damage; facts hold for treated sets."""
    rows = []
    for (metric, arm), values in damages.items():
        for draw, value in enumerate(values):
            row = {"metric": metric, "mode": "global", "method": "zero", "level": 1.0, "arm": arm, "k": k, "draw": draw}
            row |= {"random": len(values) > 1, "weights": k, "zero_scores": 0.0, "matched": 1.0 if arm == MATCHED else ""}
            row |= {"norm_of_change": 1.0, "relative_norm": 0.01, "nats_per_token": ""}
            rows.append(row | {"log_perplexity_ratio": value} | (facts if arm == "top_k" else {}))
    return rows


def scored(results: Path, rows: list[dict[str, Any]] | None = None, likeness: Any = None, **settings: Any) -> Path:
    """A run that left effects, and agreements of rankings."""
    folder = made.record(results, "criticality", **settings)
    made.table(folder, EFFECTS, made.effects() if rows is None else rows)
    if likeness:
        made.table(folder, STABILITY, likeness)
    return folder


def cells(results: Path) -> dict[tuple[str, int], TopK]:
    found = section(results)
    return {(cell.metric, cell.k): cell for cell in cells_of(found.tables[EFFECTS], found.groups[0])}


def shifted(by: dict[tuple[str, str], float]) -> Damages:
    """TWO, where some arms do more."""
    return {arm: [value + by.get(arm, 0.0) for value in values] for arm, values in TWO.items()}


def test_excess_over_runs_is_students_over_differences_of_means(tmp_path: Path) -> None:
    """By hand: top 1.0, 1.3, 1.9 minus control means 0.3, 0.4, 0.3 gives 0.7, 0.9, 1.6."""
    for seed, (top, control) in enumerate([(0.0, 0.0), (0.3, 0.1), (0.9, 0.0)]):
        scored(tmp_path, effects(shifted({("act_mag", "top_k"): top, ("act_mag", MATCHED): control})), seed=seed)
    it = excess(cells(tmp_path)["act_mag", 10], MATCHED)
    assert it
    assert sorted(it.values) == pytest.approx([0.7, 0.9, 1.6])
    half = stats.t.ppf(0.975, 2) * np.std([0.7, 0.9, 1.6], ddof=1) / math.sqrt(3)
    assert (it.estimate.n, it.estimate.mean) == (3, pytest.approx(3.2 / 3))
    assert (it.estimate.interval.low, it.estimate.interval.high) == pytest.approx((3.2 / 3 - half, 3.2 / 3 + half))
    assert it.p == pytest.approx(stats.ttest_rel([1.0, 1.3, 1.9], [0.3, 0.4, 0.3]).pvalue)
    assert (it.over_draws, it.draws, it.at_least, it.rank_p) == (False, 9, 0, pytest.approx(1 / 4))


def test_draws_do_not_count_as_runs(tmp_path: Path) -> None:
    """Ten times the draws of the same mean give the same interval."""
    for seed, repeated in product((0, 1, 2), (1, 10)):
        damages = shifted({("act_mag", "top_k"): seed / 10})
        damages["act_mag", MATCHED] = damages["act_mag", MATCHED] * repeated
        scored(tmp_path / str(repeated), effects(damages), seed=seed)
    one, ten = (excess(cells(tmp_path / str(n))["act_mag", 10], MATCHED) for n in (1, 10))
    assert one
    assert ten
    assert (one.draws, ten.draws) == (9, 90)
    assert (ten.estimate.interval.low, ten.p) == pytest.approx((one.estimate.interval.low, one.p))


def test_one_run_has_an_interval_over_draws_and_says_so(tmp_path: Path) -> None:
    scored(tmp_path, effects(TWO))
    it = excess(cells(tmp_path)["act_mag", 10], MATCHED)
    assert it
    control = t_interval([0.1, 0.2, 0.6])
    assert (it.over_draws, it.estimate.mean) == (True, pytest.approx(0.7))
    assert (it.estimate.interval.low, it.estimate.interval.high) == pytest.approx((1 - control.high, 1 - control.low))
    assert math.isnan(it.p)
    found = section(tmp_path)
    matched, lowest, best = effect_tables(found.tables[EFFECTS], found.groups, "x.csv")
    assert "interval over draws, of a single run" in matched.note
    assert "of a single run" in best.note
    assert lowest.rows == [["magnitude × activation", "1"], ["magnitude", "0.4"]]
    (ratio,) = {row["interval_over"] for row in effect_rows(found.tables[EFFECTS], found.groups)}
    assert ratio == "draws"


def test_the_share_of_draws_that_do_as_much_is_a_rank_p(tmp_path: Path) -> None:
    """0.5 against 0.4, 0.3, 0.8: one of three does at least as much, (1 + 1) / (1 + 3); an equal one counts too."""
    scored(tmp_path, effects(TWO | {("act_mag", "top_k"): [0.6]}))
    found = cells(tmp_path)
    for metric in ("magnitude", "act_mag"):
        it = excess(found[metric, 10], MATCHED)
        assert it
        assert (it.at_least, it.draws, it.rank_p) == (1, 3, 0.5)


@pytest.mark.parametrize(
    ("top", "control", "value", "counts"),
    [
        ("inf", [0.1, 0.2], math.inf, (1, 0)), ("nan", [0.1, 0.2], math.inf, (1, 0)), ("", [0.1, 0.2], math.inf, (1, 0)),
        (1.0, [0.1, "inf"], -math.inf, (0, 1)), (1.0, [0.1, ""], -math.inf, (0, 1)), ("inf", [0.1, "inf"], math.inf, (1, 1)),
        ("inf", ["inf", "nan"], math.nan, (1, 2)),
    ],
)  # fmt: skip
def test_divergence_is_counted_and_in_no_mean(top: Any, control: list[Any], value: float, counts: Any, tmp_path: Path) -> None:
    for seed in range(3):
        worse: Damages = {("act_mag", "top_k"): [top], ("act_mag", MATCHED): control} if seed == 1 else {}
        scored(tmp_path, effects(shifted({("act_mag", "top_k"): seed}) | worse), seed=seed)
    it = excess(cells(tmp_path)["act_mag", 10], MATCHED)
    assert it
    assert [v for v in it.values if not math.isfinite(v)] == pytest.approx([value], nan_ok=True)
    assert (it.estimate.n, it.estimate.diverged, it.estimate.mean) == (3, 1, pytest.approx(1.7))
    assert (it.treated_diverged, it.control_diverged) == counts
    found = section(tmp_path)
    cell = effect_tables(found.tables[EFFECTS], found.groups, "x")[0].rows[0][1]
    assert ("1 of 3 runs not finite" in cell) == bool(counts[0])
    assert (f"{counts[1]} of " in cell and "draws of the control not finite" in cell) == bool(counts[1])


def test_everything_may_have_diverged(tmp_path: Path) -> None:
    scored(tmp_path, [row | {"log_perplexity_ratio": "inf"} for row in made.effects(ks=(1, 10))])
    found = plates(tmp_path)
    assert "not finite, or beyond 1e100 (random scores: 24; " in found["effects_zero_global"].caption
    (table, *_) = effect_tables(section(tmp_path).tables[EFFECTS], section(tmp_path).groups, "x")
    assert table.rows[0][1] == "1 of 1 runs not finite, 5 of 5 draws of the control not finite"


def test_draws_without_randomness_count_once(tmp_path: Path) -> None:
    rows = effects(TWO | {("act_mag", MATCHED): [0.3, 0.3, 0.3]})
    scored(tmp_path, [row | {"random": False} if row["metric"] == "act_mag" else row for row in rows])
    it = excess(cells(tmp_path)["act_mag", 10], MATCHED)
    assert it
    assert (it.draws, it.rank_p) == (1, 0.5)


def test_runs_that_perturb_the_same_weights_count_once(tmp_path: Path) -> None:
    """Magnitudes do not depend on the text: with a control that is the same too, five seeds say what one does."""
    for seed in range(3):
        scored(
            tmp_path, effects(TWO | {("magnitude", MATCHED): [0.4, 0.4, 0.4], ("act_mag", "top_k"): [1 + seed / 10]}), seed=seed
        )
    found = cells(tmp_path)
    it, other = (excess(found[metric, 10], MATCHED) for metric in ("magnitude", "act_mag"))
    assert it
    assert other
    assert (it.estimate.n, it.estimate.mean, len(it.runs), it.draws) == (1, pytest.approx(0.1), 3, 3)
    assert math.isnan(it.estimate.interval.low)
    assert math.isnan(it.p)
    assert (other.estimate.n, other.draws) == (3, 9)
    assert other.p < 1


def test_random_draws_that_all_cost_nothing_count_each(tmp_path: Path) -> None:
    scored(tmp_path, effects(TWO | {("magnitude", MATCHED): [0.0, 0.0, 0.0]}))
    it = excess(cells(tmp_path)["magnitude", 10], MATCHED)
    assert it
    assert (it.draws, it.rank_p) == (3, 0.25)


def test_the_best_metric_leads_by_differences_of_runs(tmp_path: Path) -> None:
    """Excess of act_mag 0.7, 0.8, 1.3 and of magnitude 0, 0.3, 0.3: differences 0.7, 0.5, 1.0."""
    for seed, (first, second) in enumerate([(0.0, 0.0), (0.1, 0.3), (0.6, 0.3)]):
        scored(tmp_path, effects(shifted({("act_mag", "top_k"): first, ("magnitude", "top_k"): second})), seed=seed)
    found = cells(tmp_path)
    gap = difference(found["act_mag", 10], found["magnitude", 10], MATCHED)
    expected = t_interval([0.7, 0.5, 1.0])
    assert (gap.n, gap.mean) == (3, pytest.approx(2.2 / 3))
    assert (gap.interval.low, gap.interval.high) == pytest.approx((expected.low, expected.high))
    found = section(tmp_path)
    *_, best = effect_tables(found.tables[EFFECTS], found.groups, "x.csv")
    (row,) = best.rows
    assert (row[0], row[1], row[3]) == ("10", "magnitude × activation", "magnitude")
    assert row[5].startswith("0.733 [")
    rows = pd.DataFrame(effect_rows(found.tables[EFFECTS], found.groups)).query("control == 'matched_random_k'")
    assert rows["rank"].tolist() == [1, 2]
    assert rows["difference_to_next"].tolist() == pytest.approx([2.2 / 3, math.nan], nan_ok=True)


def test_the_lead_of_one_run_has_welchs_interval_over_draws(tmp_path: Path) -> None:
    scored(tmp_path, effects(TWO))
    found = cells(tmp_path)
    gap = difference(found["act_mag", 10], found["magnitude", 10], MATCHED)
    over = difference_interval([0.4, 0.3, 0.8], [0.1, 0.2, 0.6])
    assert (gap.mean, gap.interval.low, gap.interval.high) == pytest.approx((0.7, 0.5 + over.low, 0.5 + over.high))


def test_draws_of_a_random_perturbation_of_the_treated_set_count_in_the_interval(tmp_path: Path) -> None:
    """Noise gives other damage each time: Welch's interval of both arms' draws, and of the means of four for a lead."""
    noisy: Damages = TWO | {("act_mag", "top_k"): [0.9, 1.0, 1.4], ("magnitude", "top_k"): [0.5, 0.7]}
    scored(tmp_path, effects(noisy))
    found = cells(tmp_path)
    it = excess(found["act_mag", 10], MATCHED)
    assert it
    expected = difference_interval([0.9, 1.0, 1.4], [0.1, 0.2, 0.6])
    assert it.estimate.mean == pytest.approx(0.8)
    assert (it.estimate.interval.low, it.estimate.interval.high) == pytest.approx((expected.low, expected.high))
    gap = difference(found["act_mag", 10], found["magnitude", 10], MATCHED)
    arms = [np.array(values) for values in ([0.9, 1.0, 1.4], [0.1, 0.2, 0.6], [0.5, 0.7], [0.4, 0.3, 0.8])]
    parts = [(arm.var(ddof=1) / len(arm), len(arm) - 1) for arm in arms]
    df = sum(v for v, _ in parts) ** 2 / sum(v**2 / n for v, n in parts)
    half = stats.t.ppf(0.975, df) * math.sqrt(sum(v for v, _ in parts))
    assert gap.mean == pytest.approx(1.1 - 0.3 - 0.6 + 0.5)
    assert (gap.interval.low, gap.interval.high) == pytest.approx((gap.mean - half, gap.mean + half))


def test_sizes_that_were_not_written_are_not_there(tmp_path: Path) -> None:
    rows = [{key: value for key, value in row.items() if key != "zero_scores"} for row in effects(TWO)]
    scored(tmp_path, rows)
    found = section(tmp_path)
    assert not found.cautions
    (first, *_) = effect_rows(found.tables[EFFECTS], found.groups)
    assert math.isnan(first["treated_zero_scores"])
    assert first["treated_norm_of_change"] == 1.0


def test_a_metric_whose_set_destroys_the_subject_comes_first(tmp_path: Path) -> None:
    for seed in range(3):
        worse: Damages = {("magnitude", "top_k"): ["inf"]} if seed == 2 else {}
        scored(tmp_path, effects(TWO | worse), seed=seed)
    (order,) = ranked(list(cells(tmp_path).values()), MATCHED)
    assert [cell.metric for cell, _ in order] == ["magnitude", "act_mag"]
    found = section(tmp_path)
    *_, best = effect_tables(found.tables[EFFECTS], found.groups, "x.csv")
    assert best.rows[0][5].endswith(", 1 not finite")


def test_p_is_adjusted_over_metrics_and_k(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        scored(tmp_path, made.effects(["random", "magnitude"], (1, 10), seed=seed, modes=("global",)), seed=seed)
    found = section(tmp_path)
    rows = pd.DataFrame(effect_rows(found.tables[EFFECTS], found.groups))
    for _, own in rows.groupby("control"):
        assert len(own) == 4
        assert own["p_holm"].tolist() == pytest.approx(holm(own["p"]).tolist())


@settings(max_examples=25)
@given(some.floats(-5, 5), some.lists(some.floats(-5, 5), min_size=2, max_size=6), some.floats(-3, 3))
def test_excess_does_not_depend_on_what_both_arms_lose(top: float, control: list[float], shift: float) -> None:
    def found(by: float) -> Any:
        table = pd.DataFrame(effects({("x", "top_k"): [top + by], ("x", MATCHED): [value + by for value in control]}))
        table = table.assign(matched=1.0, run_id="a", log_perplexity_ratio=table["log_perplexity_ratio"].astype(float))
        rows = pd.DataFrame({"run_id": ["a"]})
        (cell,) = cells_of(table, made_group(rows))
        it = excess(cell, MATCHED)
        assert it
        return it

    before, after = found(0.0), found(shift)
    assert after.estimate.mean == pytest.approx(before.estimate.mean, abs=1e-9)
    assert before.estimate.mean == pytest.approx(top - np.mean(control), abs=1e-9)
    assert 1 / (1 + len(control)) <= before.rank_p <= 1


def made_group(rows: pd.DataFrame) -> Any:
    from lit_degrade.evidence.reading.groups import Group

    return Group("all runs", {}, rows)


def test_a_control_that_is_unlike_the_treated_set_is_questioned(tmp_path: Path) -> None:
    rows = effects(TWO, norm_of_change=1.6) + effects(TWO, k=100)
    rows = [
        row | {"matched": 0.42} if (row["metric"], row["arm"], row["k"]) == ("magnitude", MATCHED, 10) else row for row in rows
    ]
    scored(tmp_path, rows)
    found = section(tmp_path)
    matched, lowest, _ = effect_tables(found.tables[EFFECTS], found.groups, "x.csv")
    assert "share of its weights that do: magnitude 42 % (k = 10)." in matched.note
    assert "it may explain the excess: magnitude × activation 1.6 times (k = 10); magnitude 1.6 times (k = 10)." in matched.note
    assert "could not match" not in lowest.note
    assert "magnitude 42 % (k = 10)" in plates(tmp_path)["effects_zero_global"].caption


def test_a_control_that_is_like_the_treated_set_is_not_questioned(tmp_path: Path) -> None:
    scored(tmp_path, effects(TWO, norm_of_change=1.5))
    found = section(tmp_path)
    matched, *_ = effect_tables(found.tables[EFFECTS], found.groups, "x.csv")
    assert "could not" not in matched.note
    assert "explain" not in matched.note


def test_figures_have_units_and_plain_words(tmp_path: Path) -> None:
    for seed in (1, 2):
        scored(
            tmp_path,
            made.effects(ks=(1, 10, 1000), seed=seed),
            made.stability(subjects=("step_0", "step_1", "step_2")),
            seed=seed,
        )
    found = plates(tmp_path)
    assert list(found) == ["effects_zero_global", "effects_zero_per_layer", "stability", "stability_subjects"]
    for plate in found.values():
        labels = [label for ax in plate.figure.axes for label in (ax.get_xlabel(), ax.get_ylabel()) if label]
        labels += [label for label in (plate.figure.get_supxlabel(), plate.figure.get_supylabel()) if label]
        assert labels
        assert all(re.search(r"\[.+\]", label) for label in labels), labels
        assert not any("_" in text for text in texts(plate.figure)), texts(plate.figure)
        assert plate.figure.get_size_inches()[1] < 9
        assert "2 of 2 runs are shown" in plate.caption
    figure = found["effects_zero_per_layer"].figure
    assert [ax.get_title("left") for ax in figure.axes if ax.get_visible()] == [
        metric.label for metric in catalog.METRICS.values()
    ]
    assert figure.legends[0].get_title().get_text() == "tiny-1m: zeroing (level 1), k of each matrix"
    assert figure.get_supxlabel() == "perturbed weights of each matrix, k [number]"
    assert "mean with 95 % Student t interval over runs (n = 2)" in found["effects_zero_global"].caption


def test_a_figure_of_one_run_shows_its_draws_and_that_of_many_shows_runs(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        rows = made.effects(["magnitude"], (1, 10), draws=5, seed=seed, modes=("global",))
        scored(tmp_path / "many", rows, seed=seed)
    scored(tmp_path / "one", made.effects(["magnitude"], (1, 10), draws=5, modes=("global",)))
    for name, points in (("many", 2 * 4 * 3), ("one", 2 * (1 + 5 + 5 + 1))):
        (plate,) = plates(tmp_path / name).values()
        dots = [item for item in plate.figure.axes[0].collections if len(item.get_offsets()) and item.get_linewidth()[0] == 0.9]
        assert sum(len(item.get_offsets()) for item in dots) == points
        assert ("over draws, since there is one run (n = 1 to 5)" in plate.caption) == (name == "one")
    assert list(plates(tmp_path / "one")) == ["effects_zero_global"]


def test_a_group_has_two_figures_of_effects_at_most_and_names_the_others(tmp_path: Path) -> None:
    for subject in ("tiny-1m", "tiny-60k"):
        scored(tmp_path, made.effects(["magnitude"], (1, 10), methods=("zero", "sign_flip")), subject=subject)
    found = plates(tmp_path)
    assert list(found) == [f"effects_zero_{mode}_{s}" for s in ("tiny-60k", "tiny-1m") for mode in ("global", "per_layer")]
    expected = "Not drawn: sign flips (level 1), k of all weights; sign flips (level 1), k of each matrix."
    assert expected in found["effects_zero_global_tiny-1m"].caption
    assert "1 of 1 runs are shown" in found["effects_zero_global_tiny-1m"].caption


def test_damage_that_is_not_finite_is_a_cross_with_its_share(tmp_path: Path) -> None:
    rows = made.effects(["magnitude"], (1, 10), modes=("global",))
    worst = [row for row in rows if row["arm"] == MATCHED and row["k"] == 10]
    worst[0]["log_perplexity_ratio"] = worst[1]["log_perplexity_ratio"] = "inf"
    scored(tmp_path, rows)
    (plate,) = plates(tmp_path).values()
    assert [text.get_text() for text in plate.figure.axes[0].texts] == ["✕2/5"]
    assert "with their share: not finite, or beyond 1e100 (magnitude: 2)." in plate.caption


def between_runs(found: Section) -> pd.DataFrame:
    """Lines about rankings of two runs."""
    table = found.table(STABILITY)
    return table[table["kind"] == "runs"] if len(table) else table


def test_rankings_of_runs_are_compared_pair_by_pair(tmp_path: Path) -> None:
    lists = {1: [[0, 5], [1, 5], [0, 7]], 2: [[0, 5], [0, 7], [1, 9]], 3: [[0, 5], [1, 5], [0, 7]]}
    for seed, rows in lists.items():
        folder = scored(tmp_path, made.effects(["magnitude"], (1, 3, 10)), seed=seed)
        made.rankings(folder, {"magnitude": rows, "act_mag": rows[:2]} if seed < 3 else {"magnitude": rows}, weights=100)
    found = between_runs(section(tmp_path))
    assert found.groupby(["metric", "k"]).size().to_dict() == {("magnitude", 1): 3, ("magnitude", 3): 3, ("act_mag", 1): 1}
    expected = agreement(np.array([1, 2, 3]), np.array([1, 3, 4]), 100)
    at_three = found[found["k"] == 3].sort_values("jaccard")
    assert at_three["jaccard"].tolist() == pytest.approx([0.5, 0.5, 1.0])
    assert at_three["rbo"].tolist() == pytest.approx([expected.rbo, expected.rbo, 1.0])
    assert at_three["jaccard_corrected"].tolist()[0] == pytest.approx(expected.jaccard_corrected)
    assert found["jaccard"].notna().all()


BAD: dict[str, tuple[Any, str]] = {
    "other parameters": ({"parameters": ["a", "c"]}, "ranks other weights than that of"),
    "another number": ({"weights": 7}, "ranks other weights than that of"),
    "twice": ({"ranked": {"magnitude": [[0, 1], [0, 1]]}}, "cannot be read and is not compared: it names a weight twice"),
    "negative": ({"ranked": {"magnitude": [[0, -1]]}}, "are no pairs of indices"),
    "no tensors": (b"no tensors", "cannot be read and is not compared"),
}


@pytest.mark.parametrize("case", BAD)
def test_rankings_that_cannot_be_compared_are_named(case: str, tmp_path: Path) -> None:
    for seed in (1, 2):
        made.rankings(scored(tmp_path, made.effects(["magnitude"], (1,)), seed=seed), {"magnitude": [[0, 1]]})
    last, (content, expected) = scored(tmp_path, made.effects(["magnitude"], (1,)), seed=3), BAD[case]
    if isinstance(content, bytes):
        (last / RANKINGS).write_bytes(content)
    else:
        made.rankings(last, **({"ranked": {"magnitude": [[0, 1]]}} | content))
    found = section(tmp_path)
    assert any(last.name in caution and expected in caution for caution in found.cautions), found.cautions
    assert len(between_runs(found)) == 1


def test_runs_of_other_groups_are_not_compared(tmp_path: Path) -> None:
    for subject in ("tiny-60k", "tiny-1m"):
        made.rankings(scored(tmp_path, made.effects(["magnitude"], (1,)), subject=subject), {"magnitude": [[0, 1]]})
    assert not len(between_runs(section(tmp_path)))


def test_the_matrix_has_metrics_beside_and_batches_on_the_diagonal(tmp_path: Path) -> None:
    rows = made.stability(["act_mag", "grad_squared"], (10, 1000, 2000), batches=2)
    values = {("batches", "act_mag"): 0.9, ("batches", "grad_squared"): 0.8, ("metrics", "act_mag"): 0.25}
    for row in rows:
        row["jaccard_corrected"] = values.get((row["kind"], row["metric"]), 0.0) if row["k"] == 1000 else 0.0
    rows[0]["kendall_tau"] = "nan"
    for seed in (1, 2):
        changed = [row | {"jaccard_corrected": row["jaccard_corrected"] + 0.1 * (seed - 1)} for row in rows]
        scored(tmp_path, made.effects(["act_mag"], (1,)), changed, seed=seed)
    plate = plates(tmp_path)["stability"]
    assert plate.caption.startswith("Agreement of the 1,000 highest weights")
    matrix, bar = plate.figure.axes
    assert [text.get_text() for text in matrix.texts] == ["0.95", "0.30", "0.30", "0.85"]
    assert bar.get_ylabel() == "Jaccard above chance,\nk = 1,000 [0 to 1]"
    assert len(matrix.patches) == 2


def test_what_was_not_measured_has_no_number(tmp_path: Path) -> None:
    scored(tmp_path, made.effects(["magnitude"], (1,)), made.stability(["random", "magnitude"], (10,)))
    matrix, _ = plates(tmp_path)["stability"].figure.axes
    assert [text.get_text() for text in matrix.texts] == ["–", "0.00", "0.00", "–"]


def test_subjects_are_compared_in_their_order(tmp_path: Path) -> None:
    names = ("intact", "step 10", "step 2")
    rows = made.stability(["magnitude", "act_mag"], (10,), subjects=names)
    later = [row | {"a": "step 10", "jaccard_corrected": 0.5} for row in rows if row["b"] == "step 2"]
    scored(tmp_path, made.effects(["magnitude"], (1,)), rows + later)
    left, right = plates(tmp_path)["stability_subjects"].figure.axes
    assert [text.get_text() for text in left.get_xticklabels()] == ["step 10", "step 2"]
    assert left.get_title("left") == "tiny-1m: with intact"
    own = [row for row in rows if row["kind"] == "subjects"]
    for ax, measure in ((left, "jaccard_corrected"), (right, "rbo")):
        lines = [np.asarray(line.get_ydata(), dtype=float) for line in ax.lines if len(np.asarray(line.get_xdata())) == 2][:2]
        assert [list(line) for line in lines] == [
            [row[measure] for row in own if row["metric"] == metric] for metric in ("magnitude", "act_mag")
        ]


def test_subjects_that_follow_each_other_are_compared_step_by_step(tmp_path: Path) -> None:
    rows = [
        row | {"a": "two"} if row["b"] == "three" else row
        for row in made.stability(["act_mag"], (10,), 2, ("one", "two", "three"))
    ]
    scored(tmp_path, made.effects(["act_mag"], (1,)), rows)
    left, _ = plates(tmp_path)["stability_subjects"].figure.axes
    assert [text.get_text() for text in left.get_xticklabels()] == ["one → two", "two → three"]


def test_the_table_of_stability_has_batches_beside_runs(tmp_path: Path) -> None:
    for seed in (1, 2):
        folder = scored(
            tmp_path, made.effects(["act_mag"], (10,)), made.stability(["random", "magnitude", "act_mag"], (10,)), seed=seed
        )
        made.rankings(folder, {"act_mag": [[0, i] for i in range(12)], "magnitude": [[0, 100 * seed + i] for i in range(12)]})
    found = section(tmp_path)
    (table,) = stability_tables(found.table(STABILITY), found.groups, "x.csv")
    rows = {(row[0], row[1]): row[2:] for row in table.rows}
    lines = found.tables[STABILITY].query("kind == 'batches' and metric == 'act_mag'")["jaccard_corrected"]
    assert rows["magnitude × activation", "10"][0] == f"{lines.mean():.3g}"
    assert rows["magnitude × activation", "10"][3:] == ["6", "1", "1", "1", "1"]
    chance = agreement(np.arange(10), np.arange(10, 20), 1000).jaccard_corrected
    assert rows["magnitude", "10"][:4] == ["", "", "", ""]
    assert rows["magnitude", "10"][4:] == [f"{chance:.3g}", f"{-20 / 29:.3g}", "0", "1"]
    written = pd.DataFrame(stability_rows(found.table(STABILITY), found.groups)).set_index(["kind", "metric", "other"])
    assert written.loc[("metrics", "magnitude", "act_mag"), "pairs"] == 2
    row = written.loc[("batches", "act_mag", "act_mag")]
    assert (row["jaccard_corrected_mean"], row["jaccard_corrected_max"]) == pytest.approx((lines.mean(), lines.max()))


def test_an_undefined_tau_is_not_there(tmp_path: Path) -> None:
    rows = made.stability(["act_mag"], (10,), 2)
    scored(tmp_path, made.effects(["act_mag"], (1,)), [row | {"kendall_tau": "nan"} for row in rows])
    found = section(tmp_path)
    assert found.tables[STABILITY]["kendall_tau"].isna().all()
    (table,) = stability_tables(found.table(STABILITY), found.groups, "x.csv")
    assert table.rows[0][3] == ""


HEAD = "metric,mode,method,arm,level,k,draw,random,weights,zero_scores,matched,norm_of_change,relative_norm,"
GOOD = "act_mag,global,zero,top_k,1,10,0,False,10,0,,1,0.1,0.5\n"
LINES = {
    "no arm": (GOOD.replace("top_k", ""), "left out 1 of 2 lines, with a word where"),
    "no k": (GOOD.replace(",1,10,0,", ",1,,0,"), "left out 1 of 2 lines, with a word where"),
    "k is 0": (GOOD.replace(",1,10,0,", ",1,0,0,"), "left out 1 lines whose numbers cannot be, such as k below 1"),
    "k without end": (GOOD.replace(",1,10,0,", ",1,inf,0,"), "left out 1 lines whose numbers cannot be"),
    "a word": (GOOD.replace("0.5\n", "much\n"), "left out 1 of 2 lines, with a word where"),
    "twice": (GOOD, "left out 1 of 2 lines, there twice"),
    "half": (GOOD[:20], "left out 1 of 2 lines, not whole"),
}


@pytest.mark.parametrize("case", LINES)
def test_broken_lines_are_named_and_the_rest_is_shown(case: str, tmp_path: Path) -> None:
    line, expected = LINES[case]
    folder = scored(tmp_path, effects(TWO))
    (folder / EFFECTS).write_text(
        HEAD + "log_perplexity_ratio\n" + GOOD.replace(",10,0,F", ",20,0,F" if line != GOOD else ",10,0,F") + line
    )
    found = section(tmp_path)
    assert any(expected in caution for caution in found.cautions), found.cautions
    assert len(found.tables[EFFECTS]) == 1


def rows_of(folder: Path) -> pd.DataFrame:
    return pd.DataFrame({"run_id": ["a"], "folder": [str(folder)], "state": ["done"], "filtered": [False]})


def criticality(folder: Path) -> tuple[Tables, list[str]]:
    """What all topics of criticality read of one run."""
    tables, cautions = Tables(), list[str]()
    for topic in (it for it in TOPICS if it.name in ("maps", "effects", "stability", "clusters", "super_weights")):
        own, faults = topic.read_from(rows_of(folder), [])
        tables |= own
        cautions += faults
    return tables, cautions


def test_words_that_may_be_empty_are_read_as_such(tmp_path: Path) -> None:
    site = {"parameter": "embed", "component": "", "depth": "", "weights": 4}
    made.table(tmp_path, SCORES, [{"metric": "random", **site, "mean": 0.5, "sd": 0.1, "zeros": 0, "q50": "", "top_10": 3}])
    made.table(tmp_path, CLUSTERS, [site | dict.fromkeys(("kmeans", "dbscan", "x", "y"), 1.0) | {"silhouette": "nan"}])
    found, cautions = criticality(tmp_path)
    assert not cautions
    assert found[SCORES]["component"].tolist() == [""]
    assert found[SCORES][["depth", "q50"]].isna().all(axis=None)
    assert (found[SCORES]["top_10"].tolist(), found[CLUSTERS]["silhouette"].isna().tolist()) == ([3.0], [True])


def test_no_super_weights_are_a_result(tmp_path: Path) -> None:
    names = [column.name for column in SUPER_WEIGHTS.columns if column.needed]
    (tmp_path / SUPER_WEIGHTS).write_text(",".join(names) + "\n")
    found, cautions = criticality(tmp_path)
    assert (len(found[SUPER_WEIGHTS]), cautions) == (0, [])


def test_published_super_weights_that_no_search_found_are_kept(tmp_path: Path) -> None:
    (row,) = made_maps.super_weights(found=1)
    made.table(tmp_path, SUPER_WEIGHTS, [row, row | {"row": 9, "order": ""}])
    found, cautions = criticality(tmp_path)
    assert not cautions
    assert found[SUPER_WEIGHTS]["order"].tolist() == pytest.approx([1, math.nan], nan_ok=True)


def test_every_table_may_be_missing(tmp_path: Path) -> None:
    found, cautions = criticality(tmp_path)
    assert cautions == []
    assert {schema: len(table) for schema, table in found.items()} == dict.fromkeys(CRITICALITY, 0)


def test_a_wrong_table_is_named(tmp_path: Path) -> None:
    for schema in CRITICALITY:
        (tmp_path / schema).write_text("a,b\n1,2\n")
    found, cautions = criticality(tmp_path)
    assert [caution.split(" cannot")[0] for caution in cautions] == [f"a: {schema}" for schema in CRITICALITY]
    assert not any(map(len, found.values()))


def test_figures_come_in_order_with_maps_behind_stability(tmp_path: Path) -> None:
    folder = made.record(tmp_path, "criticality", summary=made.damage(0.5, -0.01), metrics=made.trajectory(0.5, -0.01))
    made.table(folder, ABLATION, made_maps.ablation(2))
    made.table(folder, EFFECTS, made.effects(["magnitude"], (1, 10)))
    made.table(folder, STABILITY, made.stability(["magnitude", "act_mag"], (10,)))
    made.spectra(folder)
    found = section(tmp_path)
    names = list(plates(tmp_path))
    maps = [plate.name for plate in map_plates(found)]
    assert maps
    expected = [
        found.design.figure,
        "effects_zero_global",
        "effects_zero_per_layer",
        "stability",
        *maps,
        "trajectories",
        "spectra",
    ]
    assert names == expected


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on criticality of two runs, and of one without."""
    results = tmp_path_factory.mktemp("made") / "results"
    metrics = ["random", "magnitude", "act_mag"]
    for seed in (1, 2):
        folder = scored(results, made.effects(metrics, (1, 10), seed=seed), made.stability(metrics, (10,)), seed=seed)
        made.rankings(folder, {name: [[0, i] for i in range(10)] for name in metrics})
    made.table(made.record(results, "criticality", seed=3), ABLATION, made_maps.ablation(2))
    assert main(["report", str(results), "--html", "--output", str(results.parent / "out")]) == 0
    return results.parent / "out"


def test_a_report_has_tables_and_figures(written: Path) -> None:
    text, page = (written / "report.md").read_text(), (written / "report.html").read_text()
    for part in (
        "Excess over random, of the same magnitudes: zeroing (level 1), k of all weights, tiny-1m",
        "Excess over lowest scores other than 0: zeroing (level 1), k of each matrix, tiny-1m",
        "Which metric finds the most: zeroing (level 1), k of each matrix, tiny-1m",
        "Stability of rankings, tiny-1m",
        f"2 of 3 runs are shown; not shown: 1 without {EFFECTS}",
    ):
        assert part in text
        assert part in page
    for name in ("effects_zero_global.png", "stability.svg", "criticality_summary_ablation.csv"):
        assert (written / "criticality" / name).is_file()
    effects_csv = pd.read_csv(written / "criticality" / "criticality_summary_effects.csv")
    assert len(effects_csv) == 2 * 3 * 2 * 3
    assert {"excess", "excess_low", "p_holm", "rank_p_largest", "treated_norm_of_change", "control_matched"} <= set(effects_csv)
    stability_csv = pd.read_csv(written / "criticality" / "criticality_summary_stability.csv")
    assert set(stability_csv["kind"]) == {"batches", "metrics", "runs"}
    links = [link for link in Page(page).links if not link.startswith(("data:", "#"))]
    assert all((written / link).exists() for link in links)
