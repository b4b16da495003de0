"""The embedded ladder: what its cards say is what it does."""

import pytest
import torch
from conftest import load
from helpers import card_of

from lit_degrade.measures.perplexity import likelihood
from lit_degrade.subjects.catalog import EMBEDDED_FOLDER, LADDER
from lit_degrade.text import TextSource


def test_cards_fall_strictly_along_the_ladder() -> None:
    cards = [card_of(name) for name in LADDER]
    assert len(cards) >= 4
    for key in ("held_out_perplexity", "held_out_bits_per_byte"):
        values = [float(card[key]) for card in cards]
        assert values == sorted(values, reverse=True)
        assert len(set(values)) == len(values)
    sizes = [float(card["parameters"]) for card in cards]
    assert sizes == sorted(sizes)
    assert sum(f.stat().st_size for f in EMBEDDED_FOLDER.rglob("*") if f.is_file()) <= 12e6


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name == "tiny-3m" else ()) for name in LADDER])
def test_a_subject_is_what_its_card_says(name: str) -> None:
    subject = load(name)
    card = card_of(name)
    assert sum(p.numel() for p in subject.model.parameters()) == card["parameters"]
    assert {f.suffix for f in (EMBEDDED_FOLDER / name).iterdir()} == {".json", ".safetensors"}
    text = TextSource()
    if text.sha256 != card["corpus_sha256"]:
        pytest.skip(f"this Python's documentation is not the text of Python {card['python']} that the subject was trained on")
    measured = likelihood(lambda ids: subject.model(input_ids=ids).logits, text.blocks("probe", subject.tokenizer, 384))
    assert measured.tokens == card["probe_tokens"]
    assert measured.perplexity == pytest.approx(float(card["held_out_perplexity"]), rel=1e-4)
    assert measured.bits_per_byte == pytest.approx(float(card["held_out_bits_per_byte"]), abs=1e-4)
    assert torch.isfinite(subject.embedding).all()
