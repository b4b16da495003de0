"""The published catalyst: ascent on the loss in embedding space, then the nearest tokens."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_degrade.measures.perplexity import token_nll
from lit_degrade.subjects.loading import Subject

ASCENT_STEPS = 50
ASCENT_RATE = 1e-2
"""Settings of the published implementation."""


def embedding_ascent(subject: Subject, start: Tensor) -> Tensor:
    """Tokens (n, length) that the published search ends with; at its settings, those that it started from.

    Rows are scaled to unit length after every step, and labels are the tokens nearest to the present embeddings.
    """
    table = F.normalize(subject.embedding.detach()[: subject.vocabulary].float(), dim=1)
    embedded = subject.embedding.detach()[start].float()
    tokens = start
    for _ in range(ASCENT_STEPS):
        embedded.requires_grad_()
        logits = subject.model(inputs_embeds=embedded.to(subject.embedding.dtype), use_cache=False).logits
        loss = token_nll(logits, tokens).mean()
        step = ASCENT_RATE * torch.autograd.grad(loss, embedded)[0]
        embedded = F.normalize(embedded.detach() + step, dim=-1)
        tokens = (embedded @ table.T).argmax(-1)
    return tokens
