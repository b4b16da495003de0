"""One contract for every method: zero dose, dose achieved, untouched weights, same seed and other seed, exact return.

Every method on every architecture, in every format that its weights are stored in.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import FAMILY_CONFIGS, random_folder, random_model, wrap
from safetensors.torch import save_file
from torch import Tensor

from lit_degrade.errors import UserError
from lit_degrade.perturbations.catalog import METHODS, PerturbationSettings, Tied
from lit_degrade.perturbations.edits import Dose, Edit, EditRecord, achieved, perturbed, plan, totals
from lit_degrade.perturbations.storage import FORMATS, Floats, Swap, Write
from lit_degrade.perturbations.targets import is_tied, token_embedding
from lit_degrade.subjects.adapters import add_lora
from lit_degrade.subjects.anatomy import Site
from lit_degrade.subjects.catalog import SubjectSpec
from lit_degrade.subjects.loading import Subject, load_subject, weights_sha256

LEVELS = {
    "mult_gauss": 0.3, "add_gauss": 0.3, "add_gauss_absolute": 0.01, "ablation": 0.4, "zero": 0.4, "prune_magnitude": 0.4,
    "sign_flip": 0.4, "uni_quant": 16.0, "uni_quant_channel": 16.0, "bit_flip": 0.01,
}  # fmt: skip
RANDOM = [method for method in METHODS if METHODS[method].random]
DTYPES = {stored: dtype for dtype, stored in FORMATS.items()}
QUANTISED = [family for family in FAMILY_CONFIGS if not family.startswith("falcon")]
"""FalconLinear is a class of its own, which bitsandbytes leaves as it is."""
CASES = [
    *((family, stored) for family in FAMILY_CONFIGS for stored in DTYPES),
    *((family, stored) for family in QUANTISED for stored in ("int8", "nf4")),
]
FEW = {
    *((family, list(DTYPES)[i % 3]) for i, family in enumerate(FAMILY_CONFIGS)),
    *((family, ("int8", "nf4")[i % 2]) for i, family in enumerate(QUANTISED)),
}
"""Every architecture in one float format and one quantised one, in turn; the slow tests have all of them in all."""
HALF_GAP = {"int8": 0.5 / 127, "nf4": 0.153}
"""Rounding of the quantised formats, in units of the scale: half of the largest distance between two codes."""
State = dict[str, Tensor]


@pytest.fixture(scope="session")
def subject_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Subject]:
    """Subject of a family in a format, the same one every time: every test leaves it as it was, or fails."""

    @cache
    def made(family: str, stored: str) -> Subject:
        if stored in DTYPES:
            return wrap(random_model(family).to(DTYPES[stored]))
        folder = random_folder(family, tmp_path_factory.mktemp(f"{family}-{stored}"))
        spec = SubjectSpec(folder, stored)  # type: ignore[arg-type]
        return load_subject(spec, 0, torch.device("cpu"), train=False)

    return made


@pytest.fixture(params=[pytest.param(case, id="-".join(case), marks=() if case in FEW else pytest.mark.slow) for case in CASES])
def subject(request: pytest.FixtureRequest, subject_of: Callable[[str, str], Subject]) -> Subject:
    return subject_of(*request.param)


def settings_of(method: str, **options: Any) -> PerturbationSettings:
    return PerturbationSettings(method, **options)  # type: ignore[arg-type]


def state(subject: Subject) -> State:
    """Every parameter, scale and buffer."""
    return {name: t.detach().clone() for name, t in subject.model.state_dict().items() if isinstance(t, Tensor)}


def same_bits(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(
        a.contiguous().flatten().view(torch.uint8), b.contiguous().flatten().view(torch.uint8)
    )


def differing(a: State, b: State) -> set[str]:
    assert a.keys() == b.keys()
    return {name for name in a if not same_bits(a[name], b[name])}


def values(subject: Subject, parameter: str) -> tuple[Tensor, Tensor | None]:
    """Weights of a parameter in float32 and, for codes, the scale of each; a slow decoder of its own."""
    weight = subject.model.get_parameter(parameter)
    if weight.dtype in FORMATS:
        return weight.detach().float().clone(), None
    if (quant := getattr(weight, "quant_state", None)) is not None:
        codes = torch.tensor([code for byte in weight.data.flatten().tolist() for code in (byte >> 4, byte & 15)])
        scales = quant.absmax.repeat_interleave(quant.blocksize)[: quant.shape.numel()].view(quant.shape)
        return quant.code[codes[: quant.shape.numel()]].view(quant.shape) * scales, scales
    module = subject.model.get_submodule(parameter.removesuffix(".weight"))
    scale = (module.state.SCB if module.state.SCB is not None else weight.SCB)[:, None].expand(weight.shape)
    return weight.data.float() / 127 * scale, scale.clone()


Weights = dict[str, tuple[Tensor, Tensor | None]]


def all_values(subject: Subject) -> Weights:
    return {name: values(subject, name) for name in {site.parameter for site in subject.anatomy.sites}}


@contextmanager
def undone(subject: Subject) -> Iterator[None]:
    """Whatever is done in here leaves no bit changed, and what was tied is tied."""
    before, pointers = weights_sha256(subject.model), [p.data_ptr() for p in subject.model.parameters()]
    tied = is_tied(subject)
    yield
    assert weights_sha256(subject.model) == before
    assert [p.data_ptr() for p in subject.model.parameters()] == pointers
    assert is_tied(subject) == tied


def applied(subject: Subject, method: str, level: float | None = None, seed: int = 0, repetition: int = 0, **how: Any) -> State:
    """State of a subject under a dose."""
    dose = Dose(LEVELS[method] if level is None else level, seed, repetition)
    with perturbed(subject, settings_of(method, **how), dose, recorded=False):
        return state(subject)


# Zero dose, dose achieved, untouched weights


def test_every_method_has_a_dose_of_its_own_and_no_other_name_has_one() -> None:
    """A change of every kind, and the one dose that each method may read from it: none falls back on another's."""
    before = torch.tensor([[1.0, -2.0, 4.0, 0.0], [1.0, 2.0, 3.0, 4.0]])
    after = torch.tensor([[1.5, 2.0, 0.0, 0.0], [1.0, 2.0, 3.0, 4.0]])
    gap = math.sqrt((0.5**2 + 4**2 + 4**2) / 8)
    doses = {
        "mult_gauss": math.sqrt((0.5**2 + 2**2 + 1) / 7), "add_gauss": gap / float(before.std(correction=0)),
        "add_gauss_absolute": gap, "ablation": 1 / 7, "zero": 1 / 7, "prune_magnitude": 1 / 7, "sign_flip": 1 / 7,
        "uni_quant": 6.0, "uni_quant_channel": 4.0,
    }  # fmt: skip
    assert {*doses, "bit_flip"} == {*METHODS}  # what bits are flipped is counted where it is planned
    for method, dose in doses.items():
        assert achieved(method, before, after, 1) == pytest.approx(dose), method
    for name in ("bit_flip", "none", "zeroed", "uni_quant_row"):
        with pytest.raises(UserError, match=f"Unknown method that changes values '{name}'"):
            achieved(name, before, after, 1)


def test_zero_dose_changes_no_bit(subject: Subject) -> None:
    before = state(subject)
    for method in METHODS:
        for schedule in ("independent", "progressive"):
            how = settings_of(method, target="all", schedule=schedule)
            with undone(subject), perturbed(subject, how, Dose(METHODS[method].none, 0)) as records:
                assert differing(before, state(subject)) == set(), method
                assert {(r.changed, r.nonfinite, r.norm_of_change) for r in records} == {(0, 0, 0.0)}, method
                assert {r.dose_achieved for r in records} == {METHODS[method].none}, method
                assert totals(records)["relative_norm"] == 0, method


def test_the_dose_that_was_asked_for_arrives_where_it_should(subject: Subject) -> None:
    """Of every method on every weight of the language model: what a decoder of its own finds is what the record says."""
    before, intact = all_values(subject), state(subject)
    sites = [site for site in subject.anatomy.sites if site.kind != "adapter"]
    with undone(subject):
        for method, level in LEVELS.items():
            with perturbed(subject, settings_of(method, target="all"), Dose(level, 0)) as records:
                after, changed = all_values(subject), differing(intact, state(subject))
            assert not any("vision" in name or "multi_modal" in name for name in changed), method
            assert [(r.parameter, r.component, r.depth) for r in records] == [
                (s.parameter, s.component, s.depth) for s in sites
            ]
            for site, record in zip(sites, records, strict=True):
                check_site(method, level, site, record, before, after)
            check_totals(records)


def check_site(method: str, level: float, site: Site, record: EditRecord, before: Weights, after: Weights) -> None:
    said = f"{method} of {site}"
    (W, _), (Z, scales) = before[site.parameter], after[site.parameter]
    w, z = site.view(W), site.view(Z)
    assert record.dose_asked == level, said
    assert record.weights == w.numel(), said
    assert record.changed == int((w != z).sum()), said
    assert record.nonfinite == int((~z.isfinite()).sum()), said
    assert record.norm == pytest.approx(float(w.double().norm()), rel=1e-5), said
    change = float((z - w).double().norm())
    assert record.norm_of_change == pytest.approx(change, rel=1e-4, nan_ok=True), said
    if method == "bit_flip":
        bits = w.numel() * {"int8": 8, "nf4": 4}.get(record.format, 8 * DTYPES.get(record.format, torch.int8).itemsize)
        assert abs(record.dose_achieved - level) <= 4 * (level * (1 - level) / bits) ** 0.5 + 0.5 / bits, said
        return
    if scales is not None:
        check_rounding(method, level, site, W, z, site.view(scales), record.format)
    dose = expected_dose(method, w, z, site)
    assert record.dose_achieved == pytest.approx(dose, rel=1e-4, abs=1e-9, nan_ok=True), said
    n = int((w != 0).sum())
    if math.isnan(dose):
        assert record.changed == 0, said
    elif method in ("uni_quant", "uni_quant_channel"):
        assert dose <= level or scales is not None, said
        if record.format == "fp32":
            most = (z - w).abs().amax() if method == "uni_quant" else (z - w).abs().amax(site.input_axis)
            least, largest = (
                (w.amin(), w.amax()) if method == "uni_quant" else (w.amin(site.input_axis), w.amax(site.input_axis))
            )
            half, ulp = (largest - least) / (level - 1) / 2, 1.2e-7 * w.abs().max()
            assert bool((most <= half + 2 * ulp).all()), said
    elif method in ("mult_gauss", "add_gauss", "add_gauss_absolute"):
        coarse = rounding(method, w, scales is not None, record.format)
        assert abs(dose - level) <= 4 * level / (2 * max(n, 1)) ** 0.5 + coarse, said
    elif method in ("ablation", "sign_flip"):
        assert abs(dose - level) <= 4 * (level * (1 - level) / n) ** 0.5 + 1 / n, said
    else:
        zeros = w.numel() - n
        count, wanted = int((z == 0).sum()), round(level * w.numel())
        if method == "prune_magnitude":  # zeros that were there are the smallest
            assert count == max(wanted, zeros), said
        else:
            chance = 4 * (zeros * level * (1 - level)) ** 0.5  # how many of those drawn had been zero already
            assert abs(count - wanted - zeros * (1 - level)) <= chance + 1e-9, said


def expected_dose(method: str, w: Tensor, z: Tensor, site: Site) -> float:
    """The dose by its definition, in float64; NaN where no weight can show one."""
    w, z = w.double(), z.double()
    shown = w != 0
    if method in ("mult_gauss", "add_gauss", "add_gauss_absolute"):
        ratios = ((z - w) / w)[shown] if method == "mult_gauss" else (z - w).flatten()
        spread = float(w.std(correction=0)) if method == "add_gauss" else 1.0
        nothing = not len(ratios) or (method == "add_gauss" and float(w.min()) == float(w.max()))
        return math.nan if nothing else float((ratios**2).mean().sqrt()) / spread
    if method.startswith("uni_quant"):
        each = (
            z.movedim(site.input_axis, -1).flatten(0, -2) if method == "uni_quant_channel" and z.dim() > 1 else z.reshape(1, -1)
        )
        return float(max(len(row.unique()) for row in each))
    now = z.signbit() != w.signbit() if method == "sign_flip" else z == 0
    return float(now[shown].double().mean()) if bool(shown.any()) else math.nan


def rounding(method: str, w: Tensor, coded: bool, stored: str) -> float:
    """How far the rounding of the stored format can move a dose."""
    if coded:
        return math.inf  # of single weights by all of themselves: `check_rounding` compares value by value
    unit = {"fp32": 2**-24, "bf16": 2**-9, "fp16": 2**-11}[stored]
    size = float((w**2).mean().sqrt())
    if method == "mult_gauss":
        return 4 * unit
    return 4 * unit * size / (float(w.std(correction=0)) if method == "add_gauss" else 1.0)


def check_rounding(method: str, level: float, site: Site, W: Tensor, z: Tensor, scales: Tensor, stored: str) -> None:
    """Codes hold what the method makes of the decoded weights, to half of the distance between two codes."""
    edit = plan(settings_of(method, target="all"), site, Floats(W.clone()), Dose(level, 0))
    wanted = edit.writes[0].values
    assert wanted is not None
    excess = ((z - wanted).abs() / scales.where(scales > 0, 1.0)).max()
    assert float(excess) <= HALF_GAP[stored] * 1.001, f"{method} of {site}"


def check_totals(records: list[EditRecord]) -> None:
    total = totals(records)
    assert total["weights"] == sum(r.weights for r in records)
    if all(math.isfinite(r.norm_of_change) for r in records):
        squares = sum(r.norm_of_change**2 for r in records) / sum(r.norm**2 for r in records)
        assert total["relative_norm"] == pytest.approx(squares**0.5)
    assert math.isfinite(total["dose_achieved"])


@pytest.mark.parametrize("target", ["attn_only", "attn_q", "mlp_only", "embed_only", "norm", "all"])
def test_weights_outside_the_target_keep_every_bit(target: str, subject: Subject) -> None:
    """And every weight inside turns its sign: a positive control of the anatomy in every format."""
    component = {"attn_only": "attn_v", "mlp_only": "mlp_", "embed_only": "embed"}.get(target, target)
    inside = [
        site
        for site in subject.anatomy.sites
        if (target == "all" or site.component.startswith(component))
        and (site.kind == "weight" or target in ("norm", "all"))
        and (target != "embed_only" or site.parameter == token_embedding(subject))
    ]
    before, intact = all_values(subject), state(subject)
    with undone(subject), perturbed(subject, settings_of("sign_flip", target=target), Dose(1.0, 0)) as records:
        after, now = all_values(subject), state(subject)
    assert [record.parameter for record in records] == [site.parameter for site in inside]
    head = {name for name in now if is_tied(subject) and intact[name].shape == subject.embedding.shape}
    for name in differing(intact, now) - head:
        parameter = name.replace(".SCB", ".weight").partition(".weight.")[0].removesuffix(".weight")
        assert any(site.parameter.removesuffix(".weight").startswith(parameter) for site in inside), name
    for name, (W, _) in before.items():
        expected, W_after = W.clone(), after[name][0]
        for site in inside:
            if site.parameter == name:
                site.view(expected).neg_()
        exact = getattr(subject.model.get_parameter(name), "quant_state", None) is None
        if exact:
            assert torch.equal(W_after, expected), name
        else:  # the negative of an nf4 code is none: the nearest has the other sign
            assert torch.equal(W_after == W, expected == W), name
            assert torch.equal(W_after.signbit()[W != 0], expected.signbit()[W != 0]), name


def test_one_matrix_of_one_layer_and_nothing_else(subject: Subject) -> None:
    """Every method on a part of a fused matrix: Q, K, biases and other layers keep every bit, codes and scales included."""
    (site,) = subject.anatomy.select("attn_v", [1])
    intact, before = state(subject), all_values(subject)
    outside = torch.ones(before[site.parameter][0].shape, dtype=torch.bool)
    site.view(outside).fill_(False)
    for method in METHODS:
        with undone(subject), perturbed(subject, settings_of(method, layers="1"), Dose(LEVELS[method], 3)):
            now, after = state(subject), values(subject, site.parameter)
        module = site.parameter.rpartition(".")[0]
        assert differing(intact, now) <= {f"{module}.weight", f"{module}.SCB", f"{module}.weight.absmax"}, method
        assert same_bits(after[0][outside], before[site.parameter][0][outside]), method
        assert not torch.equal(after[0], before[site.parameter][0]), method


# Seeds, selections of targets, schedules


def test_a_seed_means_the_same_bits_whatever_else_is_perturbed(subject: Subject) -> None:
    (site,) = subject.anatomy.select("attn_v", [1])
    intact = state(subject)

    def part(method: str, **how: Any) -> Tensor:
        with perturbed(subject, settings_of(method, **how), Dose(LEVELS[method], 5), recorded=False):
            return site.view(values(subject, site.parameter)[0])

    with undone(subject):
        for method in METHODS:
            alone = part(method, target="attn_v", layers="1")
            for how in ({"layers": "2,1"}, {"target": "attn"}, {"target": "blocks", "layers": "1-2"}, {"target": "all"}):
                assert same_bits(part(method, **how), alone), (method, how)
            first, again = applied(subject, method, seed=5), applied(subject, method, seed=5)
            assert differing(first, again) == set(), method
            others = {"seed": 6}, {"seed": 5, "repetition": 1}
            assert all(bool(differing(first, applied(subject, method, **o))) == METHODS[method].random for o in others), method
            assert differing(first, intact), method


def test_a_level_has_draws_of_its_own_or_the_same_as_every_other(subject: Subject) -> None:
    sites = subject.anatomy.select("attn_v")
    before = all_values(subject)
    codes = {name: t.clone() for name, t in state(subject).items()}

    def changed(method: str, level: float, schedule: str) -> tuple[list[Tensor], State]:
        with perturbed(subject, settings_of(method, schedule=schedule), Dose(level, 1), recorded=False):
            return [site.view(values(subject, site.parameter)[0]) for site in sites], state(subject)

    with undone(subject):
        for method in RANDOM:
            low, high = (0.005, 0.02) if method == "bit_flip" else (0.1, 0.2)
            for schedule in ("progressive", "independent"):
                (small, few), (large, many) = changed(method, low, schedule), changed(method, high, schedule)
                if method.endswith("gauss") or method == "add_gauss_absolute":
                    nested = all(
                        proportional(before[s.parameter][0], a, b, s) for s, a, b in zip(sites, small, large, strict=True)
                    ) or subject.spec.precision in ("int8", "nf4")
                elif method == "bit_flip":
                    nested = all(subset(few[name], many[name], codes[name]) for name in differing(codes, few))
                else:
                    moved = [
                        (a != (w := s.view(before[s.parameter][0])), b != w)
                        for s, a, b in zip(sites, small, large, strict=True)
                    ]
                    nested = all(bool((b | ~a).all()) for a, b in moved)
                if schedule == "progressive":
                    assert nested, method
                elif subject.spec.precision not in ("int8", "nf4") or not method.startswith(("mult", "add")):
                    assert not nested, method


def proportional(W: Tensor, a: Tensor, b: Tensor, site: Site) -> bool:
    """Whether twice the level moved every weight twice as far, to the rounding of the format."""
    w = site.view(W)
    unit = 2.0**-8  # of the coarsest float format
    return bool(((b - w) - 2 * (a - w)).abs().max() <= 4 * unit * torch.stack([a, b, w]).abs().max())


def subset(few: Tensor, many: Tensor, none: Tensor) -> bool:
    """Whether every bit that differs between `few` and `none` differs between `many` and `none`."""
    flat = [t.contiguous().flatten().view(torch.uint8) for t in (few, many, none)]
    return bool(((flat[0] ^ flat[2]) & ~(flat[1] ^ flat[2]) == 0).all())


def test_pruning_takes_the_smallest_and_more_of_them(subject: Subject) -> None:
    """Equal magnitudes, of which coarse formats have many, are taken in a fixed order, so that a larger share adds to a set."""
    (site,) = subject.anatomy.select("attn_v", [0])
    w = site.view(values(subject, site.parameter)[0])
    gone = torch.zeros(w.shape, dtype=torch.bool)
    for level in (0.1, 0.3, 0.35, 0.9, 1.0):
        with undone(subject), perturbed(subject, settings_of("prune_magnitude", layers="0"), Dose(level, 0)):
            now = site.view(values(subject, site.parameter)[0]) == 0
        assert bool((now | ~gone).all()), level
        kept = w[~now].abs()
        assert not len(kept) or float(w[now].abs().max()) <= float(kept.min()), level
        gone = now
    assert bool(gone.all())


@pytest.mark.parametrize("family", ["gpt_neox", "gpt2", "llama", "gemma3"])
def test_adapters_around_a_matrix_do_not_change_its_noise(family: str) -> None:
    bare = wrap(random_model(family))
    adapted = wrap(add_lora(random_model(family), bare.anatomy, 0))
    for method in METHODS:
        for target in ("blocks", "all"):
            plain = applied(bare, method, target=target)
            found = applied(adapted, method, target=target)
            renamed = {
                name.removeprefix("base_model.model.").replace(".base_layer", ""): t
                for name, t in found.items()
                if ".lora_" not in name
            }
            assert differing(plain, renamed) == set(), (method, target)
            lora = {name: t for name, t in found.items() if ".lora_" in name}
            assert lora.keys(), "the subject has adapters"
            assert differing(lora, {name: t for name, t in state(adapted).items() if name in lora}) == set()


# Return


class Broken(Exception):
    """Of a measurement."""


@pytest.mark.parametrize("error", [Broken, KeyboardInterrupt])
def test_everything_comes_back_when_a_measurement_fails(error: type[BaseException], subject: Subject) -> None:
    for method in METHODS:
        with (
            undone(subject),
            pytest.raises(error),
            perturbed(subject, settings_of(method, target="all"), Dose(LEVELS[method], 0)),
        ):
            raise error


@pytest.mark.parametrize("where", ["before", "between", "after"])
def test_everything_comes_back_when_the_second_edit_is_interrupted(
    where: str, subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it is written, when half of it is, or when all of it is."""
    intact, count, damage = state(subject), 0, set()
    apply, write, swap = Edit.apply_, Write._write, Swap.apply_

    def interrupted_edit(edit: Edit) -> None:
        nonlocal count, damage
        count += 1
        if count == 2:
            damage = differing(intact, state(subject))
            if where == "after":
                apply(edit)
            raise KeyboardInterrupt
        apply(edit)

    def interrupted_write(self: Write, values: Tensor) -> None:
        write(self, values)
        interrupt()

    def interrupted_swap(self: Swap) -> None:
        swap(self)
        interrupt()

    def interrupt() -> None:
        nonlocal count, damage
        count += 1
        if count == 3:
            damage = differing(intact, state(subject))
            raise KeyboardInterrupt

    for method in ("mult_gauss", "ablation", "bit_flip"):
        count = 0
        how = settings_of(method, target="blocks", bits="all" if subject.spec.precision in ("int8", "nf4") else "sign")
        with monkeypatch.context() as patch, undone(subject):
            if where == "between":
                patch.setattr(Write, "_write", interrupted_write)
                patch.setattr(Swap, "apply_", interrupted_swap)
            else:
                patch.setattr(Edit, "apply_", interrupted_edit)
            with pytest.raises(KeyboardInterrupt), perturbed(subject, how, Dose(LEVELS[method], 0)):
                raise AssertionError("was not interrupted")
        assert damage, "something had been changed when the interruption came"


def test_restored_is_not_subtracted_known_error_16() -> None:
    """Adding noise and taking it away again leaves other bits in fp32, and worse in half precision; here none."""
    for dtype in DTYPES.values():
        subject = wrap(random_model("gpt_neox").to(dtype))
        intact = state(subject)
        for method in ("mult_gauss", "add_gauss", "uni_quant", "bit_flip"):
            for level in (LEVELS[method], METHODS[method].high if METHODS[method].high <= 1 else 1024.0):
                with perturbed(subject, settings_of(method, target="all"), Dose(level, 0)):
                    damaged = state(subject)
                assert differing(intact, state(subject)) == set()
                assert differing(intact, damaged)
        name = "gpt_neox.layers.0.mlp.dense_h_to_4h.weight"
        noise = torch.randn(intact[name].shape, generator=torch.Generator().manual_seed(0)).to(dtype)
        assert not same_bits(intact[name] + noise - noise, intact[name]), "positive control: subtraction does not restore"


def test_a_refused_dose_leaves_nothing_behind(subject_of: Callable[[str, str], Subject]) -> None:
    """int8 has no exponent: the refusal comes after the embedding, stored in fp32, has been changed."""
    subject = subject_of("gpt_neox", "int8")
    with undone(subject), pytest.raises(UserError, match="Unknown bits of int8 'exponent'"):
        applied(subject, "bit_flip", 0.5, target="all", bits="exponent")


def test_bit_flips_stay_in_the_subject_known_error_9() -> None:
    """One exponent bit of every value projection: weights of 1e36 and logits that are not numbers."""
    subject = wrap(random_model("gpt_neox"))
    tokens = torch.arange(1, 9)[None]
    with undone(subject), torch.no_grad(), perturbed(subject, settings_of("bit_flip", bits="30"), Dose(1.0, 0)) as records:
        assert max(record.norm_of_change for record in records) > 1e36
        assert not bool(subject.model(input_ids=tokens).logits.isfinite().all())
    assert bool(subject.model(input_ids=tokens).logits.isfinite().all())


# Tied embeddings

TIED = ["gpt2", "gpt_neo", "opt", "bloom", "falcon", "falcon_multi_query", "falcon_new", "gemma3_text", "gemma3"]


def test_which_embeddings_are_tied() -> None:
    assert [family for family in FAMILY_CONFIGS if is_tied(wrap(random_model(family)))] == TIED


@pytest.mark.parametrize("stored", ["fp32", "bf16"])
@pytest.mark.parametrize("family", TIED)
def test_a_tied_embedding_is_perturbed_on_both_sides_or_on_the_input_side(
    family: str, stored: str, subject_of: Callable[[str, str], Subject]
) -> None:
    subject = subject_of(family, stored)
    model = subject.model
    embedding, pointer = subject.embedding, subject.embedding.data_ptr()
    hidden = torch.randn(4, model.get_output_embeddings().in_features, generator=torch.Generator().manual_seed(0)).to(
        embedding.dtype
    )

    def both_sides() -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return model.get_input_embeddings()(torch.arange(96)).clone(), model.get_output_embeddings()(hidden).clone()

    inputs, logits = both_sides()
    head = embedding.detach().clone()
    for target in ("embed_only", "embed", "all"):
        found: dict[Tied, tuple[Tensor, Tensor]] = {}
        for tied in ("both", "input"):
            how = settings_of("mult_gauss", target=target, tied=tied)
            with undone(subject), perturbed(subject, how, Dose(0.3, 0)) as records:
                found[tied] = both_sides()
                assert is_tied(subject) == (tied == "both")
                assert same_bits(model.get_output_embeddings().weight, head) == (tied == "input")
                names = [record.parameter for record in records]
                assert names.count(token_embedding(subject)) == 1
                assert not any("lm_head" in name for name in names)
            assert subject.embedding is embedding
            assert model.get_output_embeddings().weight is embedding
            assert embedding.data_ptr() == pointer
        assert torch.equal(found["both"][0], found["input"][0]), "the same noise on the input side"
        assert not torch.equal(found["both"][0], inputs)
        assert not torch.equal(found["both"][1], logits)
        assert torch.equal(found["input"][1], logits)
    with (
        undone(subject),
        pytest.raises(Broken),
        perturbed(subject, settings_of("zero", target="embed", tied="input"), Dose(1, 0)),
    ):
        raise Broken


# Selections


def selected(path: Path, target: str = "mlp", **tensors: Tensor) -> dict[str, Any]:
    save_file({name.replace("__", "."): tensor for name, tensor in tensors.items()}, path)
    return {"target": target, "selection": str(path)}


UP, FUSED = "gpt_neox.layers.1.mlp.dense_h_to_4h.weight", "gpt_neox.layers.2.attention.query_key_value.weight"


@pytest.mark.parametrize("stored", [*DTYPES, "int8", "nf4"])
def test_a_selection_changes_those_weights_only(stored: str, tmp_path: Path, subject_of: Callable[[str, str], Subject]) -> None:
    subject = subject_of("gpt_neox", stored)
    chosen = torch.tensor([7, 3, 1999, 640, 64])
    how = selected(tmp_path / "some.safetensors", **{UP: chosen})
    backwards = selected(tmp_path / "backwards.safetensors", **{UP: chosen.flip(0)})
    before, intact = values(subject, UP)[0], state(subject)
    small = {"mult_gauss": 0.01, "add_gauss": 0.01, "add_gauss_absolute": 1e-4}  # fits into the scales of the codes
    for method in METHODS:
        level = small.get(method, LEVELS[method] if method.startswith("uni_quant") else 1.0)
        if method.startswith("uni_quant"):  # of the tensor's extremes, which only floats can store anywhere
            level = 3.0 if stored in DTYPES else 64.0
        with undone(subject), perturbed(subject, settings_of(method, **how), Dose(level, 0)) as records:
            after, now = values(subject, UP)[0], state(subject)
        assert [(record.parameter, record.weights) for record in records] == [(UP, 5)], method
        touched = (after.flatten() != before.flatten()) | after.flatten().isnan()
        assert set(touched.nonzero().flatten().tolist()) <= set(chosen.tolist()), method
        assert differing(intact, now) <= {UP}, method
        assert records[0].changed == int(touched.sum()), method
        assert records[0].changed or (stored in ("int8", "nf4") and (level < 1 or level == 64.0)), method
        assert differing(now, applied(subject, method, level, **backwards)) == set(), f"{method}: in whatever order"


def test_what_is_relative_to_a_tensor_is_so_for_one_weight_of_it_too() -> None:
    """The standard deviation and the extremes are those of the matrix, so that one weight has what all have."""
    subject, intact = wrap(random_model("gpt_neox")), values(wrap(random_model("gpt_neox")), UP)[0]
    for method, level in (("add_gauss", 2.0), ("uni_quant", 4.0), ("uni_quant_channel", 4.0)):
        with perturbed(subject, settings_of(method), Dose(level, 0), only={UP: None}) as records:
            whole = values(subject, UP)[0].flatten()
        assert records[0].dose_achieved == pytest.approx(level, rel=0.05)
        for chosen in ([5], [5, 900, 2000]):
            with perturbed(subject, settings_of(method), Dose(level, 0), only={UP: torch.tensor(chosen)}) as records:
                now = values(subject, UP)[0].flatten()
            assert torch.equal(now[chosen], whole[chosen]), method
            assert (now != intact.flatten()).sum() == records[0].changed <= len(chosen)
            assert records[0].dose_achieved <= level if method != "add_gauss" else records[0].dose_achieved > 0


def test_weights_are_named_by_parameter_instead_of_a_target() -> None:
    subject = wrap(random_model("gpt_neox"))
    with (
        undone(subject),
        perturbed(subject, settings_of("zero"), Dose(1.0, 0), only={FUSED: None, UP: torch.tensor([3])}) as done,
    ):
        assert not values(subject, FUSED)[0].any()
        assert values(subject, UP)[0].flatten()[3] == 0
    assert [(record.parameter, record.component, record.weights) for record in done] == [
        (FUSED, "attn", 96 * 32),
        (UP, "mlp_up", 1),
    ]
    with (
        pytest.raises(UserError, match="Unknown parameter 'nowhere'"),
        perturbed(subject, settings_of("zero"), Dose(1.0, 0), only={"nowhere": None}),
    ):
        pass


def test_a_selection_in_a_fused_matrix_is_that_of_its_part(tmp_path: Path) -> None:
    subject = wrap(random_model("gpt_neox"))
    (site,) = subject.anatomy.select("attn_v", [2])
    own = site.view(torch.arange(96 * 32).view(96, 32)).flatten()
    how = selected(tmp_path / "values.safetensors", "attn_only", **{FUSED: own[[5, 300, 1000]]})
    before = values(subject, FUSED)[0].flatten()
    with undone(subject), perturbed(subject, settings_of("zero", **how), Dose(1.0, 0)) as records:
        gone = (values(subject, FUSED)[0].flatten() != before).nonzero().flatten()
    assert torch.equal(gone.sort().values, own[[5, 300, 1000]].sort().values)
    assert [record.component for record in records] == ["attn_v"]
    query = selected(tmp_path / "query.safetensors", "attn_only", **{FUSED: torch.tensor([int(own[0]), 0])})
    with pytest.raises(UserError, match=rf"1 weights of '{FUSED}' are not in 'attn_only'"):
        applied(subject, "zero", **query)


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({UP: torch.tensor([2048])}, "distinct int64 indices from 0 to 2047"),
        ({UP: torch.tensor([-1])}, "distinct int64 indices"),
        ({UP: torch.tensor([4, 4])}, "distinct int64 indices"),
        ({UP: torch.tensor([4], dtype=torch.int32)}, "distinct int64 indices"),
        ({UP: torch.tensor([4.0])}, "distinct int64 indices"),
        ({UP: torch.tensor([[4]])}, "distinct int64 indices"),
        ({FUSED: torch.tensor([4])}, f"'{FUSED}' is not in target 'mlp'"),
        ({"nowhere": torch.tensor([4])}, "'nowhere' is not in target 'mlp'"),
        ({UP: torch.tensor([4]), "nowhere": torch.tensor([4])}, "'nowhere' is not in target 'mlp'"),
    ],
)
def test_a_selection_that_cannot_be_meant_is_refused(tensors: dict[str, Tensor], said: str, tmp_path: Path) -> None:
    subject = wrap(random_model("gpt_neox"))
    with undone(subject), pytest.raises(UserError, match=said) as caught:
        applied(subject, "zero", **selected(tmp_path / "some.safetensors", **tensors))
    assert "\n" not in str(caught.value)


def test_a_selection_that_would_change_nothing_is_refused_known_error_15(tmp_path: Path) -> None:
    subject = wrap(random_model("gpt_neox"))
    with pytest.raises(UserError, match="is empty: it would change nothing"):
        applied(subject, "zero", **selected(tmp_path / "none.safetensors"))
    with pytest.raises(UserError, match="must be a list of distinct"):
        applied(subject, "zero", **selected(tmp_path / "empty.safetensors", **{UP: torch.empty(0, dtype=torch.int64)}))
    one = selected(tmp_path / "one.safetensors", **{UP: torch.tensor([4])})
    assert differing(state(subject), applied(subject, "mult_gauss", **one)) == {UP}
    torch.nn.init.constant_(subject.model.get_parameter(UP), 0.25)
    for method in ("add_gauss", "uni_quant", "uni_quant_channel"):
        with pytest.raises(UserError, match=f"all equal; {method} would change nothing"):
            applied(subject, method, **one)
    elsewhere = {**one, "layers": "0"}
    with pytest.raises(UserError, match=r"is not in target 'mlp', layers 0"):
        applied(subject, "zero", **elsewhere)


def test_a_selection_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    subject = wrap(random_model("gpt_neox"))
    (tmp_path / "text.safetensors").write_text("not tensors\n")
    for name in ("text.safetensors", "missing.safetensors", "."):
        with pytest.raises(UserError, match="cannot be read") as caught:
            applied(subject, "zero", target="mlp", selection=str(tmp_path / name))
        assert "\n" not in str(caught.value)


# Refusals


@pytest.mark.parametrize(
    ("method", "level"),
    [
        ("mult_gauss", -0.1), ("mult_gauss", math.inf), ("add_gauss", -1e-9), ("add_gauss_absolute", math.nan),
        ("ablation", 1.01), ("zero", -0.5), ("prune_magnitude", 2.0), ("sign_flip", math.inf), ("bit_flip", 1.5),
        ("uni_quant", 1.0), ("uni_quant", 2.5), ("uni_quant", -math.inf), ("uni_quant_channel", 0.0),
        *((method, math.nan) for method in METHODS),
    ],
)  # fmt: skip
def test_levels_outside_the_range_are_refused(method: str, level: float) -> None:
    subject = wrap(random_model("gpt_neox"))
    with undone(subject), pytest.raises(UserError, match=rf"level: .* of {method} is outside its range: expected") as caught:
        applied(subject, method, level)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"method": "mult_gaus"}, "Unknown method 'mult_gaus'. Did you mean 'mult_gauss'"),
        ({"method": "zero", "target": "attn_onyl"}, "Unknown target 'attn_onyl'. Did you mean 'attn_only'"),
        ({"method": "bit_flip", "bits": "top"}, "Unknown bits 'top'"),
        ({"method": "bit_flip", "bits": "-1"}, "Unknown bits '-1'"),
        ({"method": "zero", "layers": "first"}, "layers 'first' is neither"),
        ({"method": "zero", "layers": "3-1"}, "layers '3-1' is neither"),
    ],
)
def test_settings_that_cannot_mean_anything_are_refused(how: dict[str, str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        PerturbationSettings(**how)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"layers": "3"}, "Layer 3 does not exist: gpt2 subject with layers 0 to 2"),
        ({"layers": "0,7", "target": "all"}, "Layer 7 does not exist: gpt2 subject with layers 0 to 2"),
        ({"layers": "1", "target": "embed_only"}, "Target 'embed_only' has nothing in layers 1"),
        ({"target": "head"}, "Unknown target for gpt2 'head'"),
        ({"target": "mlp_gate"}, "Unknown target for gpt2 'mlp_gate'"),
        ({"method": "bit_flip", "bits": "32"}, "Unknown bits of fp32 '32'"),
        ({"method": "bit_flip", "bits": "scales"}, "Unknown bits of fp32 'scales'"),
    ],
)
def test_what_a_subject_lacks_is_refused(how: dict[str, str], said: str) -> None:
    subject = wrap(random_model("gpt2"))
    with undone(subject), pytest.raises(UserError, match=said):
        applied(subject, how.pop("method", "zero"), 0.5, **how)


def test_the_contract_covers_every_method() -> None:
    assert list(LEVELS) == list(METHODS)
