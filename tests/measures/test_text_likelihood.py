"""Likelihood of continuations against closed forms, `transformers` and itself in other batches."""

import math
import random
import weakref

import pytest
import torch
import torch.nn.functional as F
from conftest import Subject
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_degrade.measures.perplexity import BATCH_TOKENS, LogitsFunction, likelihood
from lit_degrade.measures.text_likelihood import Continuation, continuation_nats
from lit_degrade.text import TextSource, TokenStream

PAD = 0


def _of(subject: Subject) -> LogitsFunction:
    return lambda tokens: subject.model(input_ids=tokens).logits


def _uniform(vocabulary: int) -> LogitsFunction:
    return lambda tokens: torch.zeros(*tokens.shape, vocabulary)


def _random_continuations(count: int, vocabulary: int, seed: int = 0) -> list[Continuation]:
    draw = random.Random(seed)
    return [
        (
            [draw.randrange(vocabulary) for _ in range(draw.randint(1, 30))],
            [draw.randrange(vocabulary) for _ in range(n % 40 + 1)],
        )
        for n in range(count)
    ]


@given(st.integers(2, 300), st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=6))
@settings(max_examples=30, deadline=None)
def test_uniform_logits_give_ln_of_the_vocabulary(vocabulary: int, lengths: list[tuple[int, int]]) -> None:
    measured = continuation_nats(_uniform(vocabulary), [([1] * p, [1] * c) for p, c in lengths], PAD)
    for nats, (prompt, continuation) in zip(measured, lengths, strict=True):
        nothing_to_score = continuation == 0 or (prompt == 0 and continuation == 1)
        assert nats == pytest.approx(math.nan if nothing_to_score else math.log(vocabulary), rel=1e-6, nan_ok=True)


def test_only_the_continuation_is_scored() -> None:
    """Sure of each token's successor by counting up: 0 where it counts, 100 where it does not, whatever the prompt does."""

    def counts_up(tokens: torch.Tensor) -> torch.Tensor:
        return 100.0 * F.one_hot((tokens + 1) % 10, 10).float()

    texts = [([5, 1, 8, 3], [4, 5, 6]), ([1, 2, 3], [7]), ([1, 2, 3], [4, 6]), ([], [9, 0, 1]), ([], [9, 0, 5])]
    assert continuation_nats(counts_up, texts, PAD) == pytest.approx([0, 100, 50, 0, 50], abs=1e-5)


def test_equals_the_models_own_loss(tiny: Subject, text: TextSource) -> None:
    ids = text.blocks("probe", tiny.tokenizer, 4, 48).ids.tolist()
    texts = [(row[:cut], row[cut:end]) for row, cut, end in zip(ids, (1, 20, 40, 47), (48, 30, 48, 48), strict=True)]
    for nats, (prompt, continuation) in zip(continuation_nats(_of(tiny), texts, PAD), texts, strict=True):
        labels = torch.tensor([[-100] * len(prompt) + continuation])
        with torch.no_grad():
            theirs = tiny.model(input_ids=torch.tensor([prompt + continuation]), labels=labels).loss
        assert nats == pytest.approx(float(theirs), rel=1e-5)


def test_without_a_prompt_it_is_the_likelihood_of_the_text(tiny: Subject, text: TextSource) -> None:
    block = text.blocks("probe", tiny.tokenizer, 1, 48).ids
    whole = likelihood(_of(tiny), TokenStream(block, torch.ones_like(block))).nats_per_token
    assert continuation_nats(_of(tiny), [([], block[0].tolist())], PAD) == pytest.approx([whole], rel=1e-6)
    assert continuation_nats(_of(tiny), [([], [3]), ([3], []), ([], [])], PAD) == pytest.approx([math.nan] * 3, nan_ok=True)


def test_company_order_and_padding_change_nothing(tiny: Subject) -> None:
    texts = _random_continuations(120, tiny.vocabulary)  # several batches
    assert sum(len(p) + len(c) for p, c in texts) > 2 * BATCH_TOKENS
    together = continuation_nats(_of(tiny), texts, PAD)
    assert together == pytest.approx([continuation_nats(_of(tiny), [text], PAD)[0] for text in texts], abs=1e-5)
    assert together == pytest.approx(continuation_nats(_of(tiny), texts, pad=7), abs=1e-5)
    assert together[::-1] == pytest.approx(continuation_nats(_of(tiny), texts[::-1], PAD), abs=1e-5)


def test_batches_are_small_and_little_is_padded() -> None:
    texts = [*_random_continuations(300, 5), ([1], [2] * (BATCH_TOKENS + 5))]
    held: list[weakref.ref[torch.Tensor]] = []
    shapes = []

    def subject(tokens: torch.Tensor) -> torch.Tensor:
        assert not any(ref() is not None for ref in held), "logits of an earlier batch are still held"
        logits = torch.zeros(*tokens.shape, 5)
        held.append(weakref.ref(logits))
        shapes.append(tokens.shape)
        return logits

    assert continuation_nats(subject, texts, PAD) == pytest.approx([math.log(5)] * 301)
    assert shapes[0] == (1, BATCH_TOKENS + 6)
    assert all(rows * length <= BATCH_TOKENS for rows, length in shapes[1:])
    needed = sum(len(p) + len(c) for p, c in texts)
    assert sum(rows * length for rows, length in shapes) < 1.15 * needed
    assert len(shapes) < needed / BATCH_TOKENS + 5


def test_non_finite_likelihood_stays_with_its_text() -> None:
    """A token ruled out gives inf, a nan gives nan; padding and neighbours are not touched."""

    def subject(tokens: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(*tokens.shape, 4)
        logits[..., 3] = -torch.inf
        logits[tokens == 2] = torch.nan
        return logits

    measured = continuation_nats(subject, [([1], [1, 1]), ([1], [3]), ([1, 2], [1])], pad=2)
    assert measured == pytest.approx([math.log(3), math.inf, math.nan], nan_ok=True)


def test_half_precision_logits_are_computed_in_float32(tiny: Subject) -> None:
    texts = _random_continuations(5, tiny.vocabulary)
    half = continuation_nats(lambda tokens: _of(tiny)(tokens).bfloat16(), texts, PAD)
    upcast = continuation_nats(lambda tokens: _of(tiny)(tokens).bfloat16().float(), texts, PAD)
    assert half == upcast


def test_intact_greedy_text_is_likelier_than_its_shuffled_self(tiny_1m: Subject, text: TextSource) -> None:
    prompts = text.blocks("probe", tiny_1m.tokenizer, 8, 16).ids
    with torch.no_grad():
        said = tiny_1m.model.generate(
            prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=40, min_new_tokens=40, do_sample=False
        )[:, 16:]
    generator = torch.Generator().manual_seed(0)
    shuffled = said[:, torch.randperm(said.shape[1], generator=generator)]
    greedy, salad = (
        continuation_nats(_of(tiny_1m), list(zip(prompts.tolist(), tokens.tolist(), strict=True)), PAD)
        for tokens in (said, shuffled)
    )
    assert all(a < b for a, b in zip(greedy, salad, strict=True))
