"""How flat a part of weight space is, by products of its own: random directions of it, and the worst one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from lit_degrade.checks import above, at_least, share
from lit_degrade.curvature.catalog import Part
from lit_degrade.curvature.flat_subspace import FlatSubspace
from lit_degrade.curvature.products import HessianProducts, Tensors, dot, length
from lit_degrade.seeds import generator

TEXTS = {
    "calibration": "the first blocks of the text that the flat subspace was taken from",
    "held_out": "as much text of the probe, on which damage is measured",
    "random_tokens": "as many uniformly drawn tokens",
}
"""What the curvature is measured on."""
CERTIFIED: tuple[Part, ...] = ("flat", "complement", "whole")


@dataclass(frozen=True)
class FlatSettings:
    """The flat subspace, and how much to spend on its certificates."""

    fraction: float = 0.5
    """f, share of the Kronecker eigen-directions that are inside"""
    target: str = "blocks"
    """matrices that the space is taken over (`list targets`)"""
    tokens_per_input: int = 32
    """calibration tokens for each rotated input dimension that the eigenbasis is taken from; all there are if they are less"""
    calibration_blocks: int = 8
    """blocks of each text whose mean loss defines the curvature of the certificates"""
    draws: int = 3
    """random directions of each part that are certified on each text"""
    products: int = 20
    """Hessian-vector products spent on |lambda_max|, and as many on the worst direction inside; 0: neither"""
    microbatch: int = 0
    """blocks whose activations are held at once in certificates, 0: all; fewer need less memory and half as much time again"""

    def __post_init__(self) -> None:
        """Raise: UserError for sizes that cannot work."""
        above("model.flat.fraction", self.fraction, 0)
        share("model.flat.fraction", self.fraction)
        for name in ("tokens_per_input", "calibration_blocks", "draws"):
            at_least(f"model.flat.{name}", getattr(self, name), 1)
        for name in ("products", "microbatch"):
            at_least(f"model.flat.{name}", getattr(self, name), 0)


def extreme_eigenvalue(
    product: Callable[[Tensors], Tensors],
    start: Callable[[], Tensors],
    products: int,
    on_product: Callable[[], None] = lambda: None,
) -> tuple[float, float]:
    """The Ritz value of largest modulus of a symmetric operator, and a bound of its error.

    Lanczos's recurrence (1950) without reorthogonalisation: three vectors are held. Lost orthogonality repeats Ritz values, and
    harms the extreme ones no more than rounding does (Paige 1980).

    Args:
        product: v -> H v.
        start: makes a unit vector, of which nothing is kept.
        products: how many.
        on_product: called after each.
    """
    alphas: list[float] = []
    betas: list[float] = []
    v = before = start()  # there is none before the first
    for _ in range(products):
        w = product(v)
        on_product()
        alphas.append(dot(v, w))
        for name, matrix in w.items():
            matrix.sub_(v[name], alpha=alphas[-1])
            if betas:
                matrix.sub_(before[name], alpha=betas[-1])
        betas.append(length(w))
        if betas[-1] <= 1e-7 * max(map(abs, alphas)):  # the space is exhausted
            break
        before, v = v, {name: matrix.div_(betas[-1]) for name, matrix in w.items()}
    diagonal, beside = torch.tensor(alphas, dtype=torch.float64), torch.tensor(betas, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(torch.diag(diagonal) + torch.diag(beside[:-1], 1) + torch.diag(beside[:-1], -1))
    largest = int(values.abs().argmax())
    return float(values[largest]), float(beside[-1] * vectors[-1, largest].abs())


def certify(
    hessians: Mapping[str, Callable[[], HessianProducts]],
    subspace: FlatSubspace,
    settings: FlatSettings,
    seed: int,
    on_product: Callable[[], None] = lambda: None,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Measure curvature inside, outside and over all: a row for every direction, and what they say together.

    Args:
        hessians: of the loss of each of TEXTS, made one after the other, since each may keep a graph; calibration text first.
        subspace: to be certified.
        settings: sizes and budgets.
        seed: of the random directions, the same ones on every text.
        on_product: called after each product.
    """
    rows: list[dict[str, Any]] = []
    facts: dict[str, Any] = {}
    for text, make in hessians.items():
        hessian = make()
        if text == "calibration" and settings.products:
            facts |= _extremes(hessian, subspace, settings.products, seed, on_product)
        for part in CERTIFIED:
            for draw in range(settings.draws):
                v = subspace.draw(part, generator(seed, "certificates", str(draw)))
                image = hessian.along(v)
                rows.append({"part": part, "text": text, "draw": draw, "hv_norm": length(image), "rayleigh": dot(v, image)})
                del v, image
                on_product()
    if lambda_max := facts.get("flat_lambda_max"):
        for row in rows:
            row |= {f"{name}_over_lambda_max": row[name] / lambda_max for name in ("hv_norm", "rayleigh")}
    return rows, facts | _together(rows)


def count_products(settings: FlatSettings) -> int:
    """Products that `certify` takes."""
    return 2 * settings.products + len(TEXTS) * len(CERTIFIED) * settings.draws


def _extremes(
    hessian: HessianProducts, subspace: FlatSubspace, products: int, seed: int, on_product: Callable[[], None]
) -> dict[str, Any]:
    """The largest eigenvalues of H, and of H between directions of the flat subspace."""

    def inside(v: Tensors) -> Tensors:
        image = hessian.along(v)
        subspace.project_(image, "flat")
        return image

    top, error = extreme_eigenvalue(hessian.along, lambda: subspace.draw("whole", generator(seed, "top")), products, on_product)
    worst, worst_error = extreme_eigenvalue(
        inside, lambda: subspace.draw("flat", generator(seed, "worst")), products, on_product
    )
    return {
        "flat_lambda_max": abs(top),
        "flat_lambda_max_error": error,
        "flat_worst_over_lambda_max": worst / abs(top),
        "flat_worst_error_over_lambda_max": worst_error / abs(top),
    }


def _together(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the directions of a part, inside over those of the whole space, on every text."""
    facts: dict[str, Any] = {}
    for text in TEXTS:
        mean = {
            (name, part): sum(values) / len(values)
            for name in ("hv_norm", "rayleigh")
            for part in CERTIFIED
            if (values := [row[name] for row in rows if row["text"] == text and row["part"] == part])
        }
        facts |= {
            f"flat_{name}_over_whole_{text}": mean[name, "flat"] / mean[name, "whole"] for name in ("hv_norm", "rayleigh")
        }
    return facts
