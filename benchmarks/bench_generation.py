"""Batched generation against one prompt at a time: `python benchmarks/bench_generation.py`. Prints one line, with its target.

38 prompts x 64 new tokens on tiny-1m. Both sides are interleaved, and medians are compared, so that a busy machine shifts both.
"""

import os
import statistics
from pathlib import Path

import torch
from bench import ratio, report, seconds

from lit_degrade.generation.generator import Decoding, TextGenerator
from lit_degrade.generation.queries import Query
from lit_degrade.subjects.catalog import SubjectSpec
from lit_degrade.subjects.loading import Subject, load_subject
from lit_degrade.text import TextSource

PROMPTS, NEW = 38, 64


def queries(subject: Subject) -> list[Query]:
    """Prompts of 8 to 45 tokens of ordinary text."""
    blocks = TextSource().blocks("calibration", subject.tokenizer, PROMPTS).ids
    return [Query(subject.tokenizer.decode(ids[: 8 + i]), seed=i) for i, ids in enumerate(blocks.tolist())]


def one_at_a_time(subject: Subject, asked: list[Query]) -> int:
    """Number of new tokens of plain `generate`, prompt by prompt."""
    tokens = 0
    for query in asked:
        inputs = subject.tokenizer(query.text, return_tensors="pt")
        made = subject.model.generate(**inputs, do_sample=False, max_new_tokens=NEW, pad_token_id=0)
        tokens += made.shape[1] - inputs["input_ids"].shape[1]
    return tokens


def generation() -> None:
    torch.set_num_threads(1)
    subject = load_subject(SubjectSpec("tiny-1m"), 0, torch.device("cpu"), train=False)
    subject.model.generation_config.eos_token_id = None  # every prompt to the cap: both sides make the same number of tokens
    subject.tokenizer.eos_token = None
    asked = queries(subject)
    for sampled in (False, True):
        batched = TextGenerator(subject, Decoding(max_new_tokens=NEW, do_sample=sampled))
        assert sum(len(c.ids) for c in batched(asked)) == one_at_a_time(subject, asked) == PROMPTS * NEW
        value = 1 / ratio(lambda run=batched: run(asked), lambda: one_at_a_time(subject, asked), rounds=5)
        speed = PROMPTS * NEW / statistics.median(seconds(lambda run=batched: run(asked)) for _ in range(5))
        kind = "sampled" if sampled else "greedy"
        claim = f"tokens/s, {kind} in batches / greedy one prompt at a time (tiny-1m, {PROMPTS} x {NEW}; {speed:.0f} tokens/s)"
        report(claim, value, ">= 5", value >= 5)


if __name__ == "__main__":
    os.chdir(Path(__file__).parent.parent)
    generation()
