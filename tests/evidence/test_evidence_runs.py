"""Reading records: what is good becomes a row, everything else is named, and nothing crashes or disappears."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from made import config_of, damage, plan, record

from lit_degrade.cli import main
from lit_degrade.errors import UserError
from lit_degrade.evidence.claims.claims import shipped_designs
from lit_degrade.evidence.pages.sections import make_sections
from lit_degrade.evidence.reading.groups import make_groups, varying
from lit_degrade.evidence.reading.runs import Runs, read_runs
from lit_degrade.evidence.topics.outcomes.summaries import write_summary
from lit_degrade.records.run_record import RunRecord


def kinds(runs: Runs) -> Counter[str]:
    return Counter(defect.kind for defect in runs.defects)


def test_conditions_have_the_same_names_whatever_became_of_a_run(tmp_path: Path) -> None:
    record(tmp_path, stimulus="eigen_prion", summary=damage(0.2, 0.01))
    record(tmp_path, stimulus="eigen_prion", seed=44, state="diverged", summary={"log_perplexity_ratio": float("inf")})
    record(tmp_path, stimulus="eigen_prion", seed=45, state="failed")
    plan(tmp_path, "placebo", [config_of(tmp_path, "priority2", 46, stimulus="eigen_prion")])
    runs = read_runs([tmp_path])
    assert list(runs.table["state"].sort_values()) == ["diverged", "done", "failed", "missing"]
    for name, value in {"stimulus": "eigen_prion", "lr": 1e-4, "subject": "tiny-1m", "steps": 100}.items():
        assert (runs.table[name] == value).all()
    assert varying(runs.table, runs.condition_names) == []
    (group,) = make_groups(runs.table.assign(filtered=False), [], "stimulus")
    assert group.counts() == {"asked": 4, "done": 1, "diverged": 1, "failed": 1, "missing": 1, "filtered": 0}
    assert runs.table.loc[runs.table["state"] == "diverged", "log_perplexity_ratio"].item() == np.inf


def test_settings_and_what_was_measured_under_their_names_both_survive(tmp_path: Path) -> None:
    """Runs are grouped by the steps that were asked for, and claims are about those that were taken."""
    taken = {100: [37, 41, 39], 200: [180, 190, 188]}
    for asked, steps in taken.items():
        for seed, step in enumerate(steps):
            record(tmp_path, stimulus="eigen_prion", seed=seed, steps=asked, summary={"steps": step, "energy": 0.5})
    record(tmp_path, "other", energy="high", summary={"steps": 100})
    runs = read_runs([tmp_path])
    table = runs.table[runs.table["experiment"] == "priority2"]
    for asked, steps in taken.items():
        assert sorted(table.loc[table["steps"] == asked, "measured.steps"]) == sorted(steps)
    assert (table["measured.energy"] == 0.5).all()  # a setting of other runs is none of theirs
    assert varying(table, runs.condition_names) == ["steps"]
    mine = tmp_path / "claims.yaml"
    mine.write_text(
        yaml.safe_dump({"priority2": {"claims": {"late": {
            "says": "Late.", "outcome": "steps", "test": "one_sample", "treatment": {"steps": 200}, "value": 100,
        }}}})
    )  # fmt: skip
    report = tmp_path / "report"
    folders = [str(tmp_path / name) for name in ("priority2", "other")]
    assert main(["report", *folders, "--claims", str(mine), "--output", str(report)]) == 0
    claims = json.loads((report / "priority2/placebo_summary.json").read_text())["claims"]
    (claim,) = [claim for claim in claims if claim["claim"] == "late"]
    assert (claim["verdict"], claim["outcome"], claim["estimate"]) == ("supported", "measured.steps", 186.0)


def test_runs_that_differ_in_a_fact_that_a_setting_names_are_in_conflict(tmp_path: Path) -> None:
    first = record(tmp_path / "a", summary={"steps": 37})
    second = tmp_path / "b" / "priority2" / first.name
    shutil.copytree(first, second)
    (second / "summary.json").write_text((second / "summary.json").read_text().replace('"steps": 37', '"steps": 38'))
    (defect,) = read_runs([tmp_path]).defects
    assert (defect.kind, defect.detail) == ("conflicting", f"steps differ from {first}")


def test_every_bad_record_is_named_and_counted(tmp_path: Path) -> None:
    results = tmp_path / "results"
    good = [record(results, stimulus="eigen_prion", seed=seed, summary=damage(0.2, 0.01)) for seed in range(43, 50)]
    shutil.copytree(good[0], results / "copies" / good[0].name)
    shutil.copytree(good[1], results / "copies" / good[1].name)
    changed = results / "copies" / good[1].name / "summary.json"
    changed.write_text(changed.read_text().replace('"log_perplexity_ratio": 0.2', '"log_perplexity_ratio": 0.3'))
    (good[2] / "summary.json").write_text("{")
    (good[3] / "manifest.json").unlink()
    (good[4] / "config.yaml").write_bytes(b"\xff\xfe: [")
    good[5].rename(good[5].with_name("0123456789ab"))
    (results / "priority2" / ".abc.partial").mkdir()
    (results / "priority2" / "notes.txt").write_text("mine")
    (results / "priority2" / "empty").mkdir()
    plan(results, "placebo", [config_of(results, "priority2", seed, stimulus="eigen_prion") for seed in (43, 45, 99)])
    runs = read_runs([results])
    assert kinds(runs) == {"duplicate": 1, "conflicting": 1, "corrupt": 4, "partial": 1, "foreign": 2, "missing": 1}
    assert Counter(runs.table["state"]) == {"done": 3, "corrupt": 1, "missing": 1}  # of those that a sweep asked for
    said = {Path(defect.where).name: defect.detail for defect in runs.defects}
    assert "log_perplexity_ratio" in said[good[1].name]
    assert said[good[2].name].startswith("summary.json is not JSON")
    assert said[good[3].name] == "manifest.json: No such file or directory"
    assert said[good[4].name].startswith("config.yaml: not YAML")
    assert f"run id '{good[5].name}'" in said["0123456789ab"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(some.sampled_from(["summary.json", "manifest.json", "config.yaml"]), some.binary(max_size=40), some.integers(0, 3000))
def test_no_content_of_a_file_can_crash_the_reading(
    tmp_path_factory: pytest.TempPathFactory, name: str, content: bytes, at: int
) -> None:
    results = tmp_path_factory.mktemp("r")
    kept = record(results, stimulus="eigen_prion", summary=damage(0.2, 0.01))
    broken = record(results, stimulus="eigen_prion", seed=44, summary=damage(0.2, 0.01))
    path = broken / name
    path.write_bytes(path.read_bytes()[:at] + content)
    runs = read_runs([results])
    assert kept.name in set(runs.table["run_id"])
    assert len(runs.table) + kinds(runs)["corrupt"] == 2


values = some.one_of(
    some.none(), some.booleans(), some.integers(), some.floats(), some.text(max_size=5), some.just([1]), some.just({})
)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(some.sampled_from(["summary.json", "manifest.json", "config.yaml"]), some.integers(0, 100), values)
def test_no_value_can_crash_a_report(tmp_path_factory: pytest.TempPathFactory, name: str, at: int, value: Any) -> None:
    results = tmp_path_factory.mktemp("r")
    for seed in (43, 44, 45):
        broken = record(results, stimulus="eigen_prion", seed=seed, summary=damage(0.2 + seed / 1000, 0.01))
    content = yaml.safe_load((broken / name).read_text())
    content[sorted(content)[at % len(content)]] = value
    (broken / name).write_text(json.dumps(content) if name.endswith("json") else yaml.safe_dump(content))
    runs = read_runs([results])
    assert len(runs.table) + kinds(runs)["corrupt"] == 3
    (section, *_) = make_sections(runs, shipped_designs())
    write_summary(section, results, None)


def test_overlapping_folders_and_own_reports_count_once(tmp_path: Path) -> None:
    folder = record(tmp_path, stimulus="eigen_prion", summary=damage(0.2, 0.01))
    for extra in ("report", "wandb", ".cache"):
        (tmp_path / extra).mkdir()
        (tmp_path / extra / "report.md").write_text("")
    runs = read_runs([tmp_path, tmp_path / "priority2", folder])
    assert len(runs.table) == 1
    assert runs.defects == []


def test_links_to_folders_are_followed_and_loops_end(tmp_path: Path) -> None:
    record(tmp_path / "elsewhere", stimulus="eigen_prion", summary=damage(0.2, 0.01))
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "priority2").symlink_to(tmp_path / "elsewhere" / "priority2")
    (tmp_path / "results" / "loop").symlink_to(tmp_path / "results")
    runs = read_runs([tmp_path / "results"])
    assert len(runs.table) == 1


def test_nothing_to_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        read_runs([tmp_path / "nowhere"])
    with pytest.raises(UserError, match="No run records below"):
        read_runs([tmp_path])
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "metrics.jsonl").write_text("{}")
    with pytest.raises(UserError, match="--layout published"):
        read_runs([tmp_path])


def test_a_broken_plan_is_named(tmp_path: Path) -> None:
    record(tmp_path, stimulus="eigen_prion", summary=damage(0.2, 0.01))
    (tmp_path / ".sweeps" / "x").mkdir(parents=True)
    for text in ("{", "[]", json.dumps({"runs": {"a": {}}})):
        (tmp_path / ".sweeps" / "x" / "plan.json").write_text(text)
        runs = read_runs([tmp_path])
        assert kinds(runs) == {"corrupt": 1}
        assert len(runs.table) == 1


def test_a_sweep_elsewhere_asks_for_nothing_here(tmp_path: Path) -> None:
    record(tmp_path, stimulus="eigen_prion", summary=damage(0.2, 0.01))
    plan(tmp_path, "healing", [config_of(tmp_path, "healing", 43)])
    assert read_runs([tmp_path / "priority2"]).defects == []
    assert kinds(read_runs([tmp_path])) == {"missing": 1}


def test_what_an_attack_before_was_is_a_condition(tmp_path: Path) -> None:
    config = config_of(tmp_path, "healing", attacked_by="configs/priority2.yaml --model.stimulus=random_text --model.lr 1e-3")
    record(tmp_path, "healing", attacked_by=config["attacked_by"], gradient_clip=1.0)
    row = read_runs([tmp_path]).table.iloc[0]
    assert (row["attack"], row["attack.stimulus"], row["attack.lr"]) == ("configs/priority2.yaml", "random_text", "1e-3")
    assert row["gradient_clip"] == 1.0
    assert RunRecord("fit", config).config["attacked_by"] == config["attacked_by"]
