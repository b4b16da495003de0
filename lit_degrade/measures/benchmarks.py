"""Benchmarks scored by log-likelihood, with the conventions of lm-evaluation-harness: the same tokens, choices and errors.

Source: Gao et al., "The Language Model Evaluation Harness", v0.4 (HFLM, tasks hellaswag and lambada_openai); Zellers et al.,
"HellaSwag", ACL 2019; Paperno et al., "The LAMBADA dataset", ACL 2016, with the last word as one target as OpenAI scored it.
"""

import math
import re
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_degrade.errors import UserError
from lit_degrade.measures.perplexity import LogitsFunction, perplexity_of
from lit_degrade.measures.text_likelihood import batches_of_like_length
from lit_degrade.subjects.loading import Subject
from lit_degrade.tasks.benchmarks import Benchmark, Item

Pair = tuple[list[int], list[int]]
"""token ids of a context, and of what follows it; neither is empty"""
UNLIMITED = 2048
"""Positions of a subject that names no limit."""
UNSET = 10**30
"""A tokenizer's limit that is none."""


@dataclass(frozen=True)
class Scored:
    """What a subject makes of a continuation."""

    log_likelihood: float
    """Σ ln p(token | all before it) [nats]; -inf and nan of a broken subject are outcomes and kept"""
    greedy: bool
    """whether each of its tokens was the most likely one (the first of equals); never where the log-likelihood is nan"""
    tokens: int


@dataclass(frozen=True)
class Result:
    """A number that a benchmark ends in."""

    benchmark: str
    name: str
    value: float
    standard_error: float | None
    """None where one item has none, or it is not known"""
    items: int
    source: str = "own"
    """own, or lm_eval"""

    def row(self) -> dict[str, Any]:
        """Columns of benchmarks.csv."""
        return {
            "benchmark": self.benchmark,
            "metric": self.name,
            "value": self.value,
            "standard_error": self.standard_error,
            "items": self.items,
            "source": self.source,
        }


@dataclass(frozen=True)
class Requests:
    """A benchmark in tokens of one subject."""

    benchmark: Benchmark
    pairs: tuple[Pair, ...]
    """one for each choice of each item, in order"""
    truncated: int
    """pairs whose context lost tokens on the left, since the subject has no positions for them"""


def positions(subject: Subject) -> int:
    """Most tokens that the subject reads at once: its config's, else its tokenizer's, else UNLIMITED."""
    config = subject.model.config
    config = getattr(config, "text_config", config)
    for name in ("n_positions", "max_position_embeddings", "n_ctx"):
        if (limit := getattr(config, name, None)) is not None:
            return int(limit)
    limit = getattr(subject.tokenizer, "model_max_length", None)
    return UNLIMITED if limit is None or limit >= UNSET else int(limit)


def prefix_token(tokenizer: Any) -> int:
    """The token that stands before a text: of its beginning, else of the end of the text before.

    Raises: UserError where the tokenizer has neither.
    """
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise UserError("The subject's tokenizer has neither a BOS nor an EOS token, of which one must stand before a text.")


def encode(tokenizer: Any, text: str) -> list[int]:
    """Tokens of a text, with the special tokens that the tokenizer adds unless the text begins with one."""
    begun = text.startswith(tokenizer.decode(prefix_token(tokenizer)))
    return tokenizer.encode(text, verbose=False, **({"add_special_tokens": False} if begun else {}))


def encode_pair(tokenizer: Any, context: str, continuation: str) -> Pair:
    """Tokens of a context and of what follows it: those of the whole, cut after as many as the context alone has.

    Spaces at the end of the context move to the continuation, where tokenizers have them.
    """
    kept = context.rstrip()
    continuation = context[len(kept) :] + continuation
    before = encode(tokenizer, kept)
    return before, encode(tokenizer, kept + continuation)[len(before) :]


def requests(benchmark: Benchmark, tokenizer: Any, limit: int) -> Requests:
    """Every choice of a benchmark as tokens, after a space.

    Args:
        benchmark: its items.
        tokenizer: of the subject.
        limit: the subject's positions; contexts lose tokens on the left until all but the last token fit, as in the harness.

    Raises: UserError for a choice without tokens of its own, or with more than fit.
    """
    pairs, truncated = [], 0
    for number, item in enumerate(benchmark.items, start=1):
        for choice in item.choices:
            context, continuation = encode_pair(tokenizer, item.context, " " + choice)
            if not 0 < len(continuation) <= limit:
                raise UserError(
                    f"Item {number} of {benchmark.name}: a choice has {len(continuation)} tokens; expected 1 to {limit}, "
                    "the positions of the subject."
                )
            room = limit + 1 - len(continuation)
            truncated += len(context) > room
            pairs.append((context[-room:], continuation))
    return Requests(benchmark, tuple(pairs), truncated)


@torch.inference_mode()
def score(logits_of: LogitsFunction, pairs: Sequence[Pair], pad: int = 0) -> list[Scored]:
    """Log-likelihood of every continuation given its context, in the order given.

    Softmax in float32, sums in float64. Rows are as long as they need to be and padded on the right, where no logits of a
    causal subject see it; batching changes results by rounding only.

    Args:
        logits_of: the subject; causal, without attention mask.
        pairs: tokens; the last one of each continuation is not read, only scored.
        pad: any token that the subject knows.
    """
    scored: dict[int, Scored] = {}
    for batch in batches_of_like_length({i: len(context) + len(rest) - 1 for i, (context, rest) in enumerate(pairs)}):
        for i, result in zip(batch, _score_batch(logits_of, [pairs[i] for i in batch], pad), strict=True):
            scored[i] = result
    return [scored[i] for i in range(len(pairs))]


def _score_batch(logits_of: LogitsFunction, pairs: Sequence[Pair], pad: int) -> Iterator[Scored]:
    read = [[*context, *rest[:-1]] for context, rest in pairs]
    longest = max(map(len, read))
    logits = logits_of(torch.tensor([row + [pad] * (longest - len(row)) for row in read]))
    lengths = [len(rest) for _, rest in pairs]
    rows = torch.arange(len(pairs)).repeat_interleave(torch.tensor(lengths))
    columns = torch.cat([torch.arange(len(row) - n, len(row)) for row, n in zip(read, lengths, strict=True)])
    expected = torch.tensor([token for _, rest in pairs for token in rest])
    chosen: Tensor = logits[rows.to(logits.device), columns.to(logits.device)].float()
    nll = F.cross_entropy(chosen, expected.to(logits.device), reduction="none").double().cpu()
    greedy = chosen.argmax(-1).cpu() == expected
    for nats, agrees in zip(nll.split(lengths), greedy.split(lengths), strict=True):
        total = -float(nats.sum())
        yield Scored(total, bool(agrees.all()) and not math.isnan(total), len(nats))


def choice(item: Item, log_likelihoods: Sequence[float], per_character: bool) -> int | None:
    """The most likely choice, the first of equals; None where one of the log-likelihoods is nan, so that none is the most.

    Args:
        item: its choices.
        log_likelihoods: of each [nats].
        per_character: divided by the number of characters of each choice (not tokens nor bytes), without the space before it.
    """
    if any(map(math.isnan, log_likelihoods)):
        return None
    scores = [
        value / len(choice) if per_character else value for choice, value in zip(item.choices, log_likelihoods, strict=True)
    ]
    return scores.index(max(scores))


def run_benchmark(logits_of: LogitsFunction, asked: Requests) -> tuple[list[Result], list[dict[str, Any]]]:
    """Score a benchmark; returns its metrics, and a row of benchmark_items.csv for every item.

    hellaswag: `acc` and `acc_norm`, shares of items whose most likely choice, in sum and per character, is right. lambada:
    `acc`, share of passages whose last word is foretold by greedy decoding, and `perplexity`, exp of the mean negative
    log-likelihood of the last *words* (not tokens): a subject that holds V tokens for equally likely has V^tokens.
    """
    scored = iter(score(logits_of, asked.pairs))
    per_item = [(item, [next(scored) for _ in item.choices]) for item in asked.benchmark.items]
    name = asked.benchmark.name
    if name == "hellaswag":
        rows = [_choice_row(item, scores) for item, scores in per_item]
        metrics = [
            _share(name, metric, [row[column] for row in rows])
            for metric, column in (("acc", "correct"), ("acc_norm", "correct_norm"))
        ]
    else:
        rows = [_word_row(item, scores[0]) for item, scores in per_item]
        metrics = [
            _share(name, "acc", [row["correct"] for row in rows]),
            _word_perplexity(name, [row["log_likelihood"] for row in rows]),
        ]
    return metrics, [{"benchmark": name, "item": i, **row} for i, row in enumerate(rows)]


def _choice_row(item: Item, scores: Sequence[Scored]) -> dict[str, Any]:
    log_likelihoods = [scored.log_likelihood for scored in scores]
    chosen, chosen_norm = (choice(item, log_likelihoods, per_character) for per_character in (False, True))
    return {
        "gold": item.gold,
        "chosen": chosen,
        "correct": chosen == item.gold,
        "chosen_norm": chosen_norm,
        "correct_norm": chosen_norm == item.gold,
        **{f"log_likelihood_{i}": value for i, value in enumerate(log_likelihoods)},
    }


def _word_row(item: Item, scored: Scored) -> dict[str, Any]:
    return {
        "gold": item.choices[0],
        "chosen": None,
        "correct": scored.greedy,
        "log_likelihood": scored.log_likelihood,
        "tokens": scored.tokens,
    }


def _share(benchmark: str, name: str, right: Sequence[bool]) -> Result:
    """Share p of what is right, with its standard error √(p(1-p)/(n-1))."""
    n = len(right)
    p = sum(right) / n
    return Result(benchmark, name, p, math.sqrt(p * (1 - p) / (n - 1)) if n > 1 else None, n)


def _word_perplexity(benchmark: str, log_likelihoods: Sequence[float]) -> Result:
    """exp(-mean), and its standard error to first order, perplexity · sd/√n; nan where either is not finite."""
    n = len(log_likelihoods)
    perplexity = perplexity_of(-math.fsum(log_likelihoods) / n)
    if n == 1:
        return Result(benchmark, "perplexity", perplexity, None, n)
    finite = all(map(math.isfinite, [*log_likelihoods, perplexity]))
    error = perplexity * statistics.stdev(log_likelihoods) / math.sqrt(n) if finite else math.nan
    return Result(benchmark, "perplexity", perplexity, error, n)


@dataclass(frozen=True)
class Rolling:
    """Likelihood of whole texts, every token of them scored, by the conventions of word-level perplexity."""

    nll_sum: float
    """[nats]"""
    tokens: int
    words: int
    """pieces between white space, of the raw text"""
    text_bytes: int
    """UTF-8 bytes of the raw text"""

    def facts(self, when: str) -> dict[str, float]:
        """Columns of the summary, named by when they were measured."""
        return {
            f"nats_per_token_rolling_{when}": self.nll_sum / self.tokens,
            f"word_perplexity_rolling_{when}": perplexity_of(self.nll_sum / self.words),
            f"byte_perplexity_rolling_{when}": perplexity_of(self.nll_sum / self.text_bytes),
            f"bits_per_byte_rolling_{when}": self.nll_sum / self.text_bytes / math.log(2),
        }


def windows(ids: Sequence[int], prefix: int, limit: int) -> Iterator[Pair]:
    """Windows of `limit` tokens in which each token of a text is scored once, every one after its first context token.

    The first context token of the first window is `prefix`, that of every other one the token before it. The last window
    reads `limit` tokens too where the text has them, and scores those that are left.
    """
    before = [prefix, *ids]
    for start in range(0, len(ids), limit):
        end = min(start + limit, len(ids))
        first = end - limit if start else 0
        yield before[first : start + 1], list(ids[start:end])


def rolling(logits_of: LogitsFunction, documents: Sequence[str], tokenizer: Any, limit: int) -> Rolling:
    """Score whole texts as lm-evaluation-harness does (loglikelihood_rolling): each by itself, in windows of `limit` tokens.

    Raises: UserError where the tokenizer has no token to stand before a text.
    """
    prefix = prefix_token(tokenizer)
    encoded = [encode(tokenizer, document) for document in documents]
    pairs = [pair for ids in encoded for pair in windows(ids, prefix, limit)]
    return Rolling(
        nll_sum=-sum(scored.log_likelihood for scored in score(logits_of, pairs)),
        tokens=sum(map(len, encoded)),
        words=sum(len(re.split(r"\s+", document)) for document in documents),
        text_bytes=sum(len(document.encode()) for document in documents),
    )
