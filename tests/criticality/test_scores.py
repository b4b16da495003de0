"""Scores of weights: closed forms, every architecture, any batch, any text."""

import math

import pytest
import torch
from conftest import load, random_model, wrap
from torch import Tensor, nn

from lit_degrade.criticality import sums as sums_module
from lit_degrade.criticality.catalog import ScoreSettings
from lit_degrade.criticality.measuring import measure
from lit_degrade.criticality.scores import Scores, refuse_what_has_no_inputs
from lit_degrade.criticality.sums import Sums, gather
from lit_degrade.errors import UserError
from lit_degrade.measures.perplexity import token_nll
from lit_degrade.subjects.anatomy import Site
from lit_degrade.subjects.loading import Subject

EVERYTHING = {"inputs", "gradient", "squared"}
IDS = torch.randint(1, 96, (5, 17), generator=torch.Generator().manual_seed(3))


def names_of(subject: Subject, matrices: bool = False) -> list[str]:
    """Every parameter of the language model."""
    named = dict(subject.model.named_parameters())
    names = dict.fromkeys(site.parameter for site in subject.anatomy.sites if site.kind != "adapter")
    return [name for name in names if not matrices or named[name].dim() > 1]


def sequence_gradients(subject: Subject, ids: Tensor, names: list[str]) -> dict[str, list[Tensor]]:
    """Gradients of the summed loss of each sequence, by autograd, one after the other."""
    found: dict[str, list[Tensor]] = {name: [] for name in names}
    parameters = [subject.model.get_parameter(name) for name in names]
    for row in ids.split(1):
        loss = token_nll(subject.model(input_ids=row, use_cache=False).logits, row).sum()
        for name, gradient in zip(names, torch.autograd.grad(loss, parameters), strict=True):
            found[name].append(gradient)
    return found


def close(a: Tensor, b: Tensor) -> bool:
    """Gradients below a millionth are rounding: those of a key's bias are zero by construction."""
    return bool((a - b).abs().max() <= 1e-4 * b.abs().max().clamp(min=1e-6))


def test_every_parameter_of_every_family_has_the_gradients_of_its_sequences(family: str) -> None:
    subject = wrap(random_model(family))
    names = names_of(subject)
    found = gather(subject, IDS, names, {"gradient", "squared"})
    assert (found.tokens, found.sequences) == (80, 5)
    for name, gradients in sequence_gradients(subject, IDS, names).items():
        assert close(found.gradient[name], sum(gradients)), name  # type: ignore[arg-type]
        assert close(found.squared[name], sum((g / 16).square() for g in gradients)), name  # type: ignore[arg-type]
    assert all(p.requires_grad and p.grad is None for p in subject.model.parameters())


@pytest.mark.parametrize("family_name", ["gpt_neox", "gpt2", "opt", "gemma3_text"])
def test_sums_do_not_depend_on_the_batch(family_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Known error 15, and METHODS (f): squares of a batch's gradient grow with the batch; those of sequences do not."""
    subject = wrap(random_model(family_name))
    names = names_of(subject, matrices=True)
    whole = gather(subject, IDS, names, EVERYTHING)
    monkeypatch.setattr("lit_degrade.measures.perplexity.BATCH_TOKENS", 34)
    pairs = gather(subject, IDS, names, EVERYTHING)
    for kind in ("inputs", "gradient", "squared"):
        for name in names:
            assert close(getattr(pairs, kind)[name], getattr(whole, kind)[name]), (kind, name)
    of_batch = {name: value.square() / whole.tokens**2 for name, value in whole.gradient.items()}
    moved = [name for name in names if float(whole.squared[name].max()) > 1e-7]
    assert len(moved) > len(names) / 2
    assert not [name for name in moved if close(of_batch[name], whole.squared[name] / whole.sequences)]


def test_sums_of_two_texts_add_up() -> None:
    subject = wrap(random_model("llama"))
    names = names_of(subject, matrices=True)
    whole, parts = gather(subject, IDS, names, EVERYTHING), Sums()
    for ids in IDS.split([2, 3]):
        parts.add_(gather(subject, ids, names, EVERYTHING))
    assert (parts.tokens, parts.sequences) == (whole.tokens, whole.sequences)
    for kind in ("inputs", "gradient", "squared"):
        assert all(close(getattr(parts, kind)[name], getattr(whole, kind)[name]) for name in names)


@pytest.mark.parametrize("size", [1, 7, 1 << 30])
def test_gradients_are_the_same_in_chunks_of_any_size(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = wrap(random_model("gpt2"))
    names = names_of(subject, matrices=True)
    whole = gather(subject, IDS, names, EVERYTHING)
    monkeypatch.setattr(sums_module, "CHUNK", size)
    chunks = gather(subject, IDS, names, EVERYTHING)
    assert all(close(chunks.squared[name], whole.squared[name]) for name in names)


def test_only_what_is_asked_for_is_kept_and_it_is_the_same(family: str) -> None:
    subject = wrap(random_model(family))
    names = names_of(subject, matrices=True)
    whole = gather(subject, IDS, names, EVERYTHING)
    assert gather(subject, IDS, names[:1], {"gradient"}).gradient.keys() == {names[0]}
    for want in ("inputs", "gradient", "squared"):
        alone = gather(subject, IDS, names, {want})  # type: ignore[arg-type]
        assert all(close(getattr(alone, want)[name], getattr(whole, want)[name]) for name in names), want
        assert not any(getattr(alone, other) for other in {"inputs", "gradient", "squared"} - {want})


def test_adapters_checkpointing_and_inference_mode_change_nothing() -> None:
    bare = load("tiny-60k")
    ids = torch.randint(1, 500, (3, 32), generator=torch.Generator().manual_seed(0))
    names = list(bare.parameters("blocks"))
    expected = gather(bare, ids, names, EVERYTHING)
    with torch.inference_mode():
        inside = gather(bare, ids, names, EVERYTHING)
    checkpointed = gather(load("tiny-60k", gradient_checkpointing=True), ids, names, EVERYTHING)
    adapted = load("tiny-60k", adapter="lora")
    wrapped = [f"base_model.model.{name.removesuffix('.weight')}.base_layer.weight" for name in names]
    found = gather(adapted, ids, wrapped, EVERYTHING)
    for name, longer in zip(names, wrapped, strict=True):
        for kind in ("inputs", "gradient", "squared"):
            value = getattr(expected, kind)[name]
            assert close(getattr(inside, kind)[name], value), (kind, name)
            assert close(getattr(checkpointed, kind)[name], value), (kind, name)
            assert close(getattr(found, kind)[longer], value), (kind, name)


# Closed forms


class Toy(nn.Module):
    """Token -> vector -> logits: a matrix between an embedding and the loss, and nothing else."""

    def __init__(self, embedding: Tensor, matrix: Tensor) -> None:
        super().__init__()
        self.config = type("Config", (), {"model_type": "llama"})()
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding.from_pretrained(embedding, freeze=False)
        self.lm_head = nn.Linear(matrix.shape[1], matrix.shape[0], bias=False)
        self.lm_head.weight = nn.Parameter(matrix)

    def get_input_embeddings(self) -> nn.Module:
        return self.model.embed_tokens

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> object:
        return type("Output", (), {"logits": self.lm_head(self.model.embed_tokens(input_ids))})()


HEAD = "lm_head.weight"
PLAIN = ScoreSettings(probes=2, estimator="per_tensor")
ROWS = torch.tensor([[3, 1, 2, 0], [2, 2, 0, 0]])
X = torch.tensor([[1.0, 2.0, 2.0], [0.5, -1.0, 0.0], [0.0, 4.0, -3.0], [2.0, 0.0, 1.0]])
W = torch.tensor([[0.1, -0.2, 0.3], [1.0, 0.5, -2.0]])


def toy(monkeypatch: pytest.MonkeyPatch, loss: object, embedding: Tensor = X) -> tuple[Subject, Site, float]:
    """A subject with another loss of its logits; its matrix, and the mean loss as it is."""
    monkeypatch.setattr(sums_module, "token_nll", loss)
    monkeypatch.setattr("lit_degrade.criticality.measuring.token_nll", loss)
    subject = wrap(Toy(embedding, W.clone()))
    (site,) = subject.anatomy.select("head")
    return subject, site, mean_loss(subject, loss)


def mean_loss(subject: Subject, loss: object) -> float:
    return float(loss(subject.model(ROWS).logits.detach(), ROWS).double().mean())  # type: ignore[operator]


def linear(logits: Tensor, tokens: Tensor) -> Tensor:
    return logits[:, :-1] @ torch.tensor([1.0, -3.0])


def quadratic(logits: Tensor, tokens: Tensor) -> Tensor:
    return (logits[:, :-1].square() @ torch.tensor([1.0, 2.0])) / 2


def test_grad_x_weight_is_the_loss_change_of_zeroing_where_the_loss_is_linear(monkeypatch: pytest.MonkeyPatch) -> None:
    subject, site, before = toy(monkeypatch, linear)
    scores = Scores(subject, gather(subject, ROWS, [HEAD], {"gradient"}), 0)("grad_x_weight", site)
    for i in range(6):
        with torch.no_grad():
            kept, subject.model.lm_head.weight.view(-1)[i] = float(W.view(-1)[i]), 0.0
            assert float(scores.view(-1)[i]) == pytest.approx(abs(mean_loss(subject, linear) - before), rel=1e-5)
            subject.model.lm_head.weight.view(-1)[i] = kept


def test_act_mag_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens 3 1 2 0 and 2 2 0 0: x_1 = 2 .5 0 1 | 0 0 1 1, whose norm is sqrt(7.25), and so on."""
    subject, site, _ = toy(monkeypatch, linear)
    scores = Scores(subject, gather(subject, ROWS, [HEAD, "model.embed_tokens.weight"], {"inputs"}), 0)
    norms = torch.tensor([7.25, 1 + 3 * 16 + 3 * 4, 1 + 3 * 9 + 3 * 4]).sqrt()
    assert torch.allclose(scores("act_mag", site), W.abs() * norms)
    (embedding,) = subject.anatomy.select("embed")
    uses = torch.tensor([3.0, 1.0, 3.0, 1.0]).sqrt()
    assert torch.allclose(scores("act_mag", embedding), X.abs() * uses[:, None])


def test_act_mag_is_magnitude_where_inputs_have_equal_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    signs = torch.tensor([[1.0, -1.0, 1.0], [-1.0, -1.0, 1.0], [1.0, 1.0, -1.0], [-1.0, 1.0, 1.0]])
    subject, site, _ = toy(monkeypatch, linear, signs)
    scores = Scores(subject, gather(subject, ROWS, [HEAD], {"inputs"}), 0)
    assert torch.allclose(scores("act_mag", site), scores("magnitude", site) * math.sqrt(8))
    assert torch.equal(scores("magnitude", site), W.abs())


def test_grad_squared_is_the_mean_of_squares_over_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    subject, site, _ = toy(monkeypatch, linear)
    scores = Scores(subject, gather(subject, ROWS, [HEAD], {"squared"}), 0)("grad_squared", site)
    means = X[ROWS[:, :-1]].mean(1)
    by_hand = torch.stack([torch.outer(torch.tensor([1.0, -3.0]), mean).square() for mean in means]).mean(0)
    assert torch.allclose(scores, by_hand)


def test_curvature_of_a_quadratic_loss_is_exact_where_it_is_diagonal(monkeypatch: pytest.MonkeyPatch) -> None:
    """One-hot inputs: H is diagonal, every probe gives it exactly, and half h w² is what zeroing would cost at a minimum."""
    subject, site, _ = toy(monkeypatch, quadratic, torch.eye(4)[:, :3])
    draws = torch.Generator().manual_seed(0)
    scores = Scores(subject, measure(subject, ROWS, [HEAD], ["hutchinson_diag", "hessian_saliency"], PLAIN, draws), 0)
    shares = torch.eye(4)[:, :3][ROWS[:, :-1]].flatten(0, 1).mean(0)
    diagonal = torch.outer(torch.tensor([1.0, 2.0]), shares)
    assert torch.allclose(scores("hutchinson_diag", site), diagonal, atol=1e-6)
    assert torch.allclose(scores("hessian_saliency", site), diagonal * W.square() / 2, atol=1e-6)
    assert not scores.standard_error("hutchinson_diag", site).any()  # type: ignore[union-attr]
    assert scores.standard_error("magnitude", site) is None
    assert scores.row("hutchinson_diag", site)["standard_error"] == 0


def test_curvature_keeps_its_sign_and_uses_all_text_known_error_11(monkeypatch: pytest.MonkeyPatch) -> None:
    def saddle(logits: Tensor, tokens: Tensor) -> Tensor:
        return (logits[:, :-1].square() @ torch.tensor([1.0, -1.0])) / 2

    subject, site, _ = toy(monkeypatch, saddle, torch.eye(4)[:, :3])
    monkeypatch.setattr("lit_degrade.measures.perplexity.BATCH_TOKENS", 4)  # one batch for each sequence
    draws = torch.Generator().manual_seed(0)
    scores = Scores(subject, measure(subject, ROWS, [HEAD], ["hutchinson_diag"], PLAIN, draws), 0)("hutchinson_diag", site)
    shares = torch.eye(4)[:, :3][ROWS[:, :-1]].flatten(0, 1).mean(0)
    assert torch.allclose(scores, torch.stack([shares, -shares]), atol=1e-6)
    assert bool((scores < 0).any())


def test_half_precision_gradients_are_close_to_those_of_float32() -> None:
    exact = wrap(random_model("gpt_neox"))
    names = names_of(exact, matrices=True)
    expected = gather(exact, IDS, names, EVERYTHING)
    found = gather(wrap(random_model("gpt_neox").bfloat16()), IDS, names, EVERYTHING)
    for name in names:
        assert found.squared[name].dtype == torch.float32
        a, b = found.gradient[name].flatten(), expected.gradient[name].flatten()
        assert float(torch.nn.functional.cosine_similarity(a, b, 0)) > 0.98


def test_quantised_weights_have_scores_without_gradients() -> None:
    bare, codes = load("tiny-60k"), load("tiny-60k", precision="int8", adapter="lora")
    name = "gpt_neox.layers.1.mlp.dense_h_to_4h.weight"
    ids = torch.randint(1, 500, (3, 32), generator=torch.Generator().manual_seed(0))
    (site,) = bare.anatomy.select("mlp_up", [1])
    expected = Scores(bare, gather(bare, ids, [name], {"inputs"}), 0)("act_mag", site)
    (site,) = codes.anatomy.select("mlp_up", [1])
    found = Scores(codes, gather(codes, ids, [site.parameter], {"inputs"}), 0)("act_mag", site)
    assert torch.allclose(found, expected, rtol=0.1, atol=0.02 * float(expected.max()))


def test_random_scores_are_those_of_the_seed_and_the_site() -> None:
    subject = wrap(random_model("gpt_neox"))
    q, k = subject.anatomy.select("attn_q", [0])[0], subject.anatomy.select("attn_k", [0])[0]
    scores = Scores(subject, Sums(), 1)
    assert torch.equal(scores("random", q), Scores(subject, Sums(), 1)("random", q))
    assert not torch.equal(scores("random", q), scores("random", k))
    assert not torch.equal(scores("random", q), Scores(subject, Sums(), 2)("random", q))


def test_scores_that_are_no_numbers_are_refused() -> None:
    subject = wrap(random_model("gpt_neox"))
    torch.nn.init.constant_(subject.model.gpt_neox.layers[2].mlp.dense_4h_to_h.weight, math.inf)
    (site,) = subject.anatomy.select("mlp_up", [0])
    scores = Scores(subject, gather(subject, IDS, [site.parameter], {"gradient"}), 0)
    with pytest.raises(UserError, match=r"grad_x_weight of 'gpt_neox.layers.0.mlp.dense_h_to_4h.weight' is not finite"):
        scores("grad_x_weight", site)


def test_act_mag_of_vectors_is_refused() -> None:
    subject = wrap(random_model("gpt_neox"))
    with pytest.raises(UserError, match=r"act_mag is defined for matrices, and the target has 14 vectors such as"):
        refuse_what_has_no_inputs(["magnitude", "act_mag"], subject, subject.anatomy.select("norm", None, ("weight", "bias")))
    refuse_what_has_no_inputs(["act_mag"], subject, subject.anatomy.select("blocks"))


def test_a_row_says_what_the_scores_of_a_site_are_like() -> None:
    subject = wrap(random_model("gpt_neox"))
    (site,) = subject.anatomy.select("attn_v", [1])
    values = Scores(subject, Sums(), 0)("magnitude", site).flatten()
    row = Scores(subject, Sums(), 0).row("magnitude", site)
    assert (row["component"], row["depth"], row["weights"], row["standard_error"]) == ("attn_v", 1, 1024, None)
    assert row["mean"] == pytest.approx(float(values.mean()), rel=1e-5)
    assert row["sd"] == pytest.approx(float(values.std()), rel=1e-5)
    for percent in (0, 1, 5, 25, 50, 75, 95, 99, 99.9, 100):
        expected = torch.quantile(values, percent / 100, interpolation="nearest")
        assert row[f"q{percent:g}"] == pytest.approx(float(expected), rel=1e-5)


def test_act_mag_of_every_part_of_every_matrix(family: str) -> None:
    """Fused and transposed matrices too: |w| times the norm of the input that it multiplies, by hand from what goes in."""
    subject = wrap(random_model(family))
    sites = subject.anatomy.select("blocks")
    scores = Scores(subject, gather(subject, IDS, list({site.parameter for site in sites}), {"inputs"}), 0)
    for site in sites:
        module = subject.model.get_submodule(site.parameter.removesuffix(".weight"))
        seen: list[Tensor] = []
        hook = module.register_forward_hook(lambda _, args, out, seen=seen: seen.append(args[0].detach()))
        subject.model(input_ids=IDS)
        hook.remove()
        norms = seen[0].reshape(-1, seen[0].shape[-1]).norm(dim=0)
        weight = module.weight.detach()
        whole = weight.abs() * (norms[:, None] if type(module).__name__ == "Conv1D" else norms)
        assert close(scores("act_mag", site), site.view(whole)), site
