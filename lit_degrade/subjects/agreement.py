"""What a subject's files hold and what its architecture needs must agree: each flaw is one line that names its remedy."""

import re
from collections import Counter
from collections.abc import Collection, Iterable
from math import prod
from pathlib import Path
from typing import Any

from lit_degrade.errors import UserError
from lit_degrade.subjects.anatomy import FAMILIES
from lit_degrade.subjects.catalog import Precision
from lit_degrade.subjects.files import TO_SAFETENSORS, WEIGHTS, instead, read_json, some

ADAPTER_WEIGHTS = "adapter_model.safetensors"
_POINTER = b"version https://git-lfs.github.com/spec/"
_TOKENIZERS = (("tokenizer.json",), ("tokenizer.model",), ("vocab.json", "merges.txt"), ("vocab.txt",))
"""Files from which one of the tokenizers of `transformers` is read."""
_CODES = re.compile(r"\.(absmax|quant_map|nested_absmax|nested_quant_map|quant_state\.bitsandbytes__\w+|SCB|weight_format)$")
"""What bitsandbytes stores beside quantised weights."""
_NF4 = (".absmax", ".quant_map", ".quant_state.bitsandbytes__nf4")
"""Without one of them, NF4 codes would be read as weights."""
_MADE = re.compile(r"(\.(attn|attention)\.(masked_)?bias|\.rotary_emb\.inv_freq)$")
"""Masks and rotary frequencies that older versions of `transformers` stored, and that are made today."""
_DEPTH = re.compile(r"(?:^|\.)(?:layers|h)\.(\d+)\.")
_VISION = re.compile(r"(^|\.)vision_(tower|model)\.")

Header = dict[str, tuple[str, list[int]]]
"""What a safetensors file says of each tensor: its dtype, as safetensors names it, and its shape."""


def refuse_flawed_files(folder: Path) -> None:
    """Raise: UserError for a folder of whole weights that lacks a file, or holds one that is not what its name says."""
    refuse_unreadable(folder)
    config = read_json(folder / "config.json")
    if not isinstance(config.get("model_type"), str):
        raise UserError(
            f"'{folder / 'config.json'}' does not name its architecture: model_type is one of {', '.join(FAMILIES)}."
        )
    headers = [read_header(path) for path in _weight_files(folder)]
    counts = Counter(name for header in headers for name in header)
    if twice := sorted(name for name, count in counts.items() if count > 1):
        raise UserError(f"Subject folder '{folder}' holds {some(twice)} in more than one of its files: keep one of each.")
    codes = {name: dtype for header in headers for name, (dtype, _) in header.items() if name.endswith("weight")}
    whole = sorted(name for name, dtype in codes.items() if not dtype.startswith(("F", "BF")))
    if whole and not config.get("quantization_config"):
        raise UserError(
            f"Subject folder '{folder}' stores {some(whole)} as whole numbers ({codes[whole[0]]}), and its config.json has no "
            f"quantization_config that says what they stand for: provide the unquantised weights."
        )
    if not has_tokenizer(folder):
        expected = ", or ".join(" with ".join(files) for files in _TOKENIZERS)
        raise UserError(
            f"Subject folder '{folder}' has no tokenizer: expected {expected}. Copy it from the subject that the weights were "
            f"trained from (AutoTokenizer.from_pretrained(...).save_pretrained('{folder}'))."
        )


def refuse_unreadable(folder: Path) -> None:
    """Raise: UserError for a folder with a file that cannot be read, or that Git has not fetched."""
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".json", ".safetensors", ".model", ".txt")):
        try:
            with path.open("rb") as file:
                start = file.read(len(_POINTER))
        except OSError as error:
            raise UserError(f"'{path}' cannot be read: {error.strerror}.") from error
        if start == _POINTER:
            raise UserError(
                f"'{path}' is a Git LFS pointer in place of the file: run 'git lfs install' and 'git lfs pull' in '{folder}', "
                f"or download the file itself."
            )


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder has the files of a tokenizer."""
    return any(all((folder / name).is_file() for name in files) for files in _TOKENIZERS)


def read_header(path: Path) -> Header:
    """What a safetensors file holds, without reading the tensors.

    Raises: UserError when it is cut short, or no such file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {name: (part.get_dtype(), part.get_shape()) for name, part in slices.items()}
    except SafetensorError as error:
        size = path.stat().st_size
        raise UserError(
            f"Weights cannot be loaded from '{path}': {size} bytes that are no whole safetensors file ({error}). Copy or "
            f"download it again."
        ) from error


def _weight_files(folder: Path) -> list[Path]:
    """The files that `transformers` reads whole weights from.

    Raises: UserError when there are none, naming what is there in their place.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    index = folder / f"{WEIGHTS}.index.json"
    if index.is_file():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise UserError(f"'{index}' is expected to name the file of each tensor under weight_map.")
        shards = sorted(set(map(str, weight_map.values())))
        if lost := [name for name in shards if not (folder / name).is_file()]:
            raise UserError(
                f"'{index}' names {len(shards)} files of weights, of which {some(lost)} {'is' if len(lost) == 1 else 'are'} "
                f"missing: copy or download {'it' if len(lost) == 1 else 'them'} into '{folder}'."
            )
        return [folder / name for name in shards]
    raise UserError(f"Subject folder '{folder}' has no weights: expected {WEIGHTS} (or {index.name}). {instead(folder)}")


def stored_precision(name: str, config: Any, asked: Precision) -> Precision | None:
    """Precision that quantised weights are stored at; None for unquantised ones.

    Raises: UserError when they are asked for at another precision than they are stored at, or are stored at none that is known.
    """
    stored = getattr(config, "quantization_config", None)
    if not stored:
        return None
    how = str(stored.get("quant_method"))
    precision: Precision | None = None
    if how == "bitsandbytes" and stored.get("load_in_8bit"):
        precision = "int8"
    elif how == "bitsandbytes" and stored.get("load_in_4bit"):
        how = f"{how} {stored.get('bnb_4bit_quant_type')}, in {stored.get('bnb_4bit_quant_storage') or 'uint8'}"
        if how == "bitsandbytes nf4, in uint8":
            precision = "nf4"
    if precision != asked:
        remedy = (
            f"use --precision {precision}, or provide the unquantised weights"
            if precision
            else "provide the unquantised weights"
        )
        raise UserError(
            f"Subject '{name}' cannot be had at precision '{asked}': its weights are stored quantised "
            f"({precision or how}; quantization_config in its config.json), so {remedy}."
        )
    return precision


def refuse_disagreement(name: str, model: Any, info: dict[str, Any], quantised: bool = False) -> None:
    """Raise: UserError, in one line, where files and architecture do not agree.

    Args:
        name: of the subject.
        model: what the files were loaded into.
        info: `transformers`' account of the loading: missing (without tied), unexpected and mismatched keys.
        quantised: the files hold quantised codes, and `model` is not quantised.
    """
    strange = [key for key in info["unexpected_keys"] if not _MADE.search(key)]
    if not (info["missing_keys"] or strange or info["mismatched_keys"]):
        return
    model._weight_conversions = None  # only what applied to these files: all of them give the names as they are stored
    missing = sorted(_stored_name(model, key) for key in info["missing_keys"])
    unexpected = sorted(_stored_name(model, key) for key in strange)
    misshapen = {_stored_name(model, key): (tuple(found), tuple(needed)) for key, found, needed in info["mismatched_keys"]}
    if quantised:
        beside = {(match.group(), _CODES.sub("", key)) for key in unexpected if (match := _CODES.search(key))}
        unexpected = [key for key in unexpected if not _CODES.search(key)]
        whole = {key for key in misshapen if {(leaf, key) for leaf in _NF4} <= beside}
        misshapen = {key: (a, b) for key, (a, b) in misshapen.items() if not (key in whole and 2 * prod(a) == prod(b))}
    if not (missing or unexpected or misshapen):
        return
    shapes = [f"{key} {found} where {needed} is expected" for key, (found, needed) in sorted(misshapen.items())]
    facts = [
        f"{len(names)} {what} ({some(names)})"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if names
    ]
    raise UserError(
        f"Subject '{name}': its weights are not those that its config.json describes. Tensors: {'; '.join(facts)}. "
        + _remedy(model, missing, unexpected)
    )


def _remedy(model: Any, missing: list[str], unexpected: list[str]) -> str:
    stored = {_stored_name(model, key) for key in model.state_dict()}
    if wrapper := _wrapper(unexpected, stored):
        how = "removeprefix" if all(name.startswith(wrapper) for name in unexpected) else "replace"
        strip = f"k.{how}('{wrapper}')" if how == "removeprefix" else f"k.{how}('{wrapper}', '')"
        read = f"safetensors.torch.load_file('{WEIGHTS}')"
        return f"The names agree without '{wrapper}'; strip it: {TO_SAFETENSORS.format(name=strip, read=read, file=WEIGHTS)}."
    text = model.config.get_text_config()
    asked, held = text.num_hidden_layers, _held_layers(stored, missing, unexpected, text.num_hidden_layers)
    if held not in (0, asked):
        key = getattr(text, "attribute_map", {}).get("num_hidden_layers", "num_hidden_layers")
        return f"The files hold {held} layers and config.json says {asked} ({key}): mend whichever is wrong."
    head = {
        _stored_name(model, f"{key}.{leaf}")
        for key, module in model.named_modules()
        if module is model.get_output_embeddings()
        for leaf in module.state_dict()
    }
    if missing and set(missing) <= head:
        return "That is its head: save the whole causal language model, or set tie_word_embeddings where the embedding serves."
    return "Save model and config together (save_pretrained), or mend config.json."


def _stored_name(model: Any, key: str) -> str:
    """Name that a tensor of a model has in its files."""
    import torch
    from transformers.core_model_loading import revert_weight_conversion

    return next(iter(revert_weight_conversion(model, {key: torch.empty(0, device="meta")})))


def _wrapper(unexpected: list[str], needed: Collection[str]) -> str | None:
    """Parts that must go from every unexpected name, wherever they stand, for it to be a needed one."""
    first = unexpected[-1].split(".") if unexpected else []
    for name in needed:
        parts = name.split(".")
        same = next((i for i, (a, b) in enumerate(zip(first, parts, strict=False)) if a != b), len(parts))
        extra = len(first) - len(parts)
        if extra > 0 and first[:same] + first[same + extra :] == parts:
            wrapper = ".".join(first[same : same + extra]) + "."
            prefix = all(key.startswith(wrapper) for key in unexpected)
            if all((key.removeprefix(wrapper) if prefix else key.replace(wrapper, "")) in needed for key in unexpected):
                return wrapper
    return None


def _held_layers(needed: Iterable[str], missing: list[str], unexpected: list[str], asked: int) -> int:
    """How many layers of the text tower the files hold, counted from the input; `asked` where one in their midst is lost."""

    def depths(names: Iterable[str]) -> list[int]:
        return [int(match[1]) for name in names if not _VISION.search(name) and (match := _DEPTH.search(name))]

    more = [depth for depth in depths(unexpected) if depth >= asked]
    return 1 + max(more or depths(set(needed) - set(missing)), default=-1)


def refuse_tokenizer(name: str, tokenizer: Any, rows: int) -> None:
    """Raise: UserError for a tokenizer without offsets, with special tokens only, or larger than the embedding."""
    if not tokenizer.is_fast:
        raise UserError(
            f"Subject '{name}': its tokenizer ({type(tokenizer).__name__}) does not say which characters a token stands for: "
            f"expected a fast tokenizer (tokenizer.json)."
        )
    vocabulary = tokenizer.get_vocab()
    if not vocabulary.keys() - set(tokenizer.all_special_tokens) - tokenizer.get_added_vocab().keys():
        raise UserError(
            f"Subject '{name}': its tokenizer has no tokens but special ones ({some(sorted(vocabulary))}): its vocabulary is "
            f"missing. Expected tokenizer.json beside the weights."
        )
    size = max(vocabulary.values()) + 1
    if size > rows:
        raise UserError(
            f"Subject '{name}': its tokenizer has {size} tokens and its embedding {rows} rows. Provide the tokenizer that the "
            f"weights were trained with, or resize the embedding (resize_token_embeddings({size})) and train it."
        )
