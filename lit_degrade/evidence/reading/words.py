"""How outcomes and conditions are written on a figure: labels, units, and names in plain words."""

import math
import re
from collections.abc import Mapping
from typing import NamedTuple, Protocol

from lit_degrade.adversarial.catalog import ATTACKS, NORMS
from lit_degrade.criticality.catalog import METRICS
from lit_degrade.faults.catalog import ARMS, CONSTRAINTS, SEARCH
from lit_degrade.perturbations.catalog import METHODS, Method


class Labelled(Protocol):
    """What a catalogue says of a name."""

    @property
    def label(self) -> str:
        """What figures and tables call it."""


class Outcome(NamedTuple):
    """How an outcome is written on an axis."""

    label: str
    unit: str
    scale: float = 1.0
    """what the recorded value is multiplied by"""
    note: str = ""
    """what its sign means, if that is not plain"""

    @property
    def axis(self) -> str:
        """Label with unit."""
        return f"{self.label} [{self.unit}]" + (f"\n({self.note})" if self.note else "")


_NATS, _PERCENT = "nats/token", "%"
OUTCOMES = {
    "log_perplexity_ratio": Outcome("log perplexity ratio", _NATS),
    "reported_log_perplexity_ratio": Outcome("log perplexity ratio, as reported", _NATS),
    "nats_per_token": Outcome("probe loss", _NATS),
    "kl_from_intact": Outcome("KL divergence from the intact subject", _NATS),
    "kl_from_attacked": Outcome("KL divergence from the attacked subject", _NATS),
    "perplexity_increase": Outcome("increase of perplexity", _PERCENT, 100),
    "rank_reduction": Outcome("effective rank reduction", _PERCENT, 100, "negative: rank rose"),
    "reported_rank_reduction": Outcome("effective rank reduction, as reported", _PERCENT, 100, "negative: rank rose"),
    "rank_change_absolute": Outcome("absolute change of effective rank", _PERCENT, 100),
    "reported_rank_change_absolute": Outcome("absolute change of effective rank, as reported", _PERCENT, 100),
    "effective_rank": Outcome("effective rank", "directions"),
    "recovery": Outcome("recovery of nats per token", _PERCENT, 100),
    "recovery_rank": Outcome("recovery of effective rank", _PERCENT, 100),
    "null_energy": Outcome("gradient energy in the null space", "share"),
    "amplification": Outcome("amplification of flat directions", "ratio"),
    "update_norm_mean": Outcome("mean length of an update", "L2 norm of weights"),
    "path_length": Outcome("length of the path of weights", "L2 norm of weights"),
    "displacement": Outcome("displacement of weights", "L2 norm of weights"),
    "drift": Outcome("drift of weights", "relative L2 norm"),
    "reconstruction_error": Outcome("reconstruction error", "share of the norm of outputs"),
}
TEXT_MEASURES = {
    "distinct_1": Outcome("different words", "share of words"),
    "distinct_2": Outcome("different pairs of words", "share of pairs"),
    "distinct_3": Outcome("different triples of words", "share of triples"),
    "seq_rep_4": Outcome("repeated runs of four words", "share of runs"),
    "mattr": Outcome("different words in a window", "share of words"),
    "compression_ratio": Outcome("compression by zlib", "bytes / bytes after"),
    "loop_share": Outcome("words in a final loop", "share of words"),
    "self_bleu": Outcome("likeness of samples, self-BLEU", "0 to 100"),
    "nats_intact": Outcome("loss under the intact subject", _NATS),
    "words": Outcome("length", "words"),
    "empty_rate": Outcome("empty answers", _PERCENT, 100),
    "cap_rate": Outcome("answers cut at the limit", _PERCENT, 100),
    "accuracy": Outcome("correct answers", _PERCENT, 100),
    "parse_failure_rate": Outcome("unreadable answers", _PERCENT, 100),
}
"""Measures of generated text, which follow the name of a task in the name of a column: `dreams_it.distinct_2`."""


OUTCOMES |= {
    f"flips_{constraint}_{arm}": Outcome(f"flips to collapse, {rule.label}: {it.label}", "flips")
    for constraint, rule in CONSTRAINTS.items() for arm, it in ARMS.items()
}  # fmt: skip
OUTCOMES |= {
    f"log10_factor_{constraint}_{arm}": Outcome(f"flips to collapse, {rule.label}: {it.label} over the search", "powers of ten")
    for constraint, rule in CONSTRAINTS.items() for arm, it in ARMS.items() if arm != SEARCH
}  # fmt: skip
OUTCOMES |= {
    f"{attack}_over_{other}_{norm}": Outcome(
        f"loss by {ATTACKS[attack].label} less that by {ATTACKS[other].label}, {it.label}", _NATS
    )
    for attack, other in (("fgsm", "random"), ("pgd", "fgsm")) for norm, it in NORMS.items()
}  # fmt: skip

BENCHMARK_METRICS = {
    "acc": Outcome("correct answers", _PERCENT, 100),
    "accuracy": Outcome("correct answers", _PERCENT, 100),
    "acc_norm": Outcome("correct, length-normalised", _PERCENT, 100),
    "perplexity": Outcome("perplexity", "exp of mean loss"),
    "token_accuracy": Outcome("correct tokens", _PERCENT, 100),
    "word_perplexity": Outcome("perplexity", "per word"),
    "byte_perplexity": Outcome("perplexity", "per byte"),
    "bits_per_byte": Outcome("loss", "bits/byte"),
}
"""Metrics of benchmarks."""


def outcome_of(name: str) -> Outcome:
    """How an outcome is written; what is not listed is shown as it was recorded."""
    measure = name.rpartition(".")[2]
    if measure.startswith("accuracy_"):
        return Outcome(f"correct answers, {words(measure.removeprefix('accuracy_'))}", _PERCENT, 100)
    if excess := re.fullmatch(r"excess_(\w+)_k(\d+)", measure):
        return Outcome(f"excess of {metric_of(excess[1])}, k = {int(excess[2]):,}", _NATS)
    return OUTCOMES.get(name) or TEXT_MEASURES.get(measure) or Outcome(words(name), "as recorded")


def method_of(name: str) -> Method:
    """How a method of perturbation and its dose are written; what is not listed is shown by its name."""
    return METHODS.get(name) or Method(words(name), "", "dose", "as recorded", -math.inf, math.inf, math.nan)


def metric_of(name: str) -> str:
    """How a metric is written; what is not listed is shown by its name."""
    return say(name, METRICS)


def benchmark_metric_of(name: str) -> Outcome:
    """How a metric of a benchmark is written; what is not listed is shown as it was recorded."""
    return BENCHMARK_METRICS.get(name) or outcome_of(name)


def words(name: str) -> str:
    """A name as a reader would write it."""
    return re.sub(r"(?<=[a-z])\.(?=[a-z])", " ", name.replace("_", " "))


def sentence(text: str) -> str:
    """A text with a capital."""
    return text[:1].upper() + text[1:]


def ordered(found: set[str], known: Mapping[str, object]) -> list[str]:
    """Names in the order of a catalogue, then those that it lacks."""
    return [name for name in known if name in found] + sorted(found - set(known))


def say(name: str, known: Mapping[str, Labelled]) -> str:
    """How a name of a catalogue is written; what is not listed is shown as it is, in words."""
    return known[name].label if name in known else words(name)


def rank_in(name: str, known: Mapping[str, object]) -> int:
    """Place in a catalogue; what it lacks comes last."""
    return list(known).index(name) if name in known else len(known)
