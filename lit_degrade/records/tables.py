"""Every table of a run record, once: its file, what a line is about, and what stands in each column.

Writers, readers, figures and the reference page of the docs use the same objects. `RunRecord.save_table` refuses rows that do
not fit; what reads tables takes from here which columns are words and which are numbers.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from numbers import Real
from typing import Any, Literal

import numpy as np

Kind = Literal["word", "label", "text", "truth", "number", "maybe"]
"""word: text or a whole number, never empty; label: a word that may be empty; text: anything; truth: True or False; number:
never empty nor nan; maybe: a number that may be empty (not measured), nan or infinite (measured, without a finite value)."""


@dataclass(frozen=True)
class Column:
    """What stands in one column of a table."""

    name: str
    """`*` stands for any text: one column for each"""
    kind: Kind
    meaning: str
    unit: str = ""
    needed: bool = True
    """whether a table without it cannot be read; otherwise it is there where it was asked for or can be measured"""


@dataclass(frozen=True, eq=False)
class Schema:
    """A table of a run record, with a line for each thing that `key` tells apart. As text and as a path it is its file."""

    file: str
    meaning: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    """columns that tell the lines of one run apart"""
    may_be_empty: bool = False
    """whether a table without lines is a result"""

    def __str__(self) -> str:
        """Name of the file."""
        return self.file

    __fspath__ = __str__

    def names(self, kind: Kind) -> list[str]:
        """Columns of a kind that a table must have to be read."""
        return [column.name for column in self.columns if column.needed and column.kind == kind]

    def column(self, name: str) -> Column | None:
        """What a column is, or None if the table has no such column."""
        matching = (column for column in self.columns if column.name == name or fnmatchcase(name, column.name))
        return next(matching, None)

    def check(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Raise: ValueError for rows that do not fit: unknown, missing or wrongly filled columns.

        Rows with one key are no fault of a run that was asked for one thing twice; what reads them counts the first.
        """
        for name in dict.fromkeys(name for row in rows for name in row):
            column = self.column(name)
            if column is None:
                raise ValueError(f"{self} has no column '{name}'; it has {', '.join(c.name for c in self.columns)}")
            wrong = [row[name] for row in rows if name in row and not _fits(row[name], column.kind)]
            if wrong:
                raise ValueError(f"{self}, column '{name}': expected a {column.kind}, got {wrong[0]!r}")
        for row in rows:
            if lacking := [column.name for column in self.columns if column.needed and column.name not in row]:
                raise ValueError(f"{self}: a row lacks {', '.join(lacking)}: {dict(row)}")


def _fits(value: Any, kind: Kind) -> bool:
    true_or_false = isinstance(value, bool | np.bool_)
    number = isinstance(value, Real) and not true_or_false
    match kind:
        case "word":
            return isinstance(value, str | int) and value != "" and not true_or_false
        case "label":
            return value is None or isinstance(value, str) or true_or_false
        case "text":
            return True
        case "truth":
            return true_or_false
        case "number":
            return number and not math.isnan(value)
        case "maybe":
            return value is None or number or true_or_false


def word(name: str, meaning: str) -> Column:
    """A column of words that are never empty."""
    return Column(name, "word", meaning)


def label(name: str, meaning: str, needed: bool = True) -> Column:
    """A column of words that may be empty."""
    return Column(name, "label", meaning, "", needed)


def truth(name: str, meaning: str, needed: bool = True) -> Column:
    """A column of True and False."""
    return Column(name, "truth", meaning, "", needed)


def number(name: str, meaning: str, unit: str = "", needed: bool = True) -> Column:
    """A column of numbers that are never empty."""
    return Column(name, "number", meaning, unit, needed)


def maybe(name: str, meaning: str, unit: str = "", needed: bool = True) -> Column:
    """A column of numbers that may be empty."""
    return Column(name, "maybe", meaning, unit, needed)


_PARAMETER = word("parameter", "tensor of the subject, by its name")
_COMPONENT = word("component", "kind of matrix, as `list targets` names them")
_DEPTH = maybe("depth", "layer, from 0 at the input; empty outside of the layers")
_METHOD = word("method", "of `list perturbations`")
_LEVEL = number("level", "dose asked for", "that of the method")
_PART = word("part", "of `list parts`")
_DRAW = number("draw", "number of the random draw, from 0")
_WEIGHTS = "weights that are perturbed"
_NORM_OF_CHANGE = "L2 norm of the change of the weights"
_RELATIVE_NORM = "L2 norm of the change / that of the weights that it is about"
DAMAGE = "log_perplexity_ratio"
"""Nats per token that a dose costs on held-out text; a dose without a finite one diverged."""
_LOSS = (
    maybe("nats_per_token", "mean negative log-likelihood of the probe", "nats per token", needed=False),
    maybe(DAMAGE, "what the damage costs: nats per token on the probe minus those of the intact subject", "nats per token"),
    maybe("perplexity", "exp of the nats per token", needed=False),
    maybe("bits_per_byte", "of the probe's text", "bits per byte", needed=False),
)
_ACCURACY = "share of the probe's tokens that are the most likely ones"
_LIKELIHOOD = (*_LOSS, maybe("token_accuracy", _ACCURACY, "share", needed=False))
_SAID = (*_LOSS, maybe("token_accuracy", _ACCURACY, "share"))
_TEXT = (
    maybe("distinct_*", "unique n-grams of words / n-grams, for n = 1, 2, 3", "share", needed=False),
    maybe("seq_rep_4", "share of the 4-grams of words that were said before", "share", needed=False),
    maybe("mattr", "type-token ratio, averaged over windows of 25 words", "share", needed=False),
    maybe("compression_ratio", "UTF-8 bytes / bytes after zlib", needed=False),
    maybe("loop_share", "share of the words that belong to the loop in which the text ends", "share", needed=False),
    maybe("words", "number of words", "words", needed=False),
)
_AT_A_DOSE = (
    word("variant", "name of the perturbation"),
    number("level_index", "number of the level, from 0 for the first"),
    number("repetition", "number of the repetition, from 0"),
)

COURSE = Schema(
    "metrics.csv",
    "what was logged at a step of training; other runs have one line",
    (number("step", "optimizer steps so far", "steps"), maybe("*", "what was logged, by its name", needed=False)),
    key=("step",),
)
STIMULI = Schema(
    "stimuli.csv",
    "the gradient of a stimulus",
    (
        number("seed", "of the stimulus"),
        word("stimulus", "of `list stimuli`, or random_swap: as many random changes as the search made"),
        maybe("null_energy", "share of the squared gradient that lies in the null space", "share"),
        maybe("signal_energy", "share of the squared gradient that lies in the signal subspace", "share"),
        maybe("gradient_norm", "L2 norm of the gradient of the loss on the stimulus"),
        maybe("nats_per_token", "loss on the stimulus", "nats per token"),
        maybe("evaluations", "candidates that a search has evaluated", needed=False),
        maybe("tokens_changed", "share of the tokens that a search has changed", "share", needed=False),
    ),
    key=("seed", "stimulus"),
)
DIRECTIONS = Schema(
    "directions.csv",
    "the certificate of a null direction v, measured with the Hessian H",
    (
        number("direction", "number of the direction, from 0"),
        maybe("hv_norm", "‖Hv‖"),
        maybe("rayleigh", "vᵀHv"),
        maybe("hv_norm_over_lambda_max", "‖Hv‖ / |λ_max|"),
        maybe("rayleigh_over_lambda_max", "vᵀHv / |λ_max|"),
        maybe("hv_norm_over_random_median", "‖Hv‖ / its median over random directions"),
        maybe("share_of_random_below", "share of the random directions with a smaller ‖Hv‖", "share"),
    ),
    key=("direction",),
)
CERTIFICATES = Schema(
    "certificates.csv",
    "the curvature of the loss on a text, with the Hessian H, along a random unit vector v of a part of weight space",
    (
        _PART,
        word("text", "calibration: what the flat subspace was taken from; held_out; random_tokens"),
        _DRAW,
        maybe("hv_norm", "‖Hv‖"),
        maybe("rayleigh", "vᵀHv"),
        maybe("hv_norm_over_lambda_max", "‖Hv‖ / |λ_max| of the calibration text", needed=False),
        maybe("rayleigh_over_lambda_max", "vᵀHv / |λ_max| of the calibration text", needed=False),
    ),
    key=("part", "text", "draw"),
)
FLATNESS = Schema(
    "flatness.csv",
    "what a random change of the block matrices of a given size costs, drawn from a part of weight space",
    (
        _PART,
        number("relative_norm", _RELATIVE_NORM),
        number("norm_of_change", _NORM_OF_CHANGE),
        _DRAW,
        *_LIKELIHOOD,
    ),
    key=("part", "relative_norm", "draw"),
)
DOSES = Schema(
    "doses.csv",
    "what a dose of a perturbation does; the text measures are means over a task's prompts",
    (
        _AT_A_DOSE[0],
        _METHOD,
        word("target", "of `list targets`"),
        _LEVEL,
        number("level_index", "number of the level, from 0 for the first", needed=False),
        _AT_A_DOSE[2],
        truth("random", "whether chance decides what this dose does"),
        maybe("weights", _WEIGHTS, needed=False),
        maybe("changed", "weights with another value afterwards", needed=False),
        maybe("nonfinite", "weights that are infinite or not a number afterwards", needed=False),
        maybe("dose_achieved", "dose measured on the stored weights, mean over weights", "that of the method", needed=False),
        maybe("norm_of_change", _NORM_OF_CHANGE, needed=False),
        maybe("relative_norm", _RELATIVE_NORM, needed=False),
        *_LIKELIHOOD,
        maybe("kl_from_intact", "KL(intact ‖ damaged) of the next token, mean over tokens", "nats per token", needed=False),
        maybe("rank_reduction", "1 - effective rank of the last layer / that of the intact subject", "share", needed=False),
        maybe("*.accuracy", "share of a task's items that are right", "share", needed=False),
        maybe("*.accuracy_*", "the same for a group of items", "share", needed=False),
        maybe("*.parse_failure_rate", "share of the answers in which no choice was found", "share", needed=False),
        maybe("*.self_bleu", "BLEU of each text with the others of its prompt as references", "0 to 100", needed=False),
        maybe("*.nats_intact", "loss of the text under the intact subject", "nats per token", needed=False),
        maybe("*.empty_rate", "share of the texts without a word", "share", needed=False),
        maybe("*.cap_rate", "share of the texts that ended at the most tokens allowed", "share", needed=False),
        *(maybe(f"*.{c.name}", c.meaning, c.unit, needed=False) for c in _TEXT),
    ),
    key=("variant", "method", "target", "level", "repetition"),
)
EDITS = Schema(
    "edits.csv",
    "what a dose does to one matrix",
    (
        *_AT_A_DOSE,
        _PARAMETER,
        _COMPONENT,
        _DEPTH,
        word("format", "how the matrix is stored: fp32, bf16, fp16, int8 or nf4"),
        number("dose_asked", "dose asked for", "that of the method"),
        maybe("dose_achieved", "dose measured on the stored weights", "that of the method"),
        number("weights", "weights of the matrix, or chosen there"),
        number("changed", "weights with another value afterwards"),
        number("nonfinite", "weights that are infinite or not a number afterwards"),
        maybe("norm", "L2 norm of the weights before"),
        maybe("norm_of_change", _NORM_OF_CHANGE),
    ),
    key=("variant", "level_index", "repetition", "parameter", "component"),
)
EXCHANGE_RATES = Schema(
    "exchange_rates.csv",
    "the dose at which a perturbation costs what was asked for",
    (
        _METHOD,
        word("target", "of `list targets`"),
        number("repetition", "number of the repetition, from 0"),
        truth("random", "whether chance decides what a dose does"),
        maybe("level", "the dose; empty where none costs so much", "that of the method"),
        maybe("relative_norm", _RELATIVE_NORM),
        maybe("nats_lost", "what was measured at that dose", "nats per token"),
        maybe("weights", _WEIGHTS),
        truth("reached", "whether any dose costs so much"),
        maybe("nats_at_maximum", "what the largest dose costs", "nats per token"),
        number("cost", "what was asked for", "nats per token"),
    ),
    key=("method", "target", "cost", "repetition"),
)
SCORES = Schema(
    "scores.csv",
    "how a metric scores the weights of one matrix",
    (
        word("metric", "of `list metrics`"),
        _PARAMETER,
        label("component", "kind of matrix, as `list targets` names them"),
        _DEPTH,
        number("weights", "weights of the matrix"),
        maybe("mean", "mean score"),
        maybe("sd", "standard deviation of the scores"),
        maybe("zeros", "share of the scores that are 0", "share"),
        maybe("standard_error", "of a mean score, over batches of the calibration text", needed=False),
        maybe("q*", "quantile of the scores, in percent", needed=False),
        maybe("top_*", "how many of the weights with the k highest scores are in this matrix", needed=False),
    ),
    key=("metric", "parameter", "component", "depth"),
)
EFFECTS = Schema(
    "effects.csv",
    "what it costs to perturb a set of weights",
    (
        word("metric", "by which the set was chosen, of `list metrics`"),
        word("mode", "whether weights are ranked in all matrices together (global) or in each"),
        _METHOD,
        _LEVEL,
        word("arm", "top_k, or the control: matched_random_k, random_k, bottom_k"),
        number("k", "weights in the set"),
        _DRAW,
        truth("random", "whether chance decides the set or the change"),
        maybe("zero_scores", "share of the set with a score of 0", "share", needed=False),
        maybe(
            "matched",
            "share of a control drawn among weights of the same size (5 %); the rest is the nearest there is",
            "share",
        ),
        maybe("weights", _WEIGHTS, needed=False),
        maybe("norm_of_change", _NORM_OF_CHANGE),
        maybe("relative_norm", "L2 norm of the change / that of all weights", needed=False),
        *_LIKELIHOOD,
    ),
    key=("metric", "mode", "method", "level", "arm", "k", "draw"),
)
STABILITY = Schema(
    "stability.csv",
    "how much two rankings have in common at the top",
    (
        word("kind", "what the two differ in: batches of text, metrics, or subjects"),
        word("metric", "of the first ranking"),
        word("other", "metric of the second ranking"),
        word("a", "first: number of the batch, metric, or subject"),
        word("b", "second, likewise"),
        number("k", "weights at the top"),
        maybe("jaccard", "size of the intersection / that of the union", "share"),
        maybe("jaccard_chance", "the same expected of random sets", "share"),
        maybe("jaccard_corrected", "(jaccard - chance) / (1 - chance)"),
        maybe("kendall_tau", "Kendall's tau-b of the scores of the union"),
        maybe("rbo", "rank-biased overlap"),
    ),
    key=("kind", "metric", "other", "a", "b", "k"),
)
CORRELATIONS = Schema(
    "correlations.csv",
    "Spearman's correlation of mean scores",
    (
        word("kind", "metrics: of sites between metrics; depths: of components between depths"),
        label("metric", "whose scores are compared between depths"),
        word("a", "first metric or depth"),
        word("b", "second metric or depth"),
        maybe("n", "sites, or components"),
        maybe("spearman", "correlation of ranks"),
    ),
    key=("kind", "metric", "a", "b"),
)
CLUSTERS = Schema(
    "clusters.csv",
    "where a matrix belongs among all",
    (
        _PARAMETER,
        label("component", "kind of matrix, as `list targets` names them"),
        _DEPTH,
        maybe("weights", "weights of the matrix"),
        maybe("kmeans", "number of its cluster by K-means"),
        maybe("dbscan", "number of its cluster by DBSCAN; -1: none"),
        maybe("silhouette", "of its K-means label"),
        maybe("x", "first principal component of its scores"),
        maybe("y", "second principal component of its scores"),
    ),
    key=("parameter", "component", "depth"),
)
CLUSTER_EFFECTS = Schema(
    "cluster_effects.csv",
    "what it costs to perturb weights that are drawn from one cluster",
    (
        word("algorithm", "kmeans or dbscan"),
        number("cluster", "number of the cluster"),
        maybe("sites", "matrices in the cluster"),
        _METHOD,
        _LEVEL,
        number("k", "weights that were drawn"),
        _DRAW,
        maybe("weights", _WEIGHTS),
        maybe("norm_of_change", _NORM_OF_CHANGE, needed=False),
        maybe("relative_norm", "L2 norm of the change / that of all weights", needed=False),
        *_LIKELIHOOD,
    ),
    key=("algorithm", "cluster", "method", "level", "k", "draw"),
)
ABLATION = Schema(
    "ablation.csv",
    "what it costs to perturb one part of the subject",
    (
        word("unit", "name of the part"),
        word("kind", "layer, component or matrix"),
        label("component", "of a component or matrix, as `list targets` names them"),
        _DEPTH,
        label("parameter", "of a matrix"),
        _METHOD,
        _LEVEL,
        _DRAW,
        truth("random", "whether chance decides the change"),
        maybe("weights", _WEIGHTS),
        maybe("relative_norm", _RELATIVE_NORM),
        *_LIKELIHOOD,
    ),
    key=("kind", "unit", "parameter", "component", "depth", "method", "level", "draw"),
)
SUPER_WEIGHTS = Schema(
    "super_weights.csv",
    "a weight that may be a super weight",
    (
        maybe("order", "in which it was found, from 1; empty for one that was only published"),
        _PARAMETER,
        _DEPTH,
        number("row", "of the matrix: its output"),
        number("column", "of the matrix: its input"),
        maybe("value", "of the weight"),
        maybe("z", "distance from the mean of the matrix, in standard deviations", needed=False),
        maybe("output_ratio", "maximum of the largest output channel / that of the median one", needed=False),
        maybe("output_threshold", "margin times the largest such ratio of randomly initialised models", needed=False),
        maybe("input_ratio", "maximum of the largest input channel / that of the median one", needed=False),
        maybe("input_threshold", "margin times the largest such ratio of randomly initialised models", needed=False),
        maybe("share", "of the weight in the largest output", "share", needed=False),
        maybe("nats_lost", "what it costs to zero it", "nats per token"),
        maybe("nats_lost_control_mean", "mean over weights of the same size", "nats per token", needed=False),
        maybe("nats_lost_control_max", "largest of them", "nats per token", needed=False),
        maybe("controls", "how many of them", needed=False),
        maybe("p", "share of it and its controls that cost at least as much as it", "share"),
        truth("confirmed", "whether it costs more than all of its controls"),
        maybe("control_mean_abs_weight", "mean size of the controls", needed=False),
        label("published", "whether its coordinates are published for this subject; empty where none are"),
    ),
    key=("parameter", "row", "column"),
    may_be_empty=True,
)
SPIKES = Schema(
    "spikes.csv",
    "the largest activations of one matrix",
    (
        number("stage", "how many super weights had been zeroed before; -1: the intact subject again, at the end"),
        _DEPTH,
        _PARAMETER,
        maybe("input_max", "largest input, in absolute value"),
        maybe("input_channel", "its channel", needed=False),
        maybe("input_ratio", "it / the median channel's maximum", needed=False),
        maybe("input_threshold", "margin times the largest such ratio of randomly initialised models", needed=False),
        maybe("output_max", "largest output, in absolute value"),
        maybe("output_channel", "its channel", needed=False),
        maybe("output_ratio", "it / the median channel's maximum", needed=False),
        maybe("output_threshold", "margin times the largest such ratio of randomly initialised models", needed=False),
        maybe("weights", "weights of the matrix", needed=False),
        maybe("z_outliers", "weights more than 2.5 standard deviations from the mean of the matrix", needed=False),
    ),
    key=("stage", "depth", "parameter"),
)
PRUNING = Schema(
    "pruning.csv",
    "what pruning did to one matrix",
    (
        _PARAMETER,
        _COMPONENT,
        _DEPTH,
        word("method", "of `list pruning`, or a metric of `list metrics`"),
        label("scope", "in which weights are compared: tensor, row or global"),
        label("pattern", "n:m, if asked for"),
        label("structure", "what was pruned whole, if asked for"),
        number("weights", "weights of the matrix"),
        number("zeros", "weights that are 0 afterwards"),
        number("sparsity", "zeros / weights", "share"),
        maybe("norm", "L2 norm of the weights before"),
        maybe("norm_of_change", _NORM_OF_CHANGE),
        maybe("reconstruction_error", "‖(W - W')X‖ / ‖WX‖ with the intact subject's inputs X"),
    ),
    key=("parameter", "component"),
)
BIT_SENSITIVITY = Schema(
    "bit_sensitivity.csv",
    "what it costs to flip one bit",
    (
        _PARAMETER,
        _COMPONENT,
        _DEPTH,
        number("index", "flat position of the weight in its tensor"),
        word("choice", "how the weight was chosen"),
        word("format", "how the weight is stored: fp32, bf16, fp16, int8 or nf4"),
        number("bit", "number of the bit, from 0 for the lowest"),
        word("bit_class", "sign, exponent, mantissa, or code"),
        maybe("value", "of the weight before"),
        maybe("value_flipped", "of the weight afterwards"),
        truth("in_range", "whether the new value is no larger than the largest of its tensor"),
        maybe("nats_per_token", "mean negative log-likelihood of the probe", "nats per token", needed=False),
        _LOSS[1],
    ),
    key=("parameter", "index", "bit"),
)
BIT_PATTERNS = Schema(
    "bit_patterns.csv",
    "how often one bit is 1 in a matrix",
    (
        _PARAMETER,
        _COMPONENT,
        _DEPTH,
        word("format", "how the matrix is stored: fp32, bf16, fp16, int8 or nf4"),
        number("bit", "number of the bit, from 0 for the lowest"),
        word("bit_class", "sign, exponent, mantissa, or code"),
        number("ones", "share of the weights with this bit 1", "share"),
        number("entropy", "of the bit", "bits"),
    ),
    key=("parameter", "component", "bit"),
)
BIT_SEARCH = Schema(
    "bit_search.csv",
    "the loss after another flip of a search or a control",
    (
        word("constraint", "on the flips, of `list faults`"),
        word("arm", "the search or a control, of `list faults`"),
        _DRAW,
        number("flip", "number of the flip; 0 for the intact subject"),
        label("parameter", "tensor of the flip"),
        label("component", "kind of matrix, as `list targets` names them"),
        _DEPTH,
        maybe("index", "flat position of the weight in its tensor", needed=False),
        maybe("bit", "number of the bit, from 0 for the lowest"),
        label("bit_class", "sign, exponent, mantissa, or code"),
        maybe("value", "of the weight before", needed=False),
        maybe("value_flipped", "of the weight afterwards", needed=False),
        maybe("predicted", "loss that the search expected, on its own text", "nats per token"),
        *_SAID,
        truth("collapsed", "whether the accuracy is below the threshold"),
    ),
    key=("constraint", "arm", "draw", "flip"),
)
COLLAPSE = Schema(
    "flips_to_collapse.csv",
    "how many flips a search or a control needs",
    (
        word("constraint", "on the flips, of `list faults`"),
        word("arm", "the search or a control, of `list faults`"),
        _DRAW,
        number("flips", "flips until the collapse, or the budget", "flips"),
        truth("collapsed", "whether it came to that"),
        number("budget", "the most flips that were tried", "flips"),
        number("threshold", "token accuracy below which a subject has collapsed", "share"),
    ),
    key=("constraint", "arm", "draw"),
)
_ATTACKED = (
    *_SAID,
    maybe("argmax_changed", "share of the tokens of which the most likely one is another", "share", needed=False),
)
ADVERSARIAL = Schema(
    "adversarial.csv",
    "what a change of the input embeddings costs",
    (
        word("attack", "of `list attacks`, or random"),
        word("norm", "in which the change is bounded: linf or l2"),
        number("epsilon", "bound of the change", "that of the column unit"),
        maybe("epsilon_absolute", "bound of the change", "embedding units", needed=False),
        word("unit", "what epsilon is counted in: a typical embedding"),
        _DRAW,
        maybe("largest", "largest change / bound", "share"),
        *_ATTACKED,
    ),
    key=("attack", "norm", "epsilon", "draw"),
)
ADVERSARIAL_TOKENS = Schema(
    "adversarial_tokens.csv",
    "what it costs to change some tokens of the input",
    (
        word("attack", "how they are chosen: by gradient, or random"),
        number("changed", "tokens changed in each window", "tokens"),
        _DRAW,
        *_ATTACKED,
    ),
    key=("attack", "changed", "draw"),
)
BENCHMARKS = Schema(
    "benchmarks.csv",
    "the score of a benchmark at a dose",
    (
        word("variant", "name of the perturbation, or intact"),
        label("method", "of `list perturbations`, or none"),
        label("target", "of `list targets`"),
        maybe("level", "dose asked for; empty for the intact subject", "that of the method"),
        number("level_index", "number of the level, from 0 for the first"),
        number("repetition", "number of the repetition, from 0"),
        word("benchmark", "of `list benchmarks`, or text"),
        word("metric", "what is measured, by the name that lm-evaluation-harness gives it"),
        maybe("value", "of the metric", "that of the metric"),
        maybe("standard_error", "of the value, over items", "that of the metric"),
        number("items", "how many there were"),
        word("source", "own, or lm_eval: computed by lm-evaluation-harness"),
    ),
    key=("variant", "level_index", "repetition", "benchmark", "metric", "source"),
)
BENCHMARK_ITEMS = Schema(
    "benchmark_items.csv",
    "the answer to one item of a benchmark at a dose",
    (
        word("variant", "name of the perturbation, or intact"),
        number("level_index", "number of the level, from 0 for the first"),
        number("repetition", "number of the repetition, from 0"),
        word("benchmark", "of `list benchmarks`"),
        number("item", "number of the item, from 0"),
        Column("gold", "text", "the right answer: its number, or the text", "", needed=False),
        Column("chosen", "text", "number of the answer of the highest log-likelihood", "", needed=False),
        maybe("chosen_norm", "number of the answer of the highest log-likelihood per character", needed=False),
        maybe("correct*", "whether that is right", needed=False),
        maybe("log_likelihood*", "of the answers, in their order", "nats", needed=False),
        maybe("tokens", "of the text that was to be foretold", "tokens", needed=False),
        label("filter", "by which lm-evaluation-harness reads the answer", needed=False),
        Column("responses", "text", "what lm-evaluation-harness read, as JSON", "", needed=False),
    ),
    key=("variant", "level_index", "repetition", "benchmark", "item", "filter"),
)
VARIANTS = Schema(
    "variants.csv",
    "one variant of a subject beside the others",
    (
        word("variant", "its name"),
        word("kind", "intact, or what was done"),
        maybe("sparsity", "share of the weights that pruning zeroed", "share"),
        maybe("relative_norm", _RELATIVE_NORM),
        *_SAID,
        label("answer", "what it writes after the prompt"),
        maybe("answer_tokens", "length of that", "tokens", needed=False),
    ),
    key=("variant",),
)
GENERATIONS = Schema(
    "generations.csv",
    "the measures of one generated text",
    (
        *_AT_A_DOSE[:1],
        _LEVEL,
        *_AT_A_DOSE[1:],
        word("task", "of `list tasks`"),
        number("prompt_id", "number of the prompt in its task"),
        label("prompt_group", "group of the prompt"),
        *_TEXT,
        maybe("self_bleu", "BLEU with the other texts of its prompt as references", "0 to 100"),
        maybe("nats_intact", "loss of the text under the intact subject", "nats per token"),
        maybe("empty", "whether it has no word"),
        maybe("capped", "whether it ended at the most tokens allowed"),
        maybe("accuracy", "whether the answer is right", needed=False),
        maybe("parsed", "whether a choice was found in the answer", needed=False),
    ),
    key=("variant", "level_index", "repetition", "task", "prompt_id"),
)
ANSWERS = Schema(
    "answers.csv",
    "what a subject writes after a prompt",
    (
        word("subject", "intact, or what was done to it"),
        Column("text", "text", "the continuation"),
        number("tokens", "length of that", "tokens"),
        *_TEXT,
        Column("prompt", "text", "the prompt, where an attack has changed it", "", needed=False),
    ),
    key=("subject",),
)
TABLES = tuple(found for found in dict(globals()).values() if isinstance(found, Schema))
"""All of them."""
_SAID_OF = {
    "word": "text",
    "label": "text, or empty",
    "text": "text, or empty",
    "truth": "True or False",
    "number": "number",
    "maybe": "number, or empty",
}


_PAGE = """# The tables of a record

Made from `lit_degrade/records/tables.py` by `python -m lit_degrade.records.tables > docs/tables.md`. Every file is CSV in
UTF-8 in a run's folder, with a line of names; which analysis leaves which is on its page. An empty cell was not measured; nan
and inf were measured, and are no finite number. Columns in *italics* are there where they were asked for or could be
measured; `*` in a name stands for any text.
"""


def reference() -> str:
    """The page of the docs about all tables."""
    return "\n".join([_PAGE, *map(_chapter, TABLES)])


def _chapter(table: Schema) -> str:
    lines = [f"## `{table}`", "", f"A line: {table.meaning}. Told apart by {', '.join(f'`{name}`' for name in table.key)}."]
    lines += ["", "| column | what | unit | |", "|---|---|---|---|"]
    for column in table.columns:
        name, meaning = f"`{column.name}`", column.meaning.replace("|", r"\|")
        lines.append(f"| {name if column.needed else f'*{name}*'} | {meaning} | {column.unit} | {_SAID_OF[column.kind]} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(reference(), end="")
