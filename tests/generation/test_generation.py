"""Text from subjects: equal to plain `generate`, whatever the batch; exactly sampled; and never stopped by damage."""

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import FOLDER_CONTEXT, load, random_folder
from PIL import Image
from scipy.stats import chisquare
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, GenerationConfig

from lit_degrade.errors import UserError
from lit_degrade.generation.generator import Decoding, TextGenerator, TokenChoice, end_ids
from lit_degrade.generation.queries import Query, left_padded
from lit_degrade.subjects.files import locate
from lit_degrade.subjects.loading import Subject

TEXT = "Return the list of file objects, or raise ValueError if an index is out of range. The class of a module."
PROMPTS = [TEXT[i % 7 * 4 : i % 7 * 4 + 6 + i % 11 * 6] + ("\n\n" if i % 5 == 0 else "") for i in range(20)]
QUERIES = [Query(text, seed=1000 + i) for i, text in enumerate(PROMPTS)]
GREEDY = Decoding(max_new_tokens=24)
SAMPLED = Decoding(max_new_tokens=24, do_sample=True, temperature=0.9)
START = "{{ bos_token }}{% for m in messages %}<{{ m.role }}>"
END = "{% endfor %}{% if add_generation_prompt %}<me>{% endif %}"
CHAT = START + "{{ m.content }}" + END
PART = "{% if part.type == 'image' %}<start_of_image>{% else %}{{ part.text }}{% endif %}"
PARTS_CHAT = START + "{% for part in m.content %}" + PART + "{% endfor %}" + END


def changed(subject: Subject, **generation: object) -> Subject:
    """A copy whose model has generation settings of its own."""
    model = copy.deepcopy(subject.model)
    for name, value in generation.items():
        setattr(model.generation_config, name, value)
    return replace(subject, model=model)


def texts(subject: Subject, decoding: Decoding, queries: list[Query] = QUERIES) -> list[str]:
    return [c.text for c in TextGenerator(subject, decoding)(queries)]


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return load(random_folder("gemma3", tmp_path_factory.mktemp("gemma3") / "subject"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 24, 40, 3), dtype=np.uint8)
    for i, picture in enumerate(pixels):
        Image.fromarray(picture).save(folder / f"{i}.png")
    return [folder / f"{i}.png" for i in range(3)]


# Greedy text


def test_greedy_equals_plain_generate(tiny_1m: Subject) -> None:
    found = TextGenerator(tiny_1m, GREEDY)(QUERIES)
    for query, continuation in zip(QUERIES, found, strict=True):
        inputs = tiny_1m.tokenizer(query.text, return_tensors="pt")
        plain = tiny_1m.model.generate(**inputs, do_sample=False, max_new_tokens=24, pad_token_id=0)[0]
        new = plain[inputs["input_ids"].shape[1] :].tolist()
        assert continuation.ids == (new[: new.index(0)] if 0 in new else new)
        assert continuation.ended == (0 in new)
        assert continuation.prompt_ids == inputs["input_ids"][0].tolist()
        assert continuation.text == tiny_1m.tokenizer.decode(continuation.ids)
        assert continuation.batch_size == 20
        assert 0 < continuation.duration_s < 60
    assert len({c.text for c in found}) > 15  # the prompts matter


@pytest.mark.parametrize("decoding", [GREEDY, SAMPLED])
def test_batch_size_and_order_do_not_matter(tiny: Subject, decoding: Decoding) -> None:
    expected = texts(tiny, decoding)
    for batch in (1, 3, 64):
        assert texts(tiny, replace(decoding, batch=batch)) == expected
    order = np.random.default_rng(0).permutation(20)
    assert texts(tiny, replace(decoding, batch=7), [QUERIES[i] for i in order]) == [expected[i] for i in order]


def test_the_models_own_settings_are_ignored(tiny_1m: Subject) -> None:
    own = {
        "do_sample": True, "temperature": 3.0, "top_k": 2, "top_p": 0.1, "repetition_penalty": 5.0, "no_repeat_ngram_size": 1,
        "max_length": 3, "min_new_tokens": 20, "suppress_tokens": list(range(1, 300)), "bad_words_ids": [[5]], "num_beams": 3,
        "cache_implementation": "static", "forced_eos_token_id": 7,
    }  # fmt: skip
    other = changed(tiny_1m, **own)
    before = other.model.generation_config.to_dict()
    for decoding in (GREEDY, SAMPLED):
        assert texts(other, decoding) == texts(tiny_1m, decoding)
    assert other.model.generation_config.to_dict() == before


def test_every_end_token_ends_a_text(tiny_1m: Subject) -> None:
    whole = TextGenerator(tiny_1m, GREEDY)(QUERIES)
    rare = [min(set(c.ids), key=lambda token: sum(token in other.ids for other in whole)) for c in whole[:2]]
    ends = [0, *rare]
    found = TextGenerator(changed(tiny_1m, eos_token_id=ends), GREEDY)(QUERIES)
    for short, long in zip(found, whole, strict=True):
        cut = next((i for i, token in enumerate(long.ids) if token in ends), None)
        assert short.ids == long.ids[:cut]
        assert short.ended == (cut is not None or long.ended)
    assert {c.ended for c in found} == {True, False}
    assert found[0].ended
    assert found[1].ended
    assert end_ids(changed(tiny_1m, eos_token_id=None)) == [0]  # the tokenizer's own


def test_a_subject_without_special_tokens_generates(tiny_1m: Subject) -> None:
    bare = changed(tiny_1m, eos_token_id=None, bos_token_id=None)
    tokenizer = copy.deepcopy(tiny_1m.tokenizer)
    tokenizer.eos_token = tokenizer.bos_token = None
    found = TextGenerator(replace(bare, tokenizer=tokenizer), GREEDY)(QUERIES)
    assert {len(c.ids) for c in found} == {24}
    assert not any(c.ended for c in found)


def test_nothing_else_changes(tiny_1m: Subject, capfd: pytest.CaptureFixture[str]) -> None:
    subject = changed(tiny_1m, temperature=0.5, max_length=7)
    subject.model.train()
    state, weights = torch.get_rng_state(), copy.deepcopy(subject.model.state_dict())
    texts(subject, SAMPLED)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, weights[name]) for name, value in subject.model.state_dict().items())
    assert subject.model.training
    subject.model(input_ids=torch.arange(8)[None]).logits.sum().backward()  # still trains
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "options",
    [
        {"adapter": "lora"}, {"gradient_checkpointing": True}, {"precision": "bf16"}, {"precision": "fp16"},
        {"precision": "int8"}, {"precision": "nf4"},
    ],
    ids=str,
)  # fmt: skip
def test_every_way_of_loading_generates(
    options: dict[str, object], tiny_1m: Subject, capfd: pytest.CaptureFixture[str]
) -> None:
    subject = load("tiny-1m", **options)
    capfd.readouterr()
    found = texts(subject, GREEDY)
    assert found == texts(subject, GREEDY)
    assert capfd.readouterr() == ("", "")
    if "precision" not in options:  # adapters start as no change
        assert found == texts(tiny_1m, GREEDY)
    subject.model.train()
    if options.get("precision") not in ("int8", "nf4"):
        subject.model(input_ids=torch.arange(8)[None]).logits.float().sum().backward()  # no inference tensor was left behind


def test_adapters_are_heard() -> None:
    subject = load("tiny-1m", adapter="lora")
    before = texts(subject, GREEDY)
    for name, parameter in subject.trainable().items():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter.data, std=0.1)
    assert texts(subject, GREEDY) != before


def test_every_family_generates(family: str, tmp_path: Path) -> None:
    subject = load(random_folder(family, tmp_path / "subject"))
    queries = [Query("index " * n, seed=n) for n in (1, 30, 5, 45)]  # padding of different lengths
    for decoding in (Decoding(16), Decoding(16, do_sample=True)):
        together = TextGenerator(subject, decoding)(queries)
        alone = TextGenerator(subject, replace(decoding, batch=1))(queries)
        assert [c.ids for c in together] == [c.ids for c in alone]
        assert len(together[3].prompt_ids) > 100
        assert len({tuple(c.ids) for c in together}) > 1 or not decoding.do_sample


# Sampling


def gumbel(rows: int, temperature: float = 1.0) -> TokenChoice:
    return TokenChoice(1, temperature, [torch.Generator().manual_seed(i) for i in range(rows)])


def test_draws_follow_the_softmax() -> None:
    draws, temperature = 20_000, 0.7
    logits = torch.tensor([2.0, 0.0, -1.0, 1.5, -torch.inf, 0.5])
    choice = gumbel(100, temperature)
    tokens = torch.cat([choice(torch.empty(0), logits.expand(100, -1)).argmax(-1) for _ in range(draws // 100)])
    p = torch.softmax(logits.double() / temperature, 0)
    error = 4 * (p * (1 - p) / draws).sqrt()
    assert ((tokens.bincount(minlength=6) / draws - p).abs() <= error).all()


def test_a_models_draws_follow_its_softmax(tmp_path: Path) -> None:
    subject = load(random_folder("gpt2", tmp_path / "subject"))
    draws = 4096
    with torch.no_grad():
        subject.model.lm_head.weight.mul_(10)
        logits = subject.model(input_ids=torch.tensor([subject.tokenizer("index")["input_ids"]])).logits[0, -1]
    p = torch.softmax(logits.double() / 0.5, 0)
    bare = changed(subject, eos_token_id=2000)  # never drawn, so that every draw is kept
    queries = [Query("index", seed) for seed in range(draws)]
    found = TextGenerator(bare, Decoding(1, do_sample=True, temperature=0.5, batch=512))(queries)
    counts = torch.tensor([c.ids[0] for c in found]).bincount(minlength=len(p))
    likely = p * draws > 10
    assert likely.sum() >= 10
    observed, expected = ([*x[likely].tolist(), x[~likely].sum().item()] for x in (counts.double(), p * draws))
    assert chisquare(observed, expected).pvalue > 0.01


def test_seeds_decide(tiny_1m: Subject) -> None:
    first = texts(tiny_1m, SAMPLED)
    assert first == texts(tiny_1m, SAMPLED)
    other = texts(tiny_1m, SAMPLED, [replace(q, seed=q.seed + 2**20) for q in QUERIES])
    assert sum(a != b for a, b in zip(first, other, strict=True)) >= 18
    same_prompt = texts(tiny_1m, SAMPLED, [replace(QUERIES[0], seed=i) for i in range(8)])
    assert len(set(same_prompt)) >= 7
    assert texts(tiny_1m, replace(SAMPLED, temperature=1e-6)) == texts(tiny_1m, GREEDY)


# Damage


def test_unusable_logits_have_a_choice() -> None:
    nan, inf = math.nan, math.inf
    logits = torch.tensor(
        [[0.0, nan, 1.0], [nan, nan, nan], [-inf, nan, -inf], [nan, inf, 5.0], [inf, -inf, inf], [-inf, -inf, 0.0]]
    )
    for choice in (TokenChoice(1, 1.0, None), gumbel(6, 1e-3)):
        scores = choice(torch.empty(0), logits)
        assert not scores.isnan().any()
        assert scores.argmax(-1).tolist() == [2, 1, 1, 1, 0, 2]


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e38, 0.0])
@pytest.mark.parametrize("decoding", [GREEDY, SAMPLED])
def test_damage_does_not_raise(value: float, decoding: Decoding) -> None:
    subject = load("tiny-60k")
    with torch.no_grad():
        for name in subject.anatomy.parameter_names("mlp_up"):
            dict(subject.model.named_parameters())[name].fill_(value)
    found = texts(subject, decoding)
    assert found == texts(subject, replace(decoding, batch=3))
    if math.isnan(value):  # no logit is left: the lowest token that ends no text, to the cap
        assert found == [subject.tokenizer.decode([1]) * 24] * 20


def test_tokens_beyond_the_tokenizer_are_no_text(tiny_1m: Subject) -> None:
    assert tiny_1m.tokenizer.decode([5000, 40], skip_special_tokens=True) == tiny_1m.tokenizer.decode([40])


# Prompts


def with_template(subject: Subject, template: str) -> Subject:
    """A copy whose tokenizer puts BOS before every text, and has a chat template that does so too."""
    tokenizer = AutoTokenizer.from_pretrained(locate(subject.spec.name))
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    tokenizer.chat_template = template
    return replace(subject, tokenizer=tokenizer)


def test_special_tokens_are_added_once(tiny_1m: Subject) -> None:
    subject = with_template(tiny_1m, CHAT)
    (chat,) = TextGenerator(subject, Decoding(1))([Query("file", 0)])
    assert subject.tokenizer.decode(chat.prompt_ids) == "<|endoftext|><user>file<me>"
    subject.tokenizer.chat_template = None
    (plain,) = TextGenerator(subject, Decoding(1))([Query("file", 0)])
    assert subject.tokenizer.decode(plain.prompt_ids) == "<|endoftext|>file"


def test_padding_is_on_the_left() -> None:
    rows = [
        {"input_ids": torch.tensor([[5, 6, 7]]), "token_type_ids": torch.tensor([[0, 1, 1]]), "pixels": torch.ones(1, 3, 2, 2)},
        {"input_ids": torch.tensor([[8]])},
        {"input_ids": torch.tensor([[9, 9]]), "token_type_ids": torch.tensor([[1, 0]]), "pixels": torch.zeros(2, 3, 2, 2)},
    ]
    batch = left_padded(rows, 4)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [4, 4, 8], [4, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1], [0, 1, 1]]
    assert batch["token_type_ids"].tolist() == [[0, 1, 1], [0, 0, 0], [0, 1, 0]]
    assert batch["pixels"].shape == (3, 3, 2, 2)


def test_no_queries_no_text(tiny: Subject) -> None:
    assert TextGenerator(tiny, Decoding())([]) == []


# Pictures


def test_a_picture_is_seen(gemma: Subject, pictures: list[Path]) -> None:
    """Positive control: the same words about other pictures get other answers; the words alone get another one still."""
    assert type(gemma.processor.image_processor).__name__ == "Gemma3ImageProcessorPil"
    queries = [*(Query("What is this ?", 0, path) for path in [*pictures, pictures[0]]), Query("What is this ?", 0)]
    generator = TextGenerator(gemma, Decoding(16))
    found = generator(queries)
    assert len({tuple(c.ids) for c in found}) == 4
    assert found[0].ids == found[3].ids
    assert found[0].prompt_ids.count(gemma.model.config.image_token_id) == 4
    assert gemma.tokenizer.image_token_id == gemma.model.config.image_token_id == gemma.model.config.image_token_index
    assert found[4].prompt_ids == gemma.tokenizer("What is this ?")["input_ids"]
    one_by_one = TextGenerator(gemma, Decoding(16, batch=1))(queries)
    assert [c.ids for c in one_by_one] == [c.ids for c in found]


def test_a_picture_equals_plain_generate(gemma: Subject, pictures: list[Path]) -> None:
    (found,) = TextGenerator(gemma, Decoding(16))([Query("What ?", 0, pictures[1])])
    inputs = gemma.processor(text="<start_of_image>What ?", images=Image.open(pictures[1]), return_tensors="pt")
    config = GenerationConfig(max_new_tokens=16, eos_token_id=0, pad_token_id=0)
    plain = gemma.model.generate(**inputs, generation_config=config)
    assert plain[0].tolist()[: len(found.prompt_ids) + len(found.ids)] == [*found.prompt_ids, *found.ids]


def test_a_picture_in_a_chat(gemma: Subject, pictures: list[Path]) -> None:
    expected = "<|endoftext|><user>\n\n<start_of_image>" + "<image_soft_token>" * 4 + "<end_of_image>\n\nWhat ?<me>"
    for owner in ("tokenizer", "processor"):
        subject = with_template(gemma, PARTS_CHAT)
        processor = copy.copy(gemma.processor)
        processor.tokenizer = subject.tokenizer
        if owner == "processor":
            processor.chat_template = PARTS_CHAT
            subject.tokenizer.chat_template = None
        subject = replace(subject, processor=processor)
        shown, told = TextGenerator(subject, Decoding(2))([Query("What ?", 0, pictures[0]), Query("What ?", 0)])
        assert subject.tokenizer.decode(shown.prompt_ids) == expected
        assert subject.tokenizer.decode(told.prompt_ids) == "<|endoftext|><user>What ?<me>"


def test_each_picture_is_opened_once(gemma: Subject, pictures: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    real = Image.open
    monkeypatch.setattr(Image, "open", lambda path: opened.append(path) or real(path))
    TextGenerator(gemma, Decoding(2, batch=2))([Query("a b", i, pictures[i % 2]) for i in range(6)])
    assert opened == pictures[:2]


def test_the_processor_stays_with_the_subject(gemma: Subject, pictures: list[Path], tmp_path: Path) -> None:
    query = [Query("What ?", 0, pictures[0])]
    gemma.save(tmp_path / "again")
    expected = TextGenerator(gemma, Decoding(16))(query)[0].ids
    assert TextGenerator(load(str(tmp_path / "again")), Decoding(16))(query)[0].ids == expected
    load(gemma.spec.name, adapter="lora").save(tmp_path / "adapters")
    assert TextGenerator(load(str(tmp_path / "adapters")), Decoding(16))(query)[0].ids == expected


def test_processor_files_as_the_hub_has_them(gemma: Subject, tmp_path: Path, pictures: list[Path]) -> None:
    """Two files, and a class that needs torchvision."""
    folder = Path(random_folder("gemma3", tmp_path / "subject"))
    images = json.loads((folder / "processor_config.json").read_text())["image_processor"]
    images |= {"image_processor_type": "Gemma3ImageProcessor", "processor_class": "Gemma3Processor", "image_seq_length": 4}
    (folder / "preprocessor_config.json").write_text(json.dumps(images))
    (folder / "processor_config.json").write_text('{"image_seq_length": 4, "processor_class": "Gemma3Processor"}')
    query = [Query("What ?", 0, pictures[0])]
    assert TextGenerator(load(str(folder)), Decoding(8))(query)[0].ids == TextGenerator(gemma, Decoding(8))(query)[0].ids


# Memory


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("[enforce] can't allocate memory: 9")]
)
def test_less_memory_smaller_batches(tiny: Subject, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    expected = texts(tiny, GREEDY)
    sizes = _fails_above(4, error, tiny, monkeypatch)
    generator = TextGenerator(tiny, replace(GREEDY, batch=16))
    parts = list(generator.batches(QUERIES))
    assert [(found.start, found.stop) for found, _ in parts] == [(i, i + 4) for i in range(0, 20, 4)]
    assert [c.text for _, batch in parts for c in batch] == expected
    assert sizes == [16, 8, 4, 4, 4, 4, 4]
    assert [c.text for c in generator(QUERIES)] == expected
    assert sizes[7:] == [4, 4, 4, 4, 4]  # remembered


def test_one_prompt_that_does_not_fit_is_an_error(tiny: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = _fails_above(0, torch.OutOfMemoryError("CUDA out of memory"), tiny, monkeypatch)
    with pytest.raises(torch.OutOfMemoryError):
        texts(tiny, replace(GREEDY, batch=5))
    assert sizes == [5, 2, 1]


def test_other_errors_are_not_retried(tiny: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = _fails_above(0, RuntimeError("shape mismatch"), tiny, monkeypatch)
    with pytest.raises(RuntimeError, match="shape"):
        texts(tiny, GREEDY)
    assert sizes == [20]


def _fails_above(largest: int, error: Exception, subject: Subject, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the model run out of memory on larger batches; returns the sizes that were tried."""
    sizes: list[int] = []
    real: Callable[..., torch.Tensor] = subject.model.generate

    def generate(**inputs: torch.Tensor) -> torch.Tensor:
        sizes.append(len(inputs["input_ids"]))
        if sizes[-1] > largest:
            raise error
        return real(**inputs)

    monkeypatch.setattr(subject.model, "generate", generate)
    return sizes


def test_batches_come_as_they_are_made(tiny: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = _fails_above(64, RuntimeError(), tiny, monkeypatch)
    batches = TextGenerator(tiny, replace(GREEDY, batch=8)).batches(QUERIES)
    assert sizes == []
    assert next(batches)[0] == range(8)
    assert sizes == [8]
    assert [(found, len(made)) for found, made in batches] == [(range(8, 16), 8), (range(16, 20), 4)]


# Refusals


def refused(subject: Subject, query: Query, decoding: Decoding = GREEDY) -> str:
    """One line of a refusal that comes before anything is generated."""
    with pytest.raises(UserError) as raised:
        TextGenerator(subject, decoding).batches([Query("fine", 0), query])
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_too_long_and_empty_prompts(tiny: Subject, gemma: Subject, capfd: pytest.CaptureFixture[str]) -> None:
    n = len(tiny.tokenizer("index " * 100)["input_ids"])
    assert n > 256 - 24
    expected = f"Prompt 1 has {n} tokens; 'tiny-60k' has a context of 256, which leaves 232 beside max_new_tokens 24."
    assert refused(tiny, Query("index " * 100, 0)).startswith(expected)
    assert "leaves 0 beside" in refused(tiny, Query("file", 0), Decoding(300))
    assert f"context of {FOLDER_CONTEXT}" in refused(gemma, Query("index " * 100, 0))
    assert "Prompt 1 is empty" in refused(tiny, Query("", 0))
    assert capfd.readouterr() == ("", "")


def test_pictures_need_a_subject_that_sees(tiny: Subject, gemma: Subject, pictures: list[Path]) -> None:
    query = Query("What ?", 0, pictures[0])
    assert refused(tiny, query) == "An image task needs an image-text subject; 'tiny-60k' is gpt_neox, which reads text only."
    assert "came without one" in refused(replace(gemma, processor=None), query)


def test_a_folder_without_processor_files_still_reads(tmp_path: Path) -> None:
    folder = Path(random_folder("gemma3", tmp_path / "subject"))
    (folder / "processor_config.json").unlink()
    subject = load(str(folder))
    assert subject.processor is None
    assert len(texts(subject, GREEDY)) == 20


def test_pictures_that_cannot_be_read(gemma: Subject, pictures: list[Path], tmp_path: Path) -> None:
    whole = pictures[0].read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "words.png").write_text("not a picture")
    reasons = {
        "absent.png": "No such file or directory", "half.png": "truncated", "words.png": "cannot identify",
        ".": "Is a directory",
    }  # fmt: skip
    for name, reason in reasons.items():
        message = refused(gemma, Query("What ?", 0, tmp_path / name))
        assert message.startswith(f"Picture '{tmp_path / name}' cannot be read: ")
        assert reason in message
