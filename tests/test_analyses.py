"""Adding an analysis as the docs show it; sweeps of several analyses, and the one page about them."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from test_cli import ROOT
from test_doses import rows_of
from test_runs import summary_of
from test_sweep import sweep, sweep_file

from lit_degrade.cli import main
from lit_degrade.grids.worker import Resolved, resolve_all

DOC = (ROOT / "docs/analyses.md").read_text()


def block(language: str, marker: str) -> str:
    """The fenced block of the page that holds a marker."""
    (found,) = [text for text in re.findall(rf"```{language}\n(.*?)```", DOC, re.S) if marker in text]
    return found


def command(folder: Path, *args: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "WANDB_MODE": "disabled"}
    done = subprocess.run(
        [sys.executable, "-m", "lit_degrade", *args], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.mark.slow
def test_the_analysis_of_the_docs_is_one_file_and_one_config(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "positions.py").write_text(block("python", "PositionModule"))
    (tmp_path / "configs/positions.yaml").write_text(block("yaml", "class_path: positions.PositionModule"))
    (tmp_path / "claims.yaml").write_text(block("yaml", "context_helps"))
    listed = command(tmp_path, "list", "analyses")
    assert re.search(r"positions +test +does a subject make use of its context\?", listed)
    for seed in ("43", "44"):
        args = ["--subject", "tiny-60k", "--text.probe_tokens", "2048", "--seed_everything", seed]
        folder = Path(command(tmp_path, "test", "--config", "configs/positions.yaml", *args).splitlines()[-1])
    rows = rows_of(tmp_path / folder / "positions.csv")
    assert len(rows) == 127
    found = summary_of(tmp_path / folder)
    first, last = (sum(float(row["nats_per_token"]) for row in part) / 31 for part in (rows[:31], rows[-31:]))
    assert found["nats_gained"] == pytest.approx(first - last)
    command(tmp_path, "report", "results", "--claims", "claims.yaml", "--html")
    assert "context_helps" in (tmp_path / "results/report/report.html").read_text()


def test_every_config_is_an_analysis_with_a_verb_and_a_question(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["list", "analyses"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split()[0] for line in lines] == sorted(path.stem for path in Path("configs").glob("*.yaml"))
    assert all(line.split()[1] in ("fit", "test", "predict") and len(line.split()) > 5 for line in lines)


@pytest.mark.parametrize("name", ["pipeline", "integrated"])
def test_sweeps_of_several_analyses_name_what_exists(name: str) -> None:
    configs = yaml.safe_load((ROOT / f"sweeps/tiny/{name}.yaml").read_text())["parameters"]["config"]["values"]
    answers_test = {
        f"configs/{path.name}" for path in (ROOT / "configs").glob("*.yaml") if "lit_degrade test " in path.read_text()
    }
    assert set(configs) <= answers_test
    if name == "integrated":  # one subject, and nothing that compares many: these have sweeps of their own
        assert set(configs) == answers_test - {"configs/exchange_rate.yaml", "configs/catalysts.yaml"}


@pytest.mark.slow
def test_a_page_about_a_sweep_holds_its_runs_and_what_came_before_them(tmp_path: Path) -> None:
    attack = f"{ROOT}/configs/finetune.yaml --trainer.max_steps=2"
    path = sweep_file(
        tmp_path,
        "page",
        ["${env}", "${interpreter}", "-m", "${program}", "test", "--verbosity=quiet", "${args}"],
        config={"values": [f"{ROOT}/configs/evaluate.yaml"]},
        attacked_by={"value": attack},
        seed_everything={"values": [43, 44]},
        **{"text.probe_tokens": {"value": 1024}},
    )
    written = yaml.safe_load(path.read_text())
    written["parameters"] = {
        key: written["parameters"][key] for key in written["parameters"] if not key.startswith(("model", "trainer"))
    }
    path.write_text(yaml.safe_dump(written))
    sweep(path, "--report")
    folder = tmp_path / "results/reports/page"
    page = (folder / "report.html").read_text()
    runs = [path.name for path in (tmp_path / "results").glob("*/*/") if (path / "manifest.json").exists()]
    assert len(runs) == 4
    assert all(run in page for run in runs)
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["evaluate", "finetune"]


def test_no_page_is_made_while_a_run_has_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, found = sweep_file(tmp_path, "lost", seed_everything={"values": [43]}), list[Resolved]()
    monkeypatch.setattr("lit_degrade.grids.sweep._run", lambda *args: None)
    here = SimpleNamespace(send=found.append)
    monkeypatch.setattr("lit_degrade.grids.local.resolve", lambda lines: resolve_all(lines, here) or found)
    assert "No report is made while runs have no record." in sweep(path, "--report", rc=1)
    assert not (tmp_path / "results/reports").exists()
