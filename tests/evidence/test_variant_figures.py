"""Pruning, benchmarks and variants in a report: figures hold what the runs say, tables too, and answers their every letter."""

import csv
import math
import re
from html import unescape
from pathlib import Path
from typing import Any

import made
import made_variants
import numpy as np
import pandas as pd
import pytest
from helpers import plates_of, section, tables_of, texts
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from lit_degrade.evidence.claims.claims import shipped_designs
from lit_degrade.evidence.claims.sections import Section
from lit_degrade.evidence.drawing.panels import Plate
from lit_degrade.evidence.drawing.tables import Table
from lit_degrade.evidence.pages.chapters import Chapter, Report
from lit_degrade.evidence.pages.markdown import table_lines
from lit_degrade.evidence.pages.page import render
from lit_degrade.evidence.pages.sections import make_sections
from lit_degrade.evidence.reading.runs import read_runs
from lit_degrade.evidence.topics import benchmarks, pruning, variants
from lit_degrade.evidence.topics.pruning.rows import way_of
from lit_degrade.evidence.topics.variants.rows import ordered_variants
from lit_degrade.evidence.topics.variants.tables import ANSWER, shown
from lit_degrade.records import tables

DAMAGE = "log_perplexity_ratio"
NO_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)
"""Each example is a report."""
MARKUP = st.text(st.sampled_from("ab _*`|<>&\\[](){}~!#\"'$:;,.\n\r\t-é\u2028"), min_size=1, max_size=60)


TOPICS = (pruning.TOPIC, benchmarks.TOPIC, variants.TOPIC)


def written(found: Section, folder: Path) -> dict[str, Table]:
    return {table.title: table for table in tables_of(found, folder, TOPICS)}


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Section:
    results = tmp_path_factory.mktemp("pruned")
    made_variants.prunings(results, ("tiny-250k", "tiny-1m"))
    return section(results)


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Section:
    results = tmp_path_factory.mktemp("compared")
    for seed in (43, 44, 45):
        made_variants.compared(results, seed)
    return section(results)


@pytest.fixture(scope="module")
def pruned_plates(pruned: Section) -> dict[str, Plate]:
    return plates_of(pruned, TOPICS)


@pytest.fixture(scope="module")
def compared_plates(compared: Section) -> dict[str, Plate]:
    return plates_of(compared, TOPICS)


def titled(figure: Figure) -> dict[str, Axes]:
    return {ax.get_title(loc="left"): ax for ax in figure.axes if ax.get_title(loc="left")}


def crosses(figure: Figure) -> list[str]:
    return [text for text in texts(figure) if text.startswith("\N{MULTIPLICATION X}")]


def cells_of(figure: Figure, title: str) -> dict[tuple[float, float], str]:
    return {text.get_position(): text.get_text() for text in titled(figure)[title].texts}


def means_in(ax: Axes) -> set[float]:
    """Values of the ticks of means in a panel."""
    ticks = [line for line in ax.lines if line.get_marker() == "_" and line.get_markersize() == 9]
    return {round(float(np.asarray(line.get_ydata())[0]), 9) for line in ticks}


def test_pruning_figures_hold_the_means_of_the_runs(pruned: Section, pruned_plates: dict[str, Plate]) -> None:
    figure = pruned_plates["pruning"].figure
    assert list(titled(figure)) == ["tiny-250k", "tiny-1m"]
    for subject, ax in titled(figure).items():
        own = pruned.rows[pruned.rows["subject"] == subject]
        slow = {round(float(x), 9) for x in own.groupby(["prune.method", "prune.sparsity"])[DAMAGE].mean()}
        assert means_in(ax) == slow
        joined = [line for line in ax.lines if len(np.asarray(line.get_xdata())) == 3]
        assert len(joined) == 3
        for line in joined:
            assert np.allclose(np.asarray(line.get_xdata()), [0.2496, 0.4996, 0.7496], atol=0.06)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["magnitude", "SparseGPT", "Wanda"]


def test_identical_runs_count_once_and_every_run_is_counted(pruned_plates: dict[str, Plate]) -> None:
    plate = pruned_plates["pruning"]
    assert "(n = 1 to 3)" in plate.caption  # magnitude is the same under every seed
    assert plate.caption.endswith("54 of 54 runs are shown.")
    assert not crosses(plate.figure)
    assert "Crosses" not in plate.caption


@pytest.mark.parametrize(("lost", "state"), [(math.inf, "done"), (math.nan, "done"), (1.0, "diverged")])
def test_what_is_not_finite_is_crossed_and_in_no_mean(tmp_path: Path, lost: float, state: str) -> None:
    for seed, value in ((43, 0.25), (44, 0.75)):
        made_variants.pruned(tmp_path, "wanda", 0.5, seed, lost=value)
    made_variants.pruned(tmp_path, "wanda", 0.5, 45, lost=lost, state=state)
    made_variants.pruned(tmp_path, "wanda", 0.5, 46, lost=9.0, state="failed")
    found = section(tmp_path)
    plate = plates_of(found, TOPICS)["pruning"]
    assert crosses(plate.figure) == ["\N{MULTIPLICATION X}1/3"]
    assert means_in(plate.figure.axes[0]) == {0.5}
    assert "Crosses at the top, with their share: diverged, or not finite (1)." in plate.caption
    assert "3 of 4 runs are shown; not shown: 1 failed (" in plate.caption
    (row,) = written(found, tmp_path)["Pruning, tiny-1m"].rows
    half = stats.t.ppf(0.975, 1) * np.std([0.25, 0.75], ddof=1) / math.sqrt(2)
    assert row[4] == f"0.5 [{0.5 - half:.3g}, {0.5 + half:.3g}], 1 not finite"


def test_ways_are_told_apart_by_pattern_and_scope(tmp_path: Path) -> None:
    for pattern in ("", "2:4"):
        made_variants.pruned(tmp_path, "sparsegpt", 0.5, prune={"pattern": pattern})
    found = section(tmp_path)
    assert [way_of(group) for group in found.groups] == ["SparseGPT", "SparseGPT, 2:4"]
    assert list(titled(plates_of(found, TOPICS)["pruning_map"].figure)) == ["SparseGPT", "SparseGPT, 2:4"]


def test_maps_hold_the_errors_of_one_sparsity(pruned: Section, pruned_plates: dict[str, Plate]) -> None:
    found = {name: plate for name, plate in pruned_plates.items() if name.startswith("pruning_map")}
    assert list(found) == ["pruning_map", "pruning_map_2"]
    plate = found["pruning_map_2"]
    assert plate.figure.get_suptitle() == "tiny-1m"
    assert "at a sparsity of 0.5, by method" in plate.caption
    assert "18 of 54 runs are shown; not shown: 36 of another sparsity" in plate.caption
    lines = pruned.tables[tables.PRUNING].merge(pruned.rows[["run_id", "subject", "prune.sparsity"]], on="run_id")
    own = lines[(lines["subject"] == "tiny-1m") & (lines["prune.sparsity"] == 0.5) & (lines["method"] == "wanda")]
    cells = cells_of(plate.figure, "Wanda")
    rows = [text.get_text() for text in titled(plate.figure)["Wanda"].get_yticklabels()]
    assert "embed" not in rows  # was not measured
    for depth in range(4):
        for name in ("attn_q", "mlp_down"):
            mean = own.loc[(own["component"] == name) & (own["depth"] == depth), "reconstruction_error"].mean()
            assert cells[depth, rows.index(name.replace("_", " "))] == f"{mean:.2g}"


def test_errors_that_are_not_finite_are_crossed(tmp_path: Path) -> None:
    folder = made_variants.pruned(tmp_path, "wanda", 0.5)
    rows = made_variants.pruning("wanda", 0.5)
    rows[1]["reconstruction_error"] = "inf"
    made.table(folder, tables.PRUNING, rows)
    (ax,) = titled(plates_of(section(tmp_path), TOPICS)["pruning_map"].figure).values()
    (cross,) = [line for line in ax.lines if line.get_marker() == "x" and line.get_color() == "black"]
    assert np.asarray(cross.get_xydata()).tolist() == [[0, 0]]


def test_pruning_tables_equal_slow_means(pruned: Section, tmp_path: Path) -> None:
    told = written(pruned, tmp_path)
    assert [name for name in told if name.startswith("Pruning")] == ["Pruning, tiny-250k", "Pruning, tiny-1m"]
    file = pd.read_csv(tmp_path / told["Pruning, tiny-1m"].file)
    assert len(file) == 18
    for row in file.to_dict("records"):
        own = pruned.rows[(pruned.rows["subject"] == row["subject"]) & (pruned.rows["prune.method"] == row["prune.method"])]
        own = own[own["prune.sparsity"] == row["asked"]]
        assert row[DAMAGE] == pytest.approx(own[DAMAGE].mean())
        assert row["perplexity_post"] == pytest.approx(own["perplexity_post"].mean())
        assert row["sparsity_achieved"] == pytest.approx(row["asked"] - 0.0004)
        assert row[f"{DAMAGE}_n"] == (1 if row["prune.method"] == "magnitude" else 3)
        if row["prune.method"] == "wanda":
            half = stats.t.ppf(0.975, 2) * own[DAMAGE].std() / math.sqrt(3)
            assert row[f"{DAMAGE}_high"] == pytest.approx(own[DAMAGE].mean() + half)
    shown_rows = told["Pruning, tiny-1m"].rows
    assert {row[0] for row in shown_rows} == {"magnitude", "SparseGPT", "Wanda"}


def test_errors_of_components_are_weighted_by_weights_then_over_runs(tmp_path: Path) -> None:
    rows = [
        {"parameter": f"p{i}", "component": "mlp_up", "depth": i, "method": "wanda", "scope": "", "pattern": "",
         "structure": "", "weights": weights, "zeros": 0, "sparsity": 0, "norm": 1, "norm_of_change": 1,
         "reconstruction_error": error}
        for i, (weights, error) in enumerate([(1, 4.0), (3, 8.0), (5, "")])
    ]  # fmt: skip
    made.table(made_variants.pruned(tmp_path, "wanda", 0.5, 43), tables.PRUNING, rows)
    made.table(made_variants.pruned(tmp_path, "wanda", 0.5, 44), tables.PRUNING, [rows[0] | {"reconstruction_error": 1.0}])
    table = written(section(tmp_path), tmp_path)["Reconstruction errors, tiny-1m"]
    assert (table.head, table.rows) == (["method", "asked [share]", "mlp up"], [["Wanda", "0.5", "4"]])  # of 7 and 1


def test_bars_of_variants_hold_means_and_crosses(compared: Section, compared_plates: dict[str, Plate]) -> None:
    plate = compared_plates["variants"]
    (ax,) = [ax for ax in plate.figure.axes if ax.get_xlabel()]
    names = [text.get_text() for text in ax.get_yticklabels()]
    kinds = ordered_variants(compared.tables[tables.VARIANTS])
    assert names == list(kinds)
    assert list(dict.fromkeys(kinds.values())) == ["intact", "pruned", "perturbed", "attacked"]
    assert len([a for a, b in zip(list(kinds.values())[:-1], list(kinds.values())[1:], strict=True) if a != b]) == 3
    lines = compared.tables[tables.VARIANTS]
    bars = {names[round(bar.get_y() + bar.get_height() / 2)]: bar.get_width() for bar in ax.patches}
    for name in set(names) - {"bit flips 1e-6"}:
        assert bars[name] == pytest.approx(lines.loc[lines["variant"] == name, DAMAGE].mean())
    assert crosses(plate.figure) == ["\N{MULTIPLICATION X}"]  # identical runs count once
    assert "not finite (3). 3 of 3 runs are shown." in plate.caption


def test_variants_of_a_kind_stay_together_in_their_order() -> None:
    lines = pd.DataFrame({"variant": list("abcda"), "kind": ["intact", "pruned", "attacked", "pruned", "intact"]})
    assert list(ordered_variants(lines)) == ["a", "b", "d", "c"]


def test_damage_per_change_has_every_variant_with_a_norm(compared: Section, compared_plates: dict[str, Plate]) -> None:
    plate = compared_plates["variants_change"]
    (ax,) = [ax for ax in plate.figure.axes if ax.get_xlabel()]
    lines = compared.tables[tables.VARIANTS]
    points = [line for line in ax.lines if len(np.asarray(line.get_xdata())) == 1]
    places = {tuple(np.asarray(line.get_xydata())[0].tolist()): line.get_marker() for line in points}
    known = lines[lines["relative_norm"] > 0]
    assert len(places) == known["variant"].nunique() == 9
    for name, own in known.groupby("variant"):
        mean = own[DAMAGE].mean()
        if mean > 0 and math.isfinite(mean):
            place = [at for at in places if at == (pytest.approx(own["relative_norm"].mean()), pytest.approx(mean))]
            assert len(place) == 1, name
    assert sorted(marker for marker in places.values() if marker in "xv") == ["v", "x"]
    ((x, y),) = [place for place, marker in places.items() if marker == "x"]
    assert x > known.loc[known["relative_norm"] < 100, "relative_norm"].max()
    assert y > known.loc[np.isfinite(known[DAMAGE]), DAMAGE].max()
    assert {"over\n100", "not finite", "0 or less"} <= {
        text.get_text() for text in [*ax.get_xticklabels(), *ax.get_yticklabels()]
    }
    assert {text.get_text() for text in ax.texts} == set(known["variant"])


def test_benchmarks_hold_values_errors_and_chance(compared: Section, compared_plates: dict[str, Plate], tmp_path: Path) -> None:
    plate = compared_plates["benchmarks"]
    lines = compared.tables[tables.BENCHMARKS]
    panels = [ax for ax in plate.figure.axes if ax.get_xlabel()]
    assert [ax.get_title(loc="left") for ax in panels] == [
        "HellaSwag (own)", "HellaSwag (lm-eval)", "HellaSwag (own)", "WikiText (own)",
    ]  # fmt: skip
    own = lines[(lines["metric"] == "acc") & (lines["source"] == "own")]
    names = list(dict.fromkeys(lines["variant"]))
    for name, bar in zip(names, panels[0].patches, strict=True):
        assert bar.get_width() == pytest.approx(100 * own.loc[own["variant"] == name, "value"].mean())
    wide = [np.asarray(line.get_xdata(), dtype=float) for line in panels[0].lines if line.get_linewidth() == 4.5]
    errors = own.groupby("variant", sort=False)["standard_error"].mean()
    assert [np.ptp(ends) / 2 for ends in wide] == pytest.approx(list(100 * errors))
    dashed = [[line for line in ax.lines if line.get_linestyle() == "--"] for ax in panels]
    assert [[float(np.asarray(line.get_xdata())[0]) for line in found] for found in dashed] == [[25], [25], [25], []]
    assert "Dashed: chance (HellaSwag 25 %)." in plate.caption
    table = written(compared, tmp_path)["Benchmarks, tiny-1m"]
    values = own.loc[own["variant"] == "as given", "value"]
    assert table.rows[0][3].startswith(f"{100 * values.mean():.3g} [")
    assert table.rows[0][3].endswith(f"] ({100 * errors['as given']:.3g})")
    file = pd.read_csv(tmp_path / table.file)
    assert len(file) == len(names) * 4
    assert file["value"].iloc[0] == pytest.approx(values.mean())


def test_benchmarks_stand_against_the_dose_where_it_varies(tmp_path: Path) -> None:
    rows = made_variants.benchmarks(["gauss_attn"], levels=[0.1, 0.5])
    start = [row | {"variant": "intact", "level": "", "target": ""} for row in rows[:4]]
    rows[-1]["value"] = "inf"
    made.table(made.record(tmp_path, "benchmarks"), tables.BENCHMARKS, [*start, *rows])
    found = plates_of(section(tmp_path), TOPICS)
    assert list(found) == ["benchmarks_gauss_attn"]  # the intact subject is a line in it
    plate = found["benchmarks_gauss_attn"]
    ax = plate.figure.axes[0]
    mine = [row for row in rows if row["metric"] == "acc" and row["source"] == "own"]
    slow = {round(100 * float(np.mean([row["value"] for row in mine if row["level"] == x])), 9) for x in (0.1, 0.5)}
    assert means_in(ax) == slow
    dotted = [line for line in ax.lines if line.get_linestyle() == ":"]
    assert [float(np.asarray(line.get_ydata())[0]) for line in dotted] == [pytest.approx(100 * start[0]["value"])]
    assert crosses(plate.figure) == ["\N{MULTIPLICATION X}\n1/3"]
    assert "not finite (1). 1 of 1 runs are shown." in plate.caption


def test_standard_errors_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    row = made_variants.benchmarks(["as given"])[0]
    made.table(made.record(tmp_path, "benchmarks"), tables.BENCHMARKS, [row | {"value": 0.5, "standard_error": "nan"}])
    table = written(section(tmp_path), tmp_path)["Benchmarks, tiny-1m"]
    assert table.rows == [["as given", "", "1", "50"]]


def test_the_table_of_variants_equals_slow_means(compared: Section, tmp_path: Path) -> None:
    table = written(compared, tmp_path)["Variants side by side, tiny-1m"]
    lines = compared.tables[tables.VARIANTS]
    file = pd.read_csv(tmp_path / table.file).set_index("variant")
    for name, own in lines.groupby("variant"):
        for measure in ("perplexity", DAMAGE, "bits_per_byte", "token_accuracy", "relative_norm"):
            finite = own.loc[np.isfinite(own[measure]), measure]
            assert file.loc[name, measure] == pytest.approx(finite.mean(), nan_ok=True), (name, measure)
    broken = next(row for row in table.rows if row[0] == "bit flips 1e-6")
    assert broken[3:5] == ["1 not finite", "1 not finite"]
    assert next(row for row in table.rows if row[0] == "fgsm 0.1")[-2:] == ["", ""]


def answers_in(lines: list[str]) -> list[list[str]]:
    """Cells of a Markdown table as a reader sees them."""
    html = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render("\n".join(lines))
    rows = re.findall(r"<tr>\n(.*?)</tr>", html, flags=re.DOTALL)
    return [[unescape(cell) for cell in re.findall(r"<td>(.*?)</td>\n", row, flags=re.DOTALL)] for row in rows[1:]]


@given(answer=MARKUP)
@settings(max_examples=150, deadline=None)
def test_answers_are_said_to_the_letter_in_markdown(answer: str) -> None:
    line = shown(answer)
    assert not set(line) & set("\n\r\t\u2028")
    assert answers_in(table_lines(Table("", "", ["variant", "answer"], [["as given", line]], 0, ""))) == [["as given", line]]


@pytest.mark.slow
@given(answer=st.one_of(MARKUP, st.text(st.characters(exclude_categories=["Cs"]), max_size=80)))
@settings(max_examples=25, deadline=None, phases=NO_SHRINKING, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_answers_survive_files_and_pages(answer: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    results = tmp_path_factory.mktemp("answers")
    rows = [made_variants.variants()[0] | {"answer": answer}, made_variants.variants()[1] | {"answer": "other"}]
    made.table(made.record(results, "comparison"), tables.VARIANTS, rows)
    runs = read_runs([results])
    (found,) = make_sections(runs, [])
    assert not found.cautions
    told = tables_of(found, results, TOPICS)
    with (results / "comparison_summary_answers.csv").open(newline="", encoding="utf-8") as file:
        kept = {row["variant"]: row["answer"] for row in csv.DictReader(file)}
    assert kept.get("as given", "") == answer
    (table,) = [table for table in told if table.title.startswith("Answers")]
    assert table.rows == [["as given", shown(answer)], ["pruned magnitude 0.5", "other"]]
    page = render(Report(runs, [Chapter(found, results, [], [{}], told)], [results], results, None))
    *_, cell = re.findall(r'<td class="n">as given</td><td class="(?:n|long)">(.*?)</td>', page, flags=re.DOTALL)
    assert unescape(cell) == shown(answer)
    assert not set(cell) & set("<>")


def test_long_answers_are_cut_on_pages_alone(tmp_path: Path) -> None:
    long = "word " * 100
    made_variants.compared(tmp_path, answers={"as given": long, "noise 0.05": "a\r\nb\n\x00c"})
    table = written(section(tmp_path), tmp_path)["Answers to one prompt, tiny-1m"]
    answers = dict(table.rows)
    assert answers["as given"] == long[: ANSWER - 1].rstrip() + "…"
    assert answers["noise 0.05"] == "a \N{RETURN SYMBOL} b \N{RETURN SYMBOL} \N{REPLACEMENT CHARACTER}c"
    assert pd.read_csv(tmp_path / table.file)["answer"].iloc[0] == long


def test_the_prompt_stands_above_the_answers(tmp_path: Path) -> None:
    folder = made.record(tmp_path, "comparison", summary={"prompt": "The with\nstatement"})
    made.table(folder, tables.VARIANTS, made_variants.variants())
    table = written(section(tmp_path), tmp_path)["Answers to one prompt, tiny-1m"]
    assert table.rows[0] == ["(the prompt)", "The with \N{RETURN SYMBOL} statement"]
    assert [row[0] for row in table.rows[1:3]] == ["as given", "pruned magnitude 0.5"]


def test_without_answers_there_is_no_such_table(tmp_path: Path) -> None:
    made_variants.compared(tmp_path, answers={})
    told = written(section(tmp_path), tmp_path)
    assert not any(name.startswith("Answers") for name in told)
    assert not list(tmp_path.glob("*_answers.csv"))


def test_figures_have_units_and_plain_words(pruned_plates: dict[str, Plate], compared_plates: dict[str, Plate]) -> None:
    for name, plate in (pruned_plates | compared_plates).items():
        axes = [ax for ax in plate.figure.axes if ax.get_visible()]
        labels = [label for ax in axes for label in (ax.get_xlabel(), ax.get_ylabel()) if label]
        labels += [text for text in (plate.figure.get_supxlabel(), plate.figure.get_supylabel()) if text]
        assert labels, name
        assert all(re.search(r"\[.+\]", label) for label in labels), (name, labels)
        assert not any("_" in text for text in texts(plate.figure)), name
        assert plate.figure.get_size_inches()[1] < 9


def test_runs_without_tables_have_nothing(tmp_path: Path) -> None:
    made.record(tmp_path, "comparison")
    found = section(tmp_path)
    assert not plates_of(found, TOPICS)
    assert not tables_of(found, tmp_path, TOPICS)
    assert not list(tmp_path.glob("*.csv"))


def judged(results: Path, **costs: Any) -> dict[str, Any]:
    """Verdicts of the shipped claims, where each method costs this much, more or less by seed; magnitude the same."""
    for method, cost in costs.items():
        for seed in range(43, 48):
            jitter = 0.0 if method == "magnitude" else 0.004 * math.sin(seed * len(method))
            made_variants.pruned(results, method, 0.5, seed, lost=cost + jitter)
    (found,) = make_sections(read_runs([results]), shipped_designs())
    return {verdict.claim.name: verdict for verdict in found.verdicts}


def test_claims_about_pruning_are_decided_unless_a_side_is_one_run(tmp_path: Path) -> None:
    found = judged(tmp_path, magnitude=0.9, wanda=0.3, sparsegpt=0.2)
    assert found["sparsegpt_costs_less_than_wanda"].answer == "supported"
    for name in ("wanda_costs_less_than_magnitude", "sparsegpt_costs_less_than_magnitude"):
        assert found[name].answer == "inconclusive"
        assert found[name].estimate < -0.5
        assert "all 5 runs of magnitude, prune.sparsity 0.5 have the same outcome" in found[name].reasons[0]
        assert found[name].reasons[-1].endswith("otherwise this would read 'supported'")
