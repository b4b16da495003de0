"""Whole runs on the smallest subject: records, reproducibility, optimizers, precisions, divergence, kills."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers import PRIORITY3, ROOT, manifest_of, run, summary_of
from safetensors.torch import load_file

from lit_degrade.cli import main
from lit_degrade.records import paths, tables
from lit_degrade.run import _hidden_from_agent
from lit_degrade.stimuli.catalog import STIMULI
from lit_degrade.subjects.loading import weights_sha256
from lit_degrade.text import TextSource


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of runs that may share what they cache."""
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The only run of this file that W&B is told of."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        return run(tmp_path_factory.mktemp("attacked"))


def test_the_record_is_complete(attacked: Path) -> None:
    assert {f.name for f in attacked.iterdir()} == {
        paths.CONFIG, paths.MANIFEST, tables.COURSE.file, paths.SUMMARY, paths.SPECTRA, paths.STIMULUS, paths.STIMULUS_TEXT,
        tables.STIMULI.file, tables.DIRECTIONS.file, paths.SUBJECT,
    }  # fmt: skip
    summary, manifest = summary_of(attacked), manifest_of(attacked)
    assert summary["exit_state"] == manifest["exit_state"] == "done"
    assert summary["steps"] == 6
    assert summary["log_perplexity_ratio"] == pytest.approx(summary["nats_per_token_post"] - summary["nats_per_token_pre"])
    for key in ("bits_per_byte_post", "token_accuracy_post", "kl_from_intact", "drift", "drift_attn_v", "update_energy_null"):
        assert isinstance(summary[key], float)
    assert summary["rank_reduction"] == pytest.approx(
        1 - summary["effective_rank_post_layer1"] / summary["effective_rank_pre_layer1"]
    )
    assert summary["rank_change_absolute"] == abs(summary["rank_reduction"])
    assert set(manifest["sha256"]) == {"subject", "text", "subject_after"}
    assert manifest["sha256"]["subject"] != manifest["sha256"]["subject_after"]
    rows = list(csv.DictReader((attacked / tables.COURSE).open()))
    losses = [float(row["train_nats_per_token"]) for row in rows if row["train_nats_per_token"]]
    assert len(losses) == 6
    assert losses[-1] < losses[0]
    stimuli = {row["stimulus"]: row for row in csv.DictReader((attacked / tables.STIMULI).open())}
    assert set(stimuli) == {*STIMULI, "random_swap"} - {"anti_catalyst"}
    assert len(list(csv.DictReader((attacked / tables.DIRECTIONS).open()))) == 10
    assert load_file(attacked / paths.STIMULUS)["tokens"].shape == (1, 64)
    spectra = load_file(attacked / paths.SPECTRA)
    assert {"step00000/layer00", "step00006/layer01"} <= set(spectra)


def test_wandb_ran_offline_below_the_results_folder(attacked: Path) -> None:
    noted = manifest_of(attacked)["wandb"]
    assert noted["mode"] == "offline"
    folder = attacked.parent / noted["folder"]
    assert next(folder.glob("run-*.wandb")).name == f"run-{attacked.name}.wandb"
    inspect = [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", str(folder)]
    out = subprocess.run(inspect, capture_output=True, text=True, check=True).stdout
    found = json.loads(out)
    assert found["summary"]["log_perplexity_ratio"] == pytest.approx(summary_of(attacked)["log_perplexity_ratio"])


def test_same_config_and_seed_give_the_same_summary(attacked: Path, tmp_path: Path) -> None:
    again = run(tmp_path, verb=["fit", "--config", str(attacked / paths.CONFIG)])
    assert again.name == attacked.name
    assert (again / paths.SUMMARY).read_text() == (attacked / paths.SUMMARY).read_text()


def test_a_finished_run_is_recognised(attacked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (attacked / paths.MANIFEST).stat().st_mtime_ns
    assert main([*PRIORITY3, "--results", str(attacked.parent.parent)]) == 0
    assert "already recorded" in capsys.readouterr().out
    assert (attacked / paths.MANIFEST).stat().st_mtime_ns == before


@pytest.mark.parametrize("stimulus", ["random_tokens", "random_text", "gaussian_noise"])
def test_another_seed_gives_other_numbers(stimulus: str, shared: Path) -> None:
    """Known error 8. All placebo arms go through the attack's own training step and optimizer (known error 4)."""
    one = summary_of(run(shared, "--model.stimulus", stimulus, "--seed_everything", "1"))
    two = summary_of(run(shared, "--model.stimulus", stimulus, "--seed_everything", "2"))
    assert one["optimizer"] == two["optimizer"] == "adamw"
    assert one["perplexity_pre"] == two["perplexity_pre"]
    assert one["perplexity_post"] != two["perplexity_post"]
    assert one["null_energy"] != two["null_energy"]


def test_the_attacked_subject_is_a_subject(attacked: Path, tmp_path: Path) -> None:
    verb = ["test", "--config", str(ROOT / "configs/evaluate.yaml"), "--text.probe_tokens", "2048", "--verbosity", "quiet"]
    measured = summary_of(run(tmp_path, "--subject", str(attacked / paths.SUBJECT), verb=verb))
    assert measured["perplexity_pre"] == pytest.approx(summary_of(attacked)["perplexity_post"], rel=1e-5)


def test_validate_measures_what_test_measures(tmp_path: Path) -> None:
    rest = ["--config", str(ROOT / "configs/evaluate.yaml"), "--subject", "tiny-60k", "--precision", "int8"]
    quick = ["--text.probe_tokens", "2048", "--verbosity", "quiet"]
    one, two = (summary_of(run(tmp_path / verb, verb=[verb, *rest, *quick])) for verb in ("test", "validate"))
    assert one["perplexity_pre"] == two["perplexity_pre"]
    assert one["effective_rank_layer1"] == two["effective_rank_layer1"]


def test_adamw_is_adamw() -> None:
    """Known error 4: what is called AdamW moves every weight by lr at its first step; Adafactor and SGD do not."""
    from lit_degrade.modules.optimizers import build_optimizer

    def first_update(name: str) -> torch.Tensor:
        w = torch.nn.Parameter(torch.zeros(64, 64))
        w.grad = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
        build_optimizer(name, [w], 1e-3).step()  # type: ignore[arg-type]
        return w.detach().abs()

    torch.testing.assert_close(first_update("adamw"), torch.full((64, 64), 1e-3), rtol=1e-4, atol=0)
    assert float(first_update("adafactor").std()) > 1e-4
    assert type(build_optimizer("adamw", [torch.nn.Parameter(torch.zeros(1))], 1.0)) is torch.optim.AdamW


@pytest.mark.parametrize("optimizer", ["sgd", "adafactor", "adamw8bit"])
def test_every_optimizer_trains(optimizer: str, shared: Path) -> None:
    summary = summary_of(run(shared, "--model.optimizer", optimizer, "--model.stimulus", "random_tokens"))
    assert summary["displacement"] > 0


@pytest.mark.parametrize(
    ("precision", "adapter"),
    [
        ("fp32", "lora"),
        ("bf16", "full"),
        ("fp16", "lora"),
        ("int8", "lora"),
        ("nf4", "lora"),
        pytest.param("fp16", "full", marks=pytest.mark.slow),
        pytest.param("bf16", "lora", marks=pytest.mark.slow),
    ],
)
def test_every_precision_trains(precision: str, adapter: str, tmp_path: Path) -> None:
    short = ["--text.block", "64", "--text.probe_tokens", "1024"]
    args = ["--precision", precision, "--adapter", adapter, "--model.lr", "1e-3", *short]
    folder = run(tmp_path, *args)
    summary = summary_of(folder)
    rows = list(csv.DictReader((folder / tables.COURSE).open()))
    losses = [float(row["train_nats_per_token"]) for row in rows if row["train_nats_per_token"]]
    assert losses[-1] < losses[0]
    assert summary["drift"] > 0
    assert summary["hvp"] == ("central_difference" if precision == "int8" else "exact")
    verb = ["test", "--config", str(ROOT / "configs/evaluate.yaml"), *short, "--verbosity", "quiet"]
    saved = ["--subject", str(folder / paths.SUBJECT), "--precision", precision, "--adapter", adapter]
    measured = summary_of(run(tmp_path / "again", *saved, verb=verb))
    assert measured["nats_per_token_pre"] == pytest.approx(summary["nats_per_token_post"], abs=0.02)


@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_a_quantised_backbone_is_frozen_bit_for_bit(precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lit_degrade.callbacks import LogDamage

    seen: dict[str, list[dict[str, bytes]]] = {"lora": [], "frozen": []}

    def look(module: Any) -> None:
        state = {k: v for k, v in module.subject.model.state_dict().items() if isinstance(v, torch.Tensor)}
        hashed = {k: v.contiguous().view(-1).view(torch.uint8).numpy().tobytes() for k, v in state.items()}
        for kind, states in seen.items():
            states.append({k: v for k, v in hashed.items() if ("lora_" in k) == (kind == "lora")})

    start, end = LogDamage.on_fit_start, LogDamage.on_train_end
    monkeypatch.setattr(LogDamage, "on_fit_start", lambda self, t, m: (look(m), start(self, t, m))[1])
    monkeypatch.setattr(LogDamage, "on_train_end", lambda self, t, m: (end(self, t, m), look(m))[0])
    tune = ["fit", "--config", str(ROOT / "configs/finetune.yaml"), "--subject", "tiny-60k", "--text.probe_tokens", "2048"]
    run(tmp_path, "--precision", precision, "--adapter", "lora", "--model.lr", "1e-3", "--trainer.max_steps", "6", verb=tune)
    before, after = seen["frozen"]
    assert len(before) > 20
    assert any("SCB" in k or "absmax" in k for k in before), "codes and their scales are part of the backbone"
    assert before == after
    before, after = seen["lora"]
    assert all(before[k] != after[k] for k in before)


def test_gradient_checkpointing_changes_memory_and_nothing_else(attacked: Path, tmp_path: Path) -> None:
    other = summary_of(run(tmp_path, "--gradient_checkpointing", "true"))
    assert other["perplexity_post"] == pytest.approx(summary_of(attacked)["perplexity_post"], rel=1e-3)


def test_divergence_is_an_outcome(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(tmp_path, "--model.lr", "1e30", "--model.optimizer", "sgd", rc=3)
    summary = summary_of(folder)
    assert summary["exit_state"] == "diverged"
    assert 1 <= summary["diverged_at_step"] <= 6
    assert "diverged" in capsys.readouterr().err
    assert main([*PRIORITY3, "--results", str(tmp_path), "--model.lr", "1e30", "--model.optimizer", "sgd"]) == 3


def test_pretraining_makes_a_subject(tmp_path: Path) -> None:
    verb = ["fit", "--config", str(ROOT / "configs/pretrain_tiny.yaml"), "--verbosity", "quiet", "--subject", "tiny-60k"]
    (tmp_path / "some.txt").write_text("\n".join(TextSource().documents[:100]))  # a tenth of what there is to be tokenised
    short = ["--trainer.max_steps", "8", "--text.probe_tokens", "2048", "--model.init_args.warmup_steps", "2"]
    short += ["--text.source", str(tmp_path / "some.txt")]
    folder = run(tmp_path / "1", *short, verb=verb)
    summary = summary_of(folder)
    assert summary["perplexity_post"] < 1024
    again = summary_of(run(tmp_path / "2", *short, verb=verb))
    assert again["perplexity_post"] == summary["perplexity_post"]
    from conftest import load

    subject = load(str(folder / paths.SUBJECT))
    assert weights_sha256(subject.model) == weights_sha256(load(str(folder / paths.SUBJECT)).model)
    assert json.loads((folder / paths.SUBJECT / "card.json").read_text())["held_out_perplexity"] == pytest.approx(
        summary["perplexity_post"], abs=1e-3
    )


def test_catalyst_comparison(tmp_path: Path) -> None:
    verb = ["test", "--config", str(ROOT / "configs/catalysts.yaml"), "--subject", "tiny-60k", "--verbosity", "quiet"]
    small = [
        "--model.n_seeds", "2", "--model.null_space.products", "30", "--model.null_space.random_directions", "5",
        "--model.null_space.calibration_blocks", "2", "--model.stimuli.evaluations", "120", "--text.probe_tokens", "2048",
    ]  # fmt: skip
    folder = run(tmp_path, *small, verb=verb)
    summary = summary_of(folder)
    rows = list(csv.DictReader((folder / tables.STIMULI).open()))
    assert len(rows) == 2 * len(STIMULI)  # random_swap, and no anti_catalyst
    wins = 0
    for seed in {row["seed"] for row in rows}:
        energy = {row["stimulus"]: float(row["null_energy"]) for row in rows if row["seed"] == seed}
        wins += energy["eigen_prion"] == max(energy.values())
    assert summary["eigen_prion_wins"] == wins
    assert summary["null_energy_mean_eigen_prion"] > 2 * summary["null_energy_mean_random_tokens"]


def test_wandb_can_run_again_after_a_run_within_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it had started before was ended, and still named in the environment."""
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    wandb.init(dir=tmp_path).finish()
    with _hidden_from_agent():
        pass
    wandb.init(dir=tmp_path).finish()
    assert len(list(tmp_path.rglob("*.wandb"))) == 2


def test_secrets_do_not_reach_the_record(attacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "hf_" + "s3cr3t" * 5
    monkeypatch.setenv("HF_TOKEN", secret)
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = run(tmp_path, "--model.stimulus", "random_tokens", "--trainer.max_steps", "1")
    assert list(tmp_path.rglob("*.wandb"))
    for path in [*folder.rglob("*"), *tmp_path.rglob("*.wandb")]:
        if path.is_file():
            assert secret.encode() not in path.read_bytes(), path
    assert yaml.safe_load((folder / paths.CONFIG).read_text())["experiment"] == "priority3"
