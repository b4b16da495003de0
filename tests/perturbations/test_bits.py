"""Bits: every one of every format flips, twice is once too many, and nothing is softened."""

import math
from itertools import pairwise
from types import SimpleNamespace

import bitsandbytes as bnb
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lit_degrade.errors import UserError
from lit_degrade.perturbations.bits import CLASSES, WIDTHS, as_integers, bit_numbers, draw, flips
from lit_degrade.perturbations.catalog import PerturbationSettings
from lit_degrade.perturbations.edits import Dose, plan
from lit_degrade.perturbations.storage import FORMATS, Floats, Quantised
from lit_degrade.subjects.anatomy import Site

DTYPES = {stored: dtype for dtype, stored in FORMATS.items()}
SITE = Site("layer.weight", "mlp_up", 0, "weight")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def flip_(tensor: torch.Tensor, bit: int) -> None:
    """Flip one bit of every number, through a plan."""
    flipping = PerturbationSettings("bit_flip", bits=str(bit))
    plan(flipping, SITE, Floats(tensor), Dose(1.0, 0)).apply_()


@settings(deadline=None, max_examples=25)
@given(st.binary(min_size=4, max_size=64).filter(lambda patterns: len(patterns) % 4 == 0))
def test_flipping_twice_is_the_identity_for_every_format_and_bit(patterns: bytes) -> None:
    """Any pattern: numbers, infinities, every NaN."""
    for stored, dtype in DTYPES.items():
        for bit in range(WIDTHS[stored]):
            tensor = torch.frombuffer(bytearray(patterns), dtype=torch.uint8).view(dtype)
            before = as_integers(tensor).clone()
            flip_(tensor, bit)
            difference = as_integers(tensor) ^ before
            mask = (1 << (8 * dtype.itemsize)) - 1
            assert {int(d) & mask for d in difference} == {1 << bit}, (stored, bit)
            flip_(tensor, bit)
            assert torch.equal(as_integers(tensor), before), (stored, bit)


def test_classes_are_those_of_the_formats() -> None:
    for stored, dtype in DTYPES.items():
        mantissa = round(-math.log2(torch.finfo(dtype).eps))
        assert CLASSES[stored]["mantissa"] == range(mantissa)
        assert CLASSES[stored]["exponent"] == range(mantissa, WIDTHS[stored] - 1)
        assert bit_numbers(stored, "all") == range(8 * dtype.itemsize)
        tensor = torch.tensor([1.5, -0.25, 0.0], dtype=dtype)
        flipped = tensor.clone()
        flip_(flipped, bit_numbers(stored, "sign").start)
        assert torch.equal(as_integers(flipped), as_integers(-tensor)), stored


@pytest.mark.parametrize(("stored", "expected"), [("fp32", 6.8056e36), ("bf16", 6.8123e36), ("fp16", 1311.0)])
def test_bit_flips_are_not_softened_known_error_9(stored: str, expected: float) -> None:
    """The largest exponent bit makes 1 infinite and 0.02 enormous, and both stay so in the subject."""
    tensor = torch.tensor([1.0, 0.02], dtype=DTYPES[stored])
    weights, top = Floats(tensor), CLASSES[stored]["exponent"][-1]
    edit = plan(PerturbationSettings("bit_flip", bits=str(top)), SITE, weights, Dose(1.0, 0))
    record = edit.record()
    edit.apply_()
    assert math.isinf(float(tensor[0]))
    assert float(tensor[1]) == pytest.approx(expected, rel=1e-4)
    assert (record.nonfinite, record.changed, record.dose_achieved) == (1, 2, 1.0)
    assert math.isinf(record.norm_of_change)
    before = torch.tensor([1.5], dtype=DTYPES[stored])
    flip_(before, top)
    assert math.isnan(float(before))


def test_the_sign_of_int8_moves_a_code_by_128() -> None:
    codes = torch.arange(-128, 128, dtype=torch.int8).view(4, 64)
    module = int8_layer(codes.clone(), torch.ones(4))
    edit = plan(PerturbationSettings("bit_flip", bits="sign"), SITE, Quantised(module, "layer.weight"), Dose(1.0, 0))
    edit.apply_()
    moved = Quantised(module, "layer.weight").stored.int() - codes.int()
    assert torch.equal(moved, torch.where(codes < 0, 128, -128).int())
    edit.revert_()
    assert torch.equal(Quantised(module, "layer.weight").stored, codes)


def int8_layer(codes: torch.Tensor, scales: torch.Tensor) -> SimpleNamespace:
    """As a Linear8bitLt after its first forward pass."""
    return SimpleNamespace(weight=SimpleNamespace(data=codes, CB=None), state=SimpleNamespace(SCB=scales))


@pytest.mark.parametrize("bit", range(4))
def test_one_bit_of_an_nf4_code_changes_one_weight(bit: int) -> None:
    layer = bnb.nn.Linear4bit(64, 8, bias=False, quant_type="nf4", compress_statistics=False)
    torch.nn.init.normal_(layer.weight.data, generator=generator())
    layer = layer.to("cpu")
    state = layer.weight.quant_state
    before = bnb.functional.dequantize_4bit(layer.weight.data, state).clone()
    chosen = torch.tensor([131])
    flipping = PerturbationSettings("bit_flip", bits=str(bit))
    edit = plan(flipping, SITE, Quantised(layer, "layer.weight"), Dose(1.0, 0), chosen)
    edit.apply_()
    changed = (bnb.functional.dequantize_4bit(layer.weight.data, state) != before).flatten().nonzero().flatten()
    assert torch.equal(changed, chosen)


@pytest.mark.parametrize("share", [0.0, 1e-6, 1e-3, 0.1, 0.5, 0.999, 1.0])
def test_as_many_are_drawn_as_independent_draws_would_be(share: float) -> None:
    n, draws = 20_000, 40
    counts = torch.tensor([len(draw(n, share, generator(seed))) for seed in range(draws)], dtype=torch.float64)
    error = (n * share * (1 - share)) ** 0.5
    assert abs(float(counts.mean()) - n * share) <= 4 * error / draws**0.5
    if n * share * (1 - share) > 10:  # and they scatter as much: a chi-square with `draws` degrees of freedom
        assert 1e-4 < stats.chi2.cdf(float(((counts - n * share) ** 2).sum()) / error**2, draws) < 1 - 1e-4


def test_every_position_and_every_pair_is_as_likely() -> None:
    n, share, draws = 8, 0.3, 4000
    sets = torch.zeros(draws, n)
    source = generator()
    for row in sets:
        row[draw(n, share, source)] = 1
    together = sets.T @ sets
    expected = torch.full((n, n), draws * share**2).fill_diagonal_(draws * share)
    variance = expected * (1 - expected / draws)
    z = ((together - expected) / variance.sqrt())[*torch.triu_indices(n, n)]
    assert float(z.abs().max()) < 4
    codes = (sets @ (2.0 ** torch.arange(n))).long().bincount(minlength=2**n)
    sizes = torch.tensor([code.bit_count() for code in range(2**n)])
    chances = share**sizes * (1 - share) ** (n - sizes)
    assert stats.chisquare(codes.double().numpy(), (chances.double() / chances.double().sum() * draws).numpy()).pvalue > 1e-4


def test_a_larger_share_draws_the_same_positions_and_more() -> None:
    shares = [0.0, 1e-4, 0.01, 0.3, 0.31, 0.9, 1.0]
    for seed in range(5):
        drawn = [draw(50_000, share, generator(seed)) for share in shares]
        for small, large in pairwise(drawn):
            assert bool(torch.isin(small, large).all())
        assert len(drawn[0]) == 0
        assert len(drawn[-1]) == 50_000
        for positions in drawn:
            assert bool((positions.diff() > 0).all()), "sorted and distinct"


def test_work_grows_with_the_set() -> None:
    """Of a terabit, about a thousand."""
    drawn = draw(10**12, 1e-9, generator())
    assert abs(len(drawn) - 1000) < 4 * 1000**0.5
    assert stats.kstest(drawn.double().numpy() / 1e12, "uniform").pvalue > 1e-4
    positions, ones, _ = flips(10**12 // 32, range(32), 1e-9, generator())
    assert int(positions.max()) < 10**12 // 32
    assert bool((ones > 0).all())


def test_flips_are_the_bits_asked_for() -> None:
    """Of every number in question, each with the same chance, and several in one number."""
    positions, ones, count = flips(10_000, range(23, 31), 0.25, generator())
    counts = [int((ones >> bit & 1).sum()) for bit in range(34)]
    assert sum(counts) == count
    assert all(n == 0 for bit, n in enumerate(counts) if bit not in range(23, 31))
    assert all(abs(counts[bit] - 2500) < 4 * (10_000 * 0.25 * 0.75) ** 0.5 for bit in range(23, 31))
    assert bool((positions.diff() > 0).all())
    assert any(int(one).bit_count() > 1 for one in ones)


@pytest.mark.parametrize(("stored", "bits"), [("int8", "exponent"), ("fp16", "16"), ("nf4", "4"), ("fp32", "scales")])
def test_bits_that_a_format_lacks_are_refused(stored: str, bits: str) -> None:
    with pytest.raises(UserError, match=rf"Unknown bits of {stored} '{bits}'.*0 to {WIDTHS[stored] - 1}"):
        bit_numbers(stored, bits)
