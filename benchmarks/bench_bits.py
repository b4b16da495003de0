"""Single bits and random ones, as ratios: `python benchmarks/bench_bits.py`. One line per claim, with its target.

Single flips: `evaluate_flips` of 10 weights x 32 bits against a loop that flips a bit, runs all of the subject, and flips it
back. Random flips: one stored bit in ten thousand of all block matrices, and back, by `perturbed`, against a loop over as many
bits. `perturbed` finds its sites, draws the bits, flips them, and puts back what it kept; the loop has been given its bits: of
each it looks up the parameter, reads the weight, and writes it with the bit flipped, and does all that again to go back.
Neither keeps records. Both sides are taken in turns, wall time and the processor's time are medians of their own. Other work
on a machine shifts wall time more than the processor's.
"""

import statistics
import sys
import time
from collections.abc import Callable

import torch
from bench import report
from torch import Tensor

from lit_degrade.faults.evaluation import evaluate_flips
from lit_degrade.faults.flips import Flip
from lit_degrade.measures.perplexity import batches, token_nll
from lit_degrade.perturbations.catalog import PerturbationSettings
from lit_degrade.perturbations.edits import Dose, perturbed
from lit_degrade.perturbations.targets import sites_of
from lit_degrade.subjects.catalog import SubjectSpec
from lit_degrade.subjects.loading import Subject, load_subject
from lit_degrade.text import TextSource

RATE = 1e-4
BLOCKS = PerturbationSettings("bit_flip", "blocks")


def signed(bit: int) -> int:
    return 1 << bit if bit < 31 else -(1 << 31)


def flips_of(subject: Subject, weights: int = 10) -> list[Flip]:
    """Every bit of some weights of block matrices, drawn."""
    draws = torch.Generator().manual_seed(0)
    names = sorted({site.parameter for site in sites_of(subject, BLOCKS)})
    flips = []
    for pick in torch.randint(len(names), (weights,), generator=draws).tolist():
        index = int(torch.randint(subject.model.get_parameter(names[pick]).numel(), (1,), generator=draws))
        flips += [Flip(names[pick], index, bit) for bit in range(32)]
    return flips


@torch.inference_mode()
def slowly(subject: Subject, ids: Tensor, flips: list[Flip]) -> Tensor:
    """Flip, run, flip back."""
    found = []
    for flip in flips:
        codes = subject.model.get_parameter(flip.parameter).data.view(torch.int32).view(-1)
        codes[flip.index] ^= signed(flip.bit)
        total = 0.0
        for batch in batches(ids):
            total += float(token_nll(subject.model(input_ids=batch, use_cache=False).logits, batch).double().sum())
        found.append(total / ids[:, 1:].numel())
        codes[flip.index] ^= signed(flip.bit)
    return torch.tensor(found, dtype=torch.float64)


def speed(claim: str, fast: Callable[[], object], slow: Callable[[], object], rounds: int, target: float | None) -> None:
    """How many times as fast one is as the other, taken in turns, the first round dropped."""
    clocks = (time.perf_counter, time.process_time)
    spent: dict[tuple[int, int], list[float]] = {}
    for _ in range(rounds + 1):
        for side, work in enumerate((fast, slow)):
            started = [clock() for clock in clocks]
            work()
            for i, clock in enumerate(clocks):
                spent.setdefault((side, i), []).append(clock() - started[i])
    for i, name in enumerate(("wall time", "processor time")):
        value = statistics.median(spent[1, i][1:]) / statistics.median(spent[0, i][1:])
        bound = target if i == 0 else None
        report(f"{claim}, {name}", value, f">= {bound:g}" if bound else "none", bound is None or value >= bound)


def single(name: str) -> None:
    subject = load_subject(SubjectSpec(name), 0, torch.device("cpu"), train=False)
    ids = TextSource(probe_tokens=1024).blocks("probe", subject.tokenizer, 8).ids
    flips = flips_of(subject)
    for text, label, rounds, target in ((ids[:1, :20], "1 x 20", 5, 6.0), (ids, "8 x 128", 1, None)):
        found, expected = evaluate_flips(subject, text, flips), slowly(subject, text, flips)
        alike = torch.equal(found.isnan(), expected.isnan()) and torch.equal(found.isinf(), expected.isinf())
        finite = found.isfinite() & expected.isfinite()
        error = float(((found - expected).abs() / expected.abs())[finite].max())
        where = f"{name}, {label} tokens, {len(flips)} flips"
        high = torch.tensor([flip.bit >= 30 for flip in flips])
        same = torch.allclose(found[high], expected[high], rtol=1e-5, atol=0.0, equal_nan=True)
        report(f"{where}: largest relative difference from the loop", error, "<= 1e-5", error <= 1e-5)
        report(f"{where}: not finite, and so in both", int((~found.isfinite()).sum()), "the same flips", alike)
        report(f"{where}: bits 30 and 31 agree", int(same), "1", same)
        speed(
            f"{where}: loop / evaluate_flips",
            lambda text=text: evaluate_flips(subject, text, flips),  # type: ignore[misc]
            lambda text=text: slowly(subject, text, flips),  # type: ignore[misc]
            rounds,
            target,
        )


def at_random(name: str) -> None:
    subject = load_subject(SubjectSpec(name), 0, torch.device("cpu"), train=False)
    names = sorted({site.parameter for site in sites_of(subject, BLOCKS)})
    sizes = torch.tensor([subject.model.get_parameter(n).numel() for n in names])
    ends, draws = sizes.cumsum(0), torch.Generator().manual_seed(0)
    wanted = torch.randint(int(ends[-1]) * 32, (round(int(ends[-1]) * 32 * RATE),), generator=draws)
    owner = torch.searchsorted(ends, wanted // 32, right=True)
    places = list(zip(owner.tolist(), (wanted // 32 - (ends - sizes)[owner]).tolist(), (wanted % 32).tolist(), strict=True))

    def loop() -> None:
        for _ in range(2):  # there and back
            for i, index, bit in places:
                subject.model.get_parameter(names[i]).data.view(torch.int32).view(-1)[index] ^= signed(bit)

    def vectorised() -> None:
        with perturbed(subject, BLOCKS, Dose(RATE, 0), recorded=False):
            pass

    speed(f"{name}: {len(places)} random flips and back, one by one / perturbed", vectorised, loop, 5, 100.0)


if __name__ == "__main__":
    print(f"-- {torch.get_num_threads()} threads")
    for subject_name in sys.argv[1:] or ["tiny-1m", "tiny-3m"]:
        single(subject_name)
    at_random("tiny-3m")
