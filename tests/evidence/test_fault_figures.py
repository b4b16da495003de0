"""Figures and tables of flipped bits and adversarial inputs: they hold what the records say, and every run is counted."""

import math
import re
from pathlib import Path
from typing import Any

import made
import made_faults
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from helpers import ROOT, plates_of, section, tables_of
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex
from scipy import stats

from lit_degrade.adversarial.catalog import ATTACKS
from lit_degrade.evidence.claims.claims import load_designs
from lit_degrade.evidence.claims.sections import Section
from lit_degrade.evidence.drawing.looks import PALETTE
from lit_degrade.evidence.drawing.panels import Plate
from lit_degrade.evidence.drawing.tables import Table
from lit_degrade.evidence.pages.figures import compose
from lit_degrade.evidence.pages.report import report
from lit_degrade.evidence.reading.words import outcome_of
from lit_degrade.evidence.topics import adversarial as inputs_topic
from lit_degrade.evidence.topics import bits as bits_topic
from lit_degrade.evidence.topics.adversarial.figures import curves_of, places_of
from lit_degrade.evidence.topics.adversarial.rows import TOKENS
from lit_degrade.evidence.topics.adversarial.tables import attack_rows
from lit_degrade.evidence.topics.bits.figures import bit_quantiles
from lit_degrade.evidence.topics.bits.rows import pattern_rows
from lit_degrade.evidence.topics.bits.tables import COSTLY, bit_rows, collapse_rows
from lit_degrade.records import tables

SHIPPED = ROOT / "lit_degrade" / "evidence" / "claims" / "shipped"


TOPICS = (bits_topic.TOPIC, inputs_topic.TOPIC)


def left(results: Path, name: str, rows: made_faults.Rows, **settings: Any) -> Section:
    """A section with runs that left one table, of which the last is added."""
    made.table(made.record(results, "bit_search", **settings), name, rows)
    return section(results)


@pytest.fixture(scope="module")
def bits(tmp_path_factory: pytest.TempPathFactory) -> Section:
    results = tmp_path_factory.mktemp("bits")
    for seed in (43, 44, 45):
        made_faults.bit_run(results, seed=seed)
    return section(results)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Section:
    results = tmp_path_factory.mktemp("inputs")
    for seed in (43, 44, 45, 46):
        made_faults.adversarial_run(results, seed=seed)
    return section(results)


@pytest.fixture(scope="module")
def drawn(bits: Section, inputs: Section) -> dict[str, Plate]:
    return plates_of(bits, TOPICS) | plates_of(inputs, TOPICS)


@pytest.fixture(scope="module")
def written(bits: Section, inputs: Section, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Table]]:
    folder = tmp_path_factory.mktemp("tables")
    tables = [*tables_of(bits, folder, TOPICS), *tables_of(inputs, folder, TOPICS)]
    return folder, {table.title.removesuffix(", tiny-1m"): table for table in tables}


def panels(plate: Plate) -> dict[str, Any]:
    return {ax.get_title(loc="left"): ax for ax in plate.figure.axes if ax.get_visible()}


def in_colour(ax: Any, i: int) -> list[Any]:
    """Lines with the i-th colour."""
    return [line for line in ax.lines if to_hex(line.get_color()) == to_hex(PALETTE[i])]


def dots_of(ax: Any, i: int) -> Any:
    """Places of the open points of the i-th look, (n, 2)."""
    points = [item for item in ax.collections if isinstance(item, PathCollection)]
    found = [item for item in points if to_hex(item.get_edgecolor()[0]) == to_hex(PALETTE[i])]
    return np.concatenate([np.asarray(item.get_offsets()) for item in found if len(item.get_offsets())])


def test_every_table_has_its_figure_and_all_runs_are_counted(drawn: dict[str, Plate], bits: Section) -> None:
    names = ["bit_sensitivity", "bit_patterns", "bit_search", "flips_to_collapse", "adversarial", "adversarial_tokens"]
    assert list(drawn) == names
    for name, plate in drawn.items():
        assert f"{4 if 'adversarial' in name else 3} of {4 if 'adversarial' in name else 3} runs are shown." in plate.caption
    assert [plate.name for plate in compose(bits)][-4:] == names[:4]


def test_figures_have_units_and_plain_words(drawn: dict[str, Plate]) -> None:
    for name, plate in drawn.items():
        axes = [ax for ax in plate.figure.axes if ax.get_visible()]
        labels = [label for ax in axes for label in (ax.get_xlabel(), ax.get_ylabel()) if label]
        labels += [text.get_text() for text in plate.figure.texts]
        assert labels, name
        assert all(re.search(r"\[.+\]", label) for label in labels), (name, labels)
        said = [item.get_text() for item in plate.figure.findobj(mpl.text.Text)]
        assert not any("_" in text for text in said), (name, said)
        assert plate.figure.get_size_inches()[1] < 9


def test_quantiles_of_bits_are_those_of_all_flips_and_the_infinite_ones_are_the_largest() -> None:
    lines = pd.DataFrame({"choice": "random", "bit_class": "sign", "bit": 7.0, "log_perplexity_ratio": [3, np.inf, 1, 2, -1]})
    (row,) = bit_quantiles(lines).to_dict("records")
    assert (row["low"], row["median"], row["high"], row["worst"]) == (-1, 2, np.inf, 3)
    assert (row["flips"], row["not_finite"]) == (5, 1)
    (row,) = bit_quantiles(lines.assign(log_perplexity_ratio=[math.inf] * 4 + [1])).to_dict("records")
    assert (row["low"], row["median"], row["worst"]) == (1, np.inf, 1)
    values = np.random.default_rng(43).normal(size=200)
    (row,) = bit_quantiles(pd.DataFrame({"choice": "a", "bit_class": "b", "bit": 0, "log_perplexity_ratio": values})).to_dict(
        "records"
    )
    expected = np.quantile(values, [0.05, 0.5, 0.95], method="inverted_cdf")
    assert [row["low"], row["median"], row["high"]] == list(expected)


def test_bits_stand_from_high_to_low_with_classes_and_crosses(drawn: dict[str, Plate], bits: Section) -> None:
    (ax,) = panels(drawn["bit_sensitivity"]).values()
    left_end, right_end = ax.get_xlim()
    assert left_end > 31 > 0 > right_end
    classes = {
        text.get_text(): text.get_position()[0] for text in ax.texts if not text.get_text().startswith("\N{MULTIPLICATION X}")
    }
    assert classes == {"sign": 31, "exponent": pytest.approx(26.5), "mantissa": 11}
    lines = bits.tables[tables.BIT_SENSITIVITY]
    top = lines[lines["bit"] == 30]
    share = np.isinf(top["log_perplexity_ratio"]).mean()
    (cross,) = [text for text in ax.texts if text.get_text().startswith("\N{MULTIPLICATION X}")]
    assert cross.get_text() == f"\N{MULTIPLICATION X}\n{100 * share:.0f}"
    assert cross.get_position() == (30, 1.0)
    count = int(np.isinf(lines["log_perplexity_ratio"]).sum())
    assert f"not finite, or beyond 1e100 (exponent: {count})." in drawn["bit_sensitivity"].caption
    assert "n = 6,912 flips." in drawn["bit_sensitivity"].caption
    own = lines[(lines["choice"] == "random") & (lines["bit"] == 31)]["log_perplexity_ratio"]
    (medians,) = [line for line in ax.lines if line.get_marker() == "o"]
    x, y = np.asarray(medians.get_xydata()).T
    at = int(np.argmin(np.abs(x - 31)))
    assert y[at] == np.quantile(own, 0.5, method="inverted_cdf")


def test_bits_without_any_finite_loss_are_drawn(tmp_path: Path) -> None:
    rows = [row | {"log_perplexity_ratio": "nan"} for row in made_faults.sensitivity("nf4", 3)]
    (ax,) = panels(plates_of(left(tmp_path, tables.BIT_SENSITIVITY, rows), TOPICS)["bit_sensitivity"]).values()
    assert [text.get_text() for text in ax.texts if "\n" in text.get_text()] == ["\N{MULTIPLICATION X}\n100"] * 4


def test_each_format_has_its_panel_and_figures_go_on(tmp_path: Path) -> None:
    for stored in made_faults.FORMATS:
        made_faults.bit_run(tmp_path, stored)
    found = plates_of(section(tmp_path), TOPICS)
    shown = [[*panels(found[name])] for name in ("bit_sensitivity", "bit_sensitivity_2")]
    assert sorted(shown[0] + shown[1]) == sorted(f"tiny-1m, {stored}" for stored in made_faults.FORMATS)
    assert [len(names) for names in shown] == [3, 2]
    assert "5 of 5 runs are shown." in found["bit_sensitivity_2"].caption


def test_patterns_are_means_over_matrices_then_runs(bits: Section, drawn: dict[str, Plate]) -> None:
    lines = pd.DataFrame({
        "run_id": ["a", "a", "b"], "format": "fp32", "bit_class": "sign", "bit": 31.0, "ones": [0.2, 0.4, 0.9], "entropy": 1.0,
    })  # fmt: skip
    (row,) = pattern_rows(lines).to_dict("records")
    assert (row["ones"], row["least"], row["most"]) == (pytest.approx((0.3 + 0.9) / 2), 0.2, 0.9)
    (ax,) = panels(drawn["bit_patterns"]).values()
    (points,) = [line for line in ax.lines if line.get_marker() == "o"]
    means = bits.tables[tables.BIT_PATTERNS].groupby("bit")["ones"].mean()
    assert dict(np.asarray(points.get_xydata())) == pytest.approx({bit: 100 * mean for bit, mean in means.items()})


def test_searches_are_lines_that_end_where_they_collapse(drawn: dict[str, Plate], bits: Section) -> None:
    found = panels(drawn["bit_search"])
    assert list(found) == ["values stay in range", "any value"]
    lines = bits.tables[tables.BIT_SEARCH]
    for ax, constraint in zip(found.values(), ("in_range", "free"), strict=True):
        own = lines[(lines["constraint"] == constraint) & (lines["arm"] == "search")]
        bold = [line for line in in_colour(ax, 0) if line.get_linewidth() == 1.8]
        assert len(bold) == 3
        run = own[own["run_id"] == own["run_id"].iloc[0]]
        assert np.asarray(bold[0].get_xydata()) == pytest.approx(np.stack([run["flip"], 100 * run["token_accuracy"]], axis=1))
        ends = [
            tuple(place) for line in in_colour(ax, 0) if line.get_marker() == "o" for place in np.asarray(line.get_xydata())
        ]
        expected = own[own["collapsed"]]
        assert sorted(ends) == sorted(zip(expected["flip"], 100 * expected["token_accuracy"], strict=True))
        assert len([line for line in in_colour(ax, 1) if line.get_linewidth() == 0.8 and len(line.get_xdata())]) == 9
        thresholds = [line for line in ax.lines if line.get_linestyle() == "--" and len(set(line.get_ydata())) == 1]
        assert {float(line.get_ydata()[0]) for line in thresholds} == {100 * made_faults.THRESHOLD}
        assert ax.get_ylim()[0] == 0
        assert ax.get_ylim()[1] > 42
    lost = int(np.isinf(lines["log_perplexity_ratio"]).sum())
    assert f"{lost} of {len(lines)} measurements have no finite loss." in drawn["bit_search"].caption


def test_an_accuracy_that_is_not_finite_is_a_cross_at_the_top(tmp_path: Path) -> None:
    rows, _ = made_faults.search()
    for row in rows:
        if (row["constraint"], row["arm"], row["draw"], row["flip"]) == ("free", "random", 1, 64):
            row["token_accuracy"] = "nan"
    plate = plates_of(left(tmp_path, tables.BIT_SEARCH, rows), TOPICS)["bit_search"]
    ax = panels(plate)["any value"]
    crosses = [tuple(place) for line in ax.lines if line.get_marker() == "x" for place in np.asarray(line.get_xydata())]
    assert crosses == [(64, 1)]
    assert "none that is finite (1)." in plate.caption
    assert not [line for line in ax.lines if line.get_linestyle() == "--" and line.get_linewidth() == 1]  # no thresholds known


def test_flips_to_collapse_are_points_and_those_that_did_not_are_open(drawn: dict[str, Plate], bits: Section) -> None:
    ends = bits.tables[tables.COLLAPSE]
    own = ends[(ends["constraint"] == "in_range") & (ends["arm"] == "random")]
    ax = panels(drawn["flips_to_collapse"])["values stay in range"]
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        "gradient search", "random bits", "random exponent bits", "largest weights",
    ]  # fmt: skip
    filled, hollow = (item for item in ax.collections[2:4])
    assert sorted(np.asarray(filled.get_offsets())[:, 0]) == sorted(own.loc[own["collapsed"], "flips"])
    late = own[~own["collapsed"]]
    assert 0 < len(late) == len(hollow.get_offsets())
    assert set(np.asarray(hollow.get_offsets())[:, 0]) == {2000}
    assert len(ax.texts) == len(late)  # arrows
    assert to_hex(hollow.get_facecolor()[0]) == "#ffffff"
    search = ends[(ends["constraint"] == "in_range") & (ends["arm"] == "search")]
    medians = [line for line in in_colour(ax, 0) if line.get_marker() == "|"]
    assert [float(line.get_xdata()[0]) for line in medians] == [search["flips"].median()]
    assert bool([line for line in in_colour(ax, 1) if line.get_marker() == "|"]) == (len(late) <= len(own) / 2)
    count = int((~ends["collapsed"]).sum())
    assert f"not collapsed within these ({count} of {len(ends)})." in drawn["flips_to_collapse"].caption


def test_sizes_stand_at_their_logarithm_and_zero_apart() -> None:
    assert places_of([0.1, 0.001, 0.01]) == pytest.approx({0.001: -3, 0.01: -2, 0.1: -1})
    assert places_of([0.0, 0.001, 0.1]) == pytest.approx({0.0: -5, 0.001: -3, 0.1: -1})
    assert places_of([0.0]) == {0.0: -1}


def test_attacks_are_points_of_runs_means_and_crosses(drawn: dict[str, Plate], inputs: Section) -> None:
    found = panels(drawn["adversarial"])
    assert list(found) == ["L\N{INFINITY} [× RMS of embeddings]", "L2 [× median row length]"]
    linf, l2 = found.values()
    lines = inputs.tables[tables.ADVERSARIAL]
    own = lines[(lines["norm"] == "linf") & (lines["attack"] == "random")]
    runs = own.groupby(["epsilon", "run_id"])["log_perplexity_ratio"].mean()
    assert sorted(dots_of(linf, 0)[:, 1]) == pytest.approx(sorted(runs))
    means = max(in_colour(linf, 0), key=lambda line: len(line.get_xdata()))
    assert np.asarray(means.get_ydata()) == pytest.approx(runs.groupby("epsilon").mean().to_numpy())
    assert np.asarray(means.get_xdata()) == pytest.approx(np.log10(made_faults.SIZES), abs=0.2)
    crosses = [text.get_text() for text in l2.texts]
    assert crosses == ["\N{MULTIPLICATION X}2/4"]
    assert not linf.texts
    assert "not finite, or beyond 1e100 (2)." in drawn["adversarial"].caption
    assert len(dots_of(l2, 2)) == 4 * len(made_faults.SIZES) - 2


def test_a_single_run_shows_its_draws(tmp_path: Path) -> None:
    found = left(tmp_path, tables.ADVERSARIAL_TOKENS, made_faults.tokens(draws=3))
    curves = curves_of(found.tables[tables.ADVERSARIAL_TOKENS].assign(panel=""), "changed")
    assert {attack: len(by_size[4]) for attack, by_size in curves.items()} == {"gradient": 1, "random": 3, "characters": 3}
    (ax,) = panels(plates_of(found, TOPICS)["adversarial_tokens"]).values()
    assert len(dots_of(ax, 0)) == 15  # random tokens come first in every figure
    assert len(dots_of(ax, 1)) == 5


def test_attacks_without_any_finite_loss_and_of_size_zero_are_drawn(tmp_path: Path) -> None:
    rows = [row | {"log_perplexity_ratio": "nan"} for row in made_faults.adversarial(sizes=(0.0, 0.1), norms=("l2",))]
    (ax,) = panels(plates_of(left(tmp_path, tables.ADVERSARIAL, rows), TOPICS)["adversarial"]).values()
    assert sorted(text.get_text()[1:] for text in ax.texts) == ["1/1"] * 4 + ["3/3"] * 2
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "0.1"]


def test_without_tables_there_is_nothing(tmp_path: Path) -> None:
    made.record(tmp_path, "bit_search")
    found = section(tmp_path)
    assert not plates_of(found, TOPICS)
    assert not tables_of(found, tmp_path, TOPICS)
    assert not list(tmp_path.glob("*.csv"))


def test_runs_without_a_table_are_named_and_broken_lines_counted(tmp_path: Path) -> None:
    made.record(tmp_path, "bit_search", seed=99)
    rows = made_faults.tokens()
    found = left(tmp_path, tables.ADVERSARIAL_TOKENS, [*rows, rows[0] | {"changed": "many"}, rows[1]])
    assert (
        "1 of 2 runs are shown; not shown: 1 without adversarial_tokens.csv"
        in plates_of(found, TOPICS)["adversarial_tokens"].caption
    )
    faults = " ".join(found.cautions)
    assert "left out 1 of 37 lines, with a word where a number belongs" in faults
    assert "left out 1 of 37 lines, there twice" in faults


def t_half(values: Any) -> float:
    return float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))


def test_the_table_of_bits_is_that_of_a_loop(bits: Section, written: tuple[Path, dict[str, Table]]) -> None:
    lines = bits.tables[tables.BIT_SENSITIVITY]
    rows = {(row["choice"], row["bit_class"], row["bit"]): row for row in bit_rows(lines)}
    assert len(rows) == 3 * (3 + 32)
    row = rows["magnitude", "exponent", None]
    costly, broken, medians, worst = [], [], [], -math.inf
    for run in lines["run_id"].unique():
        lost = [
            float(line["log_perplexity_ratio"]) for _, line in lines.iterrows()
            if (line["run_id"], line["choice"], line["bit_class"]) == (run, "magnitude", "exponent")
        ]  # fmt: skip
        costly.append(sum(x > COSTLY for x in lost) / len(lost))
        broken.append(sum(math.isinf(x) for x in lost) / len(lost))
        medians.append((sorted(lost)[95] + sorted(lost)[96]) / 2)
        worst = max([worst, *(x for x in lost if math.isfinite(x))])
    assert (row["runs"], row["flips"]) == (3, 3 * 24 * 8)
    assert row["worst"] == worst
    for name, values in (("costly", costly), ("not_finite", broken), ("median", medians)):
        half = t_half(values)
        expected = [np.mean(values), np.mean(values) - half, np.mean(values) + half]
        assert [row[name], row[f"{name}_low"], row[f"{name}_high"]] == pytest.approx(expected), name
    assert row["out_of_range"] == pytest.approx(1 / 8)
    assert rows["random", "exponent", 30]["out_of_range"] == 1
    folder, shown = written
    file = pd.read_csv(folder / shown["What a flipped bit costs"].file)
    assert len(file) == len(rows)
    assert [cells[:4] for cells in shown["What a flipped bit costs"].rows[:3]] == [
        ["fp32", "random scores", "sign", "72"],
        ["fp32", "random scores", "exponent", "576"],
        ["fp32", "random scores", "mantissa", "1,656"],
    ]


def test_a_median_flip_without_a_finite_loss_is_said() -> None:
    lines = pd.DataFrame({
        "run_id": ["a", "a", "a", "b"], "format": "fp16", "choice": "random", "bit_class": "exponent", "bit": 14.0,
        "in_range": False, "log_perplexity_ratio": [np.inf, np.inf, 1, 2],
    })  # fmt: skip
    row = bit_rows(lines)[0]
    assert (row["median"], row["median_n"], row["median_not_finite"]) == (2, 2, 1)
    assert row["not_finite"] == pytest.approx((2 / 3 + 0) / 2)
    assert row["costly"] == 1


def ends(runs: dict[str, dict[str, list[tuple[int, bool]]]]) -> pd.DataFrame:
    """Run -> arm -> flips and whether they made it collapse."""
    return pd.DataFrame([
        {"run_id": run, "constraint": "in_range", "arm": arm, "draw": i, "flips": float(flips), "collapsed": done}
        for run, arms in runs.items() for arm, draws in arms.items() for i, (flips, done) in enumerate(draws)
    ])  # fmt: skip


def test_factors_are_geometric_means_of_runs_and_know_when_they_are_bounds() -> None:
    lines = ends({
        "a": {"search": [(4, True)], "random": [(40, True), (20, True), (90, True)]},
        "b": {"search": [(2, True)], "random": [(100, False), (80, True), (100, False)]},
    })  # fmt: skip
    search, random = collapse_rows(lines)
    assert "factor" not in search
    ratios = np.log([40 / 4, 100 / 2])
    half = t_half(ratios)
    expected = np.exp([ratios.mean(), ratios.mean() - half, ratios.mean() + half])
    assert [random["factor"], random["factor_low"], random["factor_high"]] == pytest.approx(list(expected))
    assert (random["factor_at_least"], random["factor_at_most"], random["factor_n"]) == (1, 0, 2)
    assert (random["least"], random["median"], random["most"]) == (20, 85, 100)
    assert (random["not_collapsed"], random["median_not_collapsed"]) == (2, False)


def test_the_median_of_draws_is_a_bound_where_half_of_them_did_not_collapse() -> None:
    for draws, late in (
        ([(10, True), (50, False)], True),
        ([(10, True), (20, True), (50, False)], False),
        ([(10, True), (50, False), (50, False)], True),
    ):
        rows = collapse_rows(ends({"a": {"search": [(5, False)], "random": draws}}))
        assert rows[1]["median_not_collapsed"] == late
        assert rows[1]["factor_at_least"] == late
        assert (rows[0]["median_not_collapsed"], rows[1]["factor_at_most"]) == (True, 1)


def test_the_table_of_collapses_says_bounds(written: tuple[Path, dict[str, Table]]) -> None:
    rows = {tuple(cells[:2]): cells[2:] for cells in written[1]["Flips to collapse"].rows}
    assert next(iter(rows)) == ("values stay in range", "gradient search")
    flips, late, factor = rows["values stay in range", "random bits"]
    assert flips.startswith("≥ 2,000 [")
    assert re.fullmatch(r"[5-9] of 9", late)
    assert factor.startswith("≥ ")
    assert rows["any value", "gradient search"][1:] == ["0 of 3", ""]
    assert not rows["any value", "largest weights"][2].startswith(("≥", "≤"))


def test_attacks_are_compared_with_the_control_of_the_same_run(inputs: Section) -> None:
    lines = inputs.tables[tables.ADVERSARIAL]
    rows = {
        (row["attack"], row["norm"], row["epsilon"]): row for row in attack_rows(lines, ["norm", "unit", "epsilon"], ATTACKS)
    }
    row = rows["fgsm", "linf", 0.1]
    own = lines[(lines["norm"] == "linf") & (lines["epsilon"] == 0.1)]
    for column, name, over in (
        ("log_perplexity_ratio", "nats_lost", "over_random"), ("argmax_changed", "argmax_changed", "argmax_over_random"),
    ):  # fmt: skip
        lost, differences = [], []
        for run in own["run_id"].unique():
            mine = own[own["run_id"] == run]
            control = mine.loc[mine["attack"] == "random", column].sum() / 3
            lost.append(mine.loc[mine["attack"] == "fgsm", column].iloc[0])
            differences.append(lost[-1] - control)
        assert [row[name], row[f"{name}_low"]] == pytest.approx([np.mean(lost), np.mean(lost) - t_half(lost)])
        assert [row[over], row[f"{over}_high"]] == pytest.approx(
            [np.mean(differences), np.mean(differences) + t_half(differences)]
        )
    assert "over_random" not in rows["random", "linf", 0.1]
    broken = rows["pgd", "l2", made_faults.SIZES[-1]]
    assert (broken["nats_lost_n"], broken["nats_lost_not_finite"], broken["over_random_not_finite"]) == (4, 2, 2)
    assert math.isfinite(broken["over_random"])


def test_a_control_that_is_not_finite_leaves_no_difference_and_another_order_changes_nothing() -> None:
    lines = pd.DataFrame({
        "run_id": ["a", "b", "a", "b"], "attack": ["gradient", "gradient", "random", "random"], "changed": 2.0,
        "log_perplexity_ratio": [3, np.inf, 1, np.inf], "argmax_changed": [0.5, np.nan, 0.25, 0.25],
    })  # fmt: skip
    control, row = attack_rows(lines, ["changed"], TOKENS)
    assert (control["attack"], control["nats_lost"], control["nats_lost_not_finite"]) == ("random", 1, 1)
    assert (row["over_random"], row["over_random_n"], row["over_random_not_finite"]) == (2, 2, 1)
    assert (row["argmax_over_random"], row["argmax_over_random_n"]) == (0.25, 1)
    again = attack_rows(lines.iloc[::-1], ["changed"], TOKENS)
    pd.testing.assert_frame_equal(pd.DataFrame(again), pd.DataFrame([control, row]))
    without = attack_rows(lines.drop(columns="argmax_changed"), ["changed"], TOKENS)
    assert (without[0]["argmax_changed_n"], without[1]["over_random"]) == (0, 2)


def test_tables_are_written_and_shown(written: tuple[Path, dict[str, Table]]) -> None:
    folder, shown = written
    kinds = ("bits", "bit_patterns", "collapse")
    names = [f"bit_search_summary_{kind}.csv" for kind in kinds]
    names += [f"adversarial_summary_{kind}.csv" for kind in ("adversarial", "adversarial_tokens")]
    assert sorted(path.name for path in folder.glob("*.csv")) == sorted(names)
    assert list(shown) == ["What a flipped bit costs", "Flips to collapse", "Changed embeddings", "Changed tokens"]
    for table in shown.values():
        assert (folder / table.file).exists()
        assert all(len(row) == len(table.head) for row in table.rows)
        assert not any("_" in cell for row in table.rows for cell in row)
    rows = shown["Changed embeddings"].rows
    assert [row[:3] for row in rows[:2]] == [
        ["random noise", "L\N{INFINITY}", "0.001 × RMS of embeddings"],
        ["random noise", "L\N{INFINITY}", "0.00316 × RMS of embeddings"],
    ]
    assert rows[-1][-1].endswith(", 2 not finite")
    assert len(pd.read_csv(folder / "adversarial_summary_adversarial.csv")) == len(rows) == 36


@pytest.mark.parametrize("name", ["bit_search", "adversarial"])
def test_the_claims_are_about_columns_that_figures_can_name(name: str) -> None:
    (design,) = load_designs(SHIPPED / f"{name}.yaml")
    assert design.experiment == name
    for outcome in design.outcomes:
        assert outcome_of(outcome).unit != "as recorded"
    assert {claim.outcome for claim in design.claims} <= set(design.outcomes)


def test_a_report_judges_the_claims(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, factor in ((43, 8.0), (44, 11.0), (45, 9.0), (46, 12.0), (47, 10.0)):
        summary = {"log10_factor_in_range_random": math.log10(factor)}
        summary |= {"log10_factor_in_range_random_exponent": (seed - 45) / 10}
        made.record(tmp_path, "bit_search", seed=seed, summary=summary)
        summary = {"fgsm_over_random_linf": factor / 10, "pgd_over_fgsm_linf": 0.001 * factor}
        made.table(
            made.record(tmp_path, "adversarial", seed=seed, summary=summary),
            tables.ADVERSARIAL_TOKENS,
            made_faults.tokens(seed),
        )
    assert report([str(tmp_path)]) == 0
    page = (tmp_path / "report/report.md").read_text()
    said = {line.split("|")[1].strip().split(" (")[0]: line for line in page.splitlines() if "| **" in line}
    in_range, more = "With weights that stay in range", "take more flips than the search to break a subject."
    assert {key: re.search(r"\*\*(.+?)\*\*", line)[1] for key, line in said.items()} == {  # type: ignore[index]
        f"{in_range}, random bits {more}": "supported",
        f"{in_range}, random exponent bits {more}": "inconclusive",
        f"{in_range}, bits of the largest weights {more}": "not tested",
        "A step along the sign of the gradient": "supported",
        "Projected gradient ascent": "contradicted",
    }
    assert "### Changed tokens, tiny-1m" in page
    assert (tmp_path / "report/adversarial/adversarial_tokens.png").exists()
    capsys.readouterr()
