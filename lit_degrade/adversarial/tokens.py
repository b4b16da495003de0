"""Tokens of a sequence replaced by others: where the gradient says, at random, or as in a slip of the keyboard.

Labels stay the original tokens, so that losses mean the same for all of them. The last token is never replaced: nothing that is
scored comes after it; nor is one that only says that a text begins.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lit_degrade.adversarial.embeddings import beginning, embedded, gradient_of, logits
from lit_degrade.measures.perplexity import batches, token_nll
from lit_degrade.subjects.loading import Subject

CANDIDATES = 16
"""Replacements, at as many positions, whose losses are evaluated exactly before one is made."""
WORD_TOKENS = 4
"""Most tokens of a word in which letters are swapped."""


def replacements(subject: Subject) -> Tensor:
    """Tokens that may be put in: those of the tokenizer that the subject embeds, but special ones, (n,) int64."""
    tokenizer = subject.tokenizer
    special = set(tokenizer.all_special_ids)
    special |= {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    known = sorted(token for token in tokenizer.get_vocab().values() if token < subject.embedding.shape[0])
    return torch.tensor([token for token in known if token not in special])


@torch.no_grad()
def input_losses(subject: Subject, inputs: Tensor, labels: Tensor, first: int = 1) -> Tensor:
    """Summed negative log-likelihood of one sequence of labels, given others as inputs. [nats]

    Args:
        subject: under study.
        inputs: (n, length) tokens that the subject is given.
        labels: (length,) tokens that are scored.
        first: position of the first label that counts.
    Returns: (n,) float64.
    """
    parts = []
    for part in batches(inputs):
        nll = token_nll(logits(subject, part), labels.to(subject.device).expand(len(part), -1))
        parts.append(nll[:, first - 1 :].double().sum(1).cpu())
    return torch.cat(parts)


def by_gradient(
    subject: Subject, tokens: Tensor, counts: Sequence[int], allowed: Tensor, last: int, first: int = 1
) -> dict[int, Tensor]:
    """Greedy replacements: each time the best, by its exact loss, of those that one gradient proposes.

    To first order, putting v at position t raises the loss by g_t (E_v - e_t), g the gradient by the embedded sequence. The
    best v of each position is proposed, of the CANDIDATES best positions. A replacement is made even if it does not raise the
    loss; no position is replaced twice, so that exactly the tokens counted are different.

    Args:
        subject: under study.
        tokens: (length,) inputs and labels.
        counts: numbers of replaced tokens.
        allowed: tokens that may be put in.
        last: positions below it may be replaced.
        first: position of the first label that counts.
    Returns: the changed inputs (length,) of every count.
    Source: Ebrahimi et al., "HotFlip", ACL 2018 (first-order gain, greedy); Zou et al. 2023 (exact evaluation of candidates).
    """
    rows, by_count, inputs, start = embedded(subject, allowed).float(), {}, tokens.clone(), beginning(subject, tokens)
    for count in range(1, max(counts) + 1):
        gradient = gradient_of(subject, inputs[None], tokens[None], first)[0, :last]
        gain = gradient @ rows.T - (gradient * embedded(subject, inputs[:last]).float()).sum(1, keepdim=True)
        gain = gain.cpu().nan_to_num(nan=0.0).masked_fill(allowed == tokens[:last, None], -torch.inf)
        best, choice = gain.max(1)
        best[inputs[:last] != tokens[:last]] = -torch.inf
        best[:start] = -torch.inf
        positions = best.topk(min(CANDIDATES, last - start - count + 1)).indices
        trials = inputs.repeat(len(positions), 1)
        trials[torch.arange(len(positions)), positions] = allowed[choice[positions]]
        losses = input_losses(subject, trials, tokens, first)
        inputs = trials[losses.masked_fill(losses.isnan(), torch.inf).argmax()]
        if count in counts:
            by_count[count] = inputs
    return by_count


def at_random(
    tokens: Tensor, counts: Sequence[int], allowed: Tensor, last: int, draws: torch.Generator, start: int = 0
) -> dict[int, Tensor]:
    """Random other tokens at random positions from `start` to below `last`; larger counts go on where smaller ones end."""
    positions = start + torch.randperm(last - start, generator=draws)[: max(counts)]
    inputs, by_count = tokens.clone(), {}
    for count, position in enumerate(positions.tolist(), 1):
        others = allowed[allowed != tokens[position]]
        inputs[position] = others[int(torch.randint(len(others), (), generator=draws))]
        if count in counts:
            by_count[count] = inputs.clone()
    return by_count


def by_characters(
    tokenizer: Any, tokens: Tensor, counts: Sequence[int], allowed: Tensor, last: int, draws: torch.Generator
) -> dict[int, Tensor]:
    """Two neighbouring letters swapped in random words, as long as the word's number of tokens stays the same.

    Swaps come in random order, at most one a word; one that would change more tokens than are left to the count is left for a
    larger one. Larger counts go on where smaller ones end. Text without enough such words has fewer changed tokens.
    """
    inputs, by_count, used, changed = tokens.clone(), {}, set[int](), 0
    swaps = list(letter_swaps(tokenizer, tokens[:last].tolist(), set(allowed.tolist())))
    shuffled = [swaps[i] for i in torch.randperm(len(swaps), generator=draws).tolist()]
    for count in sorted(counts):
        for swap in shuffled:
            places = range(swap.start, swap.start + len(swap.tokens))
            if used.isdisjoint(places) and changed + swap.changed <= count:
                inputs[places.start : places.stop] = torch.tensor(swap.tokens)
                used.update(places)
                changed += swap.changed
        by_count[count] = inputs.clone()
    return by_count


@dataclass(frozen=True)
class LetterSwap:
    """A word with two neighbouring letters swapped."""

    start: int
    """position of the word's first token"""
    tokens: list[int]
    """of the misspelt word, as many as the word has"""
    changed: int
    """how many of them are others"""


def letter_swaps(tokenizer: Any, tokens: Sequence[int], allowed: set[int]) -> Iterator[LetterSwap]:
    """Every swap of neighbouring letters in a whole word that keeps the number of tokens."""
    for start in range(len(tokens)):
        for end in range(start + 1, min(start + WORD_TOKENS, len(tokens)) + 1):
            word = tokens[start:end]
            text = tokenizer.decode(word)
            if _is_word(tokenizer, tokens, start, end, text) and _encode(tokenizer, text) == word:
                for i in range(len(text) - 1):
                    if text[i].isalpha() and text[i + 1].isalpha():
                        other = _encode(tokenizer, text[:i] + text[i + 1] + text[i] + text[i + 2 :])
                        changed = sum(a != b for a, b in zip(word, other, strict=False))
                        if len(other) == len(word) and changed and allowed.issuperset(other):
                            yield LetterSwap(start, other, changed)


def _encode(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def _is_word(tokenizer: Any, tokens: Sequence[int], start: int, end: int, text: str) -> bool:
    """Whether some tokens are letters, perhaps behind a space, with no letter before or after them."""
    if not text.strip(" ").isalpha():
        return False
    before = tokenizer.decode(tokens[max(0, start - 1) : end]).removesuffix(text)[-1:]
    after = tokenizer.decode(tokens[start : end + 1]).removeprefix(text)[:1]
    return end < len(tokens) and not after.isalpha() and (text.startswith(" ") or (start > 0 and not before.isalpha()))
