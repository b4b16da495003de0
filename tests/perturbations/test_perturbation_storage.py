"""Storage: what is read is what bitsandbytes computes with, what is written is what it would have stored; and quantisation."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import bitsandbytes as bnb
import pytest
import torch
from conftest import FAMILY_CONFIGS, random_folder, random_model
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lit_degrade.errors import UserError
from lit_degrade.perturbations.catalog import PerturbationSettings
from lit_degrade.perturbations.edits import Dose, perturbed, plan
from lit_degrade.perturbations.storage import INT8_MAX, Floats, Quantised, stored
from lit_degrade.perturbations.values import uni_quant, uni_quant_channel
from lit_degrade.subjects.anatomy import Part, Site
from lit_degrade.subjects.catalog import SubjectSpec
from lit_degrade.subjects.loading import load_subject, weights_sha256

SITE = Site("layer.weight", "mlp_up", 0, "weight")
FORMATS = ["int8", "nf4"]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed))


def layer(precision: str, weights: Tensor) -> Any:
    """The layer that bitsandbytes makes of a matrix (out, in)."""
    outputs, inputs = weights.shape
    if precision == "int8":
        made: Any = bnb.nn.Linear8bitLt(inputs, outputs, bias=False, has_fp16_weights=False)
        made.weight = bnb.nn.Int8Params(weights.clone(), has_fp16_weights=False, requires_grad=False)
    else:
        made = bnb.nn.Linear4bit(
            inputs, outputs, bias=False, quant_type="nf4", compress_statistics=False, compute_dtype=torch.float32
        )
        made.weight = bnb.nn.Params4bit(weights.clone(), requires_grad=False, quant_type="nf4", compress_statistics=False)
    made = made.to("cpu").eval()
    made.support_avx512bf16_for_cpu = False  # as the loader sets it
    return made


def dequantised(made: Any) -> Tensor:
    """The matrix by bitsandbytes' own arithmetic.

    Not for nf4 with rows of 16 k numbers, k no multiple of 4: its CPU kernel (0.50.2, AVX-512) misreads blocks that span rows.
    """
    weight = made.weight
    if getattr(weight, "quant_state", None) is not None:
        return bnb.functional.dequantize_4bit(weight.data, weight.quant_state)
    codes, scales = (weight.CB, weight.SCB) if weight.CB is not None else (made.state.CB, made.state.SCB)
    return codes.float() * scales[:, None] / 127


def write_(made: Any, weights: Tensor) -> None:
    for write in Quantised(made, "layer.weight").write(SITE, weights):
        write.apply_()


@pytest.mark.parametrize("precision", FORMATS)
@pytest.mark.parametrize("shape", [(8, 64), (24, 40), (5, 7)])
def test_reading_is_what_bitsandbytes_computes_with(precision: str, shape: tuple[int, int]) -> None:
    made = layer(precision, normal(*shape))
    expected = dequantised(made)
    torch.testing.assert_close(Quantised(made, "layer.weight").read(SITE), expected, rtol=3e-7, atol=0)
    exact = precision == "nf4"
    assert not exact or torch.equal(Quantised(made, "layer.weight").read(SITE), expected)


@pytest.mark.parametrize("precision", FORMATS)
@pytest.mark.parametrize("shape", [(8, 64), (24, 40), (5, 7)])
def test_writing_is_what_bitsandbytes_would_have_stored(precision: str, shape: tuple[int, int]) -> None:
    """Same codes and scales as its own quantisation of the same values, wherever no scale would shrink."""
    start, wanted = layer(precision, normal(*shape) / 100), normal(*shape, seed=1).half().float()
    expected = layer(precision, wanted)
    write_(start, wanted)
    kept, theirs = Quantised(start, "layer.weight"), Quantised(expected, "layer.weight")
    assert torch.equal(kept.scales, theirs.scales)
    assert torch.equal(kept.stored, theirs.stored)


@pytest.mark.parametrize("precision", FORMATS)
@pytest.mark.parametrize("shape", [(8, 64), (24, 40), (5, 7)])
def test_writing_what_was_read_changes_no_bit(precision: str, shape: tuple[int, int]) -> None:
    weights = normal(*shape) * torch.logspace(-6, 3, shape[0])[:, None]
    weights[0] = 0  # a row, and blocks, without scale
    made = layer(precision, weights)
    quantised = Quantised(made, "layer.weight")
    before = quantised.stored.clone(), quantised.scales.clone()
    write_(made, quantised.read(SITE))
    assert torch.equal(quantised.stored, before[0])
    assert torch.equal(quantised.scales, before[1])


def test_every_code_survives_reading_and_writing() -> None:
    """255 codes of int8 and 16 of nf4, at scales of every size."""
    scales = torch.logspace(-30, 30, 200)
    codes = torch.arange(-127, 128, dtype=torch.int8).repeat(200, 1)
    int8 = layer("int8", torch.ones(200, 255))
    int8.weight.data.copy_(codes)
    int8.weight.SCB.copy_(scales)
    write_(int8, Quantised(int8, "layer.weight").read(SITE))
    assert torch.equal(int8.state.CB, codes)
    assert torch.equal(int8.state.SCB, scales)
    nf4 = layer("nf4", torch.ones(200, 64))
    packed = torch.arange(0, 256, 8, dtype=torch.uint8).repeat(200)[:, None]
    nf4.weight.data.copy_(packed)
    nf4.weight.quant_state.absmax.copy_(scales)
    write_(nf4, Quantised(nf4, "layer.weight").read(SITE))
    assert torch.equal(nf4.weight.data, packed)
    assert torch.equal(nf4.weight.quant_state.absmax, scales)


@pytest.mark.parametrize("precision", FORMATS)
def test_the_layer_computes_with_what_was_written(precision: str) -> None:
    """Before its first forward pass, after it (which moves int8 codes elsewhere), and again when it is undone."""
    x, editing, dose = normal(16, 64), PerturbationSettings("mult_gauss"), Dose(0.5, 0)
    for passes in (0, 1, 2):
        made = layer(precision, normal(24, 64))
        fresh = layer(precision, normal(24, 64))
        with torch.no_grad():
            before = [made(x) for _ in range(passes)]
            edit = plan(editing, SITE, Quantised(made, "layer.weight"), dose)
            expected = edit.weights.decoded(SITE, edit.writes)
            edit.apply_()
            torch.testing.assert_close(dequantised(made), expected, rtol=3e-7, atol=0)
            output, wanted = made(x), x @ expected.T
            intact = x @ dequantised(fresh).T
            coarse = 0.02 if precision == "int8" else 1e-5  # LLM.int8 rounds the activations to 8 bits as well
            assert float((output - wanted).norm() / wanted.norm()) < coarse
            assert float((output - intact).norm() / intact.norm()) > 0.2
            torch.testing.assert_close(made(x), output, rtol=0, atol=0)
            edit.revert_()
            again = made(x)
            assert torch.equal(again, fresh(x))
            assert all(torch.equal(again, output) for output in before)


@pytest.mark.parametrize("precision", FORMATS)
@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama"])
def test_a_site_means_the_same_weights_in_a_quantised_subject(
    family: str, precision: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Values and positions of every site are those of the unquantised model: GPT-2's matrices are stored turned round."""
    folder = random_folder(family, tmp_path_factory.mktemp(family))
    quantised = load_subject(SubjectSpec(folder, precision), 0, torch.device("cpu"), train=False)  # type: ignore[arg-type]
    plain = load_subject(SubjectSpec(folder), 0, torch.device("cpu"), train=False)
    sites = {(site.parameter, site.component): site for site in plain.anatomy.sites}
    for site in quantised.anatomy.sites:
        other = sites[site.parameter, site.component]
        read = stored(quantised.model, site.parameter).read(site)
        wanted = other.view(plain.model.get_parameter(site.parameter).data)
        if read.dim() == 2 and other.input_axis == 0:
            wanted = wanted.T
        elif read.dim() > 2 and other.input_axis == 0:
            wanted = wanted.movedim(0, -1)
        assert read.shape == wanted.shape, site
        distance = float((read - wanted).norm() / wanted.norm().clamp(min=1e-9))
        assert distance < (0.02 if precision == "int8" else 0.15), site


SHARED = Site("layer.weight", "attn_v", 0, "weight", Part(0, (4, 3, 2), 1, 2, 3))
"""Of 24 rows of 8, two in six: every block of 64 holds others too."""


def test_scales_that_others_share_do_not_move() -> None:
    made = layer("nf4", normal(24, 8))
    quantised = Quantised(made, "layer.weight")
    before = quantised.read(SITE)
    weights = SHARED.view(before)
    with pytest.raises(UserError, match=r"'layer.weight' is stored as nf4, with scales that the target shares"):
        quantised.write(SHARED, 3 * weights)
    with pytest.raises(UserError, match=r"'layer.weight' is stored as nf4, with scales that the target shares"):
        quantised.scale_bits(SHARED)
    for write in quantised.write(SHARED, torch.zeros_like(weights)):  # fits into the scales that there are
        write.apply_()
    expected = before.clone()
    SHARED.view(expected).zero_()
    assert torch.equal(Quantised(made, "layer.weight").read(SITE), expected)


@pytest.mark.parametrize("precision", FORMATS)
def test_some_weights_of_a_matrix_change_and_no_others(precision: str) -> None:
    made, chosen = layer(precision, normal(8, 64)), torch.tensor([5, 70, 200])
    quantised = Quantised(made, "layer.weight")
    before = quantised.read(SITE)
    with pytest.raises(UserError, match="shares with other weights"):
        quantised.write(SITE, torch.full((3,), 100.0), chosen)
    edit = plan(PerturbationSettings("zero"), SITE, quantised, Dose(1.0, 0), chosen)
    assert (edit.record().weights, edit.record().dose_achieved) == (3, 1.0)
    edit.apply_()
    expected = before.flatten().index_fill(0, chosen, 0.0).view(8, 64)
    assert torch.equal(Quantised(made, "layer.weight").read(SITE), expected)
    with pytest.raises(UserError, match="selection names weights, and its scales are shared"):
        plan(PerturbationSettings("bit_flip", bits="scales"), SITE, quantised, Dose(1.0, 0), chosen)


@pytest.mark.parametrize("precision", FORMATS)
def test_scales_flip_too(precision: str) -> None:
    """Two percent of all bits of the scales; no code moves."""
    made = layer(precision, normal(8, 64))
    quantised = Quantised(made, "layer.weight")
    before, codes, scales = quantised.read(SITE), quantised.stored.clone(), quantised.scales.clone()
    edit = plan(PerturbationSettings("bit_flip", bits="scales"), SITE, quantised, Dose(0.02, 1))
    expected, dose = edit.weights.decoded(SITE, edit.writes), edit.record().dose_achieved
    edit.apply_()
    after = Quantised(made, "layer.weight")
    torch.testing.assert_close(after.read(SITE), expected, rtol=0, atol=0, equal_nan=True)
    flipped = (after.scales.view(torch.int32) ^ scales.view(torch.int32)).tolist()
    count = sum((pattern & 0xFFFFFFFF).bit_count() for pattern in flipped)
    assert count == round(dose * 32 * 8) > 0
    assert torch.equal(after.stored, codes)
    edit.revert_()
    assert torch.equal(Quantised(made, "layer.weight").read(SITE), before)


@pytest.mark.parametrize("precision", FORMATS)
def test_what_was_done_in_inference_mode_is_undone_outside_of_it(precision: str) -> None:
    """An interruption leaves Lightning's inference mode before the dose is undone."""
    subject = load_subject(SubjectSpec("tiny-250k", precision=precision), 0, torch.device("cpu"), train=False)
    flips = PerturbationSettings("bit_flip", "blocks", bits="scales")
    before = weights_sha256(subject.model)
    with ExitStack() as stack, torch.inference_mode():
        stack.enter_context(perturbed(subject, flips, Dose(0.01, 0)))
        assert weights_sha256(subject.model) != before
    assert weights_sha256(subject.model) == before


def test_other_ways_of_storing_are_refused() -> None:
    nested = bnb.nn.Linear4bit(64, 64, bias=False, quant_type="nf4", compress_statistics=True).to("cpu")
    fp4 = bnb.nn.Linear4bit(64, 64, bias=False, quant_type="fp4", compress_statistics=False).to("cpu")
    for made, said in ((nested, "nf4 with quantised scales"), (fp4, "fp4 with float32 scales")):
        with pytest.raises(UserError, match=rf"'layer.weight' is stored as {said}: expected nf4 with float32 scales"):
            Quantised(made, "layer.weight")


def test_int8_scale_is_that_of_the_paper() -> None:
    assert INT8_MAX == 127
    made = layer("int8", torch.tensor([[0.5, -2.0, 1.0]]))
    assert Quantised(made, "layer.weight").stored.tolist() == [[32, -127, 64]]
    assert float(Quantised(made, "layer.weight").scales) == 2.0


def test_floats_are_the_models_own_memory() -> None:
    model = random_model("gpt_neox")
    name = "gpt_neox.layers.0.attention.query_key_value.weight"
    assert stored(model, name).read(Site(name, "attn", 0, "weight")).data_ptr() == model.get_parameter(name).data_ptr()
    assert all(isinstance(stored(random_model(f), n), Floats) for f in FAMILY_CONFIGS for n in _first_names(f))


def _first_names(family: str) -> list[str]:
    return [name for name, _ in random_model(family).named_parameters()][:2]


# Quantisation of values


def per_tensor(weights: Tensor, n: int) -> Tensor:
    return uni_quant(weights, n, generator(), -1)


def per_channel(weights: Tensor, n: int) -> Tensor:
    return uni_quant_channel(weights, n, generator(), -1)


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(2, 1024), seed=st.integers(0, 10**6), centre=st.sampled_from([0.0, 1.0, -30.0]),
    size=st.sampled_from([1e-6, 0.02, 1.0, 1e4]), dtype=st.sampled_from(DTYPES), each=st.booleans(),
)  # fmt: skip
def test_quantisation_errs_by_half_a_step_at_most(
    n: int, seed: int, centre: float, size: float, dtype: torch.dtype, each: bool
) -> None:
    """Against float64, whatever the weights are stored in: the arithmetic is float32 throughout."""
    weights = (normal(6, 50, seed=seed) * size + centre).to(dtype)
    quantise: Callable[[Tensor, int], Tensor] = per_channel if each else per_tensor
    found = quantise(weights, n)
    assert found.dtype == torch.float32
    exact = weights.double()
    least, largest = (exact.amin(1, keepdim=True), exact.amax(1, keepdim=True)) if each else (exact.min(), exact.max())
    step = (largest - least) / (n - 1)
    ulps = 4 * torch.finfo(torch.float32).eps * torch.maximum(least.abs(), largest.abs())  # of seven roundings at most
    assert bool(((found - exact).abs() <= step / 2 + ulps).all())
    nearest = least + ((exact - least) / step.where(step > 0, 1.0)).round() * step
    ties = (((exact - least) / step.where(step > 0, 1.0)) % 1 - 0.5).abs() < 1e-3
    assert bool((((found - nearest).abs() <= ulps) | ties).all())
    assert bool((found >= least).all())
    assert bool((found <= largest).all())
    assert all(bool(((found - end).abs() <= ulps)[exact == end].all()) for end in (least, largest))
    assert max(len(row.unique()) for row in (found if each else found.flatten()[None])) <= n
    again = quantise(found, n)
    assert bool(((again - found).abs() <= ulps).all())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("quantise", [per_tensor, per_channel])
def test_constant_tensors_stay(dtype: torch.dtype, quantise: Callable[[Tensor, int], Tensor]) -> None:
    for value in (0.0, 1.0, -0.3):
        weights = torch.full((3, 4), value, dtype=dtype)
        assert torch.equal(quantise(weights, 7), weights.float())
        assert torch.equal(quantise(weights.flatten(), 7), weights.float().flatten())


@pytest.mark.parametrize("dtype", DTYPES)
def test_many_levels_in_half_precision(dtype: torch.dtype) -> None:
    """Index arithmetic in bfloat16 cannot count to 1024; stored, the error is half a step and the rounding of the format."""
    weights = (normal(64, 64) * 0.02).to(dtype)
    edit = plan(PerturbationSettings("uni_quant"), SITE, Floats(weights.clone()), Dose(1024.0, 0))
    edit.apply_()
    after = edit.weights.read(SITE).double()
    step = float(weights.max() - weights.min()) / 1023
    rounding = after.abs() * torch.finfo(dtype).eps
    assert bool(((after - weights.double()).abs() <= step / 2 * 1.001 + rounding).all())
    assert len(after.unique()) <= 1024
