"""Anatomy: every text parameter has a place, and a place is exactly what it says."""

import pytest
import torch
from conftest import FAMILY_CONFIGS, random_model

from lit_degrade.errors import UserError
from lit_degrade.subjects.anatomy import Anatomy
from lit_degrade.subjects.catalog import COMPONENTS

FUSED = ["gpt_neox", "bloom", "falcon", "falcon_multi_query", "falcon_new", "gpt2"]


def test_sites_cover_every_text_parameter_exactly_once(family: str) -> None:
    model = random_model(family)
    anatomy = Anatomy(model)
    cover = {name: torch.zeros(p.shape) for name, p in model.named_parameters()}
    for site in anatomy.sites:
        site.view(cover[site.parameter]).add_(1)
    for name, count in cover.items():
        expected = 0 if "vision_tower" in name or "multi_modal" in name else 1
        assert bool((count == expected).all()), name


def test_depth_and_components(family: str) -> None:
    anatomy = Anatomy(random_model(family))
    assert len(anatomy.blocks) == 3
    assert {"embed", "attn_q", "attn_k", "attn_v", "attn_o", "mlp_up", "mlp_down", "norm"} <= set(anatomy.components)
    for component in anatomy.components:
        depths = {site.depth for site in anatomy.select(component, kinds=("weight", "bias"))}
        if component in ("embed", "head"):
            assert depths == {None}
        elif component != "norm":
            assert depths == {0, 1, 2}


def _attention_inputs(model: torch.nn.Module, family: str, depth: int, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """Queries, keys and values of one layer as they enter attention, read from the attention call itself."""
    captured: list[tuple[torch.Tensor, ...]] = []
    original = torch.nn.functional.scaled_dot_product_attention

    def spy(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        captured.append((query.clone(), key.clone(), value.clone()))
        return original(query, key, value, *args, **kwargs)

    torch.nn.functional.scaled_dot_product_attention = spy
    try:
        with torch.no_grad():
            model(input_ids=tokens)
    finally:
        torch.nn.functional.scaled_dot_product_attention = original
    if captured:
        return dict(zip("qkv", captured[depth], strict=True))
    return _split_by_module(model, family, depth, tokens)


def _split_by_module(model: torch.nn.Module, family: str, depth: int, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """BLOOM computes attention by hand: its own `_reshape` says what its queries, keys and values are."""
    attention = model.transformer.h[depth].self_attention
    out: list[torch.Tensor] = []
    hook = attention.query_key_value.register_forward_hook(lambda m, a, o: out.append(o))
    with torch.no_grad():
        model(input_ids=tokens)
    hook.remove()
    assert family == "bloom"
    return dict(zip("qkv", attention._reshape(out[0]), strict=True))


@pytest.mark.parametrize("family", FUSED)
@pytest.mark.parametrize("letter", ["q", "k", "v"])
def test_zeroing_one_third_of_a_fused_matrix_zeroes_that_activation_only(family: str, letter: str) -> None:
    model = random_model(family)
    tokens = torch.arange(1, 13)[None]
    depth = 0  # the inputs of the first layer do not depend on its own attention
    before = _attention_inputs(model, family, depth, tokens)
    for site in Anatomy(model).select(f"attn_{letter}", depths=[depth], kinds=("weight", "bias")):
        with torch.no_grad():
            site.view(model.get_parameter(site.parameter)).zero_()
    after = _attention_inputs(model, family, depth, tokens)
    assert bool((after[letter] == 0).all())
    assert bool((before[letter] != 0).any())
    for other in set("qkv") - {letter}:
        assert torch.equal(before[other], after[other])


def test_layer_one_is_not_layer_ten_and_something() -> None:
    config = FAMILY_CONFIGS["gpt_neox"].__class__(
        vocab_size=32, hidden_size=8, num_hidden_layers=12, num_attention_heads=1, intermediate_size=8
    )
    from transformers import AutoModelForCausalLM

    anatomy = Anatomy(AutoModelForCausalLM.from_config(config))
    assert {site.depth for site in anatomy.select("mlp", depths=[1])} == {1}
    assert len(anatomy.parameter_names("attn_v")) == 12


def test_vision_tower_has_no_sites() -> None:
    model = random_model("gemma3")
    assert any("vision_tower" in name and "v_proj" in name for name, _ in model.named_parameters())
    assert len(Anatomy(model).select("attn_v")) == 3


def test_unknown_targets_say_what_there_is() -> None:
    anatomy = Anatomy(random_model("gpt2"))
    with pytest.raises(UserError, match=r"mlp_gate.*Available: embed, attn_q"):
        anatomy.select("mlp_gate")
    with pytest.raises(UserError, match="Layer 3 does not exist: gpt2 subject with layers 0 to 2"):
        anatomy.select("mlp", depths=[3])
    assert set(anatomy.components) <= set(COMPONENTS)
