"""From a method, a target and a level to edits: planned, applied, and undone bit for bit."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lit_degrade.errors import UserError, unknown
from lit_degrade.perturbations.bits import WIDTHS, bit_numbers, flips
from lit_degrade.perturbations.catalog import METHODS, PerturbationSettings, Tied
from lit_degrade.perturbations.storage import Floats, Quantised, StoredChange, Write, stored
from lit_degrade.perturbations.targets import is_tied, load_selection, sites_of, whole, within
from lit_degrade.perturbations.values import ACHIEVED, CHANGES
from lit_degrade.seeds import generator
from lit_degrade.subjects.anatomy import Site
from lit_degrade.subjects.loading import Subject

_OF_SPREAD = ("add_gauss", "uni_quant", "uni_quant_channel")
"""Methods that work in proportion to how much the weights of the site differ from each other, chosen or not."""
Only = Mapping[str, Tensor | None]
"""Name of a parameter -> flat positions in it (k,) int64, distinct; or None for all of it."""


@dataclass(frozen=True)
class Dose:
    """How much, and which random draws."""

    level: float
    """in the unit of the method"""
    seed: int
    repetition: int = 0


@dataclass(frozen=True)
class EditRecord:
    """What an edit does to its site: the evidence that is kept."""

    parameter: str
    component: str
    depth: int | None
    format: str
    """how the parameter is stored: fp32, bf16, fp16, int8 or nf4"""
    dose_asked: float
    dose_achieved: float
    """measured on the stored weights, in the unit of the method"""
    weights: int
    """in the site, or chosen there"""
    changed: int
    """weights with another value"""
    nonfinite: int
    """weights that are infinite or not a number afterwards"""
    norm: float
    """L2 norm of the weights before"""
    norm_of_change: float
    """L2 norm of the change"""


@dataclass
class Edit:
    """A perturbation of one site."""

    site: Site
    settings: PerturbationSettings
    level: float
    weights: Floats | Quantised
    writes: list[StoredChange]
    chosen: Tensor | None = None
    """flat positions in the site that it is about (k,); None for all"""
    bits_flipped: float = 0.0
    """share of the bits in question"""

    def record(self) -> EditRecord:
        """What the edit will do, from the weights as they are; to be called before it is applied."""
        before, after = self.weights.read(self.site).float(), self.weights.decoded(self.site, self.writes).float()
        dose = self._achieved(before, after)
        if self.chosen is not None:
            before, after = before.take(self.chosen), after.take(self.chosen)
        change, norm = after - before, torch.linalg.vector_norm
        return EditRecord(
            parameter=self.site.parameter,
            component=self.site.component,
            depth=self.site.depth,
            format=self.weights.format,
            dose_asked=self.level,
            dose_achieved=dose,
            weights=before.numel(),
            changed=int((before != after).sum()),
            nonfinite=int((~after.isfinite()).sum()),
            norm=float(norm(before, dtype=torch.float64)),
            norm_of_change=float(norm(change, dtype=torch.float64)),
        )

    def apply_(self) -> None:
        """StoredChange the model."""
        for write in self.writes:
            write.apply_()

    def revert_(self) -> None:
        """Put back what was there, bit for bit."""
        for write in reversed(self.writes):
            write.revert_()

    def _achieved(self, before: Tensor, after: Tensor) -> float:
        if not self.writes:
            return METHODS[self.settings.method].none
        if self.settings.method == "bit_flip":
            return self.bits_flipped
        return achieved(self.settings.method, before, after, self.site.input_axis, self.chosen)


def achieved(method: str, before: Tensor, after: Tensor, inputs: int, chosen: Tensor | None = None) -> float:
    """The dose that a change amounts to, in the unit of its method.

    Multiplicative noise: root mean square of (W' - W) / W over W other than 0. Additive noise: of W' - W, in standard
    deviations of the tensor or absolute. Zeroing and sign flips: share of the nonzero weights that are
    zero now, or have another sign. Quantisation: distinct values, the most in any channel.
    NaN where no weight can show a dose: all are zero, or (of `add_gauss`) all are equal; and where ACHIEVED lacks the method.

    Args:
        method: what was done to values, one of CHANGES (`bit_flip` is measured on what is stored).
        before: float32 weights of a site.
        after: the same, changed.
        inputs: axis of the inputs.
        chosen: flat positions (k,) that it was done to; None for all.

    Raises: UserError for any other method.
    """
    spread = float(before.std(correction=0)) if method == "add_gauss" else 1.0
    if method == "uni_quant_channel" and after.dim() > 1:
        return _most_in_a_channel(after, inputs, chosen)
    if chosen is not None:
        before, after = before.take(chosen), after.take(chosen)
    if method not in CHANGES:
        raise unknown("method that changes values", method, CHANGES)
    return ACHIEVED[method](before, after) / spread if method in ACHIEVED and spread else math.nan


def _most_in_a_channel(weights: Tensor, inputs: int, chosen: Tensor | None) -> float:
    """Most distinct values of any output channel, among chosen weights."""
    if chosen is None:
        return float((weights.movedim(inputs, -1).sort(-1).values.diff(dim=-1) != 0).sum(-1).max() + 1)
    outputs = weights.movedim(inputs, -1)[..., 0]
    channels = torch.arange(outputs.numel(), device=weights.device).view(outputs.shape).unsqueeze(inputs).expand(weights.shape)
    distinct = torch.stack([channels.take(chosen).double(), weights.take(chosen).double()]).unique(dim=1)
    return float(distinct[0].long().bincount().max())


def plan(
    settings: PerturbationSettings, site: Site, weights: Floats | Quantised, dose: Dose, chosen: Tensor | None = None
) -> Edit:
    """What a perturbation would write, without writing it. The level that changes nothing writes nothing.

    Args:
        settings: method and its options.
        site: the weights in question.
        weights: the parameter that holds them.
        dose: level, seed and repetition; the draws depend on these, the method and the site's name, and nothing else.
        chosen: flat positions in the site (k,): change these only; None for all.

    Raises: UserError for a level outside the method's range, bits that the stored format does not have, or chosen weights
        that the method cannot change.
    """
    method = METHODS[settings.method]
    method.check(settings.method, dose.level)
    if settings.method == "bit_flip":
        return _plan_flips(settings, site, weights, dose, chosen)
    if dose.level == method.none:
        return Edit(site, settings, dose.level, weights, [], chosen)
    place, change, draws = weights.read(site), CHANGES[settings.method], _draws(settings, site, dose)
    if chosen is None:
        values = change(place, dose.level, draws, site.input_axis)
    elif settings.method not in _OF_SPREAD:
        values = change(place.take(chosen), dose.level, draws, site.input_axis)
    elif bool((place == place.flatten()[0]).all()):
        raise UserError(f"'{site.parameter}': the weights are all equal; {settings.method} would change nothing.")
    else:
        values = change(place, dose.level, draws, site.input_axis).take(chosen)
    return Edit(site, settings, dose.level, weights, weights.write(site, values, chosen), chosen)


def _plan_flips(
    settings: PerturbationSettings, site: Site, weights: Floats | Quantised, dose: Dose, chosen: Tensor | None
) -> Edit:
    own = chosen
    if settings.bits == "scales" and isinstance(weights, Quantised):
        if chosen is not None:
            raise UserError(f"'{site.parameter}': a selection names weights, and its scales are shared. Choose other bits.")
        place, own = weights.scale_bits(site)
        bits = range(WIDTHS["fp32"])
    else:
        place, bits = weights.codes(site), bit_numbers(weights.format, settings.bits)
    n = place.numel() if own is None else len(own)
    positions, ones, flipped = flips(n, bits, dose.level, _draws(settings, site, dose))
    where = positions.to(place.device) if own is None else own[positions.to(own.device)]
    old = place.take(where)
    codes = old ^ ones.to(place.device).to(old.dtype)
    share = flipped / (n * len(bits))
    writes: list[StoredChange]
    if not len(positions):
        writes = []
    elif settings.bits == "scales":
        writes = [Write(place, codes, where)]
    else:
        writes = weights.write_codes(site, where, codes)
    return Edit(site, settings, dose.level, weights, writes, chosen, share)


def _draws(settings: PerturbationSettings, site: Site, dose: Dose) -> torch.Generator:
    """Random numbers of one site; adapters around a matrix do not change its name."""
    name = site.parameter.removeprefix("base_model.model.").replace(".base_layer", "")
    part = site.component if site.part else ""
    level = "" if settings.schedule == "progressive" else repr(float(dose.level))
    return generator(dose.seed, "perturbation", settings.method, name, part, str(dose.repetition), level)


def edits(subject: Subject, settings: PerturbationSettings, dose: Dose, only: Only | None = None) -> Iterator[Edit]:
    """Plan every edit of a dose, one after the other, so that no more than one is held in full before it is applied.

    Args:
        subject: the patient.
        settings: how to perturb; method `none` has no edits.
        dose: level, seed and repetition.
        only: weights to perturb instead of the target, layers and selection of the settings; each parameter is one site,
            fused or not.
    """
    if settings.method == "none":
        return
    if only is not None:
        for name, chosen in only.items():
            site, weights = whole(subject, name), stored(subject.model, name)
            yield plan(settings, site, weights, dose, None if chosen is None else chosen.to(weights.device))
        return
    sites = sites_of(subject, settings)
    selection = load_selection(subject, settings, sites)
    for site in sites:
        weights = stored(subject.model, site.parameter)
        if selection is None:
            yield plan(settings, site, weights, dose)
        else:
            chosen = within(site, weights.shape, selection.get(site.parameter)).to(weights.device)
            if len(chosen):
                yield plan(settings, site, weights, dose, chosen)


@contextmanager
def perturbed(
    subject: Subject, settings: PerturbationSettings, dose: Dose, recorded: bool = True, only: Only | None = None
) -> Iterator[list[EditRecord]]:
    """Perturb a subject (see `edits`); on leaving, however that happens, every weight is as it was, bit for bit.

    Yields: what each edit does, site by site; nothing when it is not to be `recorded`.
    Raises: UserError before anything is changed or with everything undone.
    """
    applied: list[Edit] = []
    records: list[EditRecord] = []
    with _untied(subject, settings.tied):
        try:
            for edit in edits(subject, settings, dose, only):
                if recorded:
                    records.append(edit.record())
                applied.append(edit)  # before it is applied: an interruption may come in between
                edit.apply_()
            yield records
        finally:
            while applied:
                applied[-1].revert_()
                applied.pop()


@contextmanager
def _untied(subject: Subject, tied: Tied) -> Iterator[None]:
    """Give the input side of a tied embedding a copy of its own for a while, if only that is to be perturbed."""
    if tied == "both" or not is_tied(subject):
        yield
        return
    embedding: Any = subject.model.get_input_embeddings()
    shared = embedding.weight
    try:
        embedding.weight = nn.Parameter(shared.detach().clone(), requires_grad=shared.requires_grad)
        yield
    finally:
        embedding.weight = shared


def totals(records: Sequence[EditRecord]) -> dict[str, float]:
    """All edits of a dose together: weights, changed, nonfinite, relative norm, and the dose achieved, averaged by weights."""
    weights = sum(record.weights for record in records)
    doses = [(r.dose_achieved, r.weights) for r in records if not math.isnan(r.dose_achieved)]
    norm, change = math.hypot(*(r.norm for r in records)), math.hypot(*(r.norm_of_change for r in records))
    return {
        "weights": weights,
        "changed": sum(record.changed for record in records),
        "nonfinite": sum(record.nonfinite for record in records),
        "dose_achieved": sum(dose * n for dose, n in doses) / sum(n for _, n in doses) if doses else math.nan,
        "norm_of_change": change,
        "relative_norm": change / norm if norm else 0.0,
    }


def rows(records: Sequence[EditRecord], **labels: Any) -> list[dict[str, Any]]:
    """A table row per edit."""
    return [{**labels, **asdict(record)} for record in records]
