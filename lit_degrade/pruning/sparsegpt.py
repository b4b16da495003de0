"""SparseGPT (Frantar & Alistarh 2023, arXiv:2301.00774): pruned column by column, columns to the right making up for it."""

import torch
from torch import Tensor

from lit_degrade.pruning.catalog import PruneSettings
from lit_degrade.pruning.masks import lowest


def hessian(moment: Tensor, damping: float) -> Tensor:
    """H = 2 X'X + λ I, λ = damping times the mean of the diagonal of 2 X'X; the identity where all inputs are zero.

    Args:
        moment: X'X of the inputs (in, in), summed over tokens.
        damping: above 0; inputs that are always zero have λ alone.
    """
    h = 2 * moment
    mean = h.diagonal().mean()
    h.diagonal().add_(damping * mean if mean > 0 else 1.0)
    return h


def sparsegpt(weights: Tensor, h: Tensor, settings: PruneSettings) -> Tensor:
    """Pruned weights (outputs, inputs) float32, exactly as many zeros as asked for unless an update gives a zero by chance.

    Algorithm 1. With U the upper Cholesky factor of H⁻¹, U_jj² is the entry (j, j) of the inverse Hessian of columns j and
    later, and w_j² / U_jj² (twice) the loss of pruning w_j and letting later columns make up for it: w_k -= w_j U_jk / U_jj
    (OBS, but that columns to the left stay as they are). In every block of columns the weights of lowest w² / U² are chosen
    together: over all rows (`tensor`, as the authors do), in every row, or, of a pattern, in every row and group of inputs when
    its turn comes. Blocks get shares that add up to round(sparsity n).

    Args:
        weights: (outputs, inputs) float32.
        h: see `hessian` (inputs, inputs); symmetric and positive definite.
        settings: scope or pattern, share of zeros, columns of a block.

    Raises: torch.linalg.LinAlgError for an H that is not positive definite.
    """
    w = weights.clone()
    u = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h)), upper=True)
    for start in range(0, w.shape[1], settings.block_columns):
        end = min(start + settings.block_columns, w.shape[1])
        here = slice(start, end)
        errors = _prune_block_(w[:, here], u[here, here], settings, start)
        w[:, end:] -= errors @ u[here, end:]
    return w


def _prune_block_(w: Tensor, u: Tensor, settings: PruneSettings, start: int) -> Tensor:
    """Prune some columns in place; returns w_j / U_jj of what was pruned (outputs, columns), zero elsewhere."""
    errors = torch.zeros_like(w)
    n, m = settings.kept_of if settings.pattern else (0, 0)
    mask = torch.zeros_like(w, dtype=torch.bool) if m else _chosen(w.square() / u.diagonal().square(), settings, start)
    for j in range(w.shape[1]):
        if m and j % m == 0:
            group = slice(j, j + m)
            mask[:, group] = lowest(w[:, group].square() / u.diagonal()[group].square(), m - n)
        errors[:, j] = w[:, j].where(mask[:, j], 0.0) / u[j, j]
        w[:, j].masked_fill_(mask[:, j], 0.0)
        w[:, j + 1 :] -= errors[:, j, None] * u[j, j + 1 :]
    return errors


def _chosen(scores: Tensor, settings: PruneSettings, start: int) -> Tensor:
    """Weights of a block of columns that are pruned; `start` columns come before it."""
    rows = 1 if settings.compared_in == "row" else len(scores)
    so_far, by_now = (round(settings.share * rows * columns) for columns in (start, start + scores.shape[1]))
    if settings.compared_in == "row":
        return lowest(scores, by_now - so_far)
    return lowest(scores.flatten(), by_now - so_far).view_as(scores)
