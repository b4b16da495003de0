"""Settings that save memory change memory and nothing else; running out of it is one line."""

import json
from pathlib import Path

import pytest
import torch
from helpers import PRIORITY3, manifest_of, run, summary_of

from lit_degrade.cli import main
from lit_degrade.curvature.kronecker import kronecker_factors
from lit_degrade.curvature.products import HessianProducts
from lit_degrade.measures.perplexity import token_nll
from lit_degrade.seeds import generator
from lit_degrade.subjects.loading import Subject


def losses(subject: Subject, parts: int) -> list:
    tokens = torch.randint(0, 1024, (4, 24), generator=generator(0, "tokens"))

    def part(chunk: torch.Tensor) -> torch.Tensor:
        return token_nll(subject.model(input_ids=chunk).logits, chunk).sum() / tokens[:, 1:].numel()

    return [lambda chunk=chunk: part(chunk) for chunk in tokens.chunk(parts)]


@pytest.mark.parametrize("method", ["exact", "central_difference"])
def test_products_in_parts_are_products_of_the_whole(tiny: Subject, method: str) -> None:
    parameters = tiny.parameters("blocks")
    whole, parts = (HessianProducts(losses(tiny, n), parameters, method) for n in (1, 3))  # type: ignore[arg-type]
    v = torch.randn(whole.size, generator=generator(0, "v"))
    v /= v.norm()
    torch.testing.assert_close(parts.gradient(), whole.gradient(), rtol=1e-4, atol=1e-6)
    error = (parts(v) - whole(v)).norm() / whole(v).norm()
    assert float(error) < (1e-5 if method == "exact" else 1e-2)


def test_factors_in_parts_are_factors_of_the_whole(tiny: Subject) -> None:
    parameters = tiny.parameters("blocks")
    whole, parts = (kronecker_factors(tiny.model, parameters, losses(tiny, n)) for n in (1, 4))
    for name in parameters:
        for moment in ("inputs", "centred", "gradients"):
            one, two = getattr(whole[name], moment), getattr(parts[name], moment)
            assert float((one - two).norm() / one.norm()) < 1e-5


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize("saving", ["--model.null_space.offload=true", "--model.null_space.microbatch=1"])
def test_a_lighter_null_space_is_the_same_null_space(saving: str, record: Path, tmp_path: Path) -> None:
    plain, light = summary_of(record), summary_of(run(tmp_path, saving))
    assert light["null_lambda_max"] == pytest.approx(plain["null_lambda_max"], rel=1e-3)
    assert light["null_ratio_median"] == pytest.approx(plain["null_ratio_median"], rel=0.02)
    assert light["null_exact_dims_excluded"] == plain["null_exact_dims_excluded"]
    if "offload" in saving:
        assert light["perplexity_post"] == plain["perplexity_post"], "on one device it is the same arithmetic"


@pytest.mark.parametrize(
    ("args", "advice"),
    [
        ([], "--gradient_checkpointing true, or --model.null_space.offload true, or --model.null_space.microbatch 1."),
        (
            ["--gradient_checkpointing=true", "--model.null_space.offload=true", "--model.null_space.microbatch=1"],
            "--model.null_space.directions 3 --model.null_space.products 20, or --adapter lora, or --model.optimizer adamw8bit"
            ".",
        ),
    ],
)
def test_out_of_memory_is_one_line_with_three_settings(
    args: list[str], advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A real failure of the host's allocator, in the middle of a run."""
    from lit_degrade.modules.attack import AttackModule

    monkeypatch.setattr(AttackModule, "measure_geometry", lambda self: torch.empty(2**50))
    assert main([*PRIORITY3, *args, "--results", str(tmp_path)]) == 1
    err = capsys.readouterr().err.strip()
    assert err == f"lit_degrade: out of memory. These would help: {advice}"
    (manifest,) = tmp_path.glob("priority3/*/manifest.json")
    assert json.loads(manifest.read_text())["exit_state"] == "failed"


def test_the_record_says_how_much_memory_was_used(record: Path) -> None:
    assert manifest_of(record)["peak_memory_bytes"]["host"] > 10_000_000
