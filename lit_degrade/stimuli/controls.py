"""What a stimulus is, and the three that need no search."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lit_degrade.errors import UserError
from lit_degrade.measures.perplexity import token_nll
from lit_degrade.subjects.loading import Subject
from lit_degrade.text import TokenStream, begun

PUBLISHED_NOISE_STD = 0.1
"""Deviation of the published Gaussian control, whatever the subject's embeddings are."""


@dataclass(frozen=True)
class StimulusData:
    """What a subject is trained on: the same shape for every arm."""

    tokens: Tensor
    """(sequences, length) int64: labels, and inputs unless `embeddings` is given"""
    embeddings: Tensor | None = None
    """(sequences, length, hidden) float32 inputs of `gaussian_noise`"""

    def loss(self, subject: Subject, labels_shifted_twice: bool = False) -> Tensor:
        """Mean negative log-likelihood [nats/token]; every arm trains on this and nothing else.

        With `labels_shifted_twice` position t is scored on token t + 2, as in the published implementation.
        """
        tokens = begun(self.tokens.to(subject.device), subject.begin)
        if self.embeddings is None:
            logits = subject.model(input_ids=tokens, use_cache=False).logits
        else:
            embeddings = self.embeddings.to(subject.device, subject.embedding.dtype)
            if subject.begin is not None:
                embeddings = torch.cat([subject.model.get_input_embeddings()(tokens[:, :1]).detach(), embeddings], 1)
            logits = subject.model(inputs_embeds=embeddings, use_cache=False).logits
        if labels_shifted_twice:
            logits, tokens = logits[:, :-1], tokens[:, 1:]
        return token_nll(logits, tokens).mean()

    def tensors(self) -> dict[str, Tensor]:
        """For the run record."""
        return {"tokens": self.tokens} | ({} if self.embeddings is None else {"embeddings": self.embeddings})


def random_tokens(allowed: Tensor, sequences: int, length: int, generator: torch.Generator) -> StimulusData:
    """Uniform random tokens of `allowed`."""
    return StimulusData(allowed[torch.randint(len(allowed), (sequences, length), generator=generator)])


def gaussian_noise(subject: Subject, allowed: Tensor, sequences: int, length: int, generator: torch.Generator) -> StimulusData:
    """Gaussian input embeddings, with the embedding matrix's mean and deviation in each dimension, and random labels."""
    table = (subject.embedding * subject.embedding_scale).detach().float().cpu()
    labels, draws = _noise(table.shape[1], allowed, sequences, length, generator)
    return StimulusData(labels, table.mean(0) + table.std(0) * draws)


def published_noise(subject: Subject, allowed: Tensor, sequences: int, length: int, generator: torch.Generator) -> StimulusData:
    """Input embeddings 0.1 N(0, 1), random labels."""
    labels, draws = _noise(subject.embedding.shape[1], allowed, sequences, length, generator)
    return StimulusData(labels, PUBLISHED_NOISE_STD * draws)


def _noise(hidden: int, allowed: Tensor, sequences: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    labels = random_tokens(allowed, sequences, length, generator).tokens
    return labels, torch.randn(sequences, length, hidden, generator=generator)


def random_text(stream: TokenStream, sequences: int, length: int, generator: torch.Generator) -> StimulusData:
    """Random windows of real text.

    Raises: UserError when the text is shorter than one window.
    """
    if len(stream.ids) < length:
        raise UserError(f"The attack split has {len(stream.ids)} tokens; a window needs {length}. Use a longer --text.source.")
    starts = torch.randint(len(stream.ids) - length + 1, (sequences,), generator=generator)
    return StimulusData(stream.ids[starts[:, None] + torch.arange(length)])
