"""Single stored bits: what they do to a weight, and that their cost is what the flipped subject shows."""

import math
from collections.abc import Sequence

import pytest
import torch
from conftest import V, load, random_model, wrap
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lit_degrade.errors import UserError
from lit_degrade.faults.evaluation import evaluate_flips, passes
from lit_degrade.faults.flips import WHOLE, Flip, bit_class, flipped, flipped_values
from lit_degrade.faults.patterns import bit_patterns
from lit_degrade.measures.perplexity import likelihood
from lit_degrade.perturbations.bits import WIDTHS
from lit_degrade.perturbations.storage import FORMATS, Floats, Quantised, stored
from lit_degrade.subjects.adapters import add_lora
from lit_degrade.subjects.anatomy import Anatomy
from lit_degrade.subjects.loading import Subject, weights_sha256
from lit_degrade.text import TokenStream

IDS = torch.randint(V, (3, 20), generator=torch.Generator().manual_seed(0))
FLOATS = (torch.float32, torch.bfloat16, torch.float16)
BITS = {"fp32": (22, 29, 30, 31), "bf16": (6, 13, 14, 15), "int8": range(8), "nf4": range(4)}


def held(*values: float, dtype: torch.dtype = torch.float32) -> Floats:
    return Floats(torch.tensor(values, dtype=dtype))


def after(weights: Floats | Quantised, index: int, bit: int) -> float:
    return float(flipped_values(weights, torch.tensor(index), torch.tensor(bit)))


def loss(subject: Subject, ids: Tensor) -> float:
    def logits(tokens: Tensor) -> Tensor:
        with subject.autocast():
            return subject.model(input_ids=tokens, use_cache=False).logits

    return likelihood(logits, TokenStream(ids, torch.ones_like(ids))).nats_per_token


def slowly(subject: Subject, ids: Tensor, flips: Sequence[Flip]) -> Tensor:
    """Flip, run all of the subject, flip back."""
    found = []
    for flip in flips:
        with flipped(subject, [flip]):
            found.append(loss(subject, ids))
    return torch.tensor(found, dtype=torch.float64)


def one_each(subject: Subject, names: Sequence[str] | None = None, seed: int = 0) -> list[Flip]:
    """The interesting bits of one weight of every parameter."""
    draws = torch.Generator().manual_seed(seed)
    flips = []
    for name in names or dict.fromkeys(site.parameter for site in subject.anatomy.sites if site.kind != "adapter"):
        weights = stored(subject.model, name)
        index = int(torch.randint(weights.shape.numel(), (1,), generator=draws))
        flips += [Flip(name, index, bit) for bit in BITS[weights.format]]
    return flips


def agree(found: Tensor, expected: Tensor, rel: float = 1e-5) -> bool:
    """The same kind of number everywhere, and the same number where they are finite."""
    return torch.allclose(found, expected, rtol=rel, atol=0.0, equal_nan=True)


def noticed(subject: Subject, flips: Sequence[Flip], found: Tensor) -> float:
    """Share of the parameters in which some flip moves the loss by ten times what `agree` lets pass."""
    moved = ~((found / loss(subject, IDS) - 1).abs() < 1e-4)  # a loss that is not a number has moved
    names = {flip.parameter for flip in flips}
    return len({flip.parameter for flip, far in zip(flips, moved.tolist(), strict=True) if far}) / len(names)


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_bit_flipped_twice_is_as_it_was(dtype: torch.dtype) -> None:
    values = torch.tensor([0.02, -3.5, 0.0, -0.0, math.inf, 65504.0, 1e-7], dtype=dtype)
    every = torch.arange(WIDTHS[FORMATS[dtype]])[:, None]
    once = flipped_values(Floats(values), torch.arange(7), every).to(dtype)
    for bit, row in enumerate(once):
        back = flipped_values(Floats(row), torch.arange(7), torch.tensor(bit)).to(dtype)
        same = back.view(torch.uint8) == values.view(torch.uint8)
        assert bool((same.view(7, -1).all(1) | row.isnan()).all())  # a NaN has lost what else it was, on its way to float32
        assert bool((row != values)[(row != 0) | (values != 0)].all())


@given(value=st.floats(width=32, allow_nan=False), bit=st.integers(0, 31))
def test_a_flip_is_an_xor_of_the_stored_integer(value: float, bit: int) -> None:
    weights = held(value)
    found = flipped_values(weights, torch.tensor([0]), torch.tensor([bit]))
    plain = (int(weights.parameter.view(torch.int32)) & 0xFFFFFFFF) ^ (1 << bit)
    as_number = torch.tensor([plain - (1 << 32) if plain >> 31 else plain], dtype=torch.int32).view(torch.float32)
    assert torch.equal(found.isnan(), as_number.isnan())
    assert found.isnan().all() or torch.equal(found, as_number)


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_highest_bit_is_the_sign_and_the_next_makes_one_infinite(dtype: torch.dtype) -> None:
    weights, top = held(1.0, -0.375, 0.0, dtype=dtype), WIDTHS[FORMATS[dtype]] - 1
    assert [after(weights, i, top) for i in range(2)] == [-1.0, 0.375]
    assert math.copysign(1.0, after(weights, 2, top)) == -1.0
    assert after(weights, 0, top - 1) == math.inf
    assert math.isnan(after(held(1.5, dtype=dtype), 0, top - 1))


def test_published_magnitudes_of_a_flip_in_the_top_of_the_exponent() -> None:
    assert after(held(0.02), 0, 30) == pytest.approx(6.8056e36, rel=1e-4)
    assert after(held(0.02, dtype=torch.bfloat16), 0, 14) == pytest.approx(6.8123e36, rel=1e-4)
    assert after(held(0.02, dtype=torch.float16), 0, 14) == pytest.approx(1311.0, rel=1e-4)


@pytest.mark.parametrize(
    ("form", "classes"),
    [
        ("fp32", ["mantissa"] * 23 + ["exponent"] * 8 + ["sign"]),
        ("bf16", ["mantissa"] * 7 + ["exponent"] * 8 + ["sign"]),
        ("fp16", ["mantissa"] * 10 + ["exponent"] * 5 + ["sign"]),
        ("int8", ["code"] * 7 + ["sign"]),
        ("nf4", ["code"] * 3 + ["sign"]),
    ],
)
def test_classes_of_bits_and_bits_that_do_not_exist(form: str, classes: list[str]) -> None:
    assert [bit_class(form, bit) for bit in range(len(classes))] == classes
    for bit in (-1, len(classes)):
        with pytest.raises(UserError, match=f"expected 0 to {len(classes) - 1}"):
            bit_class(form, bit)


@pytest.fixture(scope="module", params=["int8", "nf4"])
def quantised(request: pytest.FixtureRequest) -> Subject:
    return load("tiny-250k", precision=request.param, adapter="lora")


def matrices(subject: Subject) -> list[str]:
    return list(dict.fromkeys(site.parameter for site in subject.anatomy.select("blocks")))


@pytest.fixture
def two(quantised: Subject) -> tuple[Subject, str, Quantised]:
    name = matrices(quantised)[0]
    weights = stored(quantised.model, name)
    assert isinstance(weights, Quantised)
    return quantised, name, weights


def test_the_top_bit_of_an_int8_code_moves_it_by_128(two: tuple[Subject, str, Quantised]) -> None:
    _, _, weights = two
    every = torch.arange(500)
    before, top = weights.read(WHOLE).take(every), WIDTHS[weights.format] - 1
    after_flip = flipped_values(weights, every, torch.tensor(top))
    codes = weights.codes(WHOLE).take(every)
    if weights.format == "int8":
        unit = weights.scales[every // weights.shape[1]] / 127
        moved = torch.where(codes.view(torch.int8) >= 0, -128.0, 128.0)
        torch.testing.assert_close(after_flip - before, moved * unit, rtol=1e-5, atol=1e-6)
    else:
        block = weights.scales[every // weights.state.blocksize]
        assert torch.equal(after_flip, weights.state.code[(codes ^ 8).long()] * block)
        assert bool((weights.state.code[:8] <= 0).all() and (weights.state.code[8:] > 0).all())


def test_one_flip_of_a_code_changes_one_weight_and_is_what_was_foretold(two: tuple[Subject, str, Quantised]) -> None:
    subject, name, weights = two
    before = weights.read(WHOLE).clone()
    for index in (0, 1, 777):
        for bit in range(WIDTHS[weights.format]):
            with flipped(subject, [Flip(name, index, bit)]):
                now = stored(subject.model, name).read(WHOLE)
            assert (now != before).flatten().nonzero().flatten().tolist() == [index]
            assert float(now.take(torch.tensor(index))) == after(weights, index, bit)


def test_two_codes_of_one_byte_flip_together(two: tuple[Subject, str, Quantised]) -> None:
    subject, name, weights = two
    sha256, codes = weights_sha256(subject.model), weights.codes(WHOLE).clone()
    with flipped(subject, [Flip(name, 4, 1), Flip(name, 5, 2)]):
        changed = stored(subject.model, name).codes(WHOLE) ^ codes
    assert changed.flatten()[:8].tolist() == [0, 0, 0, 0, 2, 4, 0, 0]
    assert weights_sha256(subject.model) == sha256


@pytest.mark.parametrize("dtype", FLOATS)
def test_flips_combine_and_are_undone(dtype: torch.dtype) -> None:
    subject = wrap(random_model("gpt2").to(dtype))
    sha256, names = weights_sha256(subject.model), matrices(subject)
    first, second = (stored(subject.model, name) for name in names[:2])
    before = [weights.read(WHOLE).clone().view(-1) for weights in (first, second)]
    flips = [Flip(names[0], 5, 3), Flip(names[0], 5, 9), Flip(names[0], 8, 2), Flip(names[1], 5, 15), Flip(names[1], 6, 1)]
    with flipped(subject, [*flips, Flip(names[1], 6, 1)]):
        codes = [weights.codes(WHOLE).reshape(-1) ^ old.view(weights.codes(WHOLE).dtype)
                 for weights, old in zip((first, second), before, strict=True)]  # fmt: skip
        assert codes[0].nonzero().flatten().tolist() == [5, 8]
        assert codes[0][[5, 8]].tolist() == [(1 << 3) + (1 << 9), 1 << 2]
        assert codes[1].nonzero().flatten().tolist() == [5]  # twice the same bit is none
        assert int(codes[1][5]) & 0xFFFF == 1 << 15
    assert weights_sha256(subject.model) == sha256


def test_flips_are_undone_after_an_error() -> None:
    subject = wrap(random_model("llama"))
    sha256, name = weights_sha256(subject.model), matrices(subject)[0]
    inside = []

    def fail() -> None:
        with flipped(subject, [Flip(name, 0, 30), Flip(name, 1, 31)]):
            inside.append(weights_sha256(subject.model))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert inside != [sha256]
    assert weights_sha256(subject.model) == sha256


def test_an_interrupted_evaluation_leaves_nothing_behind() -> None:
    subject = wrap(random_model("gpt_neox"))
    sha256, forwards = weights_sha256(subject.model), [vars(m).get("forward") for m in subject.model.modules()]

    def stop(n: int) -> None:
        raise KeyboardInterrupt

    for flip in (one_each(subject)[0], Flip(matrices(subject)[-1], 0, 30)):
        with pytest.raises(KeyboardInterrupt):
            evaluate_flips(subject, IDS, [flip], stop)
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in subject.model.modules()]
    assert set(hooks) == {(0, 0)}
    assert [vars(m).get("forward") for m in subject.model.modules()] == forwards
    assert weights_sha256(subject.model) == sha256


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bit": 32}, "Bit 32 of fp32 does not exist: expected 0 to 31"),
        ({"bit": -1}, "Bit -1 of fp32"),
        ({"index": 3072}, "does not exist: expected 0 to 3071"),
        ({"index": -1}, "Weight -1 of"),
        ({"parameter": "transformer.h.0.attn.c_attn.wieght"}, "Did you mean 'transformer.h.0.attn.c_attn.weight'"),
    ],
)
def test_flips_that_do_not_exist(change: dict[str, object], message: str) -> None:
    subject = wrap(random_model("gpt2"))
    wrong = Flip(**{"parameter": "transformer.h.0.attn.c_attn.weight", "index": 0, "bit": 0, **change})  # type: ignore[arg-type]
    with pytest.raises(UserError, match=message):
        evaluate_flips(subject, IDS, [wrong])
    with pytest.raises(UserError, match=message), flipped(subject, [Flip("transformer.wte.weight", 0, 0), wrong]):
        pass


def test_the_cost_of_every_flip_is_that_of_the_flipped_subject(family: str) -> None:
    """In every parameter there is: matrices, embeddings, norms, biases; tied or not; finite or not."""
    subject = wrap(random_model(family))
    flips, sha256 = one_each(subject), weights_sha256(subject.model)
    counted: list[int] = []
    found, expected = evaluate_flips(subject, IDS, flips, counted.append), slowly(subject, IDS, flips)
    assert agree(found, expected)
    assert noticed(subject, flips, found) > 0.5  # they are not all the intact subject's
    assert sum(counted) == passes(IDS, flips)
    assert weights_sha256(subject.model) == sha256


def test_outcomes_that_are_not_finite_are_kept() -> None:
    """Weights of 1 to 2 become infinite or NaN in bit 30, and the loss is not a number."""
    subject = wrap(random_model("gpt_neox"))
    name = matrices(subject)[3]
    with torch.no_grad():
        subject.model.get_parameter(name)[2, :2] = torch.tensor([1.0, 1.5])
    width = stored(subject.model, name).shape[1]
    flips = [Flip(name, 2 * width + i, bit) for i in (0, 1) for bit in (0, 23, 30, 31)]
    found = evaluate_flips(subject, IDS, flips)
    assert agree(found, slowly(subject, IDS, flips))
    assert (~found.isfinite()).tolist() == [False, False, True, False, False, False, True, False]


@pytest.mark.parametrize("family", ["gpt2", "llama", "falcon"])
def test_bf16_and_many_batches_of_text(family: str) -> None:
    """Of each class of layer one."""
    subject = wrap(random_model(family).to(torch.bfloat16))
    flips = one_each(subject)[::2]
    assert agree(evaluate_flips(subject, IDS, flips), slowly(subject, IDS, flips), rel=1e-4)
    ids = torch.randint(V, (70, 60), generator=torch.Generator().manual_seed(1))
    few = one_each(subject, matrices(subject)[:1])
    assert agree(evaluate_flips(subject, ids, few), slowly(subject, ids, few), rel=1e-4)


def test_float32_masters_under_autocast() -> None:
    subject = load("tiny-60k", precision="bf16")
    assert subject.autocast_dtype == torch.bfloat16
    flips = one_each(subject)
    assert agree(evaluate_flips(subject, IDS, flips), slowly(subject, IDS, flips), rel=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox"])
def test_flips_below_adapters(family: str) -> None:
    model = random_model(family)
    model = add_lora(model, Anatomy(model), 0)
    for name, p in model.named_parameters():
        if ".lora_B." in name:
            nn.init.normal_(p.data, std=0.1, generator=torch.Generator().manual_seed(0))
    subject = wrap(model.eval())
    flips = one_each(subject, matrices(subject))
    assert agree(evaluate_flips(subject, IDS, flips), slowly(subject, IDS, flips))


def test_flips_of_codes_are_really_made(quantised: Subject) -> None:
    names = matrices(quantised)
    sha256, flips = weights_sha256(quantised.model), one_each(quantised, [names[0], names[-1]])
    found = evaluate_flips(quantised, IDS, flips)
    assert agree(found, slowly(quantised, IDS, flips))
    assert noticed(quantised, flips, found) > 0
    assert weights_sha256(quantised.model) == sha256


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 10_000), family=st.sampled_from(["gpt_neox", "opt", "gemma3_text", "falcon_new"]))
def test_any_flips_of_any_subject(seed: int, family: str) -> None:
    subject = wrap(random_model(family, seed % 7))
    draws = torch.Generator().manual_seed(seed)
    flips = []
    for name in matrices(subject):
        index = int(torch.randint(stored(subject.model, name).shape.numel(), (1,), generator=draws))
        flips.append(Flip(name, index, int(torch.randint(32, (1,), generator=draws))))
    assert agree(evaluate_flips(subject, IDS[:1], flips), slowly(subject, IDS[:1], flips))


def test_patterns_of_known_weights() -> None:
    ones = [pattern.ones for pattern in bit_patterns(held(*[1.0] * 6), WHOLE)]
    assert ones == [0.0] * 23 + [1.0] * 7 + [0.0] * 2  # 0 01111111 000…
    mixed = list(bit_patterns(held(1.0, -1.0, 0.0, -2.0, dtype=torch.bfloat16), WHOLE))
    by_bit = {pattern.bit: (pattern.ones, pattern.entropy) for pattern in mixed}
    assert by_bit[15] == (0.5, 1.0)
    assert by_bit[14] == (0.25, pytest.approx(2 - 0.75 * math.log2(3)))
    assert by_bit[7] == by_bit[13] == (0.5, 1.0)
    assert by_bit[0] == (0.0, 0.0)
    assert {pattern.entropy for pattern in bit_patterns(held(1.0), WHOLE)} == {0.0}


def test_patterns_of_codes(two: tuple[Subject, str, Quantised]) -> None:
    _, _, weights = two
    codes = weights.codes(WHOLE).flatten().tolist()
    assert [pattern.ones for pattern in bit_patterns(weights, WHOLE)] == [
        sum(code >> bit & 1 for code in codes) / len(codes) for bit in range(WIDTHS[weights.format])
    ]
