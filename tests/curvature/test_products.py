"""Hessian-vector products against an explicit Hessian, float64 finite differences, and LayerNorm."""

import copy

import pytest
import torch
from conftest import Subject, load
from torch import nn

from lit_degrade.curvature.products import HessianProducts, flatten, unflatten
from lit_degrade.measures.perplexity import token_nll


def _layernorm_model() -> nn.Module:
    """Three layers of LayerNorm and GELU: where vmapped forward-over-reverse is wrong."""
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4), nn.GELU()) for _ in range(3)]
    return nn.Sequential(*layers, nn.Linear(4, 3)).double()


def test_equals_the_explicit_hessian_on_a_layernorm_model() -> None:
    model = _layernorm_model()
    x, y = torch.randn(16, 4).double(), torch.randint(3, (16,))
    parameters = dict(model.named_parameters())

    def loss_at(vector: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(torch.func.functional_call(model, unflatten(vector, parameters), (x,)), y)

    at = torch.cat([p.detach().reshape(-1) for p in parameters.values()])
    explicit = torch.autograd.functional.hessian(loss_at, at)
    hessian = HessianProducts([lambda: nn.functional.cross_entropy(model(x), y)], parameters)
    ours = torch.stack([hessian(row).double() for row in torch.eye(len(at)).double()])
    torch.testing.assert_close(ours, explicit, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours, ours.T, rtol=1e-4, atol=1e-6)
    assert hessian.n_products == len(at)


def _setup(subject: Subject) -> tuple[dict[str, nn.Parameter], torch.Tensor]:
    return subject.parameters("blocks"), torch.randint(1, 1000, (2, 32), generator=torch.Generator().manual_seed(1))


def test_agrees_with_float64_finite_differences_on_a_trained_subject(tiny: Subject) -> None:
    parameters, tokens = _setup(tiny)
    hessian = HessianProducts([lambda: token_nll(tiny.model(input_ids=tokens).logits, tokens).mean()], parameters)
    v = torch.nn.functional.normalize(torch.randn(hessian.size, generator=torch.Generator().manual_seed(2)), dim=0)
    exact = copy.deepcopy(tiny.model).double()
    # The library computes attention softmax and rotations in float32 whatever the model; float64 inputs and sums around them
    # leave about 1e-7 of noise, which a step of 1e-2 keeps below 1e-4.
    named = {name: dict(exact.named_parameters())[name] for name in parameters}

    def gradient(step: float) -> torch.Tensor:
        moved = {
            n: p.detach() + step * d for (n, p), d in zip(named.items(), unflatten(v.double(), named).values(), strict=True)
        }
        leaves = {n: p.requires_grad_() for n, p in moved.items()}
        logits = torch.func.functional_call(exact, leaves, (), {"input_ids": tokens}).logits
        nll = -torch.log_softmax(logits, -1)[:, :-1].gather(2, tokens[:, 1:, None]).mean()
        return torch.cat([g.reshape(-1) for g in torch.autograd.grad(nll, list(leaves.values()))])

    h = 1e-2
    wide = (gradient(2 * h) - gradient(-2 * h)) / (4 * h)
    narrow = (gradient(h) - gradient(-h)) / (2 * h)
    expected = (4 * narrow - wide) / 3  # Richardson: error of order h^4
    assert float((hessian(v).double() - expected).norm() / expected.norm()) < 1e-4


def test_one_graph_serves_many_products_and_the_gradient(tiny: Subject) -> None:
    parameters, tokens = _setup(tiny)

    def loss() -> torch.Tensor:
        return token_nll(tiny.model(input_ids=tokens).logits, tokens).mean()

    hessian = HessianProducts([loss], parameters)
    v, w = torch.randn(2, hessian.size)
    torch.testing.assert_close(hessian(v + w), hessian(v) + hessian(w), rtol=1e-3, atol=1e-4)
    assert abs(float(w @ hessian(v) - v @ hessian(w))) < 1e-6 * float(w.norm() * hessian(v).norm())
    g = torch.autograd.grad(loss(), list(parameters.values()))
    torch.testing.assert_close(hessian.gradient(), flatten(dict(zip(parameters, g, strict=True))), rtol=1e-4, atol=1e-6)


def test_central_difference_agrees_and_restores_bit_for_bit() -> None:
    subject = load("tiny-60k")
    parameters, tokens = _setup(subject)
    before = {name: p.detach().clone() for name, p in parameters.items()}

    def loss() -> torch.Tensor:
        return token_nll(subject.model(input_ids=tokens).logits, tokens).mean()

    exact, central = HessianProducts([loss], parameters), HessianProducts([loss], parameters, "central_difference")
    v = torch.nn.functional.normalize(torch.randn(exact.size, generator=torch.Generator().manual_seed(3)), dim=0)
    hv = exact(v)  # before the weights are moved under its graph
    assert float((hv - central(v)).norm() / hv.norm()) < 0.02
    assert float((3 * hv - central(3 * v)).norm() / (3 * hv).norm()) < 0.02
    assert all(torch.equal(p, before[name]) for name, p in parameters.items())

    class Boom(Exception):
        pass

    calls = iter([None, Boom()])

    def failing() -> torch.Tensor:
        if (error := next(calls)) is not None:
            raise error
        return loss()

    with pytest.raises(Boom):
        HessianProducts([failing], parameters, "central_difference")(v)
    assert all(torch.equal(p, before[name]) for name, p in parameters.items())
