"""Perplexity, bits per byte and token accuracy from summed negative log-likelihoods."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_degrade.text import TokenStream

LogitsFunction = Callable[[Tensor], Tensor]
"""tokens (batch, length) -> logits (batch, length, vocabulary)"""
BATCH_TOKENS = 2048
"""Tokens in one forward pass of a probe."""


@dataclass(frozen=True)
class Likelihood:
    """Sums over scored tokens, divided once, at the end."""

    nll_sum: float
    """negative log-likelihood [nats]; may be inf or nan, which is an outcome and is kept"""
    tokens: int
    """scored tokens"""
    correct: int
    """tokens that were the most likely one"""
    text_bytes: int
    """UTF-8 bytes of the scored text"""

    @property
    def nats_per_token(self) -> float:
        """Mean negative log-likelihood [nats/token]."""
        return self.nll_sum / self.tokens

    @property
    def perplexity(self) -> float:
        """exp(nats per token); uniform logits give the size of the vocabulary."""
        return perplexity_of(self.nats_per_token)

    @property
    def bits_per_byte(self) -> float:
        """Nats / ln 2 / bytes, comparable across tokenizers."""
        return self.nll_sum / math.log(2) / self.text_bytes

    @property
    def token_accuracy(self) -> float:
        """Share of tokens that were the most likely one."""
        return self.correct / self.tokens

    def facts(self, when: str) -> dict[str, float]:
        """Columns of the summary, named by when they were measured."""
        return {
            f"nats_per_token_{when}": self.nats_per_token,
            f"perplexity_{when}": self.perplexity,
            f"bits_per_byte_{when}": self.bits_per_byte,
            f"token_accuracy_{when}": self.token_accuracy,
        }

    def damage(self, intact: "Likelihood") -> dict[str, float]:
        """Columns of a table of damage: these measures, and the nats per token lost since the subject was intact."""
        return {
            "nats_per_token": self.nats_per_token,
            "log_perplexity_ratio": self.nats_per_token - intact.nats_per_token,
            "perplexity": self.perplexity,
            "bits_per_byte": self.bits_per_byte,
            "token_accuracy": self.token_accuracy,
        }


def perplexity_of(nats_per_token: float) -> float:
    """exp(nats per token), infinite where it overflows."""
    try:
        return math.exp(nats_per_token)
    except OverflowError:
        return math.inf


def token_nll(logits: Tensor, tokens: Tensor) -> Tensor:
    """Negative log-likelihood of each token given those before it: labels are shifted here, once, and nowhere else.

    Args:
        logits: (batch, length, vocabulary), any float dtype; computed in float32.
        tokens: (batch, length) int64.
    Returns: (batch, length - 1) [nats]; entry t scores token t + 1.
    """
    return _nll_of(logits[:, :-1], tokens[:, 1:])


def _nll_of(logits: Tensor, expected: Tensor) -> Tensor:
    """(batch, length) [nats] of the tokens that logits in the same places foretell."""
    return F.cross_entropy(logits.float().flatten(0, 1), expected.flatten(), reduction="none").view(len(expected), -1)


def batches(blocks: Tensor) -> Iterator[Tensor]:
    """Rows of (n, length) tokens in batches of about BATCH_TOKENS tokens."""
    yield from blocks.split(max(1, BATCH_TOKENS // blocks.shape[1]))


@torch.inference_mode()
def likelihood(logits_of: LogitsFunction, blocks: TokenStream, prefix: int | None = None) -> Likelihood:
    """Score every token but the first of each block, or every token where a prefix stands before each.

    Args:
        logits_of: the subject.
        blocks: ids and byte counts (n, length).
        prefix: token that is read before each block, as lm-evaluation-harness does with BOS or EOS; None: nothing is, and the
            first token of a block has nothing to be foretold from. In both cases `length` tokens are read at once.
    """
    nll_sum, correct, tokens = 0.0, 0, 0
    for ids in batches(blocks.ids):
        logits, expected = _foretold(logits_of, ids, prefix)
        nll_sum += _nll_of(logits, expected).double().sum().item()
        correct += int((logits.argmax(-1) == expected).sum())
        tokens += expected.numel()
    scored = slice(1 if prefix is None else 0, None)
    return Likelihood(nll_sum, tokens, correct, int(blocks.byte_counts[:, scored].sum()))


def _foretold(logits_of: LogitsFunction, ids: Tensor, prefix: int | None) -> tuple[Tensor, Tensor]:
    """Logits, and on their device the tokens that they foretell in the same places."""
    if prefix is None:
        logits = logits_of(ids)
        return logits[:, :-1], ids[:, 1:].to(logits.device)
    logits = logits_of(torch.cat([torch.full_like(ids[:, :1], prefix), ids[:, :-1]], 1))
    return logits, ids.to(logits.device)
