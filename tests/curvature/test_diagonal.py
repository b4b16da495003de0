"""Diagonals of Hessians against closed forms, dense formulas and unit vectors."""

import weakref
from collections.abc import Callable

import pytest
import torch
from conftest import random_model
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lit_degrade.curvature.diagonal import FLOOR, POWER, Diagonal, hessian_diagonal, signs
from lit_degrade.curvature.products import HessianProducts, flatten, unflatten
from lit_degrade.errors import UserError
from lit_degrade.measures.perplexity import token_nll
from lit_degrade.seeds import generator

BOTH = pytest.mark.parametrize("estimator", ["whitened", "per_tensor"])


def _parameters(seed: int = 0) -> dict[str, Tensor]:
    """Two matrices, wide and tall, and a vector: 6, 6 and 3 entries."""
    draws = generator(seed, "parameters")
    shapes = {"wide": (2, 3), "tall": (3, 2), "vector": (3,)}
    return {name: torch.randn(shape, generator=draws, requires_grad=True) for name, shape in shapes.items()}


def _symmetric(n: int, seed: int = 0) -> Tensor:
    a = torch.randn(n, n, generator=generator(seed, "hessian"))
    return a + a.T


def _quadratic(parameters: dict[str, Tensor], hessian: Tensor) -> Callable[[], Tensor]:
    def loss() -> Tensor:
        w = torch.cat([p.reshape(-1) for p in parameters.values()])
        return w @ hessian @ w / 2

    return loss


def _blocks(hessian: Tensor) -> list[Tensor]:
    return [hessian[a:b, a:b] for a, b in ((0, 6), (6, 12), (12, 15))]


def _within(found: Diagonal, expected: Tensor, errors: float = 5.0) -> bool:
    difference = flatten(found.mean) - expected
    return bool((difference.abs() <= errors * flatten(found.standard_error) + 1e-5).all())


def test_a_diagonal_hessian_is_found_exactly_and_without_error() -> None:
    parameters, diagonal = _parameters(), torch.arange(-7.0, 8.0)
    found = hessian_diagonal(
        [_quadratic(parameters, torch.diag(diagonal))], parameters, 2, generator(0, "probes"), estimator="per_tensor"
    )
    assert torch.equal(flatten(found.mean), diagonal)
    assert not flatten(found.standard_error).any()
    assert found.products == 2 * 3
    assert all(found.mean[name].shape == p.shape == found.standard_error[name].shape for name, p in parameters.items())
    assert not any(value.requires_grad for value in found.mean.values())


@BOTH
def test_a_zero_diagonal_averages_to_zero_with_both_signs(estimator: str) -> None:
    parameters = _parameters()
    hessian = _symmetric(15)
    hessian.fill_diagonal_(0)
    loss, draws = _quadratic(parameters, hessian), generator(1, "probes")
    few = torch.stack([flatten(hessian_diagonal([loss], parameters, 2, draws, estimator).mean) for _ in range(50)])  # type: ignore[arg-type]
    assert ((few > 0).any(0) & (few < 0).any(0)).all()
    assert _within(hessian_diagonal([loss], parameters, 500, draws, estimator), torch.zeros(15), 4.5)  # type: ignore[arg-type]
    assert float(few.abs().mean()) > 1.0  # what the mean of absolute values would have reported


def test_variance_of_plain_signs_is_the_energy_off_the_diagonal_of_the_tensor() -> None:
    parameters, hessian, probes = _parameters(), _symmetric(15), 2_000
    found = hessian_diagonal([_quadratic(parameters, hessian)], parameters, probes, generator(2, "probes"), "per_tensor")
    expected = torch.cat([(block - block.diag().diag()).square().sum(1) for block in _blocks(hessian)])
    torch.testing.assert_close(flatten(found.standard_error).square() * probes, expected, rtol=0.1, atol=0)
    assert _within(found, hessian.diagonal())


def _dense_variance(block: Tensor, gradient: Tensor) -> Tensor:
    """Variance of one whitened sample from the full matrices: Σ over a < b of (M_ab + M_ba)², M_ab = P_ia (H P⁻¹)_ib."""
    gram = gradient.T @ gradient
    values, vectors = torch.linalg.eigh(gram / (gram.trace() / len(gram)) + FLOOR * torch.eye(len(gram)))
    p = torch.kron(torch.eye(len(gradient)), vectors @ torch.diag(values**POWER) @ vectors.T)
    m = torch.einsum("ia,ib->iab", p, block @ torch.linalg.inv(p))
    return (m + m.mT).triu(1).square().sum((1, 2))


def test_variance_of_whitened_probes_is_that_of_the_dense_formula() -> None:
    parameters, hessian, probes = _parameters(), _symmetric(15), 2_000
    loss = _quadratic(parameters, hessian)
    found = hessian_diagonal([loss], parameters, probes, generator(3, "probes"))
    gradients = torch.autograd.grad(loss(), list(parameters.values()))
    matrices = [_dense_variance(block, g) for block, g in zip(_blocks(hessian)[:2], gradients[:2], strict=True)]
    vector = _blocks(hessian)[2]
    expected = torch.cat([*matrices, (vector - vector.diag().diag()).square().sum(1)])
    torch.testing.assert_close(flatten(found.standard_error).square() * probes, expected, rtol=0.1, atol=0)
    assert _within(found, hessian.diagonal())


@BOTH
def test_all_parts_are_used_and_the_split_does_not_matter(estimator: str) -> None:
    parameters, pieces = _parameters(), [_symmetric(15, seed) for seed in range(3)]
    expected = torch.stack(pieces).sum(0).diagonal()
    parts = [_quadratic(parameters, piece) for piece in pieces]
    draws, seen = generator(4, "probes"), []
    split = hessian_diagonal(parts, parameters, 100, draws, estimator, progress=lambda: seen.append(1))  # type: ignore[arg-type]
    whole = hessian_diagonal([lambda: sum(part() for part in parts)], parameters, 100, draws, estimator)  # type: ignore[arg-type, misc, return-value]
    assert len(seen) == 3
    assert split.products == 3 * whole.products == 3 * 3 * 100
    for found in (split, whole):
        assert _within(found, expected)
    assert not _within(split, pieces[0].diagonal())


@BOTH
def test_standard_errors_are_calibrated(estimator: str) -> None:
    parameters, pieces = _parameters(), [_symmetric(15, seed) for seed in range(2)]
    parts, draws = [_quadratic(parameters, piece) for piece in pieces], generator(5, "probes")
    runs = [hessian_diagonal(parts, parameters, 3, draws, estimator) for _ in range(200)]  # type: ignore[arg-type]
    truth = sum(pieces).diagonal()  # type: ignore[union-attr]
    squared = torch.stack([(flatten(run.mean) - truth).square() for run in runs]).mean(0)
    claimed = torch.stack([flatten(run.standard_error).square() for run in runs]).mean(0)
    assert float(squared.sum() / claimed.sum()) == pytest.approx(1, abs=0.12)
    assert (squared / claimed).sub(1).abs().max() < 0.5


@BOTH
def test_the_same_seed_gives_the_same_numbers(estimator: str) -> None:
    parameters = _parameters()
    loss = _quadratic(parameters, _symmetric(15))

    def run(seed: int) -> Tensor:
        return flatten(hessian_diagonal([loss], parameters, 2, generator(seed, "probes"), estimator).mean)  # type: ignore[arg-type]

    assert torch.equal(run(0), run(0))
    assert not torch.equal(run(0), run(1))


@pytest.mark.parametrize("inputs_first", [False, True])
def test_correlated_inputs_cost_whitened_probes_less(inputs_first: bool) -> None:
    draws = generator(6, "data")
    inputs = torch.randn(64, 24, generator=draws) + 2  # a large mean, as activations have it
    labels = torch.randint(16, (64,), generator=draws)
    weight = 0.1 * torch.randn(16, 24, generator=draws)
    weight = (weight.T if inputs_first else weight).clone().requires_grad_()

    def loss() -> Tensor:
        return torch.nn.functional.cross_entropy(inputs @ (weight if inputs_first else weight.T), labels)

    def error(estimator: str, names: tuple[str, ...] = ()) -> float:
        draws = generator(7, "probes")
        found = hessian_diagonal([loss], {"w": weight}, 50, draws, estimator, names)  # type: ignore[arg-type]
        return float(found.standard_error["w"].square().sum())

    names = ("w",) if inputs_first else ()
    assert error("whitened", names) < 0.6 * error("per_tensor")
    assert error("whitened", names) < 0.8 * error("whitened", () if inputs_first else ("w",))


@pytest.mark.parametrize("family", ["gpt_neox", "gpt2"])
@BOTH
def test_agrees_with_unit_vectors_on_a_transformer(family: str, estimator: str) -> None:
    model = random_model(family)
    tokens = torch.randint(1, 90, (3, 16), generator=generator(8, "tokens"))
    chosen = {"gpt_neox": ("layers.1.attention.query_key_value.weight", "layers.2.mlp.dense_4h_to_h.weight"),
              "gpt2": ("h.1.attn.c_attn.weight", "h.2.mlp.c_proj.weight")}[family]  # fmt: skip
    parameters = {name: p for name, p in model.named_parameters() if name.endswith(chosen)}

    def part(row: Tensor) -> Callable[[], Tensor]:
        return lambda: token_nll(model(input_ids=row[None], use_cache=False).logits, row[None]).sum()

    names = tuple(parameters) if family == "gpt2" else ()
    draws = generator(9, "probes")
    found = hessian_diagonal([part(row) for row in tokens], parameters, 24, draws, estimator, names)  # type: ignore[arg-type]
    hessian = HessianProducts([lambda: sum(part(row)() for row in tokens)], parameters)  # type: ignore[list-item, arg-type, return-value]
    places = torch.randperm(hessian.size, generator=draws)[:40]
    exact = torch.stack([hessian(torch.zeros(hessian.size).index_fill_(0, place, 1.0))[place] for place in places])
    z = (flatten(found.mean)[places] - exact) / flatten(found.standard_error)[places]
    assert float(z.abs().max()) < 5
    assert 0.6 < float(z.square().mean().sqrt()) < 1.5


def test_one_graph_is_held_at_a_time() -> None:
    class Box:
        def __init__(self, tensor: Tensor) -> None:
            self.tensor = tensor

    parameters, alive = _parameters(), weakref.WeakSet()
    hessian = _symmetric(15)

    def pack(tensor: Tensor) -> Box:
        box = Box(tensor)
        alive.add(box)
        return box

    held = []

    def loss() -> Tensor:
        held.append(len(alive))
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda box: box.tensor):
            return (_quadratic(parameters, hessian)()).square()

    hessian_diagonal([loss, loss, loss], parameters, 2, generator(0, "probes"), progress=lambda: held.append(len(alive)))
    assert held == [0] * 6


@given(st.lists(st.integers(0, 9), max_size=3), st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_signs_have_the_shape_asked_for(shape: list[int], seed: int) -> None:
    z = signs(torch.Size(shape), generator(seed, "signs"))
    assert list(z.shape) == shape
    assert (z.abs() == 1).all()


def test_signs_are_balanced_and_uncorrelated() -> None:
    z = signs(torch.Size([20_000, 19]), generator(10, "signs"))
    assert float((z.T @ z / len(z) - torch.eye(19)).abs().max()) < 5 / len(z) ** 0.5
    assert float(z.mean(0).abs().max()) < 5 / len(z) ** 0.5


def test_flat_and_broken_losses_give_zero_and_nan() -> None:
    w = torch.zeros(2, 3, requires_grad=True)
    flat = hessian_diagonal([lambda: w.pow(4).sum()], {"w": w}, 2, generator(0, "probes"))
    assert not flat.mean["w"].any()
    broken = hessian_diagonal([(w.sum() - 1).sqrt], {"w": w}, 2, generator(0, "probes"))
    assert broken.mean["w"].isnan().all()


def test_mistakes_are_said() -> None:
    parameters = _parameters()
    with pytest.raises(UserError, match="probes=1: expected 2 or more"):
        hessian_diagonal([_quadratic(parameters, torch.eye(15))], parameters, 1, generator(0, "probes"))
    with pytest.raises(UserError, match=r"Unknown estimator of the Hessian's diagonal 'whitend'\. Did you mean 'whitened'"):
        hessian_diagonal([], parameters, 2, generator(0, "probes"), "whitend")  # type: ignore[arg-type]


def test_the_estimate_has_the_units_of_the_parts_sum() -> None:
    parameters, hessian = _parameters(), torch.diag(torch.arange(15.0))
    parts = [_quadratic(parameters, hessian)] * 4
    found = hessian_diagonal(parts, parameters, 2, generator(0, "probes"), "per_tensor")
    expected = unflatten(4 * torch.arange(15.0), parameters)
    assert all(torch.equal(found.mean[name], expected[name]) for name in parameters)
