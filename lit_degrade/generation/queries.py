"""Prompts and pictures, as each subject takes them: chat template, image tokens, padding."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_degrade.errors import UserError
from lit_degrade.subjects.loading import Subject


@dataclass(frozen=True)
class Query:
    """What a subject is asked."""

    text: str
    """the user's words; the subject's chat template, where it has one, is put around them"""
    seed: int
    """of this prompt's own random draws (63 bit, of which torch's CPU generator uses the lower 32); unused when greedy"""
    image: Path | None = None
    """picture file shown before the text, to image-text subjects only"""


@dataclass(frozen=True)
class PreparedQuery:
    """A query as a subject takes it."""

    inputs: dict[str, Tensor]
    """what the model takes, for a batch of one; `input_ids` is (1, length)"""
    seed: int
    """of the query"""

    @property
    def ids(self) -> list[int]:
        """Its tokens."""
        return self.inputs["input_ids"][0].tolist()


def prepare(subject: Subject, queries: Sequence[Query], max_new_tokens: int) -> list[PreparedQuery]:
    """What a subject takes, for each query; every picture is opened once.

    Raises: UserError for a picture that cannot be read or shown, for an empty prompt, and for one that leaves no room for
        `max_new_tokens` in the subject's context.
    """
    paths = dict.fromkeys(query.image for query in queries if query.image)
    if paths:
        refuse_images(subject)
    pictures = {path: open_picture(path) for path in paths}
    prompts = []
    for i, query in enumerate(queries):
        inputs = _inputs(subject, query.text, pictures[query.image] if query.image else None)
        _refuse_length(subject, i, inputs["input_ids"].shape[1], max_new_tokens)
        prompts.append(PreparedQuery(inputs, query.seed))
    return prompts


def _inputs(subject: Subject, text: str, picture: Any) -> dict[str, Tensor]:
    if subject.processor is None:
        return {"input_ids": torch.tensor([_text_ids(subject.tokenizer, text)], dtype=torch.long)}
    return _processed(subject.processor, subject.tokenizer, text, picture)


def _refuse_length(subject: Subject, index: int, length: int, new: int) -> None:
    """Raise: UserError for a prompt [tokens] that is empty, or too long to be continued within the context."""
    if length == 0:
        raise UserError(f"Prompt {index} is empty: it has no tokens to continue.")
    context = context_length(subject)
    if context is not None and length > context - new:
        raise UserError(
            f"Prompt {index} has {length} tokens; '{subject.spec.name}' has a context of {context}, which leaves "
            f"{max(0, context - new)} beside max_new_tokens {new}. Use a shorter prompt or fewer new tokens."
        )


def context_length(subject: Subject) -> int | None:
    """Most tokens that the subject was built to read at once; None where positions have no limit (BLOOM)."""
    config = subject.model.config
    config = getattr(config, "text_config", config)
    return getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)


def refuse_images(subject: Subject) -> None:
    """Raise: UserError for a subject that cannot be shown pictures."""
    config, name = subject.model.config, subject.spec.name
    if not hasattr(config, "vision_config"):
        raise UserError(f"An image task needs an image-text subject; '{name}' is {config.model_type}, which reads text only.")
    if subject.processor is None:
        raise UserError(
            f"An image task needs an image processor; image-text subject '{name}' came without one "
            "(processor_config.json or preprocessor_config.json)."
        )


def open_picture(path: Path) -> Any:
    """A picture file as an RGB `PIL.Image.Image`.

    Raises: UserError for a file that is missing or is no picture that can be read.
    """
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except Exception as error:  # the decoder of each format raises classes of its own
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"Picture '{path}' cannot be read: {reason}") from error


def _text_ids(tokenizer: Any, text: str) -> list[int]:
    """A text as the subject's tokenizer prepares it: in its chat template where it has one, else with its special tokens."""
    if not tokenizer.chat_template:
        return tokenizer(text)["input_ids"]
    message = {"role": "user", "content": text}
    return tokenizer.apply_chat_template([message], add_generation_prompt=True, return_dict=False)


def _processed(processor: Any, tokenizer: Any, text: str, picture: Any) -> dict[str, Tensor]:
    """A text, behind a picture if there is one, as an image-text subject's processor prepares them."""
    if not (processor.chat_template or tokenizer.chat_template):
        text = f"{processor.image_token}{text}" if picture else text
        inputs = processor(text=text, images=[picture] if picture else None, return_tensors="pt")
    else:
        content: list[dict[str, Any]] = [{"type": "image", "image": picture}] if picture else []
        content.append({"type": "text", "text": text})
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            chat_template=None if processor.chat_template else tokenizer.get_chat_template(),
            add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
        )  # fmt: skip
    return {name: value for name, value in inputs.items() if name != "attention_mask"}


def left_padded(rows: Sequence[Mapping[str, Tensor]], pad: int) -> dict[str, Tensor]:
    """One batch from the inputs of single prompts.

    Args:
        rows: `input_ids` (1, length) each; further inputs of that shape (token types) are filled up with 0, also where a
            row has none; inputs of other shapes (pixels) are joined along their first dimension.
        pad: token id that fills up `input_ids`.
    Returns: `input_ids` and `attention_mask` (rows, longest), both int64, and the further inputs.
    """
    lengths = [row["input_ids"].shape[1] for row in rows]
    batch = {"attention_mask": _stacked([torch.ones(1, n, dtype=torch.long) for n in lengths], 0)}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name) for row in rows]
        if all(value is None or value.shape == (1, n) for value, n in zip(values, lengths, strict=True)):
            filled = [torch.zeros(1, n, dtype=torch.long) if v is None else v for v, n in zip(values, lengths, strict=True)]
            batch[name] = _stacked(filled, pad if name == "input_ids" else 0)
        else:
            batch[name] = torch.cat([value for value in values if value is not None])
    return batch


def _stacked(rows: Sequence[Tensor], fill: int) -> Tensor:
    """Rows (1, length) of different lengths as (rows, longest), filled up on the left."""
    longest = max(row.shape[1] for row in rows)
    return torch.cat([torch.nn.functional.pad(row, (longest - row.shape[1], 0), value=fill) for row in rows])
