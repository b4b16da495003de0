"""Run records made without running anything, by the code that writes real ones."""

import csv
import json
from collections.abc import Mapping, Sequence
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from lit_degrade.records import paths
from lit_degrade.records.conditions import conditions
from lit_degrade.records.plan import write_plan
from lit_degrade.records.run_record import RunRecord

SIZES = {"tiny-60k": 63_648, "tiny-250k": 281_152, "tiny-1m": 1_055_488, "tiny-3m": 3_062_784}


def config_of(results: Path, experiment: str, seed: int = 43, **settings: Any) -> dict[str, Any]:
    """A resolved config with the settings that claims mention; those with another place than the module's go there."""
    top = {key: settings.pop(key) for key in ("subject", "precision", "adapter", "attacked_by") if key in settings}
    trainer = {"max_steps": settings.pop("steps", 100), "gradient_clip_val": settings.pop("gradient_clip", None)}
    return {
        "seed_everything": seed, "experiment": experiment, "results": str(results), "subject": "tiny-1m", "precision": "fp32",
        "adapter": "full", "attacked_by": "", **top, "trainer": trainer, "text": {"source": "stdlib", "block": 128},
        "model": {"class_path": "AttackModule", "init_args": {"optimizer": "adamw", "lr": 1e-4, **settings}},
    }  # fmt: skip


def record(
    results: Path,
    experiment: str = "priority2",
    seed: int = 43,
    state: Any = "done",
    summary: Mapping[str, Any] | None = None,
    metrics: Sequence[Mapping[str, float]] = (),
    **settings: Any,
) -> Path:
    """Write one run record; returns its folder."""
    made = RunRecord("fit", config_of(results, experiment, seed, **settings))
    made.open()
    subject = made.config["subject"]
    facts = {"subject": subject, "n_parameters": SIZES.get(subject, 1000), "seed": seed, "probe_tokens": 4096, "rank_layer": 1}
    facts |= {"rank_tokens": 1024, "optimizer_used": made.config["model"]["init_args"]["optimizer"]}
    made.add(**facts, **(summary or {}))
    made.hashes["text"] = "same"
    for row in metrics:
        made.log(int(row["step"]), {key: value for key, value in row.items() if key != "step"})
    return made.close(state, "" if state == "done" else "made so")


def damage(ratio: float, rank: float, pre: float = 24.0) -> dict[str, float]:
    """Outcomes of an attack that costs `ratio` nats per token and this share of effective rank."""
    return {
        "log_perplexity_ratio": ratio, "perplexity_pre": pre, "perplexity_post": pre * float(np.exp(ratio)),
        "perplexity_increase": float(np.expm1(ratio)), "rank_reduction": rank, "rank_change_absolute": abs(rank),
        "effective_rank_pre_layer1": 90.0, "effective_rank_post_layer1": 90.0 * (1 - rank), "kl_from_intact": abs(ratio),
    }  # fmt: skip


def trajectory(ratio: float, rank: float) -> list[dict[str, float]]:
    """Metrics of such an attack."""
    return [
        {"step": s, "probe_nats_per_token": 3 + ratio * s / 100, "effective_rank_layer1": 90 * (1 - rank * s / 100)}
        for s in range(0, 101, 25)
    ]


def spectra(folder: Path, seed: int = 0) -> None:
    """Spectra before and after, beside a record's other files."""
    rng = np.random.default_rng(seed)
    decay = np.sort(np.exp(-np.arange(32) / 8) * rng.uniform(0.9, 1.1, 32))[::-1].copy()
    save_file({"step00000/layer01": decay, "step00100/layer01": decay[::-1].cumsum()[::-1].copy()}, folder / paths.SPECTRA)


def plan(results: Path, name: str, configs: Sequence[Mapping[str, Any]]) -> None:
    """Say that a sweep asked for the runs of these configs."""
    made = [RunRecord("fit", config) for config in configs]
    folder = results / paths.SWEEPS / name
    folder.mkdir(parents=True)
    write_plan(folder, f"sweeps/{name}.yaml", {run.run_id: (run.folder, conditions(run.config)) for run in made})


def placebo(results: Path, seeds: int = 5, **means: float) -> None:
    """A placebo experiment: for each stimulus the mean damage, with noise of 0.02 nats and rank that rises by 1 to 2 %."""
    for i, (stimulus, mean) in enumerate(means.items()):
        for seed in range(43, 43 + seeds):
            rng = np.random.default_rng([seed, i])
            ratio, rank = rng.normal(mean, 0.02), -rng.uniform(0.01, 0.02)
            folder = record(results, seed=seed, stimulus=stimulus, summary=damage(ratio, rank), metrics=trajectory(ratio, rank))
            spectra(folder, seed)


VARIANTS = {
    "gauss_attn": ("mult_gauss", "attn_only", (0.0, 0.2, 0.5, 1.0, 1.4)),
    "gauss_mlp": ("mult_gauss", "mlp_only", (0.0, 0.1, 0.3, 0.5)),
    "gauss_embed": ("mult_gauss", "embed_only", (0.0, 0.25, 0.5, 0.75, 1.0)),
    "ablation_attn": ("ablation", "attn_only", (0.0, 0.2, 0.4, 0.6, 0.8)),
    "quant_attn": ("uni_quant", "attn_only", (float("inf"), 1024, 256, 64, 16, 4)),
    "bits_all": ("bit_flip", "all", (0.0, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4)),
}
"""Name -> method, target, levels from the weakest."""
TEXTS = {
    "dreams_it": ("distinct_1", "distinct_2", "seq_rep_4", "mattr", "compression_ratio", "loop_share", "self_bleu",
                  "nats_intact", "empty_rate", "cap_rate"),
    "iq_it": ("accuracy", "accuracy_maths", "accuracy_language", "parse_failure_rate"),
}  # fmt: skip
"""Task -> its measures."""


def doses(
    names: Sequence[str] = tuple(VARIANTS),
    repetitions: int = 3,
    seed: int = 43,
    size: float = 1.0,
    tasks: Sequence[str] = tuple(TEXTS),
) -> list[dict[str, Any]]:
    """Doses of some variants: what they cost grows with the fourth power of how far the level is, and varies by a fifth."""
    rng, rows = np.random.default_rng(seed), []
    for name in names:
        method, target, levels = VARIANTS[name]
        for i, level in enumerate(levels):
            random = i > 0 and method != "uni_quant"
            once = rng.lognormal(0, 0.2)
            for repetition in range(repetitions):
                damage = size * 6 * (i / (len(levels) - 1)) ** 4 * (rng.lognormal(0, 0.2) if random else once)
                share = damage / (1 + damage)
                row = {"variant": name, "method": method, "target": target, "level": level, "level_index": i}
                row |= {"repetition": repetition, "random": random, "dose_achieved": level, "relative_norm": i / 10}
                row |= {"nats_per_token": 3 + damage, "log_perplexity_ratio": damage, "perplexity": float(np.exp(3 + damage))}
                row |= {"token_accuracy": 0.4 * (1 - share), "kl_from_intact": damage / 2}
                row |= {f"{task}.{measure}": _text_measure(measure, share) for task in tasks for measure in TEXTS[task]}
                rows.append(row)
    return rows


def _text_measure(measure: str, share: float) -> float:
    """Something in the range of a measure, for a subject that has lost this share."""
    scale = {"nats_intact": 8, "self_bleu": 60, "compression_ratio": 4}.get(measure, 1)
    rises = measure in ("seq_rep_4", "loop_share", "self_bleu", "nats_intact", "empty_rate", "cap_rate", "parse_failure_rate")
    return scale * (share if rises else 0.9 * (1 - share) + 0.05)


def exchange_rates(
    methods: Sequence[str], targets: Sequence[str], repetitions: int = 3, seed: int = 43, size: float = 1.0
) -> list[dict[str, Any]]:
    """Exchange rates: the later a method, the larger the change it takes; the last reaches it at every other target."""
    rng, rows = np.random.default_rng(seed), []
    for i, method in enumerate(methods):
        for j, target in enumerate(targets):
            random = not method.startswith(("uni_quant", "prune"))
            reached = bool(i < len(methods) - 1 or j % 2)
            once = rng.lognormal(0, 0.1)
            for repetition in range(repetitions):
                norm = size * 0.02 * 1.3**i * 1.2**j * (rng.lognormal(0, 0.1) if random else once)
                row: dict[str, Any] = {"method": method, "target": target, "repetition": repetition, "random": random}
                row |= {
                    "level": norm * 10 if reached else "",
                    "relative_norm": norm if reached else "",
                    "weights": 1000 * (j + 1),
                }
                row |= {"nats_lost": 0.1001 if reached else "", "reached": reached, "cost": 0.1}
                rows.append(row | {"nats_at_maximum": "" if reached else 0.03})
    return rows


def table(folder: Path, name: str, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Put a table beside a record's other files, as runs write them."""
    with (folder / name).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
    return folder / name


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


METRICS = ("random", "magnitude", "act_mag", "grad_x_weight", "grad_squared", "hutchinson_diag", "hessian_saliency")


def effects(
    metrics: Sequence[str] = METRICS,
    ks: Sequence[int] = (1, 10, 100, 1000, 10_000),
    draws: int = 5,
    seed: int = 43,
    modes: Sequence[str] = ("global", "per_layer"),
    methods: Sequence[str] = ("zero",),
) -> list[dict[str, Any]]:
    """Treated sets and controls: the later a metric, the more its highest weights cost; the lowest cost next to nothing."""
    rng, rows = np.random.default_rng(seed), []
    for method, mode in product(methods, modes):
        for (i, metric), k in product(enumerate(metrics), ks):
            usual = 0.002 * k**0.5
            arms = {"top_k": (1, usual * (1 + i**2)), "matched_random_k": (draws, usual)}
            arms |= {"random_k": (draws, usual / 2), "bottom_k": (1, usual / 50)}
            for arm, (n, nats) in arms.items():
                for draw in range(n):
                    lost = nats * rng.lognormal(0, 0.3)
                    norm = k**0.5 * {"top_k": 1.2, "matched_random_k": 1.1, "random_k": 1.0}.get(arm, 0.01)
                    row: dict[str, Any] = {"metric": metric, "mode": mode, "method": method, "level": 1.0, "arm": arm, "k": k}
                    row |= {"draw": draw, "random": n > 1, "weights": k * (1 if mode == "global" else 26), "zero_scores": 0.0}
                    row |= {"matched": 0.99 if arm == "matched_random_k" else ""}
                    row |= {"norm_of_change": norm, "relative_norm": norm / 1000, "nats_per_token": 3 + lost}
                    row |= {"log_perplexity_ratio": lost, "perplexity": float(np.exp(3 + lost)), "token_accuracy": 0.3}
                    rows.append(row)
    return rows


def stability(
    metrics: Sequence[str] = METRICS,
    ks: Sequence[int] = (10, 100, 1000, 10_000),
    batches: int = 3,
    subjects: Sequence[str] = (),
    seed: int = 43,
) -> list[dict[str, Any]]:
    """Agreement of rankings: of a metric with itself from other text, of metrics the more the nearer, and along subjects."""
    rng, rows = np.random.default_rng(seed), []
    pairs = [
        ("batches", m, m, str(a), str(b), 0.6)
        for m in metrics
        if m not in METRICS[:2]
        for a, b in combinations(range(batches), 2)
    ]
    pairs += [("metrics", a, b, a, b, 0.6 / (METRICS.index(b) - METRICS.index(a))) for a, b in combinations(metrics, 2)]
    pairs += [
        ("subjects", m, m, subjects[0], name, 0.8 ** (j + 1) * (i / len(metrics)))
        for i, m in enumerate(metrics) for j, name in enumerate(subjects[1:])
    ]  # fmt: skip
    for (kind, metric, other, a, b, likeness), k in product(pairs, ks):
        near = 0.0 if "random" in (metric, other) else float(np.clip(likeness + rng.normal(0, 0.03), 0, 1))
        row = {"kind": kind, "metric": metric, "other": other, "a": a, "b": b, "k": k, "jaccard": 0.001 + 0.999 * near}
        rows.append(row | {"jaccard_chance": 0.001, "jaccard_corrected": near, "kendall_tau": 2 * near - 1, "rbo": near})
    return rows


def rankings(
    folder: Path, ranked: Mapping[str, Sequence[Sequence[int]]], weights: int = 1000, parameters: Sequence[str] = ("a", "b")
) -> Path:
    """Rankings beside a record's other files: for each metric pairs of parameter and place in it, the highest first."""
    tensors = {metric: np.array(rows, dtype=np.int64).reshape(-1, 2) for metric, rows in ranked.items()}
    facts = {"parameters": json.dumps(list(parameters)), "weights": str(weights)}
    save_file(tensors, folder / paths.RANKINGS, metadata=facts)
    return folder / paths.RANKINGS
