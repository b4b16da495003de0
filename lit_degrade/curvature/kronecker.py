"""Second moments of what enters and leaves each matrix: exact nulls, and random directions that are flat to begin with."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lit_degrade.curvature.products import Losses, Tensors, unflatten

FLOOR = 1e-2
"""Eigenvalues below this share of the mean count as this share, so that no single direction takes all the energy."""


Flows = dict[str, tuple[Tensor, Tensor]]
"""Matrix -> its inputs x (tokens, in), and the loss gradients δ (tokens, out) of its outputs; its own gradient is Σ δ x'."""


def flows(model: Any, names: Iterable[str], loss: Callable[[], Tensor]) -> Flows:
    """What enters and leaves every matrix; the gradient of no weight is formed.

    Args:
        model: whose layers hold the matrices.
        names: of weights, each used once by the loss.
        loss: computed from the model's current weights.
    """
    inputs: Tensors = {}
    outputs: Tensors = {}

    def watch(name: str) -> Callable[[Any, tuple[Tensor, ...], Tensor], None]:
        def hook(_: Any, args: tuple[Tensor, ...], output: Tensor) -> None:
            inputs[name], outputs[name] = args[0].detach().flatten(0, -2), output

        return hook

    hooks = [model.get_submodule(name.removesuffix(".weight")).register_forward_hook(watch(name)) for name in names]
    try:
        value = loss()
    finally:  # before the way back: layers may be computed again there
        for hook in hooks:
            hook.remove()
    gradients = torch.autograd.grad(value, list(outputs.values()))
    return {name: (inputs[name], d.flatten(0, -2)) for name, d in zip(outputs, gradients, strict=True)}


@dataclass(frozen=True)
class KroneckerFactors:
    """Second moments over the tokens of one batch, float64 (Martens and Grosse 2015, arXiv:1503.05671)."""

    inputs: Tensor
    """Σ x x', (in, in)"""
    centred: Tensor
    """Σ (x - mean)(x - mean)', (in, in)"""
    gradients: Tensor
    """Σ δ δ' of the loss gradient by the matrix's outputs, (out, out)"""
    tokens: int


def kronecker_factors(model: Any, parameters: Mapping[str, Tensor], losses: Losses) -> dict[str, KroneckerFactors]:
    """Factors of every weight matrix in `parameters`, from one forward and one backward pass of each part of the loss."""
    inputs = {name: Moments() for name in parameters}
    gradients = {name: Moments() for name in parameters}
    for loss in losses:
        for name, (x, d) in flows(model, parameters, loss).items():
            inputs[name].add(x)
            gradients[name].add(d)
    return {
        name: KroneckerFactors(into.second[0], into.centred()[0], out.second[0], into.count)
        for name, into, out in ((name, inputs[name], gradients[name]) for name in parameters)
    }


class Moments:
    """Second moments Σ x x' of rows x (n, d) that come in batches, in float64, in blocks along the diagonal.

    Exact nulls lie at 1e-15 of the largest eigenvalue and can be told from what is merely flat in float64 only.
    """

    def __init__(self, size: int | None = None, light: bool = False) -> None:
        """Keep blocks of `size` rows and columns, by default all; `light`: in float32 but for the diagonal."""
        self.size, self.light = size, light
        self.count = 0
        self.second: Tensor
        self.squares: Tensor
        self.total: Tensor

    def add(self, x: Tensor) -> None:
        """Add rows (n, d)."""
        exact = x.detach().double().unflatten(1, (-1, self.size or x.shape[1])).transpose(0, 1)
        squares, total = exact.square().sum(1), exact.sum(1)
        rows = exact.float() if self.light else exact
        second = squares[:, None].clone() if self.size == 1 else rows.mT @ rows
        if self.count:
            self.second += second
            self.squares += squares
            self.total += total
        else:
            self.second, self.squares, self.total = second, squares, total
        self.count += len(x)

    def centred(self) -> Tensor:
        """Σ (x - mean)(x - mean)', (blocks, size, size)."""
        return self.second - self.total[:, :, None] * self.total[:, None, :] / self.count


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
