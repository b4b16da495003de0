"""Pruning: exact sparsity, closed forms of Wanda and SparseGPT, whole heads, neurons and layers, and weights put back."""

import math

import pytest
import torch
from conftest import FAMILY_CONFIGS, load, random_model, wrap
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lit_degrade.errors import Diverged, UserError
from lit_degrade.measures.perplexity import token_nll
from lit_degrade.perturbations.values import prune_magnitude
from lit_degrade.pruning.catalog import PruneSettings, pruners
from lit_degrade.pruning.inputs import entrance, through
from lit_degrade.pruning.masks import lowest, single_weights, weights_of
from lit_degrade.pruning.prune import output_energy, prune_, pruned, sites_to_prune, stages, totals
from lit_degrade.pruning.sparsegpt import hessian, sparsegpt
from lit_degrade.subjects.anatomy import Site
from lit_degrade.subjects.loading import Subject, weights_sha256

IDS = torch.randint(8, 90, (4, 24), generator=torch.Generator().manual_seed(1))
SITE = Site("w", "mlp_up", 0, "weight")
WAYS = [
    *({"method": method} for method in pruners()),
    *({"method": method, "scope": scope} for method in ("magnitude", "wanda") for scope in ("tensor", "row", "global")),
    {"method": "sparsegpt", "scope": "row"},
    {"method": "sparsegpt", "block_columns": 12},
    *({"method": method, "pattern": pattern} for method in ("magnitude", "wanda", "sparsegpt") for pattern in ("2:4", "1:4")),
]  # fmt: skip


def of(family: str) -> Subject:
    return wrap(random_model(family))


def zeros_of(subject: Subject, site: Site) -> Tensor:
    return weights_of(subject, site) == 0


def expected_zeros(way: PruneSettings, subject: Subject, site: Site) -> int:
    rows, columns = weights_of(subject, site).shape
    if way.compared_in in ("row", "group"):
        return rows * round(way.share * columns)
    return round(way.share * rows * columns)


UNLIKE = ("gpt2", "bloom", "llama", "gemma3")
"""Families of which one is fused, one turned round, one gated, and one shows pictures."""


@pytest.mark.parametrize(
    ("way", "family"),
    [
        pytest.param(
            way,
            family,
            id="-".join([*map(str, way.values()), family]),
            marks=() if way.keys() == {"method"} or family in UNLIKE else pytest.mark.slow,
        )
        for way in WAYS
        for family in FAMILY_CONFIGS
    ],
)
def test_sparsity_is_exact(way: dict[str, object], family: str) -> None:
    if way["method"] in ("hutchinson_diag", "hessian_saliency") and family not in ("gpt2", "llama"):
        pytest.skip("the same scores by slow products, tested for every family in test_scores.py")
    how = PruneSettings(**{"sparsity": 0.37, **way} if "pattern" not in way else way)  # type: ignore[arg-type]
    subject = of(family)
    rows = prune_(subject, how, IDS, 0)
    sites = sites_to_prune(subject, how)
    assert [(row.parameter, row.component) for row in rows] == [(site.parameter, site.component) for site in sites]
    for row, site in zip(rows, sites, strict=True):
        assert row.zeros == int(zeros_of(subject, site).sum())
        if how.compared_in != "global":
            assert row.zeros == expected_zeros(how, subject, site)
        if how.compared_in in ("row", "group"):
            m = how.kept_of[1] if how.pattern else weights_of(subject, site).shape[1]
            assert set(zeros_of(subject, site).view(-1, m).sum(1).tolist()) == {round(how.share * m)}
    total = totals(rows)
    if how.compared_in in ("global", "tensor"):
        assert abs(total["zeros"] - how.share * total["weights"]) <= (0.5 if how.compared_in == "global" else len(rows) / 2)
    assert all(0 <= row.reconstruction_error < 1.5 for row in rows)


def test_nothing_else_is_touched(family: str) -> None:
    subject, intact = of(family), of(family)
    how = PruneSettings("sparsegpt", target="attn", layers="1")
    prune_(subject, how, IDS, 0)
    changed = {n for (n, a), b in zip(subject.model.named_parameters(), intact.model.parameters(), strict=True)
               if not torch.equal(a, b)}  # fmt: skip
    assert changed == {site.parameter for site in sites_to_prune(subject, how)}


def test_no_sparsity_changes_nothing() -> None:
    for method in ("magnitude", "wanda", "sparsegpt"):
        subject = of("gpt2")
        before = weights_sha256(subject.model)
        rows = prune_(subject, PruneSettings(method, 0.0), IDS, 0)
        assert weights_sha256(subject.model) == before
        assert totals(rows)["reconstruction_error"] == totals(rows)["zeros"] == 0


@given(st.integers(0, 30), st.integers(1, 30), st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_the_lowest_are_exactly_as_many_and_the_first_of_equal_ones(k: int, n: int, seed: int) -> None:
    scores = torch.randint(0, 4, (3, n), generator=torch.Generator().manual_seed(seed)).float()
    k = min(k, n)
    mask = lowest(scores, k)
    for row, chosen in zip(scores.tolist(), mask, strict=True):
        assert chosen.nonzero().flatten().tolist() == sorted(sorted(range(n), key=lambda i: (row[i], i))[:k])


def test_magnitude_is_the_perturbation_of_that_name() -> None:
    subject, intact = of("llama"), of("llama")
    prune_(subject, PruneSettings("magnitude", 0.3), IDS, 0)
    for site in sites_to_prune(subject, PruneSettings()):
        expected = prune_magnitude(intact.model.get_parameter(site.parameter).detach(), 0.3, torch.Generator(), -1)
        assert torch.equal(subject.model.get_parameter(site.parameter), expected)


def test_weights_that_are_zero_already_are_counted() -> None:
    for method in ("random", "wanda", "grad_x_weight"):
        subject = of("llama")
        prune_(subject, PruneSettings("random", 0.25, scope="row"), IDS, 5)
        gone = {site: zeros_of(subject, site) for site in sites_to_prune(subject, PruneSettings())}
        prune_(subject, PruneSettings(method, 0.5, scope="row"), IDS, 6)
        for site, before in gone.items():
            assert bool(zeros_of(subject, site)[before].all())
            assert set(zeros_of(subject, site).sum(1).tolist()) == {before.shape[1] // 2}


def test_masks_by_hand() -> None:
    scores = torch.tensor([[1.0, 2, 3, 4], [0, 9, 8, 7]])

    def zero(**how: object) -> list[list[int]]:
        return single_weights({SITE: scores}, PruneSettings(**how))[SITE].int().tolist()  # type: ignore[arg-type]

    assert zero(scope="row") == [[1, 1, 0, 0], [1, 0, 0, 1]]
    assert zero(scope="tensor") == [[1, 1, 1, 0], [1, 0, 0, 0]]
    assert zero(pattern="1:2") == [[1, 0, 1, 0], [1, 0, 0, 1]]
    assert zero(pattern="1:4") == [[1, 1, 1, 0], [1, 0, 1, 1]]
    other = Site("v", "mlp_up", 1, "weight")
    both = single_weights({SITE: scores, other: scores + 10}, PruneSettings(scope="global"))
    assert both[SITE].all()
    assert not both[other].any()


# Wanda


def by_hand(model: torch.nn.Module, name: str, ids: Tensor) -> Tensor:
    """Inputs of a layer, by a hook on a pass of the whole model, (tokens, inputs)."""
    seen = []
    hook = model.get_submodule(name).register_forward_hook(lambda module, args, out: seen.append(args[0].flatten(0, -2)))
    with torch.no_grad():
        model(ids)
    hook.remove()
    return torch.cat(seen)


def test_wanda_is_what_the_paper_says_block_after_block() -> None:
    """Slow version: the whole model is run again for every block."""
    subject, slow = of("llama"), of("llama")
    prune_(subject, PruneSettings("wanda", 0.5), IDS, 0)
    for depth in range(3):
        names = [site.parameter.removesuffix(".weight") for site in slow.anatomy.select("blocks", [depth])]
        inputs = {name: by_hand(slow.model, name, IDS) for name in names}
        for name in names:
            weight = slow.model.get_submodule(name).weight
            scores = weight.detach().abs() * inputs[name].norm(dim=0)
            for row, score in zip(weight.data, scores, strict=True):
                row[score.argsort()[: len(score) // 2]] = 0
            assert torch.equal(weight, subject.model.get_submodule(name).weight), name


def test_wanda_is_magnitude_by_row_where_all_inputs_have_the_same_norm() -> None:
    """The first block's Q, K and V read an RMS-normalised one-hot embedding here, each feature as often as any other."""
    one, two = of("llama"), of("llama")
    width = one.embedding.shape[1]
    for subject in (one, two):
        subject.embedding.data[:width] = torch.eye(width)
    ids = torch.arange(width).view(2, -1)
    how = {"sparsity": 0.4, "scope": "row", "target": "attn_q", "layers": "0"}
    prune_(one, PruneSettings("wanda", **how), ids, 0)  # type: ignore[arg-type]
    prune_(two, PruneSettings("magnitude", **how), ids, 0)  # type: ignore[arg-type]
    (site,) = sites_to_prune(one, PruneSettings(**how))  # type: ignore[arg-type]
    assert torch.equal(weights_of(one, site), weights_of(two, site))
    three = of("llama")
    prune_(three, PruneSettings("wanda", **how), IDS, 0)  # type: ignore[arg-type]
    assert not torch.equal(zeros_of(three, site), zeros_of(two, site)), "other norms choose other weights"


def test_global_wanda_is_the_score_of_the_intact_subject() -> None:
    one, two = of("gpt2"), of("gpt2")
    prune_(one, PruneSettings("wanda", scope="global"), IDS, 0)
    prune_(two, PruneSettings("act_mag", scope="global"), IDS, 0)
    assert weights_sha256(one.model) == weights_sha256(two.model)


# SparseGPT


def correlated(seed: int, tokens: int = 400, inputs: int = 24) -> Tensor:
    """Inputs that go together, on unequal scales (tokens, inputs)."""
    draws = torch.Generator().manual_seed(seed)
    mixing = torch.randn(inputs, inputs, generator=draws) / inputs**0.5 + 0.5 * torch.eye(inputs)
    return torch.randn(tokens, inputs, generator=draws) @ mixing * torch.randn(inputs, generator=draws).exp()


def gaussian(seed: int, rows: int = 16, inputs: int = 24) -> Tensor:
    return torch.randn(rows, inputs, generator=torch.Generator().manual_seed(1000 + seed))


@pytest.mark.parametrize("seed", range(3))
def test_sparsegpt_is_the_optimal_brain_surgeon_for_one_weight(seed: int) -> None:
    """The first column is chosen, so that all others may make up for it: w - w_p / [H⁻¹]_pp H⁻¹[:, p]."""
    h = hessian(correlated(seed).T @ correlated(seed), 0.01)
    w = gaussian(seed, rows=1)
    w[0, 0] = 1e-3
    inverse = h.double().inverse()
    p = int((w[0].double().square() / inverse.diagonal()).argmin())
    assert p == 0
    expected = w[0].double() - w[0, p] / inverse[p, p] * inverse[:, p]
    found = sparsegpt(w, h, PruneSettings("sparsegpt", 1 / 24))[0]
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-7)
    assert found[0] == 0
    assert int((found == 0).sum()) == 1


@pytest.mark.parametrize("columns", [128, 24, 7, 1])
def test_sparsegpt_leaves_columns_to_the_left_alone(columns: int) -> None:
    """For one weight elsewhere: the surgeon on the columns that are still free, whatever the blocks."""
    h = hessian(correlated(0).T @ correlated(0), 0.01)
    w, p = gaussian(0, rows=1), 9
    w[0, p] = 1e-6
    free = h.double()[p:, p:].inverse()
    expected = w[0].double().clone()
    expected[p:] -= w[0, p] / free[0, 0] * free[:, 0]
    # a share that gives no weight to any block of columns but the one with p, and one to that
    share = 0.5 / 9.5 if columns == 1 else 1 / 24
    found = sparsegpt(w, h, PruneSettings("sparsegpt", share, block_columns=columns))[0]
    if columns >= 24:
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-9)
    assert int((found == 0).sum()) == round(share * 24)


def test_blocks_of_columns_change_when_updates_are_made_not_what_they_are() -> None:
    """With the same mask (a pattern chooses it in its turn), any block size gives the same weights."""
    h, w = hessian(correlated(2).T @ correlated(2), 0.01), gaussian(2)
    one, two, three = (sparsegpt(w, h, PruneSettings("sparsegpt", pattern="2:4", block_columns=b)) for b in (4, 8, 128))
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(one, three, rtol=1e-4, atol=1e-5)


def test_sparsegpt_by_exact_solutions_column_by_column() -> None:
    """Slow version: after every column, the inverse of what is left of H."""
    h, w = hessian(correlated(3).T @ correlated(3), 0.01).double(), gaussian(3)
    slow = w.double().clone()
    inverses = [h[j:, j:].inverse() for j in range(24)]
    scores = slow.square() / torch.tensor([inverse[0, 0] for inverse in inverses])
    mask = lowest(scores.flatten(), 8 * 24).view_as(w)
    for j, inverse in enumerate(inverses):
        for i in mask[:, j].nonzero().flatten():
            slow[i, j:] -= slow[i, j] / inverse[0, 0] * inverse[:, 0]
            slow[i, j] = 0
    found = sparsegpt(w, h.float(), PruneSettings("sparsegpt", 0.5))
    torch.testing.assert_close(found.double(), slow, rtol=1e-3, atol=1e-4)
    assert torch.equal(found == 0, mask)


@pytest.mark.parametrize("scope", ["tensor", "row"])
def test_sparsegpt_with_uncorrelated_inputs_is_magnitude(scope: str) -> None:
    w = gaussian(4)
    found = sparsegpt(w, torch.eye(24), PruneSettings("sparsegpt", 0.4, scope))
    mask = single_weights({SITE: w.abs()}, PruneSettings("magnitude", 0.4, scope))[SITE]
    assert torch.equal(found, w.masked_fill(mask, 0))


@pytest.mark.parametrize("seed", range(8))
def test_sparsegpt_loses_less_than_wanda_and_wanda_less_than_magnitude(seed: int) -> None:
    x, w = correlated(seed), gaussian(seed)
    moment, errors = x.T @ x, []
    for scores in (w.abs() * x.norm(dim=0), w.abs()):
        mask = single_weights({SITE: scores}, PruneSettings(scope="row"))[SITE]
        errors.append(output_energy(w.masked_fill(mask, 0) - w, moment))
    found = sparsegpt(w, hessian(moment, 0.01), PruneSettings("sparsegpt", 0.5, "row"))
    energy = output_energy(found - w, moment)
    assert energy == pytest.approx(float(((found - w) @ x.T).square().sum()), rel=1e-3)
    assert energy < errors[0] < errors[1]


def test_inputs_that_are_always_zero_do_no_harm() -> None:
    x = correlated(5)
    x[:, 3:6] = 0
    found = sparsegpt(gaussian(5), hessian(x.T @ x, 1e-6), PruneSettings("sparsegpt", 0.5, "row"))
    assert bool(found.isfinite().all())
    assert bool((found[:, 3:6] == 0).all()), "they cost nothing"
    assert torch.equal(hessian(torch.zeros(3, 3), 0.01), torch.eye(3))


# Inputs


def test_blocks_one_by_one_are_the_model(family: str) -> None:
    subject = of(family)
    seen: list[Tensor] = []
    last = subject.anatomy.blocks[-1]
    hook = last.register_forward_hook(lambda module, args, out: seen.append(out if isinstance(out, Tensor) else out[0]))
    stream = entrance(subject, IDS)
    hook.remove()
    sites = subject.anatomy.select("blocks", [2])
    for depth in range(3):
        stream, moments = through(subject, depth, stream, [site.parameter for site in sites] if depth == 2 else [])
    torch.testing.assert_close(torch.cat(stream.hidden), torch.cat(seen))
    for site in sites:
        x = by_hand(subject.model, site.parameter.removesuffix(".weight"), IDS)
        torch.testing.assert_close(moments[site.parameter], x.T @ x, rtol=1e-4, atol=1e-4)


def test_reconstruction_errors_are_of_the_intact_inputs(family: str) -> None:
    subject, intact = of(family), of(family)
    rows = prune_(subject, PruneSettings("wanda", 0.6), IDS, 0)
    for row, site in zip(rows, sites_to_prune(subject, PruneSettings()), strict=True):
        x = by_hand(intact.model, site.parameter.removesuffix(".weight"), IDS)
        before, after = weights_of(intact, site), weights_of(subject, site)
        assert row.reconstruction_error == pytest.approx(
            float(((before - after) @ x.T).norm() / (before @ x.T).norm()), rel=1e-3
        )
        assert row.norm_of_change == pytest.approx(float((before - after).norm()), rel=1e-5)
    lost = sum(row.reconstruction_error**2 * row.output_energy for row in rows)
    assert totals(rows)["reconstruction_error"] == pytest.approx(math.sqrt(lost / sum(row.output_energy for row in rows)))


# Groups


def removed(subject: Subject, name: str, inputs: Tensor) -> Tensor:
    """Logits while some inputs of a layer are zero."""
    layer = subject.model.get_submodule(name)
    keep = torch.ones(layer.weight.shape[0 if type(layer).__name__ == "Conv1D" else 1]).index_fill(0, inputs, 0)
    hook = layer.register_forward_pre_hook(lambda module, args: (args[0] * keep, *args[1:]))
    with torch.no_grad():
        logits = subject.model(IDS).logits
    hook.remove()
    return logits


def logits_of(subject: Subject) -> Tensor:
    with torch.no_grad():
        return subject.model(IDS).logits


@pytest.mark.parametrize(("structure", "component"), [("heads", "attn_o"), ("neurons", "mlp_down")])
def test_pruned_heads_and_neurons_contribute_nothing_and_nothing_else_changes(
    structure: str, component: str, family: str
) -> None:
    subject, intact = of(family), of(family)
    rows = prune_(subject, PruneSettings("wanda", 0.5, structure=structure, layers="1"), IDS, 0)
    (site,) = subject.anatomy.select(component, [1])
    gone = zeros_of(subject, site).all(0).nonzero().flatten()
    columns = weights_of(subject, site).shape[1]
    assert len(gone) == columns // 2
    if structure == "heads":
        heads = gone.view(-1, subject.anatomy.head_dim)
        assert torch.equal(heads, heads[:, :1] + torch.arange(subject.anatomy.head_dim))
    torch.testing.assert_close(
        logits_of(subject), removed(intact, site.parameter.removesuffix(".weight"), gone), rtol=1e-4, atol=1e-5
    )
    assert not torch.allclose(logits_of(subject), logits_of(intact), atol=1e-4)
    for row in rows:
        shared = row.component in ("attn_k", "attn_v") and row.weights < rows[0].weights
        assert row.sparsity == 0.5 or shared


def test_shared_keys_and_values_go_when_all_their_heads_go() -> None:
    subject = of("llama")  # 4 heads, 2 keys and values
    k, q = (subject.anatomy.select(f"attn_{letter}", [0])[0] for letter in "kq")
    weight = subject.model.get_parameter(q.parameter)
    weight.data[8:] *= 10  # head 0 is the least
    prune_(subject, PruneSettings("magnitude", 0.25, structure="heads", layers="0"), IDS, 0)
    assert zeros_of(subject, q).all(1).nonzero().flatten().tolist() == list(range(8))
    assert not zeros_of(subject, k).any()
    weight.data[8:16] *= 1e-3
    prune_(subject, PruneSettings("magnitude", 0.5, structure="heads", layers="0"), IDS, 0)
    assert zeros_of(subject, k).all(1).nonzero().flatten().tolist() == list(range(8))


def test_a_pruned_layer_is_the_identity(family: str) -> None:
    subject = of(family)
    for site in subject.anatomy.select("blocks", [1]):
        subject.model.get_parameter(site.parameter).data *= 1e-2
    rows = prune_(subject, PruneSettings("magnitude", 0.33, structure="layers"), IDS, 0)
    assert {(row.depth, row.sparsity) for row in rows} == {(0, 0.0), (1, 1.0), (2, 0.0)}
    seen: list[Tensor] = []

    def see(module: object, args: tuple[Tensor, ...], options: dict[str, Tensor], out: object) -> None:
        seen.extend((args[0] if args else options["hidden_states"], out if isinstance(out, Tensor) else out[0]))  # type: ignore[index]

    hook = subject.anatomy.blocks[1].register_forward_hook(see, with_kwargs=True)
    logits_of(subject)
    hook.remove()
    assert torch.equal(*seen)


def test_groups_may_be_compared_over_all_layers() -> None:
    subject = of("gpt_neox")
    for site in subject.anatomy.select("attn", [2]):
        subject.model.get_parameter(site.parameter).data *= 1e-2
    rows = prune_(subject, PruneSettings("wanda", 1 / 3, structure="heads", scope="global"), IDS, 0)
    assert {(row.depth, row.sparsity) for row in rows} == {(0, 0.0), (1, 0.0), (2, 1.0)}


def test_norms_on_the_stream_refuse_whole_layers() -> None:
    subject = wrap(random_model("opt", do_layer_norm_before=False))
    with pytest.raises(UserError, match="normalises what passes by"):
        sites_to_prune(subject, PruneSettings("magnitude", structure="layers"))


# Undoing


@pytest.mark.parametrize(
    "how",
    [PruneSettings("sparsegpt"), PruneSettings("magnitude", scope="global"), PruneSettings("wanda", structure="neurons"),
     PruneSettings("random", structure="layers")],
    ids=lambda how: f"{how.method}-{how.structure}",
)  # fmt: skip
def test_pruned_weights_are_put_back(how: PruneSettings, family: str) -> None:
    subject = of(family)
    before = weights_sha256(subject.model)
    with pruned(subject, how, IDS, 0) as rows:
        assert sum(row.zeros for row in rows) > 0
        assert weights_sha256(subject.model) != before
    assert weights_sha256(subject.model) == before


def test_they_are_put_back_after_exceptions(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = of("gpt2")
    before = weights_sha256(subject.model)
    with pytest.raises(OSError, match="inside"), pruned(subject, PruneSettings(), IDS, 0):
        raise OSError("inside")
    assert weights_sha256(subject.model) == before
    calls: list[int] = []

    def fail(*args: object) -> None:
        calls.append(1)
        if len(calls) == 5:
            raise OSError("while pruning")
        original(*args)  # type: ignore[arg-type]

    from lit_degrade.pruning import prune as module

    original = module.write_
    monkeypatch.setattr(module, "write_", fail)
    with pytest.raises(OSError, match="while pruning"), pruned(subject, PruneSettings(), IDS, 0):
        pass
    assert len(calls) == 5
    assert weights_sha256(subject.model) == before


def test_the_same_seed_prunes_the_same() -> None:
    def after(seed: int) -> str:
        subject = of("llama")
        prune_(subject, PruneSettings("random"), IDS, seed)
        return weights_sha256(subject.model)

    assert after(0) == after(0) != after(1)


def test_every_stage_is_counted() -> None:
    for how in (PruneSettings(), PruneSettings("grad_x_weight", layers="1"), PruneSettings("magnitude", scope="global")):
        subject, done = of("gpt2"), []
        prune_(subject, how, IDS, 0, lambda done=done: done.append(1))  # type: ignore[misc]
        assert len(done) == stages(subject, how, IDS)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_pruned_as_it_is_stored(precision: str) -> None:
    from lit_degrade.subjects.catalog import SubjectSpec
    from lit_degrade.subjects.loading import load_subject

    for method in ("magnitude", "wanda", "sparsegpt"):
        subject = load_subject(SubjectSpec("tiny-60k", precision), 0, torch.device("cpu"), train=False)  # type: ignore[arg-type]
        rows = prune_(subject, PruneSettings(method), IDS, 0)
        assert totals(rows)["sparsity_achieved"] == 0.5
        assert bool(token_nll(logits_of(subject), IDS).isfinite().all())


@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_codes_are_not_pruned(precision: str) -> None:
    from lit_degrade.subjects.catalog import SubjectSpec
    from lit_degrade.subjects.loading import load_subject

    subject = load_subject(SubjectSpec("tiny-60k", precision), 0, torch.device("cpu"), train=False)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=f"stored at precision '{precision}'"):
        prune_(subject, PruneSettings(), IDS, 0)
    with pytest.raises(UserError, match="LoRA adapters"):
        prune_(load("tiny-60k", adapter="lora"), PruneSettings(), IDS, 0)


def test_inputs_that_are_not_finite_end_it() -> None:
    subject = of("llama")
    subject.model.get_parameter("model.layers.0.mlp.down_proj.weight").data[0, 0] = math.inf
    with pytest.raises(Diverged, match=r"model\.layers\.1"):
        prune_(subject, PruneSettings("sparsegpt", layers="1"), IDS, 0)


def test_a_pattern_needs_inputs_that_it_divides() -> None:
    with pytest.raises(UserError, match=r"'model\.layers\.0\.self_attn\.q_proj\.weight' has 32 inputs"):
        sites_to_prune(of("llama"), PruneSettings(pattern="2:5"))


BAD = [
    ({"method": "wandaa"}, "Did you mean 'wanda'?"),
    ({"sparsity": 1.0}, "expected a share from 0 to below 1"),
    ({"sparsity": -0.1}, "expected a share"),
    ({"sparsity": math.nan}, "expected a share"),
    ({"scope": "column"}, "Unknown pruning scope 'column'"),
    ({"structure": "head"}, "Did you mean 'heads'?"),
    ({"pattern": "2:x"}, "expected n:m"),
    ({"pattern": "4:4"}, "expected n:m"),
    ({"pattern": "0:4"}, "expected n:m"),
    ({"pattern": "2:4", "scope": "row"}, "leave prune.scope and prune.structure empty"),
    ({"pattern": "2:4", "structure": "heads"}, "leave prune.scope and prune.structure empty"),
    ({"pattern": "2:4", "sparsity": 0.6}, "is a sparsity of 0.5, not prune.sparsity=0.6"),
    ({"method": "sparsegpt", "pattern": "2:4", "block_columns": 6}, "no multiple of 4"),
    ({"method": "sparsegpt", "scope": "global"}, "no prune.scope=global"),
    ({"method": "sparsegpt", "structure": "heads"}, "no prune.scope=global and no prune.structure"),
    ({"structure": "heads", "scope": "row"}, "has prune.scope global or none"),
    ({"structure": "heads", "target": "mlp"}, "is about attn, not prune.target=mlp"),
    ({"target": "embed"}, "not made of matrices of the blocks"),
    ({"target": "attnn"}, "Did you mean 'attn'?"),
    ({"layers": "x"}, "prune.layers 'x'"),
    ({"calibration_blocks": 0}, "model.prune.calibration_blocks: expected a whole number from 1, not 0"),
    ({"damping": 0.0}, "model.prune.damping: expected a finite number above 0, not 0.0"),
]


@pytest.mark.parametrize(("how", "message"), BAD, ids=lambda value: str(value)[:40])
def test_settings_that_cannot_be(how: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as error:
        PruneSettings(**how)  # type: ignore[arg-type]
    assert message in str(error.value)
    assert PruneSettings(pattern="1:4", sparsity=0.75).share == PruneSettings(pattern="1:4").share == 0.75
