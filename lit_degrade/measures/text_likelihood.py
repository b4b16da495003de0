"""How likely a subject finds text that another one wrote: word salad is unlikely, loops are all too likely."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lit_degrade.measures.perplexity import BATCH_TOKENS, LogitsFunction, token_nll

Continuation = tuple[Sequence[int], Sequence[int]]
"""token ids of a prompt, and of what followed it"""


def batches_of_like_length(lengths: dict[int, int]) -> Iterator[list[int]]:
    """Keys of rows, longest first, such that a batch padded to its first has about BATCH_TOKENS tokens."""
    order = sorted(lengths, key=lambda i: -lengths[i])
    while order:
        rows = max(1, BATCH_TOKENS // lengths[order[0]])
        yield order[:rows]
        order = order[rows:]


def _nll(logits_of: LogitsFunction, tokens: Tensor) -> Tensor:
    """(batch, length - 1) [nats], float64 on the CPU; the logits are gone when it returns, before the next batch needs room."""
    logits = logits_of(tokens)
    return token_nll(logits, tokens.to(logits.device)).double().cpu()


@torch.inference_mode()
def continuation_nats(logits_of: LogitsFunction, continuations: Sequence[Continuation], pad: int) -> list[float]:
    """Mean negative log-likelihood of each continuation given its prompt, without that of the prompt. [nats/token]

    -1/n Σ_t ln p(token t | prompt, tokens before t), in float32. A subject that holds all V tokens for equally likely gives
    ln V, one that is sure of what was written gives 0. Under the intact subject, loops come out low and word salad high.

    Rows are padded on the right, where no logits of a causal subject see it, and subjects are told nothing of it. Batching
    changes results by rounding only, except for subjects that quantise activations batch by batch.

    Args:
        logits_of: the subject; causal, without attention mask.
        continuations: token ids of prompts and continuations, of any lengths, also beyond BATCH_TOKENS (a batch of its own).
        pad: any token that the subject knows.
    Returns: one value in [0, inf] per continuation, in the order given; inf and nan of a broken subject are outcomes and kept.
        Without a prompt the first token is not scored, for nothing precedes it; nan where nothing is left to be scored.
    Source: Holtzman et al., "The curious case of neural text degeneration", ICLR 2020 (perplexity of generations).
    """
    rows = [[*prompt, *continuation] for prompt, continuation in continuations]
    first = [max(1, len(prompt)) for prompt, _ in continuations]
    nats = [math.nan] * len(rows)
    for batch in batches_of_like_length({i: len(row) for i, row in enumerate(rows) if len(row) > first[i]}):
        longest = len(rows[batch[0]])
        nll = _nll(logits_of, torch.tensor([rows[i] + [pad] * (longest - len(rows[i])) for i in batch]))
        for i, of_row in zip(batch, nll, strict=True):
            nats[i] = float(of_row[first[i] - 1 : len(rows[i]) - 1].mean())
    return nats
