"""Where an optimizer moves the weights: the length of its steps, and what they share with chosen subspaces."""

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from scipy.linalg import subspace_angles
from torch import Tensor

TOP = 10
"""Dimension r of the top subspaces whose rotation is measured."""
TIE = 1e-6
"""σ_r and σ_(r+1) closer than this share of σ_1 do not define a top-r subspace."""


class StepLength:
    """‖Δw‖ of one optimizer step over all parameters together, at the cost of one copy of them."""

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        """Watch these parameters."""
        self.parameters = list(parameters)
        self.before = [torch.empty_like(p) for p in self.parameters]

    @torch.no_grad()
    def keep(self) -> None:
        """Copy the weights as they are before the step."""
        torch._foreach_copy_(self.before, self.parameters)

    @torch.no_grad()
    def measure(self) -> float:
        """‖w now - w kept‖; what was kept is used up."""
        torch._foreach_sub_(self.before, self.parameters)
        return float(torch.nn.utils.get_total_norm(self.before))


def second_moment_along(basis: Tensor, mean_square: Tensor) -> float:
    """Mean of g² over the coordinates, weighted by how much of each a subspace has: (1/k) Σ_i Σ_j u_ij² v_j.

    Args:
        basis: (k, n) orthonormal rows u_i.
        mean_square: v, (n,), mean square of the gradient's coordinates.
    """
    return sum(float(row.square().dot(mean_square.to(row))) for row in basis) / len(basis)


def amplification(update: tuple[float, float], gradient: tuple[float, float]) -> float:
    """How much more of an update than of the gradient lies in one subspace rather than in another.

    (E_N / E_S) of the update over the same ratio of the gradient, which is SGD's update: 1 for SGD.

    Args:
        update: shares of energy (E_N, E_S) of the update.
        gradient: the same of the gradient.
    """
    return (update[0] / update[1]) / (gradient[0] / gradient[1]) if update[1] * gradient[0] * gradient[1] > 0 else float("nan")


def rotation(before: Tensor, after: Tensor, r: int = TOP) -> float | None:
    """sin of the largest angle between the top-r singular subspaces of two matrices: 0 unrotated, 1 orthogonal.

    The subspaces are those of the shorter side: of the rows' space of a tall matrix, of the columns' space of a wide one. None
    where one is not defined: r singular values at most, or σ_r = σ_(r+1). Sources: Wedin 1972; Björck and Golub 1973.
    """
    bases = []
    for matrix in (before, after):
        x = matrix.detach().double().cpu()
        values, vectors = np.linalg.eigh((x.T @ x if x.shape[0] >= x.shape[1] else x @ x.T).numpy())
        sigma = np.sqrt(values[::-1].clip(0))
        if len(sigma) <= r or sigma[r - 1] - sigma[r] <= TIE * sigma[0]:
            return None
        bases.append(vectors[:, ::-1][:, :r])
    return float(np.sin(subspace_angles(*bases)[0]))


def median_rotation(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> float | None:
    """Median of `rotation` over matrices of the same names; None where it is defined for none of them."""
    defined = [angle for name in before if (angle := rotation(before[name], after[name])) is not None]
    return float(np.median(defined)) if defined else None
