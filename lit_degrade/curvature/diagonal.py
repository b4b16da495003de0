"""Diagonal of a loss's Hessian, estimated from random products, with the error of each entry."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from lit_degrade.curvature.products import Losses, twice_differentiable
from lit_degrade.errors import UserError, unknown

Estimator = Literal["whitened", "per_tensor"]
FLOOR = 1e-2
"""Added to eigenvalues of mean 1, so that directions the gradient lacks are not blown up. On tiny-1m and tiny-3m 0.001 is up to
6 % better, 0.1 up to 20 % worse."""
POWER = 0.25
"""Of G'G, as in Shampoo (Gupta et al. 2018, arXiv:1802.09568). On tiny-1m and tiny-3m 0.2 and 0.3 are 4 to 8 % worse; on
tiny-1m 0.5 loses half."""
ROUNDING = 1e-10
"""Relative to the largest eigenvalue of G'G in float64, a smaller one has no eigenvector worth the name."""


@dataclass(frozen=True)
class Diagonal:
    """Estimated diagonal of a Hessian, by parameter name."""

    mean: dict[str, Tensor]
    """estimate in the shape of the parameter, float32, of either sign [nats per squared unit of weight]"""
    standard_error: dict[str, Tensor]
    """of each entry, from the spread between probes: the error as an estimate for this very loss, same unit and shape"""
    products: int
    """products of the Hessian with a vector, over one tensor each"""


def hessian_diagonal(
    losses: Losses,
    parameters: Mapping[str, Tensor],
    probes: int,
    draws: torch.Generator,
    estimator: Estimator = "whitened",
    inputs_first: Collection[str] = (),
    progress: Callable[[], None] | None = None,
) -> Diagonal:
    """Unbiased estimate of every H_ii from products with one tensor's block of H at a time (Bekas et al. 2007).

    `per_tensor`: the mean of z ∘ Hz over random signs z. Its variance is Σ H_ij² over j != i in the same tensor, over `probes`:
    none where H is diagonal, but 13 to 160 times the squared diagonal in the matrices of tiny-1m.
    `whitened`: the mean of (z P) ∘ H(z P⁻¹) with P = (G'G / its mean eigenvalue + FLOOR)^POWER, which acts on the inputs of the
    matrix and G (out, in) is its gradient of this part of the loss. Inputs that are large together make the large entries off
    the diagonal, and are shrunk; P has no part in the expectation, since P P⁻¹ = 1. The variance is 1.1, 2.0, 3.6 and 4.5 times
    less than that of `per_tensor` in tiny-60k, 250k, 1m and 3m (median over matrices, one sequence to a part), at 1.1 to 1.2
    times the cost. Tensors that are not matrices get plain signs.

    Parts get independent probes, so many small parts are better than a few large ones at equal cost: what they have in common
    averages out. One part's gradient graph is held at a time; other than that and the result, memory is a few times the largest
    tensor.

    Args:
        losses: parts of the scalar loss, which is their sum; all are used.
        parameters: leaf tensors by name, float.
        probes: random vectors for each tensor and part, at least 2.
        draws: CPU generator, so that a seed means the same signs on every device.
        estimator: how probes are drawn.
        inputs_first: names of matrices stored (in, out), as those of GPT-2's Conv1D. A name too few or too many leaves the
            estimate unbiased, but may lose more than whitening gains.
        progress: called after each part.

    Raises:
        UserError: for fewer than 2 probes or an unknown estimator.
    """
    if probes < 2:
        raise UserError(f"probes={probes}: expected 2 or more, without which there is no standard error.")
    if estimator not in get_args(Estimator):
        raise unknown("estimator of the Hessian's diagonal", estimator, get_args(Estimator))
    mean = {name: torch.zeros_like(p, dtype=torch.float32, requires_grad=False) for name, p in parameters.items()}
    variance = {name: torch.zeros_like(value) for name, value in mean.items()}

    def add_part(loss: Callable[[], Tensor]) -> None:  # its graph is gone before the next one is built
        with twice_differentiable():
            gradients = torch.autograd.grad(loss(), list(parameters.values()), create_graph=True)
            for (name, p), gradient in zip(parameters.items(), gradients, strict=True):
                whitening = _Whitening(gradient, name in inputs_first) if estimator == "whitened" and p.dim() == 2 else None
                _add_block(mean[name], variance[name], gradient, p, probes, draws, whitening)

    for loss in losses:
        add_part(loss)
        if progress:
            progress()
    errors = {name: value.sqrt_() for name, value in variance.items()}
    return Diagonal(mean, errors, products=len(losses) * len(parameters) * probes)


def _add_block(
    mean: Tensor,
    variance: Tensor,
    gradient: Tensor,
    p: Tensor,
    probes: int,
    draws: torch.Generator,
    whitening: "_Whitening | None",
) -> None:
    """Add the mean over probes of one tensor and part, and the variance of that mean (Welford's recurrence)."""
    centre, spread = torch.zeros_like(mean), torch.zeros_like(mean)
    for count in range(1, probes + 1):
        z = signs(p.shape, draws, p.device)
        left, right = (whitening(z, POWER), whitening(z, -POWER)) if whitening else (z, z)
        (product,) = torch.autograd.grad(gradient, p, right.to(gradient.dtype), retain_graph=True)
        sample = left * product.float()
        step = sample - centre
        centre += step / count
        spread += step * (sample - centre)
    mean += centre
    variance += spread / (probes * (probes - 1))


def signs(shape: torch.Size, draws: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
    """Independent +1 and -1 of equal chance, float32; eight to a byte drawn on the CPU, which costs less than their product."""
    count = shape.numel()
    octets = torch.randint(256, (-(-count // 8),), generator=draws, dtype=torch.uint8).to(device)
    bits = (octets[:, None] >> torch.arange(8, dtype=torch.uint8, device=device)) & 1
    return bits.view(-1)[:count].view(shape).float().mul_(2).sub_(1)


class _Whitening:
    """z -> z (G'G / its mean eigenvalue + FLOOR)^power, kept as the min(out, in) eigenvectors that are not null."""

    def __init__(self, gradient: Tensor, inputs_first: bool) -> None:
        self.inputs_first = inputs_first
        g = gradient.detach().double().nan_to_num(0.0, 0.0, 0.0)  # what is not finite shows in the product
        g = g.T if inputs_first else g
        rows, columns = g.shape
        values, vectors = torch.linalg.eigh(g @ g.T if rows < columns else g.T @ g)
        kept = values > ROUNDING * values[-1]
        if rows < columns:
            vectors = g.T @ vectors / values.clamp_min(0).sqrt()
        self.basis = vectors[:, kept].float()  # (in, k), orthonormal columns
        self.values = values[kept] * (columns / values.sum())

    def __call__(self, z: Tensor, power: float) -> Tensor:
        """z in the shape of the parameter."""
        z = z.T if self.inputs_first else z
        stretch = ((self.values + FLOOR) ** power - FLOOR**power).float()
        z = FLOOR**power * z + (z @ self.basis * stretch) @ self.basis.T
        return z.T if self.inputs_first else z
