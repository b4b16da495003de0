"""Whole sweeps on this machine: every run once, whatever is killed; failures listed; nothing started on bad input."""

import contextlib
import io
import json
import os
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
from test_cli import QUICK, ROOT

from lit_degrade.cli import main

COMMAND = [
    "${env}",
    "${interpreter}",
    "-m",
    "${program}",
    "fit",
    f"--config={ROOT}/configs/priority3.yaml",
    "--cache_gb=1",
    "${args}",
]
CONSTANTS = {key.removeprefix("--"): {"value": value} for key, value in zip(QUICK[::2], QUICK[1::2], strict=True)}


def sweep_file(folder: Path, name: str = "grid", command: list[str] = COMMAND, **parameters: Any) -> Path:
    path = folder / f"{name}.yaml"
    content = {"program": "lit_degrade", "method": "grid", "command": command, "parameters": CONSTANTS | parameters}
    path.write_text(yaml.safe_dump(content))
    return path


def start(path: Path, *args: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "lit_degrade", "sweep", str(path), "--results", str(path.parent / "results"), *args]
    environment = {**os.environ, "WANDB_MODE": "disabled"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, start_new_session=True, **pipes)


def sweep(path: Path, *args: str, rc: int = 0) -> str:
    """Run a sweep in this process, whose fork server serves all tests; returns what it printed."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out), contextlib.chdir(ROOT):
        found = main(["sweep", str(path), "--results", str(path.parent / "results"), *args])
    assert found == rc, out.getvalue()
    return out.getvalue()


def states(path: Path) -> dict[str, str]:
    found = {}
    for manifest in (path.parent / "results").glob("*/*/manifest.json"):
        found[manifest.parent.name] = json.loads(manifest.read_text())["exit_state"]
    return found


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
    path = sweep_file(tmp_path, subject={"values": ["tiny-60k", "tiny-2m"]})
    out = sweep(path, rc=1)
    assert "no record: " in out
    assert "Unknown subject 'tiny-2m'. Did you mean 'tiny-3m'?" in out
    assert list(states(path).values()) == ["done"]


def test_equal_points_are_one_run(tmp_path: Path) -> None:
    """Two command lines that resolve to the same config are the same run."""
    path = sweep_file(tmp_path, **{"model.lr": {"value": 1.0e-4}, "verbosity": {"values": ["quiet", "normal"]}})
    assert len(sweep(path, "--dry-run").splitlines()) == 1


BAD = {
    "parameter": ({"model.learning_rate": {"value": 1}}, [], "Unknown key of AttackModule 'learning_rate'"),
    "top parameter": ({"modle": {"value": 1}}, [], "Unknown key 'modle'"),
    "value": ({"model.stimulus": {"values": ["random_text", "eigen_prio"]}}, [], "Did you mean 'eigen_prion'?"),
    "empty grid": ({"seed_everything": {"values": []}}, [], "the grid is empty"),
    "too many": ({"seed_everything": {"min": 1, "max": 30}}, ["--max-runs", "20"], "30 runs are more than --max-runs 20"),
    "workers": ({}, ["--workers", "0"], "--workers and --max-runs must be at least 1"),
    "launcher": ({}, ["--launcher", "clod"], "invalid choice: 'clod'"),
    "option": ({}, ["--wrokers", "2"], "unrecognized arguments: --wrokers"),
    "slurm setting": ({}, ["--launcher", "slurm", "--slurm", "gpu"], "--slurm gpu: expected KEY=VALUE"),
    "results": ({}, ["--results", f"{__file__}/results"], "cannot be written: Not a directory"),
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
