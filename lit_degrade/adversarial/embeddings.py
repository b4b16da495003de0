"""Changes of embedded text within a ball, chosen by the gradient of the loss, or at random.

The text is what leaves the module of the subject's token embedding: times Gemma's scale, before OPT's projection, before
learned positions are added. A change is added there in float32 and rounded to the subject's own format. Attacks know the
subject only by a loss of every sequence as a function of the change, so that they are the same for any function.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_degrade.adversarial.catalog import ATTACKS, Norm
from lit_degrade.errors import unknown
from lit_degrade.measures.perplexity import token_nll
from lit_degrade.subjects.loading import Subject

Loss = Callable[[Tensor], Tensor]
"""change (batch, length, hidden) -> loss of each sequence by itself (batch,), to be made large"""
STEP = 2.5
"""Steps of projected gradient ascent add up to this many radii (Madry et al. 2018, appendix)."""
SHRINK = 1 - 2.0**-23
"""Rows scaled to a radius keep within it when their entries are rounded to float32."""


def largest(delta: Tensor, norm: Norm) -> float:
    """Size of a change (..., hidden): of its largest entry (linf), or of its longest row (l2), in float64."""
    return float(delta.abs().max() if norm == "linf" else _lengths(delta).max())


def project(delta: Tensor, norm: Norm, radius: float) -> Tensor:
    """Nearest change of at most a radius, exactly: `largest` of it never exceeds `radius`, also after rounding."""
    radius = _below(radius)
    if norm == "linf":
        return delta.clamp(-radius, radius)
    return torch.where(_lengths(delta) > radius, _scaled(delta, radius), delta)


def random_signs(shape: Sequence[int], norm: Norm, radius: float, draws: Sequence[torch.Generator]) -> Tensor:
    """Random change of full size: every entry +-radius (linf), or every row radius times a random direction (l2).

    Args:
        shape: (batch, length, hidden).
        norm: whose ball.
        radius: of the ball.
        draws: a generator for each sequence, so that no sequence's change depends on the others.
    """
    radius = _below(radius)
    if norm == "linf":
        return radius * torch.stack([2.0 * torch.randint(2, tuple(shape[1:]), generator=g) - 1 for g in draws])
    return _scaled(torch.stack([torch.randn(*shape[1:], generator=g) for g in draws]), radius)


def random_inside(shape: Sequence[int], norm: Norm, radius: float, draws: Sequence[torch.Generator]) -> Tensor:
    """Uniform draw from the ball (of every row, for l2): the start of projected gradient ascent. Arguments as above."""
    if norm == "linf":
        uniform = torch.stack([2 * torch.rand(*shape[1:], generator=g) - 1 for g in draws])
        return project(_below(radius) * uniform, norm, radius)
    outside = random_signs(shape, norm, radius, draws)
    shares = torch.stack([torch.rand(shape[1], 1, generator=g) for g in draws]) ** (1 / shape[2])
    return project(outside * shares, norm, radius)


def fgsm(loss: Loss, zero: Tensor, norm: Norm, radius: float) -> Tensor:
    """The change that raises a linear loss most: radius sign(g), or radius g / ||g|| in every row.

    Args:
        loss: to be raised.
        zero: no change (batch, length, hidden), float32.
        norm: whose ball.
        radius: of the ball.
    Source: Goodfellow, Shlens and Szegedy, "Explaining and harnessing adversarial examples", ICLR 2015, section 4.
    """
    return project(_below(radius) * _steepest(_gradient(loss, zero)[1], norm), norm, radius)


def pgd(loss: Loss, start: Tensor, norm: Norm, radius: float, steps: int) -> Tensor:
    """Projected gradient ascent: for every sequence the change of highest loss among the iterates, the start and FGSM's.

    FGSM's is among them because few steps leave some of the random start in every row of l2: where the loss is all but
    linear, ten steps from there are up to 2 % short of the one step that is best. A loss that is not a number is infinite.

    Args:
        loss: to be raised.
        start: inside the ball, (batch, length, hidden), float32.
        norm: whose ball.
        radius: of the ball.
        steps: each STEP radius / steps along the sign of the gradient, or along the gradient of every row.
    Source: Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018.
    """
    best = fgsm(loss, torch.zeros_like(start), norm, radius)
    delta, highest = start, _losses(loss, best)
    for _ in range(steps):
        value, gradient = _gradient(loss, delta)
        best, highest = _better(delta, value, best, highest)
        delta = project(delta + _below(STEP * radius / steps) * _steepest(gradient, norm), norm, radius)
    return _better(delta, _losses(loss, delta), best, highest)[0]


def _better(delta: Tensor, value: Tensor, best: Tensor, highest: Tensor) -> tuple[Tensor, Tensor]:
    """For every sequence whichever change has the higher loss, and that loss."""
    return torch.where((value > highest)[:, None, None], delta, best), value.maximum(highest)


@torch.no_grad()
def _losses(loss: Loss, at: Tensor) -> Tensor:
    return _ordered(loss(at))


def _ordered(value: Tensor) -> Tensor:
    """Losses that can be compared: what is not a number is infinite."""
    return value.masked_fill(value.isnan(), math.inf)


def _gradient(loss: Loss, at: Tensor) -> tuple[Tensor, Tensor]:
    """Losses, and their gradient: of their sum, of which each sequence's change reaches its own only."""
    delta = at.detach().clone().requires_grad_()
    value = loss(delta)
    return _ordered(value.detach()), torch.autograd.grad(value.sum(), delta)[0]


def _steepest(gradient: Tensor, norm: Norm) -> Tensor:
    """Step of size 1 that raises a linear loss most; 0 where the gradient is 0 or not a number."""
    step = gradient.sign() if norm == "linf" else _scaled(gradient, 1.0)
    return step.nan_to_num(nan=0.0)


def _below(value: float) -> float:
    """Largest float32 that is no larger."""
    rounded = torch.tensor(value, dtype=torch.float32)
    return float(rounded if float(rounded) <= value else rounded.nextafter(torch.tensor(0.0)))


def _lengths(rows: Tensor) -> Tensor:
    """Lengths of rows (..., hidden) -> (..., 1), float64."""
    return rows.double().norm(dim=-1, keepdim=True)


def _scaled(rows: Tensor, length: float) -> Tensor:
    """Rows of a length, or a rounding error less; rows of zeros stay."""
    now = _lengths(rows)
    return (rows.double() * (length * SHRINK / now.masked_fill(now == 0, 1.0))).to(rows.dtype)


def embedded(subject: Subject, tokens: Tensor) -> Tensor:
    """What the subject makes of tokens first, (*tokens, hidden), in its own format."""
    with torch.no_grad():
        return subject.model.get_input_embeddings()(tokens.to(subject.device))


def units(embeddings: Tensor) -> dict[Norm, float]:
    """Root mean square of all entries (linf), and median length of a row (l2), of embeddings (..., hidden)."""
    return {"linf": float(embeddings.double().square().mean().sqrt()), "l2": float(_lengths(embeddings).median())}


@contextmanager
def embedding_changed(subject: Subject, change: Callable[[Tensor], Tensor], once: bool = False) -> Iterator[None]:
    """What leaves the token embedding goes through `change`; with `once` the first time only, as when a text is continued."""
    done = False

    def hook(module: object, inputs: object, output: Tensor) -> Tensor:
        nonlocal done
        if done and once:
            return output
        done = True
        return change(output)

    handle = subject.model.get_input_embeddings().register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def shifted(delta: Tensor) -> Callable[[Tensor], Tensor]:
    """Adds a change to the first rows of what leaves an embedding (batch, length, hidden)."""

    def change(output: Tensor) -> Tensor:
        padded = F.pad(delta, (0, 0, 0, output.shape[1] - delta.shape[1]))
        return (output.float() + padded).to(output.dtype)

    return change


def replaced(rows: Tensor) -> Callable[[Tensor], Tensor]:
    """Gives other rows (batch, length, hidden) instead of what leaves an embedding."""
    return rows.to


def logits(subject: Subject, tokens: Tensor) -> Tensor:
    """Next-token logits (batch, length, vocabulary) as the subject is set up, with a gradient where one is asked for."""
    with subject.autocast():
        return subject.model(input_ids=tokens.to(subject.device), use_cache=False).logits


def loss_of(subject: Subject, inputs: Tensor, labels: Tensor, first: int = 1) -> Loss:
    """Summed negative log-likelihood of labels, given changed inputs. [nats]

    Args:
        subject: under study.
        inputs: tokens that are embedded (batch, length).
        labels: tokens that should have been there (batch, length); the one at t is scored by the logits at t - 1.
        first: position of the first label that counts.
    """
    inputs, labels = inputs.to(subject.device), labels.to(subject.device)

    def loss(delta: Tensor) -> Tensor:
        with embedding_changed(subject, shifted(delta)):
            return token_nll(logits(subject, inputs), labels)[:, first - 1 :].sum(1)

    return loss


def gradient_of(subject: Subject, inputs: Tensor, labels: Tensor, first: int = 1) -> Tensor:
    """Gradient of `loss_of` by the embedded inputs, at no change (batch, length, hidden), float32."""
    return _gradient(loss_of(subject, inputs, labels, first), no_change(subject, inputs))[1]


def beginning(subject: Subject, tokens: Tensor) -> int:
    """How many of the first tokens of sequences (..., length) only say that a text begins: these are never attacked."""
    return int(subject.begin is not None and bool((tokens[..., 0] == subject.begin).all()))


def no_change(subject: Subject, tokens: Tensor) -> Tensor:
    """Zeros of the shape of embedded tokens, float32."""
    return torch.zeros_like(embedded(subject, tokens), dtype=torch.float32)


def attacked(
    attack: str, loss: Loss, zero: Tensor, norm: Norm, radius: float, steps: int, draws: Sequence[torch.Generator]
) -> Tensor:
    """The change that an attack of the catalogue makes.

    Args:
        attack: random, fgsm or pgd.
        loss: to be raised.
        zero: no change, (batch, length, hidden).
        norm: whose ball.
        radius: of the ball.
        steps: of pgd.
        draws: a generator for each sequence; fgsm draws nothing.

    Raises: UserError for an attack that does not exist.
    """
    if attack == "random":
        return random_signs(zero.shape, norm, radius, draws).to(zero.device)
    if attack == "fgsm":
        return fgsm(loss, zero, norm, radius)
    if attack == "pgd":
        return pgd(loss, random_inside(zero.shape, norm, radius, draws).to(zero.device), norm, radius, steps)
    raise unknown("attack", attack, ATTACKS)
