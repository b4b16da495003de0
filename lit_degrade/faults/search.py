"""Progressive bit search: which few stored bits, flipped one after the other, cost most. Everything is undone at the end."""

import math
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import ExitStack

import torch
from torch import Tensor

from lit_degrade.criticality.ranking import Weights
from lit_degrade.criticality.sums import gather
from lit_degrade.errors import unknown
from lit_degrade.faults.catalog import CONSTRAINTS
from lit_degrade.faults.evaluation import evaluate_flips
from lit_degrade.faults.flips import Flip, flipped
from lit_degrade.faults.scores import Candidate, largest, top_flips
from lit_degrade.subjects.loading import Subject

Limits = Mapping[str, float] | None


def limits_of(subject: Subject, names: Sequence[str], constraint: str) -> Limits:
    """What a constraint allows in each parameter of an intact subject, as `top_flips` takes it.

    Raises: UserError for a constraint that does not exist.
    """
    if constraint not in CONSTRAINTS:
        raise unknown("constraint", constraint, CONSTRAINTS)
    return largest(subject, names) if constraint == "in_range" else None


def next_flip(
    subject: Subject, ids: Tensor, weights: Weights, m: int, limits: Limits, without: Set[Flip] = frozenset()
) -> Candidate | None:
    """The flip of highest measured loss among the m of highest first-order score; None where no flip is left.

    A loss that is not finite is higher than any other; of equal losses, the flip of higher first-order score.
    """
    sums = gather(subject, ids, weights.parameters, {"gradient"})
    gradient = {name: total / sums.tokens for name, total in sums.gradient.items()}
    candidates = top_flips(subject, gradient, weights, m, limits, without)
    if not candidates:
        return None
    losses = evaluate_flips(subject, ids, [candidate.flip for candidate in candidates])
    ranks = torch.where(losses.isfinite(), losses, math.inf).tolist()
    return candidates[ranks.index(max(ranks))]


def bit_search(
    subject: Subject,
    ids: Tensor,
    weights: Weights,
    m: int,
    budget: int,
    limits: Limits,
    done: Callable[[Candidate], bool],
) -> list[Candidate]:
    """Flip one bit after the other, each time the worst for the subject as it is by then (Rakin et al. 2019, section 3.2).

    On leaving, however that happens, every weight is as it was, bit for bit. No bit is flipped twice.

    Args:
        subject: the patient.
        ids: text (n, length) int64 on which gradients are taken and losses measured.
        weights: which weights.
        m: flips that are measured at every step.
        budget: most flips.
        limits: of an intact subject, see `limits_of`.
        done: called after every flip, while all flips so far are in place; True ends the search.

    Returns: the flips in order; fewer than the budget when it was done, or nothing was left to flip.
    """
    flips: list[Candidate] = []
    with ExitStack() as stack:
        while len(flips) < budget:
            worst = next_flip(subject, ids, weights, m, limits, {candidate.flip for candidate in flips})
            if worst is None:
                break
            stack.enter_context(flipped(subject, [worst.flip]))
            flips.append(worst)
            if done(worst):
                break
    return flips
