"""Single stored bits: what a weight becomes when some of its bits flip, and flipping them for a while. Nothing is softened."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from lit_degrade.errors import UserError
from lit_degrade.faults.catalog import BitClass
from lit_degrade.perturbations.bits import CLASSES, WIDTHS
from lit_degrade.perturbations.storage import INT8_MAX, Floats, Quantised, StoredChange, stored
from lit_degrade.perturbations.targets import whole
from lit_degrade.subjects.anatomy import Site
from lit_degrade.subjects.loading import Subject

WHOLE = Site("", "", None, "weight")
"""All of any parameter, in its own shape."""


@dataclass(frozen=True)
class Flip:
    """One bit of one stored weight."""

    parameter: str
    """name in `model.named_parameters()`"""
    index: int
    """flat, in the parameter's own shape"""
    bit: int
    """0 the lowest of the stored number"""


def check_bit(stored_format: str, bit: int) -> None:
    """Raise: UserError for a bit that a format does not have, naming those it has."""
    if not 0 <= bit < WIDTHS[stored_format]:
        raise UserError(f"Bit {bit} of {stored_format} does not exist: expected 0 to {WIDTHS[stored_format] - 1}.")


def bit_class(stored_format: str, bit: int) -> BitClass:
    """What a bit is: sign, exponent or mantissa of a float; sign or code of a quantised weight.

    Raises: UserError for a bit that the format does not have.
    """
    check_bit(stored_format, bit)
    kind = next((name for name, numbers in CLASSES[stored_format].items() if bit in numbers), "code")
    return cast(BitClass, kind)


def flipped_values(weights: Floats | Quantised, indices: Tensor, bits: Tensor) -> Tensor:
    """What weights are after one stored bit of each has flipped, decoded; exact, infinities and NaN included.

    Args:
        weights: a parameter.
        indices: flat positions in its own shape, int64.
        bits: numbers of bits, int64; any shape that broadcasts with `indices`.
    Returns: float32, in the shape that both broadcast to.
    """
    indices, bits = torch.broadcast_tensors(indices.to(weights.device), bits.to(weights.device))
    codes = weights.codes(WHOLE).take(indices)
    return _decoded(weights, indices, codes ^ (torch.ones_like(bits) << bits).to(codes.dtype))


def _decoded(weights: Floats | Quantised, indices: Tensor, codes: Tensor) -> Tensor:
    """Values of stored integers at flat positions, float32: int8 codes x row scale / 127, nf4 levels x block scale."""
    if isinstance(weights, Floats):
        return codes.view(weights.parameter.dtype).float()
    if weights.state is None:
        return codes.view(torch.int8).float() / INT8_MAX * weights.scales[indices // weights.shape[1]]
    return weights.state.code[codes.long()] * weights.scales[indices // weights.state.blocksize]


def check_flips(subject: Subject, flips: Sequence[Flip]) -> None:
    """Raise: UserError for a parameter, an index or a bit that does not exist."""
    known: dict[str, tuple[str, int]] = {}
    for flip in flips:
        if flip.parameter not in known:
            weights = stored(subject.model, whole(subject, flip.parameter).parameter)
            known[flip.parameter] = weights.format, weights.shape.numel()
        form, n = known[flip.parameter]
        check_bit(form, flip.bit)
        if not 0 <= flip.index < n:
            raise UserError(f"Weight {flip.index} of '{flip.parameter}' does not exist: expected 0 to {n - 1}.")


@contextmanager
def flipped(subject: Subject, flips: Sequence[Flip]) -> Iterator[None]:
    """Flip stored bits; on leaving, however that happens, every weight is as it was, bit for bit.

    Bits of the same weight flip together, and a bit that is named twice flips twice.

    Raises: UserError before anything is changed (see `check_flips`).
    """
    check_flips(subject, flips)
    masks: dict[str, dict[int, int]] = {}
    for flip in flips:
        own = masks.setdefault(flip.parameter, {})
        own[flip.index] = own.get(flip.index, 0) ^ (1 << flip.bit)
    applied: list[StoredChange] = []
    try:
        for name, own in masks.items():
            for write in _writes(stored(subject.model, name), own):
                applied.append(write)  # before it is applied: an interruption may come in between
                write.apply_()
        yield
    finally:
        while applied:
            applied[-1].revert_()
            applied.pop()


def _writes(weights: Floats | Quantised, masks: dict[int, int]) -> list[StoredChange]:
    """What flips the bits of masks, by flat position."""
    positions = torch.tensor(list(masks), device=weights.device)
    codes = weights.codes(WHOLE).take(positions)
    ones = torch.tensor(list(masks.values()), device=weights.device).to(codes.dtype)
    return weights.write_codes(WHOLE, positions, codes ^ ones)
