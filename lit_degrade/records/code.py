"""Which code this is; imports nothing heavy."""

import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path

import lit_degrade
from lit_degrade.extensions import extensions


@functools.cache
def code_sha256() -> str:
    """Hash of the source and settings of package and extensions: another version may compute, or ask for, something else."""
    root = Path(lit_degrade.__file__).parent
    own = sorted([*root.rglob("*.py"), *root.rglob("*.yaml")])
    return _sha256([*own, *(path for extension in extensions() for path in extension.code)])


def extension_versions() -> dict[str, str]:
    """Extension -> the beginning of the hash of its code."""
    return {f"extension {it.name}": _sha256(it.code)[:12] for it in extensions()}


def _sha256(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()
