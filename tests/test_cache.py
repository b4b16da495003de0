"""What runs share is computed once, and nobody can tell from the numbers."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from test_runs import manifest_of, run, summary_of

from lit_degrade.records.cache import Cache

ARM = ["--model.stimulus", "random_tokens"]


def test_a_cached_run_gives_the_same_numbers(tmp_path: Path) -> None:
    run(tmp_path / "warm")
    cold, warm = run(tmp_path / "cold", *ARM, "--cache_gb", "0"), tmp_path / "warm"
    assert not (tmp_path / "cold" / ".cache").exists()
    shutil.rmtree(warm / "priority3")
    second = run(warm, *ARM)
    assert manifest_of(second)["from_cache"] == ["null_space", "stimuli"]
    assert (second / "summary.json").read_text() == (cold / "summary.json").read_text()
    for name in ("directions.csv", "stimuli.csv", "stimulus.txt"):
        assert (second / name).read_text() == (cold / name).read_text()


@pytest.mark.parametrize("change", ["--seed_everything=9", "--model.null_space.products=22", "--precision=bf16"])
def test_another_question_is_computed_anew(change: str, tmp_path: Path) -> None:
    run(tmp_path)
    shutil.rmtree(tmp_path / "priority3")
    assert "from_cache" not in manifest_of(run(tmp_path, *ARM, change))


def test_other_budgets_share_the_null_space_only(tmp_path: Path) -> None:
    first = summary_of(run(tmp_path))
    shutil.rmtree(tmp_path / "priority3")
    folder = run(tmp_path, "--model.stimuli.evaluations", "40")
    assert manifest_of(folder)["from_cache"] == ["null_space"]
    assert summary_of(folder)["null_ratio_best"] == first["null_ratio_best"]


def parts(value: float) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    return {"x": torch.full((250,), value)}, {"value": value, "inf": float("inf")}


def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 3500e-9)  # three entries of 1,000 bytes and their headers
    calls: list[str] = []

    def ask(name: str) -> bool:
        (tensors, facts), kept = cache.remember("thing", {"name": name}, lambda: calls.append(name) or parts(float(ord(name))))
        assert float(tensors["x"][0]) == facts["value"] == ord(name)
        assert facts["inf"] == float("inf")
        time.sleep(0.02)  # file times are coarse
        return kept

    assert [ask(name) for name in "ab"] == [False, False]
    assert ask("a")
    assert not ask("c")
    assert not ask("d")
    assert sum(p.stat().st_size for p in tmp_path.glob("*.safetensors")) <= 3500
    assert ask("d")
    assert not ask("b"), "b was used least recently"


def test_an_entry_above_the_limit_is_not_kept(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 100e-9)
    assert not cache.remember("thing", {}, lambda: parts(1.0))[1]
    assert not cache.remember("thing", {}, lambda: parts(1.0))[1]


def test_two_processes_compute_once(tmp_path: Path) -> None:
    code = f"""
import time, pathlib, torch
from lit_degrade.records.cache import Cache
def work():
    time.sleep(1)
    with open({str(tmp_path / "log")!r}, "a") as log: log.write("x")
    return {{"x": torch.ones(2)}}, None
Cache(pathlib.Path({str(tmp_path)!r}), 1.0).remember("slow", {{}}, work)
"""
    both = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert (tmp_path / "log").read_text() == "x"
