"""Which code this is; imports nothing heavy."""

import functools
import hashlib
from pathlib import Path

import lit_degrade


@functools.cache
def code_sha256() -> str:
    """Hash of the package's source and settings: another version of them may compute, or ask for, something else."""
    digest = hashlib.sha256()
    root = Path(lit_degrade.__file__).parent
    for path in sorted([*root.rglob("*.py"), *root.rglob("*.yaml")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()
