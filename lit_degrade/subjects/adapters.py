"""Low-rank adapters: made for a subject, or read as PEFT saves them."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lit_degrade.errors import UserError
from lit_degrade.seeds import generator
from lit_degrade.subjects.agreement import ADAPTER_WEIGHTS, read_header, refuse_unreadable
from lit_degrade.subjects.anatomy import Anatomy
from lit_degrade.subjects.files import ADAPTERS, instead, read_json, some
from lit_degrade.subjects.quiet import quiet_libraries

LORA_RANK = 8
LORA_ALPHA = 16
"""Scale alpha / rank = 2 (Hu et al. 2021, arXiv:2106.09685); 8 is PEFT's default rank."""
_MERGE = "Or merge them into their base (merge_and_unload) where they were made, and save the whole weights."


def add_lora(model: Any, anatomy: Anatomy, seed: int) -> Any:
    """Wrap a model with LoRA adapters on every matrix of its blocks (Hu et al. 2021).

    B starts at zero, so that the adapted model equals the intact one; A is Kaiming-uniform from its own seeded generator.
    """
    with quiet_libraries():
        from peft import LoraConfig, get_peft_model

    modules = sorted({name.removesuffix(".weight") for name in anatomy.parameter_names("blocks")})
    fan_in_fan_out = anatomy.family == "gpt2"
    config = LoraConfig(
        r=LORA_RANK, lora_alpha=LORA_ALPHA, lora_dropout=0.0, target_modules=modules, fan_in_fan_out=fan_in_fan_out
    )
    adapted = get_peft_model(model, config)
    for name, parameter in adapted.named_parameters():
        if ".lora_A." in name:
            nn.init.kaiming_uniform_(parameter.data, a=5**0.5, generator=generator(seed, "lora", name, device=parameter.device))
    return adapted


def read_adapters(model: Any, folder: Path) -> Any:
    """Wrap a model with the LoRA adapters that a folder holds, so that it computes what PEFT would have it compute.

    Their dropout is switched off, as every other is, and they can be trained further.

    Raises: UserError for adapters of another kind, in a pickle, or that do not fit the model.
    """
    with quiet_libraries():
        from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
    from safetensors.torch import load_file

    refuse_unreadable(folder)
    said, where = read_json(folder / ADAPTERS), f"Adapters in '{folder}'"
    if said.get("peft_type") != "LORA":
        raise UserError(f"{where} are of the kind {said.get('peft_type')} (peft_type): expected LORA. {_MERGE}")
    known = {field.name for field in fields(LoraConfig)}
    if strange := sorted(key for key, value in said.items() if value and key not in known):
        raise UserError(f"{where} use {some(strange)}, which the installed PEFT does not know: install a newer one. {_MERGE}")
    path = folder / ADAPTER_WEIGHTS
    if not path.is_file():
        raise UserError(f"{where} have no weights: expected {path.name}. {instead(folder, path.name)}")
    header = read_header(path)
    if embedding := sorted(name for name in header if "lora_embedding_" in name or "trainable_tokens_" in name):
        raise UserError(f"{where} change the embedding ({some(embedding)}), which is read on its own here. {_MERGE}")
    try:
        with quiet_libraries():
            config = LoraConfig.from_pretrained(str(folder))
            config.lora_dropout, config.inference_mode = 0.0, False
            config.task_type = None  # one class of model, whatever the adapters were trained for
            adapted = get_peft_model(model, config)
            trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
            state, held = load_file(path, device=str(model.device)), adapted.state_dict()
            copied = sorted(name for name in state if name in held and name not in trained)
            changed = [name for name in copied if not torch.equal(state.pop(name).to(held[name].dtype), held[name])]
            result: Any = set_peft_model_state_dict(adapted, state)
    except Exception as error:  # PEFT raises ValueError, KeyError, RuntimeError and more for adapters of another model
        raise UserError(f"{where} do not fit {type(model).__name__}: {' '.join(str(error).split())[:400]}") from error
    if changed:
        raise UserError(f"{where} hold other weights of their base than it has: {some(changed)}. {_MERGE}")
    missing, unexpected = sorted(trained & set(result.missing_keys)), sorted(result.unexpected_keys)
    if missing or unexpected:
        facts = [f"{len(n)} {what} ({some(n)})" for what, n in (("missing", missing), ("unexpected", unexpected)) if n]
        raise UserError(f"{where} do not fit their {ADAPTERS} and {type(model).__name__}: tensors {'; '.join(facts)}. {_MERGE}")
    return adapted
