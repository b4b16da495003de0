"""Pruning through `fit`: the record, the saved subject, fine-tuning with its zeros, refusals, and folders that were changed."""

import json
from pathlib import Path

import pytest
import torch
from conftest import load, random_folder
from helpers import ROOT, manifest_of, rows_of, run, summary_of
from safetensors.torch import load_file, save_file

from lit_degrade.cli import main
from lit_degrade.errors import UserError
from lit_degrade.records import paths, tables
from lit_degrade.subjects.loading import weights_sha256

SMALL = ["--subject", "tiny-60k", "--text.probe_tokens", "2048", "--verbosity", "quiet"]
PRUNE = ["fit", "--config", str(ROOT / "configs/prune.yaml"), *SMALL]
FINETUNE = ["fit", "--config", str(ROOT / "configs/finetune.yaml"), *SMALL, "--trainer.max_steps", "8", "--model.lr", "1e-3"]
EVALUATE = ["test", "--config", str(ROOT / "configs/evaluate.yaml"), *SMALL]


def zeros_in(folder: Path) -> dict[str, torch.Tensor]:
    subject = load(str(folder))
    return {name: subject.model.get_parameter(name) == 0 for name in subject.anatomy.parameter_names("blocks")}


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Record of a subject that is pruned to 50 %."""
    return run(tmp_path_factory.mktemp("half"), verb=PRUNE)


def test_the_record_says_what_was_pruned(half: Path) -> None:
    summary, rows = summary_of(half), rows_of(half / tables.PRUNING)
    assert list(rows[0]) == [
        "parameter", "component", "depth", "method", "scope", "pattern", "structure", "weights", "zeros", "sparsity", "norm",
        "norm_of_change", "reconstruction_error",
    ]  # fmt: skip
    assert [(row["depth"], row["component"]) for row in rows[:6]] == [
        ("0", c) for c in ("attn_q", "attn_k", "attn_v", "attn_o", "mlp_up", "mlp_down")
    ]
    assert {(row["method"], row["scope"], row["pattern"], row["sparsity"]) for row in rows} == {("wanda", "row", "", "0.5")}
    zeros = sum(int(zero.sum()) for zero in zeros_in(half).values())
    assert summary["zeros"] == sum(int(row["zeros"]) for row in rows) == zeros == summary["weights"] / 2
    assert summary["sparsity"] == summary["sparsity_achieved"] == 0.5
    assert 0 < summary["reconstruction_error"] < 1
    assert 0 < summary["relative_norm"] < 1
    assert summary["log_perplexity_ratio"] > 0
    assert summary["steps"] == 1
    assert summary["kl_from_intact"] > 0
    assert manifest_of(half)["sha256"]["subject_after"] != manifest_of(half)["sha256"]["subject"]
    assert [stage.get("experiment") for stage in manifest_of(half)["lineage"]] == [None, "pruning"]


def test_there_is_one_step_whatever_the_limit(half: Path, tmp_path: Path) -> None:
    again = summary_of(run(tmp_path, "--trainer.max_steps", "7", verb=PRUNE))
    same = ("zeros", "steps", "nats_per_token_post", "reconstruction_error", "rank_reduction")
    assert {key: again[key] for key in same} == {key: summary_of(half)[key] for key in same}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_saved_subject_is_the_pruned_one(precision: str, tmp_path: Path) -> None:
    args = ["--precision", precision]
    record = run(tmp_path / "a", *args, "--model.prune.method", "sparsegpt", verb=PRUNE)
    summary = summary_of(record)
    for place in (record, record / paths.SUBJECT):
        measured = summary_of(run(tmp_path / f"b{place.name}", *args, "--subject", str(place), verb=EVALUATE))
        assert measured["nats_per_token_pre"] == pytest.approx(summary["nats_per_token_post"], rel=1e-4)  # fp16 rounds at 5e-4
        assert measured["attacked_by_run"] == summary["run_id"]
    assert sum(int(zero.sum()) for zero in zeros_in(record).values()) == summary["zeros"]
    assert weights_sha256(load(str(record)).model) == summary_sha(record) or precision == "fp16"


def summary_sha(record: Path) -> str:
    return manifest_of(record)["sha256"]["subject_after"]


def test_a_pruned_subject_can_be_quantised(half: Path, tmp_path: Path) -> None:
    measured = summary_of(run(tmp_path, "--subject", str(half), "--precision", "int8", verb=EVALUATE))
    assert measured["nats_per_token_pre"] == pytest.approx(summary_of(half)["nats_per_token_post"], rel=0.02)


def test_other_runs_may_be_about_a_pruned_subject(tmp_path: Path) -> None:
    attack = f"{ROOT}/configs/prune.yaml --model.prune.method=magnitude --model.prune.sparsity=0.7"
    args = ["--attacked_by", attack, "--results", str(tmp_path), "--trainer.max_steps", "8", "--model.lr", "1e-3"]
    assert main(["fit", "--config", str(ROOT / "configs/healing.yaml"), *SMALL, *args]) == 0
    healed, pruned = (summary_of(next(tmp_path.glob(f"{name}/*/summary.json")).parent) for name in ("healing", "pruning"))
    assert healed["attacked_by_run"] == pruned["run_id"]
    assert healed["nats_per_token_pre"] == pytest.approx(pruned["nats_per_token_post"], rel=1e-6)
    assert healed["nats_per_token_intact"] == pruned["nats_per_token_pre"]
    assert healed["recovery"] > 0
    assert healed["sparsity_pre"] == pytest.approx(pruned["sparsity_achieved"])


def test_fine_tuning_keeps_zeros_if_asked(half: Path, tmp_path: Path) -> None:
    before = zeros_in(half)
    kept = run(tmp_path / "a", "--subject", str(half), "--model.keep_zeros", "true", verb=FINETUNE)
    free = run(tmp_path / "b", "--subject", str(half), verb=FINETUNE)
    for name, zeros in zeros_in(kept).items():
        assert torch.equal(zeros, before[name])
    for record, sparsity in ((kept, 0.5), (free, 0.0)):
        summary = summary_of(record)
        assert summary["nats_per_token_post"] < summary["nats_per_token_pre"]
        assert summary["sparsity_pre"] == 0.5
        assert summary["sparsity_post"] == pytest.approx(sparsity, abs=1e-4)
    assert summary_of(kept)["keep_zeros"] is True


@pytest.mark.slow
def test_zeros_of_half_precision_stay_zero(tmp_path: Path) -> None:
    record = run(tmp_path / "a", "--precision", "fp16", "--model.prune.pattern", "2:4", verb=PRUNE)
    args = ["--subject", str(record), "--precision", "fp16", "--model.keep_zeros", "true"]
    before, after = zeros_in(record), zeros_in(run(tmp_path / "b", *args, verb=FINETUNE))
    assert all(bool(after[name][zeros].all()) for name, zeros in before.items())


def test_the_seed_chooses_the_calibration_text(half: Path, tmp_path: Path) -> None:
    other = summary_of(run(tmp_path, "--seed_everything", "44", "--model.prune.calibration_blocks", "4", verb=PRUNE))
    assert other["nats_per_token_pre"] == summary_of(half)["nats_per_token_pre"]
    assert other["reconstruction_error"] != summary_of(half)["reconstruction_error"]
    assert other["calibration_tokens"] == summary_of(half)["calibration_tokens"] / 8


P = "--model.prune"
BAD = {
    "sparsity": ([f"{P}.sparsity", "1"], "model.prune.sparsity: expected a share from 0 to below 1, not 1.0"),
    "method": ([f"{P}.method", "sparsgpt"], "Unknown pruning method 'sparsgpt'. Did you mean 'sparsegpt'?"),
    "key": ([f"{P}.sparsit", "0.5"], "sparsit"),
    "pattern": ([f"{P}.pattern", "2:5"], "has 24 inputs, no multiple of its second number"),
    "malformed pattern": ([f"{P}.pattern", "24"], "prune.pattern=24: expected n:m"),
    "structure": ([f"{P}.structure", "heads", f"{P}.method", "sparsegpt"], "it has no prune.scope=global"),
    "target": ([f"{P}.target", "head"], "prune.target=head is not made of matrices of the blocks"),
    "target of this subject": ([f"{P}.target", "mlp_gate"], "Unknown target for gpt_neox 'mlp_gate'"),
    "layers": ([f"{P}.layers", "7"], "Layer 7 does not exist"),
    "calibration": ([f"{P}.calibration_blocks", "100000"], "100000 blocks of 128 need"),
    "int8": (["--precision", "int8"], "prune first, then quantise"),
    "lora": (["--adapter", "lora"], "has LoRA adapters"),
    "nan": (["--subject", "BROKEN"], "gives no finite probabilities on the calibration text"),
    "verb": (["--subject", "tiny-60k"], "does not answer 'test'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(
    case: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    args, message = BAD[case]
    if args[-1] == "BROKEN":
        folder = tmp_path_factory.mktemp("broken")
        subject = load("tiny-60k")
        subject.embedding.data[:] = torch.nan
        subject.save(folder)
        args = ["--subject", str(folder)]
    verb = ["test" if case == "verb" else "fit", *PRUNE[1:]]
    assert main([*verb, *args, "--results", str(tmp_path / "results")]) == 2
    err = capsys.readouterr().err.strip()
    assert message in err
    assert len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_zeros_of_adapted_subjects_are_not_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for args in (["--adapter", "lora"], ["--adapter", "lora", "--precision", "nf4"]):
        assert main([*FINETUNE, "--model.keep_zeros", "true", *args, "--results", str(tmp_path / "results")]) == 2
        assert "model.keep_zeros: LoRA adapters" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# Folders that were changed


def test_a_folder_that_was_changed_is_refused(half: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import shutil

    saved = json.loads((half / "subject/lineage.json").read_text())[-1]["files_sha256"]
    assert manifest_of(half)["lineage"][-1]["files_sha256"] == saved
    folder = tmp_path / "subject"

    def refused() -> bool:
        code = main([*EVALUATE, "--subject", str(folder), "--results", str(tmp_path / "results")])
        err = capsys.readouterr().err.strip()
        changed = f"Subject folder '{folder}' has been changed since it was saved" in err and saved[:12] in err
        assert code == (2 if changed else 0)
        assert not changed or (len(err.splitlines()) == 1 and not (tmp_path / "results").exists())
        return changed

    shutil.copytree(half / "subject", folder)
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("dense.weight"))
    weights[name][0, 0] += 1
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert refused()
    shutil.copyfile(half / "subject/model.safetensors", folder / "model.safetensors")
    (folder / "extra.json").write_text("{}")
    assert refused(), "a file that was not there"
    (folder / "extra.json").unlink()
    (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    assert refused()
    shutil.copyfile(half / "subject/config.json", folder / "config.json")
    assert not refused()


def test_folders_without_a_hash_load_as_before(half: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "subject"
    shutil.copytree(half / "subject", folder)
    stages = json.loads((folder / "lineage.json").read_text())
    del stages[-1]["files_sha256"]
    (folder / "lineage.json").write_text(json.dumps(stages))
    (folder / "extra.json").write_text("{}")
    assert load(str(folder)).lineage == tuple(stages)
    assert load(random_folder("llama", tmp_path / "other")).lineage[0]["name"] == str(tmp_path / "other")


@pytest.mark.slow
def test_adapters_and_what_came_of_attacked_subjects_are_looked_at_too(tmp_path: Path) -> None:
    first = run(tmp_path / "a", "--adapter", "lora", verb=FINETUNE)
    second = run(tmp_path / "b", "--adapter", "lora", "--subject", str(first), verb=FINETUNE)
    assert [bool(stage.get("files_sha256")) for stage in load(str(second), adapter="lora").lineage] == [False, True, True]
    for record in (first, second):
        path = record / "subject/adapter_model.safetensors"
        kept = path.read_bytes()
        adapters = load_file(path)
        next(iter(adapters.values()))[0, 0] += 1
        save_file(adapters, path)
        with pytest.raises(UserError, match="has been changed since it was saved"):
            load(str(record), adapter="lora")
        path.write_bytes(kept)
        load(str(record), adapter="lora")
