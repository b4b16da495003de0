"""Speed of `likelihood` against a plain loop and lm-evaluation-harness: `python benchmarks/bench_perplexity.py`.

tiny-1m, 64 windows of 128 probe tokens, batches of 16, one thread. All sides are interleaved, and medians are compared, so
that a busy machine shifts all of them. The harness needs `pip install -e '.[lm-eval]'`.
"""

import contextlib
import copy
import io
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from bench import report

from lit_degrade.measures.benchmarks import prefix_token
from lit_degrade.measures.perplexity import likelihood
from lit_degrade.subjects.catalog import SubjectSpec
from lit_degrade.subjects.loading import Subject, load_subject
from lit_degrade.text import TextSource, TokenStream

WINDOWS, LENGTH, BATCH, ROUNDS = 64, 128, 16, 9


def windows_of_text(subject: Subject) -> tuple[TokenStream, list[str]]:
    """Windows that are the tokens of their own text again, so that both sides score the same tokens; and that text."""
    blocks = TextSource().blocks("probe", subject.tokenizer, 3 * WINDOWS, LENGTH)
    texts = [subject.tokenizer.decode(row) for row in blocks.ids]
    same = [i for i, text in enumerate(texts) if subject.tokenizer.encode(text) == blocks.ids[i].tolist()][:WINDOWS]
    assert len(same) == WINDOWS
    return TokenStream(blocks.ids[same], blocks.byte_counts[same]), [texts[i] for i in same]


def medians(*sides: Callable[[], object]) -> list[tuple[float, float]]:
    """Median wall and CPU seconds of each side, interleaved, first round dropped."""
    times: list[list[tuple[float, float]]] = [[] for _ in sides]
    for _ in range(ROUNDS + 1):
        for side, seen in zip(sides, times, strict=True):
            wall, cpu = time.perf_counter(), time.process_time()
            side()
            seen.append((time.perf_counter() - wall, time.process_time() - cpu))
    return [(statistics.median(w for w, _ in seen[1:]), statistics.median(c for _, c in seen[1:])) for seen in times]


def main() -> None:
    torch.set_num_threads(1)
    subject = load_subject(SubjectSpec("tiny-1m"), 0, torch.device("cpu"), train=False)
    blocks, texts = windows_of_text(subject)
    prefix = prefix_token(subject.tokenizer)

    def logits(ids: torch.Tensor) -> torch.Tensor:
        return subject.model(input_ids=ids, use_cache=False).logits

    @torch.inference_mode()
    def plain() -> float:
        total = 0.0
        for ids in blocks.ids.split(BATCH):
            scored = subject.model(input_ids=ids).logits[:, :-1].flatten(0, 1)
            total += F.cross_entropy(scored, ids[:, 1:].flatten(), reduction="sum").item()
        return total

    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    harness = HFLM(pretrained=subject.model, tokenizer=copy.deepcopy(subject.tokenizer), batch_size=BATCH)
    asked = [Instance("loglikelihood_rolling", {}, (text,), i) for i, text in enumerate(texts)]

    def rolling() -> float:
        with contextlib.redirect_stderr(io.StringIO()):
            return -sum(harness.loglikelihood_rolling(asked, disable_tqdm=True))

    def ours() -> float:
        return likelihood(logits, blocks).nll_sum

    def ours_with_prefix() -> float:
        return likelihood(logits, blocks, prefix).nll_sum

    difference = abs(ours() / plain() - 1)
    report("|likelihood / plain loop - 1|, nats", difference, "<= 1e-5", difference <= 1e-5)
    difference = abs(ours_with_prefix() / rolling() - 1)
    report("|likelihood with a prefix / loglikelihood_rolling - 1|, nats", difference, "<= 1e-6", difference <= 1e-6)
    reference, first, harness_times, second = medians(plain, ours, rolling, ours_with_prefix)
    for kind, wall in ((0, "wall"), (1, "CPU")):
        value = reference[kind] / first[kind]
        speed = WINDOWS * (LENGTH - 1) / first[kind]
        report(f"tokens/s ({wall}), likelihood / plain loop ({speed:.0f} tokens/s)", value, ">= 0.9", value >= 0.9)
        value = harness_times[kind] / second[kind]
        speed = WINDOWS * LENGTH / second[kind]
        claim = f"tokens/s ({wall}), likelihood with a prefix / loglikelihood_rolling ({speed:.0f} tokens/s)"
        report(claim, value, ">= 1.15", value >= 1.15)


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.chdir(Path(__file__).parent.parent)
    main()
