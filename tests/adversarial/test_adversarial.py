"""Attacks on inputs: closed forms on linear losses, balls, all families; tokens replaced, and what their losses are."""

import math
import re
from collections.abc import Callable, Sequence

import pytest
import torch
from conftest import V, load, random_model, wrap
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lit_degrade.adversarial.catalog import ATTACKS, NORMS, Norm
from lit_degrade.adversarial.embeddings import (
    attacked,
    embedded,
    embedding_changed,
    fgsm,
    gradient_of,
    largest,
    logits,
    loss_of,
    no_change,
    pgd,
    project,
    random_inside,
    random_signs,
    replaced,
    shifted,
    units,
)
from lit_degrade.adversarial.tokens import (
    at_random,
    by_characters,
    by_gradient,
    input_losses,
    letter_swaps,
    replacements,
)
from lit_degrade.errors import UserError
from lit_degrade.generation.generator import Decoding, TextGenerator
from lit_degrade.generation.queries import Query
from lit_degrade.measures.perplexity import token_nll
from lit_degrade.seeds import generator
from lit_degrade.subjects.loading import Subject, weights_sha256
from lit_degrade.text import TextSource

IDS = torch.randint(8, V, (3, 20), generator=torch.Generator().manual_seed(0))
COUNTS = (1, 2, 4, 8)


def draws(n: int, *role: str) -> list[torch.Generator]:
    return [generator(0, *role, str(i)) for i in range(n)]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def linear(gradient: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda delta: (gradient * delta).sum((1, 2))


def windows(subject: Subject, n: int = 4) -> Tensor:
    return TextSource(probe_tokens=2048).blocks("probe", subject.tokenizer, n).ids


def test_one_step_gains_what_a_linear_loss_can_gain() -> None:
    gradient, radius = normal(2, 5, 7), 0.25
    loss, zero = linear(gradient), torch.zeros(2, 5, 7)
    by_sign, by_row = (fgsm(loss, zero, norm, radius) for norm in ("linf", "l2"))
    torch.testing.assert_close(loss(by_sign), radius * gradient.abs().sum((1, 2)))
    torch.testing.assert_close(loss(by_row), radius * gradient.norm(dim=2).sum(1))
    assert torch.equal(by_sign, radius * gradient.sign())
    torch.testing.assert_close(by_row, radius * gradient / gradient.norm(dim=2, keepdim=True))
    for norm, best in (("linf", by_sign), ("l2", by_row)):
        found = pgd(loss, random_inside(zero.shape, norm, radius, draws(2)), norm, radius, 10)
        torch.testing.assert_close(loss(found), loss(best), rtol=1e-5, atol=0)


def test_steps_come_to_a_peak_inside_the_ball() -> None:
    """The peak is inside the ball, where one step to the surface misses it."""
    target = normal(2, 5, 7)

    def loss(delta: Tensor) -> Tensor:
        return -(delta - 0.1 * target).square().sum((1, 2))

    start = random_inside((2, 5, 7), "linf", 1.0, draws(2))
    found = pgd(loss, start, "linf", 1.0, 200)
    assert (found - 0.1 * target).abs().max() < 2 * 2.5 / 200
    assert (loss(found) > loss(fgsm(loss, torch.zeros(2, 5, 7), "linf", 1.0))).all()


def test_of_every_sequence_the_best_change_is_kept() -> None:
    """A loss that has its peak at the start: every step only lowers it."""
    start = random_inside((3, 4, 5), "l2", 1.0, draws(3))
    found = pgd(lambda delta: -(delta - start).square().sum((1, 2)), start, "l2", 1.0, 5)
    assert torch.equal(found, start)


def test_a_loss_that_is_not_a_number_is_the_highest() -> None:
    def loss(delta: Tensor) -> Tensor:
        value = delta.sum((1, 2))
        return value + torch.where(value.detach() > 10, math.nan, 0.0)

    start = torch.zeros(1, 4, 5)
    assert loss(pgd(loss, start, "linf", 1.0, 10)).isnan()


@given(
    st.sampled_from(sorted(ATTACKS)),
    st.sampled_from(sorted(NORMS)),
    st.one_of(st.just(0.0), st.floats(1e-6, 1e3)),
    st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 40)),
    st.integers(1, 12),
    st.integers(0, 2**20),
)
def test_no_change_leaves_the_ball(
    attack: str, norm: Norm, radius: float, shape: tuple[int, int, int], steps: int, seed: int
) -> None:
    gradient = normal(*shape, seed=seed) * (normal(*shape, seed=seed + 1) > -0.5)
    own = [generator(seed, str(i)) for i in range(shape[0])]
    delta = attacked(attack, lambda d: linear(gradient)(d + d**2), torch.zeros(shape), norm, radius, steps, own)
    assert delta.shape == shape
    assert delta.dtype == torch.float32
    assert largest(delta, norm) <= radius
    if norm == "l2":
        assert (delta.double().square().sum(-1).sqrt() <= radius).all()
    if attack == "random" and radius:
        assert largest(delta, norm) == pytest.approx(radius, rel=1e-6)


@given(st.sampled_from(sorted(NORMS)), st.floats(1e-6, 1e3), st.integers(0, 2**20))
def test_projection_is_the_nearest_point(norm: Norm, radius: float, seed: int) -> None:
    delta = normal(2, 3, 6, seed=seed) * radius
    near = project(delta, norm, radius)
    assert torch.equal(project(near, norm, radius), near)
    other = random_inside(delta.shape, norm, radius, draws(2, str(seed)))
    distance = [(delta - point).square().sum(-1) for point in (near, other)]
    assert (distance[0] <= distance[1] * (1 + 1e-4) + 1e-12 * radius**2).all()


def test_random_changes_fill_the_ball() -> None:
    signs = random_signs((2, 50, 30), "linf", 0.5, draws(2))
    assert set(signs.unique().tolist()) == {-0.5, 0.5}
    assert abs(float(signs.mean())) < 0.5 * 4 / math.sqrt(3000)
    rows = random_signs((2, 50, 30), "l2", 0.5, draws(2))
    torch.testing.assert_close(rows.norm(dim=-1), torch.full((2, 50), 0.5))
    inside = random_inside((2, 500, 3), "l2", 1.0, draws(2)).norm(dim=-1).flatten()
    assert float((inside < 0.5 ** (1 / 3)).double().mean()) == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(1000))
    uniform = random_inside((2, 500, 3), "linf", 1.0, draws(2)).flatten()
    assert float((uniform < 0.5).double().mean()) == pytest.approx(0.75, abs=4 * 0.5 / math.sqrt(3000))


def test_an_unknown_attack_is_not_taken_for_noise() -> None:
    with pytest.raises(UserError, match=r"Unknown attack 'pdg'. Did you mean 'pgd'\?"):
        attacked("pdg", lambda d: d.sum((1, 2)), torch.zeros(1, 2, 3), "linf", 0.1, 2, draws(1))


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("norm", NORMS)
def test_no_radius_changes_nothing(attack: str, norm: Norm, tiny: Subject) -> None:
    ids = windows(tiny, 2)
    loss, zero = loss_of(tiny, ids, ids), no_change(tiny, ids)
    delta = attacked(attack, loss, zero, norm, 0.0, 3, draws(2))
    assert largest(delta, norm) == 0
    with torch.no_grad(), embedding_changed(tiny, shifted(delta)):
        changed = logits(tiny, ids)
    assert torch.equal(changed, tiny.model(input_ids=ids).logits)


def test_units_are_those_of_the_embedded_text(tiny: Subject) -> None:
    ids = windows(tiny)
    rows = tiny.embedding[ids].detach().double()
    found = units(embedded(tiny, ids))
    assert found["linf"] == pytest.approx(float((rows**2).mean().sqrt()))
    assert found["l2"] == pytest.approx(float(rows.norm(dim=-1).median()))


def test_the_gradient_is_that_of_the_plain_model_in_every_family(family: str) -> None:
    subject = wrap(random_model(family))
    before = weights_sha256(subject.model)
    rows = (subject.embedding[IDS] * subject.embedding_scale).detach().requires_grad_()
    scores = subject.model(inputs_embeds=rows, use_cache=False).logits
    loss = sum(torch.nn.functional.cross_entropy(s[:-1], ids[1:], reduction="sum") for s, ids in zip(scores, IDS, strict=True))
    expected = torch.autograd.grad(loss, rows)[0]
    torch.testing.assert_close(gradient_of(subject, IDS, IDS), expected, rtol=1e-3, atol=1e-5)
    assert not expected[:, -1].any(), "nothing scored comes after the last token"
    with torch.no_grad(), embedding_changed(subject, shifted(no_change(subject, IDS))):
        assert torch.equal(logits(subject, IDS), subject.model(input_ids=IDS).logits)
    assert weights_sha256(subject.model) == before
    assert not subject.model.get_input_embeddings()._forward_hooks
    assert all(p.grad is None for p in subject.model.parameters())


def test_a_change_acts_as_on_the_plain_model_in_every_family(family: str) -> None:
    """And the largest change beats random ones of its size."""
    subject = wrap(random_model(family))
    zero, size = no_change(subject, IDS), units(embedded(subject, IDS))
    loss = loss_of(subject, IDS, IDS)
    values = {}
    for attack in ATTACKS:
        delta = attacked(attack, loss, zero, "l2", 0.3 * size["l2"], 5, draws(3))
        rows = embedded(subject, IDS) + delta
        with torch.no_grad():
            plain = token_nll(subject.model(inputs_embeds=rows, use_cache=False).logits, IDS).sum(1)
            values[attack] = loss(delta)
        torch.testing.assert_close(values[attack], plain, rtol=1e-4, atol=1e-3)
    assert (values["fgsm"] > values["random"]).all()
    assert (values["pgd"] >= values["fgsm"] * (1 - 1e-6)).all()  # it may be the same change, in sums of 57 losses


@pytest.mark.parametrize("name", ["tiny-60k", "tiny-250k", pytest.param("tiny-1m", marks=pytest.mark.slow)])
@pytest.mark.parametrize("norm", NORMS)
def test_ascent_beats_one_step_beats_chance(name: str, norm: Norm) -> None:
    subject = load(name)
    ids = windows(subject)
    loss, zero = loss_of(subject, ids, ids), no_change(subject, ids)
    size = units(embedded(subject, ids))[norm]
    scored = ids[:, 1:].numel()
    with torch.no_grad():
        intact = float(loss(zero).sum()) / scored
    lost = {}
    for epsilon in (0.01, 0.1, 1.0):
        for attack in ATTACKS:
            delta = attacked(attack, loss, zero, norm, epsilon * size, 10, draws(len(ids)))
            with torch.no_grad():
                lost[attack, epsilon] = float(loss(delta).sum()) / scored - intact
        assert lost["pgd", epsilon] + 1e-5 >= lost["fgsm", epsilon] > 3 * max(lost["random", epsilon], 0.01)
    assert lost["pgd", 1.0] > 1.2 * lost["fgsm", 1.0], "not for want of FGSM's own change"


@pytest.mark.parametrize("precision", ["bf16", "fp16", "int8", "nf4"])
def test_gradients_come_through_every_format(precision: str) -> None:
    plain, subject = load("tiny-250k"), load("tiny-250k", precision=precision)
    ids = windows(plain, 2)
    exact, found = gradient_of(plain, ids, ids), gradient_of(subject, ids, ids)
    assert found.dtype == torch.float32
    assert float(torch.cosine_similarity(exact.flatten(), found.flatten(), 0)) > (0.95 if precision == "nf4" else 0.998)


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("norm", NORMS)
def test_sequences_are_attacked_by_themselves(attack: str, norm: Norm) -> None:
    """In float64, where rounding does not turn signs."""
    subject = wrap(random_model("gpt_neox").double())

    def made(rows: Sequence[int]) -> Tensor:
        ids = IDS[list(rows)]
        own = [generator(0, attack, str(i)) for i in rows]
        return attacked(attack, loss_of(subject, ids, ids), no_change(subject, ids), norm, 0.05, 4, own)

    together = made(range(3))
    torch.testing.assert_close(torch.cat([made([i]) for i in range(3)]), together, rtol=0, atol=1e-6)
    torch.testing.assert_close(made([2, 0]), together[[2, 0]], rtol=0, atol=1e-6)


def test_draws_are_seeded_and_leave_global_draws_alone() -> None:
    state = torch.random.get_rng_state()
    first, again, other = (random_inside((1, 4, 5), "l2", 1.0, [generator(seed, "a")]) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_labels_are_shifted_once(tiny: Subject) -> None:
    """A uniform subject gives ln V for any input; a subject that copies its input is wrong about all but repeated tokens."""
    ids = windows(tiny, 2)

    class Uniform(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = torch.nn.Embedding(*tiny.embedding.shape)

        def get_input_embeddings(self) -> torch.nn.Module:
            return self.embedding

        def forward(self, input_ids: Tensor, use_cache: bool) -> object:
            scores = self.embedding(input_ids).sum(-1, keepdim=True) * torch.zeros(tiny.embedding.shape[0])
            return type("Output", (), {"logits": scores + self.peak(input_ids)})

        def peak(self, input_ids: Tensor) -> Tensor | float:
            return 0.0

    uniform = Subject(tiny.spec, Uniform(), tiny.tokenizer, tiny.anatomy, "", None)
    nats = math.log(tiny.embedding.shape[0])
    value = loss_of(uniform, ids, ids)(no_change(uniform, ids))
    assert (value / (ids.shape[1] - 1)).tolist() == pytest.approx([nats] * 2, rel=1e-5)
    assert (input_losses(uniform, ids, ids[0]) / (ids.shape[1] - 1)).tolist() == pytest.approx([nats] * 2, rel=1e-5)
    assert float(loss_of(uniform, ids, ids, first=100)(no_change(uniform, ids))[0]) == pytest.approx(28 * nats, rel=1e-5)

    class Copies(Uniform):
        def peak(self, input_ids: Tensor) -> Tensor | float:
            return 100.0 * torch.nn.functional.one_hot(input_ids, tiny.embedding.shape[0])

    copies = Subject(tiny.spec, Copies(), tiny.tokenizer, tiny.anatomy, "", None)
    runs = torch.arange(10, 20).repeat_interleave(2)[None]  # each token twice: every second label is its input
    assert float(input_losses(copies, runs, runs[0])[0]) == pytest.approx(9 * 100, rel=1e-4)


def test_replaced_tokens_cost_what_a_plain_forward_says(tiny: Subject) -> None:
    ids, allowed = windows(tiny, 3), replacements(tiny)
    last = ids.shape[1] - 1
    for window, tokens in enumerate(ids):
        found = {
            "gradient": by_gradient(tiny, tokens, COUNTS, allowed, last),
            "random": at_random(tokens, COUNTS, allowed, last, generator(0, str(window))),
            "characters": by_characters(tiny.tokenizer, tokens, COUNTS, allowed, last, generator(0, str(window))),
        }
        for attack, by_count in found.items():
            assert list(by_count) == list(COUNTS)
            before = torch.zeros(len(tokens), dtype=torch.bool)
            for count, inputs in by_count.items():
                different = inputs != tokens
                assert inputs.shape == tokens.shape
                assert int(different.sum()) == count if attack != "characters" else int(different.sum()) <= count
                assert not different[-1]
                assert (different | ~before).all(), "larger counts go on where smaller ones end"
                assert set(inputs[different].tolist()) <= set(allowed.tolist())
                before = different
                scores = tiny.model(input_ids=inputs[None]).logits[0, :-1]
                plain = torch.nn.functional.cross_entropy(scores, tokens[1:], reduction="sum")
                assert float(input_losses(tiny, inputs[None], tokens)[0]) == pytest.approx(float(plain), rel=1e-5)


@pytest.mark.parametrize("name", ["tiny-60k", "tiny-250k"])
def test_the_gradient_finds_worse_tokens_than_chance(name: str) -> None:
    subject = load(name)
    ids, allowed = windows(subject, 6), replacements(subject)
    last = ids.shape[1] - 1
    cost: dict[str, list[float]] = {"gradient": [], "random": []}
    for window, tokens in enumerate(ids):
        intact = float(input_losses(subject, tokens[None], tokens)[0])
        chance = at_random(tokens, (4,), allowed, last, generator(0, str(window)))[4]
        for attack, inputs in (("gradient", by_gradient(subject, tokens, (4,), allowed, last)[4]), ("random", chance)):
            cost[attack].append(float(input_losses(subject, inputs[None], tokens)[0]) - intact)
    assert sum(cost["gradient"]) > 1.5 * sum(cost["random"]) > 0


def test_the_first_replacement_is_the_best_of_what_the_gradient_proposes(tiny: Subject) -> None:
    """Against the definition, one replacement at a time."""
    tokens, allowed = windows(tiny, 1)[0, :24], replacements(tiny)
    (inputs,) = by_gradient(tiny, tokens, (1,), allowed, 23).values()
    rows = tiny.embedding[tokens].detach().requires_grad_()
    nll = torch.nn.functional.cross_entropy(tiny.model(inputs_embeds=rows[None]).logits[0, :-1], tokens[1:], reduction="sum")
    gradient = torch.autograd.grad(nll, rows)[0]
    proposed = []
    for position in range(23):
        gains = [float(gradient[position] @ (tiny.embedding[t] - rows[position])) for t in allowed if t != tokens[position]]
        others = [int(t) for t in allowed if t != tokens[position]]
        best = max(range(len(gains)), key=gains.__getitem__)
        proposed.append((gains[best], position, others[best]))
    exact = {}
    for _, position, token in sorted(proposed, reverse=True)[:16]:
        trial = tokens.clone()
        trial[position] = token
        exact[position, token] = float(input_losses(tiny, trial[None], tokens)[0])
    position, token = max(exact, key=exact.__getitem__)
    assert (inputs != tokens).nonzero().flatten().tolist() == [position]
    assert int(inputs[position]) == token


def test_only_tokens_of_the_tokenizer_are_put_in(tiny: Subject) -> None:
    allowed = replacements(tiny).tolist()
    assert len(set(allowed)) == len(allowed) == len(tiny.tokenizer) - len(tiny.tokenizer.all_special_ids)
    assert tiny.tokenizer.eos_token_id not in allowed
    assert max(allowed) < tiny.embedding.shape[0]


def test_letters_are_swapped_within_words(tiny: Subject) -> None:
    tokens = windows(tiny, 1)[0].tolist()
    text = tiny.tokenizer.decode(tokens)
    swaps = list(letter_swaps(tiny.tokenizer, tokens, set(replacements(tiny).tolist())))
    assert len(swaps) > 5
    for swap in swaps:
        end = swap.start + len(swap.tokens)
        changed = [*tokens[: swap.start], *swap.tokens, *tokens[end:]]
        written = tiny.tokenizer.decode(changed)
        differ = [i for i, (a, b) in enumerate(zip(text, written, strict=True)) if a != b]
        assert differ == [differ[0], differ[0] + 1]
        assert sorted(text[i] for i in differ) == sorted(written[i] for i in differ)
        assert all(text[i].isalpha() for i in differ)
        assert swap.changed == sum(a != b for a, b in zip(tokens, changed, strict=True)) > 0
        word = tiny.tokenizer.decode(tokens[swap.start : end]).strip()
        assert word in re.findall(r"[^\W\d_]+", text), "whole words"
    before, after = (by_characters(tiny.tokenizer, torch.tensor(tokens), (3,), replacements(tiny), len(tokens) - 1,
                                   generator(seed, "x"))[3] for seed in (0, 0))  # fmt: skip
    assert torch.equal(before, after)


def test_text_without_words_is_left_alone(tiny: Subject) -> None:
    tokens = torch.tensor(tiny.tokenizer("1 + 2 == 3; 4 - 5")["input_ids"])
    found = by_characters(tiny.tokenizer, tokens, (1, 2), replacements(tiny), len(tokens) - 1, generator(0, "x"))
    assert torch.equal(found[2], tokens)


def test_a_continued_prompt_is_changed_once(tiny_1m: Subject) -> None:
    """As by taking the likeliest token again and again, each time from all rows and without a cache."""
    writer = TextGenerator(tiny_1m, Decoding(max_new_tokens=12))
    query = Query("The with statement is used to", 0)
    (plain,) = writer([query])
    prompt = torch.tensor([plain.prompt_ids])
    delta = random_signs(no_change(tiny_1m, prompt).shape, "linf", 0.2, draws(1))
    with embedding_changed(tiny_1m, shifted(delta), once=True):
        (made,) = writer([query])
    rows, written = embedded(tiny_1m, prompt) + delta, []
    for _ in range(12):
        with torch.no_grad():
            written.append(int(tiny_1m.model(inputs_embeds=rows).logits[0, -1].argmax()))
        rows = torch.cat([rows, embedded(tiny_1m, torch.tensor([[written[-1]]]))], 1)
    assert made.ids == written[: len(made.ids)] != plain.ids
    other = torch.tensor([tiny_1m.tokenizer("The open function is used to")["input_ids"]])
    with embedding_changed(tiny_1m, replaced(embedded(tiny_1m, other)), once=True):
        (of_other,) = writer([query])
    assert of_other.ids == writer([Query("The open function is used to", 0)])[0].ids
    assert writer([query])[0].ids == plain.ids
