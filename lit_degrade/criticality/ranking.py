"""The weights of highest and of lowest score, of all sites together or of each, looking at the scores of one site at a time."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from lit_degrade.criticality.catalog import Mode
from lit_degrade.errors import UserError
from lit_degrade.perturbations.storage import stored
from lit_degrade.subjects.anatomy import Site
from lit_degrade.subjects.loading import Subject

ScoresOf = Callable[[Site], Tensor]
"""Scores of a site, in the shape of its view."""


class Weights:
    """All weights of some sites, numbered one site after the other, each in the order of its view."""

    def __init__(self, subject: Subject, sites: Sequence[Site]) -> None:
        """Number the weights of a subject."""
        self.sites = list(sites)
        self.shapes = [stored(subject.model, site.parameter).shape for site in sites]
        self.views = [site.view(torch.empty(shape, device="meta")) for site, shape in zip(sites, self.shapes, strict=True)]
        self.starts = torch.tensor([0, *(view.numel() for view in self.views)]).cumsum(0)
        self.parameters = list(dict.fromkeys(site.parameter for site in sites))

    def __len__(self) -> int:
        """Number of weights."""
        return int(self.starts[-1])

    def size(self, site: int) -> int:
        """Number of weights of a site."""
        return self.views[site].numel()

    def by_site(self, ids: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Numbers of sites that hold any of these weights, and the positions (k,) in their views, in the order of `ids`."""
        owner = torch.searchsorted(self.starts, ids, right=True) - 1
        for site in owner.unique().tolist():
            yield site, ids[owner == site] - self.starts[site]

    def pairs(self, ids: Tensor) -> Tensor:
        """Index into `parameters` and flat index in that parameter, of each of some weights, (k, 2) int64."""
        pairs = torch.empty(len(ids), 2, dtype=torch.int64)
        owner = torch.searchsorted(self.starts, ids, right=True) - 1
        for site, positions in self.by_site(ids):
            view, name = self.views[site], self.sites[site].parameter
            places = torch.unravel_index(positions, view.shape)
            flat = torch.full_like(positions, int(view.storage_offset()))
            for place, stride in zip(places, view.stride(), strict=True):
                flat += place * stride
            pairs[owner == site] = torch.stack([torch.full_like(positions, self.parameters.index(name)), flat], 1)
        return pairs

    def only(self, ids: Tensor) -> dict[str, Tensor]:
        """Parameter name -> flat indices in it (k,), sorted: what `perturbed` takes, and selection files hold."""
        pairs = self.pairs(ids)
        return {self.parameters[index]: pairs[pairs[:, 0] == index, 1].sort().values for index in pairs[:, 0].unique().tolist()}

    def check(self, k: int, mode: Mode) -> None:
        """Raise: UserError for a number of weights that cannot be chosen."""
        most = len(self) if mode == "global" else min(self.size(i) for i in range(len(self.sites)))
        if not 1 <= k <= most:
            where = "the target" if mode == "global" else "its smallest matrix"
            raise UserError(f"k={k}: expected 1 to {most}, the number of weights of {where}.")


def highest(weights: Weights, scores_of: ScoresOf, k: int, mode: Mode = "global") -> Tensor:
    """The k weights of highest score, best first, of all or of every site; of equal scores the first. (k,) int64."""
    return _ranked(weights, scores_of, k, mode)


def lowest(weights: Weights, scores_of: ScoresOf, k: int, mode: Mode, treated: Tensor) -> Tensor:
    """The k weights of lowest score that are not treated and whose score is not zero; of equal ones the first. (k,) int64.

    Raises: UserError where there are not as many: a control of weights that the score has nothing to say about is none.
    """
    taken = dict(weights.by_site(treated))

    def from_below(site: Site) -> Tensor:
        scores = scores_of(site)
        scores = torch.where(scores == 0, -torch.inf, -scores).flatten()
        scores[taken.get(weights.sites.index(site), torch.empty(0, dtype=torch.int64)).to(scores.device)] = -torch.inf
        return scores

    return _ranked(weights, from_below, k, mode)


def _ranked(weights: Weights, scores_of: ScoresOf, k: int, mode: Mode) -> Tensor:
    if mode == "global":
        return _top(weights, scores_of, range(len(weights.sites)), k)
    return torch.cat([_top(weights, scores_of, [i], k) for i in range(len(weights.sites))])


def _top(weights: Weights, scores_of: ScoresOf, sites: Sequence[int], k: int) -> Tensor:
    """The k highest of some sites: the best so far, and one more, are compared with those of the next site, again and again."""
    best, ids, least = torch.empty(0), torch.empty(0, dtype=torch.int64), -torch.inf
    for i in sites:
        scores = scores_of(weights.sites[i]).flatten()
        places = (scores >= least).nonzero().flatten() if len(best) > k else torch.arange(0)
        if len(best) <= k or len(places) > k:  # few are left once there is something to beat
            values, places = scores.topk(min(k + 1, len(scores)), sorted=False)
        else:
            values = scores[places]
        best, ids = torch.cat([best, values.cpu()]), torch.cat([ids, places.cpu() + weights.starts[i]])
        if len(best) > k + 1 and len(places):
            best, kept = best.topk(k + 1, sorted=False)
            ids, least = ids[kept], float(best.min())
    ids, order = ids.sort()
    best, order = best[order].sort(descending=True, stable=True)
    ids = ids[order]
    if len(best) > k and best[k] == best[k - 1]:  # more than k with that score, of which `topk` takes any
        ids = torch.cat([ids[best > best[k]], _first_with(best[k], weights, scores_of, sites, k - int((best > best[k]).sum()))])
    if best[k - 1] == -torch.inf:
        where = f"'{weights.sites[sites[0]].parameter}'" if len(sites) == 1 else "the target"
        raise UserError(
            f"bottom_k of {k} weights: only {int((best > -torch.inf).sum())} weights of {where} that are not treated have a "
            "score other than zero. Use a smaller k, or another metric."
        )
    return ids[:k]


def _first_with(score: Tensor, weights: Weights, scores_of: ScoresOf, sites: Sequence[int], n: int) -> Tensor:
    """The first n weights with a score."""
    ids = torch.empty(0, dtype=torch.int64)
    for i in sites:
        places = (scores_of(weights.sites[i]).flatten() == score).nonzero().flatten()
        ids = torch.cat([ids, places.cpu() + weights.starts[i]])[:n]
        if len(ids) == n:
            break
    return ids
