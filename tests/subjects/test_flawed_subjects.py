"""A subject is what its files say, or it is refused in one line: flawed folders, adapters without their base, changed bases."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import FAMILY_CONFIGS, load, random_folder, random_model
from helpers import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from lit_degrade.cli import main
from lit_degrade.errors import UserError
from lit_degrade.subjects.catalog import EMBEDDED_FOLDER
from lit_degrade.subjects.files import content_sha256, files_sha256
from lit_degrade.subjects.lineage import write_lineage
from lit_degrade.subjects.loading import Subject

TINY = EMBEDDED_FOLDER / "tiny-60k"
WEIGHTS = load_file(TINY / "model.safetensors")
TEXT = "The quick brown fox jumps over the lazy dog, and the value of the attribute is returned."
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 130248\n"
Weights = dict[str, torch.Tensor]


def copy(folder: Path, weights: Weights | None = None, config: dict[str, Any] | None = None) -> Path:
    """A copy of tiny-60k with other weights or other config entries."""
    shutil.copytree(TINY, folder)
    if weights is not None:
        save(weights, folder / "model.safetensors")
    if config:
        change_json(folder / "config.json", config)
    return folder


def save(weights: Weights, path: Path) -> None:
    whole = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in weights.items()}
    save_file(whole, path, {"format": "pt"})


def change_json(path: Path, changes: dict[str, Any]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refusal(folder: Path | str, **options: object) -> str:
    with pytest.raises(UserError) as caught:
        load(str(folder), **options)
    message = str(caught.value)
    assert len(message.splitlines()) == 1, message
    return message


def logits(subject: Subject) -> torch.Tensor:
    tokens = torch.tensor([subject.tokenizer(TEXT)["input_ids"]])
    with torch.no_grad():
        return subject.model(input_ids=tokens).logits


# Folders of whole weights


def only(*kept: str) -> Callable[[Path], None]:
    def keep(folder: Path) -> None:
        for path in folder.iterdir():
            if path.name not in kept:
                path.unlink()

    return keep


def without(*names: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / name).unlink() for name in names] and None


def write(name: str, content: str | bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode()) and None


def renamed(change: Callable[[str], str]) -> Callable[[Path], None]:
    return lambda folder: save({change(name): tensor for name, tensor in WEIGHTS.items()}, folder / "model.safetensors")


def kept(keep: Callable[[str], bool]) -> Callable[[Path], None]:
    kept = {name: tensor for name, tensor in WEIGHTS.items() if keep(name)}
    return lambda folder: save(kept, folder / "model.safetensors")


def reshaped(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    return lambda folder: save(WEIGHTS | {name: change(WEIGHTS[name])}, folder / "model.safetensors")


def config(**changes: object) -> Callable[[Path], None]:
    return lambda folder: change_json(folder / "config.json", changes)


def larger_tokenizer(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    tokenizer.add_tokens(["<think>", "</think>", "Python"])
    tokenizer.save_pretrained(folder)


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(WEIGHTS, folder / "pytorch_model.bin")


def sharded(*lost: str, twice: bool = False) -> Callable[[Path], None]:
    """Three shards, of which some are lost, or that hold one tensor twice."""

    def shard(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        names = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
        weight_map = {key: names[i % 3] for i, key in enumerate(sorted(WEIGHTS))}
        for name in names:
            part = {key: tensor for key, tensor in WEIGHTS.items() if weight_map[key] == name or (twice and "embed" in key)}
            save(part, folder / name)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
        for name in lost:
            (folder / name).unlink()

    return shard


def whole_numbers(folder: Path) -> None:
    save(WEIGHTS | {"embed_out.weight": (WEIGHTS["embed_out.weight"] * 10).to(torch.int8)}, folder / "model.safetensors")


FLAWS: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "no head": (kept(lambda name: "embed_out" not in name), ("1 missing (embed_out.weight)", "tie_word_embeddings")),
    "no embedding": (kept(lambda name: "embed_in" not in name), ("1 missing (gpt_neox.embed_in.weight)",)),
    "no MLP in layer 1": (
        kept(lambda name: "layers.1.mlp" not in name), ("4 missing", "layers.1.mlp.dense_4h_to_h.bias", "and 1 more"),
    ),
    "no layer 1": (kept(lambda name: "layers.1." not in name), ("12 missing", "hold 1 layers and config.json says 2")),
    "config says more layers": (config(num_hidden_layers=3), ("hold 2 layers and config.json says 3 (num_hidden_layers)",)),
    "config says fewer layers": (config(num_hidden_layers=1), ("12 unexpected", "hold 2 layers and config.json says 1")),
    "misshapen head": (
        reshaped("embed_out.weight", lambda w: w[:10]), ("embed_out.weight (10, 24) where (1024, 24) is expected",),
    ),
    "misshapen matrix": (reshaped("gpt_neox.layers.0.mlp.dense_h_to_4h.weight", lambda w: w.T), ("(24, 96) where (96, 24)",)),
    "other vocabulary in config": (config(vocab_size=1000), ("2 of another shape", "(1024, 24) where (1000, 24) is expected")),
    "torch.compile": (renamed(lambda name: f"_orig_mod.{name}"), ("agree without '_orig_mod.'", "k.removeprefix(")),
    "DataParallel": (renamed(lambda name: f"module.{name}"), ("without 'module.'",)),
    "a module around it": (renamed(lambda name: f"model.{name}"), ("agree without 'model.'",)),
    "compiled blocks": (
        renamed(lambda name: name.replace("layers.1.", "layers.1._orig_mod.")), ("k.replace('_orig_mod.', '')",),
    ),
    "one stray tensor": (renamed(lambda name: name.replace("embed_out", "lm_haed")), ("embed_out.weight", "(lm_haed.weight)")),
    "no tokenizer": (without("tokenizer.json", "tokenizer_config.json"), ("no tokenizer: expected tokenizer.json",)),
    "half a tokenizer": (without("tokenizer.json"), ("no tokenizer: expected tokenizer.json",)),
    "a vocabulary without merges": (
        lambda folder: (folder / "tokenizer.json").rename(folder / "vocab.json"), ("vocab.json with merges.txt",),
    ),
    "slow tokenizer": (
        write("tokenizer_config.json", '{"tokenizer_class": "ByT5Tokenizer"}'), ("ByT5Tokenizer", "expected a fast tokenizer"),
    ),
    "larger tokenizer": (larger_tokenizer, ("tokenizer has 1027 tokens and its embedding 1024 rows",)),
    "LFS weights": (write("model.safetensors", POINTER), ("model.safetensors' is a Git LFS pointer", "git lfs pull")),
    "LFS tokenizer": (write("tokenizer.json", POINTER), ("tokenizer.json' is a Git LFS pointer",)),
    "weights cut short": (write("model.safetensors", (TINY / "model.safetensors").read_bytes()[:-9]), ("no whole",)),
    "empty weights": (write("model.safetensors", ""), ("0 bytes that are no whole safetensors file",)),
    "a web page": (write("model.safetensors", "<!DOCTYPE html><html>Sign in</html>"), ("no whole safetensors file",)),
    "pickle": (pickled, ("Pickles (pytorch_model.bin) are not read", "safetensors.torch.save_file", "weights_only=True")),
    "no weights": (without("model.safetensors"), ("no weights: expected model.safetensors", "It holds card.json, config.json")),
    "GGUF beside config": (
        lambda folder: (folder / "model.safetensors").rename(folder / "q4.gguf"), ("GGUF (q4.gguf) is not read", "gguf_file="),
    ),
    "GGUF alone": (lambda folder: (only()(folder), write("q4.gguf", "")(folder)), ("expected config.json", "GGUF (q4.gguf)")),
    "nothing": (only(), ("holds no subject: expected config.json", "It is empty")),
    "config is no JSON": (write("config.json", '{"model_type": "gpt_neox",'), ("config.json' is not JSON",)),
    "config is a list": (write("config.json", "[]"), ("config.json' is expected to hold a JSON object",)),
    "config is undecodable": (write("config.json", b'{"model_type": "\xff"}'), ("config.json' is not JSON",)),
    "config without type": (config(model_type=None), ("does not name its architecture: model_type is one of gpt_neox",)),
    "config of another architecture": (config(model_type="llama"), ("missing (lm_head.weight, model.embed_tokens.weight",)),
    "unknown architecture": (config(model_type="qwen2"), ("Unknown architecture 'qwen2'. Available: gpt_neox",)),
    "architecture that nobody knows": (config(model_type="nonesuch"), ("nonesuch",)),
    "impossible config": (config(hidden_size="wide"), ("cannot be loaded from", "hidden_size")),
    "lost shard": (sharded("model-00002-of-00003.safetensors"), ("names 3 files", "00002-of-00003.safetensors is missing")),
    "lost shards": (
        sharded("model-00001-of-00003.safetensors", "model-00003-of-00003.safetensors"), ("00001-of-00003", "are missing"),
    ),
    "index that names nothing": (
        lambda folder: (without("model.safetensors")(folder), write("model.safetensors.index.json", "{}")(folder)),
        ("index.json' is expected to name the file of each tensor under weight_map",),
    ),
    "tensor in two shards": (sharded(twice=True), ("in more than one of its files",)),
    "whole numbers": (whole_numbers, ("stores embed_out.weight as whole numbers (I8)", "quantization_config")),
    "GPTQ": (config(quantization_config={"quant_method": "gptq", "bits": 4}), ("stored quantised (gptq;",)),
    "adapters beside weights": (write("adapter_config.json", "{}"), ("both whole weights (model.safetensors) and adapters",)),
    "lineage is no list": (write("lineage.json", "{}"), ("lineage.json' is expected to hold a list of stages",)),
    "no reading": (lambda folder: (folder / "extra.json").symlink_to(folder / "gone.json"), ("extra.json' cannot be read",)),
}  # fmt: skip


@pytest.mark.parametrize("flaw", FLAWS)
def test_a_flawed_folder_is_one_line(flaw: str, tmp_path: Path) -> None:
    make, said = FLAWS[flaw]
    folder = copy(tmp_path / "subject")
    make(folder)
    message = refusal(folder)
    for part in said:
        assert part in message
    assert str(folder) in message or flaw == "unknown architecture"


@pytest.mark.parametrize("flaw", ["no head", "no tokenizer", "LFS weights"])
def test_nothing_is_left_behind(flaw: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copy(tmp_path / "subject")
    FLAWS[flaw][0](folder)
    (tmp_path / "text.txt").write_text("Some words of a text.\n" * 2000)
    evaluate = ["test", "--config", str(ROOT / "configs/evaluate.yaml"), "--text.source", str(tmp_path / "text.txt")]
    assert main([*evaluate, "--subject", str(folder), "--results", str(tmp_path / "results")]) == 2
    err = capsys.readouterr().err.strip()
    assert len(err.splitlines()) == 1
    assert FLAWS[flaw][1][0] in err
    assert not list((tmp_path / "results").rglob("manifest.json"))


def fine_shards(folder: Path) -> None:
    sharded()(folder)


SOUND: dict[str, Callable[[Path], object]] = {
    "three shards": fine_shards,
    "no prefix": renamed(lambda name: name.removeprefix("gpt_neox.")),
    "a pickle named beside the weights": lambda folder: (
        torch.save({}, folder / "adapter_model.bin"),
        config(transformers_weights="adapter_model.bin")(folder),
    ),
    "no generation config": without("generation_config.json"),
    "double precision": lambda folder: save({k: v.double() for k, v in WEIGHTS.items()}, folder / "model.safetensors"),
    "config says tied, file says not": config(tie_word_embeddings=True),
}


@pytest.mark.parametrize("case", SOUND)
def test_a_sound_folder_is_itself(case: str, tmp_path: Path, tiny: Subject) -> None:
    folder = copy(tmp_path / "subject")
    SOUND[case](folder)
    assert torch.equal(logits(load(str(folder))), logits(tiny))


def test_padding_rows_of_the_embedding_are_fine(tmp_path: Path, tiny: Subject) -> None:
    padded = {name: torch.cat([w, w[:8]]) if "embed" in name else w for name, w in WEIGHTS.items()}
    subject = load(str(copy(tmp_path / "subject", padded, {"vocab_size": 1032})))
    assert subject.vocabulary == 1024
    torch.testing.assert_close(logits(subject)[..., :1024], logits(tiny))


def test_weights_that_are_not_finite_are_an_outcome_not_a_mistake(tmp_path: Path) -> None:
    damaged = WEIGHTS | {"embed_out.weight": WEIGHTS["embed_out.weight"] * float("nan")}
    assert logits(load(str(copy(tmp_path / "subject", damaged)))).isnan().all()


def test_a_tied_head_may_be_stored_or_not(tmp_path: Path) -> None:
    folder = Path(random_folder("gpt2", tmp_path / "subject"))
    whole = load(str(folder))
    weights = load_file(folder / "model.safetensors")
    embedding = weights["transformer.wte.weight"]
    for head in (embedding, embedding.flip(0)):
        save(weights | {"lm_head.weight": head}, folder / "model.safetensors")
        stored = load(str(folder))
        assert torch.equal(stored.model.get_output_embeddings().weight, head)
        assert torch.equal(logits(stored), logits(whole)) is (head is embedding)


def test_names_of_every_family_agree_once_their_wrapper_is_stripped_as_the_message_says(family: str, tmp_path: Path) -> None:
    folder = Path(random_folder(family, tmp_path / "subject"))
    weights = load_file(folder / "model.safetensors")
    save({f"_orig_mod.{name}": tensor for name, tensor in weights.items()}, folder / "model.safetensors")
    strip = refusal(folder).partition("strip it: ")[2].removesuffix(".")
    assert "k.removeprefix('_orig_mod.')" in strip
    import safetensors.torch

    before = Path.cwd()
    os.chdir(folder)
    try:
        eval(strip, {"safetensors": safetensors})
    finally:
        os.chdir(before)
    model = random_model(family, vocabulary=len(AutoTokenizer.from_pretrained(folder)), max_position_embeddings=192)
    assert sorted(load_file(folder / "model.safetensors")) == sorted(weights)
    assert load(str(folder)).model.state_dict().keys() == model.state_dict().keys()
    blocks = [name.split(".0.")[0] for name in weights if ".0." in name and "vision" not in name]
    made = {
        "bias": torch.ones(1, 1, 8, 8, dtype=torch.bool),
        "masked_bias": torch.tensor(-1e4),
        "rotary_emb.inv_freq": torch.ones(4),
    }
    attention = "attention" if family == "gpt_neox" else "attn.attention" if family == "gpt_neo" else "attn"
    save(weights | {f"{blocks[0]}.0.{attention}.{name}": made[name] for name in made}, folder / "model.safetensors")
    load(str(folder))  # published checkpoints of several families hold them
    first, *_, last = sorted(weights)
    for lost in (first, last):
        save({name: tensor for name, tensor in weights.items() if name != lost}, folder / "model.safetensors")
        assert lost in refusal(folder)


# Quantised weights


@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_shapes_are_compared_before_anything_is_quantised(precision: str, tmp_path: Path) -> None:
    """bitsandbytes takes a matrix of any shape."""
    name = "gpt_neox.layers.0.attention.dense.weight"
    folder = copy(tmp_path / "subject", WEIGHTS | {name: WEIGHTS[name].reshape(-1)})
    assert f"{name} (576,) where (24, 24) is expected" in refusal(folder, precision=precision)
    folder = copy(tmp_path / "other", WEIGHTS | {name: WEIGHTS[name][:-1]})
    assert f"{name} (23, 24) where (24, 24) is expected" in refusal(folder, precision=precision)


@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_stored_codes_are_had_at_their_own_precision_only(precision: str, tmp_path: Path) -> None:
    subject = load("tiny-60k", precision=precision)
    subject.save(tmp_path / "codes")
    assert torch.equal(logits(load(str(tmp_path / "codes"), precision=precision)), logits(subject))
    for other in {"fp32", "bf16", "int8", "nf4"} - {precision}:
        said = refusal(tmp_path / "codes", precision=other)
        assert f"stored quantised ({precision}; quantization_config in its config.json), so use --precision {precision}" in said
    weights = load_file(tmp_path / "codes/model.safetensors")
    for lost in ("weight.absmax" if precision == "nf4" else "weight.SCB".replace("weight.", ""), "attention.dense.weight"):
        name = next(name for name in sorted(weights) if name.endswith(lost))
        save({k: v for k, v in weights.items() if k != name}, tmp_path / "codes/model.safetensors")
        refusal(tmp_path / "codes", precision=precision)


# The hub's cache


def test_what_the_hub_keeps_is_looked_at_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))

    def cached(name: str, make: Callable[[Path], object]) -> str:
        folder = tmp_path / f"models--someone--{name}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs/main").write_text("a" * 40)
        make(copy(folder / "snapshots" / ("a" * 40)))
        return f"someone/{name}"

    assert torch.equal(logits(load(cached("whole", lambda folder: None))), logits(load("tiny-60k")))
    assert "1 missing (embed_out.weight)" in refusal(cached("headless", FLAWS["no head"][0]))
    assert "no tokens but special ones" in refusal(cached("mute", FLAWS["no tokenizer"][0]))
    assert "Pickles (pytorch_model.bin) are not read" in refusal(cached("pickle", pickled))
    assert "holds adapters" in refusal(cached("adapted", adapters))
    assert "not in the local Hugging Face cache" in refusal("someone/nothing")


# Adapters alone


def adapters(folder: Path, base: str = str(TINY), **changes: Any) -> PeftModel:
    """Adapters as PEFT saves them, with values that are not zero; returns the model that they were saved from."""
    options = {"r": 4, "target_modules": ["query_key_value"], "task_type": "CAUSAL_LM", **changes}
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), LoraConfig(**options))
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
    model.save_pretrained(folder)
    return model.eval()


KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "other matrices, rank-stabilised, with dropout": {
        "target_modules": "all-linear", "lora_alpha": 7, "use_rslora": True, "lora_dropout": 0.5,
    },
    "DoRA in one layer": {"use_dora": True, "layers_to_transform": [1], "layers_pattern": "layers"},
    "a whole head": {"modules_to_save": ["lm_head"]},
    "adapted head": {"target_modules": ["lm_head"]},
    "biases": {"bias": "all"},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_alone_are_what_peft_makes_of_them(kind: str, tmp_path: Path) -> None:
    model = adapters(tmp_path / "adapters", **KINDS[kind])
    subject = load(str(tmp_path / "adapters"))
    tokens = torch.tensor([subject.tokenizer(TEXT)["input_ids"]])
    with torch.no_grad():
        assert torch.equal(logits(subject), model(input_ids=tokens).logits)
        assert not torch.allclose(logits(subject), logits(load("tiny-60k")), atol=1e-3)
        subject.model.train()
        assert torch.equal(logits(subject), model(input_ids=tokens).logits), "dropout"
    assert subject.spec.adapter == "lora"
    assert set(subject.anatomy.components) == set(load("tiny-60k").anatomy.components)
    subject.save(tmp_path / "again")
    assert load(str(tmp_path / "again")).sha256 == subject.sha256


def test_the_base_is_found_by_name_and_by_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "adapters"
    adapters(folder)
    expected = load(str(folder)).sha256
    copy(folder / "base")
    copy(tmp_path / "elsewhere/here")
    monkeypatch.chdir(tmp_path / "elsewhere")
    for base in ("tiny-60k", str(TINY), "base", "here", "./here"):
        change_json(folder / "adapter_config.json", {"base_model_name_or_path": base})
        assert load(str(folder)).sha256 == expected
    shutil.copy(TINY / "config.json", folder)  # as some trainers leave it there
    assert load(str(folder)).sha256 == expected
    for base, said in (("/gone/llama", "'/gone/llama'"), ("gone/llama", "'gone/llama'"), (None, "set base_model_name_or_path")):
        change_json(folder / "adapter_config.json", {"base_model_name_or_path": base})
        assert said in refusal(folder)


def test_the_tokenizer_of_adapters_is_theirs(tmp_path: Path) -> None:
    folder = tmp_path / "adapters"
    adapters(folder)
    larger_tokenizer(folder)
    assert "tokenizer has 1027 tokens and its embedding 1024 rows" in refusal(folder)


def test_adapters_that_do_not_fit_are_one_line(tmp_path: Path) -> None:
    sound = tmp_path / "sound"
    adapters(sound)
    values = load_file(sound / "adapter_model.safetensors")
    first = min(values)

    def said(change: Callable[[Path], object]) -> str:
        folder = tmp_path / "changed"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(sound, folder)
        change(folder)
        return refusal(folder)

    def with_values(new: Weights) -> Callable[[Path], None]:
        return lambda folder: save(new, folder / "adapter_model.safetensors")

    def with_config(**changes: object) -> Callable[[Path], None]:
        return lambda folder: change_json(folder / "adapter_config.json", changes)

    def pickled(folder: Path) -> None:
        (folder / "adapter_model.safetensors").unlink()
        torch.save(values, folder / "adapter_model.bin")

    weight = "base_model.model.gpt_neox.embed_in.weight"
    assert "1 missing" in said(with_values({k: v for k, v in values.items() if k != first}))
    assert "1 unexpected (base_model.model.stray.lora_A" in said(
        with_values(values | {"base_model.model.stray.lora_A": torch.ones(1)})
    )
    assert "size mismatch" in said(with_values(values | {first: values[first][:2]}))
    assert "size mismatch" in said(with_config(r=8))
    assert "other weights of their base than it has" in said(with_values(values | {weight: torch.zeros(1024, 24)}))
    assert "kind IA3 (peft_type): expected LORA" in said(with_config(peft_type="IA3"))
    assert "use hyperlora, which the installed PEFT does not know" in said(with_config(hyperlora=True))
    assert "Pickles (adapter_model.bin) are not read; convert" in said(pickled)
    assert "'adapter_model.safetensors'" in said(pickled)
    assert "expected adapter_model.safetensors" in said(without("adapter_model.safetensors"))
    assert "is a Git LFS pointer" in said(write("adapter_model.safetensors", POINTER))
    assert "no whole safetensors file" in said(write("adapter_model.safetensors", "{}"))
    assert "is not JSON" in said(write("adapter_config.json", "{"))
    assert "which is adapters too" in said(with_config(base_model_name_or_path=str(sound)))
    other = random_folder("llama", tmp_path / "llama")
    assert "do not fit LlamaForCausalLM" in said(with_config(base_model_name_or_path=other))
    smaller = random_folder("gpt_neox", tmp_path / "smaller")
    assert "do not fit GPTNeoXForCausalLM" in said(with_config(base_model_name_or_path=smaller))
    headless = copy(tmp_path / "headless")
    FLAWS["no head"][0](headless)
    assert "need the subject they belong to" in said(with_config(base_model_name_or_path=str(headless)))
    adapters(tmp_path / "embedding", target_modules=["embed_in"])
    assert "change the embedding" in refusal(tmp_path / "embedding")


# A base that was changed under its adapters


def adapted(base: str, folder: Path, **options: str) -> Path:
    """A LoRA subject as a run saves it, one stage after its base."""
    subject = load(base, adapter="lora", **options)
    subject.save(folder)
    stages = [*subject.lineage, {"run_id": "r", "experiment": "e", "sha256": "0" * 64, "files_sha256": files_sha256(folder)}]
    write_lineage(folder, stages)
    return folder


def nudge(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["gpt_neox.embed_in.weight"][0, 0] += 1
    save(weights, folder / "model.safetensors")


@pytest.mark.parametrize("precision", ["fp32", "nf4"])
def test_a_base_that_was_changed_is_refused(precision: str, tmp_path: Path) -> None:
    base = copy(tmp_path / "base")
    before = content_sha256(str(base))
    folder = adapted(str(base), tmp_path / "adapters", precision=precision)
    load(str(folder), precision="bf16")
    nudge(base)
    said = refusal(folder, precision="bf16")
    assert "has been changed since: the hash of its content is" in said
    assert before[:12] in said
    assert content_sha256(str(base))[:12] in said


def test_adapters_of_an_older_version_are_compared_by_the_weights_of_their_base(tmp_path: Path) -> None:
    base = copy(tmp_path / "base")
    intact = load(str(base)).sha256
    folder = adapted(str(base), tmp_path / "adapters")
    path = folder / "base_subject.json"
    path.write_text(json.dumps({"base_subject": str(base), "precision": "fp32"}))
    stages = json.loads((folder / "lineage.json").read_text())
    stages[-1]["files_sha256"] = files_sha256(folder, without="lineage.json")
    (folder / "lineage.json").write_text(json.dumps(stages))
    (base / "card.json").unlink()
    load(str(folder))
    nudge(base)
    said = refusal(folder)
    assert "has been changed since: the hash of its weights at fp32 is" in said
    assert intact[:12] in said
    assert load(str(base)).sha256[:12] in said
    load(str(folder), precision="bf16")  # where their hashes say nothing


def test_a_subject_of_the_ladder_that_was_trained_again_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = adapted("tiny-60k", tmp_path / "adapters")
    assert "base_sha256" not in json.loads((folder / "base_subject.json").read_text())
    load(str(folder))
    nudge(copy(tmp_path / "ladder/tiny-60k"))
    monkeypatch.setattr("lit_degrade.subjects.files.EMBEDDED_FOLDER", tmp_path / "ladder")
    assert "the hash of its weights at fp32 is" in refusal(folder)


# Content


def test_the_content_is_what_is_loaded_wherever_it_lies(tmp_path: Path) -> None:
    assert content_sha256("tiny-60k") == content_sha256("pythia-70m") == content_sha256("someone/some-model") == ""
    base = copy(tmp_path / "base")
    folder = adapted(str(base), tmp_path / "adapters")
    shutil.copytree(base, tmp_path / "moved/base")
    moved = adapted(str(tmp_path / "moved/base"), tmp_path / "moved/adapters")
    assert content_sha256(str(folder)) == content_sha256(str(moved))
    named = adapted("tiny-60k", tmp_path / "named")
    assert content_sha256(str(named)) != content_sha256(str(folder))
    before = content_sha256(str(base)), content_sha256(str(folder))
    (base / "README.md").write_text("read by nobody")
    assert (content_sha256(str(base)), content_sha256(str(folder))) == before
    for change in (write("merges.txt", "a b"), write("chat_template.jinja", "{{ x }}"), nudge):
        change(base)
        now = content_sha256(str(base)), content_sha256(str(folder))
        assert now[0] != before[0]
        assert now[1] != before[1]
        before = now
    with pytest.raises(UserError, match="Unknown subject"):
        content_sha256("./nowhere")
    shutil.rmtree(base)
    with pytest.raises(UserError, match="which is not there"):
        content_sha256(str(folder))


def test_the_files_hash_is_that_of_older_records() -> None:
    assert files_sha256(TINY) == "f8717bf536b54c16aa1691c8efb91e5e0a96658802d638466a70123088326c41"


# Any corruption


@st.composite
def corruptions(draw: st.DrawFn) -> Callable[[Path], object]:
    names = draw(st.lists(st.sampled_from(sorted(WEIGHTS)), min_size=1, max_size=4, unique=True))
    word = draw(st.text("abcdefgh_.0123456789", min_size=1, max_size=8))
    number = draw(st.integers(0, 60))
    file = draw(st.sampled_from(sorted(path.name for path in TINY.iterdir() if path.name != "card.json")))
    end = draw(st.integers(0, (TINY / file).stat().st_size))
    fields = {
        "num_hidden_layers": number, "hidden_size": number, "vocab_size": 1000 + number, "intermediate_size": number,
        "model_type": draw(st.sampled_from(sorted(FAMILY_CONFIGS))), "tie_word_embeddings": bool(number % 2), "dtype": word,
    }  # fmt: skip
    field = draw(st.sampled_from(sorted(fields)))
    return draw(
        st.sampled_from(
            [
                kept(lambda name: name not in names),
                renamed(lambda name: word if name == names[0] else name),
                renamed(lambda name: f"{word}{name}" if name in names else name),
                renamed(lambda name: f"{word}.{name}"),
                reshaped(names[0], lambda w: w[:-1]),
                reshaped(names[0], lambda w: w.reshape(*w.shape, 1)),
                without(file),
                write(file, (TINY / file).read_bytes()[:end]),
                config(**{field: fields[field]}),
                config(**{field: None}),
            ]
        )
    )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(corruptions())
def test_no_corruption_makes_another_model_in_silence(tiny: Subject, tmp_path: Path, corrupt: Callable[[Path], object]) -> None:
    """What no file can show (a rotary base, a count of heads of the same width) is not among them."""
    folder = tmp_path / "subject"
    shutil.rmtree(folder, ignore_errors=True)
    corrupt(copy(folder))
    try:
        subject = load(str(folder))
    except UserError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017
    else:
        assert torch.equal(logits(subject), logits(tiny))
