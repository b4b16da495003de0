"""What runs of one design share, computed once: tensors and facts kept by the hash of everything they depend on."""

import functools
import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

import lit_degrade
from lit_degrade.errors import disk_full
from lit_degrade.records.lock import Lock, StillHeldError

Parts = tuple[dict[str, Tensor], Any]
"""Tensors by name, and facts as plain data."""


class Cache:
    """A folder of safetensors files, bounded in size: the least recently used go first. Safe between processes."""

    def __init__(self, folder: Path, limit_gb: float) -> None:
        """Keep at most `limit_gb` gigabytes below `folder`; 0 keeps nothing."""
        self.folder = folder
        self.limit = limit_gb * 1e9

    def remember(self, what: str, depends_on: Mapping[str, Any], compute: Callable[[], Parts]) -> tuple[Parts, bool]:
        """The parts kept for this, or computed and kept; and whether they were kept.

        A second process that asks for the same waits for the first.

        Args:
            what: is being kept, for example "null_space".
            depends_on: plain data that determines it; the package's code, PyTorch's version and the thread count are added.
            compute: does the work.
        """
        if self.limit <= 0:
            return compute(), False
        key = {
            "what": what,
            "code": _code_sha256(),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            **depends_on,
        }
        name = f"{what}-{hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()[:16]}"
        path = self.folder / f"{name}.safetensors"
        lock = Lock(self.folder / f"{name}.lock", f"'{what}' in the cache")
        try:
            lock.take()
        except StillHeldError:  # doing it again costs time only
            return compute(), False
        try:
            with suppress(FileNotFoundError, SafetensorError):  # there is none, or what there is was cut off
                os.utime(path)
                return _load(path), True
            parts = compute()
            self._save(path, parts)
        finally:
            lock.release()
        return parts, False

    def _save(self, path: Path, parts: Parts) -> None:
        from safetensors.torch import save_file

        tensors, facts = parts
        size = sum(t.numel() * t.element_size() for t in tensors.values())
        if size > self.limit:
            return
        kept = sorted(self.folder.glob("*.safetensors"), key=lambda p: p.stat().st_mtime)
        total = sum(p.stat().st_size for p in kept)
        for old in kept:
            if total + size > self.limit:
                total -= old.stat().st_size
                old.unlink(missing_ok=True)
        partial = path.with_suffix(".partial")
        try:
            save_file({k: t.detach().cpu().contiguous() for k, t in tensors.items()}, partial, {"facts": json.dumps(facts)})
            partial.replace(path)
        except (OSError, SafetensorError) as error:
            partial.unlink(missing_ok=True)
            if not disk_full(error):
                raise
            print(f"lit_degrade: caution: the disk is full, so that '{path}' is not kept for other runs.", file=sys.stderr)


def _load(path: Path) -> Parts:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        # copies: mapped memory is aligned otherwise, and BLAS then sums in another order
        tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
        return tensors, json.loads(file.metadata()["facts"])


@functools.cache
def _code_sha256() -> str:
    """Hash of the package's source: another version of the code may compute something else."""
    digest = hashlib.sha256()
    for path in sorted(Path(lit_degrade.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
