"""The published eigen-prion records: their own conventions give their own numbers, ours give signed ones."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT, published_run

from lit_degrade.errors import UserError
from lit_degrade.evidence.claims.claims import shipped_designs
from lit_degrade.evidence.claims.sections import Section
from lit_degrade.evidence.numbers import statistics as st
from lit_degrade.evidence.pages.sections import make_sections
from lit_degrade.evidence.reading.published import read_published
from lit_degrade.evidence.topics.outcomes.summaries import panel_tests, summary_rows

DATA = ROOT.parent / "shared/data/neuroentropy"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"the published records are not at {DATA}")


@pytest.fixture(scope="module")
def sections() -> dict[str, Section]:
    return {s.design.experiment: s for s in make_sections(read_published([DATA]), shipped_designs())}


def compare(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], key: str) -> None:
    """Rank columns to 0.01 percentage points, the others to 1e-6 relative; every published column is there."""
    assert [row[key] for row in theirs] == [row[key] for row in ours]
    for ours_row, theirs_row in zip(ours, theirs, strict=True):
        for name, value in theirs_row.items():
            if name.endswith("rank_reduction_pct"):
                assert ours_row[name] == pytest.approx(value, abs=0.01), name
            elif isinstance(value, float):
                assert ours_row[name] == pytest.approx(value, rel=1e-6, abs=1e-9), name
            else:
                assert ours_row[name] == value, name


@needs_data
def test_priority_1_is_reproduced(sections: dict[str, Section]) -> None:
    compare(
        summary_rows(sections["priority1"]),
        json.loads((DATA / "priority1_scaling_law/scaling_law_summary.json").read_text()),
        "model_name",
    )


@needs_data
def test_priority_2_is_reproduced(sections: dict[str, Section]) -> None:
    published = json.loads((DATA / "priority2_placebo/placebo_summary.json").read_text())
    compare(summary_rows(sections["priority2"]), published["summary"], "treatment")
    (tests,) = panel_tests(sections["priority2"]).values()
    assert tests["published"]["anova"]["f_statistic"] == pytest.approx(1.623769, abs=5e-7)
    assert tests["published"]["anova"]["p_value"] == pytest.approx(0.273134, abs=5e-7)
    for pair, p in {
        "eigen_prion vs gaussian_noise": 0.222584,
        "eigen_prion vs random_text": 0.661022,
        "gaussian_noise vs random_text": 0.000469,
    }.items():
        assert tests["published"]["pairwise"][pair]["p_value"] == pytest.approx(p, abs=5e-7)
        assert tests["published"]["pairwise"][pair] == pytest.approx(published["statistical_tests"]["pairwise"][pair])


@needs_data
def test_our_conventions_keep_the_sign(sections: dict[str, Section]) -> None:
    """The re-analysis of the published records: rank rose in most runs, and damage does not grow with size."""
    groups = {group.rows["subject"].iloc[0]: group for group in sections["priority1"].groups}
    signed = {name: 100 * group.values("rank_reduction") for name, group in groups.items()}
    expected = {
        "pythia-70m": (-2.97, 3.05, 9),
        "pythia-160m": (-2.50, 7.46, 7),
        "pythia-410m": (-1.95, 7.00, 5),
        "pythia-1b": (-7.65, 4.43, 10),
    }
    for name, (mean, sd, rose) in expected.items():
        assert (signed[name].mean(), signed[name].std(ddof=1)) == pytest.approx((mean, sd), abs=0.006)
        assert (signed[name] < 0).sum() == rose
    damage = [groups[name].values("log_perplexity_ratio").mean() for name in expected]
    assert damage == pytest.approx([3.30, 7.35, 3.94, 2.56], abs=0.005)


@needs_data
def test_the_placebo_comparison_is_open_and_its_control_not_silent(sections: dict[str, Section]) -> None:
    rank = {group.rows["stimulus"].iloc[0]: group.values("rank_reduction") for group in sections["priority2"].groups}
    eigen, noise = rank["eigen_prion"], rank["gaussian_noise"]
    assert st.welch(eigen, noise, "different").p == pytest.approx(0.28, abs=0.005)
    assert st.permutation(eigen, noise, "different", None).p == pytest.approx(0.30)  # type: ignore[arg-type]
    assert st.equivalence(noise, 0.01).p == pytest.approx(0.98, abs=0.005)


@needs_data
def test_nothing_is_supported_that_the_records_contradict(sections: dict[str, Section]) -> None:
    for section in sections.values():
        for verdict in section.verdicts:
            sign = -1 if verdict.claim.direction == "less" else 1
            if verdict.answer == "supported":
                assert verdict.interval.low * sign > 0 or verdict.claim.test in ("equivalence", "jonckheere")
            if "rank" in verdict.claim.outcome and verdict.claim.test == "one_sample":
                assert verdict.answer != "supported"
    answers = {v.claim.name: v for section in sections.values() for v in section.verdicts}
    assert answers["attack_reduces_rank"].answer == "contradicted"
    assert answers["damage_grows_with_size"].answer != "supported"
    assert "optimizer_used: adafactor against sgd" in answers["eigen_prion_exceeds_gaussian_noise"].reasons[0]
    assert "same outcome to the last digit" in " ".join(answers["random_text_leaves_rank_alone"].reasons)


@needs_data
def test_the_aggregate_that_lacks_runs_is_named() -> None:
    (defect,) = read_published([DATA]).defects
    assert defect.where.endswith("aggregate_summary_pythia_1b_pythia-1b_fp16.csv")
    assert (defect.kind, defect.detail) == ("disagreement", "lists 3 runs, the folders hold 10")


def test_names_tell_the_priority_where_folders_do_not(tmp_path: Path) -> None:
    names = [
        "pythia_410m_pythia-410m_run01_fp16",
        "pythia_410m_pythia-410m_run01_fp16_random_text",
        "pythia_1b_pythia-1b_run02_fp16_sgd",
    ]
    for name in names:
        published_run(tmp_path, name)
    published_run(tmp_path / "priority4_shield" / "raw_data", "pythia_1b_pythia-1b_run03_8bit")
    table = read_published([tmp_path]).table.set_index("experiment")
    assert list(table.index) == ["priority1", "priority2", "priority3", "priority4"]
    assert table.loc["priority2", "stimulus"] == "random_text"
    assert (table.loc["priority3", "optimizer"], table.loc["priority3", "optimizer_used"]) == ("sgd", "sgd")
    assert (table.loc["priority4", "precision"], table.loc["priority4", "n_parameters"]) == ("int8", 1e9)
    assert table["rank_reduction"].to_list() == pytest.approx([1 - 2.5 / 2.4] * 4)


@pytest.mark.parametrize(
    ("spoil", "detail"),
    [
        (lambda path: (path / "metrics.jsonl").write_text("{"), "Expecting"),
        (lambda path: (path / "metrics.jsonl").write_text('{"baseline_perplexity": 1}'), "no value 'baseline_effective_rank'"),
        (lambda path: (path / "config.json").unlink(), "No such file"),
        (lambda path: (path / "config.json").write_text("[]"), "indices must be integers"),
        (lambda path: (path / "metrics.jsonl").write_text("[1]"), "has no attribute"),
        (lambda path: path.rename(path.with_name("mine")), "is not pythia_SIZE"),
    ],
)
def test_broken_published_runs_are_named(tmp_path: Path, spoil: Any, detail: str) -> None:
    published_run(tmp_path, "pythia_70m_pythia-70m_run01_fp16")
    spoil(published_run(tmp_path, "pythia_70m_pythia-70m_run02_fp16"))
    runs = read_published([tmp_path])
    assert len(runs.table) == 1
    assert [defect.kind for defect in runs.defects] == ["corrupt"]
    assert detail in runs.defects[0].detail


def test_an_aggregate_that_disagrees_is_named(tmp_path: Path) -> None:
    published_run(tmp_path, "pythia_70m_pythia-70m_run01_fp16")
    path = tmp_path / "aggregate_summary_pythia_70m_pythia-70m_fp16.csv"
    with path.open("w") as file:
        csv.writer(file).writerows([["run", "rank_reduction_pct"], ["1", "4.17"]])
    (defect,) = read_published([tmp_path]).defects
    assert defect.detail == "runs 1 differ from their folders"


@pytest.mark.parametrize("text", ["", "run,rank_reduction_pct\none,4", "run\n1", "\x00"])
def test_a_broken_aggregate_is_named(tmp_path: Path, text: str) -> None:
    published_run(tmp_path, "pythia_70m_pythia-70m_run01_fp16")
    (tmp_path / "aggregate_summary_pythia_70m_pythia-70m_fp16.csv").write_text(text)
    (defect,) = read_published([tmp_path]).defects
    assert defect.kind in ("corrupt", "disagreement")


def test_aggregates_of_other_precisions_are_matched(tmp_path: Path) -> None:
    published_run(tmp_path, "pythia_1b_pythia-1b_run01_8bit")
    path = tmp_path / "aggregate_summary_pythia_1b_pythia-1b_8bit.csv"
    path.write_text("run,rank_reduction_pct\n1,-4.17\n")
    assert read_published([tmp_path]).defects == []


def test_no_published_run_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No published records below"):
        read_published([tmp_path])
    with pytest.raises(UserError, match="is not a folder"):
        read_published([tmp_path / "x"])
