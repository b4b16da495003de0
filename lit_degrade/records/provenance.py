"""Where and with what a run was made: versions, git state, hardware."""

import os
import platform
import resource
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import lit_degrade
from lit_degrade.records.code import extension_versions

LIBRARIES = ("torch", "lightning", "transformers", "tokenizers", "peft", "bitsandbytes", "wandb", "numpy")


def provenance() -> dict[str, Any]:
    """Versions, git state and hardware, as plain data."""
    return {"versions": _versions(), "git": _git_state(), "hardware": _hardware()}


def peak_memory() -> dict[str, int]:
    """Most memory that this process has had so far, in bytes, on the host and on the accelerator."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"host": peak, "cuda": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0}


def _versions() -> dict[str, str]:
    versions = {"lit_degrade": lit_degrade.__version__, "python": platform.python_version(), **extension_versions()}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def _git_state() -> dict[str, Any] | None:
    """Commit of the package's own checkout and whether it has changes; None outside a checkout."""
    root = Path(lit_degrade.__file__).parent.parent
    if not (root / ".git").exists():
        return None
    try:
        commit = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)  # noqa: S603, S607
        status = subprocess.run(["git", "-C", str(root), "status", "--porcelain"], capture_output=True, text=True, check=True)  # noqa: S603, S607
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": commit.stdout.strip(), "dirty": bool(status.stdout.strip())}


def _hardware() -> dict[str, Any]:
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"platform": platform.platform(), "cpus": os.cpu_count(), "torch_threads": torch.get_num_threads(), "gpus": gpus}
