"""What training has done to the subject: perplexity, divergence from what it was, drift, and recovery from an attack."""

import math

import lightning.pytorch as pl
from torch import Tensor

from lit_degrade.checks import at_least
from lit_degrade.measures.divergence import kl_divergence, log_probabilities
from lit_degrade.measures.drift import drift, weights_now
from lit_degrade.measures.perplexity import Likelihood, likelihood, perplexity_of
from lit_degrade.modules.base import SubjectModule
from lit_degrade.subjects.lineage import recovery


class LogDamage(pl.Callback):
    """Measure the subject before and after, how far its weights moved, and its likelihood on the way.

    The metrics' `probe_nats_per_token` is over the first KL_TOKENS probe tokens, the summary's values over all. For a subject
    that was attacked before, `recovery` is the share of the lost nats per token that came back.
    """

    def __init__(self, every: int = 25) -> None:
        """Measure before, after, and, over fewer tokens, every `every` steps between."""
        at_least("trainer.callbacks.every (LogDamage)", every, 1)
        self.every = every
        self.start: Tensor | None = None
        self.weights: dict[str, Tensor] = {}
        self.before: Likelihood | None = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: SubjectModule) -> None:  # type: ignore[override]
        """Measure the subject as it comes, and keep its weights."""
        with pl_module.record.timed("probes"):
            self.before = likelihood(pl_module.logits, pl_module.probe)
            self.start = log_probabilities(pl_module.logits, pl_module.few().ids)
            self.weights = weights_now(pl_module.subject)
            self._log_likelihood(pl_module, 0)

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: pl.Trainer, pl_module: SubjectModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """During."""
        step = trainer.global_step
        if step % self.every == 0 and step != trainer.max_steps:
            with pl_module.record.timed("probes"):
                self._log_likelihood(pl_module, step)

    def on_train_end(self, trainer: pl.Trainer, pl_module: SubjectModule) -> None:  # type: ignore[override]
        """Measure what it has become."""
        assert self.before is not None
        assert self.start is not None
        record, subject = pl_module.record, pl_module.subject
        with record.timed("probes"):
            after = likelihood(pl_module.logits, pl_module.probe)
            damaged = log_probabilities(pl_module.logits, pl_module.few().ids)
            self._log_likelihood(pl_module, trainer.global_step)
            record.add(
                steps=trainer.global_step,
                probe_tokens=after.tokens,
                **self.before.facts("pre"),
                **after.facts("post"),
                log_perplexity_ratio=after.nats_per_token - self.before.nats_per_token,
                perplexity_increase=_ratio(after.perplexity, self.before.perplexity) - 1,
                **{f"kl_from_{'attacked' if len(subject.lineage) > 1 else 'intact'}": kl_divergence(self.start, damaged)},
                **drift(subject, self.weights),
            )
            intact = pl_module.measured_when_intact("nats_per_token")
            if intact is not None:
                record.add(
                    perplexity_intact=perplexity_of(intact),
                    nats_per_token_intact=intact,
                    recovery=recovery(intact, self.before.nats_per_token, after.nats_per_token),
                )

    def _log_likelihood(self, module: SubjectModule, step: int) -> None:
        module.log_now("probe_nats_per_token", likelihood(module.logits, module.few()).nats_per_token, step)


def _ratio(a: float, b: float) -> float:
    return a / b if math.isfinite(a) else math.inf
