"""Discrete search for the token sequence that a subject's own gradients make it worst at digesting.

The search moves in tokens only: ascent on embeddings followed by the nearest tokens loses all that it gained.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import functional_call

from lit_degrade.curvature.products import HvpMethod, Tensors, central_difference, dot, length, twice_differentiable
from lit_degrade.measures.perplexity import token_nll
from lit_degrade.subjects.loading import Subject
from lit_degrade.text import begun

TOP = 32
"""Tokens with the largest predicted gain at a position, from which one is drawn."""
SCREENED = 16
"""Single swaps ranked by a Jacobian-vector product in each round."""
COMBINED = (1, 2, 4, 8, 16)
"""How many of the best-ranked swaps are tried together, each exactly."""
GRADIENT_COST = 4
"""Evaluations that one token gradient counts for: a gradient and a product through its graph cost 3.3 gradients."""


class Objective(Protocol):
    """What a search maximises."""

    evaluations: int

    def value(self, tokens: Tensor) -> float:
        """Exact objective of one sequence (length,); one evaluation."""

    def token_gradient(self, tokens: Tensor) -> Tensor:
        """Derivative by the one-hot sequence, as input and as label, (length, vocabulary); GRADIENT_COST evaluations."""

    def screen(self, candidates: Tensor) -> Tensor:
        """Scores that rank candidates (n, length) near the last sequence given to `token_gradient`; n evaluations."""


class Space(Protocol):
    """A subspace of the directions of some parameters."""

    def share_of_gradient(self, model: Any, parameters: Mapping[str, Tensor], loss: Callable[[], Tensor]) -> float:
        """Share of the energy of a loss's gradient that lies inside."""

    def inside(self, vector: Mapping[str, Tensor]) -> Tensors:
        """Projection of a vector."""


class EnergyObjective:
    """J(x) = ‖P g(x)‖² / ‖g(x)‖², the share of the training gradient's energy inside a null space, or -J.

    With g = g(x) and w = 2 (P g - J g) / ‖g‖² held fixed, dJ = w · dg exactly. So the derivative of J by the tokens is one
    product through the graph of the gradient, and w · g(x'), a Jacobian-vector product, ranks a neighbour x' to first order
    in its gradient, not in its tokens.
    """

    def __init__(
        self,
        subject: Subject,
        parameters: Mapping[str, Tensor],
        space: Space,
        method: HvpMethod = "exact",
        sign: Literal[1, -1] = 1,
    ) -> None:
        """Maximise (or, with sign -1, minimise) inside `space` over `parameters`; `method` forms second derivatives."""
        self.subject, self.parameters, self.space, self.method, self.sign = subject, dict(parameters), space, method, sign
        self.evaluations = 0
        self._direction: Tensors = {}
        self._length = 0.0

    def gradient(self, tokens: Tensor) -> Tensors:
        """Training gradient of one sequence."""
        gradient = torch.autograd.grad(self._loss(tokens), list(self.parameters.values()))
        return dict(zip(self.parameters, gradient, strict=True))

    def value(self, tokens: Tensor) -> float:
        """Exact J of one sequence, with its sign."""
        self.evaluations += 1
        return self.sign * self.space.share_of_gradient(self.subject.model, self.parameters, lambda: self._loss(tokens))

    def token_gradient(self, tokens: Tensor) -> Tensor:
        """dJ / d one-hot, through the input and through the label."""
        self.evaluations += GRADIENT_COST
        one_hot = F.one_hot(tokens, self.subject.embedding.shape[0]).float().requires_grad_()
        if self.method == "central_difference":
            self._point(self.gradient(tokens))

            def by_tokens() -> Tensor:
                return torch.autograd.grad(soft_loss(self.subject, one_hot), one_hot)[0]

            return central_difference(by_tokens, self.parameters, self._direction) * self._length
        with twice_differentiable():
            graph = torch.autograd.grad(soft_loss(self.subject, one_hot), list(self.parameters.values()), create_graph=True)
            self._point(dict(zip(self.parameters, (g.detach() for g in graph), strict=True)))
            return torch.autograd.grad(graph, one_hot, list(self._direction.values()))[0] * self._length

    def screen(self, candidates: Tensor) -> Tensor:
        """w · g / ‖w‖ of every candidate by one forward-mode pass over all of them (or two of the central difference)."""
        self.evaluations += len(candidates)
        with torch.no_grad():
            if self.method == "central_difference":
                return central_difference(lambda: sequence_losses(self.subject, candidates), self.parameters, self._direction)
            with twice_differentiable(), forward_ad.dual_level():
                dual = {name: forward_ad.make_dual(p.detach(), self._direction[name]) for name, p in self.parameters.items()}
                return forward_ad.unpack_dual(sequence_losses(self.subject, candidates, dual)).tangent

    def _loss(self, tokens: Tensor) -> Tensor:
        return sequence_losses(self.subject, tokens[None])[0]

    def _point(self, g: Tensors) -> None:
        """Set the direction w / ‖w‖ and the length ‖w‖ that belong to a gradient g."""
        norm2 = length(g) ** 2
        w = self.space.inside(g)
        share = dot(w, g) / norm2
        for name, inside in w.items():
            inside.sub_(g[name], alpha=share).mul_(2 * self.sign / norm2)
        self._length = length(w)
        self._direction = {name: matrix.div_(self._length) for name, matrix in w.items()}


class LossObjective:
    """The subject's mean negative log-likelihood of the sequence [nats/token]."""

    def __init__(self, subject: Subject) -> None:
        """Maximise the loss of `subject`."""
        self.subject = subject
        self.evaluations = 0

    def value(self, tokens: Tensor) -> float:
        """Exact loss of one sequence."""
        self.evaluations += 1
        with torch.no_grad():
            return float(sequence_losses(self.subject, tokens[None])[0])

    def token_gradient(self, tokens: Tensor) -> Tensor:
        """D loss / d one-hot, through the input and through the label."""
        self.evaluations += GRADIENT_COST
        one_hot = F.one_hot(tokens, self.subject.embedding.shape[0]).float().requires_grad_()
        return torch.autograd.grad(soft_loss(self.subject, one_hot), one_hot)[0]

    def screen(self, candidates: Tensor) -> Tensor:
        """Exact losses."""
        self.evaluations += len(candidates)
        with torch.no_grad():
            return sequence_losses(self.subject, candidates)


def sequence_losses(subject: Subject, tokens: Tensor, replaced: Mapping[str, Tensor] | None = None) -> Tensor:
    """Mean negative log-likelihood of each sequence (n, length) -> (n,) [nats/token], begun as the subject's texts are.

    Args:
        subject: under study.
        tokens: int64.
        replaced: parameters to use instead of the subject's own, by name.
    """
    tokens = begun(tokens, subject.begin)
    arguments = {"input_ids": tokens, "use_cache": False}
    output = functional_call(subject.model, dict(replaced), (), arguments) if replaced else subject.model(**arguments)
    return token_nll(output.logits, tokens).mean(1)


def soft_loss(subject: Subject, one_hot: Tensor) -> Tensor:
    """The loss of one sequence as a function of its one-hot rows (length, vocabulary), which are inputs and labels both."""
    if subject.begin is not None:
        one_hot = torch.cat([F.one_hot(torch.tensor([subject.begin]), one_hot.shape[1]).to(one_hot), one_hot])
    embedded = one_hot.to(subject.embedding.dtype) @ subject.embedding
    logits = subject.model(inputs_embeds=(embedded * subject.embedding_scale)[None], use_cache=False).logits[0]
    return -(one_hot[1:] * F.log_softmax(logits[:-1].float(), -1)).sum(-1).mean()


@dataclass(frozen=True)
class Catalyst:
    """Outcome of a search."""

    tokens: Tensor
    """(length,) int64"""
    best: list[float]
    """best objective after each round, never falling; the first is the start's"""
    evaluations: int
    """evaluations spent, never more than the budget"""
    changed: float
    """share of tokens that differ from the start"""


def allowed_tokens(subject: Subject) -> Tensor:
    """Tokens that a search or a random control may use: all but the special ones, (n,) int64."""
    special = set(subject.tokenizer.all_special_ids)
    return torch.tensor([token for token in range(subject.vocabulary) if token not in special])


Search = Callable[[Objective, Tensor, Tensor, int, torch.Generator, Callable[[int], None]], Catalyst]
"""(objective, start, allowed, budget, generator, on_evaluations) -> what was found"""


def guided_search(
    objective: Objective,
    start: Tensor,
    allowed: Tensor,
    budget: int,
    generator: torch.Generator,
    on_evaluations: Callable[[int], None] = lambda n: None,
) -> Catalyst:
    """Maximise by rounds of: token gradient, screening of single swaps, exact values of several swaps at once.

    HotFlip's ranking (Ebrahimi et al. 2018) proposes one swap for each of SCREENED positions, the screen orders them, and the
    best 1, 2, 4, ... together are tried exactly (after a round without gain, the best ones singly); the winner is kept if it
    is better than what there was.

    Args:
        objective: what to maximise.
        start: (length,) int64.
        allowed: tokens that may be swapped in.
        budget: evaluations to spend at most.
        generator: breaks the choice of positions and tokens.
        on_evaluations: called with the evaluations spent since the last call (progress).
    """
    tokens, spent = start.clone(), objective.evaluations
    value = objective.value(tokens)
    best, improving = [value], True
    forbidden = torch.ones(vocabulary := int(allowed.max()) + 1, dtype=torch.bool)
    forbidden[allowed] = False
    round_cost = GRADIENT_COST + SCREENED + len(COMBINED)
    while objective.evaluations - spent + round_cost <= budget:
        before = objective.evaluations
        swaps = _propose(objective.token_gradient(tokens)[:, :vocabulary].cpu(), tokens.cpu(), forbidden, generator)
        candidates = torch.stack([_swapped(tokens, [swap]) for swap in swaps])
        order = objective.screen(candidates).argsort(descending=True).tolist()
        chosen = [order[:count] for count in COMBINED] if improving else [[i] for i in order[: len(COMBINED)]]
        trials = [_swapped(tokens, [swaps[i] for i in group]) for group in chosen]
        values = [objective.value(trial) for trial in trials]
        winner = max(range(len(trials)), key=values.__getitem__)
        improving = values[winner] > value
        if improving:
            tokens, value = trials[winner], values[winner]
        best.append(value)
        on_evaluations(objective.evaluations - before)
    return Catalyst(tokens, best, objective.evaluations - spent, float((tokens != start).float().mean()))


def _swapped(tokens: Tensor, swaps: list[tuple[int, int]]) -> Tensor:
    """A copy of a sequence with some (position, token) replaced."""
    changed = tokens.clone()
    for position, token in swaps:
        changed[position] = token
    return changed


def _propose(gradient: Tensor, tokens: Tensor, forbidden: Tensor, generator: torch.Generator) -> list[tuple[int, int]]:
    """One swap (position, token) for each of SCREENED positions: one of the TOP tokens with the largest predicted gain."""
    gain = gradient - gradient.gather(1, tokens[:, None])
    gain[:, forbidden] = -torch.inf
    gain.scatter_(1, tokens[:, None], -torch.inf)
    top = gain.topk(min(TOP, gain.shape[1] - 1), dim=1)
    positions = torch.randperm(len(tokens), generator=generator)[:SCREENED].tolist()
    choices = torch.randint(top.indices.shape[1], (len(positions),), generator=generator).tolist()
    return [(p, int(top.indices[p, c])) for p, c in zip(positions, choices, strict=True)]


def random_swap_search(
    objective: Objective,
    start: Tensor,
    allowed: Tensor,
    budget: int,
    generator: torch.Generator,
    on_evaluations: Callable[[int], None] = lambda n: None,
) -> Catalyst:
    """The baseline to beat: hill climbing by random single swaps, one exact evaluation each, with the same budget."""
    tokens, spent = start.clone(), objective.evaluations
    value = objective.value(tokens)
    best = [value]
    while objective.evaluations - spent < budget:
        trial = tokens.clone()
        position = int(torch.randint(len(tokens), (), generator=generator))
        trial[position] = allowed[int(torch.randint(len(allowed), (), generator=generator))]
        trial_value = objective.value(trial)
        if trial_value > value:
            tokens, value = trial, trial_value
        best.append(value)
        on_evaluations(1)
    return Catalyst(tokens, best, objective.evaluations - spent, float((tokens != start).float().mean()))
