"""What is perturbed to see whether a score is right: the weights of highest score, and the controls for each number of them."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_degrade.criticality.catalog import TREATED, Mode
from lit_degrade.criticality.controls import Control, matched_random_k, random_k, zero_scores
from lit_degrade.criticality.ranking import Weights, highest, lowest
from lit_degrade.criticality.scores import Scores
from lit_degrade.seeds import generator


@dataclass(frozen=True)
class WeightSet:
    """Weights to perturb together."""

    metric: str
    name: str
    """`top_k`, or of the control"""
    k: int
    """of all sites together, or of each in mode per_layer"""
    draw: int
    ids: Tensor
    """int64, numbers in `Weights`"""
    zero_scores: float
    """share of them whose score is zero"""
    matched: float = math.nan
    """share that was drawn from its own bin of |w|"""

    @property
    def drawn(self) -> bool:
        """Whether another draw is of other weights."""
        return self.name in ("matched_random_k", "random_k")


def arms_of(
    scores: Scores, weights: Weights, metric: str, ks: Sequence[int], mode: Mode, draws: int, seed: int
) -> Iterator[WeightSet]:
    """For every k the treated weights, the lowest other than zero, and `draws` sets of each random control.

    Args:
        scores: of the subject.
        weights: that are scored.
        metric: which score.
        ks: numbers of weights, rising.
        mode: of the whole target, or of each matrix.
        draws: of every random control.
        seed: of the run.

    Raises: UserError for a control that cannot be had, or that has nothing but weights of score zero.
    """
    best = highest(weights, scores.of(metric), ks[-1], mode)
    worst = lowest(weights, scores.of(metric), ks[-1], mode, best)
    for k in ks:
        treated, bottom = (ids[:k] if mode == "global" else ids.view(-1, ks[-1])[:, :k].flatten() for ids in (best, worst))

        def generators(name: str, k: int = k) -> list[torch.Generator]:
            return [generator(seed, "control", name, metric, mode, str(k), str(draw)) for draw in range(draws)]

        by_arm = {
            TREATED: [Control(treated)],
            "matched_random_k": matched_random_k(weights, treated, scores.of("magnitude"), generators("matched_random_k")),
            "random_k": [random_k(weights, treated, mode, draw) for draw in generators("random_k")],
            "bottom_k": [Control(bottom)],
        }
        for name, controls in by_arm.items():
            for draw, control in enumerate(controls):
                zeros = zero_scores(name, metric, weights, control.ids, scores.of(metric))
                yield WeightSet(metric, name, k, draw, control.ids, zeros, control.matched)
