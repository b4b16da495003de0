"""Our scores against lm-evaluation-harness, and its tasks on a loaded subject. Runs where the harness is installed."""

import copy
import json
import logging
import random
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import Subject, load, random_folder
from helpers import ROOT, manifest_of, rows_of, run, summary_of

from lit_degrade.cli import main
from lit_degrade.errors import UserError
from lit_degrade.measures import harness
from lit_degrade.measures.benchmarks import encode_pair, positions, prefix_token, requests, rolling, run_benchmark, score
from lit_degrade.measures.harness import load_task, run_task
from lit_degrade.measures.perplexity import LogitsFunction, likelihood
from lit_degrade.records import tables
from lit_degrade.subjects.catalog import SubjectSpec
from lit_degrade.subjects.loading import load_subject, weights_sha256
from lit_degrade.tasks.benchmarks import HERE, Benchmark, read_benchmark
from lit_degrade.text import TextSource, TokenStream, encode

LAMBADA = ROOT.parent / "shared/data/lambada/lambada_openai_500.jsonl"
INSTALL = "lm-evaluation-harness is not installed: pip install -e '.[lm-eval]'"
needs_harness = pytest.mark.skipif(find_spec("lm_eval") is None, reason=INSTALL)
QUICK = ["--subject", "tiny-60k", "--text.probe_tokens", "1024", "--verbosity", "quiet"]
COMMAND = ["test", "--config", str(ROOT / "configs/benchmarks.yaml"), *QUICK]
HELLASWAG: dict[str, Any] = {
    "output_type": "multiple_choice", "doc_to_text": "{{query}}", "doc_to_target": "{{label}}", "doc_to_choice": "choices",
    "metric_list": [{"metric": m, "aggregation": "mean", "higher_is_better": True} for m in ("acc", "acc_norm")],
}  # fmt: skip
LAST_WORD: dict[str, Any] = {
    "output_type": "loglikelihood", "doc_to_text": "{{text.split(' ')[:-1]|join(' ')}}",
    "doc_to_target": "{{' '+text.split(' ')[-1]}}",
    "metric_list": [
        {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
        {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
    ],
}  # fmt: skip
"""As the harness's own hellaswag and lambada_openai have them, on files."""


def of(subject: Subject) -> LogitsFunction:
    return lambda tokens: subject.model(input_ids=tokens, use_cache=False).logits


def hflm(subject: Subject, **options: Any) -> Any:
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=subject.model, tokenizer=copy.deepcopy(subject.tokenizer), batch_size=16, **options)


def instances(kind: str, arguments: list[tuple[str, ...]]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, args, i) for i, args in enumerate(arguments)]  # type: ignore[arg-type]


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """Folder with task files on our own items."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    for name, file, task in (("our_swag", "hellaswag_own", HELLASWAG), ("our_words", "lambada_own", LAST_WORD)):
        data = {"data_files": {"test": str(HERE / f"{file}.jsonl")}, "cache_dir": str(tmp_path / "cache")}
        where = {"task": name, "dataset_path": "json", "dataset_kwargs": data, "test_split": "test"}
        text = yaml.safe_dump({**where, **task})
        if name == "our_swag":
            text += "process_docs: !function lm_eval.tasks.hellaswag.utils.process_docs\n"
        (folder / f"{name}.yaml").write_text(text)
    return folder


def harness_scores(subject: Subject, benchmark: Benchmark) -> list[tuple[float, bool]]:
    asked = [(item.context, " " + choice) for item in benchmark.items for choice in item.choices]
    return hflm(subject).loglikelihood(instances("loglikelihood", asked), disable_tqdm=True)


def assert_agrees(subject: Subject, benchmark: Benchmark) -> None:
    asked = requests(benchmark, subject.tokenizer, positions(subject))
    for ours, (log_likelihood, greedy) in zip(score(of(subject), asked.pairs), harness_scores(subject, benchmark), strict=True):
        assert ours.log_likelihood == pytest.approx(log_likelihood, abs=1e-4)
        assert ours.greedy == greedy


@needs_harness
@pytest.mark.parametrize("name", ["hellaswag", "lambada"])
def test_every_choice_scores_as_in_the_harness(name: str, tiny_1m: Subject) -> None:
    assert_agrees(tiny_1m, read_benchmark(name, HERE / f"{name}_own.jsonl"))


@needs_harness
@pytest.mark.skipif(not LAMBADA.is_file(), reason=f"LAMBADA's passages are not at {LAMBADA}")
def test_published_passages_score_as_in_the_harness(tiny_1m: Subject) -> None:
    benchmark = read_benchmark("lambada", LAMBADA)
    longest = sorted(benchmark.items, key=lambda item: -len(item.context))[:10]  # truncated ones among them
    some = Benchmark("lambada", (*longest, *benchmark.items[:110]), "")
    assert requests(some, tiny_1m.tokenizer, positions(tiny_1m)).truncated > 0
    assert_agrees(tiny_1m, some)


@needs_harness
@pytest.mark.parametrize("family", ["gpt2", "opt", "bloom", "llama", "gemma3_text"])
def test_other_architectures_score_as_in_the_harness(family: str, tmp_path: Path) -> None:
    """Of absolute, rotary and linear positions; gemma and llama begin with a token where the tokenizer says so."""
    subject = load_subject(SubjectSpec(random_folder(family, tmp_path / family)), 0, torch.device("cpu"), train=False)
    whole = read_benchmark("hellaswag", HERE / "hellaswag_own.jsonl")
    assert_agrees(subject, Benchmark("hellaswag", whole.items[::4], ""))


@needs_harness
@pytest.mark.parametrize("begins", [True, False])
def test_tokenizers_that_add_a_token_encode_as_in_the_harness(begins: bool, tiny: Subject) -> None:
    from tokenizers.processors import TemplateProcessing

    subject = copy.deepcopy(tiny)
    tokenizer = subject.tokenizer
    special = tokenizer.bos_token
    if begins:
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{special} $A", special_tokens=[(special, tokenizer.bos_token_id)]
        )
    theirs = hflm(subject)
    for context, rest in (("The value", " is"), ("The value  ", " is"), (f"{special}The", " value"), ("é", " ü")):
        ours = encode_pair(tokenizer, context, rest)
        assert ours == tuple(theirs._encode_pair(context, rest))
        assert (ours[0][0] == tokenizer.bos_token_id) == (begins or context.startswith(special))


@needs_harness
def test_tasks_of_the_harness_end_in_our_numbers(tiny_1m: Subject, tasks: Path) -> None:
    for task, name in (("our_swag", "hellaswag"), ("our_words", "lambada")):
        benchmark = read_benchmark(name, HERE / f"{name}_own.jsonl")
        ours, our_rows = run_benchmark(of(tiny_1m), requests(benchmark, tiny_1m.tokenizer, positions(tiny_1m)))
        loaded = load_task(task, str(tasks), 0)
        metrics, rows = run_task(tiny_1m, loaded, 0)
        assert {m.source for m in metrics} == {"lm_eval"}
        theirs = {m.name: m for m in metrics}
        for metric in ours:
            assert theirs[metric.name].value == pytest.approx(metric.value, rel=1e-4)
            assert theirs[metric.name].items == metric.items == 40
            if metric.name != "perplexity":  # theirs is a bootstrap, which is heavy-tailed here
                assert theirs[metric.name].standard_error == pytest.approx(metric.standard_error, rel=1e-6)
        assert [row["correct"] for row in rows] == [row["correct"] for row in our_rows]
        again, _ = run_task(tiny_1m, loaded, 0)
        assert again == metrics, "the same, bootstraps too"
        few, rows = run_task(tiny_1m, loaded, 7)
        assert {m.items for m in few} == {len(rows)} == {7}


@needs_harness
def test_documents_score_as_in_the_harness(tiny_1m: Subject, text: TextSource) -> None:
    documents = [text.split("probe")[0], "Short.", *text.split("probe")[1:3]]
    theirs = hflm(tiny_1m).loglikelihood_rolling(instances("loglikelihood_rolling", [(d,) for d in documents]), True)
    ours = rolling(of(tiny_1m), documents, tiny_1m.tokenizer, positions(tiny_1m))
    assert ours.tokens > 4 * positions(tiny_1m), "windows, whole and not"
    assert ours.nll_sum == pytest.approx(-sum(theirs), rel=1e-6)
    from lm_eval.api.metrics import bits_per_byte, weighted_perplexity

    words = [(ll, len(d.split())) for ll, d in zip(theirs, documents, strict=True)]
    sizes = [(ll, len(d.encode())) for ll, d in zip(theirs, documents, strict=True)]
    facts = ours.facts("pre")
    assert facts["word_perplexity_rolling_pre"] == pytest.approx(weighted_perplexity(words), rel=1e-4)
    assert facts["byte_perplexity_rolling_pre"] == pytest.approx(weighted_perplexity(sizes), rel=1e-5)
    assert facts["bits_per_byte_rolling_pre"] == pytest.approx(bits_per_byte(sizes), rel=1e-6)


@needs_harness
def test_windows_with_a_prefix_score_as_in_the_harness(tiny_1m: Subject, text: TextSource) -> None:
    tokenizer = tiny_1m.tokenizer
    texts = [document[:300] for document in text.split("probe")[:6]]
    streams = [encode([t], tokenizer) for t in texts]
    blocks = TokenStream(
        torch.stack([s.ids[:60] for s in streams]), torch.stack([s.byte_counts[:60] for s in streams])
    )  # fmt: skip
    decoded = [tokenizer.decode(row) for row in blocks.ids]
    same = [i for i, (d, row) in enumerate(zip(decoded, blocks.ids, strict=True)) if tokenizer.encode(d) == row.tolist()]
    assert len(same) >= 3
    kept = TokenStream(blocks.ids[same], blocks.byte_counts[same])
    asked = instances("loglikelihood_rolling", [(decoded[i],) for i in same])
    theirs = hflm(tiny_1m).loglikelihood_rolling(asked, True)
    ours = likelihood(of(tiny_1m), kept, prefix_token(tokenizer))
    assert ours.nll_sum == pytest.approx(-sum(theirs), rel=1e-6)


@needs_harness
def test_nothing_is_left_behind(tasks: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Neither in the weights, nor the tokenizer, nor global random states, nor on the screen, nor in the mode."""
    subject = load("tiny-60k")
    subject.model.train()
    special, before = subject.tokenizer.pad_token, weights_sha256(subject.model)
    states = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())
    level = logging.getLogger("lm_eval").level
    run_task(subject, load_task("our_swag", str(tasks), 0), 3)
    assert weights_sha256(subject.model) == before
    assert subject.tokenizer.pad_token == special
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])
    assert logging.getLogger("lm_eval").level == level
    assert subject.model.training
    assert "Running loglikelihood" not in "".join(capfd.readouterr())


@needs_harness
def test_a_run_with_a_task_of_the_harness(tasks: Path, tmp_path: Path) -> None:
    zero = ["--model.perturbation.method", "zero", "--model.perturbation.target", "blocks", "--model.levels", "[1.0]"]
    names = ["--model.benchmarks", "[hellaswag, lm_eval:our_swag]", "--model.include_path", str(tasks)]
    folder = run(tmp_path / "r", *names, *zero, "--model.limit", "8", verb=COMMAND)
    rows = {(r["variant"], r["benchmark"], r["metric"]): r for r in rows_of(folder / tables.BENCHMARKS)}
    for variant in ("intact", "zero_blocks"):
        for metric in ("acc", "acc_norm"):
            ours, theirs = rows[variant, "hellaswag", metric], rows[variant, "our_swag", metric]
            assert (ours["source"], theirs["source"]) == ("own", "lm_eval")
            assert float(ours["value"]) == float(theirs["value"])
            assert float(ours["standard_error"]) == pytest.approx(float(theirs["standard_error"]))
    assert summary_of(folder)["lm_eval:our_swag_acc"] == float(rows["intact", "our_swag", "acc"]["value"])
    manifest = manifest_of(folder)
    assert manifest["sha256"]["subject_after"] == manifest["sha256"]["subject"]


@needs_harness
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no_data", "cannot be loaded"),
        pytest.param("our_swug", "Near: our_swag", marks=pytest.mark.slow),  # the harness reads all of its tasks
        pytest.param("hellaswag", "the hub cannot be reached", marks=pytest.mark.slow),
    ],
)
def test_tasks_that_cannot_be_had(
    name: str, words: str, tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = {
        "task": "no_data",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "none.jsonl")}},
    }
    (tasks / "no_data.yaml").write_text(yaml.safe_dump({**LAST_WORD, **missing, "test_split": "test"}))
    args = ["--model.benchmarks", f"[lm_eval:{name}]", "--model.include_path", str(tasks)]
    assert main([*COMMAND, "--results", str(tmp_path / "results"), *args]) == 2
    error = capsys.readouterr().err.strip()
    assert words in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "results").exists()


def test_without_the_harness_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"'lm_eval:mmlu' needs lm-evaluation-harness, .*: pip install 'lit_degrade\[lm-eval\]'"
    ):
        load_task("mmlu", "", 0)


@needs_harness
def test_a_folder_of_tasks_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"include_path '.*none' is not a folder"):
        load_task("our_swag", str(tmp_path / "none"), 0)


def test_own_items_have_the_published_fields() -> None:
    for line in (HERE / "hellaswag_own.jsonl").read_text().splitlines():
        assert set(json.loads(line)) == {"ind", "activity_label", "ctx_a", "ctx_b", "ctx", "endings", "label"}
