"""What each method makes of the values of a tensor, in float32 whatever they are stored in."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

Change = Callable[[Tensor, float, torch.Generator, int], Tensor]
"""(weights of any shape and float dtype, level, generator on the CPU, axis of the inputs) -> new weights, float32"""


def _normal(weights: Tensor, generator: torch.Generator) -> Tensor:
    """Drawn on the CPU, so that a seed means the same numbers on every device."""
    return torch.empty(weights.shape).normal_(generator=generator).to(weights.device)


def _uniform(weights: Tensor, generator: torch.Generator) -> Tensor:
    """Below `share` with probability `share`, so that a larger share chooses the same weights and more; float32."""
    return torch.rand(weights.shape, generator=generator).to(weights.device)


def mult_gauss(weights: Tensor, level: float, generator: torch.Generator, inputs: int) -> Tensor:
    """W (1 + level xi): mean change 0, standard deviation level |W|."""
    weights, xi = weights.float(), _normal(weights, generator)
    return torch.addcmul(weights, weights, xi, value=level, out=xi)


def add_gauss(weights: Tensor, level: float, generator: torch.Generator, inputs: int) -> Tensor:
    """W + level s xi, s the standard deviation of the tensor."""
    weights = weights.float()
    return add_gauss_absolute(weights, level * float(weights.std(correction=0)), generator, inputs)


def add_gauss_absolute(weights: Tensor, level: float, generator: torch.Generator, inputs: int) -> Tensor:
    """W + level xi."""
    return _normal(weights, generator).mul_(level).add_(weights)


def ablation(weights: Tensor, level: float, generator: torch.Generator, inputs: int) -> Tensor:
    """Zero with probability `level`, each weight by itself."""
    uniform = _uniform(weights, generator)
    chosen = uniform < level
    return uniform.copy_(weights).masked_fill_(chosen, 0.0)


def zero(weights: Tensor, level: float, generator: torch.Generator, inputs: int) -> Tensor:
    """Zero exactly round(level n) of n weights, every set of that size equally likely."""
    if level == 1:
        return torch.zeros_like(weights, dtype=torch.float32)
    order = torch.randperm(weights.numel(), generator=generator).to(weights.device)
    return _without(weights, order[: round(level * weights.numel())])


def prune_magnitude(weights: Tensor, level: float, generator: torch.Generator, inputs: int) -> Tensor:
    """Zero exactly the round(level n) smallest of n weights; of equal ones the first, on every device and at every level."""
    n, sizes = round(level * weights.numel()), weights.abs().float().flatten()
    largest = sizes.topk(n, largest=False, sorted=False).values.amax() if n else sizes.new_tensor(-1.0)
    smaller, equal = sizes < largest, (sizes == largest).nonzero().flatten()
    return _without(weights, torch.cat([smaller.nonzero().flatten(), equal[: n - int(smaller.sum())]]))


def _without(weights: Tensor, indices: Tensor) -> Tensor:
    return weights.float().flatten().index_fill(0, indices, 0.0).view(weights.shape)


def sign_flip(weights: Tensor, level: float, generator: torch.Generator, inputs: int) -> Tensor:
    """-W with probability `level`, each weight by itself."""
    return _uniform(weights, generator).ge_(level).mul_(2).sub_(1).mul_(weights)


def uni_quant(weights: Tensor, level: float, generator: torch.Generator, inputs: int) -> Tensor:
    """The nearest of `level` values, evenly spaced from the least weight to the largest; a constant tensor stays as it is.

    The error is at most half a step (largest - least) / (level - 1), to the rounding of float32.
    """
    weights = weights.float()
    least, largest = weights.aminmax()
    return _nearest(weights, least, largest, level)


def uni_quant_channel(weights: Tensor, level: float, generator: torch.Generator, inputs: int) -> Tensor:
    """The same for every output channel by itself; a vector is one channel."""
    weights = weights.float()
    return _nearest(weights, weights.amin(inputs, keepdim=True), weights.amax(inputs, keepdim=True), level)


def _nearest(weights: Tensor, least: Tensor, largest: Tensor, level: float) -> Tensor:
    step = (largest - least).div_(level - 1)
    codes = weights.sub(least).div_(step.where(step > 0, 1.0)).round_()
    return codes.mul_(step).add_(least).clamp_(max=largest)


CHANGES: dict[str, Change] = {
    function.__name__: function
    for function in (
        mult_gauss, add_gauss, add_gauss_absolute, ablation, zero, prune_magnitude, sign_flip, uni_quant, uni_quant_channel,
    )
}  # fmt: skip
"""Every method that works on values; `bit_flip` works on what is stored."""


def _in_proportion(before: Tensor, after: Tensor) -> float:
    nonzero = before != 0
    return _rms(((after - before) / before)[nonzero])


def _difference(before: Tensor, after: Tensor) -> float:
    return _rms(after - before)


def _values(before: Tensor, after: Tensor) -> float:
    return float(after.unique().numel())


def _signs(before: Tensor, after: Tensor) -> float:
    nonzero = before != 0
    return float(((after.signbit() != before.signbit()) & nonzero).sum() / nonzero.sum())


def _zeros(before: Tensor, after: Tensor) -> float:
    nonzero = before != 0
    return float(((after == 0) & nonzero).sum() / nonzero.sum())


ACHIEVED: dict[str, Callable[[Tensor, Tensor], float]] = {
    "mult_gauss": _in_proportion,
    "add_gauss": _difference,
    "add_gauss_absolute": _difference,
    "ablation": _zeros,
    "zero": _zeros,
    "prune_magnitude": _zeros,
    "sign_flip": _signs,
    "uni_quant": _values,
    "uni_quant_channel": _values,
}
"""Method that changes values -> the dose of a change, from weights before and after (of `add_gauss` in units of weights)."""


def _rms(values: Tensor) -> float:
    return float(torch.linalg.vector_norm(values, dtype=torch.float64)) / values.numel() ** 0.5 if values.numel() else math.nan
