"""Scores, rankings and their damage, as ratios: `python benchmarks/bench_criticality.py`. One line per claim, with its target.

Beside each measured object stands the simplest thing that does the same work. Both are interleaved and medians
compared. On a machine that does other work too, set OMP_NUM_THREADS=1. `python benchmarks/bench_criticality.py large` scores a
random GPT-NeoX of 160M parameters in a process of its own.
"""

import resource
import statistics
import sys
from collections.abc import Callable

import torch
from bench import ratio, report, seconds
from torch import Tensor

from lit_degrade.criticality.ranking import Weights, highest
from lit_degrade.criticality.scores import Scores
from lit_degrade.criticality.sums import Sums, gather
from lit_degrade.measures.perplexity import token_nll
from lit_degrade.perturbations.catalog import PerturbationSettings
from lit_degrade.perturbations.edits import Dose, Edit, edits, perturbed
from lit_degrade.perturbations.targets import sites_of
from lit_degrade.subjects.anatomy import Anatomy
from lit_degrade.subjects.catalog import SubjectSpec
from lit_degrade.subjects.loading import Subject, load_subject
from lit_degrade.text import TextSource

ROUNDS = 25
GRADIENTS = ("grad_x_weight", "grad_squared")


def weights_of(subject: Subject) -> Weights:
    return Weights(subject, sites_of(subject, PerturbationSettings("zero", "blocks")))


def forward(subject: Subject, ids: Tensor) -> Callable[[], object]:
    def work() -> None:
        with torch.inference_mode():
            subject.model(input_ids=ids, use_cache=False)

    return work


def gradient(subject: Subject, ids: Tensor, names: list[str]) -> Callable[[], object]:
    parameters = [subject.model.get_parameter(name) for name in names]
    return lambda: torch.autograd.grad(token_nll(subject.model(input_ids=ids, use_cache=False).logits, ids).mean(), parameters)


def scores(subject: Subject, ids: Tensor, where: str) -> None:
    """One pass for several scores against one forward pass and one gradient of the same parameters."""
    weights = weights_of(subject)
    names = weights.parameters

    def passing(wants: set[str], metrics: tuple[str, ...] = (), k: int = 1000) -> Callable[[], object]:
        def work() -> None:
            found = Scores(subject, gather(subject, ids, names, wants), 0)  # type: ignore[arg-type]
            for metric in metrics:
                highest(weights, found.of(metric), k)

        return work

    def against(name: str, work: Callable[[], object], reference: Callable[[], object], target: float) -> None:
        value = ratio(work, reference, ROUNDS)
        report(f"{where}: {name}", value, f"<= {target}", value <= target)

    one_forward, one_gradient = forward(subject, ids), gradient(subject, ids, names)
    against("inputs of act_mag / one forward pass", passing({"inputs"}), one_forward, 1.2)
    against("act_mag with its ranking / one forward pass", passing({"inputs"}, ("act_mag",)), one_forward, 1.5)
    against("gradient of grad_x_weight / one gradient", passing({"gradient"}), one_gradient, 1.1)
    against("gradients of both gradient scores / one gradient", passing({"gradient", "squared"}), one_gradient, 1.15)
    everything = passing({"gradient", "squared"}, GRADIENTS)
    against("both gradient scores and their rankings / one gradient", everything, one_gradient, 1.15)
    three = passing({"gradient", "inputs"}, ("magnitude", "act_mag", "grad_x_weight"))
    against("magnitude, act_mag and grad_x_weight with rankings / one gradient", three, one_gradient, 1.3)


def ranking(subject: Subject) -> None:
    """Global top-k of a million scores, site by site, against `torch.topk` of all of them in one vector."""
    draws = torch.Generator().manual_seed(0)
    weights = Weights(subject, subject.anatomy.select("embed") + subject.anatomy.select("head") + weights_of(subject).sites)
    made = {site: torch.rand(view.shape, generator=draws) for site, view in zip(weights.sites, weights.views, strict=True)}
    together = torch.cat([values.flatten() for values in made.values()])
    for k in (100, 10_000):
        assert torch.equal(together[highest(weights, made.__getitem__, k)], together.topk(k).values)
        value = ratio(lambda k=k: highest(weights, made.__getitem__, k), lambda k=k: together.topk(k), ROUNDS)  # type: ignore[misc]
        report(f"top {k} of {len(together)} scores, site by site / torch.topk of one vector", value, "<= 2", value <= 2)


def injury(subject: Subject, where: str) -> None:
    """Perturb and restore k weights, planning included, against reading, writing and writing back by index."""
    weights = weights_of(subject)
    for k in (100, 1_800, 10_000):
        only = weights.only(torch.randperm(len(weights), generator=torch.Generator().manual_seed(0))[:k])
        flat = {name: subject.model.get_parameter(name).detach().view(-1) for name in only}
        values = {name: torch.zeros(len(ids)) for name, ids in only.items()}

        def by_hand(only: dict[str, Tensor] = only, flat: dict[str, Tensor] = flat, values: dict[str, Tensor] = values) -> None:
            kept = {}
            for name, ids in only.items():
                kept[name] = flat[name][ids]
                flat[name][ids] = values[name]
            for name, ids in only.items():
                flat[name][ids] = kept[name]

        def cycle(only: dict[str, Tensor] = only) -> None:
            with perturbed(subject, PerturbationSettings("zero", "blocks"), Dose(1.0, 0), recorded=False, only=only):
                pass

        planned = list(edits(subject, PerturbationSettings("sign_flip", "blocks"), Dose(1.0, 0), only))

        def write(planned: list[Edit] = planned) -> None:
            for edit in planned:
                for change in edit.writes:
                    change.values = change.values if change.values is not None else change.place.take(change.indices)
                edit.apply_()
            for edit in planned:
                edit.revert_()

        what = f"{k} weights in {len(only)} matrices"
        value = ratio(write, by_hand, 101)
        report(
            f"{where}: perturb and restore {what}, planned before / read, write and write back by index",
            value,
            "<= 3",
            value <= 3,
        )
        value = ratio(cycle, by_hand, 101)
        report(f"{where}: the same with planning, by `perturbed`", value, "<= 3", value <= 3)


def large() -> None:
    """Three scores of a random GPT-NeoX of 160M parameters: time per batch against a gradient, and peak memory."""
    from transformers import AutoModelForCausalLM, GPTNeoXConfig

    config = GPTNeoXConfig(
        vocab_size=50304, hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    subject = Subject(SubjectSpec("random"), model, None, Anatomy(model), "", None)
    weights = weights_of(subject)
    ids = torch.randint(1, 50304, (8, 128), generator=torch.Generator().manual_seed(0))
    names = weights.parameters
    reference = gradient(subject, ids, names)
    total = Sums()

    def one_batch() -> None:
        total.add_(gather(subject, ids, names, {"gradient", "inputs"}))

    pairs = [(seconds(one_batch), seconds(reference)) for _ in range(4)][1:]
    value = statistics.median(a for a, _ in pairs) / statistics.median(b for _, b in pairs)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    report(f"{millions:.0f}M: sums of three scores of 8 x 128 tokens / one gradient", value, "<= 1.3", value <= 1.3)
    found = Scores(subject, total, 0)
    for metric in ("magnitude", "act_mag", "grad_x_weight"):
        report(
            f"{metric}: ranking the top 10,000 of {len(weights) / 1e6:.0f}M [s]",
            seconds(lambda m=metric: highest(weights, found.of(m), 10_000)),
            "none",
            True,
        )  # type: ignore[misc]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    report("peak memory of all this [GB]", peak, "<= 6", peak <= 6)
    both = gather(subject, ids, names, {"gradient", "squared", "inputs"})
    assert both.squared
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    report("peak memory with grad_squared too [GB]", peak, "none", True)


if __name__ == "__main__":
    if sys.argv[1:] == ["large"]:
        large()
        sys.exit()
    for name in ("tiny-1m", "tiny-3m"):
        made = load_subject(SubjectSpec(name), 0, torch.device("cpu"), train=False)
        scores(made, TextSource().blocks("calibration", made.tokenizer, 8).ids, name)
        injury(made, name)
        if name == "tiny-1m":
            ranking(made)
