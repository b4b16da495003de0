"""Sweeps of several analyses, and the one page about them."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from helpers import ROOT, sweep, sweep_file

from lit_degrade.cli import main
from lit_degrade.grids.worker import Resolved, resolve_all


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
