"""Which single bit flips raise the loss most, if a gradient is to be believed: every bit of every weight, in chunks."""

import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_degrade.criticality.ranking import Weights
from lit_degrade.faults.flips import WHOLE, Flip, flipped_values
from lit_degrade.perturbations.bits import CLASSES, WIDTHS
from lit_degrade.perturbations.storage import INT8_MAX, Floats, Quantised, stored
from lit_degrade.subjects.anatomy import Site
from lit_degrade.subjects.loading import Subject

CHUNK = 1 << 14
"""Weights looked at together on a CPU: their bits, values and gradients stay in its cache."""
Decoder = Callable[[Tensor, slice], Tensor]
"""stored integers (k,) of a site, and where in it they are -> values (k,) float32"""


@dataclass(frozen=True)
class Candidate:
    """A single flip, and what the gradient says of it."""

    flip: Flip
    site: Site
    predicted: float
    """first-order change of the loss, g (w' - w), in its unit"""
    value: float
    """of the weight as it is"""
    value_flipped: float


def top_flips(
    subject: Subject,
    gradient: Mapping[str, Tensor],
    weights: Weights,
    m: int,
    limits: Mapping[str, float] | None = None,
    without: Set[Flip] = frozenset(),
) -> list[Candidate]:
    """The m single flips of highest first-order rise of the loss, g (w' - w), over all bits of all weights.

    The score of Rakin et al. 2019 (Bit-Flip Attack, arXiv:1903.12269, section 3.2) in closed form, for every bit instead of
    those of the weights of largest gradient. Best first; equal scores in the order of sites, weights and bits. A flip to a
    value that is not finite has no first-order score: it counts as +inf where g is not zero. Where g is zero, or a product
    is not a number, the gradient says nothing: 0.

    Args:
        subject: its weights are only read.
        gradient: parameter name -> gradient of the loss, as the matrix (not as packed codes).
        weights: which weights.
        m: how many; all that there are if they are fewer.
        limits: parameter name -> largest |w'| allowed, and w' must be finite; None: any value.
        without: flips that are left out.
    """
    best = _Best(m + len(without))
    for i, site in enumerate(weights.sites):
        limit = None if limits is None else limits[site.parameter]
        _scan(best, subject, site, site.view(gradient[site.parameter]).reshape(-1), int(weights.starts[i]), limit)
    return [candidate for candidate in candidates(subject, weights, *best.ranked()) if candidate.flip not in without][:m]


def candidates(
    subject: Subject, weights: Weights, ids: Tensor, bits: Tensor, predicted: Tensor | None = None
) -> list[Candidate]:
    """Single flips of weights, by their numbers (k,) and bits (k,), with their values as stored now; NaN if not predicted."""
    scores = torch.full((len(ids),), torch.nan) if predicted is None else predicted
    before, after = values(subject, weights, ids, bits)
    owner, indices = torch.searchsorted(weights.starts, ids, right=True) - 1, weights.pairs(ids)[:, 1]
    return [
        Candidate(Flip(weights.sites[i].parameter, index, bit), weights.sites[i], *numbers)
        for i, index, bit, *numbers in zip(
            *(column.tolist() for column in (owner, indices, bits, scores, before, after)), strict=True
        )
    ]


def values(subject: Subject, weights: Weights, ids: Tensor, bits: Tensor) -> tuple[Tensor, Tensor]:
    """Weights by their numbers (k,): as stored now, (k,) float32, and with one bit flipped, in the shape (k,) or (bits, k)."""
    before, after = torch.empty(len(ids)), torch.empty(bits.shape)
    pairs = weights.pairs(ids)
    for i in pairs[:, 0].unique().tolist():
        here, place = pairs[:, 0] == i, stored(subject.model, weights.parameters[i])
        indices = pairs[here, 1]
        before[here] = place.read(WHOLE).float().take(indices.to(place.device)).cpu()
        after[..., here] = flipped_values(place, indices, bits[..., here]).cpu()
    return before, after


def largest(subject: Subject, names: Sequence[str]) -> dict[str, float]:
    """Largest |w| of each whole parameter: the range that a flip in range stays in."""
    return {name: float(stored(subject.model, name).read(WHOLE).abs().max()) for name in names}


def _scan(best: "_Best", subject: Subject, site: Site, gradient: Tensor, start: int, limit: float | None) -> None:
    """Offer every flip of a site, whose weights are numbered from `start`; high bits first: they soon leave little to beat."""
    weights = stored(subject.model, site.parameter)
    stored_bits, decode = weights.codes(site).reshape(-1), _decoder(weights, site)
    ones = (torch.ones((), dtype=torch.int64) << torch.arange(WIDTHS[weights.format])).to(stored_bits.dtype).tolist()
    mantissa = CLASSES[weights.format].get("mantissa", range(0))
    tiny = torch.finfo(weights.parameter.dtype).tiny if isinstance(weights, Floats) else 0.0
    step = CHUNK if stored_bits.device.type == "cpu" else len(stored_bits)
    for at in range(0, len(stored_bits), step):
        where = slice(at, min(at + step, len(stored_bits)))
        codes, g = stored_bits[where], gradient[where].float()
        before = decode(codes, where)
        reach = float((before.abs().clamp_min(tiny) * g.abs()).max())  # a mantissa bit moves w by at most its share of |w|
        for bit in reversed(range(len(ones))):
            plain = bit in mantissa and math.isfinite(reach)
            if plain and 2 * reach * 2.0 ** (bit - len(mantissa)) < best.least:  # twice: products are rounded
                continue
            after = decode(codes ^ ones[bit], where)
            scores = (after - before).mul_(g)
            if not plain:
                scores = torch.where(after.isfinite() | (g == 0), scores, torch.inf).nan_to_num_(0.0, torch.inf, -torch.inf)
            places = (scores >= best.least).nonzero().flatten()
            if limit is not None and len(places):
                places = places[after[places].abs() <= min(limit, torch.finfo(torch.float32).max)]
            if len(places):
                best.offer(scores[places].cpu(), places.cpu() + (start + at), bit)


class _Best:
    """The k best so far of what was offered, in the total order of `top_flips`."""

    def __init__(self, k: int) -> None:
        self.k = k
        self.least = -torch.inf
        """score of the k-th: lower ones need not be offered"""
        self.scores, self.keys = torch.empty(0), torch.empty(0, dtype=torch.int64)

    def offer(self, scores: Tensor, ids: Tensor, bit: int) -> None:
        """Flips of one bit of some weights."""
        self.scores, self.keys = torch.cat([self.scores, scores]), torch.cat([self.keys, ids * _WIDEST + bit])
        if len(self.scores) > self.k:
            self.keys, order = self.keys.sort()
            self.scores, order = self.scores[order].sort(descending=True, stable=True)
            self.scores, self.keys = self.scores[: self.k], self.keys[order][: self.k]
            self.least = float(self.scores[-1])

    def ranked(self) -> tuple[Tensor, Tensor, Tensor]:
        """Numbers of weights, bits and scores, best first."""
        keys, order = self.keys.sort()
        scores, by_score = self.scores[order].sort(descending=True, stable=True)
        keys = keys[by_score]
        return keys // _WIDEST, keys % _WIDEST, scores


_WIDEST = max(WIDTHS.values())


def _decoder(weights: Floats | Quantised, site: Site) -> Decoder:
    """What turns stored integers of a site into values, as its layer does."""
    if isinstance(weights, Floats):
        dtype = weights.parameter.dtype
        return lambda codes, where: codes.view(dtype).float()
    if weights.state is None:
        signed = torch.arange(1 << WIDTHS["int8"], device=weights.device).to(torch.uint8).view(torch.int8)
        units, scales = signed.float() / INT8_MAX, weights.scales[:, None].expand(weights.shape)
    else:
        units, size = weights.state.code, weights.shape.numel()
        scales = weights.scales.repeat_interleave(weights.state.blocksize)[:size].view(weights.shape)
    own = site.view(scales).reshape(-1)
    return lambda codes, where: units[codes.long()] * own[where]
