"""Likelihood measures against closed forms and a token-by-token computation. Known error 1."""

import math

import pytest
import torch
import torch.nn.functional as F
from conftest import Subject
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_degrade.measures.divergence import kl_divergence
from lit_degrade.measures.perplexity import Likelihood, likelihood, token_nll
from lit_degrade.text import TextSource, TokenStream


def _stream(ids: torch.Tensor) -> TokenStream:
    return TokenStream(ids, torch.ones_like(ids))


def test_uniform_logits_give_the_vocabulary() -> None:
    measured = likelihood(lambda ids: torch.zeros(*ids.shape, 37), _stream(torch.randint(37, (5, 16))))
    assert measured.perplexity == pytest.approx(37, rel=1e-6)
    assert measured.tokens == 5 * 15


def test_labels_are_shifted_once() -> None:
    """A model that is sure of the next token scores 0; scoring token t + 2 with it, as the double shift does, does not."""
    ids = torch.randint(50, (3, 20))

    def sure_of_the_next(tokens: torch.Tensor) -> torch.Tensor:
        nxt = torch.cat([tokens[:, 1:], tokens[:, :1]], 1)
        return 100.0 * F.one_hot(nxt, 50).float()

    assert likelihood(sure_of_the_next, _stream(ids)).nats_per_token == pytest.approx(0, abs=1e-6)
    twice = F.cross_entropy(sure_of_the_next(ids)[:, :-2].flatten(0, 1), ids[:, 2:].flatten())
    assert twice > 50


def test_equals_the_models_own_loss_and_a_token_by_token_sum(tiny_1m: Subject, text: TextSource) -> None:
    blocks = text.blocks("probe", tiny_1m.tokenizer, 2, 48)
    ours = likelihood(lambda ids: tiny_1m.model(input_ids=ids).logits, blocks)
    theirs = tiny_1m.model(input_ids=blocks.ids, labels=blocks.ids).loss
    assert ours.nats_per_token == pytest.approx(float(theirs), rel=1e-5)
    total = 0.0
    with torch.no_grad():
        for row in blocks.ids:
            for t in range(1, len(row)):  # one prefix at a time, through softmax in float64
                logits = tiny_1m.model(input_ids=row[None, :t]).logits[0, -1].double()
                total -= math.log(float(torch.softmax(logits, -1)[row[t]]))
    assert ours.perplexity == pytest.approx(math.exp(total / (2 * 47)), rel=1e-4)


def test_bits_per_byte_is_nats_over_bytes(tiny_1m: Subject, text: TextSource) -> None:
    blocks = text.blocks("probe", tiny_1m.tokenizer, 4)
    measured = likelihood(lambda ids: torch.zeros(*ids.shape, 1024), blocks)
    decoded = sum(len(tiny_1m.tokenizer.decode(row[1:], skip_special_tokens=True).encode()) for row in blocks.ids)
    assert measured.text_bytes == pytest.approx(decoded, rel=0.01)
    assert measured.bits_per_byte == pytest.approx(measured.tokens * 10 / measured.text_bytes)


@given(st.integers(1, 6), st.integers(2, 12), st.integers(2, 9))
@settings(max_examples=20, deadline=None)
def test_token_nll_equals_gather_of_log_softmax(batch: int, length: int, vocabulary: int) -> None:
    logits, tokens = torch.randn(batch, length, vocabulary), torch.randint(vocabulary, (batch, length))
    expected = -torch.log_softmax(logits, -1)[:, :-1].gather(2, tokens[:, 1:, None])[..., 0]
    torch.testing.assert_close(token_nll(logits, tokens), expected)


def test_non_finite_likelihood_is_an_outcome() -> None:
    broken = likelihood(lambda ids: torch.full((*ids.shape, 5), torch.nan), _stream(torch.randint(5, (2, 8))))
    assert math.isnan(broken.perplexity)
    assert Likelihood(math.inf, 10, 0, 10).perplexity == math.inf
    assert Likelihood(1e6, 10, 0, 10).perplexity == math.inf


def test_kl_is_zero_for_equal_and_closed_form_otherwise() -> None:
    p = torch.log_softmax(torch.randn(2, 3, 7), -1)
    assert kl_divergence(p, p) == 0
    a, b = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    assert kl_divergence(a, b) == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3), rel=1e-5)  # of float32
