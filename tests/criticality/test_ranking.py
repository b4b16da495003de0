"""The weights of highest score and their controls: against brute force, with ties, and what is refused."""

import math
from collections import Counter

import pytest
import torch
from conftest import random_model, wrap
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lit_degrade.criticality.arms import arms_of
from lit_degrade.criticality.catalog import METRICS, TREATED
from lit_degrade.criticality.controls import BIN, among, matched_random_k, random_k, zero_scores
from lit_degrade.criticality.ranking import ScoresOf, Weights, highest, lowest
from lit_degrade.criticality.scores import Scores
from lit_degrade.criticality.sums import Sums, gather
from lit_degrade.errors import UserError
from lit_degrade.perturbations.catalog import PerturbationSettings
from lit_degrade.perturbations.storage import stored
from lit_degrade.perturbations.targets import sites_of
from lit_degrade.subjects.anatomy import Site
from lit_degrade.subjects.loading import Subject

SUBJECT = wrap(random_model("gpt_neox"))


def weights_of(target: str, layers: str = "all", subject: Subject = SUBJECT) -> Weights:
    return Weights(subject, sites_of(subject, PerturbationSettings("zero", target, layers)))


def table(weights: Weights, seed: int, values: int = 0, zeros: float = 0.0) -> tuple[Tensor, ScoresOf]:
    """Random scores of all weights in one vector, and as a function of the site; `values`: of so many different ones."""
    draws = torch.Generator().manual_seed(seed)
    scores = torch.randn(len(weights), generator=draws)
    if values:
        scores = torch.randint(values, (len(weights),), generator=draws).float()
    scores[torch.rand(len(weights), generator=draws) < zeros] = 0.0

    def scores_of(site: Site) -> Tensor:
        i = weights.sites.index(site)
        return scores[weights.starts[i] : weights.starts[i + 1]].view(weights.views[i].shape)

    return scores, scores_of


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Numbers of weights


@pytest.mark.parametrize("family_name", ["gpt_neox", "gpt2", "bloom", "falcon_new", "falcon_multi_query", "llama"])
def test_every_number_is_one_weight(family_name: str) -> None:
    subject = wrap(random_model(family_name))
    weights = weights_of("blocks", subject=subject)
    only = weights.only(torch.arange(len(weights)))
    assert {name: len(indices) for name, indices in only.items()} == {
        name: subject.model.get_parameter(name).numel() for name in weights.parameters
    }
    for name, indices in only.items():
        assert torch.equal(indices, torch.arange(len(indices))), name


def test_a_number_is_the_weight_that_its_site_shows_there() -> None:
    subject = wrap(random_model("gpt2"))
    weights = weights_of("attn_k", "1", subject)
    values = stored(subject.model, weights.sites[0].parameter).read(weights.sites[0]).flatten()
    ids = torch.tensor([1023, 0, 500, 31])
    parameter = subject.model.get_parameter(weights.parameters[0]).detach().flatten()
    assert torch.equal(parameter[weights.pairs(ids)[:, 1]], values[ids])
    assert weights.only(ids).keys() == {weights.sites[0].parameter}


# Highest and lowest


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6000), st.sampled_from([0, 2, 7, 500]), st.sampled_from(["attn", "mlp_up"]))
def test_chunked_highest_is_topk_of_the_concatenation(seed: int, k: int, values: int, target: str) -> None:
    weights = weights_of(target)
    scores, scores_of = table(weights, seed, values)
    found = highest(weights, scores_of, k)
    assert torch.equal(scores[found], scores.topk(k).values)
    assert torch.equal(found, scores.sort(descending=True, stable=True).indices[:k]), "of equal scores the first, in order"


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 300), st.sampled_from([0, 3, 50]), st.sampled_from([0.0, 0.5, 0.9]))
def test_lowest_is_the_bottom_of_nonzero_scores_that_are_not_treated(seed: int, k: int, values: int, zeros: float) -> None:
    weights = weights_of("attn")
    scores, scores_of = table(weights, seed, values, zeros)
    treated = highest(weights, scores_of, k)
    masked = scores.masked_fill(scores == 0, torch.inf)
    masked[treated] = torch.inf
    if int(masked.isfinite().sum()) < k:
        with pytest.raises(UserError, match=f"bottom_k of {k} weights: only {int(masked.isfinite().sum())} weights"):
            lowest(weights, scores_of, k, "global", treated)
        return
    found = lowest(weights, scores_of, k, "global", treated)
    assert torch.equal(found, masked.sort(stable=True).indices[:k])


def test_in_mode_per_layer_every_matrix_has_its_own() -> None:
    weights = weights_of("attn")
    scores, scores_of = table(weights, 1)
    found = highest(weights, scores_of, 9, "per_layer")
    for i in range(len(weights.sites)):
        own = scores[weights.starts[i] : weights.starts[i + 1]]
        assert torch.equal(found[9 * i : 9 * i + 9] - weights.starts[i], own.topk(9).indices)
    low = lowest(weights, scores_of, 9, "per_layer", found)
    assert Counter(i for i, own in weights.by_site(low) for _ in own) == dict.fromkeys(range(len(weights.sites)), 9)


@pytest.mark.parametrize(("k", "mode", "said"), [
    (0, "global", "k=0: expected 1 to 12288, the number of weights of the target"),
    (12289, "global", "k=12289: expected 1 to 12288"),
    (1025, "per_layer", "k=1025: expected 1 to 1024, the number of weights of its smallest matrix"),
])  # fmt: skip
def test_numbers_of_weights_that_there_are_not(k: int, mode: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        weights_of("attn").check(k, mode)  # type: ignore[arg-type]


# Controls


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6144))
def test_random_controls_are_as_many_and_elsewhere(seed: int, k: int) -> None:
    weights = weights_of("attn")
    treated = torch.randperm(len(weights), generator=generator(seed))[:k]
    found = random_k(weights, treated, "global", generator(seed)).ids
    assert len(found) == k == len(found.unique())
    assert not set(found.tolist()) & set(treated.tolist())
    assert 0 <= int(found.min()) <= int(found.max()) < len(weights)
    assert torch.equal(found, random_k(weights, treated.flip(0), "global", generator(seed)).ids)


def test_every_free_weight_is_as_likely_as_any_other() -> None:
    weights = weights_of("attn_q", "0")
    treated = torch.arange(0, 1024, 2)
    drawn = torch.cat([random_k(weights, treated, "global", generator(seed)).ids[:64] for seed in range(800)])
    counts = drawn.bincount(minlength=1024)
    assert not counts[treated].any()
    expected = len(drawn) / 512
    chi_squared = float(((counts[1::2] - expected) ** 2 / expected).sum())
    assert abs(chi_squared - 511) < 5 * math.sqrt(2 * 511)


def test_weights_of_some_sites_are_drawn_from_all_of_these_and_no_others() -> None:
    weights = weights_of("blocks")
    sites = [7, 2, 11]
    everything = {i + int(weights.starts[s]) for s in sites for i in range(weights.size(s))}
    found = among(weights, sites, len(everything), generator())
    assert set(found.tolist()) == everything
    few = among(weights, sites, 300, generator())
    shares = Counter(i for i, own in weights.by_site(few) for _ in own)
    assert set(shares) == set(sites)
    assert len(few.unique()) == 300
    expected = {s: 300 * weights.size(s) / len(everything) for s in sites}
    assert all(abs(shares[s] - n) < 5 * math.sqrt(n) for s, n in expected.items())


def test_random_controls_per_layer_have_as_many_of_every_matrix() -> None:
    weights = weights_of("attn")
    treated = highest(weights, table(weights, 0)[1], 20, "per_layer")
    found = random_k(weights, treated, "per_layer", generator()).ids
    assert Counter(i for i, own in weights.by_site(found) for _ in own) == dict.fromkeys(range(len(weights.sites)), 20)
    assert not set(found.tolist()) & set(treated.tolist())


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3000))
def test_matched_controls_have_the_same_counts_and_histogram(seed: int, k: int) -> None:
    weights = weights_of("mlp")
    sizes = Scores(SUBJECT, Sums(), 0).of("magnitude")
    everything = torch.cat([sizes(site).flatten() for site in weights.sites])
    treated = torch.randperm(len(weights), generator=generator(seed))[:k]
    (control,) = matched_random_k(weights, treated, sizes, [generator(seed)])
    assert len(control.ids) == k == len(control.ids.unique())
    assert not set(control.ids.tolist()) & set(treated.tolist())
    same = 0
    for i in range(len(weights.sites)):
        low, high = weights.starts[i], weights.starts[i + 1]
        ours, theirs = (ids[(ids >= low) & (ids < high)] for ids in (treated, control.ids))
        assert len(ours) == len(theirs)
        histograms = [Counter((everything[ids].log() / BIN).floor().tolist()) for ids in (ours, theirs)]
        same += sum((histograms[0] & histograms[1]).values())
    assert same >= round(k * control.matched)  # what is nearest instead may be another's size
    if k >= 100:  # of few, all may be the largest of their matrices
        norms = [float(everything[ids].norm()) for ids in (treated, control.ids)]
        assert norms[1] == pytest.approx(norms[0], rel=0.05)
        assert control.matched > 0.8


def test_what_has_no_match_gets_the_nearest_and_says_so() -> None:
    """The largest weights have none of their size left: the next largest stand for them."""
    weights = weights_of("mlp_up", "0")
    sizes = Scores(SUBJECT, Sums(), 0).of("magnitude")
    values = sizes(weights.sites[0]).flatten()
    order = values.sort(descending=True).indices
    (control,) = matched_random_k(weights, order[:4], sizes, [generator()])
    assert control.matched < 1
    assert float(values[control.ids].min()) >= 0.8 * float(values[order[4]])
    with pytest.raises(UserError, match=r"1025 of the 2048 weights of '.*dense_h_to_4h.weight' are treated"):
        matched_random_k(weights, order[:1025], sizes, [generator()])


def test_other_draws_are_other_weights_and_the_same_draw_the_same() -> None:
    weights = weights_of("attn")
    sizes = Scores(SUBJECT, Sums(), 0).of("magnitude")
    treated = highest(weights, table(weights, 4)[1], 500)
    a, b = matched_random_k(weights, treated, sizes, [generator(1), generator(2)])
    (again,) = matched_random_k(weights, treated, sizes, [generator(1)])
    assert torch.equal(a.ids, again.ids)
    assert len(set(a.ids.tolist()) & set(b.ids.tolist())) < 250


def test_a_control_of_nothing_but_zero_scores_is_refused_known_error_15() -> None:
    """Rows of tokens that the text lacks have gradient zero: damage there shows nothing about a score."""
    weights = weights_of("embed")
    ids = torch.randint(1, 20, (2, 16), generator=generator())
    scores = Scores(SUBJECT, gather(SUBJECT, ids, weights.parameters, {"gradient"}), 0).of("grad_x_weight")
    unseen = torch.arange(90 * 32, 96 * 32)
    with pytest.raises(UserError, match=r"random_k of 192 weights: grad_x_weight is zero for every one of them"):
        zero_scores("random_k", "grad_x_weight", weights, unseen, scores)
    assert zero_scores("random_k", "grad_x_weight", weights, torch.tensor([32, 95 * 32]), scores) == 0.5
    found = lowest(weights, scores, 100, "global", highest(weights, scores, 100))
    assert bool((scores(weights.sites[0]).flatten()[found] > 0).all())
    with pytest.raises(UserError, match=r"bottom_k of 300 weights: only \d+ weights of '.*' that are not treated"):
        lowest(weights, scores, 300, "global", highest(weights, scores, 300))


@pytest.mark.parametrize("mode", ["global", "per_layer"])
def test_arms_are_equal_in_number_and_disjoint_from_the_treated(mode: str) -> None:
    weights = weights_of("blocks")
    ids = torch.randint(1, 96, (4, 16), generator=generator())
    scores = Scores(SUBJECT, gather(SUBJECT, ids, weights.parameters, {"inputs", "gradient", "squared"}), 0)
    for metric in ("random", "magnitude", "act_mag", "grad_x_weight", "grad_squared"):
        arms = list(arms_of(scores, weights, metric, [5, 50], mode, 3, 0))  # type: ignore[arg-type]
        assert Counter((arm.name, arm.k) for arm in arms) == {
            (name, k): 1 if name in (TREATED, "bottom_k") else 3
            for name in (TREATED, "bottom_k", "random_k", "matched_random_k") for k in (5, 50)
        }  # fmt: skip
        for arm in arms:
            treated = next(a for a in arms if (a.name, a.k) == (TREATED, arm.k))
            assert len(arm.ids) == len(treated.ids) == arm.k * (len(weights.sites) if mode == "per_layer" else 1)
            assert arm is treated or not set(arm.ids.tolist()) & set(treated.ids.tolist())
            assert arm.zero_scores == 0
        few = [set(arm.ids.tolist()) for arm in arms if arm.name == TREATED]
        assert few[0] <= few[1]


def test_metrics_are_those_that_the_issue_of_a_score_names() -> None:
    assert list(METRICS) == [
        "random", "magnitude", "act_mag", "grad_x_weight", "grad_squared", "hutchinson_diag", "hessian_saliency",
    ]  # fmt: skip
