"""Second moments of what enters and leaves each matrix: exact nulls, and random directions that are flat to begin with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lit_degrade.curvature.products import unflatten

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


def kronecker_factors(model: Any, parameters: Mapping[str, Tensor], loss: Callable[[], Tensor]) -> dict[str, KroneckerFactors]:
    """Factors of every weight matrix in `parameters`, from one forward and one backward pass of `loss`."""
    inputs: dict[str, tuple[Tensor, Tensor]] = {}
    gradients: dict[str, Tensor] = {}

    def watch(name: str) -> Any:
        def keep_gradient(gradient: Tensor) -> None:
            d = gradient.detach().flatten(0, -2).double()
            gradients[name] = d.T @ d

        def hook(_: Any, args: tuple[Tensor, ...], output: Tensor) -> None:
            x = args[0].detach().flatten(0, -2).double()
            centred = x - x.mean(0)
            inputs[name] = (x.T @ x, centred.T @ centred)
            output.register_hook(keep_gradient)

        return hook

    hooks = [model.get_submodule(name.removesuffix(".weight")).register_forward_hook(watch(name)) for name in parameters]
    try:
        torch.autograd.grad(loss(), list(parameters.values()))
    finally:
        for hook in hooks:
            hook.remove()
    return {name: KroneckerFactors(*inputs[name], gradients[name]) for name in parameters}


def flat_random(
    factors: Mapping[str, KroneckerFactors], parameters: Mapping[str, Tensor], count: int, generator: torch.Generator
) -> Tensor:
    """Random vectors (count, n) scaled towards low curvature: G^(-1/2) Z A^(-1/2) for each matrix, Z standard normal.

    In the Kronecker approximation the curvature of a matrix is G ⊗ A, so this is a draw from the Gaussian whose covariance is
    the inverse curvature. A is the second moment of the matrix's inputs, G that of the gradients by its outputs.
    """
    shapes = {name: torch.empty(p.shape, device="meta") for name, p in parameters.items()}
    n = sum(p.numel() for p in shapes.values())
    device = next(iter(parameters.values())).device
    vectors = torch.randn(count, n, generator=generator, device=generator.device).to(device)
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
