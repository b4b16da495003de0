"""The flat subspace is a projection, in coordinates that are a rotation, cut where it should be; exact nulls are left out."""

from collections.abc import Callable

import pytest
import torch
from conftest import FAMILY_CONFIGS, random_model, wrap
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lit_degrade.curvature.catalog import PARTS
from lit_degrade.curvature.flat_subspace import (
    FlatSubspace,
    MatrixBasis,
    Side,
    find_basis,
    flat_subspace,
    from_tensors,
    shapes,
    to_tensors,
    widest,
)
from lit_degrade.curvature.kronecker import flows
from lit_degrade.curvature.products import HessianProducts, Tensors, dot, length
from lit_degrade.measures.perplexity import token_nll
from lit_degrade.seeds import generator
from lit_degrade.subjects.loading import Subject

LAYER_NORM = ["gpt_neox", "gpt2", "gpt_neo", "gptj", "opt", "bloom", "falcon", "falcon_multi_query", "falcon_new"]
"""Families whose norms subtract the mean of the residual stream."""
TOKENS = torch.randint(8, 96, (16, 48), generator=torch.Generator().manual_seed(0))


def _loss(subject: Subject, tokens: Tensor) -> Callable[[], Tensor]:
    return lambda: token_nll(subject.model(input_ids=tokens, use_cache=False).logits, tokens).sum()


def _space(subject: Subject, fraction: float = 0.3) -> FlatSubspace:
    parameters = subject.parameters("blocks")
    losses = [_loss(subject, part) for part in TOKENS.split(4)]
    bases = find_basis(subject.model, parameters, shapes(subject.anatomy, parameters), losses)
    return flat_subspace(bases, fraction, seed=1)


def _random(subject: Subject, seed: int = 0) -> Tensors:
    draws = generator(seed, "v")
    return {name: torch.randn(p.shape, generator=draws).to(p) for name, p in subject.parameters("blocks").items()}


def _far(a: Tensors, b: Tensors) -> float:
    return length({name: a[name] - b[name] for name in a}) / length(b)


def test_every_family_has_a_projection_onto_a_rotated_part(family: str) -> None:
    subject = wrap(random_model(family))
    space, v, w = _space(subject), _random(subject), _random(subject, 1)
    for name, matrix in v.items():
        basis = space.bases[name]
        back = basis.back(basis.rotate(matrix))
        assert float((back - matrix).norm() / matrix.norm()) < 2e-6
        assert float(basis.rotate(matrix).norm()) == pytest.approx(float(matrix.norm()), rel=1e-5)
    shares = space.shares(v)
    assert sum(shares) == pytest.approx(1, abs=1e-5)
    inside, outside, excluded = space.dims
    total = inside + outside + excluded
    assert inside == pytest.approx(0.3 * (inside + outside), abs=2)
    assert total == sum(p.numel() for p in v.values())
    parts = {part: space.project(v, part) for part in ("flat", "complement", "random")}  # type: ignore[arg-type]
    for part, projected in parts.items():
        assert _far(space.project(projected, part), projected) < 2e-6, part  # type: ignore[arg-type]
        assert dot(projected, w) == pytest.approx(dot(v, space.project(w, part)), rel=1e-3, abs=1e-2)  # type: ignore[arg-type]
    assert space.shares(parts["flat"]).flat == pytest.approx(1, abs=1e-5)
    assert space.shares(parts["complement"]).complement == pytest.approx(1, abs=1e-5)
    assert space.shares(parts["random"]).excluded == pytest.approx(0, abs=1e-5)
    assert (length(parts["random"]) / length(v)) ** 2 == pytest.approx(0.3 * (1 - excluded / total), rel=0.1)
    assert space.project(v, "whole")[name].equal(v[name])
    # a gradient that is formed, and one that is not
    loss = _loss(subject, TOKENS[:2])
    parameters = subject.parameters("blocks")
    gradient = dict(zip(parameters, torch.autograd.grad(loss(), list(parameters.values())), strict=True))
    unformed = space.shares_of_gradient(flows(subject.model, parameters, loss))
    assert tuple(unformed) == pytest.approx(tuple(space.shares(gradient)), abs=1e-5)
    assert unformed.excluded < 1e-9, "no gradient lies in exact nulls"


@pytest.mark.parametrize("family", FAMILY_CONFIGS)
def test_the_mean_of_the_residual_stream_is_null_behind_a_layernorm_only(family: str) -> None:
    """Found from what flows, and so by moving there: a bit of float32 rounding is all that the logits change."""
    subject = wrap(random_model(family))
    space = _space(subject)
    writers = [
        site.parameter for site in subject.anatomy.sites if site.component in ("attn_o", "mlp_down") and site.kind == "weight"
    ]
    nulls = {name: int(space.bases[name].outputs.excluded.sum()) for name in writers}
    assert set(nulls.values()) == ({1} if family in LAYER_NORM else {0})
    affine = sum(basis.affine for basis in space.bases.values())
    assert (affine > 0) == (family in LAYER_NORM)
    if family not in LAYER_NORM:
        return
    logits = subject.model(input_ids=TOKENS[:2]).logits
    moved = {}
    for name in writers:
        basis, p = space.bases[name], subject.model.get_parameter(name)
        random = torch.randn(p.shape, generator=generator(0, name))
        c = basis.rotate(random) * basis.outputs.excluded[:, None]
        null = basis.back(c)
        rows = null.mT if basis.transposed else null
        torch.testing.assert_close(rows, rows[:1].expand_as(rows), atol=1e-5, rtol=1e-3)
        moved[name] = p + null / null.norm() * p.norm()
    there = torch.func.functional_call(subject.model, moved, (), {"input_ids": TOKENS[:2]}).logits
    torch.testing.assert_close(there, logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["gpt_neox", "gpt2", "llama"])
def test_dense_reference_in_float64(family: str) -> None:
    """Projectors made of explicit outer products g_i ⊗ a_j of dense factors, in blocks as the shapes say."""
    subject = wrap(random_model(family).double())
    parameters = subject.parameters("blocks")
    how = shapes(subject.anatomy, parameters)
    space = _space(subject, 0.5)
    traffic = [flows(subject.model, parameters, _loss(subject, part)) for part in TOKENS.split(4)]
    v = _random(subject)
    projected = space.project(v, "flat")
    for name, shape in how.items():
        x, d = (torch.cat([flow[name][i] for flow in traffic]) for i in (0, 1))
        basis, matrix = space.bases[name], v[name].mT if shape.transposed else v[name]
        outputs = _dense(basis.outputs, d.T @ d, shape.outputs)
        inputs = _dense(basis.inputs, x.T @ x, shape.inputs, 1e-6 if shape.principal else 1e-9)
        curvature = torch.outer(*((side * (gram @ side)).sum(0) for side, gram in ((outputs, d.T @ d), (inputs, x.T @ x))))
        if shape.principal:  # of which the sums are float32
            curvature = basis.outputs.moments[:, None] * basis.inputs.moments
        inside = (curvature <= space.threshold * (1 - 1e-9)) & ~basis.excluded()
        expected = outputs @ (inside * (outputs.T @ matrix @ inputs)) @ inputs.T
        ours = projected[name].mT if shape.transposed else projected[name]
        torch.testing.assert_close(ours, expected, atol=1e-9, rtol=1e-7)


def _dense(side: Side, gram: Tensor, size: int, exact: float = 1e-9) -> Tensor:
    """Basis as a dense orthonormal matrix, checked to be one whose coordinates have the second moments that it says."""
    basis = side.rotate(torch.eye(len(gram)).double())
    torch.testing.assert_close(basis.T @ basis, torch.eye(len(gram)).double(), atol=1e-9, rtol=0)
    along = (basis * (gram @ basis)).sum(0)
    kept = ~side.excluded
    torch.testing.assert_close(along[kept], side.moments[kept], rtol=1e-6, atol=exact * float(gram.diagonal().max()))
    if size > 1:  # eigenvectors of the diagonal blocks: nothing is left beside the diagonal
        blocks = torch.stack([(basis.T @ gram @ basis)[i : i + size, i : i + size] for i in range(0, len(gram), size)])
        off = blocks - torch.diag_embed(blocks.diagonal(dim1=1, dim2=2))
        assert float(off.abs().max()) < 1e-9 * float(gram.diagonal().max())
    return basis


def test_principal_directions_of_neurons_are_the_leading_eigenvectors() -> None:
    subject = wrap(random_model("gpt_neox"))
    parameters = subject.parameters("blocks")
    how = shapes(subject.anatomy, parameters)
    name = next(name for name, shape in how.items() if shape.principal)
    assert how[name].principal == 16
    assert widest(how) == 64
    space = _space(subject)
    x = torch.cat([flows(subject.model, parameters, _loss(subject, part))[name][0] for part in TOKENS.split(4)]).double()
    largest = torch.linalg.eigvalsh(x.T @ x).flip(0)[:4]
    torch.testing.assert_close(space.bases[name].inputs.moments.sort(descending=True).values[:4], largest, rtol=1e-3, atol=0)


@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=4),
    st.floats(0.01, 0.99),
    st.integers(0, 2**20),
)
@settings(max_examples=60)
def test_the_threshold_leaves_the_fraction_inside(sizes: list[tuple[int, int]], fraction: float, seed: int) -> None:
    """By sorting all scores, which the bisection does not; some coordinates are excluded."""
    draws = torch.Generator().manual_seed(seed)

    def side(d: int) -> Side:
        moments = torch.rand(d, generator=draws, dtype=torch.float64).mul(-20).exp()
        return Side(None, moments.masked_fill(torch.rand(d, generator=draws) < 0.2, torch.inf))

    bases = {str(i): MatrixBasis(side(d_out), side(d_in), False, 0) for i, (d_out, d_in) in enumerate(sizes)}
    scores = torch.cat([(basis.outputs.moments[:, None] * basis.inputs.moments).flatten() for basis in bases.values()])
    scores = scores[scores.isfinite()].sort().values
    if not len(scores):
        return
    space = flat_subspace(bases, fraction, seed)
    wanted = int(fraction * len(scores))
    inside, outside, _ = space.dims
    assert inside == wanted
    assert inside + outside == len(scores)
    if 0 < wanted < len(scores):
        assert float(scores[wanted - 1]) <= space.threshold * (1 + 1e-9)
        assert space.threshold <= float(scores[wanted]) * (1 + 1e-9)


def test_draws_are_unit_vectors_of_their_part_and_projections_of_one() -> None:
    subject = wrap(random_model("gpt_neox"))
    space = _space(subject)
    drawn = {part: space.draw(part, generator(3, "draw")) for part in PARTS}  # type: ignore[arg-type]
    for part, v in drawn.items():
        assert length(v) == pytest.approx(1, abs=1e-5)
        assert _far(space.project(v, part), v) < 2e-6, part  # type: ignore[arg-type]
    flat = space.project(drawn["whole"], "flat")
    assert dot(flat, drawn["flat"]) == pytest.approx(length(flat), rel=1e-5)
    assert dot(drawn["flat"], drawn["complement"]) == pytest.approx(0, abs=1e-5)


def test_flat_is_flatter_than_the_whole_and_that_than_the_complement(tiny: Subject, text_tokens: Tensor) -> None:
    parameters = tiny.parameters("blocks")

    def loss(tokens: Tensor) -> Callable[[], Tensor]:
        return lambda: token_nll(tiny.model(input_ids=tokens, use_cache=False).logits, tokens).sum() / tokens.numel()

    bases = find_basis(tiny.model, parameters, shapes(tiny.anatomy, parameters), [loss(t) for t in text_tokens.split(4)])
    space = flat_subspace(bases, 0.5, 0)
    hessian = HessianProducts([loss(text_tokens[:4])], parameters)
    curvature = {}
    for part in ("flat", "whole", "complement"):
        draws = [space.draw(part, generator(seed, "draw")) for seed in range(4)]  # type: ignore[arg-type]
        curvature[part] = sum(dot(v, hessian.along(v)) for v in draws)
    assert curvature["flat"] < 0.3 * curvature["whole"] < 0.25 * curvature["complement"]


def test_bases_are_kept_as_tensors() -> None:
    subject = wrap(random_model("gpt2"))
    parameters = subject.parameters("blocks")
    space, v = _space(subject), _random(subject)
    again = flat_subspace(from_tensors(to_tensors(space.bases), shapes(subject.anatomy, parameters)), 0.3, seed=1)
    assert again.threshold == space.threshold
    for part in PARTS:
        assert _far(again.project(v, part), space.project(v, part)) == 0  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def text_tokens(tiny: Subject) -> Tensor:
    from lit_degrade.text import TextSource

    return TextSource().blocks("calibration", tiny.tokenizer, 12).ids
