"""Ratios against references measured in the same run: `python benchmarks/bench.py`. Prints one line per claim, with its target.

References and measured object are interleaved, and medians are compared, so that a busy machine shifts both.
"""

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_SILENT"] = "true"

import torch

from lit_degrade.curvature.products import HessianProducts, twice_differentiable
from lit_degrade.measures.effective_rank import effective_rank, singular_values
from lit_degrade.measures.perplexity import token_nll
from lit_degrade.subjects.catalog import SubjectSpec
from lit_degrade.subjects.loading import load_subject
from lit_degrade.text import TextSource


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def ratio(measured: Callable[[], object], reference: Callable[[], object], rounds: int = 9) -> float:
    """Median time of `measured` over median time of `reference`, interleaved, first round dropped."""
    pairs = [(seconds(measured), seconds(reference)) for _ in range(rounds + 1)][1:]
    return statistics.median(m for m, _ in pairs) / statistics.median(r for _, r in pairs)


def report(claim: str, value: float, target: str, ok: bool) -> None:
    print(f"{'ok  ' if ok else 'MISS'} {claim}: {value:.3g} (target {target})", flush=True)


def hvp() -> None:
    subject = load_subject(SubjectSpec("tiny-1m"), 0, torch.device("cpu"), train=True)
    tokens = TextSource().blocks("calibration", subject.tokenizer, 8).ids
    parameters = subject.parameters("blocks")

    def loss() -> torch.Tensor:
        return token_nll(subject.model(input_ids=tokens, use_cache=False).logits, tokens).mean()

    def gradient() -> object:
        with twice_differentiable():
            return torch.autograd.grad(loss(), list(parameters.values()))

    v = torch.randn(sum(p.numel() for p in parameters.values()))
    kept = HessianProducts([loss], parameters)
    one_shot = ratio(lambda: HessianProducts([loss], parameters)(v), gradient)
    further = ratio(lambda: kept(v), gradient)
    report("one-shot HVP / gradient (tiny-1m blocks, 8 x 128)", one_shot, "<= 3.5", one_shot <= 3.5)
    report("further HVP on the same batch / gradient", further, "<= 2.4", further <= 2.4)


def rank() -> None:
    x = torch.randn(1280, 512, generator=torch.Generator().manual_seed(0)) * torch.logspace(0, -2.5, 512)

    def full(dtype: torch.dtype) -> float:
        reference = x.to(dtype)
        return 1 / ratio(
            lambda: effective_rank(singular_values(x)), lambda: torch.linalg.svd(reference, full_matrices=False), rounds=25
        )

    speed, single = full(torch.float64), full(torch.float32)
    exact = torch.linalg.svdvals(x.double())
    error = abs(effective_rank(singular_values(x)) - effective_rank(exact))
    q = torch.linalg.qr(torch.randn(1280, 512, dtype=torch.float64))[0]
    report("full float64 SVD with vectors / effective rank, (1280, 512)", speed, ">= 5", speed >= 5)
    report("full float32 SVD with vectors / effective rank (which is computed in float64)", single, ">= 5", single >= 5)
    report("effective rank - float64 singular values", error, "<= 1e-3", error <= 1e-3)
    report(
        "|effective rank of an orthogonal input - 512|",
        abs(effective_rank(singular_values(q)) - 512),
        "<= 1e-6",
        abs(effective_rank(singular_values(q)) - 512) <= 1e-6,
    )


def attack_step() -> None:
    value = _step_ratio("--trainer.callbacks=LogDamage")
    report("attack step with logging / plain step (tiny-1m, 64 tokens)", value, "<= 1.15", value <= 1.15)
    value = _step_ratio("--trainer.callbacks=LogMechanism")
    report("the same, measuring every step's length and second moments", value, "none", True)


def _step_ratio(callbacks: str, steps: int = 400) -> float:
    """Time of one step inside `fit`, logging on, over a plain step of the same model, data and optimizer, taken in turns."""
    import lightning.pytorch as pl

    import lit_degrade.run as run_module
    from lit_degrade.cli import main

    fresh = load_subject(SubjectSpec("tiny-1m"), 0, torch.device("cpu"), train=True)
    optimizer = torch.optim.AdamW(fresh.trainable().values(), lr=1e-4, weight_decay=0.0)
    fit_steps: list[float] = []
    plain_steps: list[float] = []

    class Turns(pl.Callback):
        def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            self.last = time.perf_counter()

        def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: object) -> None:
            fit_steps.append(time.perf_counter() - self.last)
            tokens = pl_module.stimulus_data.tokens
            start = time.perf_counter()
            optimizer.zero_grad()
            token_nll(fresh.model(input_ids=tokens, use_cache=False).logits, tokens).mean().backward()
            optimizer.step()
            self.last = time.perf_counter()
            plain_steps.append(self.last - start)

    original = run_module.ShowProgress
    run_module.ShowProgress = Turns  # type: ignore[assignment,misc]
    try:
        with tempfile.TemporaryDirectory() as results, contextlib.redirect_stdout(sys.stderr):
            quick = ["--model.null_space.products", "20", "--model.null_space.random_directions", "1"]
            size = ["--model.stimuli.evaluations", "1", "--trainer.max_steps", str(steps), "--text.probe_tokens", "2048"]
            base = ["fit", "--config", "configs/priority3.yaml", "--verbosity", "quiet", "--results", results]
            main([*base, *quick, *size, callbacks])
    finally:
        run_module.ShowProgress = original  # type: ignore[misc]
    return statistics.median(fit_steps[20:]) / statistics.median(plain_steps[20:])


def start_up() -> None:
    def run(*args: str) -> None:
        subprocess.run([sys.executable, *args], check=True, capture_output=True)

    value = ratio(
        lambda: run("-m", "lit_degrade", "fit", "--help"), lambda: run("-c", "import lightning.pytorch.cli"), rounds=3
    )
    report("fit --help / import lightning.pytorch.cli", value, "<= 1.5", value <= 1.5)


if __name__ == "__main__":
    os.chdir(Path(__file__).parent.parent)
    wanted = sys.argv[1:] or ["hvp", "rank", "attack_step", "start_up"]
    for name in wanted:
        {"hvp": hvp, "rank": rank, "attack_step": attack_step, "start_up": start_up}[name]()
