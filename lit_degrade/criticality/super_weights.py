"""Super weights: single weights of MLP output projections without which a model falls apart (Yu et al., arXiv:2411.07191)."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_degrade.criticality.spikes import Spikes, Thresholds, layer_spikes
from lit_degrade.errors import UserError
from lit_degrade.inputs import read_yaml
from lit_degrade.measures.perplexity import LogitsFunction
from lit_degrade.perturbations.catalog import PerturbationSettings
from lit_degrade.perturbations.edits import Dose, perturbed
from lit_degrade.perturbations.storage import stored
from lit_degrade.seeds import generator
from lit_degrade.subjects.anatomy import Site
from lit_degrade.subjects.catalog import HUB
from lit_degrade.subjects.loading import Subject

PUBLISHED = Path(__file__).parent / "published_super_weights.yaml"
ZEROED = (PerturbationSettings("zero"), Dose(1.0, 0))
"""What is done to a weight to see what it does; it draws nothing."""
DOMINATES = 0.5
"""Share of the largest output above which one weight makes it, more than all others together."""
EQUALLY_NEAR = 1e-6
"""Relative difference of two magnitudes below which chance decides which is the nearer one."""
Coordinates = tuple[int, int, int]
"""layer, row (output channel), column (input channel), from 0"""


@dataclass(frozen=True)
class Weight:
    """One weight of an MLP output projection, and its part in what the projection does."""

    site: Site
    row: int
    """output channel"""
    column: int
    """input channel"""
    flat: int
    """position in the parameter as it is stored"""
    value: float
    z: float
    """standard deviations from the mean of its matrix"""
    share: float
    """of the projection's largest output that is this weight times its input; 0 if it feeds another channel"""
    spikes: Spikes
    """of its projection when it was found"""

    @property
    def coordinates(self) -> Coordinates:
        """Layer, row, column."""
        assert self.site.depth is not None
        return self.site.depth, self.row, self.column

    @property
    def only(self) -> dict[str, Tensor]:
        """For `perturbed`: this weight and no other."""
        return {self.site.parameter: torch.tensor([self.flat], device=self.spikes.inputs.device)}


def matrix(subject: Subject, site: Site) -> Tensor:
    """Weights of a site as (out, in), however they are stored."""
    return stored(subject.model, site.parameter).read(site).movedim(site.input_axis, -1)


def weight_at(subject: Subject, spikes: Spikes, row: int, column: int) -> Weight:
    """What there is to know of one weight of the projection that `spikes` are of."""
    weights, site = matrix(subject, spikes.site).float(), spikes.site
    value = float(weights[row, column])
    return Weight(
        site=site,
        row=row,
        column=column,
        flat=column * weights.shape[0] + row if site.input_axis == 0 else row * weights.shape[1] + column,
        value=value,
        z=float((value - weights.mean()) / weights.std(correction=0)),
        share=value * float(spikes.inputs[column]) / spikes.output if row == spikes.output_channel and spikes.output else 0.0,
        spikes=spikes,
    )


def suspect(subject: Subject, spikes: Spikes, thresholds: Thresholds) -> Weight | None:
    """The weight that makes a projection's largest output, if that stands out and one weight makes more than half of it.

    The row is the output's channel. The column is the one with the largest contribution |w x| at that token. Yu et al. take the
    channel of the largest input; of their super weights both are true (a large weight on a large input). The contribution says
    the same there, finds a large weight on an ordinary input too, and is refuted when many weights share in the output.
    """
    if not spikes.output_ratio > thresholds.outputs:
        return None
    contributions = matrix(subject, spikes.site)[spikes.output_channel].float() * spikes.inputs
    weight = weight_at(subject, spikes, spikes.output_channel, int(contributions.abs().argmax()))
    return weight if weight.share > DOMINATES else None


def search(
    subject: Subject,
    logits_of: LogitsFunction,
    blocks: Tensor,
    thresholds: Thresholds,
    most: int,
    advance: Callable[[], object] = lambda: None,
) -> tuple[list[Weight], list[list[Spikes]]]:
    """Find the earliest layer's suspect, zero it, and look again, until there is none; then undo it all, bit for bit.

    Source: Yu et al. 2024, section 3.1; they stop when the spikes have gone by eye.

    Args:
        subject: the patient.
        logits_of: runs it.
        blocks: tokens (n, length) int64; any prompt will do, says the paper.
        thresholds: what a spike is.
        most: weights at most.
        advance: called for each weight found.
    Returns: weights in order of discovery; spikes of the intact subject, then after each removal.
    """
    weights: list[Weight] = []
    stages: list[list[Spikes]] = []
    with ExitStack() as removed:
        while True:
            stages.append(layer_spikes(subject.model, subject.anatomy, logits_of, blocks))
            suspects = (suspect(subject, spikes, thresholds) for spikes in stages[-1])
            weight = next((weight for weight in suspects if weight), None) if len(weights) < most else None
            if weight is None:
                return weights, stages
            weights.append(weight)
            removed.enter_context(perturbed(subject, *ZEROED, recorded=False, only=weight.only))
            advance()


def nearest(subject: Subject, weight: Weight, count: int, treated: Sequence[Weight], seed: int) -> list[tuple[str, int, float]]:
    """Controls of a weight: others of all MLP output projections whose magnitudes are nearest to its own.

    Of equally near ones, of which coarse formats have thousands, chance decides.

    Args:
        subject: the patient.
        weight: the one in question.
        count: how many.
        treated: weights that are no controls.
        seed: of the draws.
    Returns: parameter, flat position in it, and weight, of each; nearest first.
    """
    controls: list[tuple[float, str, int, float]] = []
    for site in subject.anatomy.select("mlp_down"):
        weights = stored(subject.model, site.parameter).read(site).float().flatten()
        draws = generator(seed, "super_weights", weight.site.parameter, str(weight.flat), site.parameter, device=weights.device)
        ties = torch.rand(weights.shape, generator=draws, device=weights.device) * (EQUALLY_NEAR * abs(weight.value))
        distances = ties.add_((weights.abs() - abs(weight.value)).abs_())
        distances[[other.flat for other in treated if other.site == site]] = math.inf
        best = distances.topk(min(count, len(weights) - 1), largest=False)
        values = weights[best.indices].tolist()
        controls += zip(best.values.tolist(), [site.parameter] * count, best.indices.tolist(), values, strict=False)
    return [control for _, *control in sorted(controls)[:count]]  # type: ignore[misc]


def verdict(lost: float, controls: Sequence[float]) -> dict[str, Any]:
    """What zeroing a weight costs, beside what zeroing each control costs: columns of super_weights.csv.

    p = (1 + controls that cost as much or more) / (1 + controls), one-sided; 20 controls that all cost less give 1/21. A
    super weight is confirmed if it costs more than every control, and more than nothing.

    Args:
        lost: loss that comes with zeroing the weight. [nats/token]
        controls: the same for each control.
    """
    return {
        "nats_lost": lost,
        "nats_lost_control_mean": sum(controls) / len(controls),
        "nats_lost_control_max": max(controls),
        "controls": len(controls),
        "p": (1 + sum(control >= lost for control in controls)) / (1 + len(controls)),
        "confirmed": lost > max(*controls, 0.0),
    }


def z_outliers(weights: Tensor, z: float = 2.5) -> int:
    """Number of weights more than `z` standard deviations from the mean of their matrix: a labelled comparison, no detector.

    "Super weights" have been called by |z| > 2.5 alone. Of Gaussian weights 2 (1 - Phi(2.5)) = 1.24 % are, tens of millions in
    a model that has six super weights at most: it measures how many weights there are.
    """
    weights = weights.float()
    return int(((weights - weights.mean()).abs() > z * weights.std(correction=0)).sum())


def published(name: str) -> list[Coordinates]:
    """Super weights that Yu et al. publish for a subject: of the catalogue, a hub id, or a folder of exactly that name."""
    table: Mapping[str, list[list[int]]] = read_yaml(PUBLISHED, "Published super weights")
    by_folder = {known.rpartition("/")[2]: known for known in table} | HUB
    folder = Path(name).expanduser()
    known = by_folder.get(folder.absolute().name, "") if name not in HUB and folder.is_dir() else HUB.get(name, name)
    return [(layer, row, column) for layer, row, column in table.get(known, ())]


def check_coordinates(subject: Subject, coordinates: Sequence[Coordinates]) -> None:
    """Raise: UserError if the subject has no such weights, naming the first."""
    shapes = {site.depth: tuple(matrix(subject, site).shape) for site in subject.anatomy.select("mlp_down")}
    for layer, row, column in coordinates:
        rows, columns = shapes.get(layer, (0, 0))
        if row >= rows or column >= columns:
            height, width = next(iter(shapes.values()))
            raise UserError(
                f"Subject '{subject.spec.name}' has no weight at layer {layer}, row {row}, column {column}, published as a "
                f"super weight of a model so named: its {len(shapes)} MLP outputs are {height} x {width}. Rename the folder."
            )
