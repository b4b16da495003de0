"""Run records made without running anything, by the code that writes real ones."""

import json
from collections.abc import Mapping, Sequence
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


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())
