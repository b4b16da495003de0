"""Loading from a folder: every architecture, precision and adapter, by the real code; and the whole attack on each."""

import json
from pathlib import Path

import pytest
import torch
from conftest import FAMILY_CONFIGS, load, random_folder, random_model
from helpers import QUICK, ROOT
from transformers import AutoTokenizer

from lit_degrade.cli import main
from lit_degrade.errors import UserError
from lit_degrade.records import paths
from lit_degrade.subjects.catalog import EMBEDDED_FOLDER
from lit_degrade.subjects.files import locate
from lit_degrade.subjects.loading import Subject, misread_rows, weights_sha256

TOKENS = torch.arange(8, 40)[None]


def save(family: str, folder: Path) -> str:
    """Folder with a tiny random subject that shares the embedded vocabulary."""
    random_model(family, vocabulary=1024).save_pretrained(folder)
    AutoTokenizer.from_pretrained(EMBEDDED_FOLDER / "tiny-60k").save_pretrained(folder)
    return str(folder)


def logits(subject: Subject) -> torch.Tensor:
    with torch.no_grad():
        return subject.model(input_ids=TOKENS).logits


def test_every_family_loads_and_adapts(family: str, tmp_path: Path) -> None:
    folder = save(family, tmp_path / "subject")
    subject = load(folder)
    with torch.no_grad():
        expected = random_model(family, vocabulary=1024)(input_ids=TOKENS).logits
    torch.testing.assert_close(logits(subject), expected, rtol=1e-4, atol=1e-5)
    assert {p.dtype for p in subject.model.parameters()} == {torch.float32}
    assert len(subject.anatomy.blocks) == 3
    adapted = load(folder, adapter="lora")
    torch.testing.assert_close(logits(adapted), logits(subject), rtol=1e-4, atol=1e-5)  # B = 0: nothing has changed yet
    assert all(".lora_" in name and "vision" not in name for name in adapted.trainable())
    assert {site.component for site in adapted.anatomy.sites} >= {"adapter", "attn_v"}
    assert torch.equal(*(p for name, p in [*load(folder, adapter="lora").trainable().items(), *adapted.trainable().items()]
                         if name == next(iter(adapted.trainable()))))  # fmt: skip
    subject.save(tmp_path / "again")
    assert weights_sha256(load(str(tmp_path / "again")).model) == weights_sha256(subject.model)


UNLIKE = ("gpt2", "opt", "falcon", "gemma3")
"""Families whose layers, embeddings or inputs are most unlike the embedded subjects'."""


@pytest.mark.parametrize(
    "family", [pytest.param(family, marks=() if family in UNLIKE else pytest.mark.slow) for family in FAMILY_CONFIGS]
)
def test_the_attack_runs_on_every_family(family: str, tmp_path: Path) -> None:
    folder = save(family, tmp_path / "subject")
    base = ["fit", "--config", str(ROOT / "configs/priority3.yaml"), *QUICK, "--subject", folder]
    short = ["--model.stimuli.tokens", "24", "--text.block", "48", "--text.probe_tokens", "2304", "--trainer.max_steps", "3"]
    assert main([*base, *short, "--results", str(tmp_path / "results")]) == 0
    (summary,) = (tmp_path / "results").glob(f"*/*/{paths.SUMMARY}")
    found = json.loads(summary.read_text())
    assert found["exit_state"] == "done"
    assert found["null_energy_eigen_prion"] > found["null_energy_random_tokens"]
    assert found["drift"] > 0


@pytest.mark.parametrize(("precision", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_half_precision_keeps_float32_masters_in_training_only(precision: str, dtype: torch.dtype) -> None:
    """In pure half precision a small step rounds away, which is not immunity."""
    from lit_degrade.subjects.catalog import SubjectSpec
    from lit_degrade.subjects.loading import load_subject

    spec = SubjectSpec("tiny-60k", precision)  # type: ignore[arg-type]
    trained = load_subject(spec, 0, torch.device("cpu"), train=True)
    measured = load_subject(spec, 0, torch.device("cpu"), train=False)
    assert {p.dtype for p in trained.model.parameters()} == {torch.float32}
    assert {p.dtype for p in measured.model.parameters()} == {dtype}
    for a, b in zip(trained.model.parameters(), measured.model.parameters(), strict=True):
        assert torch.equal(a, b.float())
    with trained.autocast():
        assert trained.model(input_ids=TOKENS).logits.dtype == dtype


@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_quantised_subjects_are_quantised_and_close(precision: str) -> None:
    quantised, plain = load("tiny-1m", precision=precision, adapter="lora"), load("tiny-1m")
    assert any(p.dtype in (torch.int8, torch.uint8) for p in quantised.model.parameters())
    error = (logits(quantised) - logits(plain)).norm() / logits(plain).norm()
    assert 0 < float(error) < 0.2
    loss = quantised.model(input_ids=TOKENS, labels=TOKENS).loss
    loss.backward()
    gradients = [p.grad for name, p in quantised.trainable().items() if "lora_B" in name]
    assert all(g is not None and bool(g.abs().sum() > 0) for g in gradients)


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    subject = load(save("gpt2", tmp_path / "subject"))
    assert subject.model.lm_head.weight.data_ptr() == subject.model.transformer.wte.weight.data_ptr()
    assert "head" not in subject.anatomy.components


def test_names_resolve() -> None:
    assert locate("pythia-70m") == "EleutherAI/pythia-70m"
    assert locate("someone/some-model") == "someone/some-model"
    with pytest.raises(UserError, match="Unknown subject"):
        locate("./nowhere")
    with pytest.raises(UserError, match="holds no subject"):
        locate(str(ROOT / "tests"))


@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_a_subject_that_cannot_be_quantised_is_refused(precision: str, tmp_path: Path) -> None:
    """Falcon's matrices are of a class of its own, which bitsandbytes passes over without a word."""
    folder = random_folder("falcon", tmp_path)
    with pytest.raises(UserError, match=f"cannot be had at precision '{precision}': bitsandbytes finds no matrix"):
        load(folder, precision=precision)


def test_rows_that_are_decoded_wrongly_are_found() -> None:
    """Whatever this machine's kernel does: rows are found where, and only where, a layer computes with other weights."""
    for name in ("tiny-60k", "tiny-250k"):
        model = load(name, precision="nf4", adapter="lora").model.get_base_model()
        wrong = set()
        for module in model.modules():
            if hasattr(module, "weight") and hasattr(module.weight, "quant_state"):
                state = module.weight.quant_state
                packed = module.weight.data.view(-1)
                codes = torch.stack([packed >> 4, packed & 15], 1).flatten().long()
                expected = (state.code[codes] * state.absmax.repeat_interleave(state.blocksize)[: len(codes)]).view(state.shape)
                x = torch.eye(state.shape[1])
                with torch.no_grad():
                    seen = (module(x) - (module.bias if module.bias is not None else 0)).T
                if not torch.allclose(seen, expected, atol=1e-5):
                    wrong.add(state.shape[1])
        assert set(misread_rows(model)) == wrong
    assert misread_rows(load("tiny-250k").model) == []
