"""What a sweep asked for, kept beside its outputs, so that a report can name the runs that never left a record."""

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
    (folder / paths.PLAN).write_text(json.dumps({"sweep": sweep, "runs": plan}, indent=1) + "\n")


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
