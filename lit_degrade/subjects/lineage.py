"""What a subject has been through: intact, attacked, healed, each with its hash and what was measured then."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FILE = "lineage.json"
Lineage = tuple[dict[str, Any], ...]
"""One entry per stage, intact first: `name` or `run_id` and `experiment`, `sha256` of the weights, and measures where known;
of a stage that a run has saved also `files_sha256`, of the files beside the lineage."""


def read_lineage(folder: Path, name: str, sha256: str) -> Lineage:
    """Lineage kept beside saved weights; a subject without one is intact."""
    path = folder / FILE
    return tuple(json.loads(path.read_text())) if path.is_file() else ({"name": name, "sha256": sha256},)


def write_lineage(folder: Path, lineage: Sequence[dict[str, Any]]) -> None:
    """Keep the lineage beside the weights."""
    (folder / FILE).write_text(json.dumps(list(lineage), indent=2) + "\n")


def recovery(intact: float, damaged: float, healed: float) -> float | None:
    """Share of the damage that came back: 0 none, 1 all, negative where it grew; None where there was no damage."""
    return (damaged - healed) / (damaged - intact) if damaged != intact else None
