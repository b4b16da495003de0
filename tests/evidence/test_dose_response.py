"""Doses and exchange rates: every repetition counts once, what diverged is seen, what is broken is named."""

import re
from pathlib import Path
from typing import Any

import made
import numpy as np
import pandas as pd
import pytest
from helpers import Page, plates, section, texts
from matplotlib.figure import Figure
from scipy import stats

from lit_degrade.cli import main
from lit_degrade.evidence.reading.estimates import estimate, observations
from lit_degrade.evidence.reading.variants import by_level, level_words, variants_of
from lit_degrade.evidence.reading.words import TEXT_MEASURES
from lit_degrade.evidence.topics.doses.rows import dose_rows
from lit_degrade.evidence.topics.doses.tables import dose_tables
from lit_degrade.evidence.topics.exchange_rates.rows import rates_of
from lit_degrade.evidence.topics.exchange_rates.tables import rate_tables
from lit_degrade.perturbations.catalog import METHODS
from lit_degrade.records.tables import DAMAGE, DOSES, EXCHANGE_RATES

TARGETS = ["attn", "mlp", "embed", "all"]


def dosed(results: Path, rows: list[dict[str, Any]] | None = None, **settings: Any) -> Path:
    """A run that left doses."""
    folder = made.record(results, "perturb", summary={"nats_per_token_pre": 3.0}, **settings)
    made.table(folder, DOSES, made.doses() if rows is None else rows)
    return folder


def exchanged(results: Path, rows: list[dict[str, Any]] | None = None, **settings: Any) -> Path:
    """A run that left exchange rates."""
    folder = made.record(results, "exchange", **settings)
    made.table(folder, EXCHANGE_RATES, made.exchange_rates(list(METHODS), TARGETS) if rows is None else rows)
    return folder


def points(figure: Figure) -> list[int]:
    """Points of observations in each panel."""
    dots = [
        [item for item in ax.collections if len(item.get_offsets()) and item.get_linewidth()[0] == 0.9] for ax in figure.axes
    ]
    return [
        sum(len(item.get_offsets()) for item in found) for found, ax in zip(dots, figure.axes, strict=True) if ax.get_visible()
    ]


def crosses(figure: Figure) -> list[str]:
    return [text.get_text().splitlines()[1] for ax in figure.axes for text in ax.texts if text.get_text().startswith("✕")]


def frame(values: list[float], runs: list[str], random: bool) -> pd.DataFrame:
    return pd.DataFrame({"x": values, "run_id": runs, "random": random})


def test_random_repetitions_count_each_and_identical_ones_once() -> None:
    runs = ["a", "a", "b", "b"]
    assert list(observations(frame([1.0, 2, 3, 4], runs, True), "x")) == [1, 2, 3, 4]
    assert list(observations(frame([1.0, 1, 3, 3], runs, False), "x")) == [1, 3]
    assert list(observations(frame([0.1, 0.1, 0.1, 0.1], runs, False), "x")) == [0.1]
    assert list(observations(frame([np.inf] * 4, runs, False), "x")) == [np.inf]
    assert list(observations(frame([1.0, np.nan, 3, np.inf], runs, True), "x")) == [1, 3, np.inf]
    assert not len(observations(frame([1.0], ["a"], True), "y"))


def test_an_estimate_is_students_over_what_is_finite_and_counts_the_rest() -> None:
    values = np.array([1.0, 2.0, 4.0, np.inf])
    found = estimate(values)
    half = stats.t.ppf(0.975, 2) * values[:3].std(ddof=1) / np.sqrt(3)
    assert (found.n, found.diverged, found.mean) == (4, 1, pytest.approx(7 / 3))
    assert (found.interval.low, found.interval.high) == (pytest.approx(7 / 3 - half), pytest.approx(7 / 3 + half))
    assert np.isnan(estimate(np.array([np.inf])).mean)


def test_damage_grows_along_the_levels(tmp_path: Path) -> None:
    dosed(tmp_path)
    found = section(tmp_path).table(DOSES)
    for variant in variants_of(found):
        levels = [level for level, _ in by_level(found, variant)]
        assert levels == list(made.VARIANTS[variant.name][2])


def test_rows_of_a_summary_are_over_repetitions_and_seeds(tmp_path: Path) -> None:
    for seed in (43, 44):
        dosed(tmp_path, made.doses(["gauss_attn", "quant_attn"], 3, seed), seed=seed)
    found = section(tmp_path)
    table = pd.DataFrame(dose_rows(found.table(DOSES), found.groups)).set_index(["variant", "level"])
    assert table.loc[("gauss_attn", 0.0), "log_perplexity_ratio_n"] == 1  # both runs give the intact subject
    assert table.loc[("gauss_attn", 1.4), "log_perplexity_ratio_n"] == 6
    assert table.loc[("quant_attn", 4.0), "log_perplexity_ratio_n"] == 2
    values = found.table(DOSES).query("variant == 'gauss_attn' and level == 1.4")["log_perplexity_ratio"]
    assert table.loc[("gauss_attn", 1.4), "log_perplexity_ratio"] == pytest.approx(values.mean())
    assert table.loc[("gauss_attn", 1.4), "dreams_it.distinct_2_n"] == 6


def test_the_overview_shows_every_repetition_of_every_variant(tmp_path: Path) -> None:
    dosed(tmp_path, made.doses(repetitions=4, tasks=()))
    found = plates(tmp_path)
    overview = found["doses"].figure
    once = {
        name: sum(1 if i == 0 or name == "quant_attn" else 4 for i in range(len(levels)))
        for name, (_, _, levels) in made.VARIANTS.items()
    }
    assert points(overview) == list(once.values())
    assert "tiny-1m: loss on held-out text" in found["doses"].caption
    assert "n = 1 to 4 at each level. 1 of 1 runs are shown." in found["doses"].caption
    assert not crosses(overview)


def test_figures_of_doses_have_units_and_plain_words(tmp_path: Path) -> None:
    dosed(tmp_path / "a", made.doses(tasks=()))
    dosed(tmp_path / "b", made.doses(["gauss_attn"]))
    exchanged(tmp_path / "c", made.exchange_rates(list(METHODS), TARGETS[:2]))
    for plate in [plate for name in "abc" for plate in plates(tmp_path / name).values()]:
        labels = [
            label for ax in plate.figure.axes if ax.get_visible() for label in (ax.get_xlabel(), ax.get_ylabel()) if label
        ]
        assert all(re.search(r"\[.+\]", label) for label in labels), labels
        assert not any("_" in text for text in texts(plate.figure)), texts(plate.figure)
        assert plate.figure.get_size_inches()[1] < 9
    assert all(outcome.unit and outcome.scale == (100 if outcome.unit == "%" else 1) for outcome in TEXT_MEASURES.values())


def test_axes_of_levels_run_towards_damage(tmp_path: Path) -> None:
    dosed(tmp_path, made.doses(tasks=()))
    *_, ablation, quantisation, bits = (ax for ax in plates(tmp_path)["doses"].figure.axes)
    assert (ablation.get_xscale(), ablation.get_xlabel()) == ("linear", "zeroed by chance [share of weights]")
    assert quantisation.get_xlim()[0] > quantisation.get_xlim()[1]
    assert [label.get_text() for label in quantisation.get_xticklabels()] == ["4", "16", "64", "256", "1024", "∞"]
    assert quantisation.get_xlabel() == "values per tensor [number; ∞: not quantised]"
    assert (bits.get_xscale(), bits.get_xlabel()) == ("symlog", "stored bits flipped [share of bits]")
    assert bits.get_xlim()[0] < 0 < 1e-4 < bits.get_xlim()[1]


def test_damage_of_very_different_sizes_makes_the_axis_logarithmic(tmp_path: Path) -> None:
    rows = made.doses(["gauss_attn"], tasks=())
    for row in rows:
        row["log_perplexity_ratio"] = 10.0 ** (3 * row["level_index"] - 6) if row["level_index"] else 0.0
    dosed(tmp_path, rows)
    (ax,) = plates(tmp_path)["doses"].figure.axes
    assert ax.get_yscale() == "symlog"
    assert "linear up to" in ax.get_ylabel()


def test_what_is_not_finite_is_a_cross_with_its_share_and_in_no_mean(tmp_path: Path) -> None:
    rows = made.doses(["gauss_attn", "bits_all"], 5)
    worst = [row for row in rows if row["level_index"] == 4]
    for row, value in zip(worst, ["inf", "nan", "", 2.0, 4.0, *["inf"] * 5], strict=True):
        row["log_perplexity_ratio"] = value
        row["dreams_it.distinct_2"] = "" if value == "inf" else value
    dosed(tmp_path, rows)
    found = plates(tmp_path)
    assert crosses(found["doses"].figure) == ["3/5", "5/5"]
    assert "not finite, or beyond 1e100 (gauss attn: 3; bits all: 5)" in found["doses"].caption
    assert crosses(found["doses_gauss_attn_dreams_it"].figure) == ["1/3"]  # nan was measured, empty cells were not
    made_section = section(tmp_path)
    (table,) = dose_tables(made_section.table(DOSES), made_section.groups, "x.csv")
    cells = {(row[0], row[3]): row for row in table.rows}
    assert cells["gauss attn", "1.4"][5].startswith("3 [")
    assert cells["gauss attn", "1.4"][5].endswith(", 3 not finite")
    assert cells["bits all", "1e-05"][5] == "5 not finite"


def test_everything_may_have_diverged(tmp_path: Path) -> None:
    dosed(
        tmp_path,
        [row | {"log_perplexity_ratio": "inf", "dreams_it.distinct_2": "nan"} for row in made.doses(["gauss_attn"], 2)],
    )
    found = plates(tmp_path)
    assert crosses(found["doses"].figure) == ["1/1", "2/2", "2/2", "2/2", "2/2"]
    assert points(found["doses"].figure) == [0]


def test_intervals_do_not_decide_how_far_an_axis_reaches(tmp_path: Path) -> None:
    rows = made.doses(["gauss_attn"], 2, tasks=())
    dosed(tmp_path, [row | {"log_perplexity_ratio": 1.0 + row["repetition"]} for row in rows])
    (ax,) = plates(tmp_path)["doses"].figure.axes
    assert ax.get_ylim()[1] < 2.5


def test_text_measures_go_on_to_a_second_figure_in_order_of_interest(tmp_path: Path) -> None:
    dosed(tmp_path, made.doses(["gauss_attn"]))
    found = plates(tmp_path)
    assert list(found) == ["doses", "doses_gauss_attn_dreams_it", "doses_gauss_attn_dreams_it_2", "doses_gauss_attn_iq_it"]
    labels = [ax.get_ylabel().split("[")[0].strip() for ax in found["doses_gauss_attn_dreams_it"].figure.axes]
    assert labels[:2] == ["different pairs of words", "repeated runs of four words"]
    labels = [ax.get_ylabel() for ax in found["doses_gauss_attn_iq_it"].figure.axes]
    assert labels[:2] == ["correct answers [%]", "correct answers, language [%]"]
    assert found["doses_gauss_attn_dreams_it"].caption.startswith("(1 of 2) Text of dreams it against the dose of gauss attn (")


def test_subjects_have_an_overview_each_and_share_the_panels_of_text(tmp_path: Path) -> None:
    for subject in ("tiny-1m", "tiny-60k"):
        dosed(tmp_path, made.doses(["gauss_attn"]), subject=subject)
    found = plates(tmp_path)
    assert list(found)[:2] == ["doses_tiny-60k", "doses_tiny-1m"]
    assert "1 of 1 runs are shown" in found["doses_tiny-60k"].caption
    (legend,) = found["doses_gauss_attn_iq_it"].figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["tiny-60k", "tiny-1m"]


def test_a_variant_for_each_run_still_makes_one_overview(tmp_path: Path) -> None:
    for name in ("gauss_attn", "gauss_mlp"):
        dosed(tmp_path, made.doses([name], tasks=()), variant=name)
    found = plates(tmp_path)["doses"]
    assert [ax.get_title("left").split(" (")[0] for ax in found.figure.axes] == ["gauss attn", "gauss mlp"]
    assert not found.figure.legends
    assert "2 of 2 runs are shown" in found.caption


def test_exchange_rates_are_geometric_means_of_what_was_reached(tmp_path: Path) -> None:
    rows = made.exchange_rates(["mult_gauss", "uni_quant", "bit_flip"], ["attn", "mlp"], 3)
    rows[0] |= {"reached": False, "level": "", "relative_norm": "", "nats_at_maximum": "inf"}
    exchanged(tmp_path, rows)
    found = section(tmp_path)
    rates = {(rate.method, rate.target): rate for rate in rates_of(found.table(EXCHANGE_RATES), found.groups[0])}
    some, quantised, never = rates["mult_gauss", "attn"], rates["uni_quant", "attn"], rates["bit_flip", "attn"]
    norms = np.array([row["relative_norm"] for row in rows[1:3]])
    assert (some.norm.n, some.missed, some.norm.mean) == (2, 1, pytest.approx(float(np.sqrt(norms.prod()))))
    half = stats.t.ppf(0.975, 1) * np.log(norms).std(ddof=1) / np.sqrt(2)
    assert some.norm.interval.high == pytest.approx(some.norm.mean * np.exp(half))
    assert (quantised.norm.n, quantised.missed) == (1, 0)
    assert (never.norm.n, never.missed, never.nats_at_maximum) == (0, 3, pytest.approx(0.03))
    (table,) = rate_tables(found.table(EXCHANGE_RATES), found.groups, "x.csv")
    assert table.head[:2] == ["target", "multiplicative noise [× each weight]"]
    assert table.rows[0][1].endswith(", 1 of 3 not reached")
    assert table.rows[0][3] == "not reached: 0.03"
    assert [row[0] for row in table.rows] == ["attn", "mlp"]


def test_one_axis_for_all_methods_with_what_was_not_reached_at_its_edge(tmp_path: Path) -> None:
    for subject in ("tiny-1m", "tiny-60k"):
        exchanged(tmp_path, subject=subject)
    plate = plates(tmp_path)["exchange_rates"]
    assert [ax.get_title("left") for ax in plate.figure.axes] == ["tiny-60k", "tiny-1m"]
    for ax in plate.figure.axes:
        assert ax.get_xscale() == "log"
        marks = [line for line in ax.lines if line.get_marker() != "None"]
        hollow = [line for line in marks if line.get_markerfacecolor() == "white"]
        assert (len(marks), len(hollow)) == (len(METHODS) * len(TARGETS), 2)
        edge = {float(np.asarray(line.get_xdata())[0]) for line in hollow}
        assert max(float(np.asarray(line.get_xdata())[0]) for line in marks if line not in hollow) < min(edge)
    assert [text.get_text() for text in plate.figure.axes[0].get_xticklabels()][-1] == "\nnot\nreached"
    (legend,) = plate.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [method.label for method in METHODS.values()]
    assert "(4 of 80 pairs of method and target in all of theirs). 2 of 2 runs are shown." in plate.caption


def test_doses_that_go_in_steps_and_endless_changes_are_marked_as_such(tmp_path: Path) -> None:
    rows = made.exchange_rates(["mult_gauss", "uni_quant", "bit_flip"], ["attn", "mlp"], 2)
    for row in rows:
        if row["method"] == "uni_quant":
            row |= {"level": 2, "nats_lost": 0.386}
        if row["method"] == "bit_flip":
            row |= {
                "level": 1e-7,
                "relative_norm": 6e36 if row["target"] == "attn" else "inf",
                "nats_lost": "inf",
                "reached": True,
            }
    exchanged(tmp_path, rows)
    plate = plates(tmp_path)["exchange_rates"]
    (ax,) = plate.figure.axes
    assert [text.get_text() for text in ax.get_xticklabels()][-1] == "\nover\n100"
    assert ax.get_xlim()[1] < 1
    assert "4 pairs cost something else by more than a fifth" in plate.caption
    assert "Filled markers at the right edge: over 100 times the weights" in plate.caption
    found = section(tmp_path)
    (table,) = rate_tables(found.table(EXCHANGE_RATES), found.groups, "x.csv")
    assert [row[2] for row in table.rows] == ["2 (costs 0.386)"] * 2
    assert [row[3] for row in table.rows] == ["1e-07 [1e-07, 1e-07] (costs more than any number)"] * 2


def test_nothing_may_have_been_reached(tmp_path: Path) -> None:
    exchanged(tmp_path, made.exchange_rates(["bit_flip"], ["attn"], 2))
    assert "(1 of 1 pairs" in plates(tmp_path)["exchange_rates"].caption


HALF = "\n".join(
    ["variant,method,target,level,repetition,random,log_perplexity_ratio", "a,zero,mlp,0.1,0,True,0.5", "a,zero,mlp,0.2,0,Tr"]
)
HEAD = "variant,method,target,level,repetition,random,log_perplexity_ratio\n"
GOOD = "a,zero,mlp,0.1,0,True,0.5\n"
BROKEN: dict[str, tuple[bytes, str, int]] = {
    "half a line": (HALF.encode(), "left out 1 of 2 lines, not whole, as if it was still being written", 1),
    "half a number": ((HEAD + GOOD + "a,zero,mlp,0.2,0,True,0.").encode(), "left out 1 of 2 lines, not whole", 1),
    "a word for a number": (
        (HEAD + GOOD + "a,zero,mlp,0.2,0,True,much\n").encode(),
        "left out 1 of 2 lines, with a word where",
        1,
    ),
    "no level": ((HEAD + GOOD + "a,zero,mlp,,0,True,0.1\n").encode(), "left out 1 of 2 lines, with a word where", 1),
    "no method": ((HEAD + GOOD + "a,,mlp,0.2,0,True,0.1\n").encode(), "left out 1 of 2 lines, with a word where", 1),
    "no truth": ((HEAD + GOOD + "a,zero,mlp,0.2,0,perhaps,0.1\n").encode(), "left out 1 of 2 lines, with a word where", 1),
    "twice": ((HEAD + GOOD + GOOD).encode(), "left out 1 of 2 lines, there twice; the first counts", 1),
    "an infinite level": ((HEAD + GOOD + "a,zero,mlp,inf,0,True,0.1\n").encode(), "left out 1 doses whose level", 1),
    "no values at all": ((HEAD + "a,uni_quant,mlp,0,0,False,0.1\n").encode(), "left out 1 doses whose level", 0),
    "columns": (b"variant,level\na,1\n", "cannot be read and is not shown: columns are missing: method, target, repetition", 0),
    "a column twice": ((HEAD.strip() + ",level\n").encode(), "a column is there twice", 0),
    "empty": (b"", "columns are missing", 0),
    "no line": (HEAD.encode(), "it holds no line", 0),
    "not text": (b"\xff\xfe\x00\x01", "it is not UTF-8", 0),
    "a quote without end": (
        (HEAD + 'a,"zero,mlp,0.1\n').encode(),
        "cannot be read and is not shown: unexpected end of data",
        0,
    ),
    "zeros": ((HEAD + GOOD).encode() + b"\x00" * 20, "doses.csv", 1),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_doses_are_named_and_the_rest_is_shown(case: str, tmp_path: Path) -> None:
    content, expected, left = BROKEN[case]
    folder = dosed(tmp_path)
    (folder / DOSES).write_bytes(content)
    found = section(tmp_path)
    assert len(found.table(DOSES)) == left
    assert any(expected in caution for caution in found.cautions), found.cautions
    assert ("doses" in plates(tmp_path)) == bool(left)


def test_broken_exchange_rates_are_named_and_the_rest_is_shown(tmp_path: Path) -> None:
    rows = made.exchange_rates(["mult_gauss", "ablation"], ["mlp"], 3)
    rows[0]["relative_norm"] = ""
    rows[1]["reached"] = "perhaps"
    rows[2]["cost"] = ""
    folder = exchanged(tmp_path, rows)
    found = section(tmp_path)
    assert len(found.table(EXCHANGE_RATES)) == 3
    assert f"{folder.name}: {EXCHANGE_RATES}: left out 2 of 6 lines, with a word where" in "\n".join(found.cautions)
    assert "left out 1 lines that say they reach the cost, without a dose or norm" in "\n".join(found.cautions)


def test_a_folder_in_place_of_a_table_is_named(tmp_path: Path) -> None:
    folder = dosed(tmp_path)
    (folder / DOSES).unlink()
    (folder / DOSES).mkdir()
    assert "Is a directory" in "\n".join(section(tmp_path).cautions)


def test_runs_without_doses_and_unfinished_runs_are_accounted_for(tmp_path: Path) -> None:
    dosed(tmp_path, made.doses(["gauss_attn"], tasks=()))
    lost = made.record(tmp_path, "perturb", seed=44)
    failed = dosed(tmp_path, made.doses(["gauss_attn"], 1, tasks=()), seed=45, state="failed")
    found = section(tmp_path)
    assert f"{failed.name} is failed: the 5 lines that it left in doses.csv are shown." in found.cautions
    assert f"2 of 3 runs are shown; not shown: 1 without doses in doses.csv ({lost.name})." in plates(tmp_path)["doses"].caption


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on doses and exchange rates, one of each broken."""
    results = tmp_path_factory.mktemp("made") / "results"
    for seed in (43, 44):
        dosed(results, made.doses(["quant_attn"], 2, seed), seed=seed)
    (dosed(results, seed=45) / DOSES).write_text(HALF)
    for subject in ("tiny-60k", "tiny-1m"):
        exchanged(results, made.exchange_rates(list(METHODS)[:3], TARGETS, 2), subject=subject)
    (exchanged(results, seed=50) / EXCHANGE_RATES).write_bytes(b"\xff")
    assert main(["report", str(results), "--html", "--output", str(results.parent / "out")]) == 0
    return results.parent / "out"


def test_a_report_has_tables_and_figures_of_doses(written: Path) -> None:
    text, page = (written / "report.md").read_text(), (written / "report.html").read_text()
    for part in ("Doses, tiny-1m", "Doses that cost 0.1 nats per token, tiny-60k", "quantisation by tensor"):
        assert part in text
        assert part in page
    for part in ("left out 1 of 2 lines, not whole", "exchange_rates.csv cannot be read and is not shown: it is not UTF-8"):
        assert part in text
        assert part in page
    assert "| attn | 0.2" in text
    for name in ("perturb/doses.png", "perturb/doses_quant_attn_iq_it.svg", "exchange/exchange_rates.png"):
        assert (written / name).is_file()
    table = pd.read_csv(written / "perturb" / "perturb_summary_doses.csv")
    assert {"variant", "level", "log_perplexity_ratio_low", "dreams_it.distinct_2"} <= set(table)
    rates = pd.read_csv(written / "exchange" / "exchange_summary_exchange_rates.csv")
    assert set(rates["subject"]) == {"tiny-60k", "tiny-1m"}
    assert rates["n_not_reached"].sum() == 2 * 2 * 2


def test_links_of_the_page_lead_somewhere(written: Path) -> None:
    page = Page((written / "report.html").read_text())
    assert len(page.ids) == len(set(page.ids))
    for link in page.links:
        assert link.startswith("data:") or (link[1:] in page.ids if link.startswith("#") else (written / link).exists()), link


def test_levels_are_written_as_numbers() -> None:
    assert [level_words(level) for level in (float("inf"), 1024, 0.25, 0, 1e-8)] == ["∞", "1024", "0.25", "0", "1e-08"]


def test_sampled_texts_of_one_set_of_weights_count_each() -> None:
    """Loss is the same in every repetition of an intact subject; what it says when sampled is not."""
    table = pd.DataFrame({"run_id": ["a"] * 3, "random": False, DAMAGE: [0.0] * 3, "dreams_it.distinct_2": [0.9, 0.8, 0.7]})
    assert observations(table, DAMAGE).tolist() == [0.0]
    assert observations(table, "dreams_it.distinct_2").tolist() == [0.9, 0.8, 0.7]


@pytest.mark.slow
def test_greedy_and_sampled_text_have_figures_of_their_own(tmp_path: Path) -> None:
    for sampled in (False, True):
        for subject in ("tiny-1m", "tiny-3m"):
            dosed(tmp_path, subject=subject, decoding={"do_sample": sampled})
    names = [name for name in plates(tmp_path) if "dreams_it" in name and not name.endswith("_2")]
    assert len(names) == 2 * len(made.VARIANTS)
    assert sum("not-decoding-do-sample" in name for name in names) == len(made.VARIANTS)
