"""How often each stored bit of a matrix is set."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from lit_degrade.perturbations.bits import WIDTHS
from lit_degrade.perturbations.storage import Floats, Quantised
from lit_degrade.subjects.anatomy import Site


@dataclass(frozen=True)
class BitPattern:
    """One bit of all weights of a site."""

    bit: int
    """0 the lowest"""
    ones: float
    """share of the weights with this bit set"""

    @property
    def entropy(self) -> float:
        """Of a weight's bit [bits]: 1 where half of them are set, 0 where all are or none is."""
        return sum(-p * math.log2(p) for p in (self.ones, 1 - self.ones) if p > 0)


def bit_patterns(weights: Floats | Quantised, site: Site) -> Iterator[BitPattern]:
    """Every stored bit of the weights of a site, the lowest first."""
    codes = weights.codes(site)
    for bit in range(WIDTHS[weights.format]):
        mask = (torch.ones((), dtype=torch.int64) << bit).to(codes.dtype).to(codes.device)
        yield BitPattern(bit, int((codes & mask).count_nonzero()) / codes.numel())
