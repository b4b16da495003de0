"""What a subject has been through: intact, attacked, healed, each with its hash and what was measured then."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lit_degrade.errors import UserError

FILE = "lineage.json"
Lineage = tuple[dict[str, Any], ...]
"""One entry per stage, intact first: `name` or `run_id` and `experiment`, `sha256` of the weights, and measures where known;
of a stage that a run has saved also `files_sha256`, of the files beside the lineage."""


def read_lineage(folder: Path, name: str, sha256: str) -> Lineage:
    """Lineage kept beside saved weights; a subject without one is intact.

    Raises: UserError for a file that holds no lineage.
    """
    path = folder / FILE
    if not path.is_file():
        return ({"name": name, "sha256": sha256},)
    try:
        stages = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"'{path}' is not JSON: {error}.") from error
    if not isinstance(stages, list) or not stages or not all(isinstance(stage, dict) for stage in stages):
        raise UserError(f"'{path}' is expected to hold a list of stages, as a run saves it.")
    return tuple(stages)


def write_lineage(folder: Path, lineage: Sequence[dict[str, Any]]) -> None:
    """Keep the lineage beside the weights."""
    (folder / FILE).write_text(json.dumps(list(lineage), indent=2) + "\n")


def recovery(intact: float, damaged: float, healed: float) -> float | None:
    """Share of the damage that came back: 0 none, 1 all, negative where it grew; None where there was no damage."""
    return (damaged - healed) / (damaged - intact) if damaged != intact else None
