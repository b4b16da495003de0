"""What a text begins with, and the stretch of it that a probe is: the same for every tokenizer."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Subject
from helpers import run, summary_of
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from lit_degrade.adversarial.embeddings import beginning
from lit_degrade.adversarial.reading import attack_text
from lit_degrade.adversarial.tokens import at_random, by_gradient, replacements
from lit_degrade.errors import UserError
from lit_degrade.measures.perplexity import likelihood
from lit_degrade.seeds import generator
from lit_degrade.stimuli.catalyst import allowed_tokens, sequence_losses, soft_loss
from lit_degrade.stimuli.controls import gaussian_noise, random_tokens
from lit_degrade.subjects.catalog import EMBEDDED_FOLDER
from lit_degrade.text import RandomWindows, TextSource, TokenStream

BEGIN = 0
"""The embedded subjects' end-of-text token, which none of their texts begins with."""
EPSILON = 0.3


def beginning_tokenizer() -> Any:
    """The embedded tokenizer, but that it begins every text with a token, as Llama's does."""
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_FOLDER / "tiny-60k")
    token = tokenizer.convert_ids_to_tokens(BEGIN)
    template = processors.TemplateProcessing(single=f"{token} $A", special_tokens=[(token, BEGIN)])
    tokenizer.backend_tokenizer.post_processor = template
    return tokenizer


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A token for every byte, and no special one."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@pytest.fixture
def begun(tiny: Subject) -> Subject:
    return replace(tiny, tokenizer=beginning_tokenizer(), begin=BEGIN)


def _bytes(stream: TokenStream) -> int:
    return int(stream.byte_counts.sum())


def test_the_probe_of_embedded_subjects_is_so_many_tokens(tiny: Subject, text: TextSource) -> None:
    found, expected = text.probe(tiny.tokenizer), text.blocks("probe", tiny.tokenizer, text.probe_tokens // text.block)
    assert found.ids.equal(expected.ids)
    assert found.byte_counts.equal(expected.byte_counts)


@pytest.mark.parametrize("probe_tokens", [2048, 49152])
def test_every_tokenizer_reads_the_same_stretch(tiny: Subject, probe_tokens: int) -> None:
    text = TextSource(probe_tokens=probe_tokens)
    stretch = _bytes(text.probe(tiny.tokenizer))
    for tokenizer in (byte_tokenizer(), beginning_tokenizer()):
        probe = text.probe(tokenizer)
        length = int(probe.byte_counts.sum(1).max())
        assert stretch - length < _bytes(probe) <= stretch, "all of it but a part of a window"
    ids = text.probe(byte_tokenizer()).ids.flatten()
    documents = "".join(text.split("probe")).encode()
    assert byte_tokenizer().decode(ids).encode("utf-8", "replace")[:2000] == documents[:2000]


def test_a_text_that_is_too_short_says_what_can_be_had(tmp_path: Path, tiny: Subject) -> None:
    (tmp_path / "a.txt").write_text("\n".join(f"{i} " * 200 for i in range(900)))
    with pytest.raises(UserError, match=r"at most --text\.probe_tokens") as error:
        TextSource(str(tmp_path / "a.txt"), probe_tokens=10**7).probe(tiny.tokenizer)
    most = int(str(error.value).split()[-1].rstrip("."))
    assert TextSource(str(tmp_path / "a.txt"), probe_tokens=most).probe(byte_tokenizer()).ids.numel() > 0
    with pytest.raises(UserError, match=f"at most --text.probe_tokens {most}"):
        TextSource(str(tmp_path / "a.txt"), probe_tokens=most + 128).probe(byte_tokenizer())


def test_windows_begin_as_the_tokenizer_begins_a_text(tiny: Subject, text: TextSource) -> None:
    tokenizer = beginning_tokenizer()
    windows = text.blocks("calibration", tokenizer, 4)
    plain = text.tokens("calibration", tiny.tokenizer)
    assert windows.ids[:, 1:].flatten().equal(plain.ids[: 4 * (text.block - 1)]), "nothing of the text is lost"
    assert windows.ids.shape == (4, text.block)
    assert (windows.ids[:, 0] == BEGIN).all()
    assert (windows.byte_counts[:, 0] == 0).all()
    assert text.tokens("calibration", tokenizer).count(text.block) == len(plain.ids) // (text.block - 1)


@pytest.mark.parametrize(("begin", "own", "of_llama"), [("auto", None, BEGIN), ("none", None, None), ("bos", BEGIN, BEGIN)])
def test_a_key_decides(begin: Any, own: int | None, of_llama: int | None, tiny: Subject) -> None:
    text = TextSource(begin=begin)
    assert text.beginning(tiny.tokenizer) == own
    assert text.beginning(beginning_tokenizer()) == of_llama


def test_a_tokenizer_without_the_token_is_refused() -> None:
    assert TextSource().beginning(byte_tokenizer()) is None
    with pytest.raises(UserError, match="no beginning-of-text token"):
        TextSource(begin="bos").beginning(byte_tokenizer())


def test_a_tokenizer_that_puts_several_is_refused() -> None:
    tokenizer = beginning_tokenizer()
    token = tokenizer.convert_ids_to_tokens(BEGIN)
    twice = processors.TemplateProcessing(single=f"{token} {token} $A", special_tokens=[(token, BEGIN)])
    tokenizer.backend_tokenizer.post_processor = twice
    with pytest.raises(UserError, match="begins a text with 2 tokens"):
        TextSource().beginning(tokenizer)
    assert TextSource(begin="bos").beginning(tokenizer) == BEGIN


def test_random_windows_begin_so(text: TextSource) -> None:
    stream = text.tokens("train", beginning_tokenizer())
    batch = next(iter(RandomWindows(stream, 16, 3, generator(0, "windows"))))
    assert batch.shape == (3, 16)
    assert (batch[:, 0] == BEGIN).all()
    assert any(batch[0, 1:].equal(stream.ids[i : i + 15]) for i in range(len(stream.ids)))


def _reference(subject: Subject, tokens: Tensor) -> Tensor:
    """transformers' own loss of tokens that follow the beginning."""
    whole = torch.cat([torch.full((len(tokens), 1), BEGIN), tokens], 1)
    return subject.model(input_ids=whole, labels=whole).loss


def test_likelihoods_and_losses_are_those_of_text_that_has_begun(begun: Subject, text: TextSource) -> None:
    windows = text.blocks("probe", begun.tokenizer, 3)
    with torch.no_grad():
        expected = float(_reference(begun, windows.ids[:, 1:]))
        measured = likelihood(lambda ids: begun.model(input_ids=ids).logits, windows)
    assert measured.nats_per_token == pytest.approx(expected, rel=1e-5)
    assert measured.tokens == 3 * (text.block - 1)
    assert measured.text_bytes == _bytes(windows)

    tokens = random_tokens(allowed_tokens(begun), 2, 24, generator(0, "tokens"))
    expected = float(_reference(begun, tokens.tokens))
    assert float(tokens.loss(begun)) == pytest.approx(expected, rel=1e-5)
    assert float(sequence_losses(begun, tokens.tokens).mean()) == pytest.approx(expected, rel=1e-5)
    one_hot = torch.nn.functional.one_hot(tokens.tokens[0], begun.embedding.shape[0]).float()
    assert float(soft_loss(begun, one_hot)) == pytest.approx(float(_reference(begun, tokens.tokens[:1])), rel=1e-5)

    noise = gaussian_noise(begun, allowed_tokens(begun), 1, 8, generator(0, "noise"))
    inputs = torch.cat([begun.embedding[BEGIN][None, None], noise.embeddings], 1)  # type: ignore[list-item]
    labels = torch.cat([torch.full((1, 1), BEGIN), noise.tokens], 1)
    assert float(noise.loss(begun)) == pytest.approx(float(begun.model(inputs_embeds=inputs, labels=labels).loss), rel=1e-5)


@pytest.mark.parametrize("attack", ["random", "fgsm", "pgd"])
def test_what_says_that_a_text_begins_is_never_attacked(begun: Subject, text: TextSource, attack: str) -> None:
    ids = text.blocks("probe", begun.tokenizer, 2, 24).ids
    delta = attack_text(begun, ids, attack, "linf", EPSILON, 3, lambda row: generator(0, str(row)))
    assert not delta[:, 0].any()
    assert float(delta[:, 1:].abs().max()) == pytest.approx(EPSILON)
    free = attack_text(replace(begun, begin=None), ids, attack, "linf", EPSILON, 3, lambda row: generator(0, str(row)))
    assert free[:, 0].any()


def test_nor_are_its_tokens_replaced(begun: Subject, text: TextSource) -> None:
    ids = text.blocks("probe", begun.tokenizer, 1, 12).ids[0]
    allowed, last = replacements(begun), len(ids) - 1
    most = last - beginning(begun, ids)
    assert most == 10
    for changed in (
        by_gradient(begun, ids, [most], allowed, last),
        at_random(ids, [most], allowed, last, generator(0, "x"), beginning(begun, ids)),
    ):
        assert (changed[most] != ids).tolist() == [False, *[True] * most, False]


def test_a_record_says_it(tmp_path: Path, tiny: Subject) -> None:
    folder = tmp_path / "subject"
    tiny.model.save_pretrained(folder)
    beginning_tokenizer().save_pretrained(folder)
    args = ["--config", "configs/evaluate.yaml", "--subject", str(folder), "--text.probe_tokens", "2048"]
    auto, none = (summary_of(run(tmp_path / how, *args, "--text.begin", how, verb=["test"])) for how in ("auto", "none"))
    assert auto["begin"] == tiny.tokenizer.convert_ids_to_tokens(BEGIN)
    assert none["begin"] is None
    assert auto["probe_tokens"] == 16 * 127
    assert auto["nats_per_token_pre"] != none["nats_per_token_pre"]
