"""Certificates are what products say; the largest eigenvalue without a stored basis is the largest eigenvalue."""

import math
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lit_degrade.curvature.certificates import CERTIFIED, TEXTS, FlatSettings, certify, count_products, extreme_eigenvalue
from lit_degrade.curvature.flat_subspace import Blocks, FlatSubspace, MatrixBasis, Side, flat_subspace
from lit_degrade.curvature.products import HessianProducts, Tensors, dot, flatten, length, unflatten
from lit_degrade.errors import UserError
from lit_degrade.seeds import generator

SHAPES = {"a": torch.empty(4, 5), "b": torch.empty(3, 6)}
N = 38


def _symmetric(seed: int) -> Tensor:
    m = torch.randn(N, N, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (m + m.T) / 2


def _vector(seed: int) -> Tensors:
    v = torch.randn(N, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return unflatten(v / v.norm(), SHAPES)


@given(st.integers(0, 10**6))
@settings(max_examples=25)
def test_lanczos_with_three_vectors_finds_the_largest_eigenvalue(seed: int) -> None:
    h = _symmetric(seed)
    expected = torch.linalg.eigvalsh(h)
    largest = float(expected[expected.abs().argmax()])

    def product(v: Tensors) -> Tensors:
        return unflatten(h @ torch.cat([t.reshape(-1) for t in v.values()]), SHAPES)

    value, error = extreme_eigenvalue(product, lambda: _vector(seed), 60)
    assert abs(value) == pytest.approx(abs(largest), rel=1e-6)
    assert error < 1e-3 * abs(largest)
    early, bound = extreme_eigenvalue(product, lambda: _vector(seed), 8)
    assert float((expected - early).abs().min()) <= bound * (1 + 1e-9), "an eigenvalue is as near as the bound says"


def test_three_vectors_are_held_at_once() -> None:
    alive: list[int] = []
    made: weakref.WeakSet[Tensor] = weakref.WeakSet()

    def product(v: Tensors) -> Tensors:
        image = {name: (1 + torch.arange(t.numel(), dtype=t.dtype).view(t.shape)) * t for name, t in v.items()}
        made.add(image["a"])
        alive.append(len({t.data_ptr() for t in made}))
        return image

    def start() -> Tensors:
        made.add((v := _vector(0))["a"])
        return v

    extreme_eigenvalue(product, start, 6)
    assert alive == [2, 3, 3, 3, 3, 3]


def test_an_exhausted_space_ends_the_search() -> None:
    value, error = extreme_eigenvalue(lambda v: {name: 3 * t for name, t in v.items()}, lambda: _vector(0), 10)
    assert value == pytest.approx(3)
    assert error == pytest.approx(0, abs=1e-6)


def _quadratic() -> tuple[Tensor, HessianProducts, FlatSubspace]:
    """Loss w'Hw / 2 with H diagonal in a rotated basis: certificates have closed forms."""
    draws = generator(0, "basis")
    bases, eigenvalues = {}, {}
    for name, like in SHAPES.items():
        sides = []
        for d in like.shape:
            q, _ = torch.linalg.qr(torch.randn(d, d, generator=draws))
            sides.append(Side(Blocks(q[None]), torch.rand(d, generator=draws, dtype=torch.float64) + 0.1))
        bases[name] = MatrixBasis(sides[0], sides[1], False, 0)
        eigenvalues[name] = (sides[0].moments[:, None] * sides[1].moments).float()
    space = flat_subspace(bases, 0.5, 0)
    w = {name: torch.randn(like.shape, generator=draws).requires_grad_() for name, like in SHAPES.items()}

    def loss() -> Tensor:
        return sum((eigenvalues[name] * bases[name].rotate(w[name]).square()).sum() / 2 for name in w)  # type: ignore[return-value]

    return flatten(eigenvalues), HessianProducts([loss], w), space


def test_certificates_of_a_quadratic_loss_are_its_eigenvalues() -> None:
    eigenvalues, hessian, space = _quadratic()
    inside = torch.cat([space.mask(name, "flat").flatten() for name in SHAPES])
    chosen = FlatSettings(draws=200, products=30)
    calls = []
    rows, facts = certify(dict.fromkeys(TEXTS, lambda: hessian), space, chosen, 0, lambda: calls.append(1))
    assert len(rows) == count_products(chosen) - 60
    assert len(calls) == hessian.n_products
    assert facts["flat_lambda_max"] == pytest.approx(float(eigenvalues.max()), rel=1e-4)
    assert facts["flat_worst_over_lambda_max"] == pytest.approx(float(eigenvalues[inside].max() / eigenvalues.max()), rel=1e-3)
    expected = {"flat": eigenvalues[inside], "complement": eigenvalues[~inside], "whole": eigenvalues}
    for part in CERTIFIED:
        of = [row for row in rows if row["part"] == part and row["text"] == "held_out"]
        assert sum(row["rayleigh"] for row in of) / 200 == pytest.approx(float(expected[part].mean()), rel=0.05)
        rms = math.sqrt(sum(row["hv_norm"] ** 2 for row in of) / 200)
        assert rms == pytest.approx(float(expected[part].square().mean().sqrt()), rel=0.05)
        assert of[0]["hv_norm_over_lambda_max"] == pytest.approx(of[0]["hv_norm"] / facts["flat_lambda_max"])
    ratio = float(eigenvalues[inside].mean() / eigenvalues.mean())
    assert facts["flat_rayleigh_over_whole_calibration"] == pytest.approx(ratio, rel=0.1)


def test_products_along_named_tensors_are_products_of_the_flat_vector() -> None:
    _, hessian, _ = _quadratic()
    v = {name: t.float() for name, t in _vector(1).items()}
    torch.testing.assert_close(flatten(hessian.along(v)), hessian(flatten(v)))
    assert length(v) == pytest.approx(1, abs=1e-6)
    assert dot(v, v) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("wrong", [{"fraction": 0}, {"fraction": 1.0}, {"draws": 0}, {"products": -1}, {"tokens_per_input": 0}])
def test_sizes_that_cannot_work_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"model.flat.{next(iter(wrong))}"):
        FlatSettings(**wrong)  # type: ignore[arg-type]
