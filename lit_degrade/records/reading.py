"""Reading the three files of a record that say what it is, and whether they are whole."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from lit_degrade.records import paths
from lit_degrade.records.conditions import ExitState

STATES = get_args(ExitState)
_NONFINITE = {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")}


def read_record(folder: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Manifest, summary and config of a record.

    Raises: ValueError saying which file is wrong, and how.
    """
    manifest, summary = (_json(folder / name) for name in (paths.MANIFEST, paths.SUMMARY))
    for name, content in ((paths.MANIFEST, manifest), (paths.SUMMARY, summary)):
        if content.get("run_id") != folder.name:
            raise ValueError(f"{name}: run id {content.get('run_id')!r}, but the folder is '{folder.name}'")
        if content.get("exit_state") not in STATES:
            raise ValueError(f"{name}: exit state {content.get('exit_state')!r}, expected one of {', '.join(STATES)}")
    return manifest, summary, _yaml(folder / paths.CONFIG)


def defect_of(folder: Path) -> str:
    """What is wrong with a record; empty when nothing is."""
    try:
        read_record(folder)
    except ValueError as error:
        return str(error)
    return ""


def state_of(folder: Path) -> ExitState | Literal["broken"] | None:
    """How the run of a record ended; None where there is no record, broken where there is one that cannot be read."""
    if not folder.exists():
        return None
    try:
        return read_record(folder)[0]["exit_state"]
    except ValueError:
        return "broken"


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path.name}: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{path.name} is not JSON: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path.name}: expected an object, found {type(content).__name__}")
    return {key: _NONFINITE.get(value, value) if isinstance(value, str) else value for key, value in content.items()}


def _yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
    except OSError as error:
        raise ValueError(f"{path.name}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{path.name}: expected keys, found {type(content).__name__}")
    return dict(content)
