"""What a sweep asked for, kept beside its outputs, so that a report can name the runs that never left a record."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lit_degrade.records import paths
from lit_degrade.records.conditions import Fact


@dataclass(frozen=True)
class Asked:
    """One run that a sweep asked for."""

    run_id: str
    folder: Path
    """where its record lies, or would lie"""
    conditions: dict[str, Fact]
    sweep: str
    """the sweep file"""


def write_plan(folder: Path, sweep: str, runs: Mapping[str, tuple[Path, Mapping[str, Fact]]]) -> None:
    """Write the plan of a sweep: for each run id the folder of its record and its conditions."""
    plan = {
        run_id: {"folder": os.path.relpath(record, folder), "conditions": dict(conditions)}
        for run_id, (record, conditions) in runs.items()
    }
    partial = folder / f".{paths.PLAN}"
    text = json.dumps({"sweep": sweep, "file": _place(sweep, folder), "runs": plan}, indent=1)
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(folder / paths.PLAN)


def plan_folder(results: Path, sweep: str) -> Path:
    """Where the plan of a sweep file and the outputs of its runs go below a results folder.

    It is named like the file. Where a file of the same name elsewhere has its plan there, a hash of the place of this one is
    added, so that both plans stand; the plan of the same file, edited, is replaced: the question has changed.
    """
    named = results / paths.SWEEPS / Path(sweep).stem
    if _owner(named) in (None, _place(sweep, named)):
        return named
    return named.with_name(f"{named.name}-{hashlib.sha256(_place(sweep, named).encode()).hexdigest()[:8]}")


def _owner(folder: Path) -> str | None:
    """The sweep file whose plan is in a folder; None where there is no plan that can be read."""
    try:
        plan = json.loads((folder / paths.PLAN).read_text(encoding="utf-8"))
        return plan["file"] if "file" in plan else _place(plan["sweep"], folder)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _place(sweep: str, folder: Path) -> str:
    """Where a sweep file lies, seen from the folder of its plan: the same wherever both are moved to."""
    return os.path.relpath(Path(sweep).resolve(), folder.resolve())


def read_plans(results: Path) -> list[Asked]:
    """Every run that a sweep below a results folder asked for.

    Raises: ValueError naming a plan that cannot be read.
    """
    asked = []
    for path in sorted((results / paths.SWEEPS).glob(f"*/{paths.PLAN}")):
        try:
            plan = json.loads(path.read_text())
            for run_id, run in plan["runs"].items():
                folder = Path(os.path.normpath(path.parent / run["folder"]))
                asked.append(Asked(run_id, folder, run["conditions"], plan["sweep"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: not a plan: {error}") from error
    return asked
