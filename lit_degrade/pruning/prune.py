"""From settings and calibration text to a pruned subject, and what pruning did to every matrix; undone bit for bit if asked."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from lit_degrade.criticality.catalog import ScoreSettings
from lit_degrade.criticality.measuring import measure, passes
from lit_degrade.criticality.scores import Scores
from lit_degrade.errors import Diverged, UserError
from lit_degrade.perturbations.catalog import numbers
from lit_degrade.pruning.catalog import PruneSettings
from lit_degrade.pruning.inputs import Moments, entrance, through
from lit_degrade.pruning.masks import Masks, matrix, single_weights, weights_of, whole_groups, write_, zero_biases_
from lit_degrade.pruning.sparsegpt import hessian, sparsegpt
from lit_degrade.seeds import generator
from lit_degrade.subjects.anatomy import Site
from lit_degrade.subjects.loading import DTYPES, Subject

_SQUARED = ("magnitude", "act_mag")
"""Scores of single weights whose squares add up to those of a group."""


@dataclass(frozen=True)
class PrunedSite:
    """What pruning did to a matrix; columns of pruning.csv, but for the last."""

    parameter: str
    component: str
    depth: int | None
    method: str
    scope: str
    pattern: str
    structure: str
    weights: int
    zeros: int
    """stored weights that are zero now"""
    sparsity: float
    """zeros / weights"""
    norm: float
    """L2 norm of the weights before"""
    norm_of_change: float
    """L2 norm of the change"""
    reconstruction_error: float
    """‖(W - W')X‖ / ‖WX‖, X the inputs that the intact subject gives this matrix on the calibration text"""
    output_energy: float
    """‖WX‖²"""

    def row(self) -> dict[str, Any]:
        """Row of pruning.csv."""
        return {key: value for key, value in asdict(self).items() if key != "output_energy"}


def totals(rows: Sequence[PrunedSite]) -> dict[str, float]:
    """The same for all matrices together."""
    weights, zeros = sum(row.weights for row in rows), sum(row.zeros for row in rows)
    change, norm = (sum(getattr(row, key) ** 2 for row in rows) for key in ("norm_of_change", "norm"))
    lost = sum(row.reconstruction_error**2 * row.output_energy for row in rows if row.output_energy)
    energy = sum(row.output_energy for row in rows)
    return {
        "weights": weights,
        "zeros": zeros,
        "sparsity_achieved": zeros / weights,
        "relative_norm": math.sqrt(change / norm) if norm else 0.0,
        "reconstruction_error": math.sqrt(lost / energy) if energy else 0.0,
    }


def sites_to_prune(subject: Subject, settings: PruneSettings) -> list[Site]:
    """Matrices that settings are about, in the order of the model.

    Raises: UserError where this subject cannot be pruned so.
    """
    if subject.spec.adapter == "lora":
        raise UserError(f"'{subject.spec.name}' has LoRA adapters, which would stay as they are: use --adapter full.")
    sites = subject.anatomy.select(settings.part, numbers(settings.layers, "prune.layers"))
    for site in sites:
        if subject.model.get_parameter(site.parameter).dtype not in DTYPES.values():
            raise UserError(
                f"'{subject.spec.name}' is stored at precision '{subject.spec.precision}', in codes with scales: prune it "
                "at fp32, bf16 or fp16 first, then load what was saved at that precision."
            )
        inputs = weights_of(subject, site).shape[1]
        if settings.pattern and inputs % settings.kept_of[1]:
            raise UserError(
                f"prune.pattern={settings.pattern}: '{site.parameter}' has {inputs} inputs, no multiple of its second number."
            )
    if settings.structure == "layers" and _norms_the_stream(subject):
        raise UserError(
            f"'{subject.spec.name}' normalises what passes by its blocks: no block of it can be pruned to add nothing."
        )
    return sites


def _norms_the_stream(subject: Subject) -> bool:
    config = subject.anatomy.config
    return not getattr(config, "do_layer_norm_before", True) or getattr(
        config, "apply_residual_connection_post_layernorm", False
    )


def stages(subject: Subject, settings: PruneSettings, ids: Tensor) -> int:
    """How often `prune_` calls `done`."""
    scoring = 0 if settings.sequential else passes(ids, [settings.metric])
    return scoring + 1 + max(site.depth or 0 for site in sites_to_prune(subject, settings))


def prune_(
    subject: Subject, settings: PruneSettings, ids: Tensor, seed: int, done: Callable[[], None] = lambda: None
) -> list[PrunedSite]:
    """Prune a subject in place, and say what that did to every matrix.

    Blocks are run one by one on what passes through them. Wanda and SparseGPT prune a block by the inputs that the pruned
    blocks before it make, as their authors do (those of all matrices of a block are taken before any of them is pruned); every
    other score, and those that are compared over all layers, are of the intact subject. Reconstruction errors are on the inputs
    of the intact subject always, so that those of all methods are of the same outputs. Weights that are zero already are pruned
    first (SparseGPT alone may fill them in).

    Args:
        subject: fp32, bf16 or fp16; without adapters.
        settings: what to prune.
        ids: calibration text (n, length) int64.
        seed: of random scores and vectors.
        done: called after every block, and every batch that is scored.

    Raises: UserError where this subject cannot be pruned so; Diverged when a matrix's inputs are not finite.
    """
    sites = sites_to_prune(subject, settings)
    score = None if settings.sequential else _intact_scores(subject, settings, sites, ids, seed, done)
    masks = _masks(subject, settings, sites, score, {}) if settings.compared_in == "global" else {}
    rows: list[PrunedSite] = []
    intact = damaged = entrance(subject, ids)
    for depth in range(1 + max(site.depth or 0 for site in sites)):
        here = [site for site in sites if site.depth == depth]
        names = [site.parameter for site in here]
        intact, moments = through(subject, depth, intact, names)
        seen = through(subject, depth, damaged, names)[1] if settings.sequential and rows else moments
        rows += _prune_block(subject, settings, here, score, masks, seen, moments)
        damaged = through(subject, depth, damaged)[0] if settings.sequential and rows else intact
        done()
    return rows


def _intact_scores(
    subject: Subject, settings: PruneSettings, sites: Sequence[Site], ids: Tensor, seed: int, done: Callable[[], None]
) -> Callable[[Site], Tensor]:
    """Scores of the weights of a site (outputs, inputs), by sums over text that are taken now."""
    names = list(dict.fromkeys(site.parameter for site in sites))
    draws = generator(seed, "pruning", "probes")
    sums = measure(subject, ids, names, [settings.metric], ScoreSettings(), draws, done)
    scores = Scores(subject, sums, seed)
    return lambda site: matrix(scores(settings.metric, site), site)


def _masks(
    subject: Subject, settings: PruneSettings, sites: Sequence[Site], score: Callable[[Site], Tensor] | None, moments: Moments
) -> Masks:
    """What is pruned of some sites that are compared with each other, or each by itself."""
    scores = {}
    for site in sites:
        weights = weights_of(subject, site)
        values = score(site) if score else weights.abs() * moments[site.parameter].diagonal().sqrt()
        if settings.structure:
            scores[site] = values.square() if settings.metric in _SQUARED else values
        else:
            scores[site] = values.masked_fill(weights == 0, -math.inf)
    if settings.structure:
        return whole_groups(scores, settings, subject.anatomy.head_dim)
    return single_weights(scores, settings)


def _prune_block(
    subject: Subject,
    settings: PruneSettings,
    sites: Sequence[Site],
    score: Callable[[Site], Tensor] | None,
    masks: Masks,
    seen: Moments,
    moments: Moments,
) -> list[PrunedSite]:
    """Prune the sites of one block: by masks where they are known, else by scores or by the inputs that the block has seen."""
    for site in sites:
        if not bool(seen[site.parameter].isfinite().all()):
            raise Diverged(0, f"the input of '{site.parameter}' on the calibration text")
    if settings.method != "sparsegpt" and not masks and sites:
        masks = _masks(subject, settings, sites, score, seen)
    rows = []
    for site in sites:
        before = weights_of(subject, site)
        if settings.method == "sparsegpt":
            after = sparsegpt(before, hessian(seen[site.parameter], settings.damping), settings)
        else:
            after = before.masked_fill(masks[site], 0.0)
        write_(subject, site, after)
        if settings.structure:
            zero_biases_(subject, site, masks[site], settings.structure)
        rows.append(_row(subject, settings, site, before, moments[site.parameter]))
    return rows


def _row(subject: Subject, settings: PruneSettings, site: Site, before: Tensor, moment: Tensor) -> PrunedSite:
    """What became of a site."""
    after = weights_of(subject, site)
    change, zeros = after - before, int((after == 0).sum())
    lost, energy = output_energy(change, moment), output_energy(before, moment)
    return PrunedSite(
        parameter=site.parameter,
        component=site.component,
        depth=site.depth,
        method=settings.method,
        scope=settings.compared_in,
        pattern=settings.pattern,
        structure=settings.structure,
        weights=after.numel(),
        zeros=zeros,
        sparsity=zeros / after.numel(),
        norm=float(torch.linalg.vector_norm(before, dtype=torch.float64)),
        norm_of_change=float(torch.linalg.vector_norm(change, dtype=torch.float64)),
        reconstruction_error=math.sqrt(lost / energy) if lost else 0.0,
        output_energy=energy,
    )


def output_energy(weights: Tensor, moment: Tensor) -> float:
    """‖WX‖² = tr(W X'X W') of weights (outputs, inputs) by X'X of the inputs; never below 0."""
    return max(0.0, float(((weights @ moment) * weights).sum(dtype=torch.float64)))


@contextmanager
def pruned(subject: Subject, settings: PruneSettings, ids: Tensor, seed: int) -> Iterator[list[PrunedSite]]:
    """A subject that is pruned inside, see `prune_`, and what it was before, bit for bit, when that ends, however it ends."""
    touched = {site.parameter for site in sites_to_prune(subject, settings)}
    touched |= {site.parameter for site in subject.anatomy.select(settings.part, None, ("bias",)) if settings.structure}
    kept = {name: subject.model.get_parameter(name).detach().clone() for name in touched}
    try:
        yield prune_(subject, settings, ids, seed)
    finally:
        for name, values in kept.items():
            subject.model.get_parameter(name).data.copy_(values)
