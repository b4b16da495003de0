"""Perturbing and restoring, as ratios: `python benchmarks/bench_perturbation.py`. One line per claim, with its target.

On the MLP matrices of tiny-3m (12 of 590 kB, fp32). A cycle is plan, apply and restore, its own snapshot included; the evidence
(`Edit.record`) is measured by itself. The unit is one copy: `copy_` of all these matrices into tensors that exist already,
which reads and writes every byte once. A cycle moves the bytes both ways, there and back, so it is also given in units of two.

Both sides of a ratio are interleaved and medians are compared. Where the system hands out memory page by page, a new tensor
costs several copies (first line), whoever asks for it; the second part runs in a process whose allocator keeps what it has
freed, where the arithmetic shows. On a machine that does other work too, set OMP_NUM_THREADS=1: two threads that wait for
each other measure the other work.
"""

import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from bench import ratio, report, seconds
from torch import Tensor

from lit_degrade.perturbations.catalog import PerturbationSettings
from lit_degrade.perturbations.edits import Dose, Edit, edits
from lit_degrade.perturbations.storage import stored
from lit_degrade.perturbations.targets import sites_of
from lit_degrade.subjects.catalog import SubjectSpec
from lit_degrade.subjects.loading import Subject, load_subject

KEPT = {"MALLOC_MMAP_THRESHOLD_": str(1 << 32), "MALLOC_TRIM_THRESHOLD_": str(1 << 40), "MALLOC_TOP_PAD_": str(1 << 30)}
"""Environment in which glibc keeps freed memory."""
ROUNDS = 25


def settings_of(method: str, **options: Any) -> PerturbationSettings:
    return PerturbationSettings(method, "mlp_only", **options)  # type: ignore[arg-type]


def apply_(subject: Subject, how: PerturbationSettings, level: float) -> list[Edit]:
    applied = []
    for edit in edits(subject, how, Dose(level, 0)):
        edit.apply_()
        applied.append(edit)
    return applied


def restore_(applied: list[Edit]) -> None:
    while applied:
        applied.pop().revert_()


def cycle(subject: Subject, method: str, level: float, **options: Any) -> Callable[[], None]:
    how = settings_of(method, **options)
    return lambda: restore_(apply_(subject, how, level))


def by_hand(weights: list[Tensor], change_: Callable[[Tensor], object]) -> Callable[[], None]:
    """The least that anybody would write: a clone, a change in place, the clone copied back."""

    def work() -> None:
        kept = []
        for w in weights:
            kept.append(w.clone())
            change_(w)
        for w, before in zip(weights, kept, strict=True):
            w.copy_(before)

    return work


def quantise_(w: Tensor, n: int = 16) -> None:
    least, largest = w.min(), w.max()
    step = (largest - least) / (n - 1)
    w.copy_(((w - least) / step).round() * step + least)


def costs(subject: Subject, where: str) -> None:
    weights = [stored(subject.model, site.parameter).read(site) for site in sites_of(subject, settings_of("zero"))]
    spare = [torch.empty_like(w) for w in weights]
    n = sum(w.numel() for w in weights)

    def copy() -> None:
        for to, w in zip(spare, weights, strict=True):
            to.copy_(w)

    def normal() -> None:
        for to in spare:
            to.normal_()

    def against(name: str, work: Callable[[], object], reference: Callable[[], object], target: float | None = None) -> None:
        value = ratio(work, reference, ROUNDS)
        report(f"{where}: {name}", value, f"<= {target}" if target else "none", target is None or value <= target)

    print(f"-- {where}: {len(weights)} matrices, {4 * n / 1e6:.1f} MB, {torch.get_num_threads()} threads")
    against("new tensors, filled / one copy", lambda: [w.clone() for w in weights], copy)
    quantisation = cycle(subject, "uni_quant", 16.0)
    against("uni_quant cycle / two copies", quantisation, lambda: (copy(), copy()), 5.0)
    against("uni_quant cycle / one copy", quantisation, copy)
    against("uni_quant cycle / the same by hand", quantisation, by_hand(weights, quantise_), 1.0)
    restore(subject, where, copy)
    gaussian = cycle(subject, "mult_gauss", 0.3)
    by_hand_gaussian = by_hand(weights, lambda w: w.mul_(1 + 0.3 * torch.randn_like(w)))
    against("mult_gauss cycle / normal_ of as many numbers", gaussian, normal, 1.1)
    against("mult_gauss cycle / the same by hand", gaussian, by_hand_gaussian, 1.0)
    against("ablation cycle / two copies", cycle(subject, "ablation", 0.1), lambda: (copy(), copy()))
    by_hand_ablation = by_hand(weights, lambda w: w.masked_fill_(torch.rand_like(w) < 0.1, 0.0))
    against("ablation cycle / the same by hand", cycle(subject, "ablation", 0.1), by_hand_ablation, 1.0)
    evidence(subject, where, copy)


def restore(subject: Subject, where: str, copy: Callable[[], object]) -> None:
    """Time of putting back alone, taken in turns with one copy."""
    back: list[float] = []
    once: list[float] = []
    for _ in range(ROUNDS + 1):
        applied = apply_(subject, settings_of("mult_gauss"), 0.3)
        back.append(seconds(lambda applied=applied: restore_(applied)))  # type: ignore[misc]
        once.append(seconds(copy))
    value = statistics.median(back[1:]) / statistics.median(once[1:])
    report(f"{where}: restore / one copy", value, "<= 1.6", value <= 1.6)


def evidence(subject: Subject, where: str, copy: Callable[[], object]) -> None:
    for method, level in (("mult_gauss", 0.3), ("ablation", 0.1), ("uni_quant", 16.0)):
        planned = list(edits(subject, settings_of(method), Dose(level, 0)))
        value = ratio(lambda planned=planned: [edit.record() for edit in planned], copy, 5)  # type: ignore[misc]
        report(f"{where}: evidence of {method} (Edit.record) / one copy", value, "none", True)


def bit_flips(subject: Subject, where: str) -> None:
    """One flip in ten thousand, against a loop over the same bits."""
    weights = [stored(subject.model, site.parameter).read(site) for site in sites_of(subject, settings_of("zero"))]
    n = sum(w.numel() for w in weights) * 32
    source = torch.Generator().manual_seed(0)
    flat = [w.view(-1).view(torch.int32) for w in weights]
    each = weights[0].numel() * 32
    wanted = torch.randint(n, (round(n * 1e-4),), generator=source).tolist()

    def loop() -> None:
        kept = []
        for bit in wanted:
            codes, place = flat[bit // each], bit % each // 32
            old = int(codes[place])
            kept.append((codes, place, old))
            flipped = (old ^ 1 << bit % 32) & 0xFFFFFFFF
            codes[place] = flipped - (1 << 32) if flipped >> 31 else flipped
        for codes, place, old in reversed(kept):
            codes[place] = old

    value = ratio(loop, cycle(subject, "bit_flip", 1e-4), 7)
    report(f"{where}: {len(wanted)} random flips and back, one by one / bit_flip cycle", value, ">= 6", value >= 6)


if __name__ == "__main__":
    where = "allocator keeps freed memory" if os.environ.get("MALLOC_TRIM_THRESHOLD_") else "as started"
    made = load_subject(SubjectSpec("tiny-3m"), 0, torch.device("cpu"), train=False)
    costs(made, where)
    bit_flips(made, where)
    if where == "as started":
        subprocess.run([sys.executable, Path(__file__).resolve()], check=True, env={**os.environ, **KEPT})
