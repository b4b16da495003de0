"""Stored bits: which there are in each format, how some are drawn, how they are flipped. Nothing is softened."""

import math

import numpy as np
import torch
from scipy.special import pdtr, pdtrik
from torch import Tensor

from lit_degrade.errors import unknown
from lit_degrade.perturbations.catalog import BITS

CLASSES: dict[str, dict[str, range]] = {
    "fp32": {"sign": range(31, 32), "exponent": range(23, 31), "mantissa": range(23)},
    "bf16": {"sign": range(15, 16), "exponent": range(7, 15), "mantissa": range(7)},
    "fp16": {"sign": range(15, 16), "exponent": range(10, 15), "mantissa": range(10)},
    "int8": {"sign": range(7, 8)},
    "nf4": {"sign": range(3, 4)},
}
"""format -> class -> bit numbers, 0 the lowest: IEEE 754 (2019), bfloat16, two's complement; NF4 codes above 7 are positive."""
WIDTHS = {"fp32": 32, "bf16": 16, "fp16": 16, "int8": 8, "nf4": 4}
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32}
"""bytes of a stored number -> integers of the same width"""


def as_integers(tensor: Tensor) -> Tensor:
    """The stored bits of a tensor as integers of the same width: a view, not a copy."""
    return tensor.view(INTEGERS[tensor.element_size()])


def bit_numbers(stored: str, bits: str) -> range:
    """Numbers of the bits that a setting names in a format.

    Raises: UserError for bits that the format does not have, naming those it has.
    """
    width, classes = WIDTHS[stored], CLASSES[stored]
    if bits == "all":
        return range(width)
    if bits in classes:
        return classes[bits]
    if bits.isdecimal() and int(bits) < width:
        return range(int(bits), int(bits) + 1)
    known = [name for name in BITS if name in classes or name == "all" or (name == "scales" and stored in ("int8", "nf4"))]
    raise unknown(f"bits of {stored}", bits, [*known, f"0 to {width - 1}"])


def draw(n: int, share: float, generator: torch.Generator) -> Tensor:
    """Positions below n, each chosen with probability `share`, independently; sorted, int64 (k,). A larger share adds to them.

    Every position has an exponential clock and is chosen if it has rung by time -ln(1 - share). The first ring is what counts,
    so the rings up to then, Poisson many at uniform positions, give the set. Work and memory grow with its size, not with n.
    """
    if share == 1.0:
        return torch.arange(n)
    quantile = float(torch.rand(1, generator=generator, dtype=torch.float64))
    rings = _poisson(quantile, -n * math.log1p(-share))
    positions = np.sort(torch.randint(n, (rings,), generator=generator).numpy())  # the first of more rings are the same ones
    return torch.from_numpy(positions[_first(positions)])


def _poisson(quantile: float, mean: float) -> int:
    """The smallest count whose cumulative probability is a quantile or more: `scipy.stats.poisson.ppf`, in less time."""
    above = math.ceil(pdtrik(quantile, mean))
    below = max(above - 1, 0)
    return below if pdtr(below, mean) >= quantile else above


def flips(n: int, numbers: range, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor, int]:
    """What to flip in n stored numbers.

    Returns: positions (k,) int64, and for each the integer (k,) int64 with a one for every bit to flip; and how
        many bits that is.
    """
    drawn = draw(n * len(numbers), share, generator).numpy()
    positions, bits = drawn // len(numbers), drawn % len(numbers) + numbers.start
    first = _first(positions)
    ones = np.add.reduceat(np.left_shift(1, bits), first)
    return torch.from_numpy(positions[first]), torch.from_numpy(ones), len(drawn)


def _first(ordered: np.ndarray) -> np.ndarray:
    """Where each distinct number of a sorted array (k,) comes first; NumPy makes quicker work of few numbers than torch."""
    new = np.ones(len(ordered), dtype=bool)
    np.not_equal(ordered[1:], ordered[:-1], out=new[1:])
    return new.nonzero()[0]
