"""Weights to compare chosen ones with: as many, elsewhere, of the same size, or of the lowest score."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_degrade.criticality.catalog import Mode
from lit_degrade.criticality.ranking import ScoresOf, Weights
from lit_degrade.errors import UserError

BIN = math.log(1.05)
"""Width of a bin of the |w| histogram that controls are matched in: 5 %."""


@dataclass(frozen=True)
class Control:
    """Weights of one control."""

    ids: Tensor
    """(k,) int64"""
    matched: float = math.nan
    """share drawn from the bin of |w| that they stand for; the rest is the nearest there is"""


def random_k(weights: Weights, treated: Tensor, mode: Mode, draws: torch.Generator) -> Control:
    """As many weights as are treated, none of them treated, every such set equally likely; of every site, in mode per_layer.

    Raises: UserError where there are not as many.
    """
    if mode == "global":
        return Control(_elsewhere(treated.sort().values, 0, len(weights), len(treated), draws))
    chosen = []
    for i, positions in weights.by_site(treated):
        start = int(weights.starts[i])
        own = (positions + start).sort().values
        chosen.append(_elsewhere(own, start, start + weights.size(i), len(own), draws))
    return Control(torch.cat(chosen))


def _elsewhere(taken: Tensor, start: int, stop: int, k: int, draws: torch.Generator) -> Tensor:
    """k distinct numbers from start to stop, none of those taken (sorted)."""
    free = stop - start - len(taken)
    if free < k:
        raise UserError(f"random_k of {k} weights: only {free} are not treated. Use a smaller k.")
    numbers = _distinct(free, k, draws)
    # the i-th taken number has taken[i] - start - i free ones before it
    skipped = torch.searchsorted(taken - start - torch.arange(len(taken)), numbers, right=True)
    return numbers + skipped + start


def _distinct(n: int, k: int, draws: torch.Generator) -> Tensor:
    """k distinct numbers below n, in random order; memory grows with k, not with n."""
    numbers = torch.empty(0, dtype=torch.int64)
    while len(numbers) < k:
        drawn = torch.cat([numbers, torch.randint(n, (2 * k,), generator=draws)])
        distinct, first = drawn.unique(return_inverse=True)
        places = torch.full_like(distinct, len(drawn)).scatter_reduce_(0, first, torch.arange(len(drawn)), "amin")
        numbers = drawn[places.sort().values]
    return numbers[:k]


def among(weights: Weights, sites: Sequence[int], k: int, draws: torch.Generator) -> Tensor:
    """k weights of some sites (their numbers), every such set equally likely, (k,) int64."""
    ends = torch.tensor([weights.size(i) for i in sites]).cumsum(0)
    numbers = _distinct(int(ends[-1]), k, draws)
    owner = torch.searchsorted(ends, numbers, right=True)
    starts = weights.starts[list(sites)] - torch.cat([torch.zeros(1, dtype=torch.int64), ends[:-1]])
    return numbers + starts[owner]


def matched_random_k(weights: Weights, treated: Tensor, sizes_of: ScoresOf, draws: Sequence[torch.Generator]) -> list[Control]:
    """As many weights of every site as are treated there, none of them treated, with the same histogram of |w|; for each draw.

    Bins are 5 % wide. Where a bin holds too few others, the nearest in |w| are taken, and `matched` says for how many.

    Args:
        weights: of the target.
        treated: what is compared.
        sizes_of: |w| of a site.
        draws: random numbers, of each draw.

    Raises: UserError where a site has too few weights that are not treated.
    """
    chosen: list[list[Tensor]] = [[] for _ in draws]
    matched = [0 for _ in draws]
    for i, positions in weights.by_site(treated):
        sizes = sizes_of(weights.sites[i]).flatten().cpu()
        if 2 * len(positions) > len(sizes):
            raise UserError(
                f"matched_random_k: {len(positions)} of the {len(sizes)} weights of '{weights.sites[i].parameter}' are "
                "treated, and too few are left to compare them with. Use a smaller k, or another target."
            )
        bins = torch.where(sizes > 0, (sizes.log() / BIN).floor(), -torch.inf)
        for own, draw in enumerate(draws):
            ids, n = _alike(sizes, bins, positions, draw)
            chosen[own].append(ids + weights.starts[i])
            matched[own] += n
    return [Control(torch.cat(ids), n / len(treated)) for ids, n in zip(chosen, matched, strict=True)]


def _alike(sizes: Tensor, bins: Tensor, treated: Tensor, draws: torch.Generator) -> tuple[Tensor, int]:
    """Positions of as many others with sizes alike, and how many of them are in the bins of those they stand for."""
    free = torch.ones(len(sizes), dtype=torch.bool)
    free[treated] = False
    wanted, counts = bins[treated].unique(return_counts=True)
    candidates = (free & torch.isin(bins, wanted)).nonzero().flatten()
    candidates = candidates[torch.randperm(len(candidates), generator=draws)]
    of_bin, order = torch.searchsorted(wanted, bins[candidates]).sort(stable=True)
    place = torch.arange(len(of_bin)) - torch.searchsorted(of_bin, of_bin)
    taken = candidates[order[place < counts[of_bin]]]
    lacking = (counts - of_bin.bincount(minlength=len(wanted))).clamp(min=0)
    if not lacking.any():
        return taken, len(taken)
    free[taken] = False
    rest = free.nonzero().flatten()
    rest = rest[sizes[rest].sort(stable=True).indices]
    middles = (wanted.repeat_interleave(lacking) + 0.5) * BIN
    return torch.cat([taken, rest[_nearest(sizes[rest].log(), middles.flip(0))]]), len(taken)


def _nearest(pool: Tensor, wanted: Tensor) -> Tensor:
    """Distinct places in a rising pool (n,) for falling values (m,), m <= n: the nearest, or the next that is left below."""
    n, m = len(pool), len(wanted)
    right = torch.searchsorted(pool, wanted).clamp(1, n - 1)
    nearest = right - (wanted - pool[right - 1] < pool[right] - wanted).long()
    steps = torch.arange(m)
    distinct = (nearest + steps).cummin(0).values - steps
    return distinct.maximum(m - 1 - steps)


def zero_scores(arm: str, metric: str, weights: Weights, ids: Tensor, scores_of: ScoresOf) -> float:
    """Share of some weights whose score is zero.

    Raises: UserError where it is all of them: damage to weights that the score says nothing about shows nothing.
    """
    zeros = 0
    for i, positions in weights.by_site(ids):
        scores = scores_of(weights.sites[i]).flatten()
        zeros += int((scores[positions.to(scores.device)] == 0).sum())
    if zeros == len(ids):
        raise UserError(
            f"{arm} of {len(ids)} weights: {metric} is zero for every one of them, as for the embeddings of tokens that the "
            "calibration text lacks. Use more calibration text, a smaller k, or another target."
        )
    return zeros / len(ids)
