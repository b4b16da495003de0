"""How outcomes and conditions are written on a figure: labels, units, and names in plain words."""

import re
from collections.abc import Mapping
from typing import NamedTuple


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


class Method(NamedTuple):
    """How a method of perturbation and its dose are written."""

    label: str
    dose: str
    """what a level is"""
    unit: str

    @property
    def axis(self) -> str:
        """Dose with unit."""
        return f"{self.dose} [{self.unit}]"


METHODS = {
    "mult_gauss": Method("multiplicative noise", "σ of Gaussian noise", "× each weight"),
    "add_gauss": Method("additive noise", "σ of Gaussian noise", "× that of the tensor"),
    "add_gauss_absolute": Method("additive noise, absolute", "σ of Gaussian noise", "unit of weights"),
    "ablation": Method("random ablation", "zeroed by chance", "share of weights"),
    "zero": Method("zeroing", "zeroed at random, exactly", "share of weights"),
    "prune_magnitude": Method("magnitude pruning", "smallest zeroed", "share of weights"),
    "sign_flip": Method("sign flips", "signs flipped", "share of weights"),
    "uni_quant": Method("quantisation by tensor", "values per tensor", "number"),
    "uni_quant_channel": Method("quantisation by channel", "values per channel", "number"),
    "bit_flip": Method("bit flips", "stored bits flipped", "share of bits"),
}
"""Methods of perturbation, in the order in which they are listed."""
METRICS = {
    "random": "random scores",
    "magnitude": "magnitude",
    "act_mag": "magnitude × activation",
    "grad_x_weight": "gradient × weight",
    "grad_squared": "squared gradient",
    "hutchinson_diag": "Hessian diagonal",
    "hessian_saliency": "Hessian saliency",
}
"""Metrics of how critical a weight is, in the order in which they are listed."""
ARMS = {
    "top_k": "highest scores",
    "matched_random_k": "random, of the same magnitudes",
    "random_k": "random",
    "bottom_k": "lowest scores other than 0",
}
"""Which weights are perturbed: the treated set, then its controls."""
MODES = {"global": "of all weights", "per_layer": "of each matrix"}
"""Of what a set of weights has the highest scores."""


CONSTRAINTS = {"in_range": "values stay in range", "free": "any value"}
"""What a flipped bit may make of a weight."""
FLIP_ARMS = {
    "search": "gradient search",
    "random": "random bits",
    "random_exponent": "random exponent bits",
    "top_magnitude": "largest weights",
}
"""How bits to flip are chosen: the search, then its controls."""
OUTCOMES |= {
    f"flips_{constraint}_{arm}": Outcome(f"flips to collapse, {rule}: {label}", "flips")
    for constraint, rule in CONSTRAINTS.items() for arm, label in FLIP_ARMS.items()
}  # fmt: skip
OUTCOMES |= {
    f"log10_factor_{constraint}_{arm}": Outcome(f"flips to collapse, {rule}: {label} over the search", "powers of ten")
    for constraint, rule in CONSTRAINTS.items() for arm, label in FLIP_ARMS.items() if arm != "search"
}  # fmt: skip
ATTACKS = {"random": "random noise", "fgsm": "FGSM", "pgd": "PGD"}
"""How embeddings of the input are changed: the control, then the attacks."""
TOKEN_ATTACKS = {"random": "random tokens", "gradient": "tokens by gradient", "characters": "swapped letters"}
"""How tokens of the input are changed: the control, then the attacks."""
NORMS = {"linf": "L\N{INFINITY}", "l2": "L2"}
"""In what the change of an embedding is measured."""
UNITS = {"embedding_rms": "× RMS of embeddings", "row_norm": "× median row length"}
"""Of the size of such a change."""
OUTCOMES |= {
    f"{attack}_over_{other}_{norm}": Outcome(f"loss by {ATTACKS[attack]} less that by {ATTACKS[other]}, {label}", _NATS)
    for attack, other in (("fgsm", "random"), ("pgd", "fgsm")) for norm, label in NORMS.items()
}  # fmt: skip

PRUNERS = {"wanda": "Wanda", "sparsegpt": "SparseGPT"}
"""Methods of pruning that are no metrics."""
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
    """How a method is written; what is not listed is shown by its name."""
    return METHODS.get(name, Method(words(name), "dose", "as recorded"))


def metric_of(name: str) -> str:
    """How a metric is written; what is not listed is shown by its name."""
    return METRICS.get(name, words(name))


def pruner_of(name: str) -> str:
    """How a method of pruning is written; what is not listed is shown by its name."""
    return PRUNERS.get(name, metric_of(name))


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


def say(name: str, known: Mapping[str, str]) -> str:
    """How a name is written; what is not listed is shown as it is, in words."""
    return known.get(name, words(name))


def rank_in(name: str, known: Mapping[str, object]) -> int:
    """Place in a catalogue; what it lacks comes last."""
    return list(known).index(name) if name in known else len(known)
