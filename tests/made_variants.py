"""Records of pruning and comparison runs, made without running anything."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import made
import made_maps
import numpy as np

from lit_degrade.records import tables

Rows = list[dict[str, Any]]
METHODS = {"magnitude": 2.0, "wanda": 1.0, "sparsegpt": 0.5}
"""Method -> how much it costs, of what Wanda costs."""
VARIANTS = {
    "as given": ("intact", 0.0), "pruned magnitude 0.5": ("pruned", 0.9), "pruned wanda 0.5": ("pruned", 0.4),
    "pruned sparsegpt 0.5": ("pruned", 0.2), "noise 0.01": ("perturbed", 0.004), "noise 0.05": ("perturbed", 0.11),
    "noise 0.2": ("perturbed", 1.9), "ablation 0.1": ("perturbed", 0.6), "bit flips 1e-6": ("perturbed", float("inf")),
    "fgsm 0.1": ("attacked", 0.7), "pgd 0.1": ("attacked", 1.6), "random 0.1": ("attacked", -0.001),
    "noise 1e-5": ("perturbed", -0.0002),
}  # fmt: skip
"""Name -> kind, and nats per token that it costs."""
ANSWER = (
    "a context manager. For example:\n\n    with open('name', 'r') as file:\n        data = file.read()\n\nThe `__exit__` "
    'method is called with *args when the block ends, a | b, <b>even</b> if it raises "KeyError" & more; see also contextlib, '
    "the module for such things, and the reference."
)
"""Something like what the embedded subjects write."""


def pruning(method: str, sparsity: float, seed: int = 43, layers: int = 4) -> Rows:
    """Every matrix of a subject: reconstruction errors that grow with depth, none of the embedding."""
    rng = np.random.default_rng([seed, int(100 * sparsity)])
    found = []
    for site in made_maps.sites(layers):
        zeros = round(site.weights * sparsity)
        error = sparsity**2 * METHODS[method] ** 0.5 * (1 + (site.depth or 0) if isinstance(site.depth, int) else 1) / 3
        row: dict[str, Any] = {"parameter": site.parameter, "component": site.component, "depth": site.depth, "method": method}
        row |= {"scope": "tensor", "pattern": "", "structure": "", "weights": site.weights, "zeros": zeros}
        row |= {"sparsity": zeros / site.weights, "norm": 10.0, "norm_of_change": 10 * sparsity}
        found.append(row | {"reconstruction_error": "" if site.component == "embed" else error * rng.lognormal(0, 0.05)})
    return found


def pruned(
    results: Path, method: str, sparsity: float, seed: int = 43, lost: float | None = None, state: str = "done", **settings: Any
) -> Path:
    """One run of pruning; magnitude pruning costs the same under every seed."""
    rng = np.random.default_rng([seed, *method.encode()])
    if lost is None:
        lost = METHODS[method] * 12 * sparsity**5 * (1.0 if method == "magnitude" else float(rng.lognormal(0, 0.15)))
    facts: dict[str, Any] = {
        "method": method,
        "sparsity": sparsity,
        "sparsity_achieved": sparsity - 0.0004,
        "scope": "per_matrix",
    }
    facts |= {"log_perplexity_ratio": lost, "perplexity_post": 20 * float(np.exp(lost)), "relative_norm": sparsity}
    facts |= {"reconstruction_error": sparsity**2 * METHODS[method], "perplexity_pre": 20.0}
    prune = {"method": method, "sparsity": sparsity, **settings.pop("prune", {})}
    folder = made.record(results, "pruning", seed=seed, state=state, summary=facts, prune=prune, **settings)
    made.table(folder, tables.PRUNING, pruning(method, sparsity, seed))
    return folder


def prunings(
    results: Path, subjects: Sequence[str] = ("tiny-1m",), levels: Sequence[float] = (0.25, 0.5, 0.75), seeds: int = 3
) -> None:
    """A design: every method at every sparsity."""
    for subject in subjects:
        for method in METHODS:
            for sparsity in levels:
                for seed in range(43, 43 + seeds):
                    pruned(results, method, sparsity, seed, subject=subject)


def variants(seed: int = 43, answers: Mapping[str, str] | None = None) -> Rows:
    """Variants of one subject: attacks change no weights, one costs less than nothing, one is not finite."""
    rng, found = np.random.default_rng(seed), []
    for i, (name, (kind, cost)) in enumerate(VARIANTS.items()):
        lost = cost * float(rng.lognormal(0, 0.1))
        norm: float | str = {"intact": 0.0, "pruned": 0.4, "perturbed": 0.02 * i, "attacked": ""}[kind]
        row: dict[str, Any] = {"variant": name, "kind": kind, "sparsity": 0.5 if kind == "pruned" else ""}
        row |= {"relative_norm": "inf" if name.startswith("bit") else norm, "nats_per_token": 3 + lost}
        row |= {"log_perplexity_ratio": lost, "perplexity": float(np.exp(3 + lost)), "bits_per_byte": 1.5 + lost / 3}
        row |= {"token_accuracy": 0.4 / (1 + max(lost, 0))}
        found.append(row | {"answer": ANSWER if answers is None else answers.get(name, "")})
    return found


def benchmarks(variants: Sequence[str] = tuple(VARIANTS), seed: int = 43, levels: Sequence[float | str] = ("",)) -> Rows:
    """Results of two benchmarks, one of them by two codes; the later a variant or level, the worse."""
    rng, found = np.random.default_rng(seed), []
    kinds = (("hellaswag", "acc", "own"), ("hellaswag", "acc", "lm_eval"), ("hellaswag", "acc_norm", "own"))
    for i, name in enumerate(variants):
        for j, level in enumerate(levels):
            for repetition in range(3 if level != "" else 1):
                row: dict[str, Any] = {"variant": name, "method": "mult_gauss" if level != "" else "", "target": "attn_only"}
                row |= {"level": level, "level_index": j, "repetition": repetition, "items": 100}
                worse = 1 + (i / len(variants) if level == "" else j / len(levels))
                for benchmark, metric, source in kinds:
                    share = 0.25 + 0.2 / worse**3 + float(rng.normal(0, 0.01))
                    what = {"benchmark": benchmark, "metric": metric, "source": source}
                    found.append(row | what | {"value": share, "standard_error": (share * (1 - share) / 100) ** 0.5})
                what = {"benchmark": "wikitext", "metric": "word_perplexity", "source": "own"}
                value = float(300 * worse**4 * rng.lognormal(0, 0.02))
                found.append(row | what | {"value": value, "standard_error": "", "items": 8})
    return found


def compared(results: Path, seed: int = 43, answers: Mapping[str, str] | None = None, **settings: Any) -> Path:
    """One run that compares variants and has them do benchmarks."""
    folder = made.record(results, "comparison", seed=seed, **settings)
    made.table(folder, tables.VARIANTS, variants(seed, answers))
    made.table(folder, tables.BENCHMARKS, benchmarks(seed=seed))
    return folder
