"""What the command lines of a sweep resolve to, kept beside its plan for as long as all that it follows from is what it was."""

import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from lit_degrade.grids.worker import Resolved
from lit_degrade.inputs import file_sha256
from lit_degrade.records.code import code_sha256

Lines = dict[tuple[str, ...], Resolved]
"""Command line -> what it resolves to."""
VARIABLES = ("HOME", "PYTHON", "JSONARGPARSE_", "PL_")
"""Beginnings of the names of variables that the parser, or what it imports, obeys."""


def recall(path: Path, command_lines: Sequence[Sequence[str]]) -> Lines:
    """Of command lines those whose kept resolution is trusted.

    Their records exist, and the code, the libraries, the current folder, the variables and the contents of all files that they
    follow from are what they were. A run without a record is resolved again, as it may be recorded under an earlier id by now.
    """
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # none, or none that is whole: they are found again
    if kept["follows_from"] != _surroundings():
        return {}
    wanted = {tuple(line) for line in command_lines}
    lines = {tuple(line): Resolved(**resolved) for line, resolved in kept["lines"]}
    return {line: resolved for line, resolved in lines.items() if line in wanted and _holds(resolved)}


def keep(path: Path, lines: Mapping[tuple[str, ...], Resolved]) -> None:
    """Keep resolutions for `recall`. Raises: OSError."""
    kept = [[line, asdict(resolved)] for line, resolved in lines.items() if resolved.files is not None]
    partial = path.with_name(f".{path.name}")
    partial.write_text(json.dumps({"follows_from": _surroundings(), "lines": kept}), encoding="utf-8")
    partial.replace(path)


def _surroundings() -> str:
    """Hash of what every command line follows from."""
    installed = sorted(dist.name for place in sys.path for dist in Path(place).glob("*.dist-info"))
    variables = sorted((name, value) for name, value in os.environ.items() if name.startswith(VARIABLES))
    what = [os.getcwd(), code_sha256(), sys.version, installed, variables]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()


def _holds(resolved: Resolved) -> bool:
    files = resolved.files or {}
    return Path(resolved.folder).is_dir() and all(_sha256(Path(path)) == sha256 for path, sha256 in files.items())


def _sha256(path: Path) -> str:
    """Hash of a file's bytes; nothing where it cannot be read."""
    try:
        return file_sha256(path)
    except OSError:
        return ""
