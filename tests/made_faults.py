"""Tables of bit flips and adversarial inputs, made without running anything: high exponent bits and PGD cost the most."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import made
import numpy as np

from lit_degrade.records import tables

Rows = list[dict[str, Any]]
FORMATS = {
    "fp32": ("sign", *["exponent"] * 8, *["mantissa"] * 23),
    "fp16": ("sign", *["exponent"] * 5, *["mantissa"] * 10),
    "bf16": ("sign", *["exponent"] * 8, *["mantissa"] * 7),
    "int8": ("sign", *["code"] * 7),
    "nf4": ("sign", *["code"] * 3),
}
"""Format -> class of each bit, the highest first."""
COMPONENTS = ("attn_q", "attn_o", "mlp_up", "mlp_down")
ARMS = {"search": 1.0, "random": 200.0, "random_exponent": 30.0, "top_magnitude": 8.0}
"""Arm -> about how many times as many flips as the search it takes."""
SIZES = (0.001, 0.00316, 0.01, 0.0316, 0.1, 0.316)
THRESHOLD = 0.1


def classes(stored: str) -> list[tuple[int, str]]:
    """Bits of a format with their classes, the highest first."""
    found = FORMATS[stored]
    return [(len(found) - 1 - i, name) for i, name in enumerate(found)]


def sensitivity(
    stored: str = "fp32", weights: int = 24, seed: int = 43, choices: Sequence[str] = ("magnitude", "grad_x_weight", "random")
) -> Rows:
    """Each bit of some weights: the higher the more it costs; a third of the flips of the top exponent bit are not finite."""
    rng, rows = np.random.default_rng(seed), []
    for choice in choices:
        for i in range(weights):
            value = rng.normal(0, 0.02)
            for bit, name in classes(stored):
                size = 0.003 * 2.0 ** (bit - 22) if name == "mantissa" else 0.03 if name == "sign" else 0.01 * 2**bit
                if name == "exponent":
                    size = 0.3 ** (len(FORMATS[stored]) - 2 - bit)
                lost: float | str = 0.05 * size * rng.lognormal(0, 1.5) * rng.choice([1, 1, 1, -0.1])
                top = name == "exponent" and bit == len(FORMATS[stored]) - 2
                if top and rng.uniform() < 1 / 3:
                    lost = "nan"
                row: dict[str, Any] = {"parameter": f"layers.{i % 4}.{choice}", "component": COMPONENTS[i % 4], "depth": i % 4}
                row |= {"index": 7 * i, "choice": choice, "format": stored, "bit": bit, "bit_class": name, "value": value}
                row |= {"value_flipped": "inf" if top and lost == "nan" else value + size, "in_range": not top}
                rows.append(row | {"nats_per_token": "" if lost == "nan" else 3 + float(lost), "log_perplexity_ratio": lost})
    return rows


def patterns(stored: str = "fp32", layers: int = 4, seed: int = 43) -> Rows:
    """Shares of ones: high exponent bits are nearly always or never set, mantissa bits half the time."""
    rng, rows = np.random.default_rng(seed), []
    for depth in range(layers):
        for component in COMPONENTS:
            for bit, name in classes(stored):
                usual = (
                    {0: 0.5, 1: 0.0, 2: 1.0, 3: 0.99}.get(len(FORMATS[stored]) - 1 - bit, 0.6) if name != "mantissa" else 0.5
                )
                ones = float(np.clip(usual + rng.normal(0, 0.04), 0, 1))
                row: dict[str, Any] = {"parameter": f"layers.{depth}.{component}", "component": component, "depth": depth}
                entropy = -sum(p * np.log2(p) for p in (ones, 1 - ones) if p > 0)
                rows.append(row | {"format": stored, "bit": bit, "bit_class": name, "ones": ones, "entropy": entropy})
    return rows


def search(seed: int = 43, draws: int = 3, budget: int = 2000, needed: float = 12.0) -> tuple[Rows, Rows]:
    """Every flip of the searches, controls at powers of two, and where they end; without limits it takes a quarter."""
    rng, rows, ends = np.random.default_rng(seed), [], []
    for constraint, share in (("in_range", 1.0), ("free", 0.25)):
        for arm, factor in ARMS.items():
            for draw in range(1 if arm == "search" else draws):
                need = max(1, round(share * needed * factor * rng.lognormal(0, 0.25)))
                end = min(need, budget)
                flips = range(end + 1) if arm == "search" else sorted({0, end, *(2**i for i in range(12) if 2**i < end)})
                for flip in flips:
                    rows.append(_flipped(constraint, arm, draw, flip, need))
                last: dict[str, Any] = {"constraint": constraint, "arm": arm, "draw": draw, "flips": end, "budget": budget}
                ends.append(last | {"collapsed": need <= budget, "threshold": THRESHOLD})
    return rows, ends


def _flipped(constraint: str, arm: str, draw: int, flip: int, need: int) -> dict[str, Any]:
    done = min(1.0, flip / need)
    collapsed, lost = flip >= need, 6 * done**1.5
    row: dict[str, Any] = {"constraint": constraint, "arm": arm, "draw": draw, "flip": flip}
    row |= {"parameter": "layers.0.mlp" if flip else "", "component": "mlp_up" if flip else "", "depth": 0, "index": 3}
    row |= {"bit": 30 if flip else "", "bit_class": "exponent" if flip else "", "value": 0.1, "value_flipped": 0.2}
    broken = collapsed and constraint == "free" and arm == "random_exponent"
    row |= {"predicted": 0.3 if flip else "", "nats_per_token": 3 + lost, "log_perplexity_ratio": "inf" if broken else lost}
    row |= {"perplexity": float(np.exp(3 + lost)), "bits_per_byte": 1.0}
    return row | {"token_accuracy": 0.42 - (0.42 - 0.9 * THRESHOLD) * done, "collapsed": collapsed}


def adversarial(
    seed: int = 43, draws: int = 3, sizes: Sequence[float] = SIZES, norms: Sequence[str] = ("linf", "l2"), scale: float = 1.0
) -> Rows:
    """FGSM costs ten times as much as random noise and PGD twice as much as it; the last draw of the largest is not finite."""
    rng, rows = np.random.default_rng(seed), []
    for norm in norms:
        for attack, factor in (("random", 0.1), ("fgsm", 1.0), ("pgd", 2.0)):
            for size in sizes:
                for draw in range(draws if attack == "random" else 1):
                    lost: float | str = scale * factor * 30 * size ** (1.5 if norm == "linf" else 1.2) * rng.lognormal(0, 0.15)
                    if (attack, norm, size) == ("pgd", "l2", sizes[-1]) and seed % 2:
                        lost = "inf"
                    row: dict[str, Any] = {"attack": attack, "norm": norm, "epsilon": size, "epsilon_absolute": size / 50}
                    row |= {"unit": "embedding_rms" if norm == "linf" else "row_norm", "draw": draw, "largest": 1.0}
                    rows.append(row | _damage(lost))
    return rows


def tokens(seed: int = 43, draws: int = 3, counts: Sequence[int] = (1, 2, 4, 8, 16)) -> Rows:
    """Tokens by gradient cost three times as much as random ones, changed characters less."""
    rng, rows = np.random.default_rng(seed), []
    for attack, factor in (("gradient", 3.0), ("random", 1.0), ("characters", 0.6)):
        for changed in counts:
            for draw in range(1 if attack == "gradient" else draws):
                lost = 0.05 * factor * changed * rng.lognormal(0, 0.1)
                rows.append({"attack": attack, "changed": changed, "draw": draw} | _damage(lost))
    return rows


def _damage(lost: float | str) -> dict[str, Any]:
    share = 1 - float(np.exp(-float(lost)))
    row: dict[str, Any] = {"nats_per_token": 3 + float(lost), "log_perplexity_ratio": lost, "perplexity": ""}
    return row | {"bits_per_byte": 1.0, "token_accuracy": 0.42 * (1 - share), "argmax_changed": share}


def bit_run(results: Path, stored: str = "fp32", seed: int = 43, **settings: Any) -> Path:
    """A finished run with every table of bits."""
    folder = made.record(results, "bit_search", seed=seed, precision=stored, **settings)
    rows, ends = search(seed)
    left = {
        tables.BIT_SENSITIVITY: sensitivity(stored, seed=seed), tables.BIT_PATTERNS: patterns(stored, seed=seed),
        tables.BIT_SEARCH: rows, tables.COLLAPSE: ends,
    }  # fmt: skip
    for schema, found in left.items():
        made.table(folder, schema, found)
    return folder


def adversarial_run(results: Path, seed: int = 43, scale: float = 1.0, **settings: Any) -> Path:
    """A finished run with both tables of adversarial inputs."""
    folder = made.record(results, "adversarial", seed=seed, **settings)
    made.table(folder, tables.ADVERSARIAL, adversarial(seed, scale=scale))
    made.table(folder, tables.ADVERSARIAL_TOKENS, tokens(seed))
    return folder
