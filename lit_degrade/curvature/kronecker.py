"""Second moments of what enters and leaves each matrix: exact nulls, and random directions that are flat to begin with."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lit_degrade.curvature.products import Losses, unflatten

FLOOR = 1e-2
"""Eigenvalues below this share of the mean count as this share, so that no single direction takes all the energy."""


@dataclass(frozen=True)
class KroneckerFactors:
    """Second moments over the tokens of one batch, float64 (Martens and Grosse 2015, arXiv:1503.05671)."""

    inputs: Tensor
    """Σ x x', (in, in)"""
    centred: Tensor
    """Σ (x - mean)(x - mean)', (in, in)"""
    gradients: Tensor
    """Σ δ δ' of the loss gradient by the matrix's outputs, (out, out)"""


def kronecker_factors(model: Any, parameters: Mapping[str, Tensor], losses: Losses) -> dict[str, KroneckerFactors]:
    """Factors of every weight matrix in `parameters`, from one forward and one backward pass of each part of the loss."""
    inputs = {name: _Moments() for name in parameters}
    gradients: dict[str, Tensor] = {}

    def watch(name: str) -> Any:
        def keep_gradient(gradient: Tensor) -> None:
            d = gradient.detach().flatten(0, -2).double()
            gradients[name] = gradients.get(name, 0) + d.T @ d

        def hook(_: Any, args: tuple[Tensor, ...], output: Tensor) -> None:
            inputs[name].add(args[0].detach().flatten(0, -2).double())
            output.register_hook(keep_gradient)

        return hook

    hooks = [model.get_submodule(name.removesuffix(".weight")).register_forward_hook(watch(name)) for name in parameters]
    try:
        for loss in losses:
            torch.autograd.grad(loss(), list(parameters.values()))
    finally:
        for hook in hooks:
            hook.remove()
    return {name: KroneckerFactors(inputs[name].second, inputs[name].centred, gradients[name]) for name in parameters}


class _Moments:
    """Second moments of rows that come in batches (n, d), about 0 and about the mean (Chan et al. 1983)."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, x: Tensor) -> None:
        mean = x.mean(0)
        second, centred = x.T @ x, (x - mean).T @ (x - mean)
        if self.count == 0:
            self.count, self.mean, self.second, self.centred = len(x), mean, second, centred
            return
        total, apart = self.count + len(x), mean - self.mean
        self.second += second
        self.centred += centred + self.count * len(x) / total * torch.outer(apart, apart)
        self.mean += len(x) / total * apart
        self.count = total


def flat_random(
    factors: Mapping[str, KroneckerFactors],
    parameters: Mapping[str, Tensor],
    count: int,
    generator: torch.Generator,
    store: torch.device,
) -> Tensor:
    """Random vectors (count, n) scaled towards low curvature: G^(-1/2) Z A^(-1/2) for each matrix, Z standard normal.

    In the Kronecker approximation the curvature of a matrix is G ⊗ A, so this is a draw from the Gaussian whose covariance is
    the inverse curvature. A is the second moment of the matrix's inputs, G that of the gradients by its outputs. The vectors
    are kept on `store`.
    """
    shapes = {name: torch.empty(p.shape, device="meta") for name, p in parameters.items()}
    n = sum(p.numel() for p in shapes.values())
    vectors = torch.randn(count, n, generator=generator, device=generator.device).to(store)
    for name, factor in factors.items():
        left, right = _inverse_root(factor.gradients), _inverse_root(factor.inputs)
        if shapes[name].shape != (len(left), len(right)):  # stored (in, out)
            left, right = right, left
        for vector in vectors:
            matrix = unflatten(vector, shapes)[name]
            matrix.copy_(left.to(matrix) @ matrix @ right.to(matrix))
    return vectors


def _inverse_root(moment: Tensor) -> Tensor:
    """(M / mean eigenvalue + FLOOR)^(-1/2); the identity where nothing flows."""
    values, vectors = torch.linalg.eigh(moment)
    if values.mean() <= 0:
        return torch.eye(len(moment), dtype=moment.dtype, device=moment.device)
    scaled = values.clamp_min(0) / values.mean()
    return (vectors * (scaled + FLOOR).rsqrt()) @ vectors.T
