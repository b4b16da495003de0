"""A part of weight space in which the loss is flat, without a stored direction: the Kronecker eigenbasis, cut at a threshold.

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

PRINCIPAL = 4
"""Neurons to one principal direction of what comes out of them."""
_HEADS = ("attn_q", "attn_k", "attn_v")
_NEURONS = ("mlp_up", "mlp_gate")


class Shape(NamedTuple):
    """How a matrix is rotated: in blocks of this many outputs and inputs along the diagonal; 1 is no rotation."""

    outputs: int
    inputs: int
    principal: int
    """leading principal directions of the inputs that are coordinates nonetheless, where they are not rotated"""
    transposed: bool
    """whether it is stored (in, out)"""


def shapes(anatomy: Anatomy, parameters: Mapping[str, Tensor]) -> dict[str, Shape]:
    """How every matrix is rotated: all of a side of hidden width, one head of queries, keys and values, no side of neurons.

    The four times wider side of an MLP would take sixteen times the memory of a hidden side. Of what comes out of the neurons a
    quarter as many principal directions as there are neurons is told apart: they hold most of the curvature, and an optimizer
    finds what single neurons have of them. Adapters are rotated as the matrix that they are added to, and all of their rank.
    """
    components = {site.parameter: site.component for site in anatomy.sites if site.kind == "weight"}
    found = {}
    for name, p in parameters.items():
        below, lora, side = name.partition(".lora_")
        component = components[f"{below}.base_layer.weight" if lora else name]
        transposed = not lora and below.removesuffix(".weight") in anatomy.transposed
        d_in, d_out = p.shape if transposed else reversed(p.shape)
        outputs = anatomy.head_dim if component in _HEADS and not side.startswith("A") else d_out
        outputs = 1 if component in _NEURONS and not side.startswith("A") else outputs
        neurons = component == "mlp_down" and not side.startswith("B")
        found[name] = Shape(outputs, 1 if neurons else d_in, max(1, d_in // PRINCIPAL) if neurons else 0, transposed)
    return found


def widest(shapes: Mapping[str, Shape]) -> int:
    """Most input dimensions that are rotated together: what the text should have a multiple of in tokens."""
    return max(max(shape.inputs, PRINCIPAL * shape.principal) for shape in shapes.values())


class Blocks(NamedTuple):
    """Eigenvectors of diagonal blocks."""

    vectors: Tensor
    """(blocks, size, size), orthonormal columns in each block"""

    def rotate(self, rows: Tensor, back: bool = False) -> Tensor:
        """Coordinates (n, d) of rows (n, d), or the other way."""
        vectors = self.vectors.mT if back else self.vectors
        if len(vectors) == 1:
            return rows @ vectors[0]
        return (rows.unflatten(1, (len(vectors), -1)).transpose(0, 1) @ vectors).transpose(0, 1).flatten(1)


class Principal(NamedTuple):
    """Principal directions in place of as many of the strongest coordinates, the others moved as little as that needs.

    The orthonormal matrix is I - W T W', a product of Householder reflections (Schreiber and Van Loan 1989).
    """

    reflectors: Tensor
    """W, (d, k)"""
    factor: Tensor
    """T, (k, k)"""

    def rotate(self, rows: Tensor, back: bool = False) -> Tensor:
        """Coordinates (n, d) of rows (n, d), or the other way."""
        return rows - ((rows @ self.reflectors) @ (self.factor.mT if back else self.factor)) @ self.reflectors.mT


class Side(NamedTuple):
    """Coordinates of one side of a matrix."""

    rotation: Blocks | Principal | None
    """None where the side is its own basis"""
    moments: Tensor
    """(d,) float64, second moment along each coordinate; infinite where it is nil but for rounding"""

    def rotate(self, rows: Tensor, back: bool = False) -> Tensor:
        """Coordinates (n, d) of rows (n, d), or the other way."""
        return self.rotation.rotate(rows, back) if self.rotation else rows

    @property
    def excluded(self) -> Tensor:
        """(d,) bool: coordinates along which nothing flows."""
        return self.moments.isinf()


@dataclass(frozen=True)
class MatrixBasis:
    """The Kronecker eigenbasis of one matrix."""

    outputs: Side
    inputs: Side
    transposed: bool
    affine: int
    """dimensions along which a bias would move the outputs as well: n·x is one and the same for every token, n ≠ 0"""

    def rotate(self, matrix: Tensor) -> Tensor:
        """A matrix, in the shape of its parameter, to its coordinates (out, in)."""
        return self.outputs.rotate(self.inputs.rotate(matrix.mT if self.transposed else matrix).mT).mT

    def back(self, coordinates: Tensor) -> Tensor:
        """Coordinates (out, in) to a matrix in the shape of its parameter."""
        matrix = self.inputs.rotate(self.outputs.rotate(coordinates.mT, back=True).mT, back=True)
        return matrix.mT if self.transposed else matrix

    def of_flow(self, x: Tensor, d: Tensor) -> Tensor:
        """Coordinates (out, in) of the gradient Σ δ x', from x (tokens, in) and δ (tokens, out)."""
        return self.outputs.rotate(d).mT @ self.inputs.rotate(x)

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
        losses: parts of the loss, of 16 times `widest` tokens or more in all.
        on_part: called after each part (progress).

    Memory: float64 sums of the size of the basis, and float32 ones of the square of the neurons that feed each `mlp_down`.
    """
    inputs = {name: Moments(None if shape.principal else shape.inputs, bool(shape.principal)) for name, shape in shapes.items()}
    gradients = {name: Moments(shape.outputs) for name, shape in shapes.items()}
    for loss in losses:
        for name, (x, d) in flows(model, parameters, loss).items():
            inputs[name].add(x)
            gradients[name].add(d)
        on_part()
    bases = {}
    for name, p in parameters.items():
        into, out = inputs.pop(name), gradients.pop(name)
        affine = 0 if shapes[name].principal else _affine(into) * out.second.shape[:2].numel()
        bases[name] = MatrixBasis(_side(out, p), _side(into, p, shapes[name].principal), shapes[name].transposed, affine)
    return bases


def _affine(inputs: Moments) -> int:
    """Input directions n, n·x constant but not nil, as a LayerNorm leaves one; not looked for among neurons."""
    about_zero, about_mean = (torch.linalg.eigvalsh(moments) for moments in (inputs.second, inputs.centred()))
    nil = [int((values <= EXACT_NULL_TOLERANCE * values.max()).sum()) for values in (about_zero, about_mean)]
    return nil[1] - nil[0]


def _side(moments: Moments, like: Tensor, principal: int = 0) -> Side:
    """The eigenvectors of diagonal blocks; or the leading ones of all, and beside them what the other coordinates become."""
    if principal:
        squares = moments.squares[0]
        rotation, values = _principal(moments.second[0].double().diagonal_scatter(squares), principal)
        nil = squares <= EXACT_NULL_TOLERANCE * squares.max()  # they stay coordinates
        return Side(Principal(*(part.to(like) for part in rotation)), values.masked_fill(nil, torch.inf))
    if moments.size == 1:
        blocks, values = None, moments.second.flatten()
    else:
        eigenvalues, eigenvectors = torch.linalg.eigh(moments.second)
        blocks, values = Blocks(eigenvectors.to(like)), eigenvalues.flatten()
    nil = values <= EXACT_NULL_TOLERANCE * values.max()
    return Side(blocks, values.masked_fill(nil, torch.inf))


def _principal(second: Tensor, count: int) -> tuple[Principal, Tensor]:
    """The rotation that has the leading eigenvectors of a Gram matrix (d, d), and the second moments along its coordinates."""
    strongest = second.diagonal().argsort(descending=True, stable=True)
    _, vectors = torch.linalg.eigh(second)
    leading = vectors.flip(1)[strongest, :count]
    reflectors, scales = torch.geqrf(leading)
    reflectors = reflectors.tril(-1) + torch.eye(*reflectors.shape).to(reflectors)
    factor = torch.linalg.inv((reflectors.mT @ reflectors).triu(1) + (1 / scales).diag())
    rotation = Principal(torch.empty_like(reflectors).index_copy_(0, strongest, reflectors), factor)
    coordinates = rotation.rotate(torch.eye(len(second)).to(second))
    values = (coordinates * (second @ coordinates)).sum(0)
    return rotation, values.clamp_min(EXACT_NULL_TOLERANCE * float(values.max()))  # rounding may leave less than nothing


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
    """which no b_i a_j inside exceeds"""
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
            size = (len(basis.outputs.moments), len(basis.inputs.moments))
            rotation = basis.inputs.rotation or basis.outputs.rotation
            like = rotation[0] if rotation else basis.inputs.moments
            z = torch.randn(size, generator=draws, device=draws.device).to(like)
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
            if side.rotation:
                tensors |= {f"{name}/{key}/{part}": tensor for part, tensor in side.rotation._asdict().items()}
        tensors[f"{name}/affine"] = torch.tensor(basis.affine)
    return tensors


def from_tensors(tensors: Mapping[str, Tensor], shapes: Mapping[str, Shape]) -> dict[str, MatrixBasis]:
    """The other way."""

    def side(name: str) -> Side:
        kinds = (kind for kind in (Blocks, Principal) if f"{name}/{kind._fields[0]}" in tensors)
        rotation = next((kind(*(tensors[f"{name}/{part}"] for part in kind._fields)) for kind in kinds), None)
        return Side(rotation, tensors[name])

    return {
        name: MatrixBasis(side(f"{name}/outputs"), side(f"{name}/inputs"), shape.transposed, int(tensors[f"{name}/affine"]))
        for name, shape in shapes.items()
    }
