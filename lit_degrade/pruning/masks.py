"""Which weights of lowest score are pruned, exactly as many as asked for."""

from collections.abc import Mapping

import torch
from torch import Tensor

from lit_degrade.pruning.catalog import PruneSettings
from lit_degrade.subjects.anatomy import Site
from lit_degrade.subjects.loading import Subject

Masks = dict[Site, Tensor]
"""Site -> which of its weights (outputs, inputs) become zero, bool"""
_INPUT_SIDE = ("attn_o", "mlp_down")
"""Components whose inputs, not outputs, belong to heads and neurons."""


def matrix(values: Tensor, site: Site) -> Tensor:
    """Values of a site, in the shape of its view, as (outputs, inputs), however it is stored."""
    return values.movedim(site.input_axis, -1).flatten(0, -2)


def weights_of(subject: Subject, site: Site) -> Tensor:
    """Stored weights of a site (outputs, inputs), float32; a copy."""
    stored = matrix(site.view(subject.model.get_parameter(site.parameter).detach()), site)
    return stored.to(torch.float32, copy=True, memory_format=torch.contiguous_format)


def write_(subject: Subject, site: Site, weights: Tensor) -> None:
    """Store weights (outputs, inputs) of a site in its own format."""
    place = site.view(subject.model.get_parameter(site.parameter).data).movedim(site.input_axis, -1)
    place.copy_(weights.view(place.shape))


def lowest(scores: Tensor, k: int) -> Tensor:
    """The k lowest along the last axis, bool; of equal ones the first. NaN counts as highest."""
    order = scores.sort(dim=-1, stable=True).indices[..., :k]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, order, True)


def single_weights(scores: Mapping[Site, Tensor], settings: PruneSettings) -> Masks:
    """Single weights that are pruned, among those of every site, row or group of inputs, or of all these sites.

    Args:
        scores: of each site (outputs, inputs).
        settings: scope or pattern, and the share of zeros.
    """
    share, where = settings.share, settings.compared_in
    if where == "global":
        flat = torch.cat([score.flatten() for score in scores.values()])
        parts = lowest(flat, round(share * len(flat))).split([score.numel() for score in scores.values()])
        return {site: part.view_as(scores[site]) for site, part in zip(scores, parts, strict=True)}
    return {site: _of_one(score, settings) for site, score in scores.items()}


def _of_one(scores: Tensor, settings: PruneSettings) -> Tensor:
    if settings.compared_in == "row":
        return lowest(scores, round(settings.share * scores.shape[1]))
    if settings.compared_in == "group":
        n, m = settings.kept_of
        return lowest(scores.reshape(-1, m), m - n).view_as(scores)
    return lowest(scores.flatten(), round(settings.share * scores.numel())).view_as(scores)


def whole_groups(scores: Mapping[Site, Tensor], settings: PruneSettings, head_dim: int) -> Masks:
    """Heads, neurons or layers that are pruned, among those of every layer, or of all layers that these sites are in.

    The score of a group is the sum over its weights. K and V belong to a head that shares them with no other; else they are
    pruned when all heads that share them are, and do not count.

    Args:
        scores: of each site (outputs, inputs), all sites of each layer.
        settings: structure, scope, and the share of groups.
        head_dim: width of one head.
    """
    layers: dict[int | None, dict[Site, Tensor]] = {}
    for site, score in scores.items():
        layers.setdefault(site.depth, {})[site] = score
    totals = torch.stack([_group_scores(layer, settings.structure, head_dim) for layer in layers.values()])
    if settings.compared_in == "global":
        chosen = lowest(totals.flatten(), round(settings.share * totals.numel())).view_as(totals)
    else:
        chosen = lowest(totals, round(settings.share * totals.shape[1]))
    masks = {}
    for layer, groups in zip(layers.values(), chosen, strict=True):
        for site, score in layer.items():
            masks[site] = _spread(groups, site, score, settings.structure, head_dim)
    return masks


def _group_scores(layer: Mapping[Site, Tensor], structure: str, head_dim: int) -> Tensor:
    """Sum of the scores of every group of a layer (groups,), float64."""
    count = _count(layer, structure, head_dim)
    total = torch.zeros(count, dtype=torch.float64, device=next(iter(layer.values())).device)
    for site, score in layer.items():
        along = score.sum(0 if _by_inputs(site, structure) else 1, dtype=torch.float64)
        if structure != "heads" or len(along) == count * head_dim:
            total += along.view(count, -1).sum(1)
    return total


def _count(layer: Mapping[Site, Tensor], structure: str, head_dim: int) -> int:
    if structure == "layers":
        return 1
    inputs = next(score.shape[1] for site, score in layer.items() if site.component in _INPUT_SIDE)
    return inputs // head_dim if structure == "heads" else inputs


def _spread(groups: Tensor, site: Site, score: Tensor, structure: str, head_dim: int) -> Tensor:
    """Weights of a site (outputs, inputs) that belong to the chosen groups (groups,)."""
    by_inputs = _by_inputs(site, structure)
    length = score.shape[1 if by_inputs else 0]
    if structure == "heads":
        groups = groups.view(length // head_dim, -1).all(1)  # heads that share a key and a value lie side by side
    along = groups.repeat_interleave(length // len(groups))
    return (along[None] if by_inputs else along[:, None]).expand(score.shape)


def _by_inputs(site: Site, structure: str) -> bool:
    return structure != "layers" and site.component in _INPUT_SIDE


def zero_biases_(subject: Subject, site: Site, mask: Tensor, structure: str) -> None:
    """Zero the biases of pruned outputs of a site: of heads, neurons or layers, which give nothing any more."""
    if _by_inputs(site, structure):
        return
    for bias in subject.anatomy.select(site.component, [site.depth or 0], ("bias",)):
        place = bias.view(subject.model.get_parameter(bias.parameter).data)
        place.masked_fill_(mask.all(1).view(place.shape), 0.0)
