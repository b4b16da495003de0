"""The report verb, from records to pages, as a user runs it."""

import json
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from helpers import ROOT, Page
from made import config_of, damage, placebo, plan, read_json, record

from lit_degrade.cli import main
from lit_degrade.errors import UserError
from lit_degrade.evidence.claims.claims import TESTS, Claim, load_designs, shipped_designs
from lit_degrade.evidence.reading.runs import DEFECTS


def report(*args: str | Path, rc: int = 0) -> None:
    assert main(["report", *map(str, args)]) == rc


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A placebo experiment of 20 runs, with one that diverged, one that is missing, and a stray file."""
    folder = tmp_path_factory.mktemp("made") / "results"
    placebo(folder, eigen_prion=0.5, random_tokens=0.3, gaussian_noise=0.3, random_text=0.1)
    record(folder, seed=60, stimulus="random_text", state="diverged", summary={"diverged_at_step": 7})
    plan(folder, "placebo", [config_of(folder, "priority2", 61, stimulus="random_text")])
    (folder / "priority2" / "stray.txt").write_text("")
    return folder


@pytest.fixture(scope="module")
def made(results: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("out")
    report(results, "--output", output, "--html")
    return output


def test_a_report_says_what_was_asked_and_what_became_of_it(made: Path) -> None:
    text = (made / "report.md").read_text()
    assert "22 asked, 20 done, 1 diverged, 0 failed, 1 missing, 0 filtered." in text
    assert "| missing | asked for by a sweep, without a record |" in text
    assert "results/priority2/stray.txt" in text
    content = read_json(made / "priority2" / "placebo_summary.json")
    answers = {claim["claim"]: claim["verdict"] for claim in content["claims"]}
    assert answers["eigen_prion_exceeds_random_tokens"] == "supported"
    assert answers["eigen_prion_exceeds_random_text"] == "inconclusive"  # two of its runs have no outcome
    assert answers["eigen_prion_reduces_rank"] == "contradicted"
    assert answers["gaussian_noise_does_nothing"] == "contradicted"
    assert answers["eigen_prion_exceeds_loss_ascent"] == "not tested"


def test_summaries_have_the_published_columns_and_ours(made: Path) -> None:
    table = pd.read_csv(made / "priority2" / "placebo_summary.csv").set_index("treatment")
    row = table.loc["random_text"]
    assert (row["asked"], row["done"], row["diverged"], row["missing"], row["num_runs"]) == (7, 5, 1, 1, 5)
    assert row["mean_rank_reduction_pct"] == pytest.approx(-100 * row["rank_reduction_mean"], abs=0.01)  # all of them rose
    assert row["log_perplexity_ratio_low"] < row["log_perplexity_ratio_mean"] < row["log_perplexity_ratio_high"]
    tests = read_json(made / "priority2" / "placebo_summary.json")["statistical_tests"]
    assert 0 <= tests["anova"]["p_value"] <= 1
    assert tests["panels"][""]["controlled"]["log_perplexity_ratio"]["anova"]["p_value"] < 1e-6


def test_the_page_needs_nothing_but_itself(made: Path, results: Path) -> None:
    text = (made / "report.html").read_text()
    page = Page(text)
    assert len(page.ids) == len(set(page.ids))
    assert all(source.startswith("data:image/svg+xml;base64,") for source in page.sources)
    assert "http://" not in text
    assert "https://" not in text
    for link in page.links:
        if link.startswith("#"):
            assert link[1:] in page.ids
        elif not link.startswith("data:"):
            target = made / link
            assert target.exists() or "missing" in text.split(link)[1][:300], link
    runs = [manifest.parent.name for manifest in results.glob("*/*/manifest.json")]
    assert {f"run-{run}" for run in runs} <= set(page.ids)


def test_the_same_records_give_the_same_report(made: Path, results: Path, tmp_path: Path) -> None:
    report(results, "--output", tmp_path, "--html")
    for path in sorted(made.rglob("*")):
        if path.is_file() and path.suffix in (".csv", ".json", ".svg"):
            assert path.read_bytes() == (tmp_path / path.relative_to(made)).read_bytes(), path.name


def test_a_report_beside_the_records_is_not_read_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    placebo(tmp_path, seeds=2, courses=False, eigen_prion=0.5, random_tokens=0.3)
    report(tmp_path)
    first = (tmp_path / "report" / "report.md").read_text()
    report(tmp_path)
    assert (tmp_path / "report" / "report.md").read_text() == first
    assert not (tmp_path / "report" / "report.html").exists()
    assert str(tmp_path / "report" / "report.md") in capsys.readouterr().out


def test_outliers_are_taken_out_only_when_asked_and_listed(tmp_path: Path) -> None:
    placebo(tmp_path, seeds=8, courses=False, eigen_prion=0.5, random_tokens=0.3)
    odd = record(tmp_path, seed=77, stimulus="eigen_prion", summary=damage(4.0, -0.015))
    report(tmp_path, "--output", tmp_path / "plain")
    assert read_json(tmp_path / "plain/priority2/placebo_summary.json")["counts"]["filtered"] == 0
    for method in ("iqr", "zscore"):
        options = ["--filter-method", method, "--filter-metric", "perplexity_increase", "--filter-zscore-threshold", "2.5"]
        report(tmp_path, "--output", tmp_path / method, *options)
        content = read_json(tmp_path / method / "priority2/placebo_summary.json")
        removed = content["filter"]["removed"]
        assert odd.name in removed
        assert len(removed) == content["counts"]["filtered"] < 6
        assert odd.name in (tmp_path / method / "report.md").read_text()


def test_claims_of_the_user(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    placebo(tmp_path / "r", courses=False, eigen_prion=0.5, random_tokens=0.3)
    claims = {
        "mine": {
            "says": "It costs half a nat.",
            "outcome": "log_perplexity_ratio",
            "test": "one_sample",
            "treatment": {"stimulus": "eigen_prion"},
            "value": 0.4,
        }
    }
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump({"priority2": {"claims": claims}}))
    report(tmp_path / "r", "--claims", path)
    content = read_json(tmp_path / "r/report/priority2/placebo_summary.json")
    assert {claim["claim"]: claim["verdict"] for claim in content["claims"]}["mine"] == "supported"
    claims["mine"]["outcome"] = "log_perplexity_ration"
    path.write_text(yaml.safe_dump({"priority2": {"claims": claims}}))
    report(tmp_path / "r", "--claims", path, rc=2)
    assert (
        "Unknown outcome of claim mine 'log_perplexity_ration'. Did you mean 'log_perplexity_ratio'?" in capsys.readouterr().err
    )
    claims["mine"] |= {"outcome": "log_perplexity_ratio", "treatment": {"stimulos": "eigen_prion"}}
    path.write_text(yaml.safe_dump({"priority2": {"claims": claims}}))
    report(tmp_path / "r", "--claims", path, rc=2)
    assert "Unknown condition of claim mine 'stimulos'. Did you mean 'stimulus'?" in capsys.readouterr().err
    path.write_text(yaml.safe_dump({"priority9": {"claims": claims}}))
    report(tmp_path / "r", "--claims", path, rc=2)
    assert "claims about priority9, but no run of it was read. Read: priority2." in capsys.readouterr().err


GOOD: dict[str, Any] = {"says": "s", "outcome": "o", "test": "welch", "treatment": {"a": 1}, "control": {"a": 2}}
BAD_CLAIMS = {
    "not YAML": ("{", "is not YAML"),
    "no mapping": ("[1]", "must hold a mapping"),
    "no claims": ({"x": {}}, "x has no claims"),
    "unknown key": (
        {"x": {"claims": {"c": GOOD | {"marginn": 1}}}},
        "Unknown key of FILE: claim c 'marginn'. Did you mean 'margin'?",
    ),
    "design key": ({"x": {"claims": {"c": GOOD}, "figur": "y"}}, "Did you mean 'figure'?"),
    "design type": ({"x": {"claims": {"c": GOOD}, "outcomes": "y"}}, "outcomes must be a list"),
    "missing key": ({"x": {"claims": {"c": {k: v for k, v in GOOD.items() if k != "says"}}}}, "'says' is missing"),
    "type": ({"x": {"claims": {"c": GOOD | {"margin": "big"}}}}, "margin must be a float, not 'big'"),
    "test": ({"x": {"claims": {"c": GOOD | {"test": "welsh"}}}}, "Did you mean 'welch'?"),
    "direction": ({"x": {"claims": {"c": GOOD | {"direction": "up"}}}}, "Available: greater, less"),
    "negative margin": ({"x": {"claims": {"c": GOOD | {"margin": -1}}}}, "margin: expected a finite number from 0, not -1"),
    "margin that is no number": ({"x": {"claims": {"c": GOOD | {"margin": float("nan")}}}}, "margin: expected a finite number"),
    "endless value": ({"x": {"claims": {"c": GOOD | {"value": float("inf")}}}}, "value: expected a finite number, not inf"),
    "no control": ({"x": {"claims": {"c": {k: v for k, v in GOOD.items() if k != "control"}}}}, "'control' is missing"),
    "needless control": ({"x": {"claims": {"c": GOOD | {"test": "one_sample"}}}}, "takes no control"),
    "no margin": ({"x": {"claims": {"c": GOOD | {"test": "equivalence"}}}}, "needs a margin"),
    "no over": (
        {"x": {"claims": {"c": {k: v for k, v in GOOD.items() if k != "control"} | {"test": "slope"}}}},
        "'over' belongs",
    ),
    "needless value": ({"x": {"claims": {"c": GOOD | {"value": 1.0}}}}, "'value' is what one mean is compared with"),
    "needless order": ({"x": {"claims": {"c": GOOD | {"order": [1]}}}}, "'order' belongs to"),
    "no claim": ({"x": {"claims": {"c": 3}}}, "expected keys, found 3"),
}


@pytest.mark.parametrize("case", BAD_CLAIMS)
def test_bad_claims_are_one_line_and_nothing_is_written(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, expected = BAD_CLAIMS[case]
    path = tmp_path / "claims.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    report(tmp_path, "--claims", path, "--output", tmp_path / "out", rc=2)
    err = capsys.readouterr().err
    assert expected.replace("FILE", str(path)) in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


BAD = {
    "no folder": ([], "the following arguments are required: DIR"),
    "missing folder": (["nowhere"], "'nowhere' is not a folder"),
    "empty folder": (["."], "No run records below ."),
    "layout": ([".", "--layout", "paper"], "invalid choice: 'paper'"),
    "option": ([".", "--htm"], "unrecognized arguments: --htm"),
    "filter": ([".", "--filter-method", "iqr", "--filter-iqr-multiplier", "0"], "expected a finite number above 0, not 0"),
    "filter that is no number": (
        [".", "--filter-zscore-threshold", "nan"],
        "--filter-zscore-threshold: expected a finite number",
    ),
    "filter metric": ([".", "--filter-metric", "loss"], "invalid choice: 'loss'"),
    "claims": ([".", "--claims", "nowhere.yaml"], "Claims file 'nowhere.yaml' cannot be read"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_options_are_one_line(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    args, expected = BAD[case]
    report(*args, rc=2)
    err = capsys.readouterr().err
    assert expected in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    placebo(tmp_path / "r", seeds=2, eigen_prion=0.5)
    (tmp_path / "file").write_text("")
    report(tmp_path / "r", "--output", tmp_path / "file" / "x", rc=2)
    assert "cannot be written: Not a directory. Choose another with --output." in capsys.readouterr().err


def test_experiments_without_claims_are_shown_too(tmp_path: Path) -> None:
    for seed in range(43, 46):
        record(tmp_path, "mine", seed=seed, stimulus="random_text", summary=damage(0.1 + seed / 1000, 0.0))
    report(tmp_path)
    assert "## mine" in (tmp_path / "report/report.md").read_text()
    assert (tmp_path / "report/mine/mine_summary.csv").is_file()


def test_records_that_all_failed_still_give_a_report(tmp_path: Path) -> None:
    for seed in range(43, 46):
        record(tmp_path, seed=seed, stimulus="eigen_prion", state="diverged")
    report(tmp_path, "--html")
    assert "3 asked, 0 done, 3 diverged" in (tmp_path / "report/report.md").read_text()


def test_a_report_needs_no_model_and_no_window(tmp_path: Path) -> None:
    placebo(tmp_path, seeds=2, eigen_prion=0.5, random_tokens=0.3)
    code = f"""import sys; from lit_degrade.cli import main
main(["report", {str(tmp_path)!r}, "--html"])
print({{"torch", "lightning", "wandb", "sklearn", "matplotlib.pyplot"}} & set(sys.modules))"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert out.splitlines()[-1] == "set()"


def test_shipped_claims_are_about_what_sweeps_vary() -> None:
    """Every condition of a shipped claim is a setting of a shipped design, with a value that some run has."""
    said = " ".join(path.read_text() for path in [*ROOT.glob("sweeps/**/*.yaml"), *ROOT.glob("configs/**/*.yaml")])
    for design in shipped_designs():
        for claim in design.claims:
            for side in (claim.treatment, claim.control or {}):
                for name, value in side.items():
                    assert name.split(".")[-1].replace("gradient_clip", "gradient_clip_val") in said
                    assert re.search(rf"\b{re.escape(str(value))}\b", said), f"{claim.name}: {value}"


def test_claims_files_of_the_suite_load() -> None:
    assert {design.experiment for design in shipped_designs()} == {
        "priority1",
        "priority2",
        "priority3",
        "priority4",
        "flat_attack",
        "healing",
        "audit",
        "criticality",
        "pruning",
        "bit_search",
        "adversarial",
    }
    with pytest.raises(UserError, match="cannot be read"):
        load_designs(Path("nowhere.yaml"))


def test_the_docs_know_every_key_and_their_example_loads(tmp_path: Path) -> None:
    text = (ROOT / "docs/evidence.md").read_text()
    path = tmp_path / "claims.yaml"
    path.write_text(text.split("```yaml\n")[1].split("```")[0])
    (design,) = load_designs(path)
    assert (design.experiment, design.claims[0].test) == ("priority2", "equivalence")
    for name in [*TESTS, *DEFECTS, *(item.name for item in fields(Claim) if item.name != "name")]:
        assert re.search(rf"\b{name}\b", text), name


def test_json_is_strict(made: Path) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(word)

    for path in made.rglob("*.json"):
        json.loads(path.read_text(), parse_constant=refuse)
