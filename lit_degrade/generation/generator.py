"""Text that a subject writes: in batches, with a seed per prompt, from damaged subjects too."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lit_degrade.checks import above, at_least
from lit_degrade.generation.queries import PreparedQuery, Query, left_padded, prepare
from lit_degrade.subjects.loading import Subject
from lit_degrade.subjects.quiet import quiet_libraries


@dataclass(frozen=True)
class Decoding:
    """How a subject writes."""

    max_new_tokens: int = 64
    """longest continuation [tokens]"""
    do_sample: bool = False
    """draw every token from softmax(logits / temperature) instead of taking the most likely one"""
    temperature: float = 1.0
    """divides the logits before sampling; unused when greedy"""
    batch: int = 64
    """most prompts in one forward pass; halved whenever memory runs out"""

    def __post_init__(self) -> None:
        """Raise: UserError for settings that cannot work."""
        at_least("model.decoding.max_new_tokens", self.max_new_tokens, 1)
        at_least("model.decoding.batch", self.batch, 1)
        if self.do_sample:
            above("model.decoding.temperature", self.temperature, 0)


@dataclass(frozen=True)
class Continuation:
    """What a subject wrote."""

    text: str
    """decoded new tokens, special tokens left out"""
    prompt_ids: list[int]
    """the prompt as the subject saw it (chat template, image tokens included), without padding"""
    ids: list[int]
    """new tokens, without padding and without the end-of-text token"""
    ended: bool
    """whether the subject ended the text itself (False: length cap)"""
    duration_s: float
    """of its batch, divided by the batch size [s]"""
    batch_size: int
    """of the batch that it was made in"""


class TokenChoice:
    """Logits processor whose result's argmax is the token to take, whatever the logits are.

    NaN counts as -inf, the first of several +inf wins, and a row without any logit above -inf takes `fallback`. With
    generators, Gumbel noise is added to logits / temperature: its argmax is exactly a draw from
    softmax(logits / temperature) (Gumbel-max). Each row's noise comes from its own generator, one draw of the vocabulary's
    size per new token, so that no row's noise depends on the rows beside it.
    """

    def __init__(self, fallback: int, temperature: float, generators: Sequence[torch.Generator] | None) -> None:
        """Set up for one batch.

        Args:
            fallback: token id of a row that has no usable logit.
            temperature: > 0; read only with generators. [dimensionless]
            generators: on the CPU, one per row; None for greedy decoding.
        """
        self.fallback = fallback
        self.temperature = temperature
        self.generators = generators

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (rows, vocabulary) without NaN, from logits (rows, vocabulary), both float; `input_ids` is not read."""
        scores = scores.masked_fill(scores.isnan(), -torch.inf)
        unusable = (scores == -torch.inf).all(dim=-1)
        if self.generators is not None:
            scores = scores / self.temperature + self._gumbel(scores.shape[-1], scores.device).to(scores)
        scores[unusable, self.fallback] = 0.0
        return scores

    def _gumbel(self, vocabulary: int, device: torch.device) -> Tensor:
        """Standard Gumbel noise (rows, vocabulary), float64: -ln(-ln u), always finite."""
        rows = [torch.rand(vocabulary, generator=g, dtype=torch.float64) for g in self.generators or ()]
        u = torch.stack(rows).to(device).clamp_min(torch.finfo(torch.float64).tiny)
        return -(-u.log()).log()


class TextGenerator:
    """Lets a subject continue prompts, in batches of bounded size.

    The subject's own sampling settings (temperature, top_k, penalties) are ignored: text is plain greedy or plain sampled.
    A batch computes what one prompt alone would, up to rounding; rounding can decide between two tokens that are all but
    equally likely. torch's global random state is neither read nor changed.
    """

    def __init__(self, subject: Subject, decoding: Decoding) -> None:
        """Set up for one subject; `self.batch` is the batch size in use, smaller than asked for once memory has run out."""
        self.subject = subject
        self.decoding = decoding
        self.batch = decoding.batch
        self.ends = end_ids(subject)
        self.pad = _pad_id(subject, self.ends)
        self.fallback = next(i for i in range(len(self.ends) + 1) if i not in self.ends)

    def __call__(self, queries: Sequence[Query]) -> list[Continuation]:
        """Continuations of all queries, in their order.

        Raises: as `batches`.
        """
        return [continuation for _, batch in self.batches(queries) for continuation in batch]

    def batches(self, queries: Sequence[Query]) -> Iterator[tuple[range, list[Continuation]]]:
        """Check every query now, then generate batch by batch: yields (indices into queries, their continuations).

        Batches are slices of `queries` in the order given. A batch that does not fit in memory is made again at half its size,
        and later ones keep that size.

        Raises: UserError for a picture that cannot be read or shown, for an empty prompt and for one that is too long for
            the subject's context; torch.OutOfMemoryError, MemoryError or RuntimeError when one prompt alone does not fit.
        """
        with quiet_libraries():  # a tokenizer's advice about long texts
            prompts = prepare(self.subject, queries, self.decoding.max_new_tokens)
        return self._in_batches(prompts)

    def _in_batches(self, prompts: Sequence[PreparedQuery]) -> Iterator[tuple[range, list[Continuation]]]:
        start = 0
        while start < len(prompts):
            chosen = range(start, min(start + self.batch, len(prompts)))
            done = self._batch_if_it_fits([prompts[i] for i in chosen])
            if done is None:
                self.batch = len(chosen) // 2
                torch.cuda.empty_cache()
                continue
            yield chosen, done
            start = chosen.stop

    def _batch_if_it_fits(self, prompts: Sequence[PreparedQuery]) -> list[Continuation] | None:
        """Continuations of one batch; None when memory ran out and a smaller batch may fit."""
        try:
            return self._batch(prompts)
        except (MemoryError, RuntimeError) as error:
            if len(prompts) == 1 or not out_of_memory(error):
                raise
            return None

    def _batch(self, prompts: Sequence[PreparedQuery]) -> list[Continuation]:
        start = time.perf_counter()
        new = self._new_tokens(prompts)
        duration = (time.perf_counter() - start) / len(prompts)
        return [self._continuation(*row, duration, len(prompts)) for row in zip(prompts, new, strict=True)]

    def _new_tokens(self, prompts: Sequence[PreparedQuery]) -> list[list[int]]:
        """New tokens of each prompt; those behind a prompt's own end are padding."""
        from transformers import GenerationConfig, LogitsProcessorList

        inputs = left_padded([p.inputs for p in prompts], self.pad)
        sampled = [torch.Generator().manual_seed(p.seed) for p in prompts] if self.decoding.do_sample else None
        choice = TokenChoice(self.fallback, self.decoding.temperature, sampled)
        config = GenerationConfig(
            max_new_tokens=self.decoding.max_new_tokens, do_sample=False, use_cache=True, pad_token_id=self.pad,
            eos_token_id=self.ends or None, bos_token_id=self.subject.tokenizer.bos_token_id,
        )  # fmt: skip
        with quiet_libraries(), _evaluating(self.subject) as model, torch.inference_mode(), self.subject.autocast():
            tokens = model.generate(
                **{name: _on_model(value, model) for name, value in inputs.items()},
                generation_config=config,
                logits_processor=LogitsProcessorList([choice]),
            )
        return tokens[:, inputs["input_ids"].shape[1] :].tolist()

    def _continuation(self, prompt: PreparedQuery, new: list[int], duration_s: float, batch_size: int) -> Continuation:
        end = next((i for i, token in enumerate(new) if token in self.ends), None)
        ids = new[:end]
        text = self.subject.tokenizer.decode(ids, skip_special_tokens=True)
        return Continuation(text, prompt.ids, ids, end is not None, duration_s, batch_size)


def end_ids(subject: Subject) -> list[int]:
    """Tokens that end a text: those of the model's generation settings, else the tokenizer's own; may be none."""
    ids = subject.model.generation_config.eos_token_id
    if ids is None:
        ids = subject.tokenizer.eos_token_id
    return [ids] if isinstance(ids, int) else list(ids or ())


def _pad_id(subject: Subject, ends: Sequence[int]) -> int:
    """Token that fills up short prompts: the tokenizer's own, else one that ends a text, else 0. It is masked everywhere."""
    rows = subject.embedding.shape[0]
    return next(i for i in (subject.tokenizer.pad_token_id, *ends, 0) if i is not None and i < rows)


def _on_model(value: Tensor, model: Any) -> Tensor:
    return value.to(model.device, model.dtype) if value.is_floating_point() else value.to(model.device)


@contextmanager
def _evaluating(subject: Subject) -> Iterator[Any]:
    """The model itself (adapters are inside it) in evaluation mode and without generation settings of its own.

    transformers fills whatever a given GenerationConfig leaves open from the model's own one.
    """
    from transformers import GenerationConfig

    model = getattr(subject.model, "get_base_model", lambda: subject.model)()
    training, own = model.training, model.generation_config
    model.eval()
    model.generation_config = GenerationConfig()
    try:
        yield model
    finally:
        model.generation_config = own
        model.train(training)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; the host's allocator raises a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
