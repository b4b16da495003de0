"""Benchmarks: files, tokens, scores against a slow one and closed forms, and whole runs."""

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Subject
from helpers import ROOT, manifest_of, rows_of, run, summary_of
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_degrade.cli import main
from lit_degrade.errors import UserError
from lit_degrade.measures import benchmarks as measures
from lit_degrade.measures import text_likelihood
from lit_degrade.measures.benchmarks import (
    Pair,
    Requests,
    Result,
    choice,
    encode,
    encode_pair,
    positions,
    prefix_token,
    requests,
    rolling,
    run_benchmark,
    score,
    windows,
)
from lit_degrade.measures.perplexity import LogitsFunction, likelihood
from lit_degrade.records import tables
from lit_degrade.tasks.benchmarks import HERE, Benchmark, Item, choose_benchmarks, clean, read_benchmark
from lit_degrade.text import TextSource, TokenStream

OWN = {name: read_benchmark(name, HERE / f"{name}_own.jsonl") for name in ("hellaswag", "lambada")}
LAMBADA = ROOT.parent / "shared/data/lambada/lambada_openai_500.jsonl"
QUICK = ["--subject", "tiny-60k", "--text.probe_tokens", "1024", "--verbosity", "quiet"]
COMMAND = ["test", "--config", str(ROOT / "configs/benchmarks.yaml"), *QUICK]
SWAG = {"activity_label": "Tea", "ctx_a": "Water boils.", "ctx_b": "she", "endings": ["a b.", "c.", "d.", "e."], "label": "2"}


def of(subject: Subject) -> LogitsFunction:
    return lambda tokens: subject.model(input_ids=tokens, use_cache=False).logits


def uniform(vocabulary: int) -> LogitsFunction:
    return lambda tokens: torch.zeros(*tokens.shape, vocabulary)


def random_pairs(count: int, vocabulary: int, seed: int = 0) -> list[Pair]:
    draw = random.Random(seed)
    return [
        (
            [draw.randrange(vocabulary) for _ in range(draw.randint(1, 60))],
            [draw.randrange(vocabulary) for _ in range(n % 9 + 1)],
        )
        for n in range(count)
    ]


@torch.no_grad()
def slowly(logits_of: LogitsFunction, pair: Pair) -> float:
    """One sequence at a time, no padding, a token at a time, softmax in float64."""
    context, rest = pair
    total = 0.0
    for t, token in enumerate(rest):
        total += float(torch.log_softmax(logits_of(torch.tensor([context + rest[:t]]))[0, -1].double(), -1)[token])
    return total


@pytest.mark.parametrize("name", ["hellaswag", "lambada"])
def test_scores_are_those_of_one_sequence_at_a_time(name: str, tiny: Subject) -> None:
    asked = requests(OWN[name], tiny.tokenizer, positions(tiny))
    scored = score(of(tiny), asked.pairs[:24])
    for found, pair in zip(scored, asked.pairs, strict=False):
        assert found.log_likelihood == pytest.approx(slowly(of(tiny), pair), abs=1e-5, rel=1e-5)
        assert found.tokens == len(pair[1])


@pytest.mark.parametrize("batch_tokens", [1, 300, 100_000])
@pytest.mark.parametrize("pad", [0, 7])
def test_order_batches_and_padding_change_nothing(
    batch_tokens: int, pad: int, tiny: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = random_pairs(60, tiny.vocabulary)
    expected = score(of(tiny), pairs)
    monkeypatch.setattr(text_likelihood, "BATCH_TOKENS", batch_tokens)
    shuffled = random.Random(batch_tokens).sample(range(60), 60)
    found = dict(zip(shuffled, score(of(tiny), [pairs[i] for i in shuffled], pad), strict=True))
    for i, before in enumerate(expected):
        assert found[i].log_likelihood == pytest.approx(before.log_likelihood, abs=1e-5, rel=1e-6)
        assert (found[i].greedy, found[i].tokens) == (before.greedy, before.tokens)


def test_labels_are_shifted_once() -> None:
    """Sure of each token's successor by counting up: 0 where it counts, and greedy; 100 a token where it does not."""

    def counts_up(tokens: torch.Tensor) -> torch.Tensor:
        return 100.0 * torch.nn.functional.one_hot((tokens + 1) % 10, 10).float()

    found = score(counts_up, [([5, 1, 3], [4, 5, 6]), ([1, 2], [4]), ([1, 2], [3, 5]), ([9], [0, 1, 2, 3, 4])])
    assert [s.log_likelihood for s in found] == pytest.approx([0, -100, -100, 0], abs=1e-4)
    assert [s.greedy for s in found] == [True, False, False, True]


@given(st.integers(2, 300), st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=6))
@settings(max_examples=25, deadline=None)
def test_uniform_logits_give_vocabulary_to_the_tokens(vocabulary: int, lengths: list[tuple[int, int]]) -> None:
    """Lambada's perplexity is a word's: V^(tokens), the geometric mean over words."""
    pairs = tuple(([1] * context, [1] * tokens) for context, tokens in lengths)
    items = tuple(Item("c", ("w",), 0) for _ in pairs)
    (accuracy, perplexity), _ = run_benchmark(uniform(vocabulary), Requests(Benchmark("lambada", items, ""), pairs, 0))
    mean = sum(tokens for _, tokens in lengths) / len(lengths)
    assert perplexity.value == pytest.approx(vocabulary**mean, rel=1e-4)
    assert accuracy.value == 0, "the first of equals, token 0, is the greedy one"


def test_uniform_logits_choose_the_fewest_tokens_and_the_first_of_equals() -> None:
    def chosen(tokens: list[int], texts: list[str]) -> tuple[Any, Any]:
        item = Item("c", tuple(texts), 0)
        asked = Requests(Benchmark("hellaswag", (item,), ""), tuple(([1], [1] * n) for n in tokens), 0)
        (row,) = run_benchmark(uniform(50), asked)[1]
        return row["chosen"], row["chosen_norm"]

    assert chosen([3, 2, 2, 4], ["aaa", "aa", "aa", "a" * 100]) == (1, 3), "few tokens; many characters a token"
    assert chosen([2, 2, 2, 2], ["aa", "aa", "aa", "aa"]) == (0, 0)


def test_characters_not_bytes_nor_the_space_before() -> None:
    item = Item("c", ("ab", "äöü", "abcd", "x"), 0)
    assert choice(item, [-2.0, -2.9, -4.1, -1.1], per_character=True) == 1, "-2.9/3 is the most; by bytes it would be too"
    assert choice(Item("c", ("ab", "äö", "abcd", "x"), 0), [-2.0, -3.0, -4.1, -1.1], per_character=True) == 0, "by bytes: 1"
    assert choice(item, [-2.0, -2.9, -4.1, -1.1], per_character=False) == 3


def test_standard_errors(tiny: Subject) -> None:
    metrics, rows = run_benchmark(of(tiny), requests(OWN["lambada"], tiny.tokenizer, 256))
    accuracy, perplexity = metrics
    p, n = accuracy.value, accuracy.items
    assert p == sum(row["correct"] for row in rows) / n
    assert accuracy.standard_error == pytest.approx(math.sqrt(p * (1 - p) / (n - 1)))
    assert accuracy.standard_error == pytest.approx(torch.tensor([float(r["correct"]) for r in rows]).std() / math.sqrt(n))
    values = torch.tensor([row["log_likelihood"] for row in rows], dtype=torch.float64)
    assert perplexity.value == pytest.approx(float(torch.exp(-values.mean())))
    jackknife = torch.stack([torch.exp(-torch.cat([values[:i], values[i + 1 :]]).mean()) for i in range(n)])
    error = float(((n - 1) / n * ((jackknife - jackknife.mean()) ** 2).sum()).sqrt())
    assert perplexity.standard_error == pytest.approx(error, rel=0.15), "to first order"
    one = Benchmark("lambada", OWN["lambada"].items[:1], "")
    assert [m.standard_error for m in run_benchmark(of(tiny), requests(one, tiny.tokenizer, 256))[0]] == [None, None]


def test_a_destroyed_subject_is_wrong_not_left_out(tiny: Subject) -> None:
    for name, benchmark in OWN.items():
        asked = requests(benchmark, tiny.tokenizer, 256)
        metrics, rows = run_benchmark(lambda tokens: torch.full((*tokens.shape, 1024), torch.nan), asked)
        assert len(rows) == metrics[0].items == 40
        assert metrics[0] == Result(name, "acc", 0.0, 0.0, 40)
        assert not any(row["correct"] for row in rows)
        if name == "lambada":
            assert math.isnan(metrics[1].value)
        else:
            assert {row["chosen"] for row in rows} == {None}
            assert metrics[1].value == 0, "acc_norm"
    never = score(lambda tokens: torch.full((*tokens.shape, 9), torch.nan), [([1], [0, 0])])[0]
    assert not never.greedy, "token 0 is what argmax makes of nan"


def test_one_nan_makes_one_item_wrong_and_infinity_is_the_least() -> None:
    item = Item("c", ("a", "b", "c", "d"), 0)
    assert choice(item, [-1.0, math.nan, -2.0, -3.0], False) is None
    assert choice(item, [-math.inf, -1.0, -math.inf, -3.0], False) == 1

    def some(tokens: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(*tokens.shape, 9)
        logits[tokens == 5] = torch.nan
        logits[..., 7] = -torch.inf
        return logits

    found = score(some, [([1], [2]), ([5], [2]), ([1, 2, 3], [7])])
    assert [s.log_likelihood for s in found] == pytest.approx([-math.log(8), math.nan, -math.inf], nan_ok=True)


def test_a_context_blind_subject_answers_exactly_chance(tiny: Subject) -> None:
    """Every four items share their endings: who does not read the context chooses the same one, right once in four."""
    items = OWN["hellaswag"].items
    assert len(items) == 40
    blind = {
        ending: draw for draw, ending in enumerate(random.Random(0).sample(sorted({c for i in items for c in i.choices}), 40))
    }
    for g in range(0, 40, 4):
        group = items[g : g + 4]
        assert len({item.choices for item in group}) == 1
        assert sorted(item.gold for item in group) == [0, 1, 2, 3]
    assert sum(choice(item, [-float(blind[c]) for c in item.choices], False) == item.gold for item in items) == 10
    assert len({item.context for item in items}) == 40


def test_own_passages_are_what_they_should_be() -> None:
    items = OWN["lambada"].items
    assert len(items) == len({item.context for item in items}) == 40
    assert all(item.choices[0].isalpha() for item in items)
    named = [item for item in items if item.choices[0].lower() in item.context.lower()]
    assert len(named) >= 39, "the last word is one that the passage has named"


def test_prompts(tmp_path: Path) -> None:
    def item(name: str, **fields: Any) -> Item:
        path = tmp_path / "one.jsonl"
        path.write_text(json.dumps(fields) + "\n\n")
        return read_benchmark(name, path).items[0]

    assert item("hellaswag", **SWAG) == Item("Tea: Water boils. She", ("a b.", "c.", "d.", "e."), 2)
    marked = {**SWAG, "ctx_a": "[header] How to [title] Boil.", "ctx_b": "", "endings": ["[step] x y", " b  c ", "d", "e"]}
    assert item("hellaswag", **marked) == Item("Tea: How to. Boil.", (" x y", "b c", "d", "e"), 2)
    whole = {"activity_label": "Tea", "ctx": "It boils. she", "endings": SWAG["endings"], "label": 0}
    assert item("hellaswag", **whole) == Item("Tea: It boils. she", ("a b.", "c.", "d.", "e."), 0)
    assert item("hellaswag", **{**SWAG, "ctx_b": "the ADULT sits"}).context.endswith("The adult sits")
    assert item("lambada", text='He said:\n"no') == Item("He", ('said:\n"no',), 0), "words lie between spaces"
    assert item("lambada", text="a  b") == Item("a ", ("b",), 0)
    assert clean(" [a] b [title] c ") == " b. c"


def test_tokens_of_a_pair(tiny: Subject) -> None:
    tokenizer = tiny.tokenizer
    context, rest = encode_pair(tokenizer, "The value is", " returned")
    assert context == tokenizer.encode("The value is")
    assert context + rest == tokenizer.encode("The value is returned")
    assert encode_pair(tokenizer, "The value is ", " x") == encode_pair(tokenizer, "The value is", "  x")


def test_long_contexts_lose_tokens_on_the_left_and_are_counted(tiny: Subject) -> None:
    benchmark = Benchmark("lambada", (Item("word " * 400, ("end",), 0), Item("short one", ("end",), 0)), "")
    asked = requests(benchmark, tiny.tokenizer, 64)
    whole, rest = encode_pair(tiny.tokenizer, "word " * 400, " end")
    assert asked.truncated == 1
    assert asked.pairs[0] == (whole[-(65 - len(rest)) :], rest)
    read = [tokens.shape[1] for tokens in _read(asked)]
    assert max(read) == 64, "the last token is not read"
    with pytest.raises(UserError, match=r"Item 1 of lambada: a choice has \d+ tokens; expected 1 to 3"):
        requests(Benchmark("lambada", (Item("a", ("extraordinarily long",), 0),), ""), tiny.tokenizer, 3)


def _read(asked: Requests) -> list[torch.Tensor]:
    seen: list[torch.Tensor] = []

    def subject(tokens: torch.Tensor) -> torch.Tensor:
        seen.append(tokens)
        return torch.zeros(*tokens.shape, 1024)

    score(subject, asked.pairs)
    return seen


BROKEN: dict[str, tuple[str, str, str]] = {
    "not JSON": ("hellaswag", "{not json", "Expecting property name"),
    "not an object": ("lambada", "[1]", r"expected an object with fields, not \[1\]"),
    "a missing field": (
        "hellaswag",
        json.dumps({k: v for k, v in SWAG.items() if k != "ctx_b"}),
        "no field 'ctx_b'; there are",
    ),
    "no context": ("hellaswag", json.dumps({"activity_label": "a", "endings": list("abcd"), "label": 1}), "no field 'ctx'"),
    "three endings": ("hellaswag", json.dumps({**SWAG, "endings": ["a", "b", "c"]}), "endings: expected a list of 4"),
    "an empty ending": ("hellaswag", json.dumps({**SWAG, "endings": ["a", "b", "c", "[x]"]}), "endings: one is empty"),
    "a number for an ending": (
        "hellaswag",
        json.dumps({**SWAG, "endings": ["a", "b", "c", 4]}),
        "endings: expected text, not 4",
    ),
    "a label out of range": ("hellaswag", json.dumps({**SWAG, "label": 4}), "label: expected 0, 1, 2 or 3, not 4"),
    "no label": ("hellaswag", json.dumps({**SWAG, "label": ""}), 'label: expected 0, 1, 2 or 3, not ""'),
    "a label that is a truth": ("hellaswag", json.dumps({**SWAG, "label": True}), "not true"),
    "one word": ("lambada", json.dumps({"text": "word"}), "text: expected a word after a space after others"),
    "a space at the end": ("lambada", json.dumps({"text": "two words "}), "text: expected a word after a space"),
    "no text": ("lambada", json.dumps({"words": "a b"}), "no field 'text'; there are: words"),
    "a number for text": ("lambada", json.dumps({"text": 3}), "text: expected text, not 3"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_line_is_refused(what: str, tmp_path: Path) -> None:
    name, line, reason = BROKEN[what]
    good = json.dumps(SWAG if name == "hellaswag" else {"text": "one two"})
    path = tmp_path / "file.jsonl"
    path.write_text(f"{good}\n\n{good}\n{line}\n{good}\n")
    with pytest.raises(UserError, match=rf"file.jsonl' \({name}\): 1 of 4 lines is broken, line 4 first: .*{reason}"):
        read_benchmark(name, path)
    path.write_text(f"{line}\n{good}\n{line}\n")
    with pytest.raises(UserError, match=r"2 of 3 lines are broken, line 1 first"):
        read_benchmark(name, path)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none.jsonl' \(lambada\) cannot be read: No such file"):
        read_benchmark("lambada", tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n \n")
    with pytest.raises(UserError, match="is empty: expected an item a line"):
        read_benchmark("lambada", tmp_path / "empty.jsonl")
    (tmp_path / "latin.jsonl").write_bytes('{"text": "sch\xf6n hier"}\n'.encode("latin-1"))
    with pytest.raises(UserError, match=r"1 of 1 lines is broken, line 1 first: .*utf-8"):
        read_benchmark("lambada", tmp_path / "latin.jsonl")


def test_names() -> None:
    assert [named.name for named in choose_benchmarks(["hellaswag", "lambada=x.jsonl", "lm_eval:mmlu"])] == [
        "hellaswag", "lambada", "lm_eval:mmlu",
    ]  # fmt: skip
    assert [named.file for named in choose_benchmarks(["lambada=x.jsonl", "lm_eval:mmlu"])] == [Path("x.jsonl"), None]
    for wrong, words in (("helaswag", "Did you mean 'hellaswag'"), ("lm_eval:", "Unknown benchmark"), ("", "Unknown")):
        with pytest.raises(UserError, match=words):
            choose_benchmarks([wrong])
    with pytest.raises(UserError, match="name 'lambada' 2 times"):
        choose_benchmarks(["lambada", "lambada=x.jsonl"])


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--model.benchmarks", "[lambada={broken}]"], "1 of 1 lines is broken, line 1 first"),
        (["--model.benchmarks", "[helaswag]"], "Did you mean 'hellaswag'"),
        (["--model.benchmarks", "[]"], "model.benchmarks: expected one or more, not []"),
        (["--model.benchmarks", "[lambada={none}]"], "cannot be read"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    args: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.jsonl").write_text('{"text": "one"}\n')
    args = [a.format(broken=tmp_path / "broken.jsonl", none=tmp_path / "none.jsonl") for a in args]
    assert main([*COMMAND, "--results", str(tmp_path / "results"), *args]) == 2
    error = capsys.readouterr().err.strip()
    assert words in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "results").exists()


def test_a_run_scores_every_dose(tmp_path: Path, tiny: Subject) -> None:
    zero = ["--model.perturbation.method", "zero", "--model.perturbation.target", "blocks", "--model.levels", "[0.0, 1.0]"]
    folder = run(tmp_path, "--model.limit", "8", *zero, "--model.repetitions", "2", verb=COMMAND)
    rows, items, summary = rows_of(folder / tables.BENCHMARKS), rows_of(folder / tables.BENCHMARK_ITEMS), summary_of(folder)
    assert list(rows[0]) == [
        "variant", "method", "target", "level", "level_index", "repetition", "benchmark", "metric", "value", "standard_error",
        "items", "source",
    ]  # fmt: skip
    assert list(items[0])[:7] == ["variant", "level_index", "repetition", "benchmark", "item", "gold", "chosen"]
    assert len(items) == 5 * 16
    found = {(r["variant"], r["level_index"], r["repetition"], r["benchmark"], r["metric"]): float(r["value"]) for r in rows}
    assert len(found) == len(rows) == 5 * 7
    dose = next(row for row in rows_of(folder / tables.DOSES) if row["level"] == "1.0")
    assert found["zero_blocks", "1", "0", "text", "nats_per_token"] == float(dose["nats_per_token"])
    assert found["intact", "0", "0", "text", "token_accuracy"] == summary["token_accuracy_pre"]
    for benchmark, metric in (("hellaswag", "acc_norm"), ("lambada", "perplexity")):
        intact = found["intact", "0", "0", benchmark, metric]
        assert intact == summary[f"{benchmark}_{metric}"] == found["zero_blocks", "0", "0", benchmark, metric]
        assert found["zero_blocks", "1", "1", benchmark, metric] == found["zero_blocks", "1", "0", benchmark, metric]
    few = Benchmark("lambada", OWN["lambada"].items[:8], "")
    accuracy, perplexity = run_benchmark(of(tiny), requests(few, tiny.tokenizer, positions(tiny)))[0]
    assert summary["lambada_perplexity"] == pytest.approx(perplexity.value, rel=1e-5)
    assert summary["lambada_perplexity_se"] == pytest.approx(perplexity.standard_error, rel=1e-4)
    assert (summary["lambada_acc"], summary["lambada_items"], accuracy.items) == (accuracy.value, 8, 8)
    assert found["zero_blocks", "1", "0", "lambada", "perplexity"] != found["intact", "0", "0", "lambada", "perplexity"]
    manifest = manifest_of(folder)
    assert manifest["sha256"]["subject_after"] == manifest["sha256"]["subject"]
    assert manifest["sha256"]["benchmark_hellaswag"] == OWN["hellaswag"].sha256
    assert len(rows_of(folder / tables.EDITS)) > 0


def test_a_subject_destroyed_by_a_dose_has_rows_too(tmp_path: Path) -> None:
    """Noise of 1e38 times the weights' spread: what it computes is nan."""
    noise = ["--model.perturbation.method", "add_gauss", "--model.perturbation.target", "blocks", "--model.levels", "[1.0e+38]"]
    folder = run(tmp_path, *noise, "--model.limit", "5", verb=COMMAND)
    rows = [r for r in rows_of(folder / tables.BENCHMARKS) if r["variant"] != "intact"]
    found = {(r["benchmark"], r["metric"]): (r["value"], r["items"]) for r in rows}
    assert found["lambada", "acc"] == found["hellaswag", "acc"] == ("0.0", "5")
    assert found["lambada", "perplexity"] == ("nan", "5")


def test_truncated_contexts_are_a_caution(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "long.jsonl"
    path.write_text(json.dumps({"text": "word " * 500 + "end"}) + "\n" + json.dumps({"text": "short end"}) + "\n")
    folder = run(tmp_path / "r", "--model.benchmarks", f"[lambada={path}]", verb=COMMAND)
    assert summary_of(folder)["lambada_truncated"] == 1
    (caution,) = manifest_of(folder)["cautions"]
    assert caution.startswith("1 of 2 contexts of lambada are longer than the subject's 256 positions")
    assert caution in capsys.readouterr().err


def test_every_token_is_scored_after_a_prefix(tiny: Subject, text: TextSource) -> None:
    blocks = text.blocks("probe", tiny.tokenizer, 3, 40)
    prefix = prefix_token(tiny.tokenizer)
    measured = likelihood(of(tiny), blocks, prefix)
    assert measured.tokens == 3 * 40
    assert measured.text_bytes == int(blocks.byte_counts.sum())
    assert measured.nll_sum == pytest.approx(-sum(slowly(of(tiny), ([prefix], row)) for row in blocks.ids.tolist()), rel=1e-6)
    column = torch.full((3, 1), prefix)
    longer = TokenStream(torch.cat([column, blocks.ids], 1), torch.cat([0 * column, blocks.byte_counts], 1))
    same = likelihood(of(tiny), longer)
    assert (same.correct, same.tokens, same.text_bytes) == (measured.correct, 120, measured.text_bytes)
    assert same.nll_sum == pytest.approx(measured.nll_sum, rel=1e-6)


@given(st.integers(1, 60), st.integers(1, 20))
def test_windows_score_every_token_once_after_what_stands_before_it(length: int, limit: int) -> None:
    ids = list(range(100, 100 + length))
    scored = []
    for context, rest in windows(ids, 7, limit):
        read = context + rest[:-1]
        assert len(read) <= limit
        assert len(read) == limit or len(ids) < limit
        first = ids.index(rest[0])
        assert read == ([7, *ids])[first + len(rest) - len(read) : first + len(rest)]
        scored += rest
    assert scored == ids


def test_rolling_counts_words_and_bytes(tiny: Subject) -> None:
    documents = ["Return the näme of the file.\n\nOr  None.", "Short."]
    found = rolling(uniform(1024), documents, tiny.tokenizer, 16)
    tokens = sum(len(encode(tiny.tokenizer, document)) for document in documents)
    assert (found.tokens, found.words, found.text_bytes) == (tokens, 8 + 1, len("".join(documents)) + 1)
    nats = tokens * math.log(1024)
    facts = found.facts("pre")
    assert facts["nats_per_token_rolling_pre"] == pytest.approx(math.log(1024))
    assert facts["word_perplexity_rolling_pre"] == pytest.approx(math.exp(nats / 9), rel=1e-5)
    assert facts["byte_perplexity_rolling_pre"] == pytest.approx(math.exp(nats / found.text_bytes), rel=1e-5)
    assert facts["bits_per_byte_rolling_pre"] == pytest.approx(math.log2(facts["byte_perplexity_rolling_pre"]))


def test_evaluate_measures_documents_when_asked(tmp_path: Path, tiny: Subject) -> None:
    evaluate = ["test", "--config", str(ROOT / "configs/evaluate.yaml"), *QUICK]
    summary = summary_of(run(tmp_path / "a", "--model.rolling", "true", verb=evaluate))
    source = TextSource(probe_tokens=1024)
    documents = source.split("probe")[: summary["documents_rolling"]]
    lengths = [len(encode(tiny.tokenizer, document)) for document in documents]
    assert sum(lengths[:-1]) < 1024 <= sum(lengths) == summary["tokens_rolling"]
    expected = rolling(of(tiny), documents, tiny.tokenizer, 256).facts("pre")
    assert {name: summary[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert not any("rolling" in name for name in summary_of(run(tmp_path / "b", verb=evaluate)))


def test_positions(monkeypatch: pytest.MonkeyPatch, tiny: Subject) -> None:
    assert positions(tiny) == 256
    config = type("Config", (), {})()
    tokenizer = type("Tokenizer", (), {"model_max_length": 77})()
    subject: Any = type("S", (), {"model": type("M", (), {"config": config})(), "tokenizer": tokenizer})()
    assert positions(subject) == 77
    tokenizer.model_max_length = int(1e30)
    assert positions(subject) == measures.UNLIMITED
    config.text_config = type("Config", (), {"n_positions": 12})()
    assert positions(subject) == 12


@pytest.mark.skipif(not LAMBADA.is_file(), reason=f"LAMBADA's passages are not at {LAMBADA}")
def test_published_passages_are_read() -> None:
    benchmark = read_benchmark("lambada", LAMBADA)
    assert len(benchmark.items) == 500
    for item, line in zip(benchmark.items, LAMBADA.read_text().splitlines(), strict=True):
        assert f"{item.context} {item.choices[0]}" == json.loads(line)["text"]
