"""Which weights a perturbation is about: sites of a target, and the chosen weights in them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from lit_degrade.errors import UserError, unknown
from lit_degrade.perturbations.catalog import PUBLISHED_TARGETS, PerturbationSettings, numbers
from lit_degrade.perturbations.storage import stored
from lit_degrade.subjects.anatomy import Kind, Site
from lit_degrade.subjects.loading import Subject

_WEIGHTS: tuple[Kind, ...] = ("weight",)
_KINDS: Mapping[str, tuple[Kind, ...]] = {"norm": ("weight", "bias")}


def sites_of(subject: Subject, settings: PerturbationSettings) -> list[Site]:
    """Where a perturbation acts; never outside the language model of an image-text subject.

    Raises: UserError for a target or a layer that the subject lacks, naming what it has.
    """
    anatomy, depths = subject.anatomy, numbers(settings.layers, "layers")
    target = PUBLISHED_TARGETS[settings.target][0] if settings.target in PUBLISHED_TARGETS else settings.target
    if target == "all":
        anatomy.select("blocks", depths)  # refuses layers that do not exist
        sites = [site for site in anatomy.sites if site.kind != "adapter" and (depths is None or site.depth in depths)]
    else:
        sites = anatomy.select(target, depths, _KINDS.get(target, _WEIGHTS))
    if settings.target == "embed_only":
        sites = [site for site in sites if site.parameter == token_embedding(subject)]
    if not sites:
        raise UserError(f"Target '{settings.target}' has nothing in layers {settings.layers} of '{subject.spec.name}'.")
    return sites


def whole(subject: Subject, name: str) -> Site:
    """A parameter as one site: the parts of a fused one count as its group, attn.

    Raises: UserError for a parameter that the language model does not have.
    """
    own = [site for site in subject.anatomy.sites if site.parameter == name and site.kind != "adapter"]
    if not own:
        raise unknown("parameter", name, dict.fromkeys(site.parameter for site in subject.anatomy.sites))
    return own[0] if own[0].part is None else replace(own[0], component="attn", part=None)


def token_embedding(subject: Subject) -> str:
    """Name of the token embedding matrix."""
    return next(name for name, parameter in subject.model.named_parameters() if parameter is subject.embedding)


def is_tied(subject: Subject) -> bool:
    """Whether the token embedding is also the unembedding."""
    head = subject.model.get_output_embeddings()
    return head is not None and head.weight is subject.embedding


def load_selection(subject: Subject, settings: PerturbationSettings, sites: Sequence[Site]) -> dict[str, Tensor] | None:
    """Weights that the settings restrict a target to: parameter name -> flat indices (k,); None for no restriction.

    Raises: UserError for a file that cannot be read, or that holds anything that would change nothing.
    """
    if not settings.selection:
        return None
    from safetensors.torch import load_file

    path = Path(settings.selection).expanduser()
    try:
        chosen = load_file(path)
    except Exception as error:  # the library raises classes of its own
        raise UserError(f"Selection '{path}' cannot be read: {' '.join(str(error).split())}") from error
    if not chosen:
        raise UserError(f"Selection '{path}' is empty: it would change nothing.")
    known = {site.parameter for site in sites}
    for name, indices in chosen.items():
        if name not in known:
            raise UserError(f"Selection '{path}': '{name}' is not in target '{settings.target}', layers {settings.layers}.")
        n = stored(subject.model, name).shape.numel()
        distinct = indices.dtype == torch.int64 and indices.dim() == 1 and len(indices.unique()) == len(indices) > 0
        if not distinct or int(indices.min()) < 0 or int(indices.max()) >= n:
            raise UserError(f"Selection '{path}': '{name}' must be a list of distinct int64 indices from 0 to {n - 1}.")
        inside = sum(len(within(site, stored(subject.model, name).shape, indices)) for site in sites if site.parameter == name)
        if inside < len(indices):
            raise UserError(f"Selection '{path}': {len(indices) - inside} weights of '{name}' are not in '{settings.target}'.")
    return {name: indices.sort().values for name, indices in chosen.items()}  # the same draws in whatever order they are named


def within(site: Site, shape: torch.Size, indices: Tensor | None) -> Tensor:
    """Flat positions in a site of flat indices in its parameter, which has this shape; those outside the site are left out."""
    if indices is None:
        return torch.empty(0, dtype=torch.int64)
    if site.part is None:
        return indices
    flat = site.view(torch.arange(shape.numel()).view(shape)).flatten()
    return torch.isin(flat, indices).nonzero().flatten()
