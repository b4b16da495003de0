"""Krylov spaces, certificates and exact nulls. Known error 3."""

import pytest
import torch
from conftest import FAMILY_CONFIGS, random_model, wrap
from torch import Tensor

from lit_degrade.curvature.kronecker import kronecker_factors
from lit_degrade.curvature.krylov import krylov, orthonormal
from lit_degrade.curvature.null_space import NullSpaceSettings, exact_nulls, find_null_space
from lit_degrade.curvature.products import HessianProducts, unflatten
from lit_degrade.errors import UserError
from lit_degrade.measures.perplexity import token_nll


def _diagonal(n: int) -> Tensor:
    return torch.linspace(-3, 9, n)


def test_whole_space_gives_the_exact_spectrum() -> None:
    d = _diagonal(30)
    space = krylov(lambda v: d * v, torch.randn(1, 30), 29)
    values, vectors, residuals = space.extreme(3)
    torch.testing.assert_close(values.float(), torch.tensor([9.0, 9 - 12 / 29, 9 - 24 / 29]), rtol=0.02, atol=0)
    assert float(vectors[0].abs().max()) > 0.95
    assert residuals[0] < 0.5


@pytest.mark.parametrize(("block", "products"), [(1, 60), (5, 100)])
def test_flattest_directions_are_the_optimum_of_their_space_and_nothing_like_power_iteration(block: int, products: int) -> None:
    n = 2000
    d = torch.randn(n, generator=torch.Generator().manual_seed(0)) ** 3

    def operator(v: Tensor) -> Tensor:
        return d * v

    start = torch.randn(block, n, generator=torch.Generator().manual_seed(1))
    space = krylov(operator, start, products)
    flat = space.flattest(block)
    torch.testing.assert_close(flat @ flat.T, torch.eye(block), atol=1e-5, rtol=0)
    norms = (flat * d).norm(dim=1)
    random_norm = (orthonormal(torch.randn(200, n)) * d).norm(dim=1).median()
    assert float(norms.max()) < 0.2 * float(random_norm)
    # No other vector of the space does better than the first: compare with a direct minimisation over the space.
    basis = space.basis[:products].double()
    best = torch.linalg.svdvals(basis * d.double())[-1]
    assert float(norms[0]) == pytest.approx(float(best), rel=1e-2)
    # Power iteration, which the earlier work called a search for null directions, goes to the other end.
    v = torch.nn.functional.normalize(start[0], dim=0)
    for _ in range(50):
        v = torch.nn.functional.normalize(operator(v), dim=0)
    assert float(operator(v).norm()) > 0.9 * float(d.abs().max())


def _null_space(family: str) -> None:
    subject = wrap(random_model(family))
    tokens = torch.randint(8, 96, (3, 12), generator=torch.Generator().manual_seed(0))
    parameters = subject.parameters("blocks")

    def loss() -> Tensor:
        return token_nll(subject.model(input_ids=tokens).logits, tokens).mean()

    factors = kronecker_factors(subject.model, parameters, [loss])
    nulls = exact_nulls(subject.anatomy, parameters, factors)
    assert nulls
    hessian = HessianProducts([loss], parameters)
    gradient = hessian.gradient()
    random = torch.nn.functional.normalize(torch.randn(hessian.size), dim=0)
    curvature = float(hessian(random).norm())
    here = float(loss().detach())
    for null in nulls:
        planted = torch.randn(hessian.size)
        removed = planted.clone()
        null.remove_(removed)
        inside = torch.nn.functional.normalize(planted - removed, dim=0)
        assert abs(float(gradient @ inside)) < 1e-4 * float(gradient.norm())
        assert abs(float(inside @ hessian(inside))) < 1e-3 * curvature, null.site
        with torch.no_grad():
            moved = {n: p + d for (n, p), d in zip(parameters.items(), unflatten(inside, parameters).values(), strict=True)}
            logits = torch.func.functional_call(subject.model, moved, (), {"input_ids": tokens}).logits
        change = float(token_nll(logits, tokens).mean()) - here
        assert abs(change) < 5e-6, null.site  # ten units in the last place of 4.6; what is not null moves it further
        assert null.dims >= 1
    before = hessian.n_products
    settings = NullSpaceSettings(directions=3, products=30, signal=2, random_directions=5)
    found = find_null_space(hessian, settings, torch.Generator().manual_seed(0), factors, nulls)
    for direction in found.directions:
        cleaned = direction.clone()
        for null in nulls:
            null.remove_(cleaned)
        torch.testing.assert_close(cleaned, direction, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.directions @ found.directions.T, torch.eye(3), atol=1e-4, rtol=0)
    assert float(found.norms.median()) < float(found.random_norms.median())
    assert found.n_products - before == 30 + 3 + 5
    fresh = hessian(found.directions[0]).norm()
    assert float(found.norms[0]) == pytest.approx(float(fresh), rel=1e-4)
    assert found.energy(found.directions[1]) == pytest.approx(1, abs=1e-4)
    assert found.signal_energy(found.signal[0]) == pytest.approx(1, abs=1e-4)
    assert found.energy(torch.zeros(hessian.size)) == 0


@pytest.mark.parametrize("family", ["gpt_neox", "gpt2", "gptj", "bloom", "llama", "falcon", "opt"])
def test_exact_nulls_are_null_and_excluded(family: str) -> None:
    _null_space(family)


def test_layernorm_families_have_softmax_shifts_and_rmsnorm_with_full_rotation_has_none() -> None:
    tokens = torch.randint(8, 96, (4, 32), generator=torch.Generator().manual_seed(0))

    def shifts(family: str) -> int:
        subject = wrap(random_model(family))
        parameters = subject.parameters("blocks")
        loss = lambda: token_nll(subject.model(input_ids=tokens).logits, tokens).mean()  # noqa: E731
        nulls = exact_nulls(subject.anatomy, parameters, kronecker_factors(subject.model, parameters, [loss]))
        return sum(null.dims for null in nulls if null.site.component == "attn_k" and null.site.depth == 2)

    assert shifts("gpt2") == 32  # every key row, one input direction
    assert shifts("gpt_neox") == 24  # 2 of 8 dimensions of each of 4 heads are rotated
    assert shifts("llama") == 0


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="directions=11: expected no more together than the 10 parameters"):
        NullSpaceSettings(directions=11).check(10)
    with pytest.raises(UserError, match="products=5: expected 20 or more"):
        NullSpaceSettings(products=5).check(1000)


@pytest.mark.parametrize("family", FAMILY_CONFIGS)
def test_the_mean_of_what_is_written_is_null_behind_a_layernorm_only(family: str) -> None:
    """One direction for each column of each matrix that writes to the residual stream; RMSNorm sees every direction."""
    subject = wrap(random_model(family))
    tokens = torch.randint(8, 96, (8, 32), generator=torch.Generator().manual_seed(0))
    parameters = subject.parameters("blocks")

    def loss() -> Tensor:
        return token_nll(subject.model(input_ids=tokens).logits, tokens).mean()

    nulls = exact_nulls(subject.anatomy, parameters, kronecker_factors(subject.model, parameters, [loss]))
    found = {null.site.parameter: null for null in nulls if null.side == "outputs"}
    absent = {null.site.parameter: null.dims // 32 for null in nulls if null.side == "inputs" and null.first_row == 0}
    writers = {s.parameter for s in subject.anatomy.sites if s.component in ("attn_o", "mlp_down") and s.kind == "weight"}
    layer_norms = any(isinstance(module, torch.nn.LayerNorm) for module in subject.anatomy.blocks[0].modules())
    assert writers & set(found) == (writers if layer_norms else set())
    for name in writers & set(found):
        null = found[name]
        torch.testing.assert_close(null.vectors.abs(), torch.full((32, 1), 32**-0.5).double(), atol=1e-5, rtol=0)
        assert null.dims + absent.get(name, 0) == null.shape.numel() // 32
    for name in set(found) - writers:  # of OPT, neurons behind a ReLU that this batch never lets through
        assert subject.anatomy.family == "opt"
        assert float(found[name].vectors.abs().max()) > 0.99
