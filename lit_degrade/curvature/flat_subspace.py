"""A fraction of weight space in which the loss is flat, without a stored direction: the Kronecker eigenbasis, cut at a threshold.

In the Kronecker approximation the curvature of a matrix along g_i ⊗ a_j is b_i a_j, with b_i and g_i the eigenvalues and
eigenvectors of the second moment G of the gradients by its outputs, and a_j and a_j those of the second moment A of its inputs
(Martens and Grosse 2015, arXiv:1503.05671; the eigenbasis: George et al. 2018, arXiv:1806.03884).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lit_degrade.curvature.catalog import Part
from lit_degrade.curvature.kronecker import Flows, Moments, flows
from lit_degrade.curvature.null_space import EXACT_NULL_TOLERANCE
from lit_degrade.curvature.products import Losses, Tensors, length
from lit_degrade.seeds import generator
from lit_degrade.subjects.anatomy import Anatomy

TOKENS_PER_INPUT = 32
"""Tokens for each rotated input dimension: from 16 on a basis is a property of the text rather than of these tokens."""
_HEADS = ("attn_q", "attn_k", "attn_v")
_NEURONS = ("mlp_up", "mlp_gate")


class Shape(NamedTuple):
    """How a matrix is rotated: in blocks of this many outputs and inputs along the diagonal; 1 is no rotation."""

    outputs: int
    inputs: int
    transposed: bool
    """whether it is stored (in, out)"""


def shapes(anatomy: Anatomy, parameters: Mapping[str, Tensor]) -> dict[str, Shape]:
    """How every matrix is rotated: all of a side of hidden width, one head of queries, keys and values, no side of neurons.

    The four times wider side of an MLP would take sixteen times the memory of a hidden side, and gains little. Adapters are
    rotated as the matrix that they are added to, and all of their rank.
    """
    components = {site.parameter: site.component for site in anatomy.sites if site.kind == "weight"}
    found = {}
    for name, p in parameters.items():
        below, lora, side = name.partition(".lora_")
        component = components[f"{below}.base_layer.weight" if lora else name]
        transposed = not lora and below.removesuffix(".weight") in anatomy.transposed
        d_in, d_out = p.shape if transposed else reversed(p.shape)
        outputs = anatomy.head_dim if component in _HEADS else 1 if component in _NEURONS else d_out
        inputs = 1 if component == "mlp_down" else d_in
        found[name] = Shape(d_out if side.startswith("A") else outputs, d_in if side.startswith("B") else inputs, transposed)
    return found


def widest(shapes: Mapping[str, Shape]) -> int:
    """Most input dimensions that are rotated together: what the text must have a multiple of in tokens."""
    return max(shape.inputs for shape in shapes.values())


@dataclass(frozen=True)
class Side:
    """Coordinates of one side of a matrix."""

    vectors: Tensor | None
    """(blocks, size, size), orthonormal columns in each block; None where the side is its own basis"""
    moments: Tensor
    """(d,) float64, second moment along each coordinate; infinite where it is nil but for rounding"""

    def rotate(self, matrix: Tensor, axis: int) -> Tensor:
        """Coordinates along an axis of a matrix, 0 or 1."""
        return matrix if self.vectors is None else _blockwise(self.vectors.mT, matrix, axis)

    def back(self, matrix: Tensor, axis: int) -> Tensor:
        """From coordinates to the matrix."""
        return matrix if self.vectors is None else _blockwise(self.vectors, matrix, axis)

    @property
    def excluded(self) -> Tensor:
        """(d,) bool: coordinates along which nothing flows."""
        return self.moments.isinf()


def _blockwise(blocks: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """Multiply pieces of a matrix along an axis with one block each."""
    if axis == 1:
        return matrix @ blocks[0].mT if len(blocks) == 1 else _blockwise(blocks, matrix.mT, 0).mT
    return (blocks @ matrix.unflatten(0, (len(blocks), -1))).flatten(0, 1)


@dataclass(frozen=True)
class MatrixBasis:
    """The Kronecker eigenbasis of one matrix."""

    outputs: Side
    inputs: Side
    transposed: bool
    affine: int = 0
    """dimensions along which a bias would move the outputs as well: n·x is one and the same for every token, n ≠ 0"""

    def rotate(self, matrix: Tensor) -> Tensor:
        """A matrix, in the shape of its parameter, to its coordinates (out, in)."""
        return self.inputs.rotate(self.outputs.rotate(matrix.mT if self.transposed else matrix, 0), 1)

    def back(self, coordinates: Tensor) -> Tensor:
        """Coordinates (out, in) to a matrix in the shape of its parameter."""
        matrix = self.outputs.back(self.inputs.back(coordinates, 1), 0)
        return matrix.mT if self.transposed else matrix

    def of_flow(self, x: Tensor, d: Tensor) -> Tensor:
        """Coordinates (out, in) of the gradient Σ δ x', from x (tokens, in) and δ (tokens, out)."""
        return self.outputs.rotate(d, 1).mT @ self.inputs.rotate(x, 1)

    def excluded(self) -> Tensor:
        """(out, in) bool: coordinates that no gradient reaches."""
        return self.outputs.excluded[:, None] | self.inputs.excluded


def find_basis(
    model: Any,
    parameters: Mapping[str, Tensor],
    shapes: Mapping[str, Shape],
    losses: Losses,
    on_part: Callable[[], None] = lambda: None,
) -> dict[str, MatrixBasis]:
    """The eigenbasis of every matrix, from one forward and one backward pass of each part of the loss.

    Args:
        model: under study.
        parameters: matrices that the space is taken over.
        shapes: how each is rotated.
        losses: parts of the loss, of TOKENS_PER_INPUT times `widest` tokens or more in all.
        on_part: called after each part (progress).

    Memory: float64 sums of the size of the basis, once.
    """
    inputs, gradients = ({name: Moments(shape[i]) for name, shape in shapes.items()} for i in (1, 0))
    for loss in losses:
        for name, (x, d) in flows(model, parameters, loss).items():
            inputs[name].add(x)
            gradients[name].add(d)
        on_part()
    bases = {}
    for name, p in parameters.items():
        affine = _affine(inputs[name]) * p.numel() // inputs[name].second.diagonal(dim1=1, dim2=2).numel()
        sides = (_side(moments.pop(name), p) for moments in (gradients, inputs))
        bases[name] = MatrixBasis(*sides, shapes[name].transposed, affine)
    return bases


def _affine(inputs: Moments) -> int:
    """Input directions n, n·x constant but not nil, as a LayerNorm leaves one; not looked for among neurons."""
    if inputs.size == 1:
        return 0
    about_zero, about_mean = (torch.linalg.eigvalsh(moments) for moments in (inputs.second, inputs.centred()))
    nil = (int((values <= EXACT_NULL_TOLERANCE * values.max()).sum()) for values in (about_zero, about_mean))
    return -next(nil) + next(nil)


def _side(moments: Moments, like: Tensor) -> Side:
    if moments.size == 1:
        vectors, values = None, moments.second.flatten()
    else:
        eigenvalues, eigenvectors = torch.linalg.eigh(moments.second)
        vectors, values = eigenvectors.to(like), eigenvalues.flatten()
    nil = values <= EXACT_NULL_TOLERANCE * values.max()
    return Side(vectors, values.masked_fill(nil, torch.inf))


class Shares(NamedTuple):
    """Shares of a vector's energy, which add up to 1 (or are 0 for the zero vector)."""

    flat: float
    complement: float
    excluded: float


@dataclass(frozen=True)
class FlatSubspace:
    """N_f: over all matrices the fraction f of coordinates with the smallest b_i a_j, of those that are not excluded.

    Excluded are coordinates along which nothing flows: inputs that the text does not use, and output directions that nothing
    sees, such as the mean of what is written to a residual stream in front of a LayerNorm. Along them the loss is constant and
    no gradient can lie. No direction and no mask is stored; a mask is made of b and a when it is needed.
    """

    bases: Mapping[str, MatrixBasis]
    fraction: float
    threshold: float
    """largest b_i a_j inside"""
    seed: int
    """of the random parts"""

    @property
    def dims(self) -> tuple[int, int, int]:
        """Dimensions inside, in the complement, and excluded."""
        inside, outside = (sum(int(self.mask(name, part).sum()) for name in self.bases) for part in ("flat", "complement"))
        return inside, outside, sum(int(basis.excluded().sum()) for basis in self.bases.values())

    def mask(self, name: str, part: Part) -> Tensor:
        """(out, in) bool: coordinates of a matrix that a part has."""
        basis = self.bases[name]
        outputs, inputs = basis.outputs.moments, basis.inputs.moments
        if part == "flat":
            return inputs <= (self.threshold / outputs)[:, None]
        if part == "complement":
            return (inputs > (self.threshold / outputs)[:, None]) & ~basis.excluded()
        if part == "random":
            draws = generator(self.seed, "random_part", str(self.fraction), name, device=outputs.device)
            drawn = torch.rand(len(outputs), len(inputs), generator=draws, device=outputs.device) < self.fraction
            return drawn & ~basis.excluded()
        return outputs.new_ones(len(outputs), len(inputs), dtype=torch.bool)

    @torch.no_grad()
    def project_(self, vector: Tensors, part: Part) -> Shares:
        """Project a vector onto a part, in place; `whole` leaves it as it is.

        Args:
            vector: a tensor for every matrix, in the shape of its parameter.
            part: of `list parts`.

        Returns: where the energy of the vector lay before.
        """

        def coordinates() -> Iterator[tuple[str, Tensor]]:
            for name, matrix in vector.items():
                basis = self.bases[name]
                c = basis.rotate(matrix)
                yield name, c
                if part != "whole":
                    matrix.copy_(basis.back(c.mul_(self.mask(name, part))))

        return self._shares(coordinates())

    def project(self, vector: Mapping[str, Tensor], part: Part) -> Tensors:
        """The same as a vector of its own."""
        projected = {name: matrix.detach().clone() for name, matrix in vector.items()}
        self.project_(projected, part)
        return projected

    @torch.no_grad()
    def draw(self, part: Part, draws: torch.Generator) -> Tensors:
        """A random unit vector of a part, isotropic in it; the same draws give the projections of one vector."""
        vector = {}
        for name, basis in self.bases.items():
            like = basis.inputs.vectors if basis.inputs.vectors is not None else basis.outputs.vectors
            size = (len(basis.outputs.moments), len(basis.inputs.moments))
            z = torch.randn(size, generator=draws, device=draws.device).to(like if like is not None else basis.inputs.moments)
            vector[name] = basis.back(z.mul_(self.mask(name, part))).contiguous()
        norm = length(vector)
        return {name: matrix.div_(norm) for name, matrix in vector.items()}

    def shares(self, vector: Mapping[str, Tensor]) -> Shares:
        """Where the energy of a vector lies; a tensor for every matrix, in the shape of its parameter."""
        return self._shares((name, self.bases[name].rotate(matrix.detach())) for name, matrix in vector.items())

    @torch.no_grad()
    def shares_of_gradient(self, flows: Flows) -> Shares:
        """The same for a gradient that is not formed, from what enters and leaves the matrices."""
        return self._shares((name, self.bases[name].of_flow(x, d)) for name, (x, d) in flows.items())

    def share_of_gradient(self, model: Any, parameters: Mapping[str, Tensor], loss: Callable[[], Tensor]) -> float:
        """Share of the energy of a loss's gradient by the parameters that lies inside."""
        return self.shares_of_gradient(flows(model, parameters, loss)).flat

    def inside(self, vector: Mapping[str, Tensor]) -> Tensors:
        """The part of a vector that lies inside."""
        return self.project(vector, "flat")

    def _shares(self, coordinates: Iterator[tuple[str, Tensor]]) -> Shares:
        total = flat = excluded = 0.0
        for name, c in coordinates:
            energy = c.square()
            total += float(energy.sum())
            flat += float(energy[self.mask(name, "flat")].sum())
            excluded += float(energy[self.bases[name].excluded()].sum())
        return Shares(flat / total, (total - flat - excluded) / total, excluded / total) if total > 0 else Shares(0.0, 0.0, 0.0)


def flat_subspace(bases: Mapping[str, MatrixBasis], fraction: float, seed: int) -> FlatSubspace:
    """Cut at the threshold that leaves the fraction f of all coordinates inside, found by bisection; no score is stored."""
    sides = [
        (basis.outputs.moments[~basis.outputs.excluded], basis.inputs.moments[~basis.inputs.excluded].sort().values)
        for basis in bases.values()
    ]
    sides = [(outputs, inputs) for outputs, inputs in sides if len(outputs) and len(inputs)]
    wanted = fraction * sum(len(outputs) * len(inputs) for outputs, inputs in sides)

    def inside(threshold: float) -> int:
        return sum(int(torch.searchsorted(inputs, threshold / outputs, right=True).sum()) for outputs, inputs in sides)

    low = min(float(outputs.min() * inputs[0]) for outputs, inputs in sides) / 2
    high = max(float(outputs.max() * inputs[-1]) for outputs, inputs in sides) * 2
    for _ in range(80):  # the logarithm of the threshold to the last bit or so
        middle = (low * high) ** 0.5
        low, high = (middle, high) if inside(middle) <= wanted else (low, middle)
    return FlatSubspace(bases, fraction, low, seed)


def to_tensors(bases: Mapping[str, MatrixBasis]) -> Tensors:
    """Bases as plain tensors, to be kept in a file."""
    tensors = {}
    for name, basis in bases.items():
        for key, side in (("outputs", basis.outputs), ("inputs", basis.inputs)):
            tensors[f"{name}/{key}"] = side.moments
            if side.vectors is not None:
                tensors[f"{name}/{key}/vectors"] = side.vectors
        tensors[f"{name}/affine"] = torch.tensor(basis.affine)
    return tensors


def from_tensors(tensors: Mapping[str, Tensor], shapes: Mapping[str, Shape]) -> dict[str, MatrixBasis]:
    """The other way."""

    def side(name: str) -> Side:
        return Side(tensors.get(f"{name}/vectors"), tensors[name])

    return {
        name: MatrixBasis(
            side(f"{name}/outputs"), side(f"{name}/inputs"), shape.transposed, int(tensors[f"{name}/affine"])
        )
        for name, shape in shapes.items()
    }
