"""Reading run records: one row per run that was asked for, and a list of everything that is wrong with what lies there."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from lit_degrade.errors import UserError
from lit_degrade.records import paths
from lit_degrade.records.conditions import Fact, conditions
from lit_degrade.records.plan import Asked, read_plans
from lit_degrade.records.reading import read_record

REPORT = "report.md"
"""A folder that holds this is an earlier report."""
HIDDEN = (".partial", ".replaced", ".lock")
"""How names end that a run uses while it is written; all of them are gone when it has ended in order."""
NOT_RECORDS = ("wandb", paths.SWEEPS, ".cache", ".artifacts")
DEFECTS = {
    "missing": "asked for by a sweep, without a record",
    "partial": "left by a run that was killed, or is being written",
    "corrupt": "a record that cannot be read",
    "duplicate": "the same run twice, with the same numbers: counted once",
    "conflicting": "the same run twice, with other numbers: the first is counted",
    "disagreement": "a published table that its own run folders contradict: the folders are counted",
    "foreign": "not a run record",
}
MEASURED = "measured."
"""Before the name of a measured fact that a setting has, too: `steps` that were asked for, `measured.steps` that were taken."""
_FILES = (paths.MANIFEST, paths.SUMMARY, paths.CONFIG)
_NUMBERS = ("n_parameters", "rank_layer")


@dataclass(frozen=True)
class Defect:
    """Something that is not a good record, by name."""

    kind: str
    """one of DEFECTS"""
    where: str
    detail: str


@dataclass(frozen=True)
class Runs:
    """What was found below the folders of a report."""

    table: pd.DataFrame
    """a row per run: conditions, summary (see MEASURED), `run_id`, `state` (an ExitState, `missing` or `corrupt`), `folder`"""
    condition_names: list[str]
    """columns that are settings, not outcomes"""
    defects: list[Defect] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """what a reader must know about these records"""


def read_runs(folders: Sequence[Path]) -> Runs:
    """Read every record below some folders: a results folder, one of its experiments, or single records.

    Raises: UserError for a folder that does not exist, or when there is no record at all.
    """
    rows: dict[str, dict[str, Any]] = {}
    names: dict[str, None] = {}
    defects: list[Defect] = []
    for folder in _records(folders, defects):
        try:
            settings, row = _read(folder)
        except ValueError as error:
            defects.append(Defect("corrupt", str(folder), str(error)))
            continue
        names |= dict.fromkeys(settings)
        if row["run_id"] in rows:
            defects.append(_twice(rows[row["run_id"]], row))
        else:
            rows[row["run_id"]] = row
    for asked in _asked(folders, defects):
        if asked.run_id not in rows:
            names |= dict.fromkeys(asked.conditions)
            rows[asked.run_id] = _without_record(asked, defects)
    if not rows:
        raise UserError(_nothing(folders, defects))
    table = pd.DataFrame(list(rows.values())).sort_values(["experiment", "run_id"], ignore_index=True)
    return Runs(_named_apart(table), list(names), defects)


def _named_apart(table: pd.DataFrame) -> pd.DataFrame:
    """The table with measured facts by their own names, unless a setting, or what this module adds, has the name."""
    measured = {name: name.removeprefix(MEASURED) for name in map(str, table) if name.startswith(MEASURED)}
    return table.rename(columns={name: own for name, own in measured.items() if own not in table})


def _records(folders: Sequence[Path], defects: list[Defect]) -> Iterator[Path]:
    """Folders of records, each once, in order; everything else is noted."""
    seen: set[Path] = set()

    def unlisted(error: OSError) -> None:
        defects.append(Defect("corrupt", str(error.filename), f"cannot be listed: {error.strerror}"))

    for root in folders:
        if not root.is_dir():
            raise UserError(f"'{root}' is not a folder. Expected a results folder, an experiment below it, or a record.")
        for here, below, files in os.walk(root, onerror=unlisted, followlinks=True):
            path = Path(here)
            below.sort()
            if path.resolve() in seen or REPORT in files:
                below.clear()
                continue
            seen.add(path.resolve())
            if any(name in files for name in _FILES):
                below.clear()
                yield path
                continue
            strange = sorted(name for name in files if not name.endswith(HIDDEN))
            defects += [Defect("foreign", str(path / name), "a file outside any record") for name in strange]
            defects += [
                Defect("partial", str(path / name), "left by a run that was killed, or is being written")
                for name in below
                if name.endswith(HIDDEN)
            ]
            if not below and not files and path != root:
                defects.append(Defect("foreign", str(path), "an empty folder"))
            below[:] = [name for name in below if name not in NOT_RECORDS and not name.endswith(HIDDEN)]


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Conditions of a record, and its row, in which what was measured has MEASURED before its name.

    Raises: ValueError saying which file is wrong, and how.
    """
    manifest, summary, config = read_record(folder)
    for key, value in summary.items():
        if not isinstance(value, Fact) or (key in _NUMBERS and not isinstance(value, int | float)):
            raise ValueError(f"{paths.SUMMARY}: {key} is {value!r}")
    try:
        settings = conditions(config)
    except ValueError as error:
        raise ValueError(f"{paths.CONFIG}: {error}") from error
    if settings["experiment"] is None or settings["experiment"] != summary.get("experiment"):
        raise ValueError(
            f"experiment {settings['experiment']!r} in {paths.CONFIG}, {summary.get('experiment')!r} in {paths.SUMMARY}"
        )
    hashes = manifest["sha256"] if isinstance(manifest.get("sha256"), Mapping) else {}
    row = {MEASURED + key: value for key, value in summary.items()} | settings
    row |= {"run_id": summary["run_id"], "subject": str(summary.get("subject") or settings["subject"])}
    row |= {"state": manifest["exit_state"], "detail": str(manifest.get("detail", "")), "folder": str(folder)}
    row |= {"probe_text": str(hashes.get("text")), "versions": json.dumps(manifest.get("versions"), sort_keys=True)}
    if isinstance(manifest.get("wandb"), Mapping) and manifest["wandb"].get("mode") == "online":
        row["wandb_run"] = manifest["wandb"].get("run")
    if "rank_layer" in summary:
        for when in ("pre", "post"):
            row[f"effective_rank_{when}"] = summary.get(f"effective_rank_{when}_layer{summary['rank_layer']}")
    return settings, row


def _twice(first: Mapping[str, Any], second: Mapping[str, Any]) -> Defect:
    """Two records of one run: the same config and seed must give the same numbers."""
    own = ("folder", "detail", "versions", "wandb_run")
    a, b = (pd.Series({key: value for key, value in row.items() if key not in own}) for row in (first, second))
    if a.equals(b):
        return Defect("duplicate", second["folder"], f"also in {first['folder']}")
    differing = [
        key for key in a.index.union(b.index, sort=False) if not pd.Series([a.get(key)]).equals(pd.Series([b.get(key)]))
    ]
    named = dict.fromkeys(key.removeprefix(MEASURED) for key in differing)
    return Defect("conflicting", second["folder"], f"{', '.join(list(named)[:3])} differ from {first['folder']}")


def _asked(folders: Sequence[Path], defects: list[Defect]) -> list[Asked]:
    """Runs that sweeps asked for within these folders."""
    asked: list[Asked] = []
    within = [folder.resolve() for folder in folders]
    for results in dict.fromkeys(root for folder in within for root in (folder, folder.parent)):
        try:
            plans = read_plans(results)
        except ValueError as error:
            defects.append(Defect("corrupt", str(results / paths.SWEEPS), str(error)))
            continue
        asked += [run for run in plans if any(run.folder.resolve().is_relative_to(folder) for folder in within)]
    return asked


def _without_record(asked: Asked, defects: list[Defect]) -> dict[str, Any]:
    """The row of a run that was asked for and has nothing to show."""
    corrupt = any(Path(defect.where).resolve() == asked.folder.resolve() for defect in defects if defect.kind == "corrupt")
    if not corrupt:
        defects.append(Defect("missing", str(asked.folder), f"asked for by {asked.sweep}"))
    state = "corrupt" if corrupt else "missing"
    return {**asked.conditions, "run_id": asked.run_id, "state": state, "detail": "", "folder": str(asked.folder)}


def _nothing(folders: Sequence[Path], defects: Sequence[Defect]) -> str:
    where = ", ".join(map(str, folders))
    if any(Path(defect.where).name == "metrics.jsonl" for defect in defects):
        return f"No run records below {where}, but metrics.jsonl files: the published layout is read with --layout published."
    bad = [defect for defect in defects if defect.kind == "corrupt"]
    unreadable = f" {len(bad)} cannot be read, the first: {bad[0].where}: {bad[0].detail}." if bad else ""
    return f"No run records below {where}.{unreadable} Expected folders with {', '.join(_FILES)}."
