"""Measures of the published implementation, kept for the audit: what it would have reported."""

import torch
from torch import Tensor

from lit_degrade.measures.perplexity import LogitsFunction, batches, token_nll

PADDED_TEXTS, TEXT_TOKENS, PADDED_LENGTH = 5, 10, 128
"""Five texts of about ten tokens, each padded to 128."""
SHARE_CUT = 0.01


def rank_with_cut(sigma: Tensor) -> float:
    """exp(-Σ p ln p) over the shares p = σ / Σσ above 1 %, which are not renormalised: 0 for more than 100 equal values."""
    p = sigma / sigma.sum()
    p = p[p > SHARE_CUT]
    return float(torch.special.entr(p).sum().exp()) if len(p) else 0.0


def padded_texts(blocks: Tensor) -> Tensor:
    """The first tokens of the first blocks (n, length), padded with token 0 on the right, (PADDED_TEXTS, PADDED_LENGTH)."""
    padded = torch.zeros(PADDED_TEXTS, PADDED_LENGTH, dtype=blocks.dtype)
    padded[:, :TEXT_TOKENS] = blocks[:PADDED_TEXTS, :TEXT_TOKENS]
    return padded


@torch.inference_mode()
def nats_two_ahead(logits_of: LogitsFunction, ids: Tensor) -> float:
    """Mean negative log-likelihood of token t + 2 at position t over blocks (n, length) [nats/token]."""
    total, tokens = 0.0, 0
    for batch in batches(ids):
        logits = logits_of(batch)
        nll = token_nll(logits[:, :-1], batch[:, 1:].to(logits.device))
        total += nll.double().sum().item()
        tokens += nll.numel()
    return total / tokens
