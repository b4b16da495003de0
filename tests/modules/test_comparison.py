"""Variants of one subject side by side: each is what the run that makes it alone measures."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import load
from helpers import ROOT, manifest_of, rows_of, run, summary_of

from lit_degrade.adversarial.embeddings import attacked, embedded, embedding_changed, loss_of, no_change, shifted, units
from lit_degrade.cli import main
from lit_degrade.measures.perplexity import token_nll
from lit_degrade.seeds import generator
from lit_degrade.text import TextSource

QUICK = ["--subject", "tiny-60k", "--text.probe_tokens", "2048", "--verbosity", "quiet"]
COMMAND = ["test", "--config", str(ROOT / "configs/comparison.yaml"), *QUICK]
LIST = ["--model.prune", "[{method: sparsegpt, sparsity: 0.5}, {method: wanda, pattern: '2:4'}]", "--model.keep", "true"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("comparison"), *LIST, "--model.beside", "[tiny-250k]", verb=COMMAND)


@pytest.fixture(scope="module")
def variants(folder: Path) -> dict[str, dict[str, str]]:
    return {row["variant"]: row for row in rows_of(folder / "variants.csv")}


def damage(row: dict[str, Any]) -> float:
    return float(row["log_perplexity_ratio"])


def test_every_variant_has_its_row_and_its_answer(folder: Path, variants: dict[str, dict[str, str]]) -> None:
    kinds = [(row["variant"], row["kind"]) for row in variants.values()]
    assert kinds == [
        ("as given", "intact"),
        ("pruned sparsegpt 0.5", "pruned"),
        ("pruned wanda 2:4", "pruned"),
        ("add_gauss all 0.05", "perturbed"),
        ("add_gauss_absolute all 0.05", "perturbed"),
        ("uni_quant_channel blocks 16", "perturbed"),
        ("random linf 0.1", "attacked"),
        ("fgsm linf 0.1", "attacked"),
        ("pgd linf 0.1", "attacked"),
        ("tiny-250k", "other"),
    ]
    summary = summary_of(folder)
    assert summary["variants"] == 10
    assert all(key.isidentifier() for key in summary)
    for row in variants.values():
        assert int(row["answer_tokens"]) > 0
    assert damage(variants["as given"]) == 0
    assert float(variants["pruned wanda 2:4"]["sparsity"]) == 0.5
    assert damage(variants["pgd linf 0.1"]) >= damage(variants["fgsm linf 0.1"]) > damage(variants["random linf 0.1"])
    assert manifest_of(folder)["sha256"]["subject_after"] == manifest_of(folder)["sha256"]["subject"]


def test_pruned_and_perturbed_variants_are_those_of_runs_of_their_own(
    variants: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    prune = ["fit", "--config", str(ROOT / "configs/prune.yaml"), *QUICK, "--model.prune.method", "sparsegpt"]
    alone = summary_of(run(tmp_path / "pruned", verb=prune))
    assert damage(variants["pruned sparsegpt 0.5"]) == pytest.approx(alone["log_perplexity_ratio"], abs=1e-6)
    assert float(variants["pruned sparsegpt 0.5"]["relative_norm"]) == pytest.approx(alone["relative_norm"])
    noise = ["test", "--config", str(ROOT / "configs/robustness.yaml"), *QUICK, "--model.levels", "[0.05]"]
    (row,) = rows_of(run(tmp_path / "noisy", "--model.repetitions", "1", verb=noise) / "doses.csv")
    for column in ("nats_per_token", "token_accuracy", "bits_per_byte", "relative_norm"):
        assert float(variants["add_gauss all 0.05"][column]) == pytest.approx(float(row[column]), abs=1e-6)


def test_attacked_variants_read_attacked_text(variants: dict[str, dict[str, str]]) -> None:
    subject = load("tiny-60k")
    ids = TextSource(probe_tokens=2048).blocks("probe", subject.tokenizer, 16).ids
    radius = 0.1 * units(embedded(subject, ids))["linf"]
    draws = [generator(43, "comparison", "random", str(row)) for row in range(16)]
    delta = attacked("random", loss_of(subject, ids, ids), no_change(subject, ids), "linf", radius, 1, draws)
    with torch.inference_mode(), embedding_changed(subject, shifted(delta)):
        nll = token_nll(subject.model(input_ids=ids).logits, ids).double().mean()
    assert float(variants["random linf 0.1"]["nats_per_token"]) == pytest.approx(float(nll), abs=1e-6)


def test_kept_variants_are_subjects(folder: Path, variants: dict[str, dict[str, str]], tmp_path: Path) -> None:
    kept = {path.name.replace("_", " "): path for path in (folder / "subjects").iterdir()}
    assert set(kept) == {
        "pruned sparsegpt 0.5", "pruned wanda 2-4", "add gauss all 0.05", "add gauss absolute all 0.05",
        "uni quant channel blocks 16",
    }  # fmt: skip
    measure = ["test", "--config", str(ROOT / "configs/evaluate.yaml"), *QUICK, "--subject", str(kept["pruned wanda 2-4"])]
    assert summary_of(run(tmp_path, verb=measure))["nats_per_token_pre"] == pytest.approx(
        float(variants["pruned wanda 2:4"]["nats_per_token"]), abs=1e-6
    )


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--model.epsilon", "-0.1"], "model.epsilon: expected a finite number from 0, not -0.1."),
        (["--model.attacks", "[fgms]"], "Unknown attack 'fgms'. Did you mean 'fgsm'?"),
        (["--prompt", " "], "the prompt is empty"),
        (["--model.prune", "[{sparsity: 1.0}]"], "model.prune.sparsity: expected a share from 0 to below 1, not 1.0."),
        (["--model.prune", "[{pattern: '3:7'}]"], "3:7"),
        (
            ["--model.prune", "[{method: wanda}, {method: wanda}]"],
            "two variants are called 'pruned wanda 0.5': expected each once.",
        ),
        (["--model.perturb", "[{method: zero, level: 2}]"], "model.perturb.level: 2 of zero is outside its range"),
        (["--model.perturb", "[{method: zeros, level: 1}]"], "zeros"),
        (["--model.beside", "[nobody]"], "Unknown subject 'nobody'"),
    ],
)
def test_bad_input(args: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*COMMAND, *args, "--results", str(tmp_path / "results")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "results").exists()
