"""Objective, gradients and search of the catalyst. Known error 13."""

import pytest
import torch
from conftest import Subject, random_model, wrap
from torch import Tensor

from lit_degrade.curvature.krylov import orthonormal
from lit_degrade.curvature.null_space import NullSpace
from lit_degrade.curvature.products import flatten
from lit_degrade.stimuli.catalyst import (
    EnergyObjective,
    LossObjective,
    allowed_tokens,
    guided_search,
    random_swap_search,
    sequence_losses,
    soft_loss,
)
from lit_degrade.stimuli.controls import gaussian_noise, published_noise, random_text, random_tokens
from lit_degrade.text import TextSource, TokenStream


def _space(subject: Subject, k: int = 6) -> NullSpace:
    n = sum(p.numel() for p in subject.parameters("blocks").values())
    directions = orthonormal(torch.randn(k, n, generator=torch.Generator().manual_seed(0)))
    return NullSpace(directions, directions[:1], 1.0, torch.zeros(k), torch.zeros(k), torch.zeros(1), 0, 0)


def _objective(subject: Subject) -> EnergyObjective:
    return EnergyObjective(subject, subject.parameters("blocks"), _space(subject))


def _start(subject: Subject, seed: int = 0, length: int = 24) -> Tensor:
    return random_tokens(allowed_tokens(subject), 1, length, torch.Generator().manual_seed(seed)).tokens[0]


def test_value_is_the_share_of_energy(tiny: Subject) -> None:
    objective, tokens = _objective(tiny), _start(tiny)
    loss = tiny.model(input_ids=tokens[None], labels=tokens[None]).loss
    parameters = tiny.parameters("blocks")
    g = flatten(dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))).double()
    expected = (objective.space.directions.double() @ g).square().sum() / g.square().sum()
    assert objective.value(tokens) == pytest.approx(float(expected), rel=1e-4)
    assert 0 <= float(expected) <= 1
    assert objective.evaluations == 1


def test_random_share_is_isotropic_within_three_times(tiny: Subject) -> None:
    objective = _objective(tiny)
    isotropic = 6 / objective.space.directions.shape[1]
    shares = sorted(objective.value(_start(tiny, seed)) for seed in range(9))
    assert isotropic / 3 < shares[4] < isotropic * 3


def test_soft_loss_at_a_vertex_is_the_loss(family: str) -> None:
    subject = wrap(random_model(family))
    tokens = torch.arange(8, 30)
    one_hot = torch.nn.functional.one_hot(tokens, subject.embedding.shape[0]).float()
    torch.testing.assert_close(soft_loss(subject, one_hot), sequence_losses(subject, tokens[None])[0], rtol=1e-4, atol=1e-5)


def test_token_gradient_is_the_derivative_of_the_share(tiny: Subject) -> None:
    """Against central differences along a mixture of two tokens, which enters as input and as label."""
    objective, tokens = _objective(tiny), _start(tiny)
    gradient = objective.token_gradient(tokens)
    parameters = tiny.parameters("blocks")

    def share(one_hot: Tensor) -> float:
        g = flatten(
            dict(zip(parameters, torch.autograd.grad(soft_loss(tiny, one_hot), list(parameters.values())), strict=True))
        )
        return objective.space.energy(g)

    one_hot = torch.nn.functional.one_hot(tokens, tiny.embedding.shape[0]).float()
    central = EnergyObjective(tiny, parameters, objective.space, "central_difference").token_gradient(tokens)
    assert float((central - gradient).norm() / gradient.norm()) < 0.1
    for position, token in ((3, 17), (11, 400), (20, 900)):
        step = torch.zeros_like(one_hot)
        step[position, token], step[position, tokens[position]] = 1.0, -1.0
        h = 2e-2
        expected = (share(one_hot + h * step) - share(one_hot - h * step)) / (2 * h)
        ours = float((gradient * step).sum())
        assert ours == pytest.approx(expected, rel=0.05, abs=2e-3 * float(gradient.abs().max()))


def test_screen_is_the_directional_derivative_and_counts_its_cost(tiny: Subject) -> None:
    objective, tokens = _objective(tiny), _start(tiny)
    objective.token_gradient(tokens)
    candidates = torch.stack([_start(tiny, seed) for seed in (1, 2, 3)])
    scores = objective.screen(candidates)
    assert objective.evaluations == 4 + 3
    central = EnergyObjective(tiny, tiny.parameters("blocks"), objective.space, "central_difference")
    central.token_gradient(tokens)
    torch.testing.assert_close(central.screen(candidates), scores, rtol=0.1, atol=0.05 * float(scores.abs().max()))
    w = flatten(objective._direction)
    for candidate, score in zip(candidates, scores, strict=True):
        assert float(score) == pytest.approx(float(w @ flatten(objective.gradient(candidate))), rel=1e-3, abs=1e-9)
    # at the sequence itself the direction is orthogonal to the gradient: rescaling g does not change the share
    assert abs(float(w @ flatten(objective.gradient(tokens)))) < 1e-4 * float(
        w.norm() * flatten(objective.gradient(tokens)).norm()
    )


def test_search_is_monotone_changes_tokens_and_keeps_its_budget(tiny: Subject) -> None:
    objective, start = _objective(tiny), _start(tiny)
    result = guided_search(objective, start, allowed_tokens(tiny), 600, torch.Generator().manual_seed(0))
    assert result.best == sorted(result.best)
    assert result.evaluations == objective.evaluations <= 600
    assert result.changed == float((result.tokens != start).float().mean()) > 0.5
    assert objective.value(result.tokens) == pytest.approx(result.best[-1], rel=1e-4)
    again = guided_search(_objective(tiny), start, allowed_tokens(tiny), 600, torch.Generator().manual_seed(0))
    assert torch.equal(result.tokens, again.tokens)
    other = guided_search(_objective(tiny), start, allowed_tokens(tiny), 300, torch.Generator().manual_seed(1))
    assert not torch.equal(result.tokens, other.tokens)


def test_search_depends_on_the_directions(tiny: Subject) -> None:
    """The published catalyst was the same for its directions, random ones and zeros."""
    start, allowed = _start(tiny), allowed_tokens(tiny)
    one = _objective(tiny)
    two = EnergyObjective(tiny, tiny.parameters("blocks"), _space(tiny, k=7))
    a = guided_search(one, start, allowed, 120, torch.Generator().manual_seed(0))
    b = guided_search(two, start, allowed, 120, torch.Generator().manual_seed(0))
    assert not torch.equal(a.tokens, b.tokens)


def test_random_swap_baseline_has_the_same_budget_and_is_monotone(tiny: Subject) -> None:
    objective, start = _objective(tiny), _start(tiny)
    result = random_swap_search(objective, start, allowed_tokens(tiny), 50, torch.Generator().manual_seed(0))
    assert result.evaluations == 50
    assert result.best == sorted(result.best)
    assert result.best[-1] > result.best[0]


def test_loss_ascent_raises_the_loss(tiny: Subject) -> None:
    objective, start = LossObjective(tiny), _start(tiny)
    result = guided_search(objective, start, allowed_tokens(tiny), 150, torch.Generator().manual_seed(0))
    assert result.best[-1] > result.best[0] + 1
    assert objective.value(result.tokens) == pytest.approx(result.best[-1], rel=1e-5)


def test_controls_have_one_shape_and_follow_their_seed(tiny: Subject, text: TextSource) -> None:
    """Known error 8: a control that ignores its seed."""
    allowed, stream = allowed_tokens(tiny), text.tokens("attack", tiny.tokenizer)

    def make(seed: int) -> list[Tensor]:
        def g() -> torch.Generator:
            return torch.Generator().manual_seed(seed)

        noise = gaussian_noise(tiny, allowed, 2, 16, g())
        assert noise.embeddings is not None
        return [
            random_tokens(allowed, 2, 16, g()).tokens,
            random_text(stream, 2, 16, g()).tokens,
            noise.tokens,
            noise.embeddings,
        ]

    for a, same, other in zip(make(1), make(1), make(2), strict=True):
        assert a.shape[:2] == (2, 16)
        assert torch.equal(a, same)
        assert not torch.equal(a, other)


def test_gaussian_noise_matches_the_embeddings(tiny: Subject) -> None:
    table = tiny.embedding.detach()
    matched = gaussian_noise(tiny, allowed_tokens(tiny), 200, 64, torch.Generator().manual_seed(0)).embeddings
    published = published_noise(tiny, allowed_tokens(tiny), 200, 64, torch.Generator().manual_seed(0)).embeddings
    assert matched is not None
    assert published is not None
    torch.testing.assert_close(matched.flatten(0, 1).std(0), table.std(0), rtol=0.05, atol=0)
    torch.testing.assert_close(matched.flatten(0, 1).mean(0), table.mean(0), rtol=0, atol=0.05 * float(table.std()))
    assert float(published.std()) == pytest.approx(0.1, rel=0.02)


def test_special_tokens_are_never_used(tiny: Subject) -> None:
    assert tiny.tokenizer.eos_token_id not in allowed_tokens(tiny).tolist()
    short = TokenStream(torch.arange(3), torch.ones(3, dtype=torch.long))
    with pytest.raises(Exception, match="The attack split has 3 tokens; a window needs 16"):
        random_text(short, 1, 16, torch.Generator())
