"""A subject that reads attacked embeddings: the changes of whole texts and of a prompt, likelihoods and answers under them."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_degrade.adversarial.catalog import Norm
from lit_degrade.adversarial.embeddings import Loss, attacked, beginning, embedding_changed, loss_of, no_change, shifted
from lit_degrade.generation.generator import Continuation, TextGenerator
from lit_degrade.generation.queries import Query
from lit_degrade.measures.perplexity import LogitsFunction, batches
from lit_degrade.subjects.loading import Subject


def attack_text(
    subject: Subject, ids: Tensor, attack: str, norm: Norm, radius: float, steps: int, draws: Callable[[int], torch.Generator]
) -> Tensor:
    """Changes of the embeddings of text that raise the loss of its own next tokens, (n, length, hidden) float32.

    Args:
        subject: under attack.
        ids: sequences (n, length), each attacked by itself.
        attack: random, fgsm or pgd.
        norm: whose ball.
        radius: of the ball.
        steps: of pgd.
        draws: generator of a sequence, by its number.
    """
    parts, done, first = [], 0, beginning(subject, ids)
    for batch in batches(ids):
        own = [draws(row) for row in range(done, done + len(batch))]
        loss = loss_of(subject, batch, batch)
        parts.append(_behind(first, attack, loss, no_change(subject, batch), norm, radius, steps, own))
        done += len(batch)
    return torch.cat(parts)


def attack_prompt(
    subject: Subject, said: Continuation, attack: str, norm: Norm, radius: float, steps: int, draws: torch.Generator
) -> Tensor:
    """Changes of a prompt's embeddings that raise the loss of what the subject wrote after it, (1, length, hidden) float32."""
    tokens, first = torch.tensor([said.prompt_ids + said.ids]), len(said.prompt_ids)
    zero, loss = no_change(subject, tokens[:, :first]), loss_of(subject, tokens, tokens, first)
    return _behind(beginning(subject, tokens), attack, loss, zero, norm, radius, steps, [draws])


def _behind(first: int, attack: str, loss: Loss, zero: Tensor, *how: Any) -> Tensor:
    """The change that an attack makes behind the first rows, which stay as they are; `how` is the rest of what it needs."""

    def whole(delta: Tensor) -> Tensor:
        return F.pad(delta, (0, 0, first, 0))

    return whole(attacked(attack, lambda delta: loss(whole(delta)), zero[:, first:], *how))


def changed_logits(subject: Subject, logits_of: LogitsFunction, delta: Tensor) -> LogitsFunction:
    """The subject where the embeddings of text, taken batch after batch, are changed by the rows of `delta`."""
    done = 0

    def changed(ids: Tensor) -> Tensor:
        nonlocal done
        done += len(ids)
        with embedding_changed(subject, shifted(delta[done - len(ids) : done])):
            return logits_of(ids)

    return changed


def continued(writer: TextGenerator, query: Query, change: Callable[[Tensor], Tensor]) -> Continuation:
    """What a subject writes after a prompt whose embeddings go through `change`; what it writes is embedded as ever."""
    with embedding_changed(writer.subject, change, once=True):
        (made,) = writer([query])
    return made
