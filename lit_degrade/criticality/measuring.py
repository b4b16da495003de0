"""From text to the sums that scores are made from: all that some metrics need, from as few passes as they allow."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from lit_degrade.criticality.catalog import METRICS, ScoreSettings
from lit_degrade.criticality.sums import Sums, gather
from lit_degrade.curvature.diagonal import hessian_diagonal
from lit_degrade.measures.perplexity import batches, token_nll
from lit_degrade.subjects.loading import Subject


def measure(
    subject: Subject,
    ids: Tensor,
    names: Sequence[str],
    metrics: Sequence[str],
    settings: ScoreSettings,
    draws: torch.Generator,
    done: Callable[[], None] = lambda: None,
) -> Sums:
    """Sums over text that some metrics need: one pass for all but the Hessian's diagonal, which takes products with it.

    Args:
        subject: its weights are only read.
        ids: sequences (n, length) int64.
        names: of the parameters that are scored.
        metrics: from METRICS.
        settings: how the diagonal is estimated.
        draws: of these vectors.
        done: called after every batch, and for the diagonal after every sequence.
    """
    needs = {need for metric in metrics for need in METRICS[metric].needs}
    if not needs:
        return Sums()
    sums = gather(subject, ids, names, needs - {"curvature"}, done)  # type: ignore[arg-type]
    if "curvature" in needs:
        with _differentiable(subject, names) as parameters:
            turned = [name for name in names if name.rpartition(".")[0] in subject.anatomy.transposed]
            losses = _losses(subject, ids)
            diagonal = hessian_diagonal(losses, parameters, settings.probes, draws, settings.estimator, turned, done)
        sums.curvature = diagonal.mean
        sums.variance = {name: error.square() for name, error in diagonal.standard_error.items()}
    return sums


def passes(ids: Tensor, metrics: Sequence[str]) -> int:
    """How often `done` is called."""
    needs = {need for metric in metrics for need in METRICS[metric].needs}
    return sum(1 for _ in batches(ids)) * bool(needs) + len(ids) * ("curvature" in needs)


def _losses(subject: Subject, ids: Tensor) -> list[Callable[[], Tensor]]:
    """Summed loss of every sequence: random vectors of their own for each are worth more than larger batches."""

    def loss(tokens: Tensor) -> Tensor:
        with subject.autocast():
            return token_nll(subject.model(input_ids=tokens, use_cache=False).logits, tokens).sum()

    return [partial(loss, sequence.to(subject.device)) for sequence in ids.split(1)]


@contextmanager
def _differentiable(subject: Subject, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Some parameters, and no others, need gradients for a while."""
    flags = [(p, p.requires_grad) for p in subject.model.parameters()]
    parameters = {name: subject.model.get_parameter(name) for name in names}
    try:
        for p, _ in flags:
            p.requires_grad_(False)
        for p in parameters.values():
            p.requires_grad_(True)
        yield parameters
    finally:
        for p, flag in flags:
            p.requires_grad_(flag)
