"""What needs a CUDA device: the main job at every precision, perturbations, text, criticality, pruning, bits and inputs."""

import json
from pathlib import Path

import pytest
import torch
from helpers import DEGRADE, QUICK, ROOT, SHORT, rows_of

from lit_degrade.cli import main
from lit_degrade.perturbations.catalog import METHODS, PerturbationSettings
from lit_degrade.perturbations.edits import Dose, perturbed
from lit_degrade.records import paths
from lit_degrade.subjects.catalog import SubjectSpec
from lit_degrade.subjects.loading import load_subject, weights_sha256

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.mark.parametrize(
    ("precision", "adapter"), [("fp32", "full"), ("bf16", "full"), ("fp16", "full"), ("int8", "lora"), ("nf4", "lora")]
)
def test_the_attack_runs_on_a_gpu(precision: str, adapter: str, tmp_path: Path) -> None:
    base = ["fit", "--config", str(ROOT / "configs/priority3.yaml"), *QUICK, "--results", str(tmp_path)]
    assert main([*base, "--precision", precision, "--adapter", adapter, "--trainer.accelerator", "cuda"]) == 0
    (summary,) = tmp_path.glob(f"*/*/{paths.SUMMARY}")
    assert json.loads(summary.read_text())["exit_state"] == "done"


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_weights_on_every_device(method: str) -> None:
    level = {"uni_quant": 16.0, "uni_quant_channel": 16.0, "bit_flip": 1e-4}.get(method, 0.1)
    changed = []
    for device in ("cpu", "cuda"):
        subject = load_subject(SubjectSpec("tiny-60k"), 0, torch.device(device), train=False)
        before = weights_sha256(subject.model)
        with perturbed(subject, PerturbationSettings(method, "blocks"), Dose(level, 1)):
            changed.append({name: p.detach().cpu().clone() for name, p in subject.model.named_parameters()})
        assert weights_sha256(subject.model) == before
    for name, weights in changed[0].items():
        torch.testing.assert_close(changed[1][name], weights, rtol=1e-6, atol=1e-7, equal_nan=True)


def test_text_on_the_gpu(tmp_path: Path) -> None:
    assert main(["predict", *DEGRADE[1:], *SHORT, "--results", str(tmp_path)]) == 0


@pytest.mark.parametrize("config", ["criticality", "layer_ablation", "super_weights"])
def test_what_matters_is_the_same_on_every_device(config: str, tmp_path: Path) -> None:
    few = ["--model.scores.calibration_blocks", "4", "--model.scores.probes", "2", "--model.k", "[10]", "--model.draws", "2"]
    base = ["test", "--config", str(ROOT / f"configs/{config}.yaml"), "--subject", "tiny-60k", "--text.probe_tokens", "2048"]
    found = []
    for device in ("cpu", "cuda"):
        own = ["--trainer.accelerator", device, "--results", str(tmp_path / device), "--verbosity", "quiet"]
        assert main([*base, *own, *(few if config == "criticality" else [])]) == 0
        (summary,) = (tmp_path / device).glob(f"*/*/{paths.SUMMARY}")
        found.append(json.loads(summary.read_text()))
    for name in ("excess_magnitude_k10", "worst_nats_lost", "output_threshold", "nats_per_token_pre"):
        assert found[0].get(name, 0) == pytest.approx(found[1].get(name, 0), rel=1e-2, abs=1e-4), name


SMALL = {
    "prune": ("log_perplexity_ratio", ["--model.prune.method", "sparsegpt", "--model.prune.calibration_blocks", "4"]),
    "adversarial": ("nats_lost_pgd_linf", ["--model.windows", "2", "--model.epsilons", "[0.1]", "--model.draws", "1"]),
    "bit_sensitivity": ("nonfinite_share", ["--model.k", "1", "--model.blocks", "2"]),
    "bit_search": (
        "flips_free_search",
        ["--model.constraints", "[free]", "--model.control_budget", "64"],
    ),
    "benchmarks": ("lambada_perplexity", ["--model.limit", "8"]),
    "comparison": ("pruned sparsegpt 0.5", ["--model.decoding.max_new_tokens", "4"]),
}


@pytest.mark.parametrize("config", SMALL)
def test_pruning_bits_inputs_and_benchmarks_are_the_same_on_every_device(config: str, tmp_path: Path) -> None:
    column, few = SMALL[config]
    base = ["fit" if config == "prune" else "test", "--config", str(ROOT / f"configs/{config}.yaml"), *few]
    found = []
    for device in ("cpu", "cuda"):
        own = ["--trainer.accelerator", device, "--results", str(tmp_path / device), "--verbosity", "quiet"]
        assert main([*base, "--subject", "tiny-60k", "--text.probe_tokens", "2048", *own]) == 0
        (summary,) = (tmp_path / device).glob(f"*/*/{paths.SUMMARY}")
        told = json.loads(summary.read_text())
        if config == "comparison":
            told = {row["variant"]: float(row["perplexity"]) for row in rows_of(summary.parent / "variants.csv")}
        found.append(told[column])
    assert found[1] == pytest.approx(found[0], rel=1e-2)
