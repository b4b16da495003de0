"""Any task of lm-evaluation-harness on a loaded subject, where the harness is installed."""

import contextlib
import copy
import io
import json
import logging
import os
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lit_degrade.errors import UserError
from lit_degrade.measures.benchmarks import Result
from lit_degrade.subjects.hub import go_offline_if_unreachable
from lit_degrade.subjects.loading import Subject
from lit_degrade.tasks.benchmarks import HARNESS

BATCH = 16
"""Rows in one forward pass."""
BOOTSTRAPS = 1000
"""Draws for standard errors that have no closed form, each with a fixed seed."""


@dataclass(frozen=True)
class HarnessTask:
    """A task (or group, or tag) of the harness with its data."""

    name: str
    """as the harness has it"""
    loaded: Any
    """the harness's `TaskDict`"""


def load_task(name: str, include_path: str, seed: int) -> HarnessTask:
    """A task with its data, which are read or fetched here and not again.

    Args:
        name: of `lm_eval ls tasks`, or of a task in include_path.
        include_path: folder with task files (YAML) of one's own; empty for none.
        seed: of the examples that a task with few shots draws.

    Raises: UserError where the harness is not installed, has no such task, or cannot have its data.
    """
    if find_spec("lm_eval") is None:
        raise UserError(
            f"Benchmark '{HARNESS}{name}' needs lm-evaluation-harness, which is missing: pip install 'lit_degrade[lm-eval]'"
        )
    if include_path and not Path(include_path).is_dir():
        raise UserError(f"include_path '{include_path}' is not a folder: expected one with task files (YAML) of the harness.")
    offline = go_offline_if_unreachable()
    import datasets

    datasets.config.HF_HUB_OFFLINE = offline
    with _quiet():
        from lm_eval.tasks import TaskManager

        manager = TaskManager(include_path=include_path, include_defaults=False) if include_path else None
        if manager is None or name not in manager.all_subtasks:
            manager = TaskManager(include_path=include_path or None)  # reads thousands of files
        if name not in manager.all_tasks:
            near = get_close_matches(name, manager.all_tasks, n=5)
            raise UserError(
                f"Unknown task '{name}' of lm-evaluation-harness. Near: {', '.join(near) or 'none'}. All: `lm_eval ls tasks`; "
                "tasks of your own: --model.include_path FOLDER."
            )
        try:
            loaded = manager.load([name])
        except Exception as error:  # each data set fails in a way of its own
            where = "the hub cannot be reached" if offline else "its data cannot be had"
            raise UserError(
                f"Task '{name}' of lm-evaluation-harness cannot be loaded ({where}): {' '.join(str(error).split())}. "
                "A task file in --model.include_path that reads local data needs no network."
            ) from error
    for task in loaded["tasks"].values():
        if getattr(task, "UNSAFE_CODE", False) or getattr(task, "MULTIMODAL", False):
            raise UserError(f"Task '{name}' runs code that a model has written, or shows pictures; neither is done here.")
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=seed)
    return HarnessTask(name, loaded)


def run_task(subject: Subject, task: HarnessTask, limit: int) -> tuple[list[Result], list[dict[str, Any]]]:
    """What the harness measures; and a row of benchmark_items.csv for every item and filter, with what it says about the item.

    The subject computes at its own precision; no weight is changed, and no global random state either. A standard error is None
    where the harness gives none.

    Args:
        subject: the subject, as it is now.
        task: of `load_task`.
        limit: the first so many items of each task; 0: all.
    """
    training = subject.model.training
    with _quiet(), subject.autocast():
        from lm_eval.evaluator import evaluate
        from lm_eval.models.huggingface import HFLM

        try:
            harness = HFLM(pretrained=subject.model, tokenizer=copy.deepcopy(subject.tokenizer), batch_size=BATCH)
            measured = evaluate(lm=harness, task_dict=task.loaded, limit=limit or None, bootstrap_iters=BOOTSTRAPS)
        finally:
            subject.model.train(training)
    assert measured is not None, "only processes of rank above 0 get nothing"
    metrics = [metric for name, results in measured["results"].items() for metric in _metrics(name, results)]
    rows = [_item_row(name, sample) for name, samples in measured["samples"].items() for sample in samples]
    return metrics, rows


def _metrics(name: str, results: Mapping[str, Any]) -> Iterator[Result]:
    """The harness's `metric,filter` and `metric_stderr,filter` side by side; a filter that is none is not named."""
    for key, value in results.items():
        metric, comma, kind = key.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        error = results.get(f"{metric}_stderr,{kind}")
        yield Result(
            name, metric if kind == "none" else key, float(value), float(error) if isinstance(error, int | float) else None,
            int(results.get("sample_len", 0)), source="lm_eval",
        )  # fmt: skip


def _item_row(name: str, sample: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "benchmark": name,
        "item": sample["doc_id"],
        "gold": sample["target"],
        "chosen": None,
        "correct": bool(sample["acc"]) if "acc" in sample else None,
        "filter": sample["filter"],
        "responses": json.dumps(sample["filtered_resps"], default=str),
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars nor notes of the harness, and Python's random state as it was.

    Bootstraps are drawn in this process, since forks of a process with threads may hang.
    """
    logger, before = logging.getLogger("lm_eval"), os.environ.get("DISABLE_MULTIPROC")
    level, state = logger.level, random.getstate()
    os.environ["DISABLE_MULTIPROC"] = "1"
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        random.setstate(state)
        logger.setLevel(level)
        if before is None:
            del os.environ["DISABLE_MULTIPROC"]
        else:
            os.environ["DISABLE_MULTIPROC"] = before
