"""What a search is compared with: flips drawn at random under the same constraint; and when a sequence of flips is too much."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_degrade.criticality.ranking import Weights, highest
from lit_degrade.errors import unknown
from lit_degrade.faults.catalog import ARMS, SEARCH
from lit_degrade.faults.scores import Candidate, candidates, values
from lit_degrade.perturbations.bits import CLASSES, WIDTHS
from lit_degrade.perturbations.storage import stored
from lit_degrade.seeds import generator
from lit_degrade.subjects.loading import Subject

CONTROLS = tuple(name for name in ARMS if name != SEARCH)
_SPARE = 4
"""Weights drawn for every flip, since some are drawn twice, and some have no bit that keeps the constraint."""


@dataclass(frozen=True)
class Collapse:
    """When a subject knows no more than the best constant answer."""

    chance: float
    """share of the most frequent token of the text"""
    threshold: float
    """two standard errors above: at this token accuracy, or below, it has collapsed"""


def collapse_of(ids: Tensor) -> Collapse:
    """From held-out sequences (n, length), of which every token but the first is scored; binomial standard error."""
    scored = ids[:, 1:].flatten()
    chance = int(scored.bincount().max()) / len(scored)
    return Collapse(chance, chance + 2 * math.sqrt(chance * (1 - chance) / len(scored)))


def control_flips(
    subject: Subject, weights: Weights, arm: str, n: int, limits: Mapping[str, float] | None, seed: int, draw: int
) -> list[Candidate]:
    """A draw of a control: n flips, each in a weight of its own, in an order of which every beginning is a smaller dose.

    Fewer where the target runs out of weights. The draws depend on the seed, the arm and the draw, and nothing else.

    Args:
        subject: intact.
        weights: which weights.
        arm: from CONTROLS.
        n: how many; more of them begin with the same ones.
        limits: the constraint, as `top_flips` takes it.
        seed: of the run.
        draw: which one.

    Raises: UserError for an arm that does not exist.
    """
    if arm not in CONTROLS:
        raise unknown("control", arm, CONTROLS)
    wanted = min(_SPARE * n, len(weights))
    if arm == "top_magnitude":
        sizes = [stored(subject.model, site.parameter).read for site in weights.sites]
        ids = highest(weights, lambda site: sizes[weights.sites.index(site)](site).float().abs(), wanted)
    else:
        ids = torch.randint(len(weights), (_SPARE * n,), generator=generator(seed, "flips", arm, str(draw), "weights"))
        ids = _distinct(ids)
    uniform = torch.rand(_SPARE * n, generator=generator(seed, "flips", arm, str(draw), "bits"), dtype=torch.float64)
    allowed = _allowed(subject, weights, ids, limits, "exponent" if arm == "random_exponent" else "all")
    counts = allowed.sum(0)
    chosen = (uniform[: len(ids)] * counts).long()  # the chosen-th of those allowed
    bits = ((allowed.cumsum(0) > chosen) & allowed).int().argmax(0)
    keep = (counts > 0).nonzero().flatten()[:n]
    return candidates(subject, weights, ids[keep], bits[keep])


def first_collapse(collapsed: Callable[[int], bool], budget: int) -> int | None:
    """How many flips of a sequence it takes: looked for at 1, 2, 4, … up to the budget, then between the last two by halves.

    It assumes that damage does not heal on the way: of several collapses, one is found. None: not within the budget.
    """
    low, high = 0, min(1, budget)
    while low < budget and not collapsed(high):
        low, high = high, min(2 * high, budget)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if collapsed(middle) else (middle, high)
    return high if low < high else None


def _distinct(ids: Tensor) -> Tensor:
    """Each number once, where it first occurs."""
    distinct, inverse = ids.unique(return_inverse=True)
    first = torch.full((len(distinct),), len(ids)).scatter_reduce_(0, inverse, torch.arange(len(ids)), "amin")
    return ids[first.sort().values]


def _allowed(subject: Subject, weights: Weights, ids: Tensor, limits: Mapping[str, float] | None, bits: str) -> Tensor:
    """Which bits of weights (k,) may flip, (32, k); bits that a format does not have may not."""
    allowed = torch.zeros(max(WIDTHS.values()), len(ids), dtype=torch.bool)
    for i, _ in weights.by_site(ids):
        here = (ids >= weights.starts[i]) & (ids < weights.starts[i + 1])
        name = weights.sites[i].parameter
        kind = stored(subject.model, name).format
        numbers = torch.tensor(range(WIDTHS[kind]) if bits == "all" else CLASSES[kind].get(bits, CLASSES[kind]["sign"]))
        own = ids[here]
        after = values(subject, weights, own, numbers[:, None].expand(-1, len(own)))[1]
        keeps = torch.ones_like(after, dtype=torch.bool) if limits is None else after.isfinite() & (after.abs() <= limits[name])
        allowed[numbers[:, None], here.nonzero().flatten()] = keeps
    return allowed
