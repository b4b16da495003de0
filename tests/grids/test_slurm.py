"""A sweep as an array of jobs on a one-node SLURM."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from helpers import ROOT, states, sweep_file
from one_node_slurm import OneNodeSlurm

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(OneNodeSlurm.missing()), reason=OneNodeSlurm.missing() or "there is SLURM"),
]


def sweep(path: Path, slurm: OneNodeSlurm, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lit_degrade", "sweep", str(path), "--results", str(path.parent / "results")]
    options = ["--launcher", "slurm", "--workers", "2", "--slurm", "partition=debug", "--slurm", "cpus_per_task=1"]
    environment = {**os.environ, **slurm.environment, "WANDB_MODE": "disabled"}
    words = [*command, *options, *args]
    return subprocess.run(words, cwd=ROOT, env=environment, text=True, capture_output=True, timeout=550, check=False)


def test_a_sweep_as_an_array_of_jobs(tmp_path: Path) -> None:
    parameters = {"model.optimizer": {"values": ["adamw", "sgd", "sgd_matched"]}, "model.lr": {"values": [1.0e-4, 1.0e30]}}
    path = sweep_file(tmp_path, **parameters)
    with OneNodeSlurm() as slurm:
        first = sweep(path, slurm)
        found = Counter(states(path).values())
        assert found["done"] >= 3, first.stderr
        assert sum(found.values()) == 6
        assert first.returncode == 0, first.stderr
        times = {p: p.stat().st_mtime_ns for p in (tmp_path / "results").glob("*/*/manifest.json")}
        again = sweep(path, slurm)
        assert "6 finished before" in again.stderr
        assert {p: p.stat().st_mtime_ns for p in times} == times
        other = sweep_file(tmp_path, name="other", **{"seed_everything": {"value": 1}})
        for setting in ("partition=none", "constraint=[a100"):
            refused = sweep(other, slurm, "--slurm", setting)
            assert refused.returncode == 2
            assert len(refused.stderr.strip().splitlines()) == 1
            assert "--launcher slurm" in refused.stderr
