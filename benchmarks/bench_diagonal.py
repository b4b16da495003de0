"""Estimators of the Hessian's diagonal at equal time: `python benchmarks/bench_diagonal.py`. A line per claim, with its target.

On the block matrices of tiny-1m, mean loss of 8 x 128 tokens. The reference is the simplest implementation: for every matrix
and every sample a forward pass, a gradient with its graph, and a second backward pass. Error is the squared distance to a long
run with plain signs, less that run's own squared error; time is CPU time of one thread, all estimators in turns. Error falls
and time grows with the number of probes, so (error x time) of the reference over that of an estimator is the ratio of their
squared errors at equal time, and its square root that of their errors. Each ratio is given as the median over the 16 matrices
and for the squared errors of all matrices added up.
"""

import os
import statistics
import time
from collections.abc import Callable, Sequence

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from bench import report
from torch import Tensor

from lit_degrade.curvature.diagonal import hessian_diagonal, signs
from lit_degrade.curvature.products import twice_differentiable
from lit_degrade.measures.perplexity import token_nll
from lit_degrade.subjects.catalog import SubjectSpec
from lit_degrade.subjects.loading import load_subject
from lit_degrade.text import TextSource

Losses = Sequence[Callable[[], Tensor]]
Parameters = dict[str, Tensor]
Estimate = Callable[[Losses, Parameters, torch.Generator], dict[str, Tensor]]
ROUNDS = 2
LONG = 48
"""Probes of the long run."""
TARGET = 2.0


def simple(losses: Losses, parameters: Parameters, draws: torch.Generator) -> dict[str, Tensor]:
    """Everything anew for every matrix and sample; two samples."""
    found = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for name, p in parameters.items():
        for _ in range(2):
            for loss in losses:
                z = signs(p.shape, draws)
                with twice_differentiable():
                    (gradient,) = torch.autograd.grad(loss(), p, create_graph=True)
                    (product,) = torch.autograd.grad(gradient, p, z)
                found[name] += z * product / 2
    return found


def ours(estimator: str, probes: int = 4) -> Estimate:
    return lambda losses, parameters, draws: hessian_diagonal(losses, parameters, probes, draws, estimator).mean  # type: ignore[arg-type]


def whole(losses: Losses, parameters: Parameters, draws: torch.Generator, probes: int = 16) -> dict[str, Tensor]:
    """One vector of signs over all matrices at once."""
    found = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for loss in losses:
        with twice_differentiable():
            gradients = torch.autograd.grad(loss(), list(parameters.values()), create_graph=True)
            for _ in range(probes):
                z = [signs(p.shape, draws) for p in parameters.values()]
                products = torch.autograd.grad(gradients, list(parameters.values()), z, retain_graph=True)
                for name, signs_of, product in zip(found, z, products, strict=True):
                    found[name] += signs_of * product / probes
    return found


def xdiag(losses: Losses, parameters: Parameters, draws: torch.Generator, products: int = 24) -> dict[str, Tensor]:
    """XDiag for each matrix (Epperly, Tropp and Webber 2024, arXiv:2301.07825, section 2.3)."""
    found = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for loss in losses:
        with twice_differentiable():
            gradients = torch.autograd.grad(loss(), list(parameters.values()), create_graph=True)
            for (name, p), gradient in zip(parameters.items(), gradients, strict=True):

                def times(vectors: Tensor, p: Tensor = p, gradient: Tensor = gradient) -> Tensor:
                    rows = [torch.autograd.grad(gradient, p, v.view(p.shape), retain_graph=True)[0] for v in vectors.T]
                    return torch.stack([row.reshape(-1) for row in rows], 1)

                found[name] += leave_one_out(times, signs(torch.Size([p.numel(), products // 2]), draws)).view(p.shape)
    return found


def leave_one_out(times: Callable[[Tensor], Tensor], omega: Tensor) -> Tensor:
    """XDiag of a symmetric H from test vectors (n, k) and 2 k products."""
    y = times(omega)
    q, r = torch.linalg.qr(y)
    z = times(q)
    s = torch.nn.functional.normalize(torch.linalg.inv(r).T, dim=0)
    qs, zs = q @ s, z @ s
    residual = y - q @ (z.T @ omega) + qs * (zs * omega).sum(0)
    return ((q * z).sum(1, keepdim=True) - qs * zs + omega * residual).mean(1)


ESTIMATORS: dict[str, tuple[Estimate, bool, float | None]] = {
    "simple reference, one part": (simple, False, None),
    "per tensor, one part": (ours("per_tensor"), False, None),
    "per tensor, part = sequence": (ours("per_tensor"), True, TARGET),
    "whitened, one part": (ours("whitened"), False, TARGET),
    "whitened, part = sequence": (ours("whitened"), True, TARGET),
    "whole, one part": (whole, False, None),
    "whole, part = sequence": (whole, True, None),
    "XDiag of 24 products, one part": (xdiag, False, None),
    "XDiag of 24 products, part = sequence": (xdiag, True, None),
}
"""Name: how, whether every sequence is a part of its own, and the target for both ratios."""


def setting() -> tuple[Parameters, Losses, Losses]:
    """Matrices, the loss as one part, and the loss as eight."""
    subject = load_subject(SubjectSpec("tiny-1m"), 0, torch.device("cpu"), train=True)
    ids = TextSource().blocks("calibration", subject.tokenizer, 8).ids

    def part(tokens: Tensor) -> Callable[[], Tensor]:
        return lambda: token_nll(subject.model(input_ids=tokens, use_cache=False).logits, tokens).mean() * len(tokens) / 8

    return dict(subject.parameters("blocks")), [part(ids)], [part(row) for row in ids.split(1)]


def main() -> None:
    parameters, one, parts = setting()
    long = hessian_diagonal(parts, parameters, LONG, torch.Generator().manual_seed(1), "per_tensor")
    own = torch.stack([error.square().sum() for error in long.standard_error.values()])
    signal = torch.stack([value.square().sum() for value in long.mean.values()]) - own
    costs: dict[str, list[Tensor]] = {name: [] for name in ESTIMATORS}
    for turn in range(ROUNDS):
        for name, (estimate, split, _) in ESTIMATORS.items():
            start = time.process_time()
            found = estimate(parts if split else one, parameters, torch.Generator().manual_seed(2 + turn))
            spent = time.process_time() - start
            error = torch.stack([(found[key] - long.mean[key]).square().sum() for key in parameters]) - own
            costs[name].append(torch.stack([error, torch.full_like(error, spent)]))
    error, seconds = cost(costs.pop("simple reference, one part"))
    print(f"-- simple reference: {seconds:.2f} s for {float((error / signal).median()):.3g} x the squared diagonal (median)")
    for name, measured in costs.items():
        e, t = cost(measured)
        ratios = error * seconds / (e * t)
        energy, target = float(error.sum() * seconds / (e.sum() * t)), ESTIMATORS[name][2]
        for what, value in (("median over matrices", float(ratios.median())), ("all matrices added", energy)):
            claim = f"squared error of the simple reference / {name}, {what}, at equal time (root {value**0.5:.2f})"
            report(claim, value, f">= {target}" if target else "none", target is None or value >= target)


def cost(measured: list[Tensor]) -> tuple[Tensor, float]:
    """Mean squared error of each matrix and median seconds."""
    return torch.stack([m[0] for m in measured]).mean(0), statistics.median(float(m[1, 0]) for m in measured)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
