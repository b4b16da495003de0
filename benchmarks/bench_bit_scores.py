"""First-order scores of every bit against one gradient: `python benchmarks/bench_bit_scores.py`. One line per claim.

Both are interleaved and medians compared; each line says of which clock. On a machine that does other work too, set
OMP_NUM_THREADS=1 and look at the CPU's.
"""

import statistics
import time
from collections.abc import Callable

import torch
from bench import report

from lit_degrade.criticality.ranking import Weights
from lit_degrade.faults.scores import largest, top_flips
from lit_degrade.measures.perplexity import token_nll
from lit_degrade.perturbations.catalog import PerturbationSettings
from lit_degrade.perturbations.targets import sites_of
from lit_degrade.subjects.catalog import SubjectSpec
from lit_degrade.subjects.loading import load_subject
from lit_degrade.text import TextSource

ROUNDS = 9
TOP = 64
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "CPU": time.process_time}


def spent(work: Callable[[], object]) -> dict[str, float]:
    """Seconds by each clock."""
    start = {name: clock() for name, clock in CLOCKS.items()}
    work()
    return {name: clock() - start[name] for name, clock in CLOCKS.items()}


def main() -> None:
    subject = load_subject(SubjectSpec("tiny-3m"), 0, torch.device("cpu"), train=True)
    ids = TextSource().blocks("calibration", subject.tokenizer, 8).ids
    weights = Weights(subject, sites_of(subject, PerturbationSettings("bit_flip", "blocks")))
    parameters = [subject.model.get_parameter(name) for name in weights.parameters]

    def gradient() -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(token_nll(subject.model(input_ids=ids, use_cache=False).logits, ids).mean(), parameters)

    found = dict(zip(weights.parameters, gradient(), strict=True))
    limits = largest(subject, weights.parameters)
    works: dict[str, Callable[[], object]] = {
        "gradient": gradient,
        "free": lambda: top_flips(subject, found, weights, TOP),
        "in range": lambda: top_flips(subject, found, weights, TOP, limits),
    }
    rounds = [{name: spent(work) for name, work in works.items()} for _ in range(ROUNDS + 1)][1:]
    for clock in CLOCKS:
        medians = {name: statistics.median(times[name][clock] for times in rounds) for name in works}
        for name in ("free", "in range"):
            value = medians[name] / medians["gradient"]
            claim = f"top {TOP} of all {32 * len(weights)} flips of tiny-3m, {name} / one gradient of 8 x 128 tokens, {clock}"
            report(f"{claim} ({1000 * medians[name]:.0f} ms / {1000 * medians['gradient']:.0f} ms)", value, "<= 1", value <= 1)


if __name__ == "__main__":
    main()
