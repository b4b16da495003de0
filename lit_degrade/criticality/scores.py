"""Scores of weights by metric, made site by site from sums over text, so that none is held longer than it is looked at."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lit_degrade.criticality.catalog import METRICS
from lit_degrade.criticality.sums import Sums
from lit_degrade.errors import UserError
from lit_degrade.perturbations.storage import stored
from lit_degrade.seeds import generator
from lit_degrade.subjects.anatomy import Site
from lit_degrade.subjects.loading import Subject

QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999, 1.0)


@dataclass(frozen=True)
class Scores:
    """Scores of a subject's weights; higher is more critical."""

    subject: Subject
    sums: Sums
    seed: int
    """of random scores"""

    def __call__(self, metric: str, site: Site) -> Tensor:
        """Scores of the weights of a site, float32 in the shape of its view, on its device.

        Raises: UserError for scores that are not finite.
        """
        scores = SCORES[metric](self, site)
        if not math.isfinite(scores.sum()) and not bool(scores.isfinite().all()):  # the sum is fast, and finite as a rule
            raise UserError(
                f"{metric} of '{site.parameter}' is not finite on the calibration text: this subject's gradients are not "
                "numbers here. Use another precision, or metrics without gradients."
            )
        return scores

    def of(self, metric: str) -> Callable[[Site], Tensor]:
        """Scores of one metric."""
        return lambda site: self(metric, site)

    def standard_error(self, metric: str, site: Site) -> Tensor | None:
        """Standard error of estimated scores, as `__call__`; None for exact ones."""
        if "curvature" not in METRICS[metric].needs:
            return None
        error = site.view(self.sums.variance[site.parameter]).sqrt() / self.sums.tokens
        return error if metric == "hutchinson_diag" else error * self.weights(site).square() / 2

    def weights(self, site: Site) -> Tensor:
        """Weights of a site as they are stored, float32."""
        return stored(self.subject.model, site.parameter).read(site).float()

    def row(self, metric: str, site: Site) -> dict[str, Any]:
        """A row of scores.csv: what the scores of a site are like."""
        values = self(metric, site).flatten()
        error = self.standard_error(metric, site)
        ordered, n = values.sort().values, values.numel()
        return {
            "metric": metric,
            "parameter": site.parameter,
            "component": site.component,
            "depth": site.depth,
            "weights": n,
            "mean": float(values.mean(dtype=torch.float64)),
            "sd": float(values.double().std()) if n > 1 else math.nan,
            "zeros": float((values == 0).double().mean()),
            **{f"q{100 * q:g}": float(ordered[round(q * (n - 1))]) for q in QUANTILES},
            "standard_error": None if error is None else float(error.mean(dtype=torch.float64)),
        }


def refuse_what_has_no_inputs(metrics: Sequence[str], subject: Subject, sites: Sequence[Site]) -> None:
    """Raise: UserError where `act_mag` is asked of anything but matrices, which it is not defined for."""
    vectors = [site for site in sites if len(stored(subject.model, site.parameter).shape) < 2]
    if "act_mag" in metrics and vectors:
        raise UserError(
            f"act_mag is defined for matrices, and the target has {len(vectors)} vectors such as '{vectors[0].parameter}'. "
            "Leave it out (--model.scores.metrics), or choose a target of matrices such as blocks."
        )


def random(scores: Scores, site: Site) -> Tensor:
    """Uniform in [0, 1)."""
    weights = stored(scores.subject.model, site.parameter).read(site)
    draws = generator(scores.seed, "random scores", site.parameter, site.component if site.part else "")
    return torch.rand(weights.shape, generator=draws).to(weights.device)


def magnitude(scores: Scores, site: Site) -> Tensor:
    """|w|."""
    return scores.weights(site).abs()


def act_mag(scores: Scores, site: Site) -> Tensor:
    """|w_ij| ‖x_j‖₂, x_j the j-th input over all tokens; the input of an embedding is one-hot.

    Source: Wanda, Sun et al. 2024, arXiv:2306.11695, equation 1.
    """
    norms = scores.sums.inputs[site.parameter].sqrt().float()
    return scores.weights(site).abs() * site.view(norms.expand(stored(scores.subject.model, site.parameter).shape))


def grad_x_weight(scores: Scores, site: Site) -> Tensor:
    """|g w|, g the gradient of the mean loss."""
    sums = scores.sums
    return (site.view(sums.gradient[site.parameter]) * scores.weights(site)).abs_().div_(sums.tokens)


def grad_squared(scores: Scores, site: Site) -> Tensor:
    """Mean over sequences of the squared gradient of their own mean loss."""
    return site.view(scores.sums.squared[site.parameter]) / scores.sums.sequences


def hutchinson_diag(scores: Scores, site: Site) -> Tensor:
    """h, the estimated diagonal of the mean loss's Hessian."""
    return site.view(scores.sums.curvature[site.parameter]) / scores.sums.tokens


def hessian_saliency(scores: Scores, site: Site) -> Tensor:
    """h w² / 2 (LeCun et al. 1990)."""
    return site.view(scores.sums.curvature[site.parameter]) * scores.weights(site).square() / (2 * scores.sums.tokens)


SCORES: dict[str, Callable[[Scores, Site], Tensor]] = {
    function.__name__: function
    for function in (random, magnitude, act_mag, grad_x_weight, grad_squared, hutchinson_diag, hessian_saliency)
}
"""Metric -> scores of the weights of a site, float32 in the shape of its view."""
