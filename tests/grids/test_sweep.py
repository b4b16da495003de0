"""Whole sweeps on this machine: every run once, whatever is killed; failures listed; nothing started on bad input."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import ROOT, states, sweep, sweep_file
from made import config_of, record

from lit_degrade.cli import main
from lit_degrade.grids.board import Board
from lit_degrade.grids.local import prepare_server
from lit_degrade.grids.sweep import Planned, _conclude, _outcome, _settings, _stamp
from lit_degrade.records.mode import ONE_RUN
from lit_degrade.records.reading import state_of
from lit_degrade.records.run_record import RunRecord
from lit_degrade.run import resolve

PROMPTS = [
    "Q: 2 + 2 = ?\nA:", "The capital of France is", "None", "null", "1e3", "--verbosity", "a=b", "${args}", "'\"\\", "é 😀 \t",
    "# x", "{'a': 1}", "$(ls) `ls` !x",
]  # fmt: skip


def start(path: Path, *args: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "lit_degrade", "sweep", str(path), "--results", str(path.parent / "results"), *args]
    environment = {**os.environ, "WANDB_MODE": "disabled"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, start_new_session=True, **pipes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Four good runs, one that diverges and one that is refused when it starts."""
    folder = tmp_path_factory.mktemp("sweep")
    parameters = {"model.stimulus": {"values": ["random_tokens", "random_text"]}, "model.optimizer": {"value": "sgd"}}
    path = sweep_file(
        folder, **parameters, **{"model.lr": {"values": [1.0e-4, 1.0e-3, 1.0e30]}, "seed_everything": {"value": 43}}
    )
    return path, sweep(path, "--workers", "2")


def test_every_run_has_one_record_and_failures_are_listed(finished: tuple[Path, str]) -> None:
    path, out = finished
    assert Counter(states(path).values()) == {"done": 4, "diverged": 2}
    assert "4 done" in out
    assert out.count("diverged: ") == 2
    assert "training loss became non-finite at step" in out
    assert "--retry" in out
    assert not list((path.parent / "results").glob("*/.*.partial"))


def test_finished_runs_are_skipped_and_retried_when_asked(finished: tuple[Path, str]) -> None:
    path, _ = finished
    times = {p: p.stat().st_mtime_ns for p in (path.parent / "results").glob("*/*/manifest.json")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lit_degrade.grids.local.resolve", lambda lines: pytest.fail("nothing has changed"))
        assert "6 finished before" in sweep(path)
    assert {p: p.stat().st_mtime_ns for p in times} == times
    sweep(path, "--retry")
    changed = [p.parent.name for p in times if p.stat().st_mtime_ns != times[p]]
    assert sorted(changed) == sorted(run for run, state in states(path).items() if state == "diverged")


def test_dry_run_prints_commands_that_can_be_pasted(finished: tuple[Path, str]) -> None:
    path, _ = finished
    before = sorted((path.parent / "results").rglob("*"))
    lines = sweep(path, "--dry-run").splitlines()
    assert sorted((path.parent / "results").rglob("*")) == before
    assert Counter(line.split()[0] for line in lines) == {"done": 4, "diverged": 2}
    assert {line.split()[1] for line in lines} == set(states(path))
    import shlex

    args = shlex.split(lines[0].split("python -m lit_degrade ")[1])
    assert main(args) == 0  # "already recorded"


def test_a_run_that_cannot_start_is_named(tmp_path: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text("Too short.\n")
    path = sweep_file(tmp_path, **{"text.source": {"values": ["stdlib", str(short)]}})
    out = sweep(path, rc=1)
    assert f"text.source={short}: lit_degrade: " in out
    assert "no record: " in out
    assert "Use a longer text" in out
    assert list(states(path).values()) == ["done"]


def test_equal_points_are_one_run(tmp_path: Path) -> None:
    """Two command lines that resolve to the same config are the same run."""
    path = sweep_file(tmp_path, **{"model.lr": {"value": 1.0e-4}, "verbosity": {"values": ["quiet", "normal"]}})
    assert len(sweep(path, "--dry-run").splitlines()) == 1


BAD = {
    "parameter": ({"model.learning_rate": {"value": 1}}, [], "Unknown key of AttackModule 'learning_rate'"),
    "top parameter": ({"modle": {"value": 1}}, [], "Unknown key 'modle'"),
    "value": ({"model.stimulus": {"values": ["random_text", "eigen_prio"]}}, [], "Did you mean 'eigen_prion'?"),
    "subject": ({"subject": {"values": ["tiny-60k", "tiny-2m"]}}, [], "Unknown subject 'tiny-2m'. Did you mean 'tiny-3m'?"),
    "empty grid": ({"seed_everything": {"values": []}}, [], "the grid is empty"),
    "too many": ({"seed_everything": {"min": 1, "max": 30}}, ["--max-runs", "20"], "30 runs are more than --max-runs 20"),
    "workers": ({}, ["--workers", "0"], "--workers and --max-runs must be at least 1"),
    "launcher": ({}, ["--launcher", "clod"], "invalid choice: 'clod'"),
    "option": ({}, ["--wrokers", "2"], "unrecognized arguments: --wrokers"),
    "slurm setting": ({}, ["--launcher", "slurm", "--slurm", "gpu"], "--slurm gpu: expected KEY=VALUE"),
    "slurm setting of no job": ({}, ["--slurm", "constraint=[a100"], "--slurm constraint=[a100: only --launcher slurm takes"),
    "results": ({}, ["--results", f"{__file__}/results"], "cannot be written: Not a directory"),
    "results of a file": ({}, ["--results", __file__], "cannot be written: "),
    "bound": ({"model.lr": {"min": 1.0, "max": "1e3"}}, [], "parameter 'model.lr': max '1e3' is text: write 1000.0"),
    "no slurm": ({}, ["--launcher", "slurm"], "'sbatch' is not on the PATH"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_before_anything_starts(case: str, tmp_path: Path) -> None:
    parameters, args, message = BAD[case]
    if case == "no slurm" and shutil.which("sbatch"):
        pytest.skip("this machine has SLURM")
    out = sweep(sweep_file(tmp_path, **parameters), *args, rc=2)
    assert message in out
    assert len(out.strip().splitlines()) == 1, out
    assert [p.name for p in tmp_path.iterdir()] == ["grid.yaml"]


def test_settings_of_sbatch_are_text_to_it_but_for_numbers_and_truths() -> None:
    given = ["constraint=[a100|h100", "time=1:30:00", "gpus-per-node=2", "exclusive=true", "comment=a=b", "mem=null", "qos="]
    assert _settings(given) == {
        "constraint": "[a100|h100", "time": "1:30:00", "gpus_per_node": 2, "exclusive": True, "comment": "a=b", "mem": "null",
        "qos": "",
    }  # fmt: skip


def planned(results: Path, state: str | None = None) -> Planned:
    """A run, with a record of an earlier start."""
    found = RunRecord("fit", config_of(results, "e"))
    if state:
        record(results, "e", state=state)
    return Planned(
        f"{found.run_id} seed=43", [], found.run_id, found.folder, {}, [], _stamp(found.folder), state_of(found.folder)
    )


def test_the_exit_code_of_a_run_is_believed_not_an_older_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for older, newer, code, outcome, why in (
        (None, "done", 0, "done", None),
        (None, "diverged", 3, "diverged", "made so"),
        (None, "failed", 1, "failed", "made so"),
        (None, "interrupted", 130, "interrupted", "made so"),
        (None, "interrupted", 1, "interrupted", "made so"),
        (None, "failed", 3, "exit code 3", "what it said"),
        (None, None, 2, None, "what it said"),
        (None, None, 0, None, "what it said"),
        (None, "done", 1, "exit code 1", "what it said"),
        ("failed", None, 1, "exit code 1", "what it said"),
        ("failed", None, 2, "exit code 2", "what it said"),
        ("failed", None, -9, "exit code -9", "what it said"),
        ("diverged", None, 2, "exit code 2", "what it said"),
        ("failed", "done", 0, "done", None),
        ("failed", "failed", 1, "failed", "made so"),
        ("interrupted", None, 0, "exit code 0", "what it said"),
    ):
        case = tmp_path / f"{older}{newer}{code}"
        run = planned(case, older)
        if newer:
            record(case, "e", state=newer)
        case.mkdir(exist_ok=True)
        (case / f"{run.run_id}.log").write_text("Traceback\n  what it said\n")
        assert _outcome(run, code) == outcome
        assert _conclude([run], case, {run.run_id: outcome}) == (0 if outcome in ("done", "diverged") else 1)
        said = capsys.readouterr().err.splitlines()
        assert said[:1] == ([f"{outcome or 'no record'}: {run.name}: {why}"] if why else [])


RUNS = {
    "null": ("fit", {"trainer.gradient_clip_val": [None, 1.0]}, [None, 1.0]),
    "none": ("fit", {"trainer.gradient_clip_val": ["None", 1.0]}, [None, 1.0]),
    "null in a block": ("fit", {"trainer": {"gradient_clip_val": [None, 1.0]}}, [None, 1.0]),
    "text that looks like a number": ("fit", {"model.lr": ["1e-4", 1.0e-3]}, [1e-4, 1e-3]),
    "prompts": ("predict", {"model.prompt": PROMPTS}, PROMPTS),
    "prompts in a block": ("predict", {"model": {"prompt": PROMPTS[8:10]}}, PROMPTS[8:10]),
}


@pytest.mark.parametrize("case", RUNS)
def test_values_reach_the_runs_as_they_are(case: str, tmp_path: Path) -> None:
    """From the file to what a dry run prints, by a shell, to what a run records."""
    verb, values, wanted = RUNS[case]
    ((name, inner),) = values.items()
    entry: Any = (
        {"parameters": {key: {"values": v} for key, v in inner.items()}} if isinstance(inner, dict) else {"values": inner}
    )
    config = {"fit": "finetune", "predict": "prompt"}[verb]
    words = ["${env}", "${interpreter}", "-m", "${program}", verb, f"--config={ROOT}/configs/{config}.yaml", "${args}"]
    content = {"program": "lit_degrade", "method": "grid", "command": words, "parameters": {name: entry}}
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump(content))
    out = sweep(path, "--dry-run")
    assert out.count("to run  ") == len(wanted)
    shown = re.split(r"^to run +[0-9a-f]{12}  python -m lit_degrade ", out, flags=re.MULTILINE)[1:]
    pasted = "".join(f"printf '%s\\0' {line}\nprintf '\\0'\n" for line in shown)
    printed = subprocess.run(["bash", "-c", pasted], capture_output=True, text=True, check=True).stdout
    *lines, end = printed.split("\0\0")
    assert end == ""
    configs = [resolve(line.split("\0")).config for line in lines]
    key = [*name.split("."), *(inner if isinstance(inner, dict) else ())][-1]
    assert [{**c["trainer"], **c["model"]["init_args"]}[key] for c in configs] == wanted


def test_doubts_are_one_line_and_the_sweep_goes_on(tmp_path: Path) -> None:
    path = sweep_file(tmp_path, **{"model.lr": {"distribution": "log_uniform", "min": 1.0e-5, "max": 1.0e-3}})
    path.write_text(path.read_text().replace("method: grid", "method: random\nrun_cap: 3"))
    doubt, *runs = sweep(path, "--dry-run").splitlines()
    assert doubt.endswith("For values from 1.0e-5 to 0.001 use log_uniform_values.")
    assert len(runs) == 3
    assert all("--model.lr=1.000" in run for run in runs)


def test_names_of_runs_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    name = "0123 model.prompt=[bold]x[/y] [red]"
    with Board("grid[/x]", [name], 0, 1) as board:
        board.start(0)
        board.end(0, "done")
    err = capsys.readouterr().err
    assert f"1/1 done {name} " in err
    assert "grid[/x]: 1 done" in err


def test_the_runs_of_a_sweep_are_none_that_the_environment_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty runs with one W&B id would be one run there."""
    kept = {name: "x" for name in ONE_RUN}
    for name in ONE_RUN:
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("WANDB_RUN_GROUP", "g")
    seen: dict[str, str] = {}
    monkeypatch.setattr("lit_degrade.grids.sweep._sweep", lambda *args: seen.update(os.environ) or 0)
    sweep(sweep_file(tmp_path))
    assert not kept.keys() & seen.keys()
    assert {"WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH", "WANDB_RESUME", "WANDB_NAME"} <= kept.keys()
    assert seen["WANDB_RUN_GROUP"] == "g"
    assert {name: os.environ[name] for name in ONE_RUN} == kept


def test_text_is_read_only_where_runs_are_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    ready: list[list[str]] = []
    monkeypatch.setattr("multiprocessing.set_forkserver_preload", ready.append)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for for_runs in (False, True):
        prepare_server(1, for_runs)
    modules, both = ready
    assert both == [*modules, "lit_degrade.grids.preload_text"]


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    assert "cannot be read: No such file" in sweep(tmp_path / "none.yaml", rc=2)


@pytest.mark.slow
def test_ctrl_c_interrupts_the_sweep_and_its_runs(tmp_path: Path) -> None:
    """A terminal sends it to all processes of a command."""
    path = sweep_file(tmp_path, **{"seed_everything": {"values": [43, 44, 45]}, "trainer.max_steps": {"value": 2000}})
    process = start(path, "--workers", "2")
    while not list((tmp_path / "results").glob("*/.*.partial/stimulus.txt")):
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert "Interrupted; the same command goes on from here." in err
    assert "Traceback" not in err
    assert set(states(path).values()) <= {"interrupted"}
    assert not list((tmp_path / "results").glob("*/.*.lock"))


def test_arguments_that_no_module_takes_are_found_before_any_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a constructor refuses shows when a sweep is resolved, not when its second run starts."""
    words = ["${env}", "${interpreter}", "-m", "${program}", "test", f"--config={ROOT}/configs/catalysts.yaml", "${args}"]
    grid = {"model.n_seeds": {"values": [1, 0]}}
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump({"program": "lit_degrade", "method": "grid", "command": words, "parameters": grid}))
    assert main(["sweep", str(path), "--results", str(tmp_path / "results")]) == 2
    assert "model.n_seeds: expected a whole number from 1, not 0" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()
