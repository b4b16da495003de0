"""Block Krylov spaces of a symmetric operator: its extreme eigenvectors and its flattest directions."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

ROWS = 16
"""Vectors of a space that are held in float32 at once."""
Operator = Callable[[Tensor], Tensor]
"""v (n,) -> H v (n,), symmetric"""


@dataclass(frozen=True)
class Krylov:
    """Orthonormal basis Q of a block Krylov space with H Q[:m] = Q projected (rows are vectors; Q is (m + b, n))."""

    basis: Tensor
    """(m + b, n) orthonormal rows, in the precision that they are stored in"""
    projected: Tensor
    """(m + b, m) float64: coefficients of H q_j in the basis"""

    def flattest(self, count: int) -> Tensor:
        """The `count` orthonormal directions of the space with the smallest ‖Hv‖, (count, n), flattest first.

        They are the last right singular vectors of `projected`, which makes them optimal within the space: no polynomial
        filter of the same number of products from the same start can do better.
        """
        _, _, vh = torch.linalg.svd(self.projected, full_matrices=False)
        return self._lift(vh[-count:].flip(0))

    def extreme(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """The `count` Ritz pairs of largest |value|: values (count,), vectors (count, n), residual norms (count,)."""
        m = self.projected.shape[1]
        square = self.projected[:m]
        values, vectors = torch.linalg.eigh((square + square.T) / 2)
        order = values.abs().argsort(descending=True)[:count]
        residuals = self.projected @ vectors[:, order]
        residuals[:m] -= vectors[:, order] * values[order]
        return values[order], self._lift(vectors[:, order].T), torch.linalg.vector_norm(residuals, dim=0)

    def _lift(self, coefficients: Tensor) -> Tensor:
        """Coefficients (k, m) -> vectors (k, n), re-orthonormalised against float32 rounding."""
        return orthonormal(_combined(coefficients.float(), self.basis[: coefficients.shape[1]]))


def orthonormal(vectors: Tensor) -> Tensor:
    """Orthonormal rows with the same span, in order (QR)."""
    q, r = torch.linalg.qr(vectors.T)
    return (q * r.diagonal().sign()).T.contiguous()


def _combined(coefficients: Tensor, basis: Tensor) -> Tensor:
    """Coefficients (k, m) times a basis (m, n), a few of its rows in float32 at a time."""
    result = torch.zeros(len(coefficients), basis.shape[1], device=basis.device)
    for part, rows in zip(coefficients.split(ROWS, 1), basis.split(ROWS), strict=True):
        result.addmm_(part, rows.float())
    return result


def krylov(
    operator: Operator,
    start: Tensor,
    products: int,
    on_product: Callable[[], None] = lambda: None,
    dtype: torch.dtype = torch.float32,
) -> Krylov:
    """Block Lanczos with full reorthogonalisation, twice (Golub and Van Loan, section 10.3).

    Args:
        operator: symmetric H.
        start: (b, n) start vectors, b >= 1; random unless a property of the space depends on them.
        products: m, the number of applications of H; the space has m dimensions. m + b <= n.
        on_product: called after each product (progress).
        dtype: that the space is stored in. Rounding to bfloat16 tilts a vector by 2e-3, but two of them towards each other only
            by that over the square root of n, and H is applied to what is stored.
    """
    b, n = start.shape
    basis = start.new_empty(products + b, n, dtype=dtype)
    basis[:b] = orthonormal(start)
    projected = torch.zeros(products + b, products, dtype=torch.float64, device=start.device)
    for j in range(products):
        w = operator(basis[j].float())
        known = basis[: j + b]
        for _ in range(2):
            coefficients = torch.cat([rows.float() @ w for rows in known.split(ROWS)])
            w = w - _combined(coefficients[None], known)[0]
            projected[: j + b, j] += coefficients.double()
        norm = torch.linalg.vector_norm(w)
        projected[j + b, j] = norm.double()
        basis[j + b] = w / norm
        on_product()
    return Krylov(basis, projected)
