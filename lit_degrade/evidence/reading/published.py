"""Reading the published eigen-prion records: folders of `raw_data/`, each with a config.json and a metrics.jsonl."""

import csv
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lit_degrade.errors import UserError
from lit_degrade.evidence.reading.runs import Defect, Runs

CONFIG, STEPS = "config.json", "metrics.jsonl"
NAME = re.compile(
    r"pythia_(?P<size>[\d.]+[mb])_pythia-\S+?_run(?P<run>\d+)_(?P<precision>fp16|8bit|4bit|fp32)(?:_(?P<arm>\w+))?$"
)
OPTIMIZERS = ("adamw", "sgd")
PRECISIONS = {"8bit": "int8", "4bit": "nf4"}
NOTES = [
    "Perplexities of these records come from labels that were shifted twice: they are about the token after the next one.",
    "Effective ranks of these records were taken over five short sentences padded to 128 tokens, padding included.",
    "The arm called AdamW was trained with Adafactor, and the controls with plain SGD at the same learning rate.",
    "Random text was drawn with one and the same seed in every run.",
]
"""Known of the implementation that made the published records; each is a protocol of `sweeps/audit.yaml`."""
_BAD = (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, OSError, csv.Error)
"""What a file that is not what it should be raises while it is read."""
_CONDITIONS = ("experiment", "subject", "precision", "adapter", "stimulus", "optimizer", "lr", "steps", "tokens", "seed")


def read_published(folders: Sequence[Path]) -> Runs:
    """Read every run below some folders.

    Percentages are kept exact; `rank_reduction` is signed. The published number of a run stands in for its seed.

    Raises: UserError for a folder that does not exist, or when there is no run at all.
    """
    rows: list[dict[str, Any]] = []
    defects: list[Defect] = []
    seen: set[Path] = set()
    for root in folders:
        if not root.is_dir():
            raise UserError(f"'{root}' is not a folder. Expected one with raw_data/ folders below it.")
        for path in sorted({*(file.parent for name in (STEPS, CONFIG) for file in root.rglob(name))}):
            if path.resolve() not in seen:
                seen.add(path.resolve())
                try:
                    rows.append(_read(path))
                except _BAD as error:
                    defects.append(_corrupt(path, error))
        for path in sorted(root.rglob("aggregate_summary_*.csv")):
            try:
                defects += _check_aggregate(path, rows)
            except _BAD as error:
                defects.append(_corrupt(path, error))
    if not rows:
        bad = f" {len(defects)} cannot be read, the first: {defects[0].where}: {defects[0].detail}." if defects else ""
        raise UserError(f"No published records below {', '.join(map(str, folders))}.{bad} Expected folders with {STEPS}.")
    table = pd.DataFrame(rows).sort_values(["experiment", "n_parameters", "stimulus", "seed"], ignore_index=True)
    return Runs(table, list(_CONDITIONS), defects, NOTES)


def _corrupt(path: Path, error: Exception) -> Defect:
    return Defect("corrupt", str(path), f"no value '{error.args[0]}'" if isinstance(error, KeyError) else str(error))


def _read(folder: Path) -> dict[str, Any]:
    """Row of one run; baseline_* is the line before the attack, post_attack_* the line after it."""
    match = NAME.fullmatch(folder.name)
    if not match:
        raise ValueError("the folder's name is not pythia_SIZE_pythia-SIZE_runNN_PRECISION[_ARM]")
    config = json.loads((folder / CONFIG).read_text())
    values = read_metrics(folder)
    pre, post = (_measured(values, when) for when in ("baseline", "post_attack"))
    experiment, stimulus, optimizer = _arm(folder, match["arm"])
    return {
        "run_id": folder.name,
        "folder": str(folder),
        "state": "done",
        "detail": "",
        "experiment": experiment,
        "subject": f"pythia-{match['size']}",
        "n_parameters": _parameters(match["size"]),
        "precision": PRECISIONS.get(match["precision"], match["precision"]),
        "adapter": "full" if config["model"].get("use_fft", True) else "lora",
        "stimulus": stimulus,
        "optimizer": optimizer,
        "optimizer_used": "sgd" if optimizer == "sgd" or stimulus != "eigen_prion" else "adafactor",
        "lr": config["attack"]["learning_rate"],
        "steps": config["attack"]["num_steps"],
        "tokens": config["attack"]["catalyst_length"],
        "seed": int(match["run"]),
        "perplexity_pre": pre[0],
        "perplexity_post": post[0],
        "log_perplexity_ratio": math.log(post[0] / pre[0]),
        "perplexity_increase": post[0] / pre[0] - 1,
        "effective_rank_pre": pre[1],
        "effective_rank_post": post[1],
        "rank_reduction": 1 - post[1] / pre[1],
        "rank_change_absolute": abs(1 - post[1] / pre[1]),
    }


def read_metrics(folder: Path) -> dict[str, Any]:
    """Everything that a run logged by name, the last value of each."""
    lines = (folder / STEPS).read_text(encoding="utf-8").splitlines()
    return {key: value for line in lines if line.strip() for key, value in json.loads(line).items()}


def _measured(values: dict[str, Any], when: str) -> tuple[float, float]:
    """Perplexity and effective rank."""
    return float(values[f"{when}_perplexity"]), float(values[f"{when}_effective_rank"])


def _arm(folder: Path, arm: str | None) -> tuple[str, str, str]:
    """Experiment, stimulus and optimizer of a run, from its folder's name and from the folder of its priority."""
    priority = next((part for part in reversed(folder.parts) if re.match(r"priority\d", part)), None)
    stimulus = "eigen_prion" if arm is None or arm in OPTIMIZERS else arm
    guess = "priority3" if arm in OPTIMIZERS else "priority1" if arm is None else "priority2"
    return (priority[:9] if priority else guess), stimulus, arm if arm in OPTIMIZERS else "adamw"


def _parameters(size: str) -> float:
    """70m is 70e6: the published sizes are the names' own."""
    return float(size[:-1]) * (1e6 if size[-1] == "m" else 1e9)


def _check_aggregate(path: Path, rows: Sequence[dict[str, Any]]) -> list[Defect]:
    """The published tables of runs against the runs' own folders."""
    name = re.sub(r"_run\d+", "", path.stem.removeprefix("aggregate_summary_"))
    of_it = {
        row["seed"]: row
        for row in rows
        if Path(row["folder"]).parent == path.parent and re.sub(r"_run\d+", "", row["run_id"]) == name
    }
    with path.open(encoding="utf-8") as file:
        listed = {int(row["run"]): float(row["rank_reduction_pct"]) for row in csv.DictReader(file)}
    details = []
    if set(listed) != set(of_it):
        details.append(f"lists {len(listed)} runs, the folders hold {len(of_it)}")
    off = [run for run, percent in listed.items() if run in of_it and abs(percent - 100 * of_it[run]["rank_reduction"]) > 0.006]
    if off:
        details.append(f"runs {', '.join(map(str, off))} differ from their folders")
    return [Defect("disagreement", str(path), detail) for detail in details]
