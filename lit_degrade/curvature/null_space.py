"""Directions of low curvature of the training loss, certified, and the signal subspace beside them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from lit_degrade.checks import at_least
from lit_degrade.curvature.kronecker import KroneckerFactors, flat_random
from lit_degrade.curvature.krylov import krylov, orthonormal
from lit_degrade.curvature.products import HessianProducts, HvpMethod, Tensors, flatten, unflatten
from lit_degrade.errors import UserError
from lit_degrade.subjects.anatomy import Anatomy, Site

EXACT_NULL_TOLERANCE = 1e-12
"""Eigenvalues of a Gram matrix below this share of the largest are float32 rounding, not data."""


@dataclass(frozen=True)
class NullSpaceSettings:
    """How much to spend on the null space."""

    directions: int = 10
    """orthonormal low-curvature directions"""
    products: int = 60
    """Hessian-vector products spent: half on the largest eigenvalues, half on the flattest directions"""
    signal: int = 10
    """eigenvectors of largest |eigenvalue| that span the signal subspace"""
    random_directions: int = 20
    """random unit vectors that every certificate is compared with"""
    target: str = "blocks"
    """matrices that the space is taken over (`list targets`)"""
    calibration_blocks: int = 8
    """blocks of calibration text whose mean loss defines the curvature"""
    hvp: HvpMethod | Literal["auto"] = "auto"
    """how products are formed; `auto` is exact, but central_difference at int8, whose kernels have no second derivative"""

    microbatch: int = 0
    """calibration blocks whose activations are held at once, 0: all; fewer need less memory and half as much time again"""
    offload: bool = False
    """keep directions and Krylov spaces in the host's memory rather than on the accelerator"""
    method: Literal["krylov", "flat"] = "krylov"
    """krylov: a few explicit directions, as these settings have it; flat: the flat subspace, as model.flat has it"""

    def __post_init__(self) -> None:
        """Raise: UserError for sizes that cannot work."""
        for name in ("directions", "products", "signal", "random_directions", "calibration_blocks"):
            at_least(f"model.null_space.{name}", getattr(self, name), 1)
        at_least("model.null_space.microbatch", self.microbatch, 0)
        least = 2 * max(self.directions, self.signal)
        if self.products < least:
            raise UserError(
                f"model.null_space.products={self.products}: expected {least} or more (twice directions, twice signal)."
            )

    def check(self, n_parameters: int) -> None:
        """Raise: UserError when the space asked for does not fit the parameters."""
        if self.products + self.directions > n_parameters:
            raise UserError(
                f"model.null_space.products={self.products} and directions={self.directions}: expected no more together than "
                f"the {n_parameters} parameters that the space is taken over."
            )


@dataclass(frozen=True)
class NullSpace:
    """Certified low-curvature directions U and signal directions V over chosen parameters (n of them)."""

    directions: Tensor
    """U, (k, n) orthonormal, flattest first"""
    signal: Tensor
    """V, (r, n) orthonormal, most curved first"""
    lambda_max: float
    """largest |Ritz value| [nats per squared unit of weight]"""
    norms: Tensor
    """‖H u_i‖ by a fresh product, (k,)"""
    rayleigh: Tensor
    """u_i' H u_i by a fresh product, (k,)"""
    random_norms: Tensor
    """‖H v‖ of random unit vectors"""
    n_products: int
    """Hessian-vector products spent in all, certificates included"""
    exact_null_dims: int
    """dimensions of known exact nulls that were excluded"""

    def energy(self, vector: Tensor) -> float:
        """Share of the energy of a vector (n,) inside the null space: ‖Uv‖² / ‖v‖², in [0, 1]; 0 for the zero vector."""
        return _energy(self.directions, vector)

    def signal_energy(self, vector: Tensor) -> float:
        """Share of the energy of a vector (n,) inside the signal subspace."""
        return _energy(self.signal, vector)

    def share_of_gradient(self, model: Any, parameters: Mapping[str, Tensor], loss: Callable[[], Tensor]) -> float:
        """Share of the energy of a loss's gradient by the parameters."""
        gradient = torch.autograd.grad(loss(), list(parameters.values()))
        return self.energy(flatten(dict(zip(parameters, gradient, strict=True))))

    def inside(self, vector: Mapping[str, Tensor]) -> Tensors:
        """The part of a vector over the parameters that lies in the null space."""
        v = flatten(vector)
        return unflatten(((self.directions @ v.to(self.directions)) @ self.directions).to(v), vector)

    def facts(self) -> dict[str, Any]:
        """Columns of the summary."""
        ratios = self.norms / self.lambda_max
        random_ratio = float(self.random_norms.median()) / self.lambda_max
        return {
            "null_directions": len(self.directions),
            "null_lambda_max": self.lambda_max,
            "null_ratio_best": float(ratios.min()),
            "null_ratio_median": float(ratios.median()),
            "null_ratio_random": random_ratio,
            "null_best_below_random": random_ratio / float(ratios.min()),
            "null_median_below_random": random_ratio / float(ratios.median()),
            "null_products": self.n_products,
            "null_exact_dims_excluded": self.exact_null_dims,
        }

    def certificates(self) -> list[dict[str, float]]:
        """One row per direction: curvature, Rayleigh quotient, and their ratios to |lambda_max| and to random directions."""
        median = float(self.random_norms.median())
        return [
            {
                "direction": i,
                "hv_norm": float(norm),
                "rayleigh": float(rayleigh),
                "hv_norm_over_lambda_max": float(norm) / self.lambda_max,
                "rayleigh_over_lambda_max": float(rayleigh) / self.lambda_max,
                "hv_norm_over_random_median": float(norm) / median,
                "share_of_random_below": float((self.random_norms < norm).float().mean()),
            }
            for i, (norm, rayleigh) in enumerate(zip(self.norms, self.rayleigh, strict=True))
        ]


def _energy(basis: Tensor, vector: Tensor) -> float:
    total = float(vector.double().square().sum())
    inside = float((basis @ vector.to(basis)).double().square().sum())
    return inside / total if total > 0 else 0.0


@dataclass(frozen=True)
class ExactNull:
    """Directions of one matrix along which the batch's loss is constant: u ⊗ n for any u, or w ⊗ v for any v."""

    start: int
    """offset of the matrix in the flat vector"""
    site: Site
    shape: torch.Size
    vectors: Tensor
    """n (in, r) or w (out, r), orthonormal"""
    side: Literal["inputs", "outputs"]
    dims: int
    """dimensions that are excluded and that no null of the same matrix before this one has excluded"""
    transposed: bool = False
    """whether the matrix is stored (in, out)"""
    first_row: int = 0
    """first row within each head that the null applies to"""
    head_dim: int = 1
    """rows of one head"""

    def remove_(self, vector: Tensor) -> None:
        """Project a flat vector (n,) onto the complement of these directions, in place."""
        matrix = self.site.view(vector[self.start : self.start + self.shape.numel()].view(self.shape))
        null = self.vectors.to(vector)
        if self.transposed:
            matrix = matrix.movedim(0, -1)
        if self.side == "outputs":
            matrix -= null @ (null.T @ matrix)
            return
        if self.first_row > 0:
            heads = matrix.unflatten(0, (-1, self.head_dim)) if matrix.dim() == 2 else matrix
            matrix = heads[..., self.first_row :, :]
        matrix -= (matrix @ null) @ null.T


def exact_nulls(anatomy: Anatomy, parameters: Mapping[str, Tensor], factors: Mapping[str, KroneckerFactors]) -> list[ExactNull]:
    """Lines along which the loss of the batch that `factors` were taken from is constant: flat, but no gradient reaches them.

    Three kinds, found from what enters and leaves the matrices. Directions n with n·x = 0 for every token (any row). For key
    rows that no rotation moves, n·x the same for every token, since a vector added to all keys cancels in the softmax. And
    output directions w with w·δ = 0 for every token (any column). The first kind exists where a batch has fewer (distinct)
    tokens than a matrix has inputs; the second behind every LayerNorm, whose outputs lie in a hyperplane; the third before
    it, whatever the text: a LayerNorm subtracts the mean of the residual stream, so that nothing sees w = (1, ..., 1) of what
    is written there. Of a matrix with more outputs than half the tokens the third is not looked for: w would be what
    too few tokens leave over. Along all of them the gradient and the Rayleigh quotient are zero; Hv is too where no other
    parameter of the set changes the inputs.
    """
    nulls = []
    start = 0
    for name, p in parameters.items():
        factor, transposed = factors[name], anatomy.family == "gpt2"
        d_out, d_in = len(factor.gradients), len(factor.inputs)
        whole = next(site for site in anatomy.sites if site.parameter == name and site.kind == "weight")
        absent = _gram_null(factor.inputs)
        if n_absent := absent.shape[1]:
            dims = d_out * n_absent
            nulls.append(ExactNull(start, replace(whole, part=None), p.shape, absent, "inputs", dims, transposed))
        unseen = _gram_null(factor.gradients) if factor.tokens >= 2 * d_out else absent[:, :0]
        if unseen.shape[1]:
            dims = unseen.shape[1] * (d_in - n_absent)
            nulls.append(ExactNull(start, replace(whole, part=None), p.shape, unseen, "outputs", dims, transposed))
        # lifted by what is absent, so that no direction is counted twice
        shift = _gram_null(factor.centred + factor.inputs.diagonal().sum() * absent @ absent.T)
        for site in (s for s in anatomy.sites if s.parameter == name and s.component == "attn_k" and s.kind == "weight"):
            if shift.shape[1] and anatomy.rotary_dims < anatomy.head_dim:
                rows = site.view(torch.empty(p.shape, device="meta")).numel() // d_in
                dims = rows // anatomy.head_dim * (anatomy.head_dim - anatomy.rotary_dims) * shift.shape[1]
                keys = (transposed, anatomy.rotary_dims, anatomy.head_dim)
                nulls.append(ExactNull(start, site, p.shape, shift, "inputs", dims, *keys))
        start += p.numel()
    return nulls


def _gram_null(gram: Tensor) -> Tensor:
    """Orthonormal basis (in, r) of the numerical null space of a Gram matrix (in, in)."""
    values, vectors = torch.linalg.eigh(gram)
    return vectors[:, values <= EXACT_NULL_TOLERANCE * values[-1]]


def find_null_space(
    hessian: HessianProducts,
    settings: NullSpaceSettings,
    generator: torch.Generator,
    factors: Mapping[str, KroneckerFactors],
    nulls: list[ExactNull],
    on_product: Callable[[], None] = lambda: None,
) -> NullSpace:
    """Find and certify low-curvature directions.

    Half of the products go to a Krylov space from one random vector: its extreme Ritz vectors are V and |lambda_max|. The
    other half go to a block Krylov space from as many random vectors as directions are asked for, drawn from the inverse
    Kronecker-factored curvature; its flattest orthonormal directions are U. Exact nulls are removed from the start vectors and
    from the result, before it is certified.

    Args:
        hessian: products of the training loss, over n parameters.
        settings: sizes and budgets.
        generator: draws start and reference vectors; on the parameters' device or the CPU.
        factors: Kronecker factors of the same loss.
        nulls: what to exclude.
        on_product: called after each product.
    """
    device = next(iter(hessian.parameters.values())).device
    store = torch.device("cpu") if settings.offload else device

    def product(vector: Tensor) -> Tensor:
        return hessian(vector.to(device)).to(store)

    def clean(vectors: Tensor) -> Tensor:
        for vector in vectors:
            for null in nulls:
                null.remove_(vector)
        return torch.nn.functional.normalize(vectors, dim=1)

    def random(count: int) -> Tensor:
        return clean(torch.randn(count, hessian.size, generator=generator, device=generator.device).to(store))

    def images(vectors: Tensor) -> Tensor:
        rows = []
        for vector in vectors:
            rows.append(product(vector))
            on_product()
        return torch.stack(rows)

    top = krylov(product, random(1), settings.products // 2, on_product, torch.bfloat16)
    values, signal, _ = top.extreme(settings.signal)
    del top
    flat = clean(flat_random(factors, hessian.parameters, settings.directions, generator, store))
    bottom = krylov(product, flat, settings.products - settings.products // 2, on_product, torch.bfloat16)
    directions = orthonormal(clean(bottom.flattest(settings.directions)))
    del bottom
    products = images(directions)
    return NullSpace(
        directions,
        signal,
        float(values[0].abs()),
        products.norm(dim=1).cpu(),
        (directions * products).sum(1).cpu(),
        torch.stack([images(vector[None])[0].norm() for vector in random(settings.random_directions)]).cpu(),
        hessian.n_products,
        sum(null.dims for null in nulls),
    )
