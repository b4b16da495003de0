"""First-order scores of bits against brute force over every bit of small subjects, in every stored format."""

import functools

import pytest
import torch
from conftest import random_model, wrap
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_degrade.criticality.ranking import Weights
from lit_degrade.faults import scores
from lit_degrade.faults.flips import WHOLE, Flip, flipped
from lit_degrade.faults.scores import Candidate, largest, top_flips
from lit_degrade.perturbations.bits import WIDTHS
from lit_degrade.perturbations.catalog import PerturbationSettings
from lit_degrade.perturbations.storage import stored
from lit_degrade.perturbations.targets import sites_of
from lit_degrade.subjects.catalog import SubjectSpec
from lit_degrade.subjects.loading import Subject, load_subject, weights_sha256

FORMATS = ["fp32", "bf16", "fp16", "int8", "nf4"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@functools.cache
def quantised(precision: str) -> Subject:
    return load_subject(SubjectSpec("tiny-250k", precision=precision), 0, torch.device("cpu"), train=False)


def subject_in(precision: str, family: str = "gpt_neox") -> Subject:
    if precision in DTYPES:
        return wrap(random_model(family).to(DTYPES[precision]))
    return quantised(precision)


def weights_of(subject: Subject, target: str = "attn_o", layers: str = "0") -> Weights:
    return Weights(subject, sites_of(subject, PerturbationSettings("bit_flip", target, layers)))


def gradient_of(weights: Weights, seed: int = 0) -> dict[str, torch.Tensor]:
    draws = torch.Generator().manual_seed(seed)
    shapes = dict(zip([site.parameter for site in weights.sites], weights.shapes, strict=True))
    return {name: torch.randn(shape, generator=draws) for name, shape in shapes.items()}


def brute(subject: Subject, weights: Weights, gradient: dict[str, torch.Tensor], in_range: bool) -> list[tuple[float, Flip]]:
    """Every flip that is allowed, best first, from what `flipped_values` says a parameter becomes, bit by bit."""
    found: list[tuple[float, int, int, Flip]] = []
    for number, site in enumerate(weights.sites):
        place = stored(subject.model, site.parameter)
        whole = place.read(WHOLE).float().flatten()
        own = site.view(torch.arange(place.shape.numel()).view(place.shape)).flatten()
        g, limit = gradient[site.parameter].flatten(), whole.abs().max()
        for bit in range(WIDTHS[place.format]):
            after = scores.flipped_values(place, own, torch.tensor(bit))
            for i, index in enumerate(own.tolist()):
                if in_range and not after[i].abs() <= limit:
                    continue
                score = float(g[index] * (after[i] - whole[index]))
                if not after[i].isfinite() and g[index] != 0:
                    score = float("inf")
                found.append((0.0 if score != score else score, number, i, Flip(site.parameter, index, bit)))
    found.sort(key=lambda flip: (-flip[0], flip[1], flip[2], flip[3].bit))
    return [(score, flip) for score, _, _, flip in found]


def named(candidates: list[Candidate]) -> list[tuple[float, Flip]]:
    return [(candidate.predicted, candidate.flip) for candidate in candidates]


@pytest.mark.parametrize("in_range", [True, False], ids=["in_range", "free"])
@pytest.mark.parametrize("precision", FORMATS)
def test_the_best_flips_are_those_of_brute_force(precision: str, in_range: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = subject_in(precision)
    weights = weights_of(subject)
    before = weights_sha256(subject.model)
    gradient = gradient_of(weights)
    limits = largest(subject, weights.parameters) if in_range else None
    expected = brute(subject, weights, gradient, in_range)
    for chunk in (scores.CHUNK, 100):  # chunks of any size find the same
        monkeypatch.setattr(scores, "CHUNK", chunk)
        for m in (1, 7, 300):
            assert named(top_flips(subject, gradient, weights, m, limits)) == expected[:m]
    assert weights_sha256(subject.model) == before


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("in_range", [True, False], ids=["in_range", "free"])
def test_every_flip_is_found_when_all_are_asked_for(family: str, in_range: bool) -> None:
    """Of the parts of a fused matrix too, and of one that is stored the other way round; with equal scores in order."""
    model = random_model(family, n_embd=8, hidden_size=8).half()
    subject = wrap(model)
    weights = weights_of(subject, "attn_v" if family == "gpt2" else "attn_k", "1-2")
    gradient = {name: g.where(g > 0, 0.0) for name, g in gradient_of(weights).items()}  # many scores are equal: zero
    limits = largest(subject, weights.parameters) if in_range else None
    expected = brute(subject, weights, gradient, in_range)
    everything = top_flips(subject, gradient, weights, 16 * len(weights) + 1, limits)
    assert named(everything) == expected
    assert (len(everything) == 16 * len(weights)) == (not in_range)


@settings(max_examples=12, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=20), st.integers(1, 64))
def test_any_weights_at_all(values: list[float], m: int) -> None:
    """Zeros, subnormal numbers and the largest there are: no bit is passed over that belongs to the best."""
    subject = small()
    weights = weights_of(subject)
    weight = subject.model.get_parameter(weights.parameters[0]).data
    weight.zero_()
    weight.view(-1)[: len(values)] = torch.tensor(values)
    gradient = gradient_of(weights)
    for in_range in (True, False):
        limits = largest(subject, weights.parameters) if in_range else None
        assert named(top_flips(subject, gradient, weights, m, limits)) == brute(subject, weights, gradient, in_range)[:m]


@functools.cache
def small() -> Subject:
    return wrap(random_model("gpt_neox", hidden_size=8, intermediate_size=8))


@pytest.mark.parametrize("precision", FORMATS)
def test_scores_are_exact_for_a_linear_loss(precision: str) -> None:
    """Where the loss is g . w, it rises by what is predicted when the bit has really flipped."""
    subject = subject_in(precision)
    weights = weights_of(subject)
    ((name, g),) = gradient_of(weights).items()

    def weight() -> torch.Tensor:
        return stored(subject.model, name).read(WHOLE).double()

    intact = weight()
    limits = largest(subject, weights.parameters)
    for candidate in top_flips(subject, {name: g}, weights, 20, limits):
        with flipped(subject, [candidate.flip]):
            rise = float((g.double() * (weight() - intact)).sum())
            assert candidate.value_flipped == weight().flatten()[candidate.flip.index]
        assert candidate.predicted == pytest.approx(rise, rel=1e-6)
        assert candidate.value == intact.flatten()[candidate.flip.index]


def test_flips_to_what_is_not_finite_come_first_where_there_is_a_gradient() -> None:
    subject = wrap(random_model("gpt_neox"))
    weights = weights_of(subject)
    (name,) = weights.parameters
    flat = subject.model.get_parameter(name).data.view(-1)
    flat[[5, 9, 2]] = torch.tensor([1.0, 1.5, 1.25])  # exponents of which one bit is missing to infinity and NaN
    gradient = gradient_of(weights)
    gradient[name].view(-1)[2] = 0
    first, second, third, *_ = top_flips(subject, gradient, weights, 8)
    assert [first.flip, second.flip] == [Flip(name, 5, 30), Flip(name, 9, 30)]
    assert first.predicted == second.predicted == float("inf") > third.predicted
    assert first.value_flipped == float("inf")
    assert second.value_flipped != second.value_flipped
    everything = {candidate.flip: candidate for candidate in top_flips(subject, gradient, weights, 32 * len(weights))}
    assert everything[Flip(name, 2, 30)].predicted == 0


def test_some_flips_can_be_left_out() -> None:
    subject = wrap(random_model("gpt_neox"))
    weights = weights_of(subject)
    gradient = gradient_of(weights)
    ten = top_flips(subject, gradient, weights, 10)
    without = {ten[0].flip, ten[4].flip}
    assert top_flips(subject, gradient, weights, 8, None, without) == [c for c in ten if c.flip not in without]


def test_the_range_is_that_of_the_whole_parameter() -> None:
    """Q, K and V of a fused matrix share one: the largest of all."""
    subject = wrap(random_model("gpt_neox"))
    (site,) = sites_of(subject, PerturbationSettings("bit_flip", "attn_v", "0"))
    parameter = subject.model.get_parameter(site.parameter).data
    parameter[0, 0] = 7.0  # a Q
    assert largest(subject, [site.parameter]) == {site.parameter: 7.0}
    assert site.view(parameter).abs().max() < 7.0
