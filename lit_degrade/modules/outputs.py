"""Generated text as rows: the published schema, one object a generation, and what is measured of each."""

import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lit_degrade.generation.generator import Continuation, Decoding
from lit_degrade.measures.perplexity import perplexity_of
from lit_degrade.measures.text_quality import measure_text, self_bleu
from lit_degrade.perturbations.walk import PlannedDose
from lit_degrade.subjects.loading import Subject
from lit_degrade.tasks.answers import parsed, score
from lit_degrade.tasks.catalog import Prompt

CLOCK = ("timestamp", "duration", "vram_usage_percent")
"""Fields of the published schema that differ between two runs of the same config; all others are the same."""


@dataclass(frozen=True)
class Generation:
    """One continuation, with where it belongs."""

    cell: PlannedDose
    task: str
    prompt: Prompt
    image: Path | None
    continuation: Continuation
    timestamp: str
    vram_usage_percent: float | None
    nats_intact: float
    """likelihood of the continuation under the intact subject, given the prompt's text [nats/token]; nan when it is empty"""


def model_name(subject: Subject) -> str:
    """Last part of a subject's name, of the intact one it came from where it was attacked; fit for a file name."""
    name = subject.lineage[0]["name"] if subject.lineage else subject.spec.name
    return re.sub(r"[^\w.-]", "-", Path(str(name)).name)


def file_name(generation: Generation, subject: Subject) -> str:
    """Name of the published output file."""
    return f"outputs_{generation.cell.settings.method}_{model_name(subject)}_{generation.task}.json"


def published_row(generation: Generation, subject: Subject, decoding: Decoding) -> dict[str, Any]:
    """All fields of the published schema; indexes count from 0, prompts from 1."""
    cell, made, prompt = generation.cell, generation.continuation, generation.prompt
    four_bit = subject.spec.precision == "nf4"
    noise = cell.settings.method.endswith("gauss")
    return {
        "timestamp": generation.timestamp,
        "config_name": cell.variant,
        "model_name": model_name(subject),
        "model_variant": f"attacked by run {subject.lineage[-1]['run_id']}" if len(subject.lineage) > 1 else "intact",
        "device": subject.device.type,
        "dtype": str(subject.embedding.dtype).removeprefix("torch."),
        "load_4bit": four_bit,
        "restore_strategy": "keep",
        "degradation_method": cell.settings.method,
        "param_group_name": cell.settings.target,
        "degrad_level": cell.dose.level,
        "level_index": cell.level_index,
        "repeat_index": cell.dose.repetition,
        "prompt_group": prompt.group,
        "prompt_id": prompt.id,
        "prompt_text": prompt.text,
        "output": prompt.text + made.text,
        "tokens_in": len(made.prompt_ids),
        "tokens_out": len(made.ids),
        "duration": made.duration_s,
        "gen_params": {
            "temperature": decoding.temperature,
            "do_sample": decoding.do_sample,
            "max_new_tokens": decoding.max_new_tokens,
        },
        "seed": cell.dose.seed,
        "batch_size_effective": made.batch_size,
        "image_used": generation.image is not None,
        "image_filename": generation.image.name if generation.image else None,
        "vram_usage_percent": generation.vram_usage_percent,
        "perplexity": _exp(generation.nats_intact),
        "std_dev": cell.dose.level if noise else None,
        "tokens": len(made.ids),
        "usar_4bit": four_bit,
    }


def measured_row(generation: Generation, bleu: float) -> dict[str, Any]:
    """What is measured of one continuation: a row of generations.csv."""
    made, answer = generation.continuation, generation.prompt.answer
    judged = {"accuracy": score(made.text, answer), "parsed": float(parsed(made.text, answer))} if answer else {}
    return {
        "variant": generation.cell.variant,
        "level": generation.cell.dose.level,
        "level_index": generation.cell.level_index,
        "repetition": generation.cell.dose.repetition,
        "task": generation.task,
        "prompt_id": generation.prompt.id,
        "prompt_group": generation.prompt.group,
        **measure_text(made.text),
        "self_bleu": bleu,
        "nats_intact": generation.nats_intact,
        "empty": float(not made.text.strip()),
        "capped": float(not made.ended),
        **judged,
    }


def self_bleus(generations: Sequence[Generation]) -> list[float]:
    """Each continuation against those of the same prompt at the same level in other repetitions."""
    together: dict[tuple[Any, ...], list[int]] = {}
    for i, generation in enumerate(generations):
        cell = generation.cell
        together.setdefault((cell.variant, cell.level_index, generation.task, generation.prompt.id), []).append(i)
    values = [float("nan")] * len(generations)
    for indices in together.values():
        for i, value in zip(indices, self_bleu([generations[i].continuation.text for i in indices]), strict=True):
            values[i] = value
    return values


def task_means(rows: Sequence[Mapping[str, Any]], task: str) -> dict[str, float | None]:
    """Columns of doses.csv: means over the prompts of a task, of those that have a value; accuracy by kind of question too."""
    named = {"empty": "empty_rate", "capped": "cap_rate"}
    skipped = (
        "variant",
        "level",
        "level_index",
        "repetition",
        "task",
        "prompt_id",
        "prompt_group",
        "accuracy",
        "parsed",
        "words",
    )
    means = {f"{task}.{named.get(key, key)}": _mean(row[key] for row in rows) for key in rows[0] if key not in skipped}
    if "accuracy" in rows[0]:
        means[f"{task}.accuracy"] = _mean(row["accuracy"] for row in rows)
        for group in dict.fromkeys(row["prompt_group"] for row in rows):
            means[f"{task}.accuracy_{group}"] = _mean(row["accuracy"] for row in rows if row["prompt_group"] == group)
        means[f"{task}.parse_failure_rate"] = _mean(1 - row["parsed"] for row in rows)
    return means


def vram_percent(device: torch.device) -> float | None:
    """Share of the accelerator's memory in use [%]; None on the CPU."""
    if device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(device)
    return 100 * (1 - free / total)


def _mean(values: Iterable[float]) -> float | None:
    """Mean of those that could be measured; None where none could."""
    kept = [value for value in values if not math.isnan(value)]
    return statistics.fmean(kept) if kept else None


def _exp(nats: float) -> float | None:
    return None if math.isnan(nats) else perplexity_of(nats)
