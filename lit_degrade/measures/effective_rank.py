"""How many directions the hidden states really use: effective rank and its companions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lit_degrade.measures.perplexity import LogitsFunction, batches


def singular_values(rows: Tensor) -> Tensor:
    """Singular values of a matrix (n, d), descending, float64, by the eigenvalues of the smaller Gram matrix.

    Values below about 1e-8 of the largest are rounding; they carry no weight in any measure here. Rows that are not finite,
    as a destroyed subject's may be, have no spectrum: all values, and every measure of them, are nan.
    """
    x = rows.double()
    gram = x.T @ x if x.shape[0] >= x.shape[1] else x @ x.T
    if not bool(gram.isfinite().all()):
        return torch.full((len(gram),), torch.nan, dtype=torch.float64)
    if gram.device.type == "cpu":  # LAPACK by way of NumPy takes three quarters of the time that torch's own call takes
        eigenvalues = torch.from_numpy(np.linalg.eigvalsh(gram.numpy()))
    else:
        eigenvalues = torch.linalg.eigvalsh(gram)
    return eigenvalues.clamp_min(0).sqrt().flip(0)


def effective_rank(sigma: Tensor) -> float:
    """exp(-Σ p ln p) with p = σ / Σσ: a rank-one matrix gives 1, k orthonormal rows give k. [directions]

    Source: Roy and Vetterli, "The effective rank", EUSIPCO 2007, definitions 1 and 2. No singular value is cut.
    """
    total = sigma.sum()
    if total == 0:
        return 0.0
    p = sigma / total
    return float(torch.special.entr(p).sum().exp())


def stable_rank(sigma: Tensor) -> float:
    """‖H‖²_F / σ₁². [directions]"""
    return float(sigma.square().sum() / sigma[0].square())


def participation_ratio(sigma: Tensor) -> float:
    """(Σλ)² / Σλ² with λ = σ². [directions]"""
    eigenvalues = sigma.square()
    return float(eigenvalues.sum().square() / eigenvalues.square().sum())


def spectral_gap(sigma: Tensor) -> float:
    """λ₁ / λ₂, the ratio of the two largest eigenvalues of the Gram matrix."""
    return float((sigma[0] / sigma[1]).square())


@dataclass(frozen=True)
class LayerSpectrum:
    """Spectrum of the hidden states behind one block, over real tokens only."""

    depth: int
    """index of the block"""
    n_tokens: int
    """rows; comparisons need equal numbers, since effective rank grows with them"""
    sigma: Tensor
    """singular values, uncentred, descending, float64"""
    centred: Tensor
    """singular values after subtracting the mean row"""
    without_first: Tensor
    """singular values without each sequence's first token, which often carries a massive activation"""
    normalised: Tensor
    """singular values after scaling each row to unit length"""

    def measures(self) -> dict[str, float]:
        """All measures of this layer."""
        return {
            "effective_rank": effective_rank(self.sigma),
            "effective_rank_centred": effective_rank(self.centred),
            "effective_rank_without_first": effective_rank(self.without_first),
            "effective_rank_normalised": effective_rank(self.normalised),
            "stable_rank": stable_rank(self.sigma),
            "participation_ratio": participation_ratio(self.centred),
            "spectral_gap": spectral_gap(self.sigma),
        }


def layer_spectrum(depth: int, hidden: Tensor, mask: Tensor) -> LayerSpectrum:
    """Spectrum of hidden states.

    Args:
        depth: index of the block.
        hidden: (batch, length, d), any float dtype.
        mask: (batch, length) bool, True for real tokens; padding never enters.
    """
    first = torch.zeros_like(mask)
    first[torch.arange(len(mask)), mask.int().argmax(1)] = True
    rows = hidden[mask].double()
    return LayerSpectrum(
        depth,
        len(rows),
        singular_values(rows),
        singular_values(rows - rows.mean(0)),
        singular_values(hidden[mask & ~first]),
        singular_values(nn.functional.normalize(rows, dim=1)),
    )


@torch.no_grad()
def hidden_spectra(
    logits_of: LogitsFunction, blocks: Sequence[nn.Module], tokens: Tensor, mask: Tensor | None = None
) -> list[LayerSpectrum]:
    """Spectra of the hidden states behind every block.

    Args:
        logits_of: runs the subject.
        blocks: its transformer blocks, in order.
        tokens: (n, length) int64.
        mask: (n, length) bool, True for real tokens; default all.
    """
    kept: list[list[Tensor]] = [[] for _ in blocks]

    def keep_output(depth: int) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            kept[depth].append((output[0] if isinstance(output, tuple) else output).float().cpu())

        return hook

    hooks = [block.register_forward_hook(keep_output(depth)) for depth, block in enumerate(blocks)]
    try:
        for ids in batches(tokens):
            logits_of(ids)
    finally:
        for hook in hooks:
            hook.remove()
    real = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask
    return [layer_spectrum(depth, torch.cat(parts), real) for depth, parts in enumerate(kept)]


def rank_reduction(before: LayerSpectrum, after: LayerSpectrum) -> float:
    """Signed relative fall of the effective rank, 1 - after / before: negative where rank rose. [share]

    The spectra must be of the same layer and number of tokens.
    """
    assert (before.depth, before.n_tokens) == (after.depth, after.n_tokens), "spectra of different layers or token counts"
    return 1 - effective_rank(after.sigma) / effective_rank(before.sigma)
