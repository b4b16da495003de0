"""What runs share is computed once, and nobody can tell from the numbers."""

import multiprocessing
import time
from pathlib import Path

import pytest
import torch
from helpers import manifest_of, run, summary_of

from lit_degrade.records.cache import Cache

ARM = ["--model.stimulus", "random_tokens"]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in whose results there is something to share."""
    return run(tmp_path_factory.mktemp("warm"))


@pytest.fixture
def warm(first: Path) -> Path:
    return first.parent.parent


def test_a_cached_run_gives_the_same_numbers(warm: Path, tmp_path: Path) -> None:
    cold = run(tmp_path, *ARM, "--cache_gb", "0")
    assert not (tmp_path / ".cache").exists()
    second = run(warm, *ARM)
    assert manifest_of(second)["from_cache"] == ["null_space", "stimuli"]
    assert (second / "summary.json").read_text() == (cold / "summary.json").read_text()
    for name in ("directions.csv", "stimuli.csv", "stimulus.txt"):
        assert (second / name).read_text() == (cold / name).read_text()


@pytest.mark.parametrize("change", ["--seed_everything=9", "--model.null_space.products=22", "--precision=bf16"])
def test_another_question_is_computed_anew(change: str, warm: Path) -> None:
    assert "from_cache" not in manifest_of(run(warm, *ARM, change))


def test_other_budgets_share_the_null_space_only(first: Path, warm: Path) -> None:
    folder = run(warm, "--model.stimuli.evaluations", "40")
    assert manifest_of(folder)["from_cache"] == ["null_space"]
    assert summary_of(folder)["null_ratio_best"] == summary_of(first)["null_ratio_best"]


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
    def work() -> tuple[dict[str, torch.Tensor], None]:
        time.sleep(0.5)
        with (tmp_path / "log").open("a") as log:
            log.write("x")
        return {"x": torch.ones(2)}, None

    fork = multiprocessing.get_context("fork")
    both = [fork.Process(target=Cache(tmp_path, 1.0).remember, args=("slow", {}, work)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert (tmp_path / "log").read_text() == "x"
