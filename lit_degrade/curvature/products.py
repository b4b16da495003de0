"""Hessian-vector products of a loss, exact or by central difference."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

HvpMethod = Literal["exact", "central_difference"]
RMS_STEP = 1.1e-4
"""Root mean square over the weights of a central difference's step: the best of those measured on trained float32 models."""
Tensors = dict[str, Tensor]
"""A direction in weight space: a tensor for each parameter, by its name."""


def step_length(parameters: Mapping[str, Tensor]) -> float:
    """Length h of the central difference along a unit vector: it grows with the square root of the number of weights."""
    return RMS_STEP * math.sqrt(sum(p.numel() for p in parameters.values()))


@contextmanager
def full_precision() -> Iterator[None]:
    """Matrix products in all of float32's digits, whatever an accelerator would save on."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def twice_differentiable() -> AbstractContextManager[Any]:
    """Attention by its plain mathematical kernel: the fused ones have no second derivative."""
    return sdpa_kernel(SDPBackend.MATH)


def flatten(tensors: Mapping[str, Tensor]) -> Tensor:
    """Concatenate tensors into one float32 vector (n,)."""
    return torch.cat([tensor.detach().reshape(-1).float() for tensor in tensors.values()])


def unflatten(vector: Tensor, like: Mapping[str, Tensor]) -> Tensors:
    """Views of a vector (n,) in the shapes of `like`."""
    pieces = vector.split([tensor.numel() for tensor in like.values()])
    return {name: piece.view(tensor.shape) for piece, (name, tensor) in zip(pieces, like.items(), strict=True)}


def dot(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """Inner product of two directions, tensor by tensor."""
    return sum(float(torch.dot(x.reshape(-1), b[name].reshape(-1))) for name, x in a.items())


def length(a: Mapping[str, Tensor]) -> float:
    """L2 norm of a direction."""
    return float(torch.nn.utils.get_total_norm(list(a.values())))


Losses = Sequence[Callable[[], Tensor]]
"""Parts of a scalar loss, which is their sum; each is computed from the parameters' current values."""


class HessianProducts:
    """v -> H v for the Hessian H of a scalar loss over chosen parameters, in float32.

    `exact` is reverse over reverse (Pearlmutter 1994); the graph of the gradient is built once and serves every product, so
    a further product costs about 2.2 gradients instead of 3.3. Where the loss comes in several parts, no graph is kept: each
    product rebuilds that of one part after the other, at 3.3 gradients and the activations of one part.
    `central_difference` is (g(w + hv) - g(w - hv)) / 2h, for kernels without a second derivative; the weights are put back bit
    for bit.
    """

    def __init__(self, losses: Losses, parameters: Mapping[str, Tensor], method: HvpMethod = "exact") -> None:
        """Take the gradient once.

        Args:
            losses: parts of the scalar loss.
            parameters: leaf tensors by name; n is their total number of elements.
            method: how products are formed.
        """
        self.losses = losses
        self.parameters = dict(parameters)
        self.method = method
        self.n_products = 0
        self.size = sum(p.numel() for p in self.parameters.values())
        self._graph = self._gradient_graph(losses[0]) if method == "exact" and len(losses) == 1 else ()

    def gradient(self) -> Tensor:
        """Gradient of the loss, (n,)."""
        return flatten(self.gradients())

    def gradients(self) -> Tensors:
        """Gradient of the loss by every parameter."""
        if self._graph:
            return self._named(self._graph)
        return self._sum(torch.autograd.grad(loss(), list(self.parameters.values())) for loss in self.losses)

    def __call__(self, vector: Tensor) -> Tensor:
        """H v for v of shape (n,); returns (n,)."""
        return flatten(self.along(unflatten(vector, self.parameters)))

    def along(self, direction: Mapping[str, Tensor]) -> Tensors:
        """H v for a direction v, whose tensors are in the order of the parameters."""
        self.n_products += 1
        if self.method == "central_difference":
            scale = length(direction)
            unit = {name: d / scale for name, d in direction.items()}
            return {name: d * scale for name, d in central_difference(self.gradients, self.parameters, unit).items()}
        v = [direction[name] for name in self.parameters]
        if self._graph:
            return self._named(self._product(self._graph, v, keep=True))
        return self._sum(self._product(self._gradient_graph(loss), v, keep=False) for loss in self.losses)

    def _gradient_graph(self, loss: Callable[[], Tensor]) -> tuple[Tensor, ...]:
        with twice_differentiable():
            return torch.autograd.grad(loss(), list(self.parameters.values()), create_graph=True)

    def _product(self, graph: tuple[Tensor, ...], v: list[Tensor], keep: bool) -> tuple[Tensor, ...]:
        with twice_differentiable():
            return torch.autograd.grad(graph, list(self.parameters.values()), v, retain_graph=keep)

    def _named(self, tensors: Iterable[Tensor]) -> Tensors:
        return {name: tensor.detach() for name, tensor in zip(self.parameters, tensors, strict=True)}

    def _sum(self, parts: Iterable[tuple[Tensor, ...]]) -> Tensors:
        total: list[Tensor] = []
        for part in parts:
            if total:
                torch._foreach_add_(total, part)
            else:
                total = [tensor.detach() for tensor in part]
        return self._named(total)


def central_difference(function: Callable[[], Any], parameters: Mapping[str, Tensor], direction: Mapping[str, Tensor]) -> Any:
    """(f(w + h d) - f(w - h d)) / 2h for a unit direction d, h = `step_length`; the weights are put back bit for bit.

    Args:
        function: of the parameters' current values; gives a tensor, or tensors by name.
        parameters: what is moved.
        direction: by their names.
    """
    kept = {name: p.detach().clone() for name, p in parameters.items()}
    h = step_length(parameters)
    values = []
    try:
        for step in (h, -h):
            with torch.no_grad():
                for name, p in parameters.items():
                    p.copy_(kept[name] + step * direction[name])
            with full_precision():
                values.append(function())
    finally:
        with torch.no_grad():
            for name, p in parameters.items():
                p.copy_(kept[name])
    above, below = values
    if isinstance(above, dict):
        return {name: (value - below[name]) / (2 * h) for name, value in above.items()}
    return (above - below) / (2 * h)
