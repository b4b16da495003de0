"""Parts of weight space: draws do not count as runs, every part stands beside the whole, and what is drawn is what was read."""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import made
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from helpers import plates_of, section, tables_of
from matplotlib.colors import to_hex
from scipy import stats

from lit_degrade.curvature.catalog import PARTS
from lit_degrade.evidence.claims.sections import Section
from lit_degrade.evidence.drawing.looks import PALETTE
from lit_degrade.evidence.drawing.panels import Plate
from lit_degrade.evidence.pages.figures import compose
from lit_degrade.evidence.topics import flatness as topic
from lit_degrade.evidence.topics.flatness.figures import curves_of
from lit_degrade.evidence.topics.flatness.rows import certificate_rows, flatness_rows
from lit_degrade.records.tables import CERTIFICATES, DAMAGE, FLATNESS

TOPICS = (topic.TOPIC,)
SIZES = (0.05, 0.1, 0.25)
TEXTS = ("calibration", "held_out", "random_tokens")
COSTS = {"whole": 1.0, "flat": 0.01, "complement": 2.0, "random": 1.5}
"""Of a change, over that of one in the whole space."""
Rows = list[dict[str, Any]]


def changes(draws: int = 3, seed: int = 43, costs: dict[str, float] = COSTS) -> Rows:
    """Lines of flatness.csv: costs grow with the square of the size and vary by a tenth."""
    rng = np.random.default_rng(seed)
    return [
        {"part": part, "relative_norm": size, "norm_of_change": 8 * size, "draw": draw, "nats_per_token": 3.0}
        | {DAMAGE: cost * size**2 * rng.lognormal(0, 0.1)}
        for part, cost in costs.items()
        for draw in range(draws)
        for size in SIZES
    ]


def certificates(draws: int = 2, seed: int = 43, scaled: bool = True) -> Rows:
    """Lines of certificates.csv, without the largest eigenvalue unless scaled."""
    rng, rows = np.random.default_rng(seed), Rows()
    for text in TEXTS:
        for part in ("flat", "complement", "whole", "random"):
            for draw in range(draws):
                size = COSTS[part] * rng.lognormal(0, 0.1)
                row = {"part": part, "text": text, "draw": draw, "hv_norm": 5 * size, "rayleigh": size / 2}
                rows.append(row | ({"hv_norm_over_lambda_max": size, "rayleigh_over_lambda_max": size / 10} if scaled else {}))
    return rows


def changed(results: Path, rows: Rows | None = None, seed: int = 43, **settings: Any) -> Path:
    """A run that left both tables."""
    folder = made.record(results, "flatness", seed=seed, **settings)
    made.table(folder, FLATNESS, changes(seed=seed) if rows is None else rows)
    made.table(folder, CERTIFICATES, certificates(seed=seed))
    return folder


def attacked(results: Path, projection: str, lr: float, seed: int, cost: float | None = None, **settings: Any) -> Path:
    """A run whose steps stayed in a part."""
    rng = np.random.default_rng([seed, int(1e6 * lr), *projection.encode()])
    ratio = COSTS.get(projection, 1.0) * (lr * 1e3) ** 2 * rng.lognormal(0, 0.1) if cost is None else cost
    summary = made.damage(ratio, 0.01) | {"path_length": 2e3 * lr * rng.lognormal(0, 0.03)}
    return made.record(results, "flat_attack", seed, summary=summary, projection=projection, lr=lr, **settings)


def attacks(results: Path, **settings: Any) -> None:
    for part in PARTS:
        for lr in (1e-4, 1e-3):
            for seed in (43, 44, 45):
                attacked(results, part, lr, seed, **settings)


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> Section:
    results = tmp_path_factory.mktemp("flatness")
    for seed in (43, 44, 45):
        changed(results, seed=seed)
    return section(results)


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Section:
    results = tmp_path_factory.mktemp("flat_attack")
    attacks(results)
    attacked(results, "none", 1e-4, 43)
    attacks(results, subject="tiny-60k")
    return section(results)


def of(found: Section, name: str) -> Plate:
    return plates_of(found, TOPICS)[name]


def visible(plate: Plate) -> list[Any]:
    return [ax for ax in plate.figure.axes if ax.get_visible()]


def means(ax: Any, part: str) -> dict[float, float]:
    """Where the markers of a part stand."""
    mine = [line for line in ax.lines if to_hex(line.get_color()) == to_hex(PALETTE[list(PARTS).index(part)])]
    marked = [line for line in mine if line.get_marker() in ("o", "s", "^", "D") and len(line.get_xdata()) == 1]
    return {float(line.get_xdata()[0]): float(line.get_ydata()[0]) for line in marked}


def test_costs_are_students_over_runs_that_count_with_the_mean_of_their_draws() -> None:
    draws = {"a": [1.0, 3.0], "b": [4.0, 4.0], "c": [0.0, 3.0]}
    lines = pd.DataFrame(
        [
            {"part": part, "relative_norm": 0.1, "draw": i, "run_id": run, DAMAGE: value * factor}
            for part, factor in (("flat", 0.1), ("whole", 1.0))
            for run, values in draws.items()
            for i, value in enumerate(values)
        ]
    )
    whole, flat = flatness_rows(lines)
    assert (whole["part"], flat["part"]) == ("whole", "flat")
    half = stats.t.ppf(0.975, 2) * np.std([2.0, 4.0, 1.5], ddof=1) / math.sqrt(3)
    assert (whole[DAMAGE], whole[f"{DAMAGE}_n"], whole["runs"], whole["draws"]) == (pytest.approx(2.5), 3, 3, 6)
    assert (whole[f"{DAMAGE}_low"], whole[f"{DAMAGE}_high"]) == pytest.approx((2.5 - half, 2.5 + half))
    assert (whole["over_whole"], flat["over_whole"]) == (1.0, pytest.approx(0.1))
    more = pd.concat([lines, *(lines.assign(draw=lines["draw"] + 2 * i) for i in (1, 2))], ignore_index=True)
    assert flatness_rows(more)[0][f"{DAMAGE}_low"] == pytest.approx(whole[f"{DAMAGE}_low"])


def test_a_ratio_is_to_the_whole_space_at_the_same_size_or_not_there() -> None:
    lines = pd.DataFrame(changes()).assign(run_id="a")
    rows = pd.DataFrame(flatness_rows(lines)).set_index(["part", "relative_norm"])
    assert list(dict.fromkeys(rows.index.get_level_values(0))) == list(PARTS)
    for size in SIZES:
        ratio = rows.loc[("complement", size), DAMAGE] / rows.loc[("whole", size), DAMAGE]
        assert rows.loc[("complement", size), "over_whole"] == pytest.approx(ratio)
    without = pd.DataFrame(flatness_rows(lines[lines["part"] != "whole"]))
    assert without["over_whole"].isna().all()
    zero = lines.assign(**{DAMAGE: 0.0})
    assert pd.DataFrame(flatness_rows(zero))["over_whole"].isna().all()


def test_what_is_not_finite_is_counted_and_in_no_mean() -> None:
    lines = pd.concat([pd.DataFrame(changes(1, seed)).assign(run_id=str(seed)) for seed in (1, 2, 3)], ignore_index=True)
    broken = (lines["run_id"] == "2") & (lines["part"] == "complement")
    lines.loc[broken, DAMAGE] = math.inf
    rows = pd.DataFrame(flatness_rows(lines)).set_index(["part", "relative_norm"])
    row = rows.loc[("complement", 0.25)]
    own = lines[(lines["part"] == "complement") & (lines["relative_norm"] == 0.25) & ~broken]
    assert (row[f"{DAMAGE}_n"], row[f"{DAMAGE}_not_finite"]) == (3, 1)
    assert row[DAMAGE] == pytest.approx(own[DAMAGE].mean())
    assert list(np.isfinite(curves_of(lines)["complement"][0.25])) == [True, False, True]


def test_certificates_are_over_runs_and_beside_the_whole_space_on_the_same_text() -> None:
    lines = pd.concat([pd.DataFrame(certificates(2, seed)).assign(run_id=str(seed)) for seed in (1, 2)], ignore_index=True)
    rows = pd.DataFrame(certificate_rows(lines))
    assert list(rows["part"].drop_duplicates()) == list(PARTS)
    assert list(rows["text"])[:3] == list(TEXTS)
    assert len(rows) == len(PARTS) * len(TEXTS)
    by = rows.set_index(["part", "text"])
    for measure, ratio in (("hv_norm", "hv_norm_over_whole"), ("rayleigh", "rayleigh_over_whole")):
        name = f"{measure}_over_lambda_max"
        own = lines[(lines["part"] == "flat") & (lines["text"] == "held_out")]
        assert by.loc[("flat", "held_out"), name] == pytest.approx(own.groupby("run_id")[name].mean().mean())
        assert by.loc[("flat", "held_out"), f"{name}_n"] == 2
        expected = by.loc[("flat", "held_out"), name] / by.loc[("whole", "held_out"), name]
        assert by.loc[("flat", "held_out"), ratio] == pytest.approx(expected)


def test_certificates_without_the_largest_eigenvalue_have_no_line() -> None:
    without, scaled = (pd.DataFrame(certificates(scaled=scaled)).assign(run_id="a") for scaled in (False, True))
    assert certificate_rows(without) == []
    both = pd.concat([without.assign(run_id="b"), scaled], ignore_index=True)
    assert {row["runs"] for row in certificate_rows(both)} == {1}


def test_tables_are_written_and_shown(still: Section, moved: Section, tmp_path: Path) -> None:
    shown = tables_of(still, tmp_path, TOPICS)
    names = ["flatness_summary_certificates.csv", "flatness_summary_flatness.csv"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert [table.title for table in shown] == ["What changes cost, tiny-1m", "Curvature of parts of weight space, tiny-1m"]
    for table in shown:
        assert all(len(row) == len(table.head) for row in table.rows)
        assert not any("_" in cell for row in table.rows for cell in row)
        assert len(pd.read_csv(tmp_path / table.file)) == len(table.rows)
    costs = pd.read_csv(tmp_path / names[1])
    assert list(costs)[:6] == ["group", "part", "relative_norm", "runs", "draws", DAMAGE]
    assert set(costs[f"{DAMAGE}_n"]) == {3}
    assert tables_of(moved, tmp_path, TOPICS) == []


def test_sizes_that_cannot_be_drawn_are_left_out_and_named(tmp_path: Path) -> None:
    changed(tmp_path, [*changes(), changes()[0] | {"relative_norm": 0.0}])
    found = section(tmp_path)
    assert [it for it in found.cautions if "left out 1 lines whose size cannot be drawn" in it]
    assert len(found.table(FLATNESS)) == len(changes())


def test_every_part_is_drawn_with_its_means_at_every_size(still: Section) -> None:
    plate = of(still, "flatness")
    (ax,) = visible(plate)
    rows = pd.DataFrame(flatness_rows(still.table(FLATNESS))).set_index(["part", "relative_norm"])
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "symlog")
    for part in PARTS:
        drawn = means(ax, part)
        assert list(drawn.values()) == pytest.approx([rows.loc[(part, size), DAMAGE] for size in SIZES])
        assert list(drawn) == pytest.approx(SIZES, rel=0.1)
        low, high = ax.get_ylim()
        assert all(low < mean < high for mean in drawn.values())
    assert "interval over the same (n = 3)" in plate.caption
    assert "linear within ±0.001 of 0. 3 of 3 runs are shown." in plate.caption
    assert "Thin bars" not in plate.caption


def test_a_single_run_has_thin_bars_over_its_draws(tmp_path: Path) -> None:
    changed(tmp_path)
    plate = of(section(tmp_path), "flatness")
    assert "mean over draws of the run; bars: 95 % Student t interval over the same (n = 3)" in plate.caption
    assert "Thin bars: over the draws of a single run." in plate.caption
    (ax,) = visible(plate)
    bars = [item for item in ax.collections if isinstance(item, mpl.collections.LineCollection)]
    assert {float(bar.get_linewidth()[0]) for bar in bars} == {0.7}


def test_losses_below_zero_and_without_a_value_are_seen(tmp_path: Path) -> None:
    for seed in (43, 44, 45):
        rows = changes(1, seed, COSTS | {"flat": -0.02})
        for row in rows:
            if row["part"] == "complement" and row["relative_norm"] == 0.25 and seed == 43:
                row[DAMAGE] = math.inf
        changed(tmp_path, rows, seed)
    plate = of(section(tmp_path), "flatness")
    (ax,) = visible(plate)
    assert all(ax.get_ylim()[0] < mean < 0 for mean in means(ax, "flat").values())
    assert [text.get_text() for text in ax.texts] == ["\N{MULTIPLICATION X}1/3"]
    assert plate.caption.endswith("not finite, or beyond 1e100 (1). 3 of 3 runs are shown.")


def test_losses_of_which_none_is_finite_are_crosses(tmp_path: Path) -> None:
    changed(tmp_path, [row | {DAMAGE: math.inf} for row in changes(1)])
    (ax,) = visible(of(section(tmp_path), "flatness"))
    assert len(ax.texts) == len(PARTS) * len(SIZES)


def test_groups_have_a_panel_each(tmp_path: Path) -> None:
    for fraction in (0.1, 0.5):
        for seed in (43, 44):
            changed(tmp_path, seed=seed, flat={"fraction": fraction})
    titles = [ax.get_title(loc="left") for ax in visible(of(section(tmp_path), "flatness"))]
    assert titles == ["tiny-1m, flat fraction 0.1", "tiny-1m, flat fraction 0.5"]


def test_paths_of_every_part_have_a_panel_for_each_subject(moved: Section) -> None:
    plate = of(moved, "flat_attack_paths")
    axes = visible(plate)
    assert [ax.get_title(loc="left") for ax in axes] == ["tiny-60k", "tiny-1m"]
    for ax, subject in zip(axes, ("tiny-60k", "tiny-1m"), strict=True):
        rows = moved.rows[moved.rows["subject"] == subject]
        for part in PARTS:
            own = rows[rows["projection"] == part].groupby("lr")[[DAMAGE, "path_length"]].mean()
            drawn = means(ax, part)
            assert list(drawn.values()) == pytest.approx(list(own[DAMAGE]))
            assert list(drawn) == pytest.approx(list(own["path_length"]), rel=0.1)
    assert "(n = 3)" in plate.caption
    assert "48 of 49 runs are shown; not shown: 1 without steps inside a part of weight space" in plate.caption


def test_the_figure_of_paths_has_its_name_beside_a_main_one_of_another(moved: Section) -> None:
    names = [plate.name for plate in compose(moved)]
    assert "flat_attack" in names
    assert "flat_attack_paths" in names
    design = replace(moved.design, figure="flat_attack_comparison")
    assert list(plates_of(replace(moved, design=design), TOPICS)) == ["flat_attack"]


@pytest.mark.parametrize(
    "left", [lambda results: attacked(results, "none", 1e-4, 43), lambda results: made.record(results, "flat_attack")]
)
def test_runs_without_confined_steps_have_no_figure(left: Callable[[Path], Path], tmp_path: Path) -> None:
    left(tmp_path)
    assert plates_of(section(tmp_path), TOPICS) == {}


def test_figures_have_units_and_plain_words(still: Section, moved: Section) -> None:
    for plate in (plates_of(still, TOPICS) | plates_of(moved, TOPICS)).values():
        axes = visible(plate)
        labels = [label for ax in axes for label in (ax.get_xlabel(), ax.get_ylabel()) if label]
        labels += [text.get_text() for text in plate.figure.texts]
        assert labels
        assert all(re.search(r"\[.+\]", label) for label in labels), labels
        assert not any("_" in item.get_text() for item in plate.figure.findobj(mpl.text.Text))
        assert plate.figure.get_size_inches()[1] < 9
        assert [text.get_text() for text in plate.figure.legends[0].get_texts()] == list(PARTS)
        assert all(says in plate.caption for says in PARTS.values())
