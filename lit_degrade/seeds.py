"""One generator per purpose, so that no random draw depends on which others were made."""

import hashlib

import torch


def derive(seed: int, *role: str) -> int:
    """63-bit seed that is a hash of the run's seed and the names of what it is for."""
    digest = hashlib.sha256("\0".join((str(seed), *role)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator(seed: int, *role: str, device: torch.device | str = "cpu") -> torch.Generator:
    """Seeded generator for one role, for example `generator(seed, "gaussian_noise")`."""
    return torch.Generator(device).manual_seed(derive(seed, *role))
